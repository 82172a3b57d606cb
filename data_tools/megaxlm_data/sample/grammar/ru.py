"""Russian: time, subject, verb, place, object; cases, animacy, aspect, gendered past, numerals."""

from functools import cache

from ..concepts import ANIMALS, NONE, NOUNS, TENSE, Degree, Tense
from ..lexicon import ru as lexicon
from ..meanings import Meaning
from .clause import sentence

_GENDER = {"m": 0, "f": 1, "n": 2}


@cache
def _phrase(noun: int, adjective: int, count: int, case: str) -> str:
    """Noun phrase in the nominative or accusative ("nom" or "acc")."""
    gender, nominative, accusative, genitive, genitive_plural = lexicon.NOUN[noun]
    forms = lexicon.ADJECTIVE[adjective] if adjective != NONE else ("",) * 7
    animate = NOUNS[noun] in ANIMALS
    words: tuple[str, ...]
    if count == 1:
        if case == "nom" or gender == "n" or (gender == "m" and not animate):
            adjective_form = forms[_GENDER[gender]]
        else:
            adjective_form = forms[3] if gender == "f" else forms[4]
        words = (adjective_form, nominative if case == "nom" else accusative)
    elif count == 5:
        words = (lexicon.COUNT[5], forms[6], genitive_plural)
    elif case == "acc" and animate:
        words = ("трёх", forms[6], genitive_plural)
    else:  # after three the noun is genitive singular, the adjective agrees by gender
        words = (lexicon.COUNT[3], forms[5 if gender == "f" else 6], genitive)
    return " ".join(filter(None, words))


def _subject(m: Meaning) -> str:
    gender, nominative, *_, plural, _ = lexicon.PERSON[m.subject]
    if m.subject_adjective == NONE:
        return plural if m.subject_plural else nominative
    return f"{lexicon.PERSON_ADJECTIVE[m.subject_adjective][gender == 'f']} {nominative}"


def _place(m: Meaning) -> str:
    return "" if m.place == NONE else lexicon.PLACE[m.place][0]


def _verb(forms: tuple[str, ...], m: Meaning) -> str:
    tense = TENSE[m.when]
    if tense == Tense.PAST:
        return forms[2 if m.subject_plural else lexicon.PERSON[m.subject][0] == "f"]
    return forms[(3 if tense == Tense.FUTURE else 5) + m.subject_plural]


def _transitive(m: Meaning) -> str:
    verb = _verb(lexicon.VERB[m.verb], m)
    thing = _phrase(m.noun, m.adjective, m.count, "acc")
    return sentence(lexicon.WHEN[m.when], _subject(m), verb, _place(m), thing)


def _have(m: Meaning) -> str:
    owner = lexicon.PERSON[m.subject][7 if m.subject_plural else 2]
    return sentence("у", owner, "есть", _phrase(m.noun, m.adjective, m.count, "nom"))


def _give(m: Meaning) -> str:
    verb = _verb(lexicon.GIVE_VERB[m.verb], m)
    thing = _phrase(m.noun, m.adjective, m.count, "acc")
    receiver = lexicon.PERSON[m.person][3]
    return sentence(lexicon.WHEN[m.when], _subject(m), verb, receiver, thing)


def _go(m: Meaning) -> str:
    if TENSE[m.when] == Tense.HABITUAL:
        verb = lexicon.GO_OFTEN[m.subject_plural]
    else:
        verb = _verb(lexicon.GO, m)
    companion = "" if m.person == NONE else lexicon.PERSON[m.person][5]
    to = lexicon.PLACE[m.place][1]
    return sentence(lexicon.WHEN[m.when], _subject(m), verb, companion, to)


def _person_object(m: Meaning) -> str:
    forms = lexicon.PERSON_VERB[m.verb]
    person = lexicon.PERSON[m.person][3 if forms[7] == "dat" else 4]
    return sentence(lexicon.WHEN[m.when], _subject(m), _verb(forms, m), person, _place(m))


_ASSERTED = {Degree.PLAIN: "", Degree.NOT: "не", Degree.VERY: "очень"}


def _possessed_is(m: Meaning) -> str:
    gender, thing, *_ = lexicon.NOUN[m.noun]
    adjective = lexicon.ADJECTIVE[m.adjective][_GENDER[gender]]
    return sentence(thing, lexicon.PERSON[m.subject][2], _ASSERTED[m.degree], adjective)


def _person_is(m: Meaning) -> str:
    gender, nominative, *_ = lexicon.PERSON[m.subject]
    adjective = lexicon.PERSON_ADJECTIVE[m.subject_adjective][2 + (gender == "f")]
    return sentence(nominative, _ASSERTED[m.degree], adjective)


def _be(m: Meaning, gender: str, plural: bool) -> str:
    tense = TENSE[m.when]
    if tense == Tense.PAST:
        return "были" if plural else {"m": "был", "f": "была", "n": "было"}[gender]
    if tense == Tense.FUTURE:
        return "будут" if plural else "будет"
    return ""


def _person_at(m: Meaning) -> str:
    be = _be(m, lexicon.PERSON[m.subject][0], m.subject_plural)
    return sentence(lexicon.WHEN[m.when], _subject(m), be, _place(m))


def _exists(m: Meaning) -> str:
    # A numeral takes a neuter singular verb.
    be = _be(m, lexicon.NOUN[m.noun][0] if m.count == 1 else "n", False)
    thing = _phrase(m.noun, m.adjective, m.count, "nom")
    return sentence(lexicon.WHEN[m.when], _place(m), be, thing)


def _exist_two(m: Meaning) -> str:
    first = _phrase(m.noun, m.adjective, m.count, "nom")
    second = _phrase(m.noun_2, m.adjective_2, m.count_2, "nom")
    return sentence(_place(m), first, "и", second)


def _is_at(m: Meaning) -> str:
    be = _be(m, lexicon.NOUN[m.noun][0], False)
    thing = _phrase(m.noun, m.adjective, 1, "nom")
    return sentence(lexicon.WHEN[m.when], thing, be, _place(m))
