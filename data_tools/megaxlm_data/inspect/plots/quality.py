"""How well the tokenizer suits each language, how long documents are, and what cleaning dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from megaxlm_data.inspect.lengths import LengthHistogram
from megaxlm_data.inspect.plots.canvas import (
    BLUE,
    CATEGORIES,
    GREEN,
    INK,
    ORANGE,
    RED,
    Plot,
    bars,
    dots,
    language_rows,
    short_log_axis,
)

MAX_REASONS = 11  # colours that can be told apart; the rarest reasons share the last one
OTHER = "other reasons"
_GUIDE: dict[str, Any] = {"color": INK, "linewidth": 0.8, "linestyle": (0, (4, 3)), "alpha": 0.6}


def value_plot(values: Mapping[str, float], what: str, color: str) -> Plot:
    """Bars of one number a language, the largest first.

    Args:
        values: By language.
        what: The number is of, such as `tokens for a word`.
        color: Of the bars.
    """
    ordered = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    names = [name for name, _ in ordered]
    plot, axes = language_rows(names, 1.1, what.capitalize(), heading=what)
    tips = [f"{name}: {value:.2f} {what}" for name, value in ordered]
    bars(plot, axes, [value for _, value in ordered], tips, color)
    return plot


def fertility_plot(values: Mapping[str, float]) -> Plot:
    """Tokens for a word: 1 would be a vocabulary of whole words."""
    plot = value_plot(values, "tokens for a word", ORANGE)
    for row in plot.figure.axes:
        row.axhline(1, **_GUIDE)
    return plot


def compression_plot(values: Mapping[str, float]) -> Plot:
    """Bytes that a token stands for."""
    return value_plot(values, "bytes of text for a token", GREEN)


def unknown_plot(unknown: Mapping[str, float], fallback: Mapping[str, float]) -> Plot:
    """Tokens that are `<unk>` or bytes of byte fallback, in percent of all."""
    both = {name: unknown[name] + fallback[name] for name in unknown}
    names = sorted((name for name in both if both[name]), key=lambda n: (-both[n], n))
    plot, axes = language_rows(
        names,
        1.1,
        "Unknown tokens and bytes, percent of tokens",
        [("bytes of byte fallback", BLUE), ("<unk>", RED)],
        "percent of tokens that are not pieces of text",
    )
    bottoms = [0.0] * len(names)
    for shares, color, what in (
        (fallback, BLUE, "bytes of byte fallback"),
        (unknown, RED, "<unk>"),
    ):
        heights = [100 * shares[name] for name in names]
        tips = [f"{name}: {shares[name]:.3%} of tokens are {what}" for name in names]
        bars(plot, axes, heights, tips, color, bottoms)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    return plot


def length_plot(histograms: Mapping[str, LengthHistogram], row_tokens: int, what: str) -> Plot:
    """Quantiles of document lengths: a box for the middle half, a line for nine tenths.

    Args:
        histograms: By language, in the order in which they stand.
        row_tokens: A length to draw a line at.
        what: `documents` or `pairs`.
    """
    plot, axes = language_rows(
        list(histograms),
        1.4,
        f"Tokens of {what}",
        [("5% to 95%, box 25% to 75%", BLUE), ("median", ORANGE)],
        f"tokens of {what}; the dashed line is {row_tokens}",
    )
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    quantiles = [[max(1.0, h.quantile(share)) for share in shares] for h in histograms.values()]
    tips = [
        f"{name}: half of {h.documents:,} have {q[2]:,.0f} tokens or less, nine tenths "
        f"{q[0]:,.0f} to {q[4]:,.0f}; {h.share_above(row_tokens):.1%} more than {row_tokens}"
        for (name, h), q in zip(histograms.items(), quantiles, strict=True)
    ]
    for low, high, width in ((0, 4, 0.09), (1, 3, 0.6)):
        heights = [q[high] - q[low] for q in quantiles]
        bars(plot, axes, heights, tips, BLUE, [q[low] for q in quantiles], width)
    dots(axes, [q[2] for q in quantiles], ORANGE, size=3)
    lowest, highest = min(q[0] for q in quantiles), max(q[4] for q in quantiles)
    for row in axes:
        row.set_yscale("log")
        row.set_ylim(0.7 * min(lowest, row_tokens), 1.4 * max(highest, row_tokens))
        row.axhline(row_tokens, **_GUIDE)
        short_log_axis(row.yaxis)
    return plot


def drop_plot(read: Mapping[str, int], drops: Mapping[str, Mapping[str, int]], what: str) -> Plot:
    """Stacked bars: the share of what was read that each reason took away.

    Args:
        read: Documents or pairs, by language or pair.
        drops: How many each reason took, by language or pair; those that lost none are left out.
        what: `documents` or `pairs`.
    """
    names = [name for name in drops if sum(drops[name].values())]
    names.sort(key=lambda name: (-sum(drops[name].values()) / max(1, read[name]), name))
    totals: Counter[str] = Counter()
    for reasons in drops.values():
        totals.update(reasons)
    ranked = sorted((r for r in totals if totals[r]), key=lambda reason: (-totals[reason], reason))
    parts = {reason: [reason] for reason in ranked}
    if len(ranked) > MAX_REASONS + 1:
        parts = {reason: [reason] for reason in ranked[:MAX_REASONS]}
        parts[OTHER] = ranked[MAX_REASONS:]
    plot, axes = language_rows(
        names,
        1.3,
        f"Percent of {what} dropped, by reason",
        list(zip(parts, CATEGORIES, strict=False)),
        f"percent of {what} that were dropped",
    )
    bottoms = [0.0] * len(names)
    for (reason, members), color in zip(parts.items(), CATEGORIES, strict=False):
        counts = [sum(drops[name].get(member, 0) for member in members) for name in names]
        heights = [100 * n / max(1, read[name]) for n, name in zip(counts, names, strict=True)]
        tips = [
            f"{name}: {count:,} of {read[name]:,} {what} ({height:.2f}%): {reason}"
            for name, count, height in zip(names, counts, heights, strict=True)
        ]
        bars(plot, axes, heights, tips, color, bottoms)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    return plot
