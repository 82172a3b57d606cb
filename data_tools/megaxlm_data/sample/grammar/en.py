"""English: subject, verb, object, place, time; articles a and an; no agreement but number."""

from functools import cache

from ..concepts import NONE, TENSE, Degree, Tense, When
from ..lexicon import en as lexicon
from ..meanings import Meaning
from .clause import sentence


@cache
def _indefinite(noun: int, adjective: int, count: int) -> str:
    words = lexicon.NOUN[noun][count != 1]
    if adjective != NONE:
        words = f"{lexicon.ADJECTIVE[adjective][0]} {words}"
    if count != 1:
        return f"{lexicon.COUNT[count]} {words}"
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


@cache
def _definite(noun: int, adjective: int) -> str:
    words = lexicon.NOUN[noun][0]
    return f"the {words}" if adjective == NONE else f"the {lexicon.ADJECTIVE[adjective][0]} {words}"


def _subject(m: Meaning) -> str:
    noun = lexicon.PERSON[m.subject][m.subject_plural]
    if m.subject_adjective == NONE:
        return f"the {noun}"
    return f"the {lexicon.PERSON_ADJECTIVE[m.subject_adjective][0]} {noun}"


def _person(m: Meaning) -> str:
    return f"the {lexicon.PERSON[m.person][0]}"


def _place(m: Meaning) -> str:
    return "" if m.place == NONE else lexicon.PLACE[m.place][0]


def _verb(forms: tuple[str, ...], m: Meaning) -> str:
    past, progressive, base, third = forms
    tense = TENSE[m.when]
    if tense == Tense.PAST:
        return past
    if tense == Tense.PROGRESSIVE:
        return f"{'are' if m.subject_plural else 'is'} {progressive}"
    if tense == Tense.FUTURE:
        return f"will {base}"
    return base if m.subject_plural else third


def _be(when: When, plural: bool) -> str:
    tense = TENSE[when]
    if tense == Tense.FUTURE:
        return "will be"
    if tense == Tense.PAST:
        return "were" if plural else "was"
    return "are" if plural else "is"


def _transitive(m: Meaning) -> str:
    thing = _indefinite(m.noun, m.adjective, m.count)
    verb = _verb(lexicon.VERB[m.verb], m)
    return sentence(_subject(m), verb, thing, _place(m), lexicon.WHEN[m.when])


def _have(m: Meaning) -> str:
    has = "have" if m.subject_plural else "has"
    return sentence(_subject(m), has, _indefinite(m.noun, m.adjective, m.count))


def _give(m: Meaning) -> str:
    thing = _indefinite(m.noun, m.adjective, m.count)
    verb = _verb(lexicon.GIVE_VERB[m.verb], m)
    return sentence(_subject(m), verb, _person(m), thing, lexicon.WHEN[m.when])


def _go(m: Meaning) -> str:
    companion = "" if m.person == NONE else f"with {_person(m)}"
    to = lexicon.PLACE[m.place][1]
    return sentence(_subject(m), _verb(lexicon.GO, m), to, companion, lexicon.WHEN[m.when])


def _person_object(m: Meaning) -> str:
    verb = _verb(lexicon.PERSON_VERB[m.verb], m)
    return sentence(_subject(m), verb, _person(m), _place(m), lexicon.WHEN[m.when])


_ASSERTED = {Degree.PLAIN: "is", Degree.NOT: "is not", Degree.VERY: "is very"}


def _possessed_is(m: Meaning) -> str:
    owner, noun = lexicon.PERSON[m.subject][0], lexicon.NOUN[m.noun][0]
    adjective = lexicon.ADJECTIVE[m.adjective][0]
    return sentence(f"the {owner}'s {noun}", _ASSERTED[m.degree], adjective)


def _person_is(m: Meaning) -> str:
    adjective = lexicon.PERSON_ADJECTIVE[m.subject_adjective][0]
    return sentence("the", lexicon.PERSON[m.subject][0], _ASSERTED[m.degree], adjective)


def _person_at(m: Meaning) -> str:
    be = _be(m.when, m.subject_plural)
    return sentence(_subject(m), be, _place(m), lexicon.WHEN[m.when])


def _exists(m: Meaning) -> str:
    thing = _indefinite(m.noun, m.adjective, m.count)
    be = _be(m.when, m.count != 1)
    return sentence("there", be, thing, _place(m), lexicon.WHEN[m.when])


def _exist_two(m: Meaning) -> str:
    first = _indefinite(m.noun, m.adjective, m.count)
    second = _indefinite(m.noun_2, m.adjective_2, m.count_2)
    return sentence("there are", first, "and", second, _place(m))


def _is_at(m: Meaning) -> str:
    be = _be(m.when, False)
    return sentence(_definite(m.noun, m.adjective), be, _place(m), lexicon.WHEN[m.when])
