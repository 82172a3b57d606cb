"""Chinese: subject, time, place, verb, object; classifiers, aspect marks, no inflection."""

from functools import cache

from ..concepts import NONE, TENSE, Degree, Tense
from ..lexicon import zh as lexicon
from ..meanings import Meaning


def _described(noun: int, adjective: int) -> str:
    word = lexicon.NOUN[noun][0]
    return word if adjective == NONE else f"{lexicon.ADJECTIVE[adjective][0]}{word}"


@cache
def _counted(noun: int, adjective: int, count: int) -> str:
    return f"{lexicon.COUNT[count]}{lexicon.NOUN[noun][1]}{_described(noun, adjective)}"


def _subject(m: Meaning) -> str:
    noun = lexicon.PERSON[m.subject][0]
    if m.subject_adjective != NONE:
        return f"{lexicon.PERSON_ADJECTIVE[m.subject_adjective][0]}{noun}"
    return f"{noun}们" if m.subject_plural else noun


def _place(m: Meaning) -> str:
    return "" if m.place == NONE else lexicon.PLACE[m.place][0]


def _auxiliary(m: Meaning, next_word: str) -> str:
    """What stands between the time and the place or verb."""
    tense = TENSE[m.when]
    if tense == Tense.PROGRESSIVE:  # 正在 and a place with 在 share one 在
        return "正" if next_word[:1] in ("在", "和") else "正在"
    return {Tense.FUTURE: "会", Tense.HABITUAL: "都"}.get(tense, "")


def _act(m: Meaning, verb: str, rest: str) -> str:
    place = _place(m)
    auxiliary = _auxiliary(m, place)
    return f"{_subject(m)}{lexicon.WHEN[m.when]}{auxiliary}{place}{verb}{rest}。"


def _transitive(m: Meaning) -> str:
    thing = _counted(m.noun, m.adjective, m.count)
    return _act(m, lexicon.VERB[m.verb][TENSE[m.when]], thing)


def _have(m: Meaning) -> str:
    return f"{_subject(m)}有{_counted(m.noun, m.adjective, m.count)}。"


def _give(m: Meaning) -> str:
    verb = lexicon.GIVE_VERB[m.verb][TENSE[m.when] != Tense.PAST]
    verb = verb.replace("~", lexicon.PERSON[m.person][0])
    return _act(m, verb, _counted(m.noun, m.adjective, m.count))


def _go(m: Meaning) -> str:
    companion = "" if m.person == NONE else f"和{lexicon.PERSON[m.person][0]}一起"
    verb = "去了" if TENSE[m.when] == Tense.PAST else "去"
    to = lexicon.PLACE[m.place][2]
    auxiliary = _auxiliary(m, companion)
    return f"{_subject(m)}{lexicon.WHEN[m.when]}{auxiliary}{companion}{verb}{to}。"


def _person_object(m: Meaning) -> str:
    return _act(m, lexicon.PERSON_VERB[m.verb][TENSE[m.when]], lexicon.PERSON[m.person][0])


def _asserted(adjective: str, degree: Degree) -> str:
    if adjective.startswith("是"):
        return f"不{adjective}" if degree == Degree.NOT else adjective
    # Without 很 a bare adjective would compare: "is the bigger one".
    return {Degree.PLAIN: "很", Degree.NOT: "不", Degree.VERY: "非常"}[degree] + adjective


def _possessed_is(m: Meaning) -> str:
    owner, noun = lexicon.PERSON[m.subject][0], lexicon.NOUN[m.noun][0]
    return f"{owner}的{noun}{_asserted(lexicon.ADJECTIVE[m.adjective][1], m.degree)}。"


def _person_is(m: Meaning) -> str:
    adjective = lexicon.PERSON_ADJECTIVE[m.subject_adjective][1]
    return f"{lexicon.PERSON[m.subject][0]}{_asserted(adjective, m.degree)}。"


def _will(m: Meaning) -> str:
    return "会" if TENSE[m.when] == Tense.FUTURE else ""


def _person_at(m: Meaning) -> str:
    return f"{_subject(m)}{lexicon.WHEN[m.when]}{_will(m)}{_place(m)}。"


def _exists(m: Meaning) -> str:
    place = lexicon.PLACE[m.place][1]
    thing = _counted(m.noun, m.adjective, m.count)
    return f"{lexicon.WHEN[m.when]}{place}{_will(m)}有{thing}。"


def _exist_two(m: Meaning) -> str:
    first = _counted(m.noun, m.adjective, m.count)
    second = _counted(m.noun_2, m.adjective_2, m.count_2)
    return f"{lexicon.PLACE[m.place][1]}有{first}和{second}。"


def _is_at(m: Meaning) -> str:
    return f"{lexicon.WHEN[m.when]}{_described(m.noun, m.adjective)}{_will(m)}{_place(m)}。"
