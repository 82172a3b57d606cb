"""Stage 3, last part: which of the documents that deduplication left are validation.

Validation is chosen by content alone: a document belongs to it if its id (a uniform 64-bit hash of
its text) is below a threshold.
The threshold is `validation_fraction` of all ids, lowered for a language or pair whose validation
would pass `max_validation_documents` or half of its text. So within one language or pair the same
text is always on one side; a sentence of a language's validation may still stand in training
bitext, and pairs given as both a-b and b-a may be parted where one of them was capped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.data.shards import write_atomically
from megaxlm_data.dedup.exact import unpack
from megaxlm_data.dedup.kept import Kept
from megaxlm_data.stages.clean import CleanReport, cleaned_path
from megaxlm_data.stages.plan import Group, Plan, digest_of
from megaxlm_data.writers.atomic import atomic_file
from megaxlm_data.writers.cleaned import open_cleaned

MIN_DOCUMENTS_TO_SPLIT = 20  # a smaller language goes to training whole
_HASHES = 1 << 64


@dataclass(frozen=True)
class Block:
    """A block of clean text and its place in the rows of its group."""

    path: Path
    number: int  # in its file
    start: int  # first row, counted over the group
    stop: int


@dataclass
class Selection:
    """What stays of a group."""

    documents: int = 0  # kept, both splits
    duplicates: int = 0  # exact
    validation_below: int = 0  # ids below this are validation
    text_bytes: list[int] = field(default_factory=list)  # of the training split, each side
    lines: int = 0  # of the training split
    digest: str = ""
    keep: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    near_duplicates: int = 0

    def rows(self, block: Block) -> npt.NDArray[np.bool_]:
        """Returns which rows of a block stay."""
        return unpack(self.keep, block.start, block.stop)


def blocks_of(group: Group, reports: dict[str, CleanReport], folder: Path) -> Iterator[Block]:
    """Yields the blocks of a group in the order of its documents."""
    row = 0
    for unit in group.units:
        report = reports[unit.digest]
        numbers = report.blocks or range(len(report.block_rows))
        for number, rows in zip(numbers, report.block_rows, strict=True):
            yield Block(cleaned_path(folder, unit), number, row, row + rows)
            row += rows


def select(
    plan: Plan,
    config: DataBuildConfig,
    kept: dict[str, Kept],
    reports: dict[str, CleanReport],
    cleaned: Path,
    folder: Path,
) -> dict[str, Selection]:
    """Parts validation from the rest of what stays; returns a selection by group name."""
    folder.mkdir(parents=True, exist_ok=True)
    selections = {}
    for group in plan.groups:
        split = (config.validation_fraction, config.max_validation_documents)
        digest = digest_of([kept[group.name].digest, split])
        selection = _finished(folder, digest)
        if selection is None:
            blocks = list(blocks_of(group, reports, cleaned))
            selection = _select_group(blocks, config, kept[group.name])
            selection.digest = digest
            _save(folder, selection)
        selections[group.name] = selection
    return selections


def _save(folder: Path, selection: Selection) -> None:
    with atomic_file(folder / f"{selection.digest}.bits") as file:
        file.write(selection.keep.data)
    content = asdict(selection)
    del content["keep"]
    write_atomically(folder / f"{selection.digest}.json", json.dumps(content).encode())


def _finished(folder: Path, digest: str) -> Selection | None:
    try:
        content = json.loads((folder / f"{digest}.json").read_text(encoding="utf-8"))
        return Selection(**content, keep=np.fromfile(folder / f"{digest}.bits", np.uint8))
    except FileNotFoundError:
        return None


def _select_group(blocks: list[Block], config: DataBuildConfig, kept: Kept) -> Selection:
    selection = Selection(
        duplicates=kept.duplicates, near_duplicates=kept.near_duplicates, keep=kept.bits
    )
    selection.validation_below = _validation_threshold(blocks, selection, config)
    for block in blocks:
        ids, lines, sizes = open_cleaned(block.path, False).numbers(block.number)
        staying = selection.rows(block)
        train = staying & ~is_validation(ids, selection.validation_below)
        sums = [int(size[train].sum(dtype=np.int64)) for size in sizes]
        selection.text_bytes = [
            a + b for a, b in zip(selection.text_bytes or [0] * len(sums), sums, strict=True)
        ]
        selection.lines += int(lines[train].sum(dtype=np.int64))
        selection.documents += int(np.count_nonzero(staying))
    return selection


def is_validation(ids: npt.NDArray[np.uint64], below: int) -> npt.NDArray[np.bool_]:
    """Returns which documents are validation."""
    return ids < np.uint64(below)


def _validation_threshold(
    blocks: list[Block], selection: Selection, config: DataBuildConfig
) -> int:
    """Finds the threshold that respects the fraction, the cap and the least of one document.

    Documents of one hash are never parted, so that with ties there may be fewer than the cap.
    """
    wanted = int(config.validation_fraction * _HASHES)
    cap, kept = config.max_validation_documents, 0
    if not wanted or not cap:
        return 0
    lowest = np.zeros(0, np.uint64)  # the cap + 1 lowest ids, in order
    for block in blocks:
        ids = open_cleaned(block.path, False).numbers(block.number)[0][selection.rows(block)]
        kept += len(ids)
        if len(lowest) > cap:
            ids = ids[ids < lowest[-1]]
        if len(ids):
            lowest = np.sort(np.concatenate([lowest, ids]))[: cap + 1]
    if kept < MIN_DOCUMENTS_TO_SPLIT:
        return 0
    cap = min(cap, kept // 2)
    inside = int(np.searchsorted(lowest, np.uint64(min(wanted, _HASHES - 1))))
    if inside > cap:
        inside = int(np.searchsorted(lowest, lowest[cap]))  # ids below the one after the cap
        wanted = int(lowest[cap])
    return wanted if inside else int(lowest[0]) + 1
