"""Stage 5: clean text to shards of tokens. Workers encode blocks, this process writes in order.

A large group is cut into segments of about a gigabyte, each with shards of its own, so that ranks
can share it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.data.shards import SPLITS, Split, write_atomically
from megaxlm.data.tokenizer import Tokenizer
from megaxlm_data.crew import Crew
from megaxlm_data.progress import Progress
from megaxlm_data.stages.clean import CleanReport
from megaxlm_data.stages.plan import DIGEST_CHARS, Group, Plan, digest_of
from megaxlm_data.stages.select import Block, Selection, blocks_of, is_validation
from megaxlm_data.tokenizer.encoder import Encoder, make_encoder
from megaxlm_data.workers import WorkerPool, advance
from megaxlm_data.writers.assembler import (
    Assembler,
    BackgroundWriter,
    CountedShard,
    EncodedRows,
    Position,
)
from megaxlm_data.writers.cleaned import open_cleaned
from megaxlm_data.writers.shards import EncodedSide

SEGMENT_BLOCKS = 1024
_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class EncodeTask:
    """A block to encode."""

    segment: int  # its place among those made here
    index: int  # of the block in its segment
    block: Block
    keep: npt.NDArray[np.bool_]  # (rows,) what deduplication left
    validation_below: int
    first: dict[Split, Position]  # documents before are in finished shards
    model: Path


@dataclass
class _Segment:
    """A run of a group's blocks and its shards, which one rank makes."""

    group: Group
    blocks: list[Block]
    selection: Selection
    assemblers: dict[Split, Assembler]
    done: Path  # a marker: all its shards are finished
    text_bytes: int

    def first_positions(self) -> dict[Split, Position]:
        """Returns where each split goes on."""
        first = {split: assembler.next for split, assembler in self.assemblers.items()}
        if not self.selection.validation_below:
            first["validation"] = (len(self.blocks), 0)
        return first

    def bytes_left(self) -> int:
        """Returns about how much text will be read, as if all blocks were of one size."""
        return self.text_bytes * (len(self.blocks) - self.first_block()) // len(self.blocks)

    def first_block(self) -> int:
        """Returns the first block that is not in finished shards whole."""
        if self.done.exists():
            return len(self.blocks)
        return min(block for block, _ in self.first_positions().values())

    def tasks(self, number: int, model: Path) -> Iterator[EncodeTask]:
        """Yields what is left to encode; `number` is that of the segment among those made here."""
        first = self.first_positions()
        for index in range(self.first_block(), len(self.blocks)):
            block = self.blocks[index]
            keep, below = self.selection.rows(block), self.selection.validation_below
            yield EncodeTask(number, index, block, keep, below, first, model)

    def finish(self, run: Callable[[Callable[[], None]], None]) -> None:
        """Writes the last shard of each split, and by `run`, after them, the marker."""
        if self.done.exists():
            return
        for assembler in self.assemblers.values():
            assembler.finish(len(self.blocks))
        self.done.parent.mkdir(parents=True, exist_ok=True)

        run(lambda: write_atomically(self.done, json.dumps(self._counts()).encode()))

    def is_whole(self) -> bool:
        """Returns whether the shards that the assemblers know of are all there will be."""
        try:
            return bool(json.loads(self.done.read_text(encoding="utf-8")) == self._counts())
        except FileNotFoundError:
            return False

    def collect(self) -> bool:
        """Takes over what another rank made; False while that is not whole, or lost again."""
        try:
            for assembler in self.assemblers.values():
                assembler.collect()
                if not assembler.has_files():
                    return False
        except FileNotFoundError:  # a marker that the other rank removes just now
            return False
        return self.is_whole()

    def _counts(self) -> dict[str, int]:
        return {split: len(each.shards) for split, each in self.assemblers.items()}


def encode(
    plan: Plan,
    config: DataBuildConfig,
    selections: dict[str, Selection],
    reports: dict[str, CleanReport],
    cleaned: Path,
    folder: Path,
    tokenizer: Tokenizer,
    pool: WorkerPool,
    crew: Crew,
    progress: Progress,
) -> dict[tuple[str, Split], list[CountedShard]]:
    """Encodes what is not encoded yet, of the segments that fall to this rank.

    Args:
        plan: The groups, in order.
        config: The build's config.
        selections: Which documents stay, by group name.
        reports: What cleaning left, by unit digest.
        cleaned: The folder of clean text.
        folder: For the markers of finished shards.
        tokenizer: That of the data set.
        pool: Where blocks are encoded.
        crew: The ranks that share the segments.
        progress: Where the bar is shown.

    Returns:
        The shards of every group and split, in order, with their counts; nothing on a rank that
        does not lead.
    """
    segments = _segments(
        plan, config, selections, reports, cleaned, folder, tokenizer, writer := BackgroundWriter()
    )
    mine = crew.mine([segment.text_bytes for segment in segments])
    work = [segment for segment, is_mine in zip(segments, mine, strict=True) if is_mine]
    _resume(work, progress)

    model = tokenizer.model_path
    # a segment's tasks are made before its first block comes back: they see where it stood at first
    tasks = chain.from_iterable([each.tasks(number, model) for number, each in enumerate(work)])
    total = sum(each.bytes_left() for each in work)
    if total:
        # made before any worker asks for it: what has to be compiled or said is so once
        progress.say(f"encode: {_encoder_of(model).description}")
    with writer, progress.bar("encode", total, "B") as bar:
        current = 0
        for task, rows in pool.map(encode_block, tasks, "tasks", bar.update):
            while current < task.segment:
                work[current].finish(writer)
                current += 1
            for split in SPLITS:
                work[current].assemblers[split].add(rows[split])
        for each in work[current:]:
            each.finish(writer)
        writer.wait()
    if not crew.leads:
        return {}
    others = [segment for segment, is_mine in zip(segments, mine, strict=True) if not is_mine]

    def missing() -> list[_Segment]:
        others[:] = [each for each in others if not each.collect()]
        return others

    crew.wait("encode", missing)
    shards: dict[tuple[str, Split], list[CountedShard]] = {}
    for each in segments:
        for split, assembler in each.assemblers.items():
            shards.setdefault((each.group.name, split), []).extend(assembler.shards)
    return shards


