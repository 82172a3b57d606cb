"""What all plots share: matplotlib to inline SVG that follows the page's colours and fonts.

matplotlib because it is well kept, weighs little and gives static SVG: a plotting library that
draws in the browser would put megabytes of script into every page. It is imported here alone, and
only when a page is made.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

from megaxlm.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"  # stands for the colour of the page's text
FAINT = 0.18  # opacity of lines behind the data
BLUE, ORANGE, GREEN, RED, PURPLE = "#3b83bd", "#e08a1e", "#3f9b6b", "#cf4f4f", "#8d6cc0"
# Told apart by the colour-blind (after Okabe and Ito), and seen on white and on black.
CATEGORIES = (
    *(ORANGE, BLUE, GREEN, RED, PURPLE),
    *("#c98bb0", "#a8834a", "#5fb7c9", "#b3b338", "#7f8790", "#e2836b", "#4661b0"),
)
PER_ROW = 50  # languages side by side
_INCHES = 11.0
SLOT_INCHES = 0.205
_LEFT_INCHES, _RIGHT_INCHES = 0.55, 0.08
CHARACTER_INCHES = 0.056  # of a name
_LINE_INCHES = 0.2  # of a legend
_LEGEND_INCHES = 1.7  # of an entry
_LEAST_SLOTS = 18
_UNSEEN = "unseen"  # the pointer passes through
_ZOOM = 1.4  # pixels of the page for a point: a label of 8 points has 11 pixels
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be found, read aloud and coloured
    "svg.hashsalt": "megaxlm",  # the same data gives the same page
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "ytick.minor.size": 0,
} | dict.fromkeys(
    ["text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color"]
    + ["ytick.color", "legend.labelcolor"],
    INK,
)


@dataclass
class Plot:
    """A figure, what it shows in words, and what the pointer is told over its marks."""

    figure: Figure
    title: str
    tips: dict[str, str] = field(default_factory=dict)

    def tell(self, artist: Any, text: str) -> None:
        """Gives a mark the text that is shown when the pointer is over it."""
        key = f"tip{len(self.tips)}"
        artist.set_gid(key)
        self.tips[key] = text


@contextmanager
def drawing() -> Iterator[None]:
    """Holds matplotlib's settings while plots are made.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise UserError(
            "the page's plots need matplotlib, which is not installed: `pip install matplotlib`, "
            "or leave --html out"
        ) from None
    settings: Any = _SETTINGS
    with matplotlib.rc_context(settings):
        yield


