"""`megaxlm data inspect`: what a data set holds, language by language."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from megaxlm.data.shards import SPLITS, DatasetIndex, Split, Subset, read_index

_UNSPACED_ABOVE = 0.3  # share of characters in scripts without spaces: no words to count
_WIDE = 10_000  # columns: a table in a file or a pipe is never cut


@dataclass(frozen=True)
class LanguageReport:
    """One language of one subset; bitext has two of these."""

    lang: str
    tokens: int
    text_bytes: int
    tokens_per_word: float | None  # None where the script has no spaces between words
    tokens_per_char: float
    bytes_per_token: float
    unknown_rate: float  # <unk> among tokens
    byte_fallback_rate: float  # single bytes among tokens


@dataclass(frozen=True)
class SubsetReport:
    """One language, or one pair, in one split."""

    name: str
    split: Split
    is_bitext: bool
    documents: int
    tokens: int
    text_bytes: int
    shards: int
    languages: tuple[LanguageReport, ...]
    sampling_share: float | None  # among the training subsets of its kind
    epochs: float | None  # at the tokens asked for


@dataclass(frozen=True)
class InspectReport:
    """What a data set holds."""

    directory: str
    vocab_size: int
    tokenizer_sha256: str
    alpha: float
    tokens: int  # for the epochs
    subsets: tuple[SubsetReport, ...]
    cleaning: dict[str, Any]  # read, dropped by reason, duplicates, by language or pair

    def to_json(self) -> str:
        """Returns the report as JSON."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)


def inspect(directory: Path, alpha: float = 0.3, tokens: int | None = None) -> InspectReport:
    """Describes a data set from its index alone.

    Args:
        directory: The data set.
        alpha: Languages are sampled with p ~ tokens^alpha, pairs likewise among themselves.
        tokens: Training tokens for the epochs; None for as many as the training split holds.
            Monolingual text and bitext are each reckoned as if all of it were theirs.

    Raises:
        UserError: There is no data set.
    """
    index = read_index(directory)
    budgets: dict[bool, int] = {}
    shares: dict[str, float] = {}
    for kind in (index.monolingual("train"), index.bitext("train")):
        if not kind:
            continue
        budgets[kind[0].is_bitext] = tokens or sum(subset.tokens for subset in kind)
        weights = {subset.name: float(subset.tokens) ** alpha for subset in kind}
        shares |= {name: weight / sum(weights.values()) for name, weight in weights.items()}
    reports = []
    for subset in index.subsets:
        if not subset.rows:
            continue
        share = shares[subset.name] if subset.split == "train" else None
        epochs = None
        if share is not None and subset.tokens:
            epochs = budgets[subset.is_bitext] * share / subset.tokens
        reports.append(_subset_report(index, subset, share, epochs))
    return InspectReport(
        directory=str(directory),
        vocab_size=index.vocab_size,
        tokenizer_sha256=index.tokenizer_sha256,
        alpha=alpha,
        tokens=tokens or sum(s.tokens for s in index.subsets if s.split == "train"),
        subsets=tuple(reports),
        cleaning=index.build.get("cleaning", {}),
    )


def _subset_report(
    index: DatasetIndex, subset: Subset, share: float | None, epochs: float | None
) -> SubsetReport:
    counts = index.build.get("counts", {}).get(subset.name, {}).get(subset.split, {})
    cleaning = index.build.get("cleaning", {}).get(subset.name, {})
    unspaced = cleaning.get("unspaced_share", [0.0] * len(subset.langs))
    languages = tuple(
        _language_report(lang, counts[lang], side_unspaced > _UNSPACED_ABOVE)
        for lang, side_unspaced in zip(subset.langs, unspaced, strict=True)
        if lang in counts
    )
    return SubsetReport(
        name=subset.name,
        split=subset.split,
        is_bitext=subset.is_bitext,
        documents=subset.rows,
        tokens=subset.tokens,
        text_bytes=subset.text_bytes,
        shards=len(subset.shards),
        languages=languages,
        sampling_share=share,
        epochs=epochs,
    )


def _language_report(lang: str, counts: dict[str, int], unspaced: bool) -> LanguageReport:
    tokens = counts["tokens"]
    return LanguageReport(
        lang=lang,
        tokens=tokens,
        text_bytes=counts["text_bytes"],
        tokens_per_word=None if unspaced else tokens / max(1, counts["words"]),
        tokens_per_char=tokens / max(1, counts["chars"]),
        bytes_per_token=counts["text_bytes"] / max(1, tokens),
        unknown_rate=counts["unknown"] / max(1, tokens),
        byte_fallback_rate=counts["byte_fallback"] / max(1, tokens),
    )


def render(report: InspectReport) -> str:
    """Returns the report as tables for a terminal."""
    parts = [
        f"{report.directory}: vocabulary {report.vocab_size:,}, tokenizer "
        f"{report.tokenizer_sha256[:12]}\n"
    ]
    for split in SPLITS:
        for bitext in (False, True):
            subsets = [s for s in report.subsets if (s.split, s.is_bitext) == (split, bitext)]
            if subsets:
                parts.append(_table(report, subsets, split, bitext))
    return "\n".join(parts)


def _table(
    report: InspectReport, subsets: Sequence[SubsetReport], split: Split, bitext: bool
) -> str:
    kind = "pairs" if bitext else "documents"
    table = Table(title=f"{split}: {kind}", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("pair" if bitext else "lang")
    headings = [kind, "tokens", "bytes", "tok/word", "tok/char", "bytes/tok", "unk", "byte"]
    if split == "train":
        headings += [f"share a={report.alpha:g}", "epochs"]
    for heading in headings:
        table.add_column(heading, justify="right")
    for subset in subsets:
        languages = subset.languages
        cells = [
            subset.name,
            f"{subset.documents:,}",
            f"{subset.tokens:,}",
            f"{subset.text_bytes:,}",
            _both(
                "-" if x.tokens_per_word is None else f"{x.tokens_per_word:.2f}" for x in languages
            ),
            _both(f"{x.tokens_per_char:.3f}" for x in languages),
            _both(f"{x.bytes_per_token:.2f}" for x in languages),
            _both(f"{x.unknown_rate:.3%}" for x in languages),
            _both(f"{x.byte_fallback_rate:.2%}" for x in languages),
        ]
        if split == "train":
            cells += [f"{subset.sampling_share:.2%}", f"{subset.epochs:.2f}"]
        table.add_row(*cells)
    if len(subsets) > 1:
        total = ["all", *(f"{sum(column):,}" for column in _columns(subsets))]
        table.add_section()
        table.add_row(*total, *[""] * (len(headings) + 1 - len(total)))
    text = io.StringIO()
    Console(file=text, width=_WIDE, force_terminal=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _both(cells: Iterable[str]) -> str:
    return " / ".join(cells)


def _columns(subsets: Sequence[SubsetReport]) -> list[list[int]]:
    return [
        [subset.documents for subset in subsets],
        [subset.tokens for subset in subsets],
        [subset.text_bytes for subset in subsets],
    ]
