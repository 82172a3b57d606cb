"""Stage 4: exact copies of a document, or of a pair in either direction, go; the first one stays.

A language or a pair is deduplicated by itself, so that translations are never duplicates.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megaxlm.config.data_build import DataBuildConfig
from megaxlm_data.dedup.exact import first_occurrences
from megaxlm_data.dedup.kept import Kept, read_kept
from megaxlm_data.progress import Progress
from megaxlm_data.stages.clean import CleanReport
from megaxlm_data.stages.plan import Plan, digest_of
from megaxlm_data.stages.select import blocks_of
from megaxlm_data.writers.cleaned import open_cleaned


def exact_duplicates(
    plan: Plan,
    config: DataBuildConfig,
    reports: dict[str, CleanReport],
    cleaned: Path,
    folder: Path,
    progress: Progress,
) -> dict[str, Kept]:
    """Finds what stays of every group, by its name; an interrupted build's result is taken up."""
    folder.mkdir(parents=True, exist_ok=True)
    result = {}
    rows = sum(reports[unit.digest].kept for group in plan.groups for unit in group.units)
    with progress.bar("dedup", rows, "doc") as bar:
        for group in plan.groups:
            units = [unit.digest for unit in group.units]
            digest = digest_of([group.langs, units, config.deduplication.documents])
            kept = read_kept(folder, digest)
            if kept is None:
                blocks = list(blocks_of(group, reports, cleaned))
                count = blocks[-1].stop
                bits = np.full((count + 7) // 8, 0xFF, np.uint8)
                if config.deduplication.documents:
                    hashes = (open_cleaned(b.path, False).numbers(b.number)[0] for b in blocks)
                    bits = first_occurrences(hashes, count, folder / f"{digest}.buckets")
                spare = 8 * len(bits) - count  # bits after the last row are 1
                duplicates = count - (int(np.bitwise_count(bits).sum(dtype=np.int64)) - spare)
                kept = Kept(digest, bits, duplicates)
                kept.save(folder)
            result[group.name] = kept
            bar.update(sum(reports[unit.digest].kept for unit in group.units))
    return result
