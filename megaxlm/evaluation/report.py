"""Evaluation results as one JSON document and as tables on the terminal.

The document is what `megaxlm evaluate --json` writes and what a comparison reads back:

    {"model": ..., "perplexity": {lang: {...}}, "retrieval": {"mean": ..., "pairs": {...}}}

A part that was not evaluated is absent. A number that is not finite (a diverged model) is null,
because JSON has no infinity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from megaxlm.evaluation.perplexity import LanguagePerplexity
from megaxlm.evaluation.retrieval import RetrievalReport

_ABSENT = "-"


def evaluation_to_json(
    model: str,
    perplexity: Mapping[str, LanguagePerplexity] | None = None,
    retrieval: RetrievalReport | None = None,
) -> dict[str, Any]:
    """Returns the document of one evaluated model.

    Args:
        model: What was evaluated: a run, checkpoint or Hugging Face folder.
        perplexity: By language, if evaluated.
        retrieval: If evaluated.
    """
    document: dict[str, Any] = {"model": model}
    if perplexity is not None:
        document["perplexity"] = {lang: result.to_json() for lang, result in perplexity.items()}
    if retrieval is not None:
        document["retrieval"] = retrieval.to_json()
    return document


def perplexity_table(perplexity: Mapping[str, LanguagePerplexity]) -> Table:
    """Returns one row a language, and the mean bits per byte over languages."""
    table = _table("Masked prediction on the validation split", "language")
    for heading in ("bits/byte", "perplexity", "nats/token", "targets"):
        table.add_column(heading, justify="right")
    for lang, result in perplexity.items():
        table.add_row(
            lang,
            f"{result.bits_per_byte:.3f}",
            f"{result.perplexity:,.1f}",
            f"{result.loss_nats_per_token:.3f}",
            f"{result.targets:,}",
        )
    table.add_section()
    table.add_row("mean", _bits(_mean([r.bits_per_byte for r in perplexity.values()])))
    return table


def retrieval_table(report: RetrievalReport) -> Table:
    """Returns one row a pair with both directions, the mean, and what guessing reaches."""
    layer = "last layer" if report.layer == -1 else f"hidden state {report.layer}"
    table = _table(f"Sentence retrieval ({report.scoring}, {layer})", "pair")
    for heading in ("candidates", "->", "<-", "mean"):
        table.add_column(heading, justify="right")
    for pair in report.pairs:
        table.add_row(
            pair.name,
            f"{pair.candidates:,}",
            _share(pair.source_to_target),
            _share(pair.target_to_source),
            _share(pair.mean),
        )
    table.add_section()
    table.add_row("mean", "", "", "", _share(report.mean))
    table.add_row("chance", "", "", "", _share(report.chance))
    return table


def render_comparison(before: Mapping[str, Any], after: Mapping[str, Any]) -> RenderableType:
    """Returns bits per byte and retrieval accuracy of two evaluations side by side.

    Args:
        before: A document of `evaluation_to_json`, as built or as read back from its file.
        after: Another one. What only one of them holds is shown with a dash.
    """
    parts: list[RenderableType] = []
    if "perplexity" in before or "perplexity" in after:
        values = [_bits_by_language(document) for document in (before, after)]
        parts.append(_before_after("Bits per byte (lower is better)", "language", values, _bits))
    if "retrieval" in before or "retrieval" in after:
        values = [_accuracy_by_pair(document) for document in (before, after)]
        table = _before_after("Retrieval accuracy, both directions", "pair", values, _share)
        chances = [document.get("retrieval", {}).get("chance") for document in (before, after)]
        table.add_row("chance", *map(_share, chances))
        parts.append(table)
    return Group(*parts)


def _before_after(
    title: str,
    first: str,
    values: list[dict[str, float | None]],
    show: Callable[[float | None], str],
) -> Table:
    table = _table(title, first)
    for heading in ("before", "after"):
        table.add_column(heading, justify="right")
    before, after = values
    for name in dict.fromkeys([*before, *after]):
        table.add_row(name, show(before.get(name)), show(after.get(name)))
    table.add_section()
    table.add_row("mean", show(_mean(before.values())), show(_mean(after.values())), style="bold")
    return table


def _bits_by_language(document: Mapping[str, Any]) -> dict[str, float | None]:
    return {
        lang: result["bits_per_byte"] for lang, result in document.get("perplexity", {}).items()
    }


def _accuracy_by_pair(document: Mapping[str, Any]) -> dict[str, float | None]:
    pairs = document.get("retrieval", {}).get("pairs", {})
    return {name: pair["mean"] for name, pair in pairs.items()}


def _table(title: str, first: str) -> Table:
    # A title is wrapped to the width of its table, so the table is made as wide as the title.
    table = Table(title=title, title_justify="left", min_width=len(title) + 1)
    table.add_column(first)
    return table


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = list(values)
    known = [value for value in numbers if value is not None]
    if not numbers or len(known) < len(numbers):
        return None
    return sum(known) / len(known)


def _bits(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return _ABSENT if value is None else f"{100 * value:.1f}%"
