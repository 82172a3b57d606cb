"""German: verb second, infinitive last; four cases, three genders, adjective endings."""

from functools import cache

from ..concepts import NONE, TENSE, Degree, Tense
from ..lexicon import de as lexicon
from ..meanings import Meaning
from .clause import sentence

_THE = {"m": "der", "f": "die", "n": "das"}
# Accusative: the article and the ending of the adjective after it. Nothing indefinite is ever a
# subject here ("es gibt" takes the accusative too).
_A = {"m": ("einen", "en"), "f": ("eine", "e"), "n": ("ein", "es")}


@cache
def _accusative(noun: int, adjective: int, count: int) -> str:
    gender, *forms = lexicon.NOUN[noun]
    article, ending = _A[gender]
    if count != 1:
        article, ending = lexicon.COUNT[count], "e"
    word = forms[count != 1]
    if adjective == NONE:
        return f"{article} {word}"
    return f"{article} {lexicon.ADJECTIVE[adjective][0]}{ending} {word}"


@cache
def _definite(noun: int, adjective: int) -> str:
    gender, word, _ = lexicon.NOUN[noun]
    if adjective == NONE:
        return f"{_THE[gender]} {word}"
    return f"{_THE[gender]} {lexicon.ADJECTIVE[adjective][0]}e {word}"


def _subject(m: Meaning) -> str:
    gender, singular, plural, *_ = lexicon.PERSON[m.subject]
    if m.subject_plural:
        return f"die {plural}"
    if m.subject_adjective == NONE:
        return f"{_THE[gender]} {singular}"
    return f"{_THE[gender]} {lexicon.PERSON_ADJECTIVE[m.subject_adjective][0]} {singular}"


def _place(m: Meaning) -> str:
    return "" if m.place == NONE else lexicon.PLACE[m.place][0]


def _clause(m: Meaning, forms: tuple[str, ...], subject: str, *middle: str, plural: bool) -> str:
    """One phrase, the finite verb, the rest, and in the future the infinitive at the end."""
    past, past_plural, infinitive, present = forms[:4]
    tense = TENSE[m.when]
    last = ""
    if tense == Tense.FUTURE:
        finite, last = ("werden" if plural else "wird"), infinitive
    elif tense == Tense.PAST:
        finite = past_plural if plural else past
    elif infinitive == "sein":
        finite = "sind" if plural else "ist"
    else:
        finite = infinitive if plural else present
    when = lexicon.WHEN[m.when]
    if when:
        return sentence(when, finite, subject, *middle, last)
    return sentence(subject, finite, *middle, last)


def _act(m: Meaning, forms: tuple[str, ...], *middle: str) -> str:
    return _clause(m, forms, _subject(m), *middle, plural=m.subject_plural)


def _transitive(m: Meaning) -> str:
    thing = _accusative(m.noun, m.adjective, m.count)
    return _act(m, lexicon.VERB[m.verb], _place(m), thing)


def _have(m: Meaning) -> str:
    return _act(m, lexicon.HAVE, _accusative(m.noun, m.adjective, m.count))


def _give(m: Meaning) -> str:
    thing = _accusative(m.noun, m.adjective, m.count)
    return _act(m, lexicon.GIVE_VERB[m.verb], lexicon.PERSON[m.person][4], thing)


def _go(m: Meaning) -> str:
    companion = "" if m.person == NONE else f"mit {lexicon.PERSON[m.person][4]}"
    return _act(m, lexicon.GO, companion, lexicon.PLACE[m.place][1])


def _person_object(m: Meaning) -> str:
    forms = lexicon.PERSON_VERB[m.verb]
    person = lexicon.PERSON[m.person][4 if forms[4] == "dat" else 5]
    return _act(m, forms, person, _place(m))


_ASSERTED = {Degree.PLAIN: "ist", Degree.NOT: "ist nicht", Degree.VERY: "ist sehr"}


def _possessed_is(m: Meaning) -> str:
    owner = lexicon.PERSON[m.subject][3]
    adjective = lexicon.ADJECTIVE[m.adjective][1]
    return sentence(_definite(m.noun, NONE), owner, _ASSERTED[m.degree], adjective)


def _person_is(m: Meaning) -> str:
    gender, singular, *_ = lexicon.PERSON[m.subject]
    adjective = lexicon.PERSON_ADJECTIVE[m.subject_adjective][1]
    return sentence(_THE[gender], singular, _ASSERTED[m.degree], adjective)


def _person_at(m: Meaning) -> str:
    return _act(m, lexicon.BE, _place(m))


def _exists(m: Meaning) -> str:
    thing = _accusative(m.noun, m.adjective, m.count)
    when, place = lexicon.WHEN[m.when], _place(m)
    tense = TENSE[m.when]
    if tense == Tense.PAST:
        return sentence(when, "gab es", place, thing)
    if tense == Tense.FUTURE:
        return sentence(when, "wird es", place, thing, "geben")
    return sentence(place, "gibt es", thing)


def _exist_two(m: Meaning) -> str:
    first = _accusative(m.noun, m.adjective, m.count)
    second = _accusative(m.noun_2, m.adjective_2, m.count_2)
    return sentence(_place(m), "gibt es", first, "und", second)


def _is_at(m: Meaning) -> str:
    return _clause(m, lexicon.BE, _definite(m.noun, m.adjective), _place(m), plural=False)
