"""The report as tables for a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from megaxlm.data.shards import SPLITS, Split
from megaxlm_data.inspect.report import InspectReport, SubsetReport

_WIDE = 10_000  # columns: a table in a file or a pipe is never cut


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
            _both(
                "-" if x.tokens_per_char is None else f"{x.tokens_per_char:.3f}" for x in languages
            ),
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
