"""The page of a data set: `megaxlm data inspect DIR --html`.

Sizes, shares and fertility come from the index; document lengths and shared documents are read
from the shards. What an index does not tell (one of an earlier version, or a repaired one) is left
out, and a line says so.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from html import escape
from pathlib import Path

from megaxlm.data.shards import DatasetIndex, read_index, write_atomically
from megaxlm.errors import CorruptDataError
from megaxlm_data.inspect.cleaning import drop_counts, other_counts
from megaxlm_data.inspect.html import (
    Column,
    Page,
    details,
    figure,
    heading,
    paragraph,
    table,
)
from megaxlm_data.inspect.lengths import LengthHistogram, length_histograms
from megaxlm_data.inspect.overlap import Overlap, find_overlap
from megaxlm_data.inspect.page_tables import counts_table, generic, subset_table
from megaxlm_data.inspect.plots.canvas import Plot, drawing, short, to_svg
from megaxlm_data.inspect.plots.matrix import MAX_SIDE, overlap_plot, pair_plot
from megaxlm_data.inspect.plots.quality import (
    compression_plot,
    drop_plot,
    fertility_plot,
    length_plot,
    unknown_plot,
)
from megaxlm_data.inspect.plots.sizes import Size, sampling_plot, size_plot
from megaxlm_data.inspect.report import InspectReport, LanguageReport, SubsetReport

_ROW_TOKENS = 512  # the length of a row in most recipes of this project
_MAX_BARS = 150  # languages or pairs in a plot; tables have all
_MAX_PAIRS = 60  # rows of a table of pairs of languages


def write_page(
    report: InspectReport, directory: Path, file: str = "", threads: int | None = None
) -> Path:
    """Writes the page, whole or not at all.

    Args:
        report: Of `inspect`.
        directory: The data set that it is of.
        file: Where the page goes; empty for `report.html` in the data set.
        threads: How many shards are read at once; None for one a CPU.

    Returns:
        Where it went.

    Raises:
        UserError: matplotlib is not installed.
        CorruptDataError: A shard cannot be read.
    """
    content = make_page(report, directory, threads)
    path = Path(file) if file else directory / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.encode())
    return path


def make_page(report: InspectReport, directory: Path, threads: int | None = None) -> str:
    """Makes the page; see `write_page`.

    Returns:
        HTML that needs nothing else.
    """
    with drawing():
        index = read_index(directory)
        try:
            lengths = length_histograms(directory, index, threads)
            overlap = find_overlap(directory, index, threads=threads)
        except (CorruptDataError, OSError) as error:
            remedy = f"`megaxlm data verify {directory}` names everything that is wrong"
            raise CorruptDataError(f"{error}; {remedy}") from None
        return _Sections(report, index, lengths, overlap).page().render()


class _Sections:
    """Makes the sections; each is a method."""

    def __init__(
        self,
        report: InspectReport,
        index: DatasetIndex,
        lengths: Mapping[str, LengthHistogram],
        overlap: Overlap,
    ) -> None:
        self._report, self._index, self._lengths, self._overlap = report, index, lengths, overlap
        train = [subset for subset in report.subsets if subset.split == "train"]
        train.sort(key=lambda subset: (-subset.text_bytes, subset.name))
        self._languages = [subset for subset in train if not subset.is_bitext]
        self._pairs = [subset for subset in train if subset.is_bitext]
        self._figures = 0

    def page(self) -> Page:
        report = self._report
        train = [*self._languages, *self._pairs]
        facts = {
            "languages": f"{len(self._index.languages):,}",
            "documents": f"{sum(s.documents for s in self._languages):,}",
            "sentence pairs": f"{sum(s.documents for s in self._pairs):,}",
            "training tokens": short(sum(s.tokens for s in train)),
            "text": short(sum(s.text_bytes for s in train), "B"),
            "shards": f"{sum(s.shards for s in report.subsets):,}",
            "vocabulary": f"{report.vocab_size:,}",
        }
        name = Path(report.directory).resolve().name
        subtitle = f"{report.directory}; tokenizer {report.tokenizer_sha256[:12]}"
        page = Page(f"Data set {name}", subtitle, facts)
        page.add("size", "How much there is", *self._sizes())
        page.add("sampling", "How training draws on it", *self._sampling())
        page.add("tokenizer", "How the tokenizer suits each language", *self._tokenizer())
        page.add("lengths", "How long documents are", *self._document_lengths())
        page.add("cleaning", "What cleaning dropped and changed", *self._cleaning())
        page.add("overlap", "Which languages share documents", *self._shared())
        page.add("pairs", "Which languages have bitext with each other", *self._bitext())
        page.add("more", "What else the build counted", *self._more())
        page.add("tables", "All languages and pairs", *self._tables())
        return page

    def _figure(self, plot: Plot, caption: str) -> str:
        self._figures += 1
        return figure(to_svg(plot, f"f{self._figures}"), caption)

    def _sizes(self) -> list[str]:
        parts = []
        for subsets, what in ((self._languages, "documents"), (self._pairs, "pairs")):
            if subsets:
                shown = subsets[:_MAX_BARS]
                caption = f"Training {what}, the largest first, on a logarithmic scale."
                if len(subsets) > len(shown):
                    caption += f" The {len(shown)} largest of {len(subsets)}; tables have all."
                parts.append(self._figure(size_plot([_size(s) for s in shown], what), caption))
        return parts

    def _sampling(self) -> list[str]:
        if len(self._languages) < 2:
            return []
        report = self._report
        plot = sampling_plot([_size(s) for s in self._languages], report.alpha, report.tokens)
        text = (
            "A language with n tokens is drawn with a probability in proportion to n^alpha. At 1 "
            "languages come as they lie, at 0 all alike; a small alpha repeats small languages."
        )
        caption = (
            f"Left: shares. Right: how often each language is seen in {report.tokens:,} tokens. "
            f"The dashed line is alpha {report.alpha:g}. Grey curves are the other languages."
        )
        columns = [Column("language", None), Column("tokens"), Column("share of tokens", "{:.3%}")]
        columns += [
            Column(f"share at alpha {report.alpha:g}", "{:.3%}"),
            Column("epochs", "{:.2f}"),
        ]
        total = sum(s.tokens for s in self._languages)
        rows = [
            (s.name, s.tokens, s.tokens / total, s.sampling_share, s.epochs)
            for s in self._languages
        ]
        shares = details("Shares of all languages", table("Sampling shares", columns, rows))
        return [paragraph(text), self._figure(plot, caption), shares]

    def _tokenizer(self) -> list[str]:
        sides: dict[str, LanguageReport] = {
            subset.name: subset.languages[0] for subset in self._languages if subset.languages
        }
        parts = []
        if words := {n: s.tokens_per_word for n, s in sides.items() if s.tokens_per_word}:
            caption = (
                "Tokens for a word of training text; fewer is better. Languages written without "
                "spaces have no bar."
            )
            parts.append(self._figure(fertility_plot(words), caption))
        if sides:
            caption = (
                "Bytes of text that one token stands for; more is better among languages of one "
                "script (a letter has one byte in Latin script, two in Greek, Cyrillic or Arabic, "
                "three in most of Asia)."
            )
            values = {name: side.bytes_per_token for name, side in sides.items()}
            parts.append(self._figure(compression_plot(values), caption))
        unknown = {name: side.unknown_rate for name, side in sides.items()}
        fallback = {name: side.byte_fallback_rate for name, side in sides.items()}
        if any(unknown.values()) or any(fallback.values()):
            caption = (
                "Tokens that say nothing (<unk>) or spell a character byte by byte. Languages "
                "without any have no bar."
            )
            parts.append(self._figure(unknown_plot(unknown, fallback), caption))
        for name in ("tokenizer_report", "tokenizer"):
            if name in self._report.statistics:
                parts.append(generic(name, self._report.statistics[name]))
        return parts

    def _document_lengths(self) -> list[str]:
        parts = []
        for subsets, what in ((self._languages, "documents"), (self._pairs, "pairs")):
            shown = {s.name: self._lengths[s.name] for s in subsets if s.name in self._lengths}
            if not shown:
                continue
            plot = length_plot(dict(list(shown.items())[:_MAX_BARS]), _ROW_TOKENS, what)
            caption = (
                f"Tokens of {what}, in the order of size: a box for the middle half, a line from "
                "5% to 95%, a dot for the median."
            )
            quantiles = (0.05, 0.25, 0.5, 0.75, 0.95)
            columns = [Column("language" if what == "documents" else "pair", None), Column(what)]
            columns += [Column(f"{share:.0%}", "{:,.0f}") for share in quantiles]
            columns.append(Column(f"over {_ROW_TOKENS}", "{:.2%}"))
            rows = [
                (name, h.documents, *map(h.quantile, quantiles), h.share_above(_ROW_TOKENS))
                for name, h in shown.items()
            ]
            listed = details(
                f"Lengths of {what} as numbers", table(f"Lengths of {what}", columns, rows)
            )
            parts += [self._figure(plot, caption), listed]
        return parts

    def _cleaning(self) -> list[str]:
        cleaning = self._report.cleaning
        if not cleaning:
            return [paragraph("The index does not tell what cleaning did.")]
        pairs = {subset.name for subset in self._index.subsets if subset.is_bitext}
        parts = []
        for what in ("documents", "pairs"):
            mine = {n: c for n, c in cleaning.items() if (n in pairs) == (what == "pairs")}
            read = {name: int(counts.get("read", 0)) for name, counts in mine.items()}
            drops = {name: drop_counts(counts) for name, counts in mine.items()}
            losers = [name for name in drops if any(drops[name].values())]
            if not mine:
                continue
            if losers:
                worst = sorted(losers, key=lambda n: -sum(drops[n].values()) / max(1, read[n]))
                plot = drop_plot(read, {n: drops[n] for n in worst[:_MAX_BARS]}, what)
                caption = (
                    f"Of {sum(read.values()):,} {what} read, "
                    f"{sum(sum(d.values()) for d in drops.values()):,} were dropped; "
                    f"{len(mine) - len(losers):,} of {len(mine):,} "
                    f"{'languages' if what == 'documents' else 'pairs'} lost none."
                )
                parts.append(self._figure(plot, caption))
            reasons = dict.fromkeys((reason for each in drops.values() for reason in each), 0)
            rows = {
                name: {
                    "read": read[name],
                    "kept": int(counts.get("kept", 0)),
                    **reasons,
                    **drops[name],
                }
                for name, counts in mine.items()
            }
            parts.append(
                counts_table(f"{what.capitalize()} read, kept and dropped by reason", rows)
            )
            others = {name: other_counts(counts) for name, counts in mine.items()}
            if any(any(each.values()) for each in others.values()):
                parts.append(counts_table(f"Other counts of cleaning, {what}", others))
        return parts

    def _shared(self) -> list[str]:
        subsets = self._index.subsets
        whole: Counter[tuple[str, str]] = Counter()
        leaks = []
        for (a, b), count in self._overlap.shared.items():
            if subsets[a].is_bitext or subsets[b].is_bitext or subsets[a].name == subsets[b].name:
                continue
            first, second = sorted((subsets[a].name, subsets[b].name))
            whole[first, second] += round(count)
            if subsets[a].split != subsets[b].split:
                train, validation = sorted((subsets[a], subsets[b]), key=lambda s: s.split)
                leaks.append((validation.name, train.name, round(count), validation.rows))
        if len(self._languages) < 2:
            return []
        if not whole:
            return [paragraph("No document stands in two languages.")]
        exact = self._overlap.compared_share >= 1
        text = (
            "Exact copies of a whole document in two languages, told by the hash of its text: "
            "often English or boilerplate in the folder of another language. Translations are "
            "not among them."
        )
        if not exact:
            text += (
                " Numbers between two of the largest languages are estimates from "
                f"{self._overlap.compared_share:.2%} of their documents."
            )
        rows_of: Counter[str] = Counter()
        for subset in subsets:
            rows_of[subset.name] += subset.rows
        rows = [
            (a, b, count, count / max(1, min(rows_of[a], rows_of[b])))
            for (a, b), count in sorted(whole.items(), key=lambda item: (-item[1], item[0]))
        ]
        columns = [Column("language", None), Column("other language", None)]
        columns += [Column("documents in both"), Column("share of the smaller", "{:.2%}")]
        top = table("Languages that share most documents", columns, rows[:_MAX_PAIRS])
        parts = [
            paragraph(text),
            self._figure(overlap_plot(whole), _overlap_caption(whole)),
            details("The pairs that share most", top),
        ]
        if leaks:
            columns = [Column("validation of", None), Column("in training of", None)]
            columns += [Column("documents"), Column("share of the validation", "{:.2%}")]
            leaks.sort(key=lambda leak: (-leak[2], leak[:2]))
            listed = [(*leak[:3], leak[2] / leak[3]) for leak in leaks[:_MAX_PAIRS]]
            parts += [
                heading("Validation documents that another language trains on"),
                table("Validation documents in training text", columns, listed),
            ]
        return parts

    def _bitext(self) -> list[str]:
        pairs: Counter[tuple[str, str]] = Counter()
        for subset in self._index.bitext("train"):
            pairs[subset.langs[0], subset.langs[1]] += subset.rows
        if not pairs:
            return []
        caption = (
            f"{sum(pairs.values()):,} training pairs. Rows are the fewest languages that all "
            f"bitext has one of, at most {MAX_SIDE}."
        )
        return [self._figure(pair_plot(pairs), caption)]

    def _more(self) -> list[str]:
        shown = {"tokenizer", "tokenizer_report"}
        return [
            generic(name, value)
            for name, value in self._report.statistics.items()
            if name not in shown
        ]

    def _tables(self) -> list[str]:
        parts = []
        if self._report.absent:
            lost = ", ".join(self._report.absent)
            parts.append(paragraph(f"The index was repaired; lost with the old one: {lost}."))
        for split in ("train", "validation"):
            for bitext, what in ((False, "documents"), (True, "pairs")):
                subsets = [
                    s for s in self._report.subsets if (s.split, s.is_bitext) == (split, bitext)
                ]
                if subsets:
                    title = f"{split}: {what}"
                    parts.append(details(title, subset_table(title, subsets, what)))
        if settings := self._index.build.get("settings"):
            text = json.dumps(settings, indent=2, ensure_ascii=False)

            parts.append(details("Settings of the build", f"<pre>{escape(text)}</pre>\n"))
        return parts


def _overlap_caption(shared: Mapping[tuple[str, str], int]) -> str:
    languages = {lang for pair in shared for lang in pair}
    text = f"{len(languages):,} languages share documents with another one."
    if len(languages) > MAX_SIDE:
        text += f" The {MAX_SIDE} that share most are shown."
    return text


def _size(subset: SubsetReport) -> Size:
    return Size(subset.name, subset.documents, subset.tokens, subset.text_bytes)
