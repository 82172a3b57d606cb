"""Swahili: subject, verb, object, place, time; noun classes on adjective, numeral and verb."""

from functools import cache

from ..concepts import NONE, TENSE, Degree, Tense
from ..lexicon import sw as lexicon
from ..meanings import Meaning
from .clause import sentence

_TENSE_PREFIX = {
    Tense.PAST: "li",
    Tense.PROGRESSIVE: "na",
    Tense.FUTURE: "ta",
    Tense.HABITUAL: "na",
}


@cache
def _phrase(noun: int, adjective: int, count: int) -> str:
    """Noun, adjective and numeral; "one" is left unsaid."""
    one, many, singular, plural = lexicon.NOUN[noun]
    noun_class = int(one if count == 1 else many)
    noun_form = singular if count == 1 else plural
    adjective_form = "" if adjective == NONE else lexicon.ADJECTIVE[adjective][noun_class - 1]
    numeral = "" if count == 1 else lexicon.COUNT[count][noun_class]
    words = [noun_form, adjective_form, numeral]
    if " " in adjective_form:  # a phrase with -a follows the numeral: "vitabu vitatu vya zamani"
        words = [noun_form, numeral, adjective_form]
    return " ".join(filter(None, words))


def _subject(m: Meaning) -> str:
    noun = lexicon.PERSON[m.subject][m.subject_plural]
    if m.subject_adjective == NONE:
        return noun
    return f"{noun} {lexicon.PERSON_ADJECTIVE[m.subject_adjective][0]}"


def _place(m: Meaning) -> str:
    return "" if m.place == NONE else lexicon.PLACE[m.place][0]


def _act(m: Meaning, stem: str, *rest: str) -> str:
    prefix = "wa" if m.subject_plural else "a"
    verb = f"{prefix}{_TENSE_PREFIX[TENSE[m.when]]}{stem}"
    return sentence(_subject(m), verb, *rest, lexicon.WHEN[m.when])


def _transitive(m: Meaning) -> str:
    thing = _phrase(m.noun, m.adjective, m.count)
    return _act(m, lexicon.VERB[m.verb][0], thing, _place(m))


def _have(m: Meaning) -> str:
    has = "wana" if m.subject_plural else "ana"
    return sentence(_subject(m), has, _phrase(m.noun, m.adjective, m.count))


def _give(m: Meaning) -> str:
    receiver = lexicon.PERSON[m.person][0]
    thing = _phrase(m.noun, m.adjective, m.count)
    return _act(m, lexicon.GIVE_VERB[m.verb][0], receiver, thing)


def _go(m: Meaning) -> str:
    companion = "" if m.person == NONE else f"na {lexicon.PERSON[m.person][0]}"
    return _act(m, lexicon.GO, _place(m), companion)


def _person_object(m: Meaning) -> str:
    return _act(m, lexicon.PERSON_VERB[m.verb][0], lexicon.PERSON[m.person][0], _place(m))


def _very(m: Meaning) -> str:
    return "sana" if m.degree == Degree.VERY else ""


def _possessed_is(m: Meaning) -> str:
    one, _, thing, _ = lexicon.NOUN[m.noun]
    noun_class = int(one)
    adjective = lexicon.ADJECTIVE[m.adjective][noun_class - 1]
    owner = f"{lexicon.OF[noun_class]} {lexicon.PERSON[m.subject][0]}"
    return sentence(thing, owner, "si" if m.degree == Degree.NOT else "ni", adjective, _very(m))


def _person_is(m: Meaning) -> str:
    _, is_so, is_not = lexicon.PERSON_ADJECTIVE[m.subject_adjective]
    predicate = is_not if m.degree == Degree.NOT else is_so
    return sentence(lexicon.PERSON[m.subject][0], predicate, _very(m))


def _be_at(m: Meaning, noun_class: int) -> str:
    tense = TENSE[m.when]
    if tense == Tense.HABITUAL:
        return lexicon.IS_AT[noun_class]
    return f"{lexicon.BE[noun_class]}{_TENSE_PREFIX[tense]}kuwa"


def _person_at(m: Meaning) -> str:
    be = _be_at(m, 2 if m.subject_plural else 1)
    return sentence(_subject(m), be, _place(m), lexicon.WHEN[m.when])


_THERE_IS = {Tense.PAST: "kulikuwa na", Tense.FUTURE: "kutakuwa na", Tense.HABITUAL: "kuna"}


def _exists(m: Meaning) -> str:
    thing = _phrase(m.noun, m.adjective, m.count)
    return sentence(_THERE_IS[TENSE[m.when]], thing, _place(m), lexicon.WHEN[m.when])


def _exist_two(m: Meaning) -> str:
    first = _phrase(m.noun, m.adjective, m.count)
    second = _phrase(m.noun_2, m.adjective_2, m.count_2)
    return sentence("kuna", first, "na", second, _place(m))


def _is_at(m: Meaning) -> str:
    be = _be_at(m, int(lexicon.NOUN[m.noun][0]))
    return sentence(_phrase(m.noun, m.adjective, 1), be, _place(m), lexicon.WHEN[m.when])
