"""Makes a lost or damaged `dataset.json` again from the shards and the tokenizer beside them.

What the shards hold is counted anew: rows, tokens, bytes, checksums. What only the build knew is
not made up: `build.absent` names it. The index is written at the end and atomically, and not at
all if a shard is damaged, or if it is not certain what belongs to the data set.

A damaged index that is still there is read as far as it goes: the order of the languages, whose
places are their ids, and the checksums that it gave.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megaxlm.data.shards import (
    INDEX_NAME,
    SPLITS,
    DatasetIndex,
    ShardInfo,
    Split,
    Subset,
    file_xxh3,
    read_index,
    tokenizer_path,
    write_index,
)
from megaxlm.data.tokenizer import Tokenizer
from megaxlm.errors import EXIT_FOUND_WRONG, CorruptDataError, UserError
from megaxlm_data.document import document_id, pair_id
from megaxlm_data.progress import Progress
from megaxlm_data.shard_scan import ShardColumns, byte_pieces, open_columns, scan_shard
from megaxlm_data.threads import map_threads
from megaxlm_data.verify.document_ids import check_document_ids
from megaxlm_data.verify.problem import Problem
from megaxlm_data.verify.subset_names import languages_of

# what cannot be counted again
ABSENT = ("digest", "settings", "cleaning", "left_out", "tokenizer", "chars", "words")
_WORK_DIR = ".build"
_SHARD_NAME = re.compile(r"(\d{5}-)?(\d{5})\.arrow")  # the first number is that of a segment
_SHARD_ENTRY = re.compile(r'\{[^{}]*"xxh3"[^{}]*\}')
_LANGUAGES = re.compile(r'"languages":\s*(\[[^\]]*\])')
_PROBED_ROWS = 16  # of each subset, to see whether the tokenizer spells the texts they are of


@dataclass(frozen=True)
class RepairReport:
    """What a repair did."""

    directory: Path
    index: DatasetIndex | None
    written: bool  # False: the index was sound, or a shard is not; nothing was touched
    problems: tuple[Problem, ...] = ()  # why nothing was written
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there is a sound index now."""
        return not self.problems

    def lines(self) -> list[str]:
        """Returns what a person has to know, a line each."""
        path = self.directory / INDEX_NAME
        if self.problems:
            lines = [f"{self.directory / p.path}: {p.what}" for p in self.problems]
            return [
                *lines,
                f"{path}: not made again; bring these files back from a copy and repair again, or "
                "build this data set again",
            ]
        if not self.written or self.index is None:
            return [f"{path}: sound, nothing to repair"]
        shards = sum(len(subset.shards) for subset in self.index.subsets)
        made = f"{path}: made again from {shards} shards; absent: {', '.join(ABSENT)}"
        return [made, *self.notes]


@dataclass(frozen=True)
class _Remains:
    """What can be read of a damaged index."""

    exists: bool = False
    languages: tuple[str, ...] = ()
    shards: dict[str, ShardInfo] = field(default_factory=dict)


@dataclass(frozen=True)
class _Scanned:
    info: ShardInfo
    counts: tuple[dict[str, int], ...]
    is_bitext: bool
    has_checksum: bool


def repair(directory: Path, progress: bool = True, threads: int | None = None) -> RepairReport:
    """Makes the index again if it is lost or damaged, and only then.

    Args:
        directory: The data set.
        progress: Whether a bar is shown on stderr.
        threads: How many shards are read at once; None for one a CPU.

    Raises:
        UserError: There is no data set, its build is unfinished, or what is there can be read in
            more than one way.
        CorruptDataError: The SentencePiece model is damaged.
    """
    if not directory.is_dir():
        raise UserError(f"{directory}: no such folder; name a data set")
    try:
        return RepairReport(directory, read_index(directory), written=False)
    except CorruptDataError:
        pass
    except UserError:
        if (directory / INDEX_NAME).exists():
            raise  # of another format version: nothing here is known to be wrong
    if (directory / _WORK_DIR).exists():
        raise UserError(
            f"{directory}: its build is unfinished ({_WORK_DIR} is there), so that shards may be "
            f"missing; move {INDEX_NAME} away if there is one, and run `megaxlm data build` again"
        )
    remains = _read_remains(directory / INDEX_NAME)
    paths, problems = _find_shards(directory, remains)
    tokenizer = Tokenizer(tokenizer_path(directory))
    scanned, damaged = _scan(directory, paths, remains, tokenizer, progress, threads)
    problems += damaged
    if problems:
        return RepairReport(directory, None, written=False, problems=tuple(problems))
    subsets = _name_languages(directory, scanned, remains)
    ordered, notes = _in_order(subsets, remains)
    _check_tokenizer_is_theirs(directory, ordered, tokenizer)
    index = DatasetIndex(
        tokenizer_sha256=hashlib.sha256(tokenizer.model_path.read_bytes()).hexdigest(),
        vocab_size=tokenizer.vocab_size,
        subsets=tuple(ordered),
        build={"absent": list(ABSENT), "counts": _counts(ordered, subsets)},
    )
    repeated = check_document_ids(directory, index, {(s.split, s.name) for s in ordered})
    notes += [f"{directory / problem.path}: {problem.what}" for problem in repeated]
    if bare := sum(not each.has_checksum for group in subsets.values() for each in group):
        notes.append(
            f"{bare} shards carry no checksum of their own: another token in the place of the "
            "right one could not be seen"
        )
    write_index(directory, index)
    return RepairReport(directory, index, written=True, notes=tuple(notes))


