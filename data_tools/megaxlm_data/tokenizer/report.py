"""What a tokenizer does to each language: the numbers that tell whether it serves it.

    tokens_per_word    fertility; None where the script has no spaces between words
    tokens_per_char    the same for any script
    bytes_per_token    compression
    unknown_share      <unk> among tokens: text that is lost
    byte_share         byte-fallback pieces among tokens: text the vocabulary cannot spell
    character_share    pieces of at most one character beside U+2581 among tokens, bytes left out
    pieces_used        different pieces in the language's text
    pieces_owned       those that are mostly its own: its rate of the piece, occurrences a token,
                       is more than half of the sum of all languages' rates, and it was met at
                       least twice. Rates, so that a large corpus owns no more than a small one.
    parity             fertility over the best language's: among languages with spaces by word,
                       among those without by character
    premium            tokens for the same content over the best language's (Petrov et al. 2023):
                       from bitext, over the pairs with the pivot, the language that has most
                       pairs; None without such a pair

Counts of tokens, words and bytes are those of whole data sets; pieces are counted in at most
`MAX_TOKENS` tokens of a language and side, from its first shards on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from megaxlm.data.special_tokens import UNK
from megaxlm.data.tokenizer import Tokenizer

MAX_TOKENS = 20_000_000
UNSPACED_ABOVE = 0.3  # share of characters in scripts without spaces: no words to count
_WORD_START = "\u2581"
_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class SideCounts:
    """What was counted of one language in one language's or one pair's text."""

    lang: str
    partner: str | None  # the other language of a pair, of the same content
    unspaced_share: float
    tokens: int
    words: int
    chars: int
    text_bytes: int
    unknown: int
    byte_fallback: int
    pieces: npt.NDArray[np.int64]  # (vocabulary,) occurrences in a part of the text


@dataclass(frozen=True)
class LanguageTokens:
    """One language; see the module for what the numbers mean."""

    tokens: int
    tokens_per_word: float | None
    tokens_per_char: float
    bytes_per_token: float
    unknown_share: float
    byte_share: float
    character_share: float
    pieces_used: int
    pieces_owned: int
    parity: float
    premium: float | None


def tokenizer_report(tokenizer: Tokenizer, sides: Iterable[SideCounts]) -> dict[str, Any]:
    """Returns the report as JSON-able values.

    Args:
        tokenizer: What encoded the text.
        sides: Everything that was counted; a language may have many.

    Returns:
        `vocab_size`, `pieces_used` by any language, `pivot` of the premiums (or None), and
        `languages`: by language, the fields of `LanguageTokens`.
    """
    kept: list[SideCounts] = []
    pieces: dict[str, npt.NDArray[np.int64]] = {}
    for side in sides:  # one array a language is held, not one a side
        if side.tokens:
            pieces[side.lang] = pieces.get(side.lang, 0) + side.pieces
            kept.append(replace(side, pieces=side.pieces[:0]))
    langs = sorted(pieces)
    owned = _owned(pieces, tokenizer.vocab_size)
    characters = _single_characters(tokenizer)
    premiums, pivot = _premiums(kept)
    cost: dict[tuple[bool, str], float] = {}
    for lang in langs:
        mine = [side for side in kept if side.lang == lang]
        unspaced = _unspaced(mine)
        per = sum(side.chars if unspaced else side.words for side in mine)
        cost[unspaced, lang] = sum(side.tokens for side in mine) / max(1, per)
    best = {kind: min(v for (k, _), v in cost.items() if k == kind) for kind, _ in cost}
    languages = {}
    for unspaced, lang in sorted(cost, key=lambda key: key[1]):
        mine = [side for side in kept if side.lang == lang]
        tokens = sum(side.tokens for side in mine)
        fertility = cost[unspaced, lang]
        used = pieces[lang]
        report = LanguageTokens(
            tokens=tokens,
            tokens_per_word=None if unspaced else fertility,
            tokens_per_char=tokens / max(1, sum(side.chars for side in mine)),
            bytes_per_token=sum(side.text_bytes for side in mine) / tokens,
            unknown_share=sum(side.unknown for side in mine) / tokens,
            byte_share=sum(side.byte_fallback for side in mine) / tokens,
            character_share=int(used[characters].sum()) / max(1, int(used.sum())),
            pieces_used=int(np.count_nonzero(used)),
            pieces_owned=owned[lang],
            parity=fertility / best[unspaced],
            premium=premiums.get(lang),
        )
        languages[lang] = asdict(report)
    used_at_all = np.zeros(tokenizer.vocab_size, dtype=np.bool_)
    for counts in pieces.values():
        used_at_all |= counts > 0
    return {
        "vocab_size": tokenizer.vocab_size,
        "pieces_used": int(np.count_nonzero(used_at_all)),
        "pivot": pivot,
        "languages": languages,
    }


def count_side(
    tokenizer: Tokenizer,
    lang: str,
    texts: Sequence[str],
    partner: str | None = None,
    unspaced_share: float = 0.0,
) -> SideCounts:
    """Encodes texts and counts what `tokenizer_report` asks for: for text without shards.

    Args:
        tokenizer: The tokenizer to judge.
        lang: The language of the texts.
        texts: Normalised as a build would; in pairs, one side.
        partner: The language of the other side, if these are pairs.
        unspaced_share: Of its characters, those in scripts without spaces.
    """
    values, _ = tokenizer.encode_flat(texts)
    pieces = np.bincount(values, minlength=tokenizer.vocab_size).astype(np.int64)
    bytes_of = byte_pieces(tokenizer)
    return SideCounts(
        lang=lang,
        partner=partner,
        unspaced_share=unspaced_share,
        tokens=len(values),
        words=sum(len(text.split()) for text in texts),
        chars=sum(map(len, texts)),
        text_bytes=sum(len(text.encode()) for text in texts),
        unknown=int(pieces[UNK]),
        byte_fallback=int(pieces[bytes_of].sum()),
        pieces=pieces,
    )


def byte_pieces(tokenizer: Tokenizer) -> npt.NDArray[np.bool_]:
    """Returns which ids are bytes of byte fallback, (vocabulary,)."""
    pieces = map(tokenizer.piece, range(tokenizer.vocab_size))
    return np.array([bool(_BYTE_PIECE.fullmatch(piece)) for piece in pieces])


def _single_characters(tokenizer: Tokenizer) -> npt.NDArray[np.bool_]:
    pieces = map(tokenizer.piece, range(tokenizer.vocab_size))
    return np.array([len(piece.removeprefix(_WORD_START)) <= 1 for piece in pieces])


def _unspaced(sides: Sequence[SideCounts]) -> bool:
    chars = sum(side.chars for side in sides)
    return sum(side.unspaced_share * side.chars for side in sides) > UNSPACED_ABOVE * chars


def _owned(pieces: Mapping[str, npt.NDArray[np.int64]], vocab_size: int) -> dict[str, int]:
    sums = np.zeros(vocab_size)
    for counts in pieces.values():
        sums += counts / max(1, counts.sum())
    return {
        lang: int(np.count_nonzero((counts >= 2) & (counts / max(1, counts.sum()) > sums / 2)))
        for lang, counts in pieces.items()
    }


def _premiums(sides: Sequence[SideCounts]) -> tuple[dict[str, float], str | None]:
    """Returns tokens for the same content, of the language that needs the fewest 1.0."""
    partners = Counter(side.lang for side in sides if side.partner is not None)
    if not partners:
        return {}, None
    pivot = min(partners, key=lambda lang: (-partners[lang], lang))
    mine: Counter[str] = Counter()
    theirs: Counter[str] = Counter()  # the pivot's tokens for the same text
    for side in sides:
        if side.partner == pivot:
            mine[side.lang] += side.tokens
        elif side.lang == pivot and side.partner is not None:
            theirs[side.partner] += side.tokens
    ratios = {lang: mine[lang] / theirs[lang] for lang in mine if theirs[lang]} | {pivot: 1.0}
    lowest = min(ratios.values())
    return {lang: ratio / lowest for lang, ratio in ratios.items()}, pivot
