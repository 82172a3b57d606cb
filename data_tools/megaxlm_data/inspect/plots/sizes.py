"""How much of each language there is, and how training draws on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from megaxlm_data.inspect.plots.canvas import (
    BLUE,
    CATEGORIES,
    FAINT,
    INK,
    ORANGE,
    Plot,
    bars,
    dots,
    full_width,
    language_rows,
    new_figure,
    short,
    short_log_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LARGEST, _MIDDLE, _SMALLEST = 4, 2, 4  # curves with a name


@dataclass(frozen=True)
class Size:
    """A language or a pair."""

    name: str
    documents: int
    tokens: int
    text_bytes: int


def size_plot(sizes: Sequence[Size], what: str) -> Plot:
    """Bars of bytes with dots of tokens, on a log scale, the largest first.

    Args:
        sizes: Of languages or pairs; the caller has ordered them.
        what: `documents` or `pairs`.
    """
    plot, axes = language_rows(
        [size.name for size in sizes],
        1.4,
        f"Bytes and tokens of {what}",
        [("bytes of text", BLUE), ("tokens", ORANGE)],
    )
    least = min(min(size.text_bytes, size.tokens) for size in sizes)
    bottom = float(10.0 ** np.floor(np.log10(max(1, least)) - 0.3))
    tips = [
        f"{size.name}: {size.documents:,} {what}, {size.text_bytes:,} bytes, {size.tokens:,} tokens"
        for size in sizes
    ]
    heights = [max(size.text_bytes, bottom) - bottom for size in sizes]
    bars(plot, axes, heights, tips, BLUE, [bottom] * len(sizes))
    dots(axes, [max(size.tokens, bottom) for size in sizes], ORANGE)
    for row in axes:
        row.set_yscale("log")
        row.set_ylim(bottom, 2 * max(size.text_bytes for size in sizes))
        short_log_axis(row.yaxis)
    return plot


def sampling_plot(sizes: Sequence[Size], alpha: float, tokens: int) -> Plot:
    """Curves of the sampling share and of the epochs against alpha.

    Args:
        sizes: The training languages.
        alpha: The exponent that the report is for: a line.
        tokens: Training tokens for the epochs.
    """
    ordered = sorted(sizes, key=lambda size: -size.tokens)
    counts = np.array([size.tokens for size in ordered], np.float64)
    alphas = np.linspace(0, 1, 41)
    weights = (counts / counts.max())[:, None] ** alphas[None, :]
    shares = weights / weights.sum(axis=0)  # (languages, alphas)
    epochs = tokens * shares / counts[:, None]

    figure = new_figure(full_width(), 4.2)
    plot = Plot(figure, "Sampling share and epochs against alpha")
    left, right = figure.subplots(1, 2)
    named = _named(len(ordered))
    for axes, values, labels_at in ((left, shares, -1), (right, epochs, 0)):
        for number, size in enumerate(ordered):
            if number in named:
                color = CATEGORIES[named.index(number) % len(CATEGORIES)]
                (line,) = axes.plot(alphas, values[number], color=color, linewidth=1.6, zorder=3)
            else:
                (line,) = axes.plot(alphas, values[number], color=INK, alpha=0.22, linewidth=0.6)
            if axes is left:
                at = float((counts[number] / counts.max()) ** alpha)
                share = at / float(((counts / counts.max()) ** alpha).sum())
                plot.tell(line, f"{size.name}: {share:.3%} at alpha {alpha:g}")
            else:
                plot.tell(line, f"{size.name}: {size.tokens:,} tokens")
        axes.set_yscale("log")
        axes.grid(axis="y", color=INK, alpha=FAINT, linewidth=0.5)
        axes.axvline(alpha, color=INK, alpha=0.6, linewidth=0.8, linestyle=(0, (4, 3)))
        names = [(ordered[i].name, float(values[i, labels_at]), i) for i in named]
        _label_ends(axes, names, named, right_side=labels_at == -1)
        axes.set_xlabel("alpha")
    short_log_axis(left.yaxis, lambda value: f"{100 * value:.5g}%")
    short_log_axis(right.yaxis)
    left.set_title("share of the rows that training draws")
    right.set_title(f"epochs in {short(tokens)} tokens")
    right.yaxis.tick_right()
    right.spines["right"].set_visible(True)
    right.spines["left"].set_visible(False)
    return plot


def _named(count: int) -> list[int]:
    """Returns which languages, by size, are named: the ends and a few between them."""
    if count <= _LARGEST + _MIDDLE + _SMALLEST:
        return list(range(count))
    middle = np.linspace(_LARGEST - 1, count - _SMALLEST, _MIDDLE + 2)[1:-1].round().astype(int)
    chosen = {*range(_LARGEST), *middle.tolist(), *range(count - _SMALLEST, count)}
    return sorted(chosen)


def _label_ends(
    axes: Axes, names: Sequence[tuple[str, float, int]], named: Sequence[int], right_side: bool
) -> None:
    """Writes names at the ends of curves, moved apart where they would overlap."""
    axes.set_xlim(0, 1)
    low, high = (float(np.log(limit)) for limit in axes.get_ylim())
    gap = 0.046  # of the height: a line of text
    span = max(high - low, 1e-9)
    ordered = sorted(names, key=lambda entry: entry[1])
    wanted = [(float(np.log(value)) - low) / span for _, value, _ in ordered]
    spots = _apart(wanted, gap)
    for (name, _, number), spot in zip(ordered, spots, strict=True):
        color = CATEGORIES[list(named).index(number) % len(CATEGORIES)]
        axes.text(
            1.012 if right_side else -0.012,
            spot,
            name,
            transform=axes.transAxes,
            color=color,
            fontsize=7.5,
            va="center",
            ha="left" if right_side else "right",
        )


def _apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Moves ordered places apart by at least `gap`, each as little as it can around its group."""
    groups: list[list[float]] = []  # [sum of wanted places, members]
    for place_ in wanted:
        groups.append([place_, 1])
        while len(groups) > 1 and _top(groups[-2], gap) + gap > _bottom(groups[-1], gap):
            total, members = groups.pop()
            groups[-1] = [groups[-1][0] + total, groups[-1][1] + members]
    spots = []
    for group in groups:
        spots += [_bottom(group, gap) + gap * index for index in range(int(group[1]))]
    return spots


def _bottom(group: Sequence[float], gap: float) -> float:
    return group[0] / group[1] - gap * (group[1] - 1) / 2


def _top(group: Sequence[float], gap: float) -> float:
    return group[0] / group[1] + gap * (group[1] - 1) / 2
