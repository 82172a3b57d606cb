"""The parts of a static page: style, tables that can be sorted, figures, sections.

Nothing is fetched: style, script and pictures are inside the page. It follows the reader's choice
of light or dark, and works without the script but for sorting.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --back: #fbfbfa; --ink: #22262b; --dim: #5f6871;
  --line: #d9dcdf; --card: #f1f2f3; --link: #1f6299; --bar: #3b83bd33; }
@media (prefers-color-scheme: dark) { :root { --back: #16181b; --ink: #dde1e5; --dim: #9aa3ab;
  --line: #34393f; --card: #202428; --link: #7fb8e6; --bar: #3b83bd55; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 1180px; background: var(--back);
  color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", "Noto Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 3rem 0 .3rem; border-top: 1px solid var(--line);
  padding-top: 1.2rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .2rem; }
p { max-width: 46rem; margin: .3rem 0 .8rem; } .dim { color: var(--dim); }
a { color: var(--link); } nav a { margin-right: 1rem; white-space: nowrap; }
code { overflow-wrap: anywhere; }
.cards { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; padding: 0; }
.cards div { background: var(--card); border-radius: .5rem; padding: .5rem .9rem; }
.cards dt { color: var(--dim); font-size: .8rem; }
.cards dd { margin: 0; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0 1.4rem; overflow-x: auto; }
figure svg { display: block; height: auto; }
figcaption { color: var(--dim); font-size: .9rem; max-width: 46rem; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--link); }
.scroll { overflow: auto; max-height: 34rem; border: 1px solid var(--line); border-radius: .4rem;
  margin-top: .4rem; width: fit-content; max-width: 100%; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { padding: .2rem .7rem; text-align: right; white-space: nowrap; }
tbody th { text-align: left; font-weight: 600; }
td.text { text-align: left; }
tbody tr:nth-child(even) { background: var(--card); }
thead th { position: sticky; top: 0; background: var(--back); padding: 0;
  box-shadow: 0 1px var(--line); }
thead th:first-child { text-align: left; }
thead button { all: unset; cursor: pointer; padding: .35rem .7rem; font-weight: 600; }
thead button:focus-visible { outline: 2px solid var(--link); outline-offset: -2px; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
pre { background: var(--card); padding: .8rem; border-radius: .4rem; overflow: auto;
  max-height: 30rem; font-size: .82rem; }
@media print { details, .scroll { max-height: none; overflow: visible; } }
"""

SCRIPT = """
document.querySelectorAll("table").forEach(table => {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const first = head.dataset.kind === "number" ? "descending" : "ascending";
    const other = first === "descending" ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    heads.forEach(each => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const value = row => row.cells[column].dataset.v ?? row.cells[column].textContent;
    const number = head.dataset.kind === "number";
    const body = table.tBodies[0];
    [...body.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (!number) return sign * x.localeCompare(y);
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * (Number(x) - Number(y));
    }).forEach(row => body.append(row));
  }));
});
"""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        name: Its heading.
        form: How numbers are written; None for text.
    """

    name: str
    form: str | None = "{:,}"


def table(caption: str, columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table; the first cell of a row is its heading, None is an empty cell."""
    heads = "".join(
        f'<th scope="col" data-kind="{"text" if column.form is None else "number"}">'
        f'<button type="button">{escape(column.name)}</button></th>'
        for column in columns
    )
    body = "".join(
        "<tr>"
        + f'<th scope="row">{escape(str(row[0]))}</th>'
        + "".join(_cell(column, value) for column, value in zip(columns[1:], row[1:], strict=True))
        + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )


def _cell(column: Column, value: Any) -> str:
    if column.form is None:
        return f'<td class="text">{escape("" if value is None else str(value))}</td>'
    if value is None:
        return '<td data-v=""></td>'
    return f'<td data-v="{value:.10g}">{escape(column.form.format(value))}</td>'


def number_form(values: Iterable[Any]) -> str:
    """Returns how a column of numbers of unknown kind is written."""
    numbers = [value for value in values if isinstance(value, int | float)]
    if all(isinstance(value, int) for value in numbers):
        return "{:,}"
    return "{:.4f}" if max(map(abs, numbers)) < 10 else "{:,.2f}"


def details(summary: str, content: str) -> str:
    """Returns what is shown when its line is clicked."""
    return f"<details><summary>{escape(summary)}</summary>\n{content}</details>\n"


def figure(svg: str, caption: str) -> str:
    """Returns a picture with the words under it."""
    return f"<figure>{svg}\n<figcaption>{escape(caption)}</figcaption></figure>\n"


def paragraph(text: str) -> str:
    """Returns a paragraph."""
    return f"<p>{escape(text)}</p>\n"


def heading(text: str) -> str:
    """Returns a heading inside a section."""
    return f"<h3>{escape(text)}</h3>\n"


@dataclass
class Page:
    """A page, section by section."""

    title: str
    subtitle: str
    facts: Mapping[str, str]
    sections: list[tuple[str, str, str]] = field(default_factory=list)  # id, title, content

    def add(self, name: str, title: str, *content: str) -> None:
        """Adds a section; without content it is left out."""
        if any(content):
            self.sections.append((name, title, "".join(content)))

    def render(self) -> str:
        """Returns the page as HTML."""
        links = "".join(
            f'<a href="#{name}">{escape(title)}</a>\n' for name, title, _ in self.sections
        )
        cards = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>\n"
            for name, value in self.facts.items()
        )
        body = "".join(
            f'<section id="{name}"><h2>{escape(title)}</h2>\n{content}</section>\n'
            for name, title, content in self.sections
        )
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
            f"<header><h1>{escape(self.title)}</h1>\n"
            f'<p class="dim">{escape(self.subtitle)}</p>\n'
            f'<dl class="cards">\n{cards}</dl>\n'
            f'<nav aria-label="Sections">\n{links}</nav></header>\n'
            f"<main>\n{body}</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
        )
