"""Stage 1: which files are read in which pieces. Everything wrong with the inputs shows here.

A unit is a file, a part of a large one or two aligned files. It is known by a digest of what its
cleaned text depends on, so that a changed config or a changed file redoes exactly the units it
touches. Units do not depend on the number of workers. Which languages there are is known after
cleaning alone, where a field or the text itself says so: then units form groups.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.config.data_sources import DETECT, BitextSource, MonolingualSource
from megaxlm.errors import UserError
from megaxlm_data.filters.build_steps import build_key
from megaxlm_data.progress import Progress
from megaxlm_data.readers import choice
from megaxlm_data.readers.choice import UNKNOWN, LanguageChoice
from megaxlm_data.readers.columnar import arrow_facts, check_columns, parquet_facts
from megaxlm_data.readers.formats import (
    COLUMNAR,
    SPLIT_ANYWHERE,
    Form,
    document_form,
    pair_form,
    settled,
)
from megaxlm_data.readers.locations import FileFacts, facts_of, find_by_language, find_files
from megaxlm_data.readers.records import FieldNames
from megaxlm_data.readers.remote import is_remote
from megaxlm_data.readers.stream import check_codec, codec_of
from megaxlm_data.readers.tsv import column_places

BUILD_VERSION = 2  # of the cleaning and encoding: raised when their output changes
DIGEST_CHARS = 16
RANGE_BYTES = 64 << 20
_REQUESTS = 16  # at once, to look at remote files
# What cleaning does not depend on; a section that is not named here counts.
_NOT_CLEANING = {
    "output",
    "seed",
    "corpora",
    "bitext",
    "deduplication",
    "tokenizer",
    "validation_fraction",
    "max_validation_documents",
    "shard_tokens",
    "workers",
}


@dataclass(frozen=True)
class Unit:
    """A piece of input that one task cleans; after it, what of that is of one language or pair."""

    langs: tuple[str, ...]  # none before cleaning where a field or the text says it
    form: Form
    files: tuple[str, ...]  # paths or addresses; two for aligned files
    start: int  # bytes, row groups or record batches; 0 unless the file is large
    end: int | None
    input_bytes: int  # on disk, of all its files
    digest: str
    source: MonolingualSource | BitextSource
    where: str  # the source in the config: `corpora.0`

    @property
    def fields(self) -> FieldNames:
        """What a row of a file with fields is made of."""
        if isinstance(self.source, BitextSource):
            return FieldNames(self.source.text_fields, 2, ("fields", "fields"))
        names = tuple(map(str, self.source.columns))
        return FieldNames(names, 1, ("text_field", "lang_field")[: len(names)])

    @property
    def is_named(self) -> bool:
        """Whether the config itself says its language or pair; else a path, a field or the text."""
        of = self.source
        return isinstance(of, BitextSource) or (of.lang is not None and of.lang != DETECT)

    def part(self, langs: tuple[str, ...]) -> Unit:
        """Returns what of it is in one language or pair."""
        return replace(self, langs=langs, digest=f"{self.digest}.{'-'.join(langs)}")


@dataclass(frozen=True)
class Inputs:
    """What a build will read."""

    units: tuple[Unit, ...]  # in the order of the config; one of a file named twice is there twice
    digest: str  # of all that the output depends on

    @property
    def languages_known(self) -> bool:
        """Whether the languages are known before cleaning."""
        return all(unit.langs for unit in self.units)

    @property
    def distinct(self) -> list[Unit]:
        """Every unit once."""
        return list({unit.digest: unit for unit in self.units}.values())


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
        return list(dict.fromkeys(path for unit in self.units for path in unit.files))


@dataclass(frozen=True)
class Plan:
    """What a build will make."""

    groups: tuple[Group, ...]
    digest: str  # of all that the output depends on

    @property
    def units(self) -> list[Unit]:
        """Every unit once, also if a file is named twice."""
        return list({u.digest: u for group in self.groups for u in group.units}.values())


def digest_of(value: Any) -> str:
    """Returns `DIGEST_CHARS` hex digits for a JSON-able value."""
    content = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:DIGEST_CHARS]


def find_inputs(config: DataBuildConfig, progress: Progress) -> Inputs:
    """Resolves and checks every input.

    Raises:
        UserError: A file is missing or unreadable, lacks a field, or a pattern matches nothing.
    """
    candidates = [*_document_files(config), *_pair_files(config)]
    cleaning = [config.model_dump(mode="json", exclude=_NOT_CLEANING), *build_key(config)]
    if any(source.lang == DETECT for source in config.corpora):
        cleaning.append(choice.identifier_key(config))
    units: list[Unit] = []
    with ThreadPoolExecutor(_REQUESTS) as requests:
        pending = [
            requests.submit(_look_at, candidate) if any(map(is_remote, candidate.files)) else None
            for candidate in candidates
        ]
        try:
            for candidate, answer in zip(candidates, pending, strict=True):
                looked = _look_at(candidate) if answer is None else answer.result()
                units += _units(candidate, looked, cleaning, progress)
        finally:
            requests.shutdown(wait=True, cancel_futures=True)
    names = dict.fromkeys(unit.langs for unit in units)
    check_names(list(names))
    return Inputs(tuple(units), _digest(config, units))


def check_names(groups: list[tuple[str, ...]]) -> None:
    """Checks that no two groups would share a folder.

    Raises:
        UserError: A language is called as a pair is: `en-fr`.
    """
    names = ["-".join(langs) for langs in groups]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"`{name}` names both a language and a pair; rename one of them")


def _digest(config: DataBuildConfig, units: list[Unit]) -> str:
    model = config.tokenizer.model
    content = model_digest(model) if model is not None else None
    settings = config.model_dump(mode="json", exclude={"output", "workers", "corpora", "bitext"})
    digests = [[unit.langs, unit.digest] for unit in units]
    return digest_of([BUILD_VERSION, settings, content, digests])


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


@dataclass(frozen=True)
class _Looked:
    """What there is to know of a candidate before it is read."""

    facts: list[FileFacts]
    form: Form
    part_bytes: list[int]  # of each row group or record batch


def _document_files(config: DataBuildConfig) -> Iterator[Unit]:
    """Yields a unit for every file, not yet looked at."""
    for number, source in enumerate(config.corpora):
        where = f"corpora.{number}"
        key = f"{where}.paths"
        if source.lang_from == "path":
            languages = LanguageChoice(source.languages)
            for written, path in find_by_language(source.paths, key):
                lang, reason = languages.of(written)
                if reason == UNKNOWN and source.languages is None:
                    raise UserError(
                        f"{path}: `{written}` in the place of `{{lang}}` is no language code; "
                        f"rename it, or name the languages to take: {where}.languages"
                    )
                if reason is None:
                    yield _candidate((lang,), _document_form(path, source), path, source, where)
            continue
        of_one = source.lang is not None and source.lang != DETECT
        langs = (source.lang,) if of_one and source.lang else ()
        for path in find_files(source.paths, f"{key} ({source.lang})" if of_one else key):
            yield _candidate(langs, _document_form(path, source), path, source, where)


def _document_form(path: str, source: MonolingualSource) -> Form:
    form = document_form(path, source.format)
    if source.lang_field is not None and form in ("documents", "lines", "wikipedia"):
        raise UserError(
            f"{path}: text has no field `{source.lang_field}`; set `format`, or say in another way "
            "which language it is"
        )
    if form != "tsv" and any(isinstance(column, int) for column in source.columns):
        raise UserError(
            f"{path}: a field given as a number is a column of TSV; set `format: tsv` or name it"
        )
    return form


def _pair_files(config: DataBuildConfig) -> Iterator[Unit]:
    for number, pair in enumerate(config.bitext):
        where = f"bitext.{number}"
        for path in find_files(pair.paths, f"{where}.paths"):
            yield _candidate(pair.langs, pair_form(path, pair.format), path, pair, where)
        for path in find_files(pair.tsv, f"{where}.tsv"):
            yield _candidate(pair.langs, "tsv", path, pair, where)
        source_files = list(find_files(pair.source, f"{where}.source"))
        target_files = list(find_files(pair.target, f"{where}.target"))
        if len(source_files) != len(target_files):
            raise UserError(
                f"{where}: `source` gives {len(source_files)} files and `target` "
                f"{len(target_files)}; aligned files come in pairs"
            )
        for files in zip(source_files, target_files, strict=True):
            yield Unit(pair.langs, "aligned", files, 0, None, 0, "", pair, where)


def _candidate(
    langs: tuple[str, ...],
    form: Form,
    path: str,
    source: MonolingualSource | BitextSource,
    where: str,
) -> Unit:
    return Unit(langs, form, (path,), 0, None, 0, "", source, where)


def _look_at(unit: Unit) -> _Looked:
    facts = [facts_of(path) for path in unit.files]
    first = facts[0]
    if unit.form not in COLUMNAR:
        for each in facts:
            check_codec(each)
        if unit.form == "tsv" and isinstance(unit.source, MonolingualSource):
            column_places(first.path, unit.source.columns, unit.fields.keys)
        return _Looked(facts, settled(unit.form, first), [])
    if unit.form == "parquet":
        footer = parquet_facts(first.path)
    else:
        footer = arrow_facts(first.path, first.size or 0, first.head)
    check_columns(first.path, footer.names, unit.fields)
    return _Looked(facts, unit.form, footer.part_bytes)


def _units(unit: Unit, looked: _Looked, cleaning: Any, progress: Progress) -> Iterator[Unit]:
    """Yields the pieces of what is one unit until now."""
    for facts in looked.facts:
        if facts.size == 0:
            of = f" of {'-'.join(unit.langs)}" if unit.langs else ""
            progress.warn(f"{facts.path}: empty file, it holds no documents{of}")
    size = sum(facts.size or 0 for facts in looked.facts)
    names = {"lang", "lang_from", "paths", "tsv", "source", "target", "format"}
    reading = unit.source.model_dump(mode="json", exclude=names)
    identity = [facts.identity for facts in looked.facts]
    for start, end, span in _pieces(unit, looked, size):
        key = [BUILD_VERSION, unit.langs, looked.form, identity, start, end, reading, cleaning]
        yield replace(
            unit,
            form=looked.form,
            start=start,
            end=end,
            input_bytes=span,
            digest=digest_of(key),
        )


def _pieces(unit: Unit, looked: _Looked, size: int) -> Iterator[tuple[int, int | None, int]]:
    """Yields (start, end, bytes) of each piece."""
    starts = [0]
    path = unit.files[0]
    if looked.form in COLUMNAR:
        held = 0
        for number, part in enumerate(looked.part_bytes):
            if held >= RANGE_BYTES:
                starts.append(number)
                held = 0
            held += part
        bounds = [*starts[1:], len(looked.part_bytes)]
        for start, end in zip(starts, bounds, strict=True):
            last = end == bounds[-1]
            yield start, None if last else end, sum(looked.part_bytes[start:end]) or size
        return
    # a plain web server may not give a part of a file, or only by reading what comes before
    if looked.form in SPLIT_ANYWHERE and codec_of(path) is None and not path.startswith("http"):
        starts = list(range(0, max(1, size), RANGE_BYTES))
    for start in starts:
        last = start == starts[-1]
        yield start, None if last else start + RANGE_BYTES, size - start if last else RANGE_BYTES
