"""Some of the near duplicates found, as a file for a person to judge them by."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.config.data_deduplication import NearDuplicatesConfig
from megaxlm_data.dedup.clusters import Clusters
from megaxlm_data.dedup.kept import Kept
from megaxlm_data.dedup.signature_files import SignatureFiles
from megaxlm_data.stages.plan import Plan
from megaxlm_data.stages.select import Block
from megaxlm_data.writers.atomic import atomic_file
from megaxlm_data.writers.cleaned import open_cleaned

REPORT = Path("reports/near_duplicates.jsonl")  # in the data set
_SNIPPET_CHARS = 200
_HEAD_CHARS = 20_000  # of a document, where a difference is looked for
_BEFORE_CHARS = 60  # of these, before the first difference


def write_samples(
    path: Path,
    name: str,
    blocks: list[Block],
    clusters: Clusters,
    signatures: SignatureFiles,
    settings: NearDuplicatesConfig,
) -> None:
    """Writes pairs of a document that goes and the one that stays for it.

    Those with the smallest ids are taken; an id is a hash, so they are a fair sample. A line holds
    `lang`, the ids `kept` and `dropped` (hexadecimal), the estimated `similarity`, below the
    threshold where a chain of documents lies between them, and `kept_text` and `dropped_text`:
    where they first differ.
    """
    rows = _lowest(blocks, clusters, settings.samples)
    roots = clusters.roots(rows)
    agreeing = signatures.agreement(roots.astype(np.uint64), rows.astype(np.uint64))
    documents = _documents(blocks, np.unique(np.concatenate([rows, roots])))
    with atomic_file(path) as file:
        for row, root, agree in zip(rows.tolist(), roots.tolist(), agreeing.tolist(), strict=True):
            (kept_id, kept_text), (doc_id, text) = documents[root], documents[row]
            start = max(0, len(os.path.commonprefix([kept_text, text])) - _BEFORE_CHARS)
            line = {
                "lang": name,
                "kept": f"{kept_id:016x}",
                "dropped": f"{doc_id:016x}",
                "similarity": round(agree / settings.num_permutations, 3),
                "kept_text": kept_text[start : start + _SNIPPET_CHARS],
                "dropped_text": text[start : start + _SNIPPET_CHARS],
            }
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def _lowest(blocks: list[Block], clusters: Clusters, count: int) -> npt.NDArray[np.int64]:
    """Returns the rows that go with the smallest ids, (count,) at most, by id."""
    rows, ids = np.zeros(0, np.int64), np.zeros(0, np.uint64)
    for block in blocks:
        inside = np.arange(block.start, block.stop)
        inside = inside[clusters.roots(inside) != inside]
        if not len(inside):
            continue
        numbers, _, _ = open_cleaned(block.path, False).numbers(block.number)
        rows = np.concatenate([rows, inside])
        ids = np.concatenate([ids, numbers[inside - block.start]])
        order = np.argsort(ids, kind="stable")[:count]
        rows, ids = rows[order], ids[order]
    return rows


def _documents(blocks: list[Block], rows: npt.NDArray[np.int64]) -> dict[int, tuple[int, str]]:
    """Returns the id and the beginning of the text of ascending rows."""
    found = {}
    ends = np.array([block.stop for block in blocks])
    for number in np.unique(np.searchsorted(ends, rows, side="right")).tolist():
        block = blocks[number]
        inside = rows[(rows >= block.start) & (rows < block.stop)]
        chosen = np.zeros(block.stop - block.start, np.bool_)
        chosen[inside - block.start] = True
        ids = open_cleaned(block.path, False).numbers(block.number)[0][chosen]
        (texts,) = open_cleaned(block.path, True).texts(block.number, chosen)
        for row, doc_id, text in zip(inside.tolist(), ids.tolist(), texts, strict=True):
            found[row] = (doc_id, text[:_HEAD_CHARS])
    return found


def write_report(plan: Plan, config: DataBuildConfig, kept: dict[str, Kept], folder: Path) -> None:
    """Puts the samples of all languages into the data set; removes an older report otherwise.

    Args:
        plan: The groups, in order.
        config: The build's config.
        kept: What near-duplicate detection left, by group name.
        folder: That of the stage.
    """
    path = config.output / REPORT
    if config.deduplication.near is None:
        path.unlink(missing_ok=True)
        return
    with atomic_file(path) as file:
        for group in plan.groups:
            if not group.is_bitext:
                file.write((folder / f"{kept[group.name].digest}.jsonl").read_bytes())
