"""Stage 6: what the tokenizer did to each language, for the statistics of the data set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megaxlm.data.shards import SPLITS, Shard, Split
from megaxlm.data.tokenizer import Tokenizer
from megaxlm_data.stages.plan import Plan
from megaxlm_data.tokenizer.report import MAX_TOKENS, SideCounts, tokenizer_report
from megaxlm_data.writers.assembler import CountedShard

_CHUNK = 1 << 20  # tokens; counting widens them to 8 bytes


def token_statistics(
    directory: Path,
    plan: Plan,
    tokenizer: Tokenizer,
    shards: dict[tuple[str, Split], list[CountedShard]],
    unspaced_share: dict[str, list[float]],
) -> dict[str, Any]:
    """Returns `tokenizer_report` of a finished data set.

    Args:
        directory: The data set.
        plan: Its groups.
        tokenizer: That of the data set.
        shards: Of every group and split.
        unspaced_share: By group, for each side, the share of characters without spaces.
    """

    def sides() -> Iterator[SideCounts]:
        for group in plan.groups:
            mine = [each for split in SPLITS for each in shards[group.name, split]]
            for index, lang in enumerate(group.langs):
                counts = [each.counts[lang] for each in mine]
                yield SideCounts(
                    lang=lang,
                    partner=group.langs[1 - index] if group.is_bitext else None,
                    unspaced_share=unspaced_share[group.name][index],
                    tokens=sum(each["tokens"] for each in counts),
                    words=sum(each["words"] for each in counts),
                    chars=sum(each["chars"] for each in counts),
                    text_bytes=sum(each["text_bytes"] for each in counts),
                    unknown=sum(each["unknown"] for each in counts),
                    byte_fallback=sum(each["byte_fallback"] for each in counts),
                    pieces=_pieces(directory, mine, index, group.is_bitext, tokenizer.vocab_size),
                )

    return tokenizer_report(tokenizer, sides())


def _pieces(
    directory: Path, shards: list[CountedShard], side: int, is_bitext: bool, vocab_size: int
) -> npt.NDArray[np.int64]:
    """Returns how often each piece occurs in the first tokens, (vocabulary,)."""
    counts, left = np.zeros(vocab_size, dtype=np.int64), MAX_TOKENS
    for shard in shards:
        values, _ = Shard(directory, shard.info, is_bitext).sides[side]
        values = values[:left]
        for start in range(0, len(values), _CHUNK):
            counts += np.bincount(values[start : start + _CHUNK], minlength=vocab_size)
        left -= len(values)
        if not left:
            break
    return counts