def new_figure(
    width: float, height: float, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """Returns an empty figure of a size in inches, without a background."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout, facecolor="none")


def full_width() -> float:
    """Returns the width of the page in inches."""
    return _INCHES


def language_rows(
    names: Sequence[str],
    height: float,
    title: str,
    legend: Sequence[tuple[str, str]] = (),
    heading: str = "",
) -> tuple[Plot, list[Axes]]:
    """Returns a plot with languages side by side, wrapped like text, one y axis for all rows.

    Args:
        names: Languages or pairs, in the order in which they stand.
        height: Of a row without its names, in inches.
        title: What the plot shows.
        legend: (label, colour) each.
        heading: Written above the first row.

    Returns:
        The plot and its rows; language i stands at x = i % PER_ROW in row i // PER_ROW.
    """
    rows = -(-len(names) // PER_ROW)
    slots = PER_ROW if rows > 1 else max(_LEAST_SLOTS, len(names))
    width = min(_INCHES, _LEFT_INCHES + _RIGHT_INCHES + SLOT_INCHES * slots)
    # Margins are reckoned here: matplotlib's own layout would measure each name several times.
    below = CHARACTER_INCHES * max(map(len, names)) + 0.14
    above = 0.1 + (0.2 if heading else 0) + _LINE_INCHES * _legend_rows(legend, width)
    total = above + rows * height + (rows - 1) * 0.1 + rows * below
    figure = new_figure(width, total, layout=None)
    axes = list(
        figure.subplots(
            rows,
            1,
            sharey=True,
            squeeze=False,
            gridspec_kw={
                "left": _LEFT_INCHES / width,
                "right": 1 - _RIGHT_INCHES / width,
                "top": 1 - above / total,
                "bottom": below / total,
                "hspace": (below + 0.1) / height,
            },
        )[:, 0]
    )
    for row, each in enumerate(axes):
        shown = names[row * PER_ROW : (row + 1) * PER_ROW]
        each.set_xlim(-0.7, slots - 0.3)
        each.set_xticks(range(len(shown)), shown, rotation=90)
        each.tick_params(axis="x", length=0, pad=2)
        each.grid(axis="y", color=INK, alpha=FAINT, linewidth=0.5)
    axes[0].set_title(heading)
    plot = Plot(figure, title)
    if legend:
        add_legend(plot, legend)
    return plot, axes


def bars(
    plot: Plot,
    axes: Sequence[Axes],
    heights: Sequence[float],
    tips: Sequence[str],
    color: str,
    bottoms: Sequence[float] | None = None,
    width: float = 0.72,
) -> None:
    """Draws a bar for each language; bars of height 0 are left out.

    Args:
        plot: The plot.
        axes: Its rows.
        heights: Of the bars, by language.
        tips: What the pointer is told over them.
        color: Of all.
        bottoms: Where they begin; None for 0.
        width: 1 would leave no room between them.
    """
    for number, row in enumerate(axes):
        part = range(number * PER_ROW, min(len(heights), (number + 1) * PER_ROW))
        shown = [i for i in part if heights[i]]
        drawn = row.bar(
            [i % PER_ROW for i in shown],
            [heights[i] for i in shown],
            width,
            bottom=[bottoms[i] for i in shown] if bottoms else 0,
            color=color,
        )
        for patch, i in zip(drawn, shown, strict=True):
            plot.tell(patch, tips[i])


def dots(axes: Sequence[Axes], values: Sequence[float], color: str, size: float = 3.4) -> None:
    """Draws a dot for each language; the pointer sees what is behind it."""
    for number, row in enumerate(axes):
        shown = values[number * PER_ROW : (number + 1) * PER_ROW]
        (line,) = row.plot(range(len(shown)), shown, "o", color=color, markersize=size)
        line.set_gid(_UNSEEN)


def _legend_rows(entries: Sequence[object], width: float) -> int:
    return -(-len(entries) // max(1, int(width / _LEGEND_INCHES)))


def add_legend(plot: Plot, entries: Sequence[tuple[str, Any]], title: str | None = None) -> None:
    """Explains colours at the top right of a plot: (label, colour) each."""
    from matplotlib.patches import Patch

    handles = [Patch(color=color, label=label) for label, color in entries]
    columns = -(-len(handles) // _legend_rows(entries, plot.figure.get_figwidth()))
    measured = plot.figure.get_layout_engine() is not None
    plot.figure.legend(
        handles=handles,
        loc="outside upper right" if measured else "upper right",
        ncols=columns,
        title=title,
        borderaxespad=0.2,
    )


def short(value: float, unit: str = "") -> str:
    """Returns a number in a few characters: 1.2k, 35M, 4.1G."""
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            scaled = value / factor
            return f"{scaled:.{0 if scaled >= 99.5 else 1}f}".replace(".0", "") + letter + unit
    return f"{value:.3g}{unit}"


def short_log_axis(axis: Any, form: Callable[[float], str] = short) -> None:
    """Labels a logarithmic axis with short numbers, also one of less than two decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    if high < 100 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))
    axis.set_minor_formatter(NullFormatter())


def to_svg(plot: Plot, name: str) -> str:
    """Returns a plot as an `<svg>` element of an HTML page.

    Args:
        plot: The plot.
        name: An id that no other plot of the page has.
    """
    stream = io.BytesIO()
    plot.figure.savefig(stream, format="svg", facecolor="none")
    svg = ElementTree.fromstring(stream.getvalue())
    _clean(svg, name, plot.tips)
    width = float(svg.attrib["viewBox"].split()[2])
    svg.attrib = {
        "viewBox": svg.attrib["viewBox"],
        "role": "img",
        "aria-label": plot.title,
        # as wide as it was meant to be, less on a small screen, which then scrolls it
        "style": f"width:{width * _ZOOM:.0f}px;max-width:max(100%,{width:.0f}px)",
    }
    text = ElementTree.tostring(svg, encoding="unicode", short_empty_elements=False)
    return text.replace(INK, "currentColor")


_FONT = re.compile(r"font:\s*(?:(\w+)\s+)?([\d.]+)px[^;]*")
_REFERENCE = re.compile(r"#([\w.-]+)")


def _clean(svg: ElementTree.Element, name: str, tips: dict[str, str]) -> None:
    """Takes out what a page does not need, and makes ids its own."""
    for parent in list(svg.iter()):
        for child in list(parent):
            if child.tag.endswith("}metadata"):
                parent.remove(child)
    references = set()
    for element in svg.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key, value in list(element.attrib.items()):
            if key.startswith("{"):
                del element.attrib[key]
                key = key.rpartition("}")[2]
            if key == "href" or "url(" in value:
                references.update(_REFERENCE.findall(value))
                value = _REFERENCE.sub(rf"#{name}-\1", value)
            if key == "style":
                value = _FONT.sub(
                    lambda m: f"font-size:{m[2]}px" + (f";font-weight:{m[1]}" if m[1] else ""),
                    value,
                )
            element.attrib[key] = value
        element.text = element.text if (element.text or "").strip() else None
        element.tail = None
    for element in svg.iter():
        own = element.attrib.pop("id", None)
        if own in references:
            element.attrib["id"] = f"{name}-{own}"
        if own == _UNSEEN:
            element.attrib["style"] = "pointer-events:none"
        if own in tips:
            tip = ElementTree.Element("title")
            tip.text = tips[own]
            element.insert(0, tip)
