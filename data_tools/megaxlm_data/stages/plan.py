"""Stage 1: which files are read in which pieces. Everything wrong with the inputs shows here.

A unit is a file, a range of a large uncompressed file or two aligned files. It is known by a
digest of what its cleaned text depends on, so that a changed config or a changed file redoes
exactly the units it touches. Units do not depend on the number of workers.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.errors import UserError
from megaxlm_data.filters.build_steps import build_key
from megaxlm_data.progress import Progress
from megaxlm_data.readers.stream import check_readable, codec_of

BUILD_VERSION = 1  # of the cleaning and encoding: raised when their output changes
RANGE_BYTES = 64 << 20
Form = Literal["documents", "tsv", "aligned"]


@dataclass(frozen=True)
class Unit:
    """A piece of input that one task cleans."""

    langs: tuple[str, ...]
    form: Form
    files: tuple[Path, ...]  # two for aligned files
    start: int  # bytes; 0 unless the file is uncompressed and large
    end: int | None
    input_bytes: int  # on disk, of all its files
    digest: str


@dataclass(frozen=True)
class Group:
    """All input of one language or pair, in the order of the config."""

    langs: tuple[str, ...]
    units: tuple[Unit, ...]

    @property
    def name(self) -> str:
        """`en`, or `en-fr`: the name of its folder of shards."""
        return "-".join(self.langs)

    @property
    def is_bitext(self) -> bool:
        """Whether it holds pairs."""
        return len(self.langs) == 2

    @property
    def files(self) -> list[str]:
        """Its files, each once."""
        return list(dict.fromkeys(str(path) for unit in self.units for path in unit.files))


@dataclass(frozen=True)
class Plan:
    """What a build will do."""

    groups: tuple[Group, ...]
    digest: str  # of all that the output depends on

    @property
    def units(self) -> list[Unit]:
        """Every unit once, also if a file is named twice."""
        return list({u.digest: u for group in self.groups for u in group.units}.values())


def digest_of(value: Any) -> str:
    """Returns 16 hex digits for a JSON-able value."""
    content = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def make_plan(config: DataBuildConfig, progress: Progress) -> Plan:
    """Resolves and checks every input.

    Raises:
        UserError: A file is missing or unreadable, or a pattern matches nothing.
    """
    groups: dict[tuple[str, ...], list[Unit]] = {}
    for number, source in enumerate(config.corpora):
        units = groups.setdefault((source.lang,), [])
        for path in _resolve(source.paths, f"corpora.{number}.paths ({source.lang})"):
            units += _units(config, (source.lang,), "documents", (path,), progress)
    for number, pair in enumerate(config.bitext):
        where = f"bitext.{number}"
        units = groups.setdefault(pair.langs, [])
        for path in _resolve(pair.tsv, f"{where}.tsv"):
            units += _units(config, pair.langs, "tsv", (path,), progress)
        source_files = list(_resolve(pair.source, f"{where}.source"))
        target_files = list(_resolve(pair.target, f"{where}.target"))
        if len(source_files) != len(target_files):
            raise UserError(
                f"{where}: `source` gives {len(source_files)} files and `target` "
                f"{len(target_files)}; aligned files come in pairs"
            )
        for files in zip(source_files, target_files, strict=True):
            units += _units(config, pair.langs, "aligned", files, progress)
    names = ["-".join(langs) for langs in groups]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"`{name}` names both a language and a pair; rename one of them")
    result = tuple(Group(langs, tuple(units)) for langs, units in groups.items())
    return Plan(result, _digest(config, result))


def _digest(config: DataBuildConfig, groups: tuple[Group, ...]) -> str:
    model = config.tokenizer.model
    content = model_digest(model) if model is not None else None
    settings = config.model_dump(mode="json", exclude={"output", "workers", "corpora", "bitext"})
    units = [[group.langs, [unit.digest for unit in group.units]] for group in groups]
    return digest_of([BUILD_VERSION, settings, content, units])


def model_digest(model: Path) -> str:
    """Returns a digest of a SentencePiece model, or of the models in a folder.

    Raises:
        UserError: It cannot be read.
    """
    try:
        files = sorted(model.glob("*.model")) if model.is_dir() else [model]
        return digest_of([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    except OSError as error:
        raise UserError(
            f"{model}: cannot read the tokenizer model ({error.strerror}); correct "
            "`tokenizer.model`"
        ) from None


def _resolve(patterns: list[str], where: str) -> Iterator[Path]:
    for pattern in map(os.path.expanduser, patterns):
        if not glob.has_magic(pattern) or Path(pattern).exists():
            yield Path(pattern)
            continue
        found = sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file())
        if not found:
            raise UserError(f"{where}: no file matches {pattern}; correct the pattern")
        yield from map(Path, found)


def _units(
    config: DataBuildConfig,
    langs: tuple[str, ...],
    form: Form,
    files: tuple[Path, ...],
    progress: Progress,
) -> Iterator[Unit]:
    sizes = [check_readable(path) for path in files]
    for path, size in zip(files, sizes, strict=True):
        if size == 0:
            progress.warn(f"{path}: empty file, it holds no documents of {'-'.join(langs)}")
    identity = [
        [str(path.absolute()), size, path.stat().st_mtime_ns]
        for path, size in zip(files, sizes, strict=True)
    ]
    filters = config.filters.model_dump()
    languages = config.language_identification.model_dump()
    cleaning = [config.normalization, config.on_invalid_utf8, filters, languages, build_key(config)]
    starts: list[int] = [0]
    if form != "aligned" and codec_of(files[0]) is None:
        starts = list(range(0, max(1, sizes[0]), RANGE_BYTES))
    for start in starts:
        last = start == starts[-1]
        end = None if last else start + RANGE_BYTES
        span = sum(sizes) - start if last else RANGE_BYTES
        key = [BUILD_VERSION, langs, form, identity, start, end, cleaning]
        yield Unit(langs, form, files, start, end, span, digest_of(key))
