"""`DIR/reports/contamination.jsonl`: what was looked for, what was found and samples of it.

One JSON object a line, its kind first:

    {"kind": "set", "set": NAME, "files": [...], "items": N, "too_short": N, "whole": N, ...}
    {"kind": "count", "lang": LANG or PAIR, "set": NAME, "documents": N, "of": N}
    {"kind": "sample", "lang": ..., "set": ..., "item": "FILE:LINE", "id": HEX, "snippet": ...,
     "files": [...]}

`id` is the document's in the shards (XXH3-64 of its text), had it stayed; `of` is how many were
read. The snippet is the text as it is compared: without case, in NFKC.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from megaxlm.data.shards import write_atomically
from megaxlm_data.decontamination.index import read_summaries
from megaxlm_data.filters.contamination import TOPIC
from megaxlm_data.filters.findings import Findings

REPORT_PATH = Path("reports") / "contamination.jsonl"

# a language or pair, the files of a unit of it, documents read, what was found
UnitFindings = tuple[str, list[str], int, Findings]


def write_contamination_report(
    output: Path, index: Path, units: Iterable[UnitFindings], samples: int
) -> None:
    """Writes the report of a build, or removes that of an earlier one if nothing was looked for.

    Args:
        output: The folder of the data set.
        index: The folder of the index.
        units: What every unit found, in the order of the plan.
        samples: How many are wanted for each language and set.
    """
    summaries = read_summaries(index)
    path = output / REPORT_PATH
    if not summaries:
        path.unlink(missing_ok=True)
        return
    counts: dict[tuple[str, str], int] = {}
    read: dict[str, int] = {}
    kept: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for lang, files, documents, findings in units:
        read[lang] = read.get(lang, 0) + documents
        for name, found in findings.get(TOPIC, {}).items():
            counts[lang, name] = counts.get((lang, name), 0) + found["count"]
            mine = kept.setdefault((lang, name), [])
            mine += [sample | {"files": files} for sample in found["samples"]]
    lines: list[dict[str, Any]] = []
    for summary in summaries:
        row = {"kind": "set", "set": summary.name, "files": summary.files}
        numbers = ("items", "too_short", "whole", "ngrams")
        lines.append(row | {number: getattr(summary, number) for number in numbers})
    for (lang, name), count in sorted(counts.items()):
        row = {"kind": "count", "lang": lang, "set": name}
        lines.append(row | {"documents": count, "of": read[lang]})
    for (lang, name), mine in sorted(kept.items()):
        row = {"kind": "sample", "lang": lang, "set": name}
        lines += [row | sample for sample in mine[:samples]]
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(path, text.encode())