def _read_remains(path: Path) -> _Remains:
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return _Remains()
    languages: tuple[str, ...] = ()
    if found := _LANGUAGES.search(text):
        try:
            languages = tuple(map(str, json.loads(found[1])))
        except ValueError:
            pass
    shards = {}
    for entry in _SHARD_ENTRY.findall(text):
        try:
            info = ShardInfo(**json.loads(entry))
            shards[str(info.path)] = info
        except (ValueError, TypeError):
            continue  # this entry is where the damage is
    return _Remains(True, languages, shards)


def _find_shards(
    directory: Path, remains: _Remains
) -> tuple[dict[tuple[Split, str], list[str]], list[Problem]]:
    """Returns the paths of shards by split and folder, and which ones are missing.

    A last shard that is missing shows only in what is left of the index.

    Raises:
        UserError: There is no shard, or there are files that a build does not make.
    """
    found: dict[tuple[Split, str], list[str]] = {}
    for split in SPLITS:
        for folder in sorted((directory / split).glob("*")):
            for path in sorted(folder.iterdir()) if folder.is_dir() else [folder]:
                if path == folder or not _SHARD_NAME.fullmatch(path.name):
                    raise UserError(
                        f"{path}: not a file of a finished build, so that it is not certain what "
                        "belongs to this data set; move it away and repair again"
                    )
                found.setdefault((split, folder.name), []).append(path.name)
    if not found:
        raise UserError(f"{directory}: no shard in it; name a data set")
    present = {f"{split}/{name}/{file}" for (split, name), files in found.items() for file in files}
    expected = {
        f"{split}/{name}/{before}"
        for (split, name), files in found.items()
        for before in _up_to(files)
    }
    missing = sorted(expected.union(remains.shards) - present)
    paths = {key: [f"{key[0]}/{key[1]}/{file}" for file in files] for key, files in found.items()}
    return paths, [Problem(path, "shard is missing") for path in missing]


def _up_to(files: list[str]) -> Iterator[str]:
    """Yields the names of all shards up to the last one of each segment."""
    last: dict[str, int] = {}
    for match in filter(None, map(_SHARD_NAME.fullmatch, files)):
        last[match[1] or ""] = max(last.get(match[1] or "", 0), int(match[2]))
    for prefix, number in last.items():
        yield from (f"{prefix}{before:05d}.arrow" for before in range(number))


def _scan(
    directory: Path,
    paths: dict[tuple[Split, str], list[str]],
    remains: _Remains,
    tokenizer: Tokenizer,
    progress: bool,
    threads: int | None,
) -> tuple[dict[tuple[Split, str], list[_Scanned]], list[Problem]]:
    """Reads every shard in full; returns what they hold, and which are damaged."""
    is_byte = byte_pieces(tokenizer)
    items = [(key, path) for key, group in paths.items() for path in group]
    sizes = [(directory / path).stat().st_size for _, path in items]

    def scan(item: tuple[tuple[Split, str], str]) -> _Scanned | str:
        path = directory / item[1]
        try:
            checksum = file_xxh3(path)
            found = scan_shard(path, is_byte)
        except OSError as error:
            return f"shard cannot be read ({error.strerror})"
        except CorruptDataError as error:
            return str(error).removeprefix(f"{path}: ")
        info = ShardInfo(
            path=item[1],
            rows=found.columns.rows,
            tokens=found.tokens,
            text_bytes=found.text_bytes,
            size=path.stat().st_size,
            xxh3=checksum,
        )
        if found.problems:
            return found.problems[0]
        if remains.shards.get(item[1], info) != info:
            return f"shard is not the one that what is left of {INDEX_NAME} tells of"
        has_checksum = found.columns.declared_checksum is not None
        return _Scanned(info, found.counts, found.columns.is_bitext, has_checksum)

    problems: list[Problem] = []
    shards: dict[tuple[Split, str], list[_Scanned]] = {}
    first_of: dict[tuple[str, str], str] = {}
    with Progress(progress).bar("repair", sum(sizes), "B") as bar:
        for (key, path), size, result in zip(
            items, sizes, map_threads(scan, items, threads), strict=True
        ):
            bar.update(size)
            if isinstance(result, str):
                problems.append(Problem(path, result))
                continue
            first = first_of.setdefault((key[1], result.info.xxh3), path)
            if first != path and result.info.rows:
                problems.append(Problem(path, f"shard is a copy of {first}"))
            shards.setdefault(key, []).append(result)
    return shards, problems


