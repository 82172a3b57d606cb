"""Heat maps of what languages have in common: the same documents, or pairs of sentences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from megaxlm_data.inspect.plots.canvas import (
    CHARACTER_INCHES,
    INK,
    PER_ROW,
    SLOT_INCHES,
    Plot,
    add_legend,
    new_figure,
    short,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_SIDE = PER_ROW  # languages at a side of a square; the ones with most in common are shown
_LEAST_COLUMNS = 16  # room for the legend
# Even in lightness and seen by the colour-blind; without its ends, which a dark or a light page
# would swallow.
_COLORS, _FIRST_COLOR, _LAST_COLOR = "viridis", 0.22, 0.93
_NUMBERS_UP_TO = 14  # columns: cells are wide enough to write in


def overlap_plot(shared: Mapping[tuple[str, str], float]) -> Plot:
    """A triangle: cells are documents that stand in both languages, on a log scale.

    Args:
        shared: Documents by (language, other language); at least one.
    """
    total: Counter[str] = Counter()
    for pair, count in shared.items():
        for lang in pair:
            total[lang] += round(count)
    names = [lang for lang, _ in total.most_common(MAX_SIDE)]
    cells = {}
    for (a, b), count in shared.items():
        if a in names and b in names:
            column, row = sorted((names.index(a), names.index(b)))
            cells[row - 1, column] = (count, f"{a} and {b}: {count:,.0f} documents in both")
    plot, (axes,) = _grid(names[1:], [names[:-1]], "Documents that two languages share")
    scale = _Scale([count for count, _ in cells.values()])
    _draw(plot, axes, cells, names[1:], names[:-1], scale, triangle=True)
    scale.legend(plot, "documents")
    return plot


def pair_plot(pairs: Mapping[tuple[str, str], int]) -> Plot:
    """A rectangle: rows are the fewest languages that every pair has one of, columns the others.

    So bitext of English with a hundred languages is a strip, and bitext of all with all a square.

    Args:
        pairs: Sentence pairs by (source, target), either way round; at least one.
    """
    both: Counter[tuple[str, str]] = Counter()
    for (a, b), count in pairs.items():
        both[min(a, b), max(a, b)] += count
    hubs = _hubs(both)[:MAX_SIDE]
    total: Counter[str] = Counter()
    for (a, b), count in both.items():
        if a in hubs or b in hubs:
            total[a] += count
            total[b] += count
    columns = sorted(total, key=lambda lang: (-total[lang], lang))
    if len(hubs) == 1:
        columns.remove(hubs[0])  # no pair with itself
    chunks = [columns[i : i + PER_ROW] for i in range(0, len(columns), PER_ROW)]
    plot, rows = _grid(hubs, chunks, "Sentence pairs of two languages")
    parts = []
    for chunk in chunks:
        cells = {}
        for row, hub in enumerate(hubs):
            for column, lang in enumerate(chunk):
                if number := both[_key(hub, lang)]:
                    cells[row, column] = (number, f"{hub} and {lang}: {number:,} pairs")
        parts.append(cells)
    scale = _Scale([count for cells in parts for count, _ in cells.values()])
    for axes, cells, chunk in zip(rows, parts, chunks, strict=True):
        _draw(plot, axes, cells, hubs, chunk, scale)
    scale.legend(plot, "pairs")
    return plot


class _Scale:
    """Colours of counts, logarithmic."""

    def __init__(self, values: Sequence[float]) -> None:
        import matplotlib

        self._low, self._high = min(values), max(values)
        self._colors = matplotlib.colormaps[_COLORS]

    def __call__(self, value: float) -> tuple[float, float, float, float]:
        span = math.log(self._high / self._low)
        at = math.log(value / self._low) / span if span else 1.0
        red, green, blue, alpha = self._colors(_FIRST_COLOR + (_LAST_COLOR - _FIRST_COLOR) * at)
        return float(red), float(green), float(blue), float(alpha)

    def legend(self, plot: Plot, what: str) -> None:
        """Shows a few counts with their colours."""
        span = math.log(self._high / self._low)
        between = [self._low * math.exp(span * part / 3) for part in (1, 2)]
        values = [self._low, *map(round, between), self._high]
        told = {short(value): self(value) for value in sorted(values)}
        add_legend(plot, list(told.items()), what)


def _key(a: str, b: str) -> tuple[str, str]:
    return min(a, b), max(a, b)


def _hubs(pairs: Mapping[tuple[str, str], int]) -> list[str]:
    """Covers all pairs with few languages: the one in most of the pairs left, again and again."""
    left = set(pairs)
    hubs = []
    while left:
        degree = Counter(lang for pair in left for lang in pair)
        hub = min(degree, key=lambda lang: (-degree[lang], lang))
        hubs.append(hub)
        left = {pair for pair in left if hub not in pair}
    return hubs


def _grid(
    row_names: Sequence[str], chunks: Sequence[Sequence[str]], title: str
) -> tuple[Plot, list[Axes]]:
    """Returns axes below one another, one for each chunk of columns, with square cells."""
    left, below = (
        0.12 + CHARACTER_INCHES * max(map(len, names))
        for names in (row_names, [name for chunk in chunks for name in chunk])
    )
    above = 0.42  # the legend
    each = SLOT_INCHES * len(row_names) + below
    width = left + SLOT_INCHES * max(len(chunks[0]), _LEAST_COLUMNS) + 0.1
    height = above + each * len(chunks)
    figure = new_figure(width, height, layout=None)
    axes = []
    for number, chunk in enumerate(chunks):
        bottom = height - above - number * each - SLOT_INCHES * len(row_names)
        size = (SLOT_INCHES * len(chunk) / width, SLOT_INCHES * len(row_names) / height)
        axes.append(figure.add_axes((left / width, bottom / height, *size)))
    return Plot(figure, title), axes


def _draw(
    plot: Plot,
    axes: Axes,
    cells: Mapping[tuple[int, int], tuple[float, str]],
    row_names: Sequence[str],
    column_names: Sequence[str],
    scale: _Scale,
    triangle: bool = False,
) -> None:
    from matplotlib.patches import Rectangle

    for (row, column), (count, told) in cells.items():
        color = scale(count)
        cell = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, facecolor=color, linewidth=0)
        axes.add_patch(cell)
        plot.tell(cell, told)
        if len(column_names) <= _NUMBERS_UP_TO:
            light = 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2] > 0.5
            axes.text(
                column,
                row,
                short(count),
                color="#000000" if light else "#ffffff",
                fontsize=5,
                ha="center",
                va="center",
            )
    axes.set_xlim(-0.5, len(column_names) - 0.5)
    axes.set_ylim(len(row_names) - 0.5, -0.5)
    axes.set_xticks(range(len(column_names)), column_names, rotation=90)
    axes.set_yticks(range(len(row_names)), row_names)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for line in range(len(row_names)):  # faint dots: a cell without anything is empty, not missing
        width = line + 1 if triangle else len(column_names)
        axes.plot(
            range(width),
            [line] * width,
            ".",
            color=INK,
            alpha=0.12,
            markersize=1.5,
            zorder=0,
        )
