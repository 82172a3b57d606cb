"""Stage 3, first part: of exact copies, of a document or of a pair, the first one stays.

A language or a pair is deduplicated by itself, so that translations are never duplicates. A pair is
a copy in either direction, also where the recipe names both: of `en-sw` and a later `sw-en`, the
first keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megaxlm.config.data_build import DataBuildConfig
from megaxlm_data.crew import Crew
from megaxlm_data.dedup.exact import first_occurrences
from megaxlm_data.dedup.kept import Kept, kept_marker, read_kept
from megaxlm_data.progress import Progress
from megaxlm_data.stages.clean import CleanReport
from megaxlm_data.stages.plan import Group, Plan, digest_of
from megaxlm_data.stages.select import Block, blocks_of
from megaxlm_data.writers.cleaned import open_cleaned


def exact_duplicates(
    plan: Plan,
    config: DataBuildConfig,
    reports: dict[str, CleanReport],
    cleaned: Path,
    folder: Path,
    crew: Crew,
    progress: Progress,
) -> dict[str, Kept]:
    """Finds what stays of every group, by its name; an interrupted build's result is taken up."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [sum(reports[unit.digest].kept for unit in group.units) for group in plan.groups]
    mirrors = [_mirror(group, plan.groups[:place]) for place, group in enumerate(plan.groups)]
    digests = [
        _digest(group, mirror, config) for group, mirror in zip(plan.groups, mirrors, strict=True)
    ]
    markers = [kept_marker(folder, digest) for digest in digests]
    mine = zip(plan.groups, mirrors, digests, markers, rows, crew.mine(rows), strict=True)
    with progress.bar("dedup", sum(rows), "doc") as bar:
        for group, mirror, digest, marker, count, is_mine in mine:
            if is_mine and not marker.exists():
                blocks = list(blocks_of(group, reports, cleaned))
                buckets = folder / f"{digest}.buckets"
                before = [] if mirror is None else list(blocks_of(mirror, reports, cleaned))
                _first_of_copies(digest, before, blocks, config, buckets).save(folder)
            bar.update(count)
    crew.wait("dedup", lambda: [marker for marker in markers if not marker.exists()])
    return {
        group.name: read_kept(folder, digest)
        for group, digest in zip(plan.groups, digests, strict=True)
    }


def _mirror(group: Group, earlier: Sequence[Group]) -> Group | None:
    """Returns an earlier group of the same pair in the other direction."""
    return next((each for each in earlier if each.langs == group.langs[::-1]), None)


def _digest(group: Group, mirror: Group | None, config: DataBuildConfig) -> str:
    parts = [group] if mirror is None else [mirror, group]
    units = [unit.digest for part in parts for unit in part.units]
    return digest_of([group.langs, units, config.deduplication.documents])


def _first_of_copies(
    digest: str, before: list[Block], blocks: list[Block], config: DataBuildConfig, buckets: Path
) -> Kept:
    """Finds what of `blocks` is neither in them twice nor in the blocks `before`."""
    rows = blocks[-1].stop
    first = before[-1].stop if before else 0
    bits = np.full((rows + 7) // 8, 0xFF, np.uint8)
    if config.deduplication.documents:
        both = (*before, *blocks)
        hashes = (open_cleaned(block.path, False).numbers(block.number)[0] for block in both)
        bits = _from(first_occurrences(hashes, first + rows, buckets), first, len(bits))
    spare = 8 * len(bits) - rows  # bits after the last row are 1
    staying = int(np.bitwise_count(bits).sum(dtype=np.int64)) - spare
    return Kept(digest, bits, rows - staying)


def _from(bits: npt.NDArray[np.uint8], first: int, size: int) -> npt.NDArray[np.uint8]:
    """Returns `size` bytes of bits, from the bit `first` on; what follows the last one is 1."""
    part, shift = bits[first >> 3 :], first & 7
    if not shift:
        return part[:size]
    following = np.append(part[1:], np.uint8(0xFF))
    moved: npt.NDArray[np.uint8] = (part >> np.uint8(shift)) | (following << np.uint8(8 - shift))
    return moved[:size]
