"""The sample corpus: distinct sentences, parallel text, documents and retrieval sets.

Everything is a pure function of (seed, lexicon, index): any sentence is made without those
before it, nothing is remembered, and a corpus of any size takes the memory of one sentence.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path

from megaxlm.errors import UserError

from .concepts import LEXICONS
from .grammar import REALIZERS
from .meanings import Meaning, TemplateSpace, template_spaces
from .permutation import Permutation
from .schedule import Schedule

LANGUAGES: tuple[str, ...] = tuple(REALIZERS)

_LENGTHS = range(4, 13)  # sentences a document; every nine documents of a topic use each once
_SENTENCES_PER_CYCLE = sum(_LENGTHS)

_permutation = lru_cache(maxsize=4096)(Permutation)


class MeaningStream:
    """All training meanings of a lexicon in a random order, then again in another.

    The first `size` meanings are distinct; every further `size` are the same ones reordered.
    """

    def __init__(self, lexicon: str, seed: int) -> None:
        self._spaces = template_spaces(lexicon)
        self._seed = seed
        self._schedule = Schedule(
            [space.weight for space in self._spaces],
            [space.train * space.num_topics for space in self._spaces],
        )
        self.size = self._schedule.size

    def __call__(self, index: int) -> Meaning:
        """The meaning at place `index`, which may be any number from 0."""
        epoch, at = divmod(index, self.size)
        group, rank = self._schedule(at)
        space = self._spaces[group]
        order = _permutation(space.train * space.num_topics, self._seed, "flat", group, epoch)
        topic, rest = divmod(order(rank), space.train)
        return space.train_meaning(topic, rest)


class HeldOutStream:
    """The held-out meanings of a lexicon in a random order; there are `size` of them."""

    def __init__(self, lexicon: str, seed: int) -> None:
        self._spaces = template_spaces(lexicon)
        self._seed = seed
        self._schedule = Schedule(
            [space.weight for space in self._spaces],
            [space.held_out * space.num_topics for space in self._spaces],
        )
        self.size = self._schedule.size

    def __call__(self, index: int) -> Meaning:
        """The meaning at place `index` of [0, size)."""
        group, rank = self._schedule(index)
        space = self._spaces[group]
        order = _permutation(space.held_out * space.num_topics, self._seed, "held-out", group)
        topic, rest = divmod(order(rank), space.held_out)
        return space.held_out_meaning(topic, rest)


@dataclass(frozen=True)
class _Topics:
    """The templates about one kind of topic, and how they mix inside its documents."""

    spaces: tuple[TemplateSpace, ...]
    schedule: Schedule

    @classmethod
    def of(cls, spaces: Iterable[TemplateSpace]) -> "_Topics":
        kept = tuple(spaces)
        return cls(kept, Schedule([s.weight for s in kept], [s.train for s in kept]))


class DocumentStream:
    """Documents of 4 to 12 sentences, each about one person or one place.

    The sentences about a topic are distinct until all of its meanings are used up; after that
    they come again in another order, so there is no last document.

    Args:
        lexicon: "small" or "full".
        seed: Order of topics, lengths and sentences.
        lang: Part of the key: documents of two languages are not translations.
    """

    def __init__(self, lexicon: str, seed: int, lang: str) -> None:
        spaces = template_spaces(lexicon)
        self._persons = _Topics.of(s for s in spaces if s.topic_slot == "subject")
        self._places = _Topics.of(s for s in spaces if s.topic_slot == "place")
        self._num_persons = self._persons.spaces[0].num_topics
        self._num_places = self._places.spaces[0].num_topics
        self._places_per_round = max(1, self._num_persons // 8)
        self._key = (seed, "documents", lang)

    def __call__(self, index: int) -> Iterator[Meaning]:
        """The meanings of document `index`, which may be any number from 0."""
        # A round has one document about every person and a few about places.
        per_round = self._num_persons + self._places_per_round
        round_index, slot = divmod(index, per_round)
        slot = _permutation(per_round, *self._key, "round", round_index)(slot)
        if slot < self._num_persons:
            return self._about(self._persons, "person", slot, round_index)
        turn = round_index * self._places_per_round + slot - self._num_persons
        visit, place = divmod(turn, self._num_places)
        return self._about(self._places, "place", place, visit)

    def _about(self, topics: _Topics, kind: str, topic: int, visit: int) -> Iterator[Meaning]:
        cycle, turn = divmod(visit, len(_LENGTHS))
        order = _permutation(len(_LENGTHS), *self._key, "lengths", kind, topic, cycle)
        lengths = [_LENGTHS[order(k)] for k in range(turn + 1)]
        start = cycle * _SENTENCES_PER_CYCLE + sum(lengths[:-1])
        # Topics enter the schedule at different places, or all would begin with one pattern.
        start += _permutation(_SENTENCES_PER_CYCLE, *self._key, "enter", kind, topic)(0)
        for sentence in range(start, start + lengths[-1]):
            epoch, at = divmod(sentence, topics.schedule.size)
            group, rank = topics.schedule(at)
            space = topics.spaces[group]
            shuffle = _permutation(space.train, *self._key, kind, topic, group, epoch)
            yield space.train_meaning(topic, shuffle(rank))


def _check(languages: Sequence[str], lexicon: str, **counts: int) -> None:
    for lang in languages:
        if lang not in REALIZERS:
            known = ", ".join(LANGUAGES)
            raise UserError(f"sample corpus: unknown language {lang!r}; choose from {known}")
    if len(set(languages)) != len(languages):
        raise UserError(f"sample corpus: a language is named twice in {','.join(languages)}")
    if lexicon not in LEXICONS:
        known = ", ".join(LEXICONS)
        raise UserError(f"sample corpus: unknown lexicon {lexicon!r}; choose from {known}")
    for name, value in counts.items():
        if value < 0:
            raise UserError(f"sample corpus: {name} is {value}; give 0 or more")


def num_sentences(lexicon: str = "full") -> int:
    """How many distinct training sentences a language has, the held-out ones not counted."""
    _check((), lexicon)
    return MeaningStream(lexicon, 0).size


def parallel(
    langs: Sequence[str], count: int, seed: int = 0, lexicon: str = "full", start: int = 0
) -> Iterator[tuple[str, ...]]:
    """The same sentences in several languages.

    Args:
        langs: Language codes of `LANGUAGES`.
        count: Number of sentences. The first `num_sentences(lexicon)` are distinct; what goes
            beyond repeats them in another order.
        seed: Another seed is another order.
        lexicon: "small" (about 50 content words a language) or "full" (about 120).
        start: Number of sentences to skip; costs nothing.

    Yields:
        One sentence per language.

    Raises:
        UserError: Unknown language or lexicon, or a negative number.
    """
    _check(langs, lexicon, count=count, start=start)
    stream = MeaningStream(lexicon, seed)
    realizers = [REALIZERS[lang] for lang in langs]
    return (
        tuple(realize(meaning) for realize in realizers)
        for meaning in map(stream, range(start, start + count))
    )


def sentences(
    lang: str, count: int, seed: int = 0, lexicon: str = "full", start: int = 0
) -> Iterator[str]:
    """`parallel` for one language.

    Raises:
        UserError: Unknown language or lexicon, or a negative number.
    """
    _check([lang], lexicon, count=count, start=start)
    stream = MeaningStream(lexicon, seed)
    return map(REALIZERS[lang], map(stream, range(start, start + count)))


def documents(
    lang: str, count: int, seed: int = 0, lexicon: str = "full"
) -> Iterator[tuple[str, ...]]:
    """Monolingual documents, each a tuple of 4 to 12 sentences about one person or place.

    Raises:
        UserError: Unknown language or lexicon, or a negative number.
    """
    _check([lang], lexicon, count=count)
    stream = DocumentStream(lexicon, seed, lang)
    realize = REALIZERS[lang]
    return (tuple(map(realize, stream(index))) for index in range(count))


def held_out(
    langs: Sequence[str], count: int, seed: int = 0, lexicon: str = "full"
) -> Iterator[tuple[str, ...]]:
    """Distinct parallel sentences that no other function here ever yields, for retrieval.

    Raises:
        UserError: Unknown language or lexicon, a negative count or more than are held out.
    """
    _check(langs, lexicon, retrieval=count)
    stream = HeldOutStream(lexicon, seed)
    if count > stream.size:
        raise UserError(
            f"sample corpus: retrieval is {count}, but the {lexicon} lexicon holds out "
            f"{stream.size} sentences; ask for at most {stream.size}"
        )
    realizers = [REALIZERS[lang] for lang in langs]
    return (tuple(r(meaning) for r in realizers) for meaning in map(stream, range(count)))


def write_corpus(
    out_dir: Path,
    languages: Sequence[str],
    documents: int,
    pairs: int,
    retrieval: int = 200,
    seed: int = 0,
    lexicon: str = "full",
    documents_skew: float = 1.0,
) -> dict[str, object]:
    """Writes a corpus of the kind a user brings: documents, bitext and retrieval sets.

    `mono/<lang>.txt` holds one sentence a line and an empty line between documents;
    `bitext/<a>-<b>.tsv` two columns; `retrieval/<a>-<b>.<a>` and `.<b>` are line-aligned. Files
    are UTF-8 with LF line ends, and appear under their names when they are complete. Two
    language pairs have different bitext; the retrieval sentences are the same in all languages
    and appear nowhere else.

    Args:
        out_dir: Folder to make or fill.
        languages: Codes of `LANGUAGES`; pairs are named in this order.
        documents: Number of documents of the first language.
        pairs: Number of lines of every bitext file.
        retrieval: Number of lines of every retrieval set.
        seed: Another seed is another corpus, but the same sentences are held out.
        lexicon: "small" or "full".
        documents_skew: In (0, 1]; language k has `documents * documents_skew**k` documents, at
            least one.

    Returns:
        What was written: languages, documents and sentences per language, pairs, retrieval.

    Raises:
        UserError: Unknown language or lexicon, a bad number, more retrieval sentences than are
            held out, or a folder that cannot be written to.
    """
    _check(languages, lexicon, documents=documents, pairs=pairs, retrieval=retrieval)
    if not languages:
        raise UserError(f"sample corpus: no languages; choose from {', '.join(LANGUAGES)}")
    if not 0 < documents_skew <= 1:
        raise UserError(f"sample corpus: documents_skew is {documents_skew}; give 0 < skew <= 1")
    held_out_rows = held_out(languages, retrieval, seed, lexicon)
    num_documents: dict[str, int] = {}
    num_lines: dict[str, int] = {}
    for position, lang in enumerate(languages):
        wanted = round(documents * documents_skew**position)
        num_documents[lang] = max(wanted, min(documents, 1))
        num_lines[lang] = _write_documents(
            out_dir / "mono" / f"{lang}.txt", lang, num_documents[lang], seed, lexicon
        )
    columns = list(zip(*held_out_rows, strict=True)) or [()] * len(languages)
    by_lang = dict(zip(languages, columns, strict=True))
    for number, (a, b) in enumerate(combinations(languages, 2)):
        rows = parallel((a, b), pairs, seed, lexicon, start=number * pairs)
        _write_lines(out_dir / "bitext" / f"{a}-{b}.tsv", map("\t".join, rows))
        for lang in (a, b):
            _write_lines(out_dir / "retrieval" / f"{a}-{b}.{lang}", by_lang[lang])
    return {
        "languages": list(languages),
        "lexicon": lexicon,
        "seed": seed,
        "documents": num_documents,
        "sentences": num_lines,
        "pairs": pairs,
        "retrieval": retrieval,
    }


def _write_documents(path: Path, lang: str, count: int, seed: int, lexicon: str) -> int:
    num_sentences = 0

    def lines() -> Iterator[str]:
        nonlocal num_sentences
        for index, document in enumerate(documents(lang, count, seed, lexicon)):
            if index:
                yield ""
            num_sentences += len(document)
            yield from document

    _write_lines(path, lines())
    return num_sentences


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{line}\n" for line in lines)
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise UserError(
            f"sample corpus: cannot write {path}: {error.strerror}; free space there or name "
            "another folder"
        ) from error
