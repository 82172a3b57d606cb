"""Cuts the stream of encoded documents of one language and split into shards.

A shard is the longest run of documents with at most `shard_tokens` tokens. Its marker says where
the next one begins, so that an interrupted build continues there and makes the same shards.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megaxlm.data.shards import ShardInfo, Split, file_xxh3, write_atomically
from megaxlm.data.special_tokens import UNK
from megaxlm_data.writers.shards import EncodedSide, write_shard

Position = tuple[int, int]  # block of the group, row in the block


@dataclass(frozen=True)
class EncodedRows:
    """Encoded documents of a block that belong to one split."""

    block: int
    rows: npt.NDArray[np.int64]  # (documents,) their places in the block
    doc_ids: npt.NDArray[np.uint64]  # (documents,)
    sides: tuple[EncodedSide, ...]
    chars: tuple[npt.NDArray[np.uint32], ...]  # (documents,) for each side
    words: tuple[npt.NDArray[np.uint32], ...]  # (documents,) separated by white space

    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """Tokens of each document, all sides together."""
        total: npt.NDArray[np.int64] = np.sum([s.lengths for s in self.sides], axis=0)
        return total

    def slice(self, start: int, stop: int) -> EncodedRows:
        """Returns documents [start, stop)."""
        part = slice(start, stop)
        sides = []
        for side in self.sides:
            ends = np.cumsum(side.lengths)
            first = int(ends[start - 1]) if start else 0
            last = int(ends[stop - 1]) if stop else 0
            sides.append(
                EncodedSide(side.values[first:last], side.lengths[part], side.text_bytes[part])
            )
        return EncodedRows(
            self.block,
            self.rows[part],
            self.doc_ids[part],
            tuple(sides),
            tuple(chars[part] for chars in self.chars),
            tuple(words[part] for words in self.words),
        )

    def where(self, chosen: npt.NDArray[np.bool_]) -> EncodedRows:
        """Returns the documents that a mask chooses, (documents,)."""
        return EncodedRows(
            self.block,
            self.rows[chosen],
            self.doc_ids[chosen],
            tuple(
                EncodedSide(
                    side.values[np.repeat(chosen, side.lengths)],
                    side.lengths[chosen],
                    side.text_bytes[chosen],
                )
                for side in self.sides
            ),
            tuple(chars[chosen] for chars in self.chars),
            tuple(words[chosen] for words in self.words),
        )


@dataclass(frozen=True)
class CountedShard:
    """A finished shard and, for each language, what was counted in it."""

    info: ShardInfo
    counts: dict[str, dict[str, int]]


class BackgroundWriter:
    """Runs jobs in order in one thread, so that encoding goes on while a shard is synced.

    At most one job waits or runs when `__call__` returns, which bounds the memory they hold.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._job: Future[None] | None = None

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.shutdown()

    def __call__(self, job: Callable[[], None]) -> None:
        """Waits for the job before, raises what it raised, and starts this one."""
        self.wait()
        self._job = self._thread.submit(job)

    def wait(self) -> None:
        """Waits for the last job and raises what it raised."""
        job, self._job = self._job, None
        if job is not None:
            job.result()


def _at_once(job: Callable[[], None]) -> None:
    job()


