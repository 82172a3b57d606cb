"""Opens a unit: whatever its form, it gives rows of text, one for a document or a pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.config.data_sources import BitextSource, MonolingualSource
from megaxlm_data.bitext.readers import read_aligned, read_tsv
from megaxlm_data.bitext.tmx import TmxReader
from megaxlm_data.readers.columnar import ArrowReader, ParquetReader
from megaxlm_data.readers.documents import RawDocument, read_documents, read_lines
from megaxlm_data.readers.json_lines import JsonLinesReader
from megaxlm_data.readers.lines import LineReader, Undecodable
from megaxlm_data.readers.records import Policies, RawRow, RowReader, Source
from megaxlm_data.readers.tsv import TsvReader
from megaxlm_data.readers.wikipedia import WikipediaJsonReader, WikipediaReader
from megaxlm_data.stages.plan import Unit

# Text is held before it is normalised, and white space may shrink: so much more than the limit on
# a clean document is read before one is given up as too long.
_RAW_FACTOR, _RAW_EXTRA = 4, 1 << 16
_JSON_FACTOR = 2  # of the bytes of a line over those of its text: escapes, other fields


@dataclass(frozen=True)
class Rows:
    """The rows of a unit and where they come from."""

    rows: Iterable[RawRow]
    sources: list[Source]
    max_chars: int  # of a raw text; a longer one is too long

    @property
    def position(self) -> int:
        """Bytes of the input read until now, as it lies on the disk."""
        return sum(source.position for source in self.sources)

    @property
    def counts(self) -> Counter[str]:
        """Lines with invalid UTF-8, by what was done with them."""
        return sum((source.counts for source in self.sources), Counter[str]())


def open_rows(
    unit: Unit, config: DataBuildConfig, stack: ExitStack, tick: Callable[[], None]
) -> Rows:
    """Opens a unit.

    Args:
        unit: What to read.
        config: The limits and policies.
        stack: Closes the files.
        tick: Called now and then where long reading gives no row.

    Returns:
        Its rows. A row of documents is (text,), or (text, language) where a field says it; one of
        bitext is (source, target).
    """
    filters = config.filters
    is_bitext = isinstance(unit.source, BitextSource)
    of_any = [filters, *map(filters.for_lang, filters.by_lang)]  # a filter knows which applies
    limit = max(each.max_pair_chars if is_bitext else each.max_document_chars for each in of_any)
    max_chars = _RAW_FACTOR * limit + _RAW_EXTRA
    line_bytes = 4 * max_chars
    policies = Policies(config.on_invalid_utf8, config.on_bad_record)
    path = unit.files[0]

    def lines(path: str) -> LineReader:
        policy = policies.invalid_utf8
        return stack.enter_context(LineReader(path, policy, line_bytes, unit.start, unit.end))

    if unit.form in ("documents", "lines"):
        reader = lines(path)
        documents = (
            read_documents(reader, max_chars, first_range=unit.start == 0)
            if unit.form == "documents"
            else read_lines(reader, max_chars)
        )
        return Rows(_as_rows(documents), [reader], max_chars)
    if unit.form == "tsv" and isinstance(unit.source, BitextSource):
        reader = lines(path)
        pairs = read_tsv(reader, unit.start, unit.source.columns, policies.bad_record)
        return Rows(pairs, [reader], max_chars)
    if unit.form == "aligned":
        first, second = map(lines, unit.files)
        return Rows(read_aligned(first, second, tick), [first, second], max_chars)
    records: RowReader
    span = unit.start, unit.end
    if unit.form == "jsonl":
        most = _JSON_FACTOR * line_bytes
        records = JsonLinesReader(path, unit.fields, policies, most, *span)
    elif unit.form == "tsv":
        assert isinstance(unit.source, MonolingualSource)
        columns, keys = unit.source.columns, unit.fields.keys
        records = TsvReader(path, columns, keys, policies, _JSON_FACTOR * line_bytes, *span)
    elif unit.form == "parquet":
        records = ParquetReader(path, unit.fields, policies, *span)
    elif unit.form == "arrow":
        records = ArrowReader(path, unit.fields, policies, *span)
    elif unit.form == "tmx":
        assert len(unit.langs) == 2
        records = TmxReader(path, (unit.langs[0], unit.langs[1]), policies.invalid_utf8, max_chars)
    elif unit.form == "wikipedia_json":
        records = WikipediaJsonReader(path, policies, max_chars)
    else:
        records = WikipediaReader(path, policies, max_chars)
    stack.enter_context(records)
    return Rows(records, [records], max_chars)


def _as_rows(documents: Iterator[RawDocument | Undecodable]) -> Iterator[RawRow]:
    for document in documents:
        yield (document,) if isinstance(document, str) else document