def tidy(
    config: DataBuildConfig,
    selections: dict[str, Selection],
    tokenizer: Tokenizer,
    folder: Path,
) -> None:
    """Removes markers of another config, whose shards are overwritten by those of this one.

    For one rank, before any encodes: it is the owner of a segment alone that looks into its shards.
    """
    wanted = {_digest(selection, tokenizer, config) for selection in selections.values()}
    for path in folder.glob("*"):
        if path.name[-DIGEST_CHARS:] not in wanted:
            shutil.rmtree(path)


def _digest(selection: Selection, tokenizer: Tokenizer, config: DataBuildConfig) -> str:
    return digest_of([selection.digest, tokenizer.sha256, config.shard_tokens])


def _segments(
    plan: Plan,
    config: DataBuildConfig,
    selections: dict[str, Selection],
    reports: dict[str, CleanReport],
    cleaned: Path,
    folder: Path,
    tokenizer: Tokenizer,
    writer: BackgroundWriter,
) -> list[_Segment]:
    pieces = (tokenizer.piece(token) for token in range(tokenizer.vocab_size))
    byte_pieces = np.array([bool(_BYTE_PIECE.fullmatch(piece)) for piece in pieces])
    segments = []
    for group in plan.groups:
        selection = selections[group.name]
        digest = _digest(selection, tokenizer, config)
        blocks = list(blocks_of(group, reports, cleaned))
        size = sum(reports[unit.digest].text_bytes for unit in group.units)
        for start in range(0, len(blocks), SEGMENT_BLOCKS):
            part = blocks[start : start + SEGMENT_BLOCKS]
            # Most groups are one segment, whose shards have plain numbers.
            prefix = f"{start // SEGMENT_BLOCKS:05d}-" if len(blocks) > SEGMENT_BLOCKS else ""
            markers = folder / f"{group.name}.{prefix}{digest}"
            assemblers = {
                split: Assembler(
                    directory=config.output,
                    markers=markers,
                    split=split,
                    langs=group.langs,
                    shard_tokens=config.shard_tokens,
                    byte_pieces=byte_pieces,
                    run=writer,
                    prefix=prefix,
                )
                for split in SPLITS
            }
            text_bytes = size * len(part) // len(blocks)
            done = markers / "done"
            segments.append(_Segment(group, part, selection, assemblers, done, text_bytes))
    return segments


def _resume(work: list[_Segment], progress: Progress) -> None:
    shards = 0
    for each in work:
        for split, assembler in each.assemblers.items():
            if not assembler.resume():
                progress.warn(
                    f"{split}/{each.group.name}: a finished shard of the interrupted build is "
                    "missing or altered; it is made again"
                )
            shards += len(assembler.shards)
        if not each.is_whole():  # killed while it removed the markers of altered shards
            each.done.unlink(missing_ok=True)
    if shards:
        progress.say(f"encode: {shards} shards are already done")


@lru_cache(maxsize=1)
def _encoder(model: Path, modified_ns: int) -> Encoder:
    return make_encoder(Tokenizer(model))


def _encoder_of(model: Path) -> Encoder:
    """Returns the encoder of a file, made once in a process as long as the file stays the same."""
    return _encoder(model, model.stat().st_mtime_ns)


def encode_block(task: EncodeTask) -> dict[Split, EncodedRows]:
    """Encodes the rows of a block that are in no finished shard; runs in a worker."""
    ids, _, sizes = open_cleaned(task.block.path, False).numbers(task.block.number)
    wanted = task.keep & _not_before(task, is_validation(ids, task.validation_below), len(ids))
    texts: list[list[str]] = [[] for _ in sizes]
    if wanted.any():
        texts = open_cleaned(task.block.path, True).texts(task.block.number, wanted)
    rows, doc_ids = np.flatnonzero(wanted), ids[wanted]
    validation = is_validation(doc_ids, task.validation_below)
    encoder = _encoder_of(task.model)
    sides, chars, words = [], [], []
    for side_texts, size in zip(texts, sizes, strict=True):
        joined = [text.replace("\n", " ") for text in side_texts]
        values, offsets = encoder.encode_flat(joined)
        sides.append(EncodedSide(values, np.diff(offsets), size[wanted]))
        chars.append(np.fromiter(map(len, joined), np.uint32, len(joined)))
        words.append(np.fromiter((t.count(" ") + 1 for t in joined), np.uint32, len(joined)))
    advance(int(sum(int(size.sum(dtype=np.int64)) for size in sizes)))
    encoded = EncodedRows(task.index, rows, doc_ids, tuple(sides), tuple(chars), tuple(words))
    if not validation.any():
        return {"train": encoded, "validation": encoded.slice(0, 0)}
    return {"train": encoded.where(~validation), "validation": encoded.where(validation)}


def _not_before(
    task: EncodeTask, validation: npt.NDArray[np.bool_], rows: int
) -> npt.NDArray[np.bool_]:
    """Returns which rows come at or after the place where their split goes on."""
    starts = {
        split: 0 if task.index > block else row if task.index == block else rows
        for split, (block, row) in task.first.items()
    }
    first = np.where(validation, starts["validation"], starts["train"])
    result: npt.NDArray[np.bool_] = np.arange(rows) >= first
    return result
