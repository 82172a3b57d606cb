"""Arabic: verb, subject, object, place, time; gender, definiteness, numerals of opposite gender."""

from functools import cache

from ..concepts import NONE, TENSE, Degree, Tense
from ..lexicon import ar as lexicon
from ..meanings import Meaning
from .clause import sentence


@cache
def _phrase(noun: int, adjective: int, count: int, case: str) -> str:
    """Indefinite noun phrase in the nominative or accusative ("nom" or "acc")."""
    gender, nominative, accusative, plural = lexicon.NOUN[noun]
    forms = lexicon.ADJECTIVE[adjective] if adjective != NONE else ("",) * 5
    if count != 1:  # several things take a feminine singular adjective
        words = (lexicon.COUNT[count][gender == "f"], plural, forms[2])
    elif gender == "f":
        words = ("", nominative, forms[2])
    elif case == "nom":
        words = ("", nominative, forms[0])
    else:
        words = ("", accusative, forms[1])
    return " ".join(filter(None, words))


@cache
def _definite(noun: int, adjective: int) -> str:
    gender, word, *_ = lexicon.NOUN[noun]
    if adjective == NONE:
        return f"ال{word}"
    return f"ال{word} {lexicon.ADJECTIVE[adjective][4 if gender == 'f' else 3]}"


def _subject(m: Meaning) -> str:
    gender, singular, plural, *_ = lexicon.PERSON[m.subject]
    if m.subject_adjective == NONE:
        return plural if m.subject_plural else singular
    return f"{singular} ال{lexicon.PERSON_ADJECTIVE[m.subject_adjective][gender == 'f']}"


def _place(m: Meaning) -> str:
    return "" if m.place == NONE else f"في {lexicon.PLACE[m.place][0]}"


def _verb(forms: tuple[str, ...], m: Meaning, gender: str) -> str:
    tense = TENSE[m.when]
    feminine = gender == "f"
    if tense == Tense.PAST:
        return forms[feminine]
    return f"س{forms[2 + feminine]}" if tense == Tense.FUTURE else forms[2 + feminine]


def _act(m: Meaning, forms: tuple[str, ...], *rest: str) -> str:
    verb = _verb(forms, m, lexicon.PERSON[m.subject][0])
    return sentence(verb, _subject(m), *rest, lexicon.WHEN[m.when])


def _transitive(m: Meaning) -> str:
    thing = _phrase(m.noun, m.adjective, m.count, "acc")
    return _act(m, lexicon.VERB[m.verb], thing, _place(m))


def _have(m: Meaning) -> str:
    owner = lexicon.PERSON[m.subject][3 if m.subject_plural else 1]
    return sentence("لدى", owner, _phrase(m.noun, m.adjective, m.count, "nom"))


def _give(m: Meaning) -> str:
    *forms, construction = lexicon.GIVE_VERB[m.verb]
    _, person, _, _, to_person = lexicon.PERSON[m.person]
    receiver = {"object": person, "على": f"على {person}", "ل": to_person}[construction]
    return _act(m, tuple(forms), receiver, _phrase(m.noun, m.adjective, m.count, "acc"))


def _go(m: Meaning) -> str:
    companion = "" if m.person == NONE else f"مع {lexicon.PERSON[m.person][1]}"
    return _act(m, lexicon.GO, f"إلى {lexicon.PLACE[m.place][0]}", companion)


def _person_object(m: Meaning) -> str:
    return _act(m, lexicon.PERSON_VERB[m.verb], lexicon.PERSON[m.person][1], _place(m))


def _asserted(gender: str, degree: Degree, nominative: str, accusative: str) -> str:
    if degree == Degree.NOT:  # ليس puts its predicate in the accusative
        return f"ليست {nominative}" if gender == "f" else f"ليس {accusative}"
    return f"{nominative} جدًا" if degree == Degree.VERY else nominative


def _possessed_is(m: Meaning) -> str:
    gender, thing, *_ = lexicon.NOUN[m.noun]
    masculine, accusative, feminine, *_ = lexicon.ADJECTIVE[m.adjective]
    nominative = feminine if gender == "f" else masculine
    predicate = _asserted(gender, m.degree, nominative, accusative)
    return sentence(thing, lexicon.PERSON[m.subject][1], predicate)


def _person_is(m: Meaning) -> str:
    gender, person, *_ = lexicon.PERSON[m.subject]
    masculine, feminine, accusative = lexicon.PERSON_ADJECTIVE[m.subject_adjective]
    nominative = feminine if gender == "f" else masculine
    return sentence(person, _asserted(gender, m.degree, nominative, accusative))


def _be(m: Meaning, gender: str) -> str:
    """The copula, which the present does without."""
    return "" if TENSE[m.when] == Tense.HABITUAL else _verb(lexicon.BE, m, gender)


def _person_at(m: Meaning) -> str:
    be = _be(m, lexicon.PERSON[m.subject][0])
    return sentence(be, _subject(m), _place(m), lexicon.WHEN[m.when])


def _exists(m: Meaning) -> str:
    gender = lexicon.NOUN[m.noun][0]
    be = _be(m, gender)
    be = f"{be} هناك" if be else lexicon.EXIST[gender == "f"]
    thing = _phrase(m.noun, m.adjective, m.count, "nom")
    return sentence(be, thing, _place(m), lexicon.WHEN[m.when])


def _exist_two(m: Meaning) -> str:
    first = _phrase(m.noun, m.adjective, m.count, "nom")
    second = _phrase(m.noun_2, m.adjective_2, m.count_2, "nom")
    exist = lexicon.EXIST[lexicon.NOUN[m.noun][0] == "f"]
    return sentence(exist, first, f"و{second}", _place(m))


def _is_at(m: Meaning) -> str:
    be = _be(m, lexicon.NOUN[m.noun][0])
    return sentence(be, _definite(m.noun, m.adjective), _place(m), lexicon.WHEN[m.when])
