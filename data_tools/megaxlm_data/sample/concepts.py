"""What the sample corpus can talk about: concepts, numbered, without words of any language.

The order is part of the format: a lexicon of size "small" is the first k concepts of every
category, and every language's tables list the same names in the same order. Selection tables
(which verb takes which object, which noun takes which adjective) keep the sentences sensible.
"""

from dataclasses import dataclass
from enum import IntEnum

NONE = -1  # an empty optional slot of a Meaning

PERSONS = tuple(
    "farmer woman boy girl doctor man teacher student "
    "queen soldier cook nurse merchant singer neighbor actress driver writer fisherman king"
    "".split()
)
PERSON_ADJECTIVES = tuple("happy tired kind clever strong rich poor famous".split())
NOUNS = tuple(
    "apple egg book letter chair table cup hat flower bag cat dog horse bird "
    "orange banana onion lemon cake newspaper shirt coat lamp plate knife box key picture mirror "
    "basket umbrella boat cow goat rabbit donkey sheep hen".split()
)
ADJECTIVES = tuple(
    "big small red white black new old green beautiful clean dirty expensive heavy blue".split()
)
VERBS = tuple("buy eat read find see sell choose wash lose write hide break".split())
GIVE_VERBS = tuple("give show bring".split())
PERSON_VERBS = tuple("see help meet thank".split())
PLACES = tuple(
    "garden market school village kitchen city "
    "shop hospital hotel station library farm museum forest".split()
)
COUNTS = (1, 3, 5)  # no two: a dual would be one more paradigm in Arabic and mean nothing more


class When(IntEnum):
    """An adverb of time and with it the tense: the two are one slot, so they never clash."""

    PAST = 0  # past, no adverb
    YESTERDAY = 1
    NOW = 2
    TOMORROW = 3
    EVERY_DAY = 4
    THIS_MORNING = 5
    LAST_WEEK = 6
    NEXT_WEEK = 7
    PRESENT = 8  # present, no adverb: for states only


class Tense(IntEnum):
    """What the verb tables are indexed by."""

    PAST = 0
    PROGRESSIVE = 1
    FUTURE = 2
    HABITUAL = 3


TENSE = (
    Tense.PAST,
    Tense.PAST,
    Tense.PROGRESSIVE,
    Tense.FUTURE,
    Tense.HABITUAL,
    Tense.PAST,
    Tense.PAST,
    Tense.FUTURE,
    Tense.HABITUAL,
)


class Degree(IntEnum):
    """How a predicate adjective is asserted."""

    PLAIN = 0
    NOT = 1
    VERY = 2


@dataclass(frozen=True)
class LexiconSize:
    """How many concepts of each category a lexicon takes from the front of the lists."""

    persons: int
    person_adjectives: int
    nouns: int
    adjectives: int
    verbs: int
    give_verbs: int
    person_verbs: int
    places: int
    counts: int
    whens: int


LEXICONS = {
    "small": LexiconSize(8, 3, 14, 6, 5, 1, 2, 6, 2, 4),
    "full": LexiconSize(20, 8, 38, 14, 12, 3, 4, 14, 3, 8),
}

ANIMALS = frozenset("cat dog horse bird cow goat rabbit donkey sheep hen".split())
FOOD = frozenset("apple egg orange banana onion lemon cake".split())
READABLE = frozenset("book letter newspaper".split())
THINGS = frozenset(NOUNS) - ANIMALS - FOOD

_DYED = frozenset(
    "book chair table cup hat bag shirt coat lamp plate box basket umbrella boat".split()
)
_WASHED = frozenset("cup plate table chair shirt coat hat bag basket".split())

ADJECTIVE_NOUNS: dict[str, frozenset[str]] = {
    "big": frozenset(NOUNS) - READABLE | {"book"},
    "small": frozenset(NOUNS) - READABLE | {"book"},
    "red": _DYED | {"apple", "flower", "onion", "bird"},
    "white": _DYED | ANIMALS | {"egg", "flower", "onion"},
    "black": _DYED - {"plate"} | ANIMALS,
    "new": THINGS - {"flower", "letter", "newspaper"},
    "old": THINGS - {"flower"},
    "green": _DYED | {"apple", "bird"},
    "beautiful": THINGS - READABLE - {"key"} | {"cat", "horse", "bird"},
    "clean": _WASHED | {"knife"},
    "dirty": _WASHED | {"knife", "dog", "sheep", "box", "lamp"},
    "expensive": THINGS - {"letter", "newspaper"},
    "heavy": frozenset("book chair table bag coat lamp box mirror basket".split()),
    "blue": _DYED | {"flower", "bird"},
}

_GOODS = frozenset(NOUNS) - {"letter"}
VERB_NOUNS: dict[str, frozenset[str]] = {
    "buy": _GOODS,
    "eat": FOOD - {"onion", "lemon"},
    "read": READABLE,
    "find": frozenset(NOUNS),
    "see": frozenset(NOUNS),
    "sell": _GOODS,
    "choose": _GOODS,
    "wash": frozenset("cup plate knife basket apple lemon".split()),
    "lose": THINGS - frozenset("chair table flower plate lamp boat cup mirror".split())
    | {"cat", "dog"},
    "write": frozenset({"letter"}),
    "hide": _GOODS - ANIMALS - {"table", "boat"} | {"letter"},
    "break": frozenset({"cup", "plate", "egg", "lamp"}),
}

_TRADE = frozenset({"market", "village", "city", "shop", "station"})
# What one writes is not old yet.
VERB_ADJECTIVES: dict[str, frozenset[str]] = {"write": frozenset()}
VERB_PLACES: dict[str, frozenset[str]] = {
    "buy": _TRADE,
    "sell": _TRADE,
    "choose": _TRADE,
    "wash": frozenset({"garden", "kitchen", "village", "hotel", "farm"}),
}

# Verbs that name an instant have no progressive ("is finding"), others no daily habit, and nobody
# plans to lose a thing.
_INSTANT = frozenset({When.NOW, When.EVERY_DAY})
_MISHAP = _INSTANT | {When.TOMORROW, When.NEXT_WEEK}
VERB_EXCLUDED_WHENS: dict[str, frozenset[When]] = {
    "find": _INSTANT,
    "see": frozenset({When.NOW}),
    "choose": frozenset({When.EVERY_DAY}),
    "lose": _MISHAP,
    "break": _MISHAP,
    "hide": frozenset({When.EVERY_DAY}),
    "write": frozenset({When.EVERY_DAY}),
    "give": frozenset({When.NOW}),
    "show": _INSTANT,
    "bring": frozenset({When.NOW}),
    "thank": frozenset({When.NOW}),
    "meet": frozenset({When.NOW}),
}
