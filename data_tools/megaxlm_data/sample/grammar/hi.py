"""Hindi: time, subject, place, object, verb; ergative ने, agreement with subject or object."""

from functools import cache

from ..concepts import NONE, TENSE, Degree, Tense
from ..lexicon import hi as lexicon
from ..meanings import Meaning
from .clause import sentence

_STOP = "।"


def _number_gender(gender: str, plural: bool) -> int:
    """Index into forms listed as m., m. plural, f., f. plural."""
    return 2 * (gender == "f") + plural


@cache
def _counted(noun: int, adjective: int, count: int) -> str:
    gender, *forms = lexicon.NOUN[noun]
    plural = count != 1
    words = [lexicon.COUNT[count], forms[plural]]
    if adjective != NONE:
        words.insert(1, lexicon.ADJECTIVE[adjective][2 if gender == "f" else plural])
    return " ".join(words)


def _subject(m: Meaning, postposition: str) -> str:
    """The subject, oblique if something follows it."""
    gender, *forms = lexicon.PERSON[m.subject]
    oblique = bool(postposition)
    words = forms[2 * m.subject_plural + oblique]
    if m.subject_adjective != NONE:
        adjective = lexicon.PERSON_ADJECTIVE[m.subject_adjective]
        words = f"{adjective[2 if gender == 'f' else oblique]} {words}"
    return f"{words} {postposition}" if postposition else words


def _place(m: Meaning) -> str:
    return "" if m.place == NONE else lexicon.PLACE[m.place][0]


def _finite(forms: tuple[str, ...], tense: Tense, gender: str, plural: bool) -> str:
    """The verb agreeing with a noun of this gender and number."""
    perfective, stem, future = forms[:4], forms[4], forms[5:7]
    agree = _number_gender(gender, plural)
    be = "हैं" if plural else "है"
    if tense == Tense.PAST:
        return perfective[agree]
    if tense == Tense.FUTURE:
        return future[plural] + ("गा", "गे", "गी", "गी")[agree]
    if tense == Tense.PROGRESSIVE:
        return f"{stem} {('रहा', 'रहे', 'रही', 'रही')[agree]} {be}"
    return f"{stem}{('ता', 'ते', 'ती', 'ती')[agree]} {be}"


def _act(m: Meaning, forms: tuple[str, ...], *middle: str) -> str:
    tense, marker = TENSE[m.when], forms[7]
    with_object = marker == "को" or (marker == "ने" and tense == Tense.PAST)
    if with_object:
        subject = _subject(m, marker)
        gender = "m" if m.noun == NONE else lexicon.NOUN[m.noun][0]
        verb = _finite(forms, tense, gender, m.count != 1)
    else:
        subject = _subject(m, "")
        verb = _finite(forms, tense, lexicon.PERSON[m.subject][0], m.subject_plural)
    return sentence(lexicon.WHEN[m.when], subject, *middle, verb, stop=_STOP)


def _transitive(m: Meaning) -> str:
    thing = _counted(m.noun, m.adjective, m.count)
    return _act(m, lexicon.VERB[m.verb], _place(m), thing)


def _be_present(plural: bool) -> str:
    return "हैं" if plural else "है"


def _have(m: Meaning) -> str:
    owner = _subject(m, "के पास")
    thing = _counted(m.noun, m.adjective, m.count)
    return sentence(owner, thing, _be_present(m.count != 1), stop=_STOP)


def _give(m: Meaning) -> str:
    forms = lexicon.GIVE_VERB[m.verb]
    receiver = f"{lexicon.PERSON[m.person][2]} {forms[8]}"
    return _act(m, forms, receiver, _counted(m.noun, m.adjective, m.count))


def _go(m: Meaning) -> str:
    companion = "" if m.person == NONE else f"{lexicon.PERSON[m.person][2]} के साथ"
    return _act(m, lexicon.GO, companion, lexicon.PLACE[m.place][1])


def _person_object(m: Meaning) -> str:
    forms = lexicon.PERSON_VERB[m.verb]
    return _act(m, forms, _place(m), f"{lexicon.PERSON[m.person][2]} {forms[8]}")


_ASSERTED = {Degree.PLAIN: "~ है", Degree.NOT: "~ नहीं है", Degree.VERY: "बहुत ~ है"}


def _possessed_is(m: Meaning) -> str:
    gender, thing, _ = lexicon.NOUN[m.noun]
    owner = lexicon.PERSON[m.subject][2]
    adjective = lexicon.ADJECTIVE[m.adjective][2 if gender == "f" else 0]
    predicate = _ASSERTED[m.degree].replace("~", adjective)
    return sentence(owner, "की" if gender == "f" else "का", thing, predicate, stop=_STOP)


def _person_is(m: Meaning) -> str:
    gender, person, *_ = lexicon.PERSON[m.subject]
    adjective = lexicon.PERSON_ADJECTIVE[m.subject_adjective][2 if gender == "f" else 0]
    return sentence(person, _ASSERTED[m.degree].replace("~", adjective), stop=_STOP)


def _be(m: Meaning, gender: str, plural: bool) -> str:
    tense = TENSE[m.when]
    if tense == Tense.PAST:
        return lexicon.WAS[_number_gender(gender, plural)]
    if tense == Tense.FUTURE:
        return lexicon.WILL_BE[_number_gender(gender, plural)]
    return _be_present(plural)


def _person_at(m: Meaning) -> str:
    be = _be(m, lexicon.PERSON[m.subject][0], m.subject_plural)
    return sentence(lexicon.WHEN[m.when], _subject(m, ""), _place(m), be, stop=_STOP)


def _exists(m: Meaning) -> str:
    thing = _counted(m.noun, m.adjective, m.count)
    be = _be(m, lexicon.NOUN[m.noun][0], m.count != 1)
    return sentence(lexicon.WHEN[m.when], _place(m), thing, be, stop=_STOP)


def _exist_two(m: Meaning) -> str:
    first = _counted(m.noun, m.adjective, m.count)
    second = _counted(m.noun_2, m.adjective_2, m.count_2)
    if m.count_2 == 1:  # the plural verb wants a plural noun beside it
        first, second = second, first
    return sentence(_place(m), first, "और", second, "हैं", stop=_STOP)


def _is_at(m: Meaning) -> str:
    gender, thing, _ = lexicon.NOUN[m.noun]
    adjective = ""
    if m.adjective != NONE:
        adjective = lexicon.ADJECTIVE[m.adjective][2 if gender == "f" else 0]
    be = _be(m, gender, False)
    return sentence(lexicon.WHEN[m.when], adjective, thing, _place(m), be, stop=_STOP)
