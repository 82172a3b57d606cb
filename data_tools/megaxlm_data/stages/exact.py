"""Stage 3, first part: of exact copies, of a document or of a pair, the first one stays.

A language or a pair is deduplicated by itself, so that translations are never duplicates. A pair is
a copy in either direction.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

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
    digests = [_digest(group, config) for group in plan.groups]
    markers = [kept_marker(folder, digest) for digest in digests]
    mine = zip(plan.groups, digests, markers, rows, crew.mine(rows), strict=True)
    with progress.bar("dedup", sum(rows), "doc") as bar:
        for group, digest, marker, count, is_mine in mine:
            if is_mine and not marker.exists():
                blocks = list(blocks_of(group, reports, cleaned))
                buckets = folder / f"{digest}.buckets"
                _first_of_copies(digest, blocks, config, buckets).save(folder)
            bar.update(count)
    crew.wait("dedup", lambda: [marker for marker in markers if not marker.exists()])
    return {
        group.name: read_kept(folder, digest)
        for group, digest in zip(plan.groups, digests, strict=True)
    }


def _digest(group: Group, config: DataBuildConfig) -> str:
    units = [unit.digest for unit in group.units]
    return digest_of([group.langs, units, config.deduplication.documents])


def _first_of_copies(
    digest: str, blocks: list[Block], config: DataBuildConfig, buckets: Path
) -> Kept:
    rows = blocks[-1].stop
    bits = np.full((rows + 7) // 8, 0xFF, np.uint8)
    if config.deduplication.documents:
        hashes = (open_cleaned(block.path, False).numbers(block.number)[0] for block in blocks)
        bits = first_occurrences(hashes, rows, buckets)
    spare = 8 * len(bits) - rows  # bits after the last row are 1
    staying = int(np.bitwise_count(bits).sum(dtype=np.int64)) - spare
    return Kept(digest, bits, rows - staying)
