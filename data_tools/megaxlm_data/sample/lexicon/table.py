"""Reads the lexicons' tables: one concept a line, its forms between bars."""

from collections.abc import Sequence

Row = tuple[str, ...]


def table(concepts: Sequence[str], text: str, width: int) -> tuple[Row, ...]:
    """The forms of every concept, in the concepts' order.

    Args:
        concepts: The names that the lines must start with, in this order.
        text: Lines `name | form | ...`; empty lines are skipped.
        width: Number of forms a line must have.

    Raises:
        ValueError: A line is missing, out of order or of another width.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    rows = [tuple(cell.strip() for cell in line.split("|")) for line in lines]
    names = [row[0] for row in rows]
    if names != list(concepts):
        raise ValueError(f"lexicon table: expected {list(concepts)}, found {names}")
    for row in rows:
        if len(row) != width + 1:
            raise ValueError(f"lexicon table: {row[0]} has {len(row) - 1} forms, not {width}")
    return tuple(row[1:] for row in rows)
