"""How well the tokenizer suits each language, how long documents are, and what cleaning dropped."""

from __future__ import annotations

from collections.abc import Mapping

from megaxlm_data.inspect.lengths import LengthHistogram
from megaxlm_data.inspect.plots.canvas import (
    BLUE,
    CATEGORIES,
    GREEN,
    INK,
    ORANGE,
    RED,
    Plot,
    language_rows,
    legend,
    place,
    short_log_axis,
)

MAX_REASONS = 11  # colours that can be told apart; the rarest reasons share the last one
OTHER = "other reasons"


def value_plot(
    values: Mapping[str, float], title: str, form: str, color: str = BLUE, log: bool = False
) -> Plot:
    """Bars of one number a language, the largest first.

    Args:
        values: By language.
        title: What the number is.
        form: How it is written, such as `{:.2f}`.
        color: Of the bars.
        log: Whether the axis is logarithmic.
    """
    ordered = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    plot, axes = language_rows([name for name, _ in ordered], 1.5, title)
    for number, (name, value) in enumerate(ordered):
        row, x = place(axes, number)
        (bar,) = row.bar([x], [value], 0.72, color=color)
        plot.tell(bar, f"{name}: {form.format(value)}")
    if log:
        for row in axes:
            row.set_yscale("log")
    axes[0].set_title(title)
    return plot


def fertility_plot(values: Mapping[str, float]) -> Plot:
    """Tokens for a word: 1 would be a vocabulary of whole words."""
    plot = value_plot(values, "tokens for a word", "{:.2f} tokens for a word", ORANGE)
    for row in plot.figure.axes:
        row.axhline(1, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.6)
    return plot


def compression_plot(values: Mapping[str, float]) -> Plot:
    """Bytes that a token stands for."""
    return value_plot(values, "bytes of text for a token", "{:.2f} bytes for a token", GREEN)


def unknown_plot(unknown: Mapping[str, float], fallback: Mapping[str, float]) -> Plot:
    """Tokens that are `<unk>` or bytes of byte fallback, in percent of all."""
    both = {name: unknown[name] + fallback[name] for name in unknown}
    ordered = sorted((name for name in both if both[name]), key=lambda n: (-both[n], n))
    plot, axes = language_rows(ordered, 1.5, "Unknown tokens and bytes, percent of tokens")
    for number, name in enumerate(ordered):
        row, x = place(axes, number)
        bottom = 0.0
        for share, color, what in (
            (fallback[name], BLUE, "bytes of byte fallback"),
            (unknown[name], RED, "<unk>"),
        ):
            if share:
                (bar,) = row.bar([x], [100 * share], 0.72, bottom=bottom, color=color)
                plot.tell(bar, f"{name}: {share:.3%} of tokens are {what}")
                bottom += 100 * share
    axes[0].set_title("percent of tokens that are not pieces of text")
    legend(plot, [("bytes of byte fallback", BLUE), ("<unk>", RED)])
    return plot


def length_plot(histograms: Mapping[str, LengthHistogram], row_tokens: int, what: str) -> Plot:
    """Quantiles of document lengths: a box for the middle half, a line for nine tenths.

    Args:
        histograms: By language, in the order in which they stand.
        row_tokens: A length to draw a line at.
        what: `documents` or `pairs`.
    """
    names = list(histograms)
    plot, axes = language_rows(names, 1.9, f"Tokens of {what}")
    for number, name in enumerate(names):
        histogram = histograms[name]
        row, x = place(axes, number)
        low, first, middle, third, high = (
            max(1.0, histogram.quantile(share)) for share in (0.05, 0.25, 0.5, 0.75, 0.95)
        )
        row.plot([x, x], [low, high], color=BLUE, linewidth=1.1, solid_capstyle="butt")
        (box,) = row.bar([x], [third - first], 0.6, bottom=first, color=BLUE)
        (dot,) = row.plot([x], [middle], "o", color=ORANGE, markersize=3.2)
        told = (
            f"{name}: half of {histogram.documents:,} have {middle:,.0f} tokens or less, nine "
            f"tenths {low:,.0f} to {high:,.0f}; {histogram.share_above(row_tokens):.1%} more "
            f"than {row_tokens}"
        )
        plot.tell(box, told)
        plot.tell(dot, told)
    for row in axes:
        row.set_yscale("log")
        row.axhline(row_tokens, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.6)
    for row in axes:
        short_log_axis(row.yaxis)
    axes[0].set_title(f"tokens of {what}; the dashed line is {row_tokens}")
    legend(plot, [("5% to 95%, box 25% to 75%", BLUE), ("median", ORANGE)])
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
    totals: dict[str, int] = {}
    for reasons in drops.values():
        for reason, count in reasons.items():
            totals[reason] = totals.get(reason, 0) + count
    ranked = sorted((r for r in totals if totals[r]), key=lambda reason: (-totals[reason], reason))
    shown = ranked if len(ranked) <= MAX_REASONS + 1 else [*ranked[:MAX_REASONS], OTHER]
    plot, axes = language_rows(names, 1.7, f"Percent of {what} dropped, by reason")
    for number, name in enumerate(names):
        row, x = place(axes, number)
        bottom = 0.0
        for place_, reason in enumerate(shown):
            count = drops[name].get(reason, 0)
            if reason == OTHER:
                count = sum(drops[name].get(other, 0) for other in ranked[MAX_REASONS:])
            if count:
                percent = 100 * count / max(1, read[name])
                color = CATEGORIES[place_ % len(CATEGORIES)]
                (bar,) = row.bar([x], [percent], 0.72, bottom=bottom, color=color)
                plot.tell(
                    bar, f"{name}: {count:,} of {read[name]:,} {what} ({percent:.2f}%): {reason}"
                )
                bottom += percent
    axes[0].set_title(f"percent of {what} that were dropped")
    legend(plot, list(zip(shown, CATEGORIES, strict=False)))
    return plot
