"""What readers of fields give: rows of text, or what stands for one that cannot be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from megaxlm_data.readers.lines import InvalidUtf8, Overlong, Undecodable

BadRecord = Literal["fail", "skip"]
_NAMES_SHOWN = 30


@dataclass(frozen=True, slots=True)
class Malformed:
    """Stands for a record without the fields asked for, or no record at all; policy `skip`."""

    reason: ClassVar[str] = "bad_record"
    head: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class MissingSide:
    """Stands for a pair that lacks one of its languages."""

    reason: ClassVar[str] = "missing_side"
    head: str = field(default="", compare=False)


Row = tuple[str, ...]  # one text a field asked for
RawRow = Row | Overlong | Undecodable | Malformed | MissingSide


@dataclass(frozen=True)
class Policies:
    """What to do with what is damaged."""

    invalid_utf8: InvalidUtf8 = "fail"
    bad_record: BadRecord = "fail"


class Source(Protocol):
    """What is read, for the bar and the report."""

    counts: Counter[str]

    @property
    def position(self) -> int:
        """Bytes of the input read until now, as it lies on the disk."""


class RowReader(Source, Protocol):
    """Reads rows from a file, or from a part of one."""

    def __enter__(self) -> RowReader: ...

    def __exit__(self, *exc: object) -> None: ...

    def __iter__(self) -> Iterator[RawRow]: ...


@dataclass(frozen=True)
class FieldNames:
    """The fields a row is made of; `a.b` is the field `b` inside the field `a`.

    Attributes:
        names: The fields in the order of the row.
        required: So many of them, the first ones, every record must have; others are empty text.
        keys: The key of the config that gives each, for messages.
    """

    names: tuple[str, ...]
    required: int

    keys: tuple[str, ...]

    def missing(self, place: int, there: list[str]) -> str:
        """Returns what to say where one of them is not in a file."""
        shown = ", ".join(there[:_NAMES_SHOWN]) + (" ..." if len(there) > _NAMES_SHOWN else "")
        return (
            f"no field `{self.names[place]}`; the fields there are: {shown or 'none'}; correct "
            f"`{self.keys[place]}`"
        )

    def no_text(self, place: int, kind: str) -> str:
        """Returns what to say where one of them holds no text."""
        return f"`{self.names[place]}` is no text but {kind}; correct `{self.keys[place]}`"


def lookup(record: dict[str, Any], name: str) -> Any:
    """Returns a value of a record, by its name or by a path through records inside; None if absent.

    A field whose own name holds dots comes before a path.
    """
    if name in record or "." not in name:
        return record.get(name)
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def names_in(record: dict[str, Any]) -> list[str]:
    """Returns the fields of a record and of the records directly inside."""
    names = []
    for name, value in record.items():
        names.append(name)
        if isinstance(value, dict):
            names += [f"{name}.{inner}" for inner in value]
    return names
