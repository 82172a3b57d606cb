"""Language-independent sentence meanings, and the numbered space they form.

Every template is a set of blocks, each a plain product of slot options, so that an integer
decodes to a meaning in constant time. A template's space is divided by topic (the person or
place a document is about): meaning = (template, topic, rest). In every (template, topic) a
fixed keyed bijection sets aside the same fiftieth of the meanings for retrieval, whatever the
seed: held-out sentences never enter training text.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from itertools import accumulate
from math import prod

from . import concepts
from .concepts import NONE, Degree, LexiconSize, When
from .permutation import Permutation

HELD_OUT_ONE_IN = 50


class Template(IntEnum):
    """The sentence patterns; the examples are the English ones."""

    TRANSITIVE = 0  # The happy farmer bought three red apples at the market yesterday.
    HAVE = 1  # The farmer has a black cat.
    GIVE = 2  # The farmer will give the girl three red apples tomorrow.
    GO = 3  # The farmer went to the market with the doctor.
    PERSON_OBJECT = 4  # The farmers helped the doctor in the garden.
    POSSESSED_IS = 5  # The farmer's cat is very small.
    PERSON_IS = 6  # The farmer is not tired.
    PERSON_AT = 7  # The farmers are in the garden.
    EXISTS = 8  # There are three black cats in the garden.
    EXIST_TWO = 9  # There are three black cats and a red chair in the garden.
    IS_AT = 10  # The black cat was in the garden yesterday.


@dataclass(frozen=True, slots=True)
class Meaning:
    """One sentence without words. Slots hold concept numbers, `NONE` where empty."""

    template: Template
    subject: int = NONE
    subject_plural: bool = False
    subject_adjective: int = NONE
    verb: int = NONE
    noun: int = NONE
    adjective: int = NONE
    count: int = 1
    noun_2: int = NONE
    adjective_2: int = NONE
    count_2: int = 1
    person: int = NONE  # receiver, companion or patient; never the subject
    place: int = NONE
    when: When = When.PRESENT
    degree: Degree = Degree.PLAIN


Option = Mapping[str, int]


@dataclass(frozen=True)
class Block:
    """A product of slot options under one template and verb."""

    fixed: Option
    factors: tuple[tuple[Option, ...], ...]
    size: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", prod(len(options) for options in self.factors))


class TemplateSpace:
    """All meanings of one template: topics x rest.

    Args:
        template: The template.
        weight: Its share in mixed text.
        topic_slot: "subject" or "place".
        num_topics: Number of persons or places in the lexicon.
        blocks: What `rest` counts through; the same for every topic.
    """

    def __init__(
        self,
        template: Template,
        weight: int,
        topic_slot: str,
        num_topics: int,
        blocks: Iterable[Block],
    ) -> None:
        self.template = template
        self.weight = weight
        self.topic_slot = topic_slot
        self.num_topics = num_topics
        self._blocks = [block for block in blocks if block.size]
        self._starts = [0, *accumulate(block.size for block in self._blocks)]
        self.size = self._starts.pop()  # meanings per topic
        self.held_out = self.size // HELD_OUT_ONE_IN  # per topic
        self.train = self.size - self.held_out  # per topic
        self._split = [
            Permutation(self.size, "held-out", int(template), topic) for topic in range(num_topics)
        ]

    def train_meaning(self, topic: int, index: int) -> Meaning:
        """The index-th meaning of [0, train) about this topic."""
        return self._decode(topic, self._split[topic](self.held_out + index))

    def held_out_meaning(self, topic: int, index: int) -> Meaning:
        """The index-th meaning of [0, held_out) about this topic."""
        if index >= self.held_out:
            raise IndexError(f"{index} is outside [0, {self.held_out})")
        return self._decode(topic, self._split[topic](index))

    def _decode(self, topic: int, rest: int) -> Meaning:
        at = bisect_right(self._starts, rest) - 1
        block = self._blocks[at]
        rest -= self._starts[at]
        slots: dict[str, int] = {**block.fixed, self.topic_slot: topic}
        for options in block.factors:
            rest, digit = divmod(rest, len(options))
            slots.update(options[digit])
        offset = slots.get("person", NONE)
        if offset != NONE:  # the k-th person after the subject: never the subject itself
            slots["person"] = (topic + offset) % self.num_topics
        return Meaning(**slots)  # type: ignore[arg-type]


def _noun_options(
    size: LexiconSize,
    nouns: frozenset[str],
    *,
    adjectives: frozenset[str] = frozenset(concepts.ADJECTIVES),
    bare: bool = True,
    suffix: str = "",
) -> tuple[Option, ...]:
    """Every allowed (noun, adjective), and the noun alone if `bare`."""
    options: list[Option] = []
    for n, noun in enumerate(concepts.NOUNS[: size.nouns]):
        if noun not in nouns:
            continue
        if bare:
            options.append({f"noun{suffix}": n, f"adjective{suffix}": NONE})
        for a, adjective in enumerate(concepts.ADJECTIVES[: size.adjectives]):
            if adjective in adjectives and noun in concepts.ADJECTIVE_NOUNS[adjective]:
                options.append({f"noun{suffix}": n, f"adjective{suffix}": a})
    return tuple(options)


def _whens(size: LexiconSize, verb: str) -> tuple[Option, ...]:
    excluded = concepts.VERB_EXCLUDED_WHENS.get(verb, frozenset())
    return tuple({"when": w} for w in list(When)[: size.whens] if w not in excluded)


def _places(size: LexiconSize, verb: str) -> tuple[Option, ...]:
    allowed = concepts.VERB_PLACES.get(verb, frozenset(concepts.PLACES))
    known = enumerate(concepts.PLACES[: size.places])
    return ({"place": NONE}, *({"place": p} for p, place in known if place in allowed))


def _states() -> tuple[Option, ...]:
    return tuple({"when": w} for w in (When.PRESENT, When.YESTERDAY, When.TOMORROW))


def _template_spaces(size: LexiconSize) -> list[TemplateSpace]:
    every_noun = frozenset(concepts.NOUNS)
    all_adjectives = frozenset(concepts.ADJECTIVES)
    numbers: tuple[Option, ...] = ({"subject_plural": False}, {"subject_plural": True})
    described = tuple({"subject_adjective": a} for a in range(size.person_adjectives))
    counts = tuple({"count": c} for c in concepts.COUNTS[: size.counts])
    counts_2 = tuple({"count_2": c} for c in concepts.COUNTS[: size.counts])
    others: tuple[Option, ...] = tuple({"person": k} for k in range(1, size.persons))
    alone: Option = {"person": NONE}
    objects = _noun_options(size, every_noun)

    def space(template: Template, weight: int, topic: str, *blocks: Block) -> TemplateSpace:
        num_topics = size.persons if topic == "subject" else size.places
        return TemplateSpace(template, weight, topic, num_topics, blocks)

    def block(template: Template, *factors: tuple[Option, ...], verb: int = NONE) -> Block:
        return Block({"template": template, "verb": verb}, factors)

    def transitive(subjects: tuple[Option, ...]) -> list[Block]:
        return [
            block(
                Template.TRANSITIVE,
                subjects,
                _noun_options(
                    size,
                    concepts.VERB_NOUNS[verb],
                    adjectives=concepts.VERB_ADJECTIVES.get(verb, all_adjectives),
                ),
                counts,
                _places(size, verb),
                _whens(size, verb),
                verb=v,
            )
            for v, verb in enumerate(concepts.VERBS[: size.verbs])
        ]

    give = [
        block(Template.GIVE, numbers, objects, counts, others, _whens(size, verb), verb=v)
        for v, verb in enumerate(concepts.GIVE_VERBS[: size.give_verbs])
    ]
    go = block(Template.GO, numbers, (alone, *others), _places(size, "go")[1:], _whens(size, "go"))
    person_object = [
        block(
            Template.PERSON_OBJECT, numbers, others, _places(size, verb), _whens(size, verb), verb=v
        )
        for v, verb in enumerate(concepts.PERSON_VERBS[: size.person_verbs])
    ]
    possessed = _possessed_blocks(size)
    degrees = tuple({"degree": d} for d in Degree)
    person_is = block(Template.PERSON_IS, described, degrees)
    person_at = block(Template.PERSON_AT, numbers, _places(size, "be")[1:], _states())
    animals = _noun_options(size, concepts.ANIMALS)
    things = _noun_options(size, every_noun - concepts.ANIMALS, suffix="_2")
    return [
        # One space a verb: by its number of objects "eat" would be drowned by "see".
        *(
            space(Template.TRANSITIVE, max(1, 12 // size.verbs), "subject", verb_block)
            for verb_block in transitive(numbers)
        ),
        space(Template.TRANSITIVE, 4, "subject", *transitive(described)),
        space(Template.HAVE, 3, "subject", block(Template.HAVE, numbers, objects, counts)),
        space(Template.GIVE, 4, "subject", *give),
        space(Template.GO, 3, "subject", go),
        space(Template.PERSON_OBJECT, 3, "subject", *person_object),
        space(Template.POSSESSED_IS, 2, "subject", *possessed),
        space(Template.PERSON_IS, 1, "subject", person_is),
        space(Template.PERSON_AT, 1, "subject", person_at),
        space(Template.EXISTS, 2, "place", block(Template.EXISTS, objects, counts, _states())),
        space(
            Template.EXIST_TWO,
            1,
            "place",
            block(Template.EXIST_TWO, animals, counts[1:], things, counts_2),
        ),
        space(Template.IS_AT, 1, "place", block(Template.IS_AT, objects, _states())),
    ]


def _possessed_blocks(size: LexiconSize) -> list[Block]:
    """Colours are not graded: "very red" is no use of the word in half of the languages."""
    fixed = {"template": Template.POSSESSED_IS}
    options = _noun_options(size, frozenset(concepts.NOUNS), bare=False)
    colours = frozenset(map(concepts.ADJECTIVES.index, "red white black green blue".split()))
    coloured = tuple(o for o in options if o["adjective"] in colours)
    graded = tuple(o for o in options if o["adjective"] not in colours)
    plain_or_not = ({"degree": Degree.PLAIN}, {"degree": Degree.NOT})
    return [
        Block(fixed, (coloured, plain_or_not)),
        Block(fixed, (graded, tuple({"degree": d} for d in Degree))),
    ]


@cache
def template_spaces(lexicon: str) -> tuple[TemplateSpace, ...]:
    """The templates of a lexicon ("small" or "full") with all their meanings."""
    return tuple(_template_spaces(concepts.LEXICONS[lexicon]))
