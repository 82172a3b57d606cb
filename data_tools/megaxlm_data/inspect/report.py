"""What a data set holds, language by language, as its index tells."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megaxlm.data.shards import DatasetIndex, Split, Subset, read_index
from megaxlm.errors import UserError

_OWN_STATISTICS = {"digest", "settings", "cleaning", "counts", "absent"}
_UNSPACED_ABOVE = 0.3  # share of characters in scripts without spaces: no words to count


@dataclass(frozen=True)
class LanguageReport:
    """One language of one subset; bitext has two of these."""

    lang: str
    tokens: int
    text_bytes: int
    tokens_per_word: float | None  # None without spaces between words, or in a repaired index
    tokens_per_char: float | None  # None in a repaired index: the build counted characters
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
    statistics: dict[str, Any]  # whatever else the build told of, such as `tokenizer_report`
    absent: tuple[str, ...]  # statistics that were lost with an index that has been repaired

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
        UserError: There is no data set, or no such exponent.
    """
    if not 0 <= alpha <= 1:
        raise UserError(f"--alpha {alpha}: must be from 0 (languages alike) to 1 (as they lie)")
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
        statistics={k: v for k, v in index.build.items() if k not in _OWN_STATISTICS},
        absent=tuple(index.build.get("absent", ())),
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
    tokens, words, chars = counts["tokens"], counts.get("words"), counts.get("chars")
    return LanguageReport(
        lang=lang,
        tokens=tokens,
        text_bytes=counts["text_bytes"],
        tokens_per_word=None if unspaced or words is None else tokens / max(1, words),
        tokens_per_char=None if chars is None else tokens / max(1, chars),
        bytes_per_token=counts["text_bytes"] / max(1, tokens),
        unknown_rate=counts["unknown"] / max(1, tokens),
        byte_fallback_rate=counts["byte_fallback"] / max(1, tokens),
    )
