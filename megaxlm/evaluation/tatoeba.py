"""Sentence pairs in the file format of LASER's Tatoeba set.

A pair `deu-eng` is two line-aligned files, `tatoeba.deu-eng.deu` and `tatoeba.deu-eng.eng`; the
prefix is optional and each file may be gzipped. Language codes may hold hyphens themselves
(`en-zh-Hant.zh-Hant`), so a name is split by its two extensions, never at a hyphen alone.
"""

from __future__ import annotations

import difflib
import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

from megaxlm.errors import CorruptDataError, UserError

_PREFIX = "tatoeba."


@dataclass(frozen=True)
class TatoebaPair:
    """Two line-aligned files; line i of one translates line i of the other."""

    name: str  # "deu-eng"
    source_lang: str
    target_lang: str
    source_file: Path
    target_file: Path


def find_tatoeba_pairs(folder: Path, pairs: list[str] | None = None) -> list[TatoebaPair]:
    """Finds the pairs of a folder, by name.

    Args:
        folder: Where the files lie; other files in it are ignored.
        pairs: Names such as `deu-eng`, returned in this order; None is every pair there.

    Raises:
        UserError: No such folder, no pair in it, a pair that is not there (the nearest one is
            named), a pair with one side missing, or one side given by two files.
    """
    stems = _sides(folder)
    complete = {stem: pair for stem, sides in stems.items() if (pair := _pair(stem, sides))}
    wanted = sorted(stems) if pairs is None else list(dict.fromkeys(pairs))
    if not stems:
        raise UserError(
            f"{folder}: no sentence pairs here; expected line-aligned files named like "
            "deu-eng.deu and deu-eng.eng (.gz or not)"
        )
    for name in wanted:
        if name in complete:
            continue
        if name in stems:
            (lang, file), *_ = stems[name].items()
            raise UserError(
                f"{file}: the other side of pair {name} is missing; expected "
                f"{folder / f'{name}.{_other_side(name, lang)}'} (.gz or not) beside it"
            )
        raise UserError(f"{folder}: no pair {name}; {_suggestion(name, list(complete))}")
    return [complete[name] for name in wanted]


def read_sentences(pair: TatoebaPair, limit: int | None = None) -> tuple[list[str], list[str]]:
    """Reads both sides of a pair, the first `limit` lines of each.

    The whole files are read and must have as many lines as each other, whatever the limit.

    Raises:
        UserError: Different numbers of lines, no line at all, or invalid UTF-8.
        CorruptDataError: A truncated or damaged gzip file.
    """
    source, target = _read_lines(pair.source_file), _read_lines(pair.target_file)
    if len(source) != len(target):
        raise UserError(
            f"{pair.source_file}: {len(source)} lines where {pair.target_file} has {len(target)}; "
            "the two sides of a pair must be aligned line by line"
        )
    if not source:
        raise UserError(f"{pair.source_file}: empty file; a pair needs at least one line a side")
    return source[:limit], target[:limit]


def _sides(folder: Path) -> dict[str, dict[str, Path]]:
    """Returns the files of each pair name by the language of their extension."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of sentence pairs")
    stems: dict[str, dict[str, Path]] = {}
    for file in sorted(folder.iterdir()):
        stem, dot, lang = file.name.removesuffix(".gz").removeprefix(_PREFIX).rpartition(".")
        if not dot or not (stem.startswith(f"{lang}-") or stem.endswith(f"-{lang}")):
            continue
        sides = stems.setdefault(stem, {})
        if lang in sides:
            raise UserError(
                f"{file}: side {lang} of pair {stem} is given by {sides[lang].name} as well; "
                "remove one of the two"
            )
        sides[lang] = file
    return stems


def _pair(name: str, sides: dict[str, Path]) -> TatoebaPair | None:
    for source in sides:
        for target in sides:
            if name == f"{source}-{target}" and source != target:
                return TatoebaPair(name, source, target, sides[source], sides[target])
    return None


def _other_side(name: str, lang: str) -> str:
    if name.startswith(f"{lang}-"):
        return name.removeprefix(f"{lang}-")
    return name.removesuffix(f"-{lang}")


def _suggestion(name: str, available: list[str]) -> str:
    if not available:
        return "no pair in this folder has both sides"
    turned = [pair for pair in available if sorted(pair.split("-")) == sorted(name.split("-"))]
    nearest = turned or difflib.get_close_matches(name, available, n=1, cutoff=0)
    return f"the nearest of the {len(available)} there is {nearest[0]}"


def _read_lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorruptDataError(
            f"{path}: truncated or damaged gzip file ({error}); fetch it again"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")  # "\n" alone: text may hold U+2028
    if not lines[-1]:
        lines.pop()
    sentences = []
    for number, line in enumerate(lines, start=1):
        try:
            sentences.append(line.removesuffix(b"\r").decode("utf-8").strip())
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}: line {number}: invalid UTF-8 at byte {error.start} of the line; "
                "convert the file to UTF-8"
            ) from None
    return sentences
