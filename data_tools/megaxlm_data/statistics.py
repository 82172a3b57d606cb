"""What a build tells of itself: the statistics in dataset.json, and `DIR/reports` for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.data.shards import SPLITS, Split
from megaxlm.data.tokenizer import Tokenizer
from megaxlm_data.decontamination.report import write_contamination_report
from megaxlm_data.filters.build_steps import INDEX_FOLDER
from megaxlm_data.filters.language import total_found
from megaxlm_data.stages.clean import Cleaned, samples_path
from megaxlm_data.stages.plan import Inputs
from megaxlm_data.stages.rejected import REJECTED_NAME, merge_samples, write_samples
from megaxlm_data.stages.select import Selection
from megaxlm_data.stages.tokens import token_statistics
from megaxlm_data.writers.assembler import CountedShard

REPORTS_DIR = "reports"


def report_rejected(
    inputs: Inputs, statistics: dict[str, Any], config: DataBuildConfig, cleaned: Path
) -> None:
    """Writes samples of what was dropped to `DIR/reports`, for a person to look at."""
    counts = {**statistics["cleaning"], **statistics["left_out"]}
    drops = {name: counted["dropped"] for name, counted in counts.items()}
    paths = [samples_path(cleaned, unit) for unit in inputs.distinct]
    samples = merge_samples(paths, drops, config.rejected_samples)
    write_samples(config.output / REPORTS_DIR / REJECTED_NAME, samples)


def report_contamination(made: Cleaned, config: DataBuildConfig, work: Path) -> None:
    """Writes what decontamination found as soon as it is known."""
    found = (
        (name, list(unit.files), report.read, report.findings) for name, unit, report in made.parts
    )
    samples = config.decontamination.samples
    write_contamination_report(config.output, work / INDEX_FOLDER, found, samples)


def build_statistics(
    made: Cleaned,
    config: DataBuildConfig,
    selections: dict[str, Selection],
    shards: dict[tuple[str, Split], list[CountedShard]],
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """Returns what `inspect` shows beside the shards themselves."""
    settings = config.model_dump(mode="json", exclude={"output", "workers", "corpora", "bitext"})
    cleaning: dict[str, dict[str, Any]] = {}
    counts = {}
    for group in made.plan.groups:
        mine = [made.reports[unit.digest] for unit in group.units]
        selection = selections[group.name]
        cleaning[group.name] = {
            "files": group.files,
            "read": sum(report.read for report in mine),
            "dropped": _total(report.drops for report in mine),
            "edited": _total(report.edits for report in mine),
            "wrong_language": total_found(report.findings for report in mine),
            "duplicates": selection.duplicates,
            "near_duplicates": selection.near_duplicates,
            "kept": selection.documents,
            "lines": _total(report.lines for report in mine),
            "validation_below": selection.validation_below,
            "unspaced_share": [
                sum(report.unspaced_chars[side] for report in mine)
                / max(1, sum(report.sampled_chars[side] for report in mine))
                for side in range(len(group.langs))
            ],
        }
        counts[group.name] = {
            split: {
                lang: _total(shard.counts[lang] for shard in shards[group.name, split])
                for lang in group.langs
            }
            for split in SPLITS
        }
    left_out = {
        name: {"read": report.read, "dropped": report.drops, "lines": report.lines}
        for name, report in sorted(made.left_out.items())
    }
    unspaced = {name: each["unspaced_share"] for name, each in cleaning.items()}
    return {
        "digest": made.plan.digest,
        "settings": settings,
        "cleaning": cleaning,
        "left_out": left_out,
        "counts": counts,
        "tokenizer": token_statistics(config.output, made.plan, tokenizer, shards, unspaced),
    }


def _total(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items()))
