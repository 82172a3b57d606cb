"""The index of what must not be in training text, made once for a build and shared by its workers.

`keys.npy` holds the sorted hashes, `items.npy` the item of each, `bits.npy` the bitmap, `lines.npy`
the line of each item; `index.json`, written last, says what they were made of. A hash that many
items share stands once for each evaluation set, with the first item in the order of the config. The
workers map the files: one copy in memory, however many they are.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megaxlm.config.data_decontamination import DecontaminationConfig
from megaxlm.data.shards import write_atomically
from megaxlm.errors import UserError
from megaxlm_data.decontamination.items import content_hash, files_of, read_items
from megaxlm_data.decontamination.search import Lengths, Searcher, make_bitmap
from megaxlm_data.decontamination.spans import (
    WAYS,
    Hashes,
    Reading,
    Spans,
    fold,
    read_characters,
    read_words,
    reading_of,
)
from megaxlm_data.progress import Progress
from megaxlm_data.writers.atomic import atomic_file

INDEX_VERSION = 1  # raised when the hashes change
_MARKER = "index.json"
_BATCH_CHARS = 1 << 20  # hashed at once
_READ = {"words": read_words, "characters": read_characters}


@dataclass
class SetSummary:
    """What an evaluation set gave."""

    name: str
    files: list[str] = field(default_factory=list)
    file_items: list[int] = field(default_factory=list)  # the number of the first item of each
    items: int = 0
    too_short: int = 0  # not looked for
    whole: int = 0  # looked for as a whole sentence or line
    ngrams: int = 0  # different ones, shorter items included


@dataclass(frozen=True)
class Overlap:
    """A part of a text that is also in an evaluation set.

    Attributes:
        evaluation_set: The name of the set.
        item: Where it is there, `file:line`.
        first: Where it begins in the folded text.
        last: Where it ends, exclusive.
    """

    evaluation_set: str
    item: str
    first: int
    last: int


def decontamination_key(config: DecontaminationConfig) -> list[Any] | None:
    """Returns what the outcome depends on: the settings and what is in the files; None if off.

    Raises:
        UserError: A file is missing or unreadable.
    """
    if not config.evaluation_sets:
        return None
    contents = [
        [[str(path), _cached_hash(path)] for path in files_of(each, _where(number))]
        for number, each in enumerate(config.evaluation_sets)
    ]
    return [INDEX_VERSION, config.model_dump(mode="json"), contents]


def ngrams_of(config: DecontaminationConfig) -> dict[Reading, int]:
    """Returns the length of n-grams in each way of reading."""
    return {
        "words": config.ngram_words,
        "ideographs": config.ngram_chars,
        "syllables": config.ngram_letters,
    }


def _where(number: int) -> str:
    return f"decontamination.evaluation_sets.{number}"


def _cached_hash(path: Path) -> str:
    facts = path.stat()
    return _hash_of(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=1 << 14)
def _hash_of(path: Path, size: int, mtime_ns: int) -> str:
    return content_hash(path)


def prepare(config: DecontaminationConfig, folder: Path, progress: Progress) -> None:
    """Makes the index unless it is there; there is none if no evaluation set is named.

    Raises:
        UserError: A file is missing, damaged or without anything to look for.
    """
    key = decontamination_key(config)
    if key is None:
        shutil.rmtree(folder, ignore_errors=True)  # of an interrupted build with another config
        return
    if _content(folder).get("key") == json.loads(json.dumps(key)):
        return
    progress.say(f"decontamination: reading {len(config.evaluation_sets)} evaluation sets")
    folder.mkdir(parents=True, exist_ok=True)
    builder = _Builder(config)
    for number, evaluation_set in enumerate(config.evaluation_sets):
        builder.begin(evaluation_set.name)
        for path in files_of(evaluation_set, _where(number)):
            builder.begin_file(path)
            for item in read_items(evaluation_set, path):
                builder.add(item.text, item.line)
        summary = builder.end()
        if summary.items == summary.too_short:
            raise UserError(
                f"{_where(number)} ({summary.name}): nothing to look for in "
                f"{', '.join(summary.files[:3])}: {summary.items} items, all under min_words, "
                "min_chars or min_letters; correct `paths`, or lower those"
            )
    builder.write(folder, key)


class _Builder:
    """Collects the hashes of evaluation sets, many items at a time."""

    def __init__(self, config: DecontaminationConfig) -> None:
        self._least: dict[Reading, int] = {
            "words": config.min_words,
            "ideographs": config.min_chars,
            "syllables": config.min_letters,
        }
        self._ngrams = ngrams_of(config)
        self._sets: list[SetSummary] = []
        self._keys: list[Hashes] = []  # of each set, unique
        self._items: list[npt.NDArray[np.uint32]] = []
        self._lines: list[int] = []
        self._lengths: dict[Reading, set[int]] = {}  # of the readings that items have
        self._waiting: dict[Reading, list[tuple[int, str]]] = {}
        self._waiting_chars = 0
        self._new: list[tuple[Hashes, npt.NDArray[np.uint32]]] = []

    def begin(self, name: str) -> None:
        self._sets.append(SetSummary(name))
        self._new = []

    def begin_file(self, path: Path) -> None:
        self._sets[-1].files.append(str(path))
        self._sets[-1].file_items.append(len(self._lines))

    def add(self, text: str, line: int) -> None:
        folded = fold(text).replace("\n", " ")
        reading = reading_of(folded)
        self._waiting.setdefault(reading, []).append((len(self._lines), folded))
        self._lines.append(line)
        self._waiting_chars += len(folded)
        if self._waiting_chars > _BATCH_CHARS:
            self._hash_waiting()

    def _hash_waiting(self) -> None:
        for reading, waiting in self._waiting.items():
            numbers = np.array([number for number, _ in waiting], np.uint32)
            self._hash(reading, numbers, [folded for _, folded in waiting])
        self._waiting.clear()
        self._waiting_chars = 0

    def _hash(self, reading: Reading, numbers: npt.NDArray[np.uint32], texts: list[str]) -> None:
        """Hashes the n-grams of the longer texts and the whole of the shorter ones."""
        summary, least, ngram = self._sets[-1], self._least[reading], self._ngrams[reading]
        lengths = self._lengths.setdefault(reading, set())
        tokens = _READ[WAYS[reading]]("\n".join(texts))
        spans = Spans(tokens)
        ends = np.cumsum([len(text) + 1 for text in texts])  # of each text, in characters
        owner = np.searchsorted(ends, tokens.first, side="right")  # the text of each token
        sizes = np.bincount(owner, minlength=len(texts))
        begins = np.cumsum(sizes) - sizes
        summary.items += int(np.count_nonzero(sizes))
        summary.too_short += int(np.count_nonzero((sizes > 0) & (sizes < least)))
        whole = np.flatnonzero((sizes >= least) & (sizes < ngram))
        summary.whole += len(whole)
        for length in np.unique(sizes[whole]).tolist():
            lengths.add(length)
            mine = whole[sizes[whole] == length]
            self._new.append((spans.hashes(begins[mine], length), numbers[mine]))
        starts = np.arange(len(tokens) - ngram + 1)
        starts = starts[owner[starts] == owner[starts + ngram - 1]]
        self._new.append((spans.hashes(starts, ngram), numbers[owner[starts]]))

    def end(self) -> SetSummary:
        """Ends a set: of equal hashes, the one of its first item stays."""
        self._hash_waiting()
        summary = self._sets[-1]
        keys = np.concatenate([keys for keys, _ in self._new] or [np.zeros(0, np.uint64)])
        items = np.concatenate([items for _, items in self._new] or [np.zeros(0, np.uint32)])
        order = np.lexsort((items, keys))
        keys, items = keys[order], items[order]
        first = np.ones(len(keys), np.bool_)
        first[1:] = keys[1:] != keys[:-1]
        self._keys.append(keys[first])
        self._items.append(items[first])
        summary.ngrams = int(np.count_nonzero(first))
        return summary

    def write(self, folder: Path, key: list[Any]) -> None:
        """Writes the arrays, and last what tells that they are whole."""
        (folder / _MARKER).unlink(missing_ok=True)
        keys, items = np.concatenate(self._keys), np.concatenate(self._items)
        order = np.argsort(keys, kind="stable")  # of equal keys, the first set stays first
        keys, items = keys[order], items[order]
        bits, shift = make_bitmap(keys)
        lines = np.array(self._lines, np.int64)
        arrays: dict[str, npt.NDArray[Any]]
        arrays = {"keys": keys, "items": items, "bits": bits, "lines": lines}
        for name, array in arrays.items():
            with atomic_file(folder / f"{name}.npy") as file:
                np.save(file, array)
        content = {
            "key": key,
            "shift": shift,
            "lengths": {name: sorted(self._lengths[name]) for name in sorted(self._lengths)},
            "sets": [asdict(each) for each in self._sets],
        }
        write_atomically(folder / _MARKER, json.dumps(content).encode())


def _content(folder: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        return content
    except FileNotFoundError:
        return {}


def read_summaries(folder: Path) -> list[SetSummary]:
    """Returns what the evaluation sets of an index gave; nothing if there is no index."""
    return [SetSummary(**each) for each in _content(folder).get("sets", [])]


class ContaminationIndex:
    """An index, opened by a worker."""

    def __init__(self, ngrams: dict[Reading, int], folder: Path) -> None:
        content = _content(folder)
        self.sets = read_summaries(folder)
        self._keys = np.load(folder / "keys.npy", mmap_mode="r")
        self._items = np.load(folder / "items.npy", mmap_mode="r")
        self._lines = np.load(folder / "lines.npy", mmap_mode="r")
        bits = np.load(folder / "bits.npy", mmap_mode="r")
        lengths = tuple(
            Lengths(WAYS[reading], ngram, tuple(content["lengths"][reading]))
            for reading, ngram in ngrams.items()
            if reading in content["lengths"]
        )
        self._searcher = Searcher(self._keys, bits, content["shift"], lengths)
        self._places = [
            (first, each.name, file)
            for each in self.sets
            for first, file in zip(each.file_items, each.files, strict=True)
        ]
        self._first_items = np.array([first for first, _, _ in self._places])

    def find(self, folded: str) -> list[Overlap]:
        """Returns the overlaps of a folded text with each set, adjoining ones made one.

        They come in the order of the text, and of one place in the order of the sets.
        """
        spans = self._searcher.find(folded)
        if not len(spans):
            return []
        found: dict[str, list[Overlap]] = {}
        for first, last, place in spans[np.lexsort((spans[:, 1], spans[:, 0]))].tolist():
            key = self._keys[place]
            while place < len(self._keys) and self._keys[place] == key:
                name, item = self._item(int(self._items[place]))
                mine = found.setdefault(name, [])
                if mine and first < mine[-1].last:
                    before = mine.pop()
                    mine.append(Overlap(name, before.item, before.first, max(before.last, last)))
                else:
                    mine.append(Overlap(name, item, first, last))
                place += 1
        order = {each.name: number for number, each in enumerate(self.sets)}
        return sorted(
            (overlap for mine in found.values() for overlap in mine),
            key=lambda overlap: (overlap.first, order[overlap.evaluation_set]),
        )

    def _item(self, item: int) -> tuple[str, str]:
        """Returns the set of an item, and where it is."""
        number = int(np.searchsorted(self._first_items, item, side="right")) - 1
        _, name, file = self._places[number]
        return name, f"{file}:{self._lines[item]}"


def open_index(config: DecontaminationConfig, folder: Path) -> ContaminationIndex:
    """Opens the index that `prepare` made; a process opens it once."""
    facts = (folder / _MARKER).stat()
    ngrams = tuple(ngrams_of(config).items())
    return _opened(ngrams, folder, facts.st_mtime_ns, facts.st_ino)


@lru_cache(maxsize=1)
def _opened(
    ngrams: tuple[tuple[Reading, int], ...], folder: Path, mtime_ns: int, inode: int
) -> ContaminationIndex:
    return ContaminationIndex(dict(ngrams), folder)