def _name_languages(
    directory: Path, scanned: dict[tuple[Split, str], list[_Scanned]], remains: _Remains
) -> dict[Subset, list[_Scanned]]:
    kinds: dict[str, bool] = {}
    for (split, name), shards in scanned.items():
        for shard in shards:
            if kinds.setdefault(name, shard.is_bitext) != shard.is_bitext:
                raise UserError(
                    f"{directory / split / name}: holds shards of documents and of pairs, so that "
                    "it is not certain what belongs to this data set; move what is not of it away "
                    "and repair again"
                )
    langs = languages_of(kinds, remains.languages)
    return {
        Subset(split, langs[name], tuple(each.info for each in shards)): shards
        for (split, name), shards in scanned.items()
    }


def _in_order(
    subsets: dict[Subset, list[_Scanned]], remains: _Remains
) -> tuple[list[Subset], list[str]]:
    """Orders subsets as the index had them where that is known, else by name."""
    notes = []
    languages = list(remains.languages)
    if not languages:
        notes.append(
            "the order of the languages, by which a model with language embeddings knows them, is "
            "lost with the index: it is alphabetical now; go on with no such run on this data set"
        )
    named = list(dict.fromkeys(str(Path(path).parent) for path in remains.shards))
    places = {lang: place for place, lang in enumerate(languages)}

    def key(subset: Subset) -> tuple[Any, ...]:
        folder = f"{subset.split}/{subset.name}"
        place = named.index(folder) if folder in named else len(named)
        of_langs = [(places.get(lang, len(places)), lang) for lang in subset.langs]
        return SPLITS.index(subset.split), place, subset.is_bitext, of_langs

    return sorted(subsets, key=key), notes


def _counts(ordered: list[Subset], subsets: dict[Subset, list[_Scanned]]) -> dict[str, Any]:
    result: dict[str, Any] = {
        subset.name: {split: {lang: {} for lang in subset.langs} for split in SPLITS}
        for subset in ordered
    }
    for subset in ordered:
        for side, lang in enumerate(subset.langs):
            total: Counter[str] = Counter()
            for scanned in subsets[subset]:
                total.update(scanned.counts[side])
            result[subset.name][subset.split][lang] = dict(sorted(total.items()))
    return result


def _check_tokenizer_is_theirs(
    directory: Path, subsets: list[Subset], tokenizer: Tokenizer
) -> None:
    """Decodes some rows: of most, the text has the hash that the row holds.

    A few texts differ from what their tokens spell, for sentencepiece normalises them once more;
    with another tokenizer all do.

    Raises:
        UserError: Not one row of the data set is what the tokenizer spells.
    """
    probed = 0
    for subset in subsets:
        columns = open_columns(directory / subset.shards[0].path)
        for row in range(min(_PROBED_ROWS, columns.rows)):
            probed += 1
            if _id_of_row(columns, row, tokenizer) == int(columns.doc_ids[row]):
                return
    raise UserError(
        f"{tokenizer.model_path}: none of {probed} rows is what this tokenizer spells: it is not "
        "the one that the shards were made with; bring that one back and repair again",
        EXIT_FOUND_WRONG,
    )


def _id_of_row(columns: ShardColumns, row: int, tokenizer: Tokenizer) -> int:
    texts = [
        tokenizer.decode(side.values[side.offsets[row] : side.offsets[row + 1]].tolist())
        for side in columns.sides
    ]
    return pair_id(texts[0], texts[1]) if columns.is_bitext else document_id(texts[0])
