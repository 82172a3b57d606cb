"""Stage 8: clean text to shards of tokens. Workers encode blocks, this process writes in order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.data.shards import SPLITS, Split
from megaxlm.data.tokenizer import Tokenizer
from megaxlm_data.progress import Progress
from megaxlm_data.stages.clean import CleanReport
from megaxlm_data.stages.plan import Group, Plan, digest_of
from megaxlm_data.stages.select import Block, Selection, blocks_of, is_validation
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

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class EncodeTask:
    """A block to encode."""

    group: int  # its place in the plan
    index: int  # of the block in its group
    block: Block
    keep: npt.NDArray[np.bool_]  # (rows,) what deduplication left
    validation_below: int
    first: dict[Split, Position]  # documents before are in finished shards
    model: Path


@dataclass
class _GroupWork:
    """A group, its blocks and its shards."""

    group: Group
    blocks: list[Block]
    selection: Selection
    assemblers: dict[Split, Assembler]

    def first_positions(self) -> dict[Split, Position]:
        """Returns where each split goes on."""
        first = {split: assembler.next for split, assembler in self.assemblers.items()}
        if not self.selection.validation_below:
            first["validation"] = (len(self.blocks), 0)
        return first

    def bytes_left(self, reports: dict[str, CleanReport]) -> int:
        """Returns about how much text will be read, as if all blocks were of one size."""
        size = sum(reports[unit.digest].text_bytes for unit in self.group.units)
        return size * (len(self.blocks) - self.first_block()) // len(self.blocks)

    def first_block(self) -> int:
        """Returns the first block that is not in finished shards whole."""
        return min(block for block, _ in self.first_positions().values())

    def tasks(self, number: int, model: Path) -> Iterator[EncodeTask]:
        """Yields what is left to encode; `number` is that of the group in the plan."""
        first = self.first_positions()
        for index in range(self.first_block(), len(self.blocks)):
            block = self.blocks[index]
            keep, below = self.selection.rows(block), self.selection.validation_below
            yield EncodeTask(number, index, block, keep, below, first, model)

    def finish(self) -> None:
        """Writes the last shard of each split."""
        for assembler in self.assemblers.values():
            assembler.finish(len(self.blocks))


def encode(
    plan: Plan,
    config: DataBuildConfig,
    selections: dict[str, Selection],
    reports: dict[str, CleanReport],
    cleaned: Path,
    folder: Path,
    tokenizer: Tokenizer,
    pool: WorkerPool,
    progress: Progress,
) -> dict[tuple[str, Split], list[CountedShard]]:
    """Encodes what is not encoded yet.

    Args:
        plan: The groups, in order.
        config: The build's config.
        selections: Which documents stay, by group name.
        reports: What cleaning left, by unit digest.
        cleaned: The folder of clean text.
        folder: For the markers of finished shards.
        tokenizer: That of the data set.
        pool: Where blocks are encoded.
        progress: Where the bar is shown.

    Returns:
        The shards of every group and split, in order, with their counts.
    """
    pieces = (tokenizer.piece(token) for token in range(tokenizer.vocab_size))
    byte_pieces = np.array([bool(_BYTE_PIECE.fullmatch(piece)) for piece in pieces])
    writer = BackgroundWriter()
    work = []
    for group in plan.groups:
        selection = selections[group.name]
        digest = digest_of([selection.digest, tokenizer.sha256, config.shard_tokens])
        assemblers = {
            split: Assembler(
                directory=config.output,
                markers=folder / f"{group.name}.{digest}",
                split=split,
                langs=group.langs,
                shard_tokens=config.shard_tokens,
                byte_pieces=byte_pieces,
                run=writer,
            )
            for split in SPLITS
        }
        blocks = list(blocks_of(group, reports, cleaned))
        work.append(_GroupWork(group, blocks, selection, assemblers))
    _resume(work, progress)

    model = tokenizer.model_path
    # a group's tasks are made before its first block comes back: they see where it stood at first
    tasks = chain.from_iterable([each.tasks(number, model) for number, each in enumerate(work)])
    total = sum(each.bytes_left(reports) for each in work)
    with writer, progress.bar("encode", total, "B") as bar:
        current = 0
        for task, rows in pool.map(encode_block, tasks, "tasks", bar.update):
            while current < task.group:
                work[current].finish()
                current += 1
            for split in SPLITS:
                work[current].assemblers[split].add(rows[split])
        for each in work[current:]:
            each.finish()
        writer.wait()
    return {
        (each.group.name, split): assembler.shards
        for each in work
        for split, assembler in each.assemblers.items()
    }


def _resume(work: list[_GroupWork], progress: Progress) -> None:
    shards = 0
    for each in work:
        for split, assembler in each.assemblers.items():
            if not assembler.resume():
                progress.warn(
                    f"{split}/{each.group.name}: a finished shard of the interrupted build is "
                    "missing or altered; it is made again"
                )
            shards += len(assembler.shards)
    if shards:
        progress.say(f"encode: {shards} shards are already done")


@lru_cache(maxsize=1)
def _tokenizer(model: Path, modified_ns: int) -> Tokenizer:
    return Tokenizer(model)


def encode_block(task: EncodeTask) -> dict[Split, EncodedRows]:
    """Encodes the rows of a block that are in no finished shard; runs in a worker."""
    ids, _, sizes = open_cleaned(task.block.path, False).numbers(task.block.number)
    wanted = task.keep & _not_before(task, is_validation(ids, task.validation_below), len(ids))
    texts: list[list[str]] = [[] for _ in sizes]
    if wanted.any():
        texts = open_cleaned(task.block.path, True).texts(task.block.number, wanted)
    rows, doc_ids = np.flatnonzero(wanted), ids[wanted]
    validation = is_validation(doc_ids, task.validation_below)
    tokenizer = _tokenizer(task.model, task.model.stat().st_mtime_ns)
    sides, chars, words = [], [], []
    for side_texts, size in zip(texts, sizes, strict=True):
        joined = [text.replace("\n", " ") for text in side_texts]
        values, offsets = tokenizer.encode_flat(joined)
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
