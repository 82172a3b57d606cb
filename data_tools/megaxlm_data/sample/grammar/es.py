"""Spanish: time, subject, verb, object, place; gender, ser and estar, personal a, clitic le."""

from functools import cache

from ..concepts import NONE, TENSE, Degree, Tense
from ..lexicon import es as lexicon
from ..meanings import Meaning
from .clause import sentence


def _group(noun: int, adjective: int, plural: bool) -> str:
    gender, *forms = lexicon.NOUN[noun]
    if adjective == NONE:
        return forms[plural]
    return f"{forms[plural]} {lexicon.ADJECTIVE[adjective][2 * plural + (gender == 'f')]}"


@cache
def _indefinite(noun: int, adjective: int, count: int) -> str:
    article = "una" if lexicon.NOUN[noun][0] == "f" else "un"
    return f"{lexicon.COUNT.get(count, article)} {_group(noun, adjective, count != 1)}"


@cache
def _definite(noun: int, adjective: int) -> str:
    article = "la" if lexicon.NOUN[noun][0] == "f" else "el"
    return f"{article} {_group(noun, adjective, False)}"


def _subject(m: Meaning) -> str:
    gender, *forms = lexicon.PERSON[m.subject]
    if m.subject_adjective == NONE:
        return forms[m.subject_plural]
    return f"{forms[0]} {lexicon.PERSON_ADJECTIVE[m.subject_adjective][gender == 'f']}"


def _place(m: Meaning) -> str:
    return "" if m.place == NONE else lexicon.PLACE[m.place][0]


def _verb(forms: tuple[str, ...], m: Meaning) -> str:
    tense, plural = TENSE[m.when], m.subject_plural
    if tense == Tense.PAST:
        return forms[plural]
    if tense == Tense.PROGRESSIVE and forms[2]:
        return f"{'están' if plural else 'está'} {forms[2]}"
    if tense == Tense.FUTURE:
        return forms[3 + plural]
    return forms[5 + plural]


_STAY = ("estaba", "estaban", "", "estará", "estarán", "está", "están")


def _transitive(m: Meaning) -> str:
    verb = _verb(lexicon.VERB[m.verb], m)
    thing = _indefinite(m.noun, m.adjective, m.count)
    return sentence(lexicon.WHEN[m.when], _subject(m), verb, thing, _place(m))


def _have(m: Meaning) -> str:
    has = "tienen" if m.subject_plural else "tiene"
    return sentence(_subject(m), has, _indefinite(m.noun, m.adjective, m.count))


def _give(m: Meaning) -> str:
    verb = _verb(lexicon.GIVE_VERB[m.verb], m)
    thing = _indefinite(m.noun, m.adjective, m.count)
    receiver = lexicon.PERSON[m.person][4]
    return sentence(lexicon.WHEN[m.when], _subject(m), "le", verb, thing, receiver)


def _go(m: Meaning) -> str:
    companion = "" if m.person == NONE else f"con {lexicon.PERSON[m.person][1]}"
    to = lexicon.PLACE[m.place][1]
    return sentence(lexicon.WHEN[m.when], _subject(m), _verb(lexicon.GO, m), to, companion)


def _person_object(m: Meaning) -> str:
    clitic, *forms, rest = lexicon.PERSON_VERB[m.verb]
    verb = _verb(tuple(forms), m)
    _, person, _, _, to_person = lexicon.PERSON[m.person]
    rest = rest.replace("~", person).replace("@", to_person)
    return sentence(lexicon.WHEN[m.when], _subject(m), clitic, verb, rest, _place(m))


def _asserted(copula: str, degree: Degree, adjective: str) -> str:
    if degree == Degree.NOT:
        return f"no {copula} {adjective}"
    return f"{copula} muy {adjective}" if degree == Degree.VERY else f"{copula} {adjective}"


def _possessed_is(m: Meaning) -> str:
    forms = lexicon.ADJECTIVE[m.adjective]
    adjective = forms[lexicon.NOUN[m.noun][0] == "f"]
    owner = lexicon.PERSON[m.subject][3]
    return sentence(_definite(m.noun, NONE), owner, _asserted(forms[4], m.degree, adjective))


def _person_is(m: Meaning) -> str:
    gender, singular, *_ = lexicon.PERSON[m.subject]
    forms = lexicon.PERSON_ADJECTIVE[m.subject_adjective]
    return sentence(singular, _asserted(forms[2], m.degree, forms[gender == "f"]))


def _person_at(m: Meaning) -> str:
    return sentence(lexicon.WHEN[m.when], _subject(m), _verb(_STAY, m), _place(m))


_THERE_IS = {Tense.PAST: "había", Tense.FUTURE: "habrá", Tense.HABITUAL: "hay"}


def _exists(m: Meaning) -> str:
    thing = _indefinite(m.noun, m.adjective, m.count)
    return sentence(lexicon.WHEN[m.when], _THERE_IS[TENSE[m.when]], thing, _place(m))


def _exist_two(m: Meaning) -> str:
    first = _indefinite(m.noun, m.adjective, m.count)
    second = _indefinite(m.noun_2, m.adjective_2, m.count_2)
    return sentence("hay", first, "y", second, _place(m))


def _is_at(m: Meaning) -> str:
    thing = _definite(m.noun, m.adjective)
    return sentence(lexicon.WHEN[m.when], thing, _verb(_STAY, m), _place(m))