@dataclass
class Assembler:
    """Collects the documents of one subset and writes its shards.

    Attributes:
        run: What runs the writing of a shard, in order.
        prefix: Of the names of shards, which are numbers.
        shards: What is finished.
        next: Where the first document that is in no finished shard stands.
    """

    directory: Path  # the data set
    markers: Path
    split: Split
    langs: tuple[str, ...]
    shard_tokens: int
    byte_pieces: npt.NDArray[np.bool_]  # (vocabulary,) which ids are bytes of byte fallback
    run: Callable[[Callable[[], None]], None] = _at_once
    prefix: str = ""
    shards: list[CountedShard] = field(default_factory=list)
    next: Position = (0, 0)
    _held: list[EncodedRows] = field(default_factory=list)
    _tokens: int = 0
    _flushed: int = 0

    def resume(self) -> bool:
        """Takes over the finished shards of an interrupted build.

        Returns:
            False if a shard that its marker calls finished is missing or altered; that shard and
            the ones after it will be made again.
        """
        self.collect()
        for number, shard in enumerate(self.shards):
            path = self.directory / shard.info.path
            if not path.exists() or file_xxh3(path) != shard.info.xxh3:
                for stale in range(number, len(self.shards)):
                    self._marker(stale).unlink()
                self.collect()
                return False
        return True

    def collect(self) -> None:
        """Takes over what markers call finished, without a look at the shards themselves."""
        self.shards, self.next = [], (0, 0)
        while (marker := self._marker(len(self.shards))).exists():
            content: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
            self.shards.append(CountedShard(ShardInfo(**content["info"]), content["counts"]))
            self.next = tuple(content["next"])
        self._flushed = len(self.shards)

    def has_files(self) -> bool:
        """Returns whether the files of the shards are there, by their sizes."""
        paths = [(self.directory / shard.info.path, shard.info.size) for shard in self.shards]
        return all(path.exists() and path.stat().st_size == size for path, size in paths)

    def add(self, encoded: EncodedRows) -> None:
        """Takes the next documents; writes every shard that they fill."""
        while len(encoded.rows):
            room = self.shard_tokens - self._tokens
            ends = np.cumsum(encoded.tokens)
            fits = int(np.searchsorted(ends, room, side="right"))
            if fits == 0 and not self._held:
                fits = 1  # a document longer than a shard has one of its own
            if fits:
                whole = fits == len(encoded.rows)
                self._held.append(encoded if whole else encoded.slice(0, fits))
                self._tokens += int(ends[fits - 1])
                if whole:
                    return
            encoded = encoded.slice(fits, len(encoded.rows))
            self._flush((encoded.block, int(encoded.rows[0])))

    def finish(self, num_blocks: int) -> None:
        """Writes the last shard of the subset."""
        if self._held:
            self._flush((num_blocks, 0))

    def _flush(self, position: Position) -> None:
        held, self._held, self._tokens = self._held, [], 0
        number, self._flushed = self._flushed, self._flushed + 1
        self.run(lambda: self._write(number, held, position))

    def _write(self, number: int, held: list[EncodedRows], position: Position) -> None:
        sides = [
            EncodedSide(
                np.concatenate([part.sides[side].values for part in held]),
                np.concatenate([part.sides[side].lengths for part in held]),
                np.concatenate([part.sides[side].text_bytes for part in held]),
            )
            for side in range(len(self.langs))
        ]
        path = f"{self.split}/{'-'.join(self.langs)}/{self.prefix}{number:05d}.arrow"
        doc_ids = np.concatenate([part.doc_ids for part in held])
        info = write_shard(self.directory, path, sides, doc_ids)
        counts = {
            lang: {
                "documents": len(doc_ids),
                "tokens": len(side.values),
                "text_bytes": int(side.text_bytes.sum(dtype=np.int64)),
                "chars": sum(int(part.chars[index].sum(dtype=np.int64)) for part in held),
                "words": sum(int(part.words[index].sum(dtype=np.int64)) for part in held),
                "unknown": int(np.count_nonzero(side.values == UNK)),
                "byte_fallback": int(np.count_nonzero(self.byte_pieces[side.values])),
            }
            for index, (lang, side) in enumerate(zip(self.langs, sides, strict=True))
        }
        content = {"info": asdict(info), "counts": counts, "next": position}
        self.markers.mkdir(parents=True, exist_ok=True)
        write_atomically(self._marker(number), json.dumps(content).encode())
        self.shards.append(CountedShard(info, counts))
        self.next = position

    def _marker(self, number: int) -> Path:
        return self.markers / f"{self.split}-{number:05d}.json"
