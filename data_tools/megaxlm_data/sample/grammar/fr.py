"""French: time, subject, verb, object, place; gender, elision, adjectives before or after."""

from functools import cache

from ..concepts import ADJECTIVES, FOOD, NONE, NOUNS, TENSE, Degree, Tense, When
from ..lexicon import fr as lexicon
from ..meanings import Meaning
from .clause import sentence

_VOWELS = "aâeéiouœ"
_BIG = ADJECTIVES.index("big")


def _adjective(noun: int, adjective: int) -> tuple[str, ...]:
    if adjective == _BIG and NOUNS[noun] in FOOD:
        return lexicon.BIG_FOOD
    return lexicon.ADJECTIVE[adjective]


def _group(noun: int, adjective: int, plural: bool) -> str:
    """Noun and adjective, each in its place, without an article."""
    gender, *forms = lexicon.NOUN[noun]
    word = forms[plural]
    if adjective == NONE:
        return word
    place, *agreeing, before_vowel, _, _ = _adjective(noun, adjective)
    form = agreeing[2 * plural + (gender == "f")]
    if place == "after":
        return f"{word} {form}"
    if gender == "m" and not plural and word[0] in _VOWELS:
        form = before_vowel
    return f"{form} {word}"


@cache
def _indefinite(noun: int, adjective: int, count: int) -> str:
    article = "une" if lexicon.NOUN[noun][0] == "f" else "un"
    return f"{lexicon.COUNT.get(count, article)} {_group(noun, adjective, count != 1)}"


@cache
def _definite(noun: int, adjective: int) -> str:
    words = _group(noun, adjective, False)
    if words[0] in _VOWELS:
        return f"l'{words}"
    return f"la {words}" if lexicon.NOUN[noun][0] == "f" else f"le {words}"


def _subject(m: Meaning) -> str:
    gender, *forms = lexicon.PERSON[m.subject]
    if m.subject_adjective == NONE:
        return forms[m.subject_plural]
    return f"{forms[0]} {lexicon.PERSON_ADJECTIVE[m.subject_adjective][gender == 'f']}"


def _place(m: Meaning) -> str:
    return "" if m.place == NONE else lexicon.PLACE[m.place][0]


def _verb(forms: tuple[str, ...], m: Meaning) -> str:
    participle, present, present_plural, future, future_plural = forms
    tense = TENSE[m.when]
    if tense == Tense.PAST:
        return f"ont {participle}" if m.subject_plural else f"a {participle}"
    if tense == Tense.FUTURE:
        return future_plural if m.subject_plural else future
    return present_plural if m.subject_plural else present


def _be(when: When, plural: bool) -> str:
    tense = TENSE[when]
    if tense == Tense.FUTURE:
        return "seront" if plural else "sera"
    if tense == Tense.PAST:
        return "étaient" if plural else "était"
    return "sont" if plural else "est"


def _transitive(m: Meaning) -> str:
    verb = _verb(lexicon.VERB[m.verb], m)
    thing = _indefinite(m.noun, m.adjective, m.count)
    return sentence(lexicon.WHEN[m.when], _subject(m), verb, thing, _place(m))


def _have(m: Meaning) -> str:
    has = "ont" if m.subject_plural else "a"
    return sentence(_subject(m), has, _indefinite(m.noun, m.adjective, m.count))


def _give(m: Meaning) -> str:
    verb = _verb(lexicon.GIVE_VERB[m.verb], m)
    thing = _indefinite(m.noun, m.adjective, m.count)
    return sentence(lexicon.WHEN[m.when], _subject(m), verb, thing, lexicon.PERSON[m.person][4])


def _go(m: Meaning) -> str:
    tense = TENSE[m.when]
    if tense == Tense.PAST:  # with être the participle agrees with the subject
        ending = "e" * (lexicon.PERSON[m.subject][0] == "f") + "s" * m.subject_plural
        verb = f"{'sont' if m.subject_plural else 'est'} allé{ending}"
    elif tense == Tense.FUTURE:
        verb = "iront" if m.subject_plural else "ira"
    else:
        verb = "vont" if m.subject_plural else "va"
    companion = "" if m.person == NONE else f"avec {lexicon.PERSON[m.person][1]}"
    to = lexicon.PLACE[m.place][1]
    return sentence(lexicon.WHEN[m.when], _subject(m), verb, to, companion)


def _person_object(m: Meaning) -> str:
    verb = _verb(lexicon.PERSON_VERB[m.verb], m)
    person = lexicon.PERSON[m.person][1]
    return sentence(lexicon.WHEN[m.when], _subject(m), verb, person, _place(m))


_ASSERTED = {Degree.PLAIN: "est", Degree.NOT: "n'est pas", Degree.VERY: "est très"}


def _possessed_is(m: Meaning) -> str:
    gender = lexicon.NOUN[m.noun][0]
    adjective = _adjective(m.noun, m.adjective)[7 if gender == "f" else 6]
    owner = lexicon.PERSON[m.subject][3]
    return sentence(_definite(m.noun, NONE), owner, _ASSERTED[m.degree], adjective)


def _person_is(m: Meaning) -> str:
    gender, singular, *_ = lexicon.PERSON[m.subject]
    adjective = lexicon.PERSON_ADJECTIVE[m.subject_adjective][gender == "f"]
    return sentence(singular, _ASSERTED[m.degree], adjective)


def _person_at(m: Meaning) -> str:
    return sentence(lexicon.WHEN[m.when], _subject(m), _be(m.when, m.subject_plural), _place(m))


_THERE_IS = {Tense.PAST: "il y avait", Tense.FUTURE: "il y aura", Tense.HABITUAL: "il y a"}


def _exists(m: Meaning) -> str:
    thing = _indefinite(m.noun, m.adjective, m.count)
    return sentence(lexicon.WHEN[m.when], _THERE_IS[TENSE[m.when]], thing, _place(m))


def _exist_two(m: Meaning) -> str:
    first = _indefinite(m.noun, m.adjective, m.count)
    second = _indefinite(m.noun_2, m.adjective_2, m.count_2)
    return sentence("il y a", first, "et", second, _place(m))


def _is_at(m: Meaning) -> str:
    thing = _definite(m.noun, m.adjective)
    return sentence(lexicon.WHEN[m.when], thing, _be(m.when, False), _place(m))
