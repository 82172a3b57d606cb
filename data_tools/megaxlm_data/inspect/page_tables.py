"""The tables of the page, also of statistics that nobody here has a plot for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from megaxlm_data.inspect.cleaning import flattened
from megaxlm_data.inspect.html import Column, details, number_form, paragraph, table
from megaxlm_data.inspect.report import SubsetReport


def subset_table(title: str, subsets: Sequence[SubsetReport], what: str) -> str:
    """Returns a table of all that the index tells of some subsets."""
    columns = [Column("pair" if what == "pairs" else "language", None)]
    columns += [Column(name) for name in (what, "tokens", "bytes", "shards")]
    sides = max((len(subset.languages) for subset in subsets), default=0)
    fields = {
        "tokens/word": ("tokens_per_word", "{:.2f}"),
        "tokens/char": ("tokens_per_char", "{:.3f}"),
        "bytes/token": ("bytes_per_token", "{:.2f}"),
        "unknown": ("unknown_rate", "{:.3%}"),
        "bytes": ("byte_fallback_rate", "{:.2%}"),
    }
    for side in range(sides):
        suffix = f", side {side + 1}" if sides > 1 else ""
        columns += [Column(name + suffix, form) for name, (_, form) in fields.items()]
    rows = []
    for subset in subsets:
        row: list[Any] = [subset.name, subset.documents, subset.tokens, subset.text_bytes]
        row.append(subset.shards)
        for side in range(sides):
            held = subset.languages[side] if side < len(subset.languages) else None
            row += [getattr(held, name) if held else None for name, _ in fields.values()]
        rows.append(row)
    return table(title, columns, rows)


def counts_table(title: str, counts: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a table of one row a name and one column for every count that any of them has."""
    names = list(dict.fromkeys(name for each in counts.values() for name in each))
    columns = [Column("name", None)]
    columns += [Column(n, number_form(each.get(n) for each in counts.values())) for n in names]
    rows = [(key, *(each.get(name) for name in names)) for key, each in counts.items()]
    return details(title, table(title, columns, rows))


def generic(name: str, value: Any) -> str:
    """Returns tables of any statistics: dictionaries by language, or of numbers."""
    title = name.replace("_", " ")
    if not isinstance(value, Mapping):
        return paragraph(f"{title}: {value}")
    nested = {str(k): v for k, v in value.items() if isinstance(v, Mapping)}
    plain = {str(k): v for k, v in value.items() if str(k) not in nested and v is not None}
    parts = []
    if plain:
        told = ", ".join(f"{k.replace('_', ' ')} {_told(v)}" for k, v in plain.items())
        parts.append(paragraph(f"{title}: {told}."))
    tables = {k: dict(flattened("", v)) for k, v in nested.items()}
    deep = {k for k, v in nested.items() if any(isinstance(each, Mapping) for each in v.values())}
    rows = {
        key: {n.removeprefix(": ").replace("_", " "): v for n, v in numbers.items()}
        for key, numbers in tables.items()
        if key not in deep
    }
    if rows:
        parts.append(counts_table(title, rows))
    parts += [generic(f"{name}: {key}", nested[key]) for key in nested if key in deep]
    return "".join(parts)


def _told(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
