"""Sentence retrieval: does a sentence find its translation among all candidates?

Every sentence of one side is matched with the best-scoring sentence of the other; accuracy is the
share that hit their own line, in both directions. The task and file format are those of LASER's
Tatoeba set (Artetxe & Schwenk 2019, "Massively Multilingual Sentence Embeddings for Zero-Shot
Cross-Lingual Transfer and Beyond"); XTREME (Hu et al. 2020) scores encoders on it with
mean-pooled hidden states and the cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from megaxlm.errors import EXIT_FOUND_WRONG, UserError
from megaxlm.evaluation.sentence_embedding import SentenceTokenizer, embed_sentences
from megaxlm.evaluation.tatoeba import find_tatoeba_pairs, read_sentences
from megaxlm.model.encoder import MaskedLanguageModel

Scoring = Literal["cosine", "margin"]
_BLOCK_SCORES = 8 << 20  # scores held at once: 32 MiB in float32, whatever the candidates
_MIN_NEIGHBOURHOOD = 1e-6  # keeps the margin's order where neighbours are not similar at all


@dataclass(frozen=True)
class PairAccuracy:
    """Retrieval accuracy of one pair, as shares of its sentences."""

    name: str
    source_lang: str
    target_lang: str
    candidates: int
    source_to_target: float
    target_to_source: float

    @property
    def mean(self) -> float:
        """The mean of both directions."""
        return (self.source_to_target + self.target_to_source) / 2


@dataclass(frozen=True)
class RetrievalReport:
    """Accuracy of each pair, and over all of them."""

    pairs: tuple[PairAccuracy, ...]
    layer: int
    scoring: Scoring

    @property
    def mean(self) -> float:
        """The mean over all directions of all pairs, each direction weighing the same."""
        return sum(pair.mean for pair in self.pairs) / len(self.pairs)

    @property
    def chance(self) -> float:
        """What guessing reaches: the mean of 1 / candidates over all directions."""
        return sum(1 / pair.candidates for pair in self.pairs) / len(self.pairs)

    def to_json(self) -> dict[str, Any]:
        """Returns plain values; accuracies are shares (0 to 1)."""
        return {
            "layer": self.layer,
            "scoring": self.scoring,
            "mean": self.mean,
            "chance": self.chance,
            "pairs": {pair.name: asdict(pair) | {"mean": pair.mean} for pair in self.pairs},
        }


def evaluate_retrieval(
    model: MaskedLanguageModel,
    tokenizer: SentenceTokenizer,
    folder: Path,
    pairs: list[str] | None = None,
    *,
    layer: int = -1,
    scoring: Scoring = "cosine",
    limit: int | None = None,
    neighbours: int = 4,
    batch_tokens: int = 4_096,
    max_len: int | None = None,
    device: torch.device | str = "cpu",
    on_pair: Callable[[PairAccuracy], None] | None = None,
    reduce: Callable[[Tensor], Tensor] | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> RetrievalReport:
    """Scores a model on sentence pairs in Tatoeba format.

    Args:
        model: An encoder; it is left in the mode (training or not) it came in.
        tokenizer: Its tokenizer.
        folder: Where the files of the pairs lie (see `megaxlm.evaluation.tatoeba`).
        pairs: Names such as `deu-eng`; None is every pair of the folder.
        layer: Which hidden state is pooled; 0 is the embeddings, -1 the last layer.
        scoring: `cosine`, or `margin` (the ratio margin with `neighbours` neighbours).
        limit: Sentences a pair, from the top of the file; None is all.
        neighbours: k of the margin.
        batch_tokens: Tokens in one forward pass.
        max_len: Longest sentence in tokens, special tokens included; None is the model's limit.
        device: Where the model is.
        on_pair: Called after each pair, for progress.
        reduce: Sums a float32 tensor on `device` over all ranks, which then share the sentences
            out and all return the same report; None with one rank.
        rank: This process.
        world_size: All processes.

    Raises:
        UserError: From the files, a layer the model has not, or embeddings that are not finite.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}: retrieval needs at least one sentence a pair")
    results = []
    for pair in find_tatoeba_pairs(folder, pairs):
        sides = read_sentences(pair, limit)
        source, target = (
            embed_sentences(
                model,
                tokenizer,
                side,
                layer,
                batch_tokens,
                device,
                max_len,
                reduce,
                rank,
                world_size,
            )
            for side in sides
        )
        forward, backward = retrieval_accuracy(source, target, scoring, neighbours)
        result = PairAccuracy(
            pair.name, pair.source_lang, pair.target_lang, len(source), forward, backward
        )
        results.append(result)
        if on_pair is not None:
            on_pair(result)
    return RetrievalReport(tuple(results), layer, scoring)


def retrieval_accuracy(
    source: np.ndarray,  # (sentences, hidden)
    target: np.ndarray,  # (sentences, hidden), row i translates row i of source
    scoring: Scoring = "cosine",
    k: int = 4,
) -> tuple[float, float]:
    """Returns the accuracy source to target and target to source.

    `margin` divides a pair's cosine by the mean cosine of both sentences with their k nearest
    neighbours of the other language (Artetxe & Schwenk 2019, "Margin-based Parallel Corpus Mining
    with Multilingual Sentence Embeddings", the ratio variant), which stops sentences that are
    close to everything from being chosen by everything. A sentence whose best score is shared by
    t candidates, its own among them, counts 1/t: what breaking ties at random gives, so that a
    model that maps every sentence to one point scores chance and the order of lines is no matter.

    Raises:
        UserError: The embeddings are not finite: the model has diverged.
    """
    if source.shape != target.shape or source.ndim != 2 or not len(source):
        raise ValueError(f"need two equal (sentences, hidden), got {source.shape}, {target.shape}")
    if scoring not in ("cosine", "margin"):
        raise ValueError(f"unknown scoring {scoring!r}")
    source, target = _unit_rows(source), _unit_rows(target)
    if scoring == "cosine":
        return _hits(source, target), _hits(target, source)
    k = min(k, len(source))
    around_source = _neighbourhood(source, target, k)  # (sentences,)
    around_target = _neighbourhood(target, source, k)  # (sentences,)
    return (
        _hits(source, target, around_source, around_target),
        _hits(target, source, around_target, around_source),
    )


def _unit_rows(embeddings: np.ndarray) -> np.ndarray:
    if not np.isfinite(embeddings).all():
        raise UserError(
            "retrieval: the model gives sentence embeddings that are not finite; its weights have "
            "diverged, take an earlier checkpoint",
            exit_code=EXIT_FOUND_WRONG,
        )
    values = embeddings.astype(np.float32, copy=False)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    unit: np.ndarray = values / np.maximum(norms, np.finfo(np.float32).tiny)
    return unit


def _blocks(
    queries: np.ndarray, candidates: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:  # cosines: (queries of the block, candidates)
    """Yields the cosines of some queries with all candidates, never more than fit in memory."""
    rows = max(1, _BLOCK_SCORES // len(candidates))
    for start in range(0, len(queries), rows):
        block = slice(start, start + rows)
        yield block, queries[block] @ candidates.T


def _neighbourhood(queries: np.ndarray, candidates: np.ndarray, k: int) -> np.ndarray:
    """Returns each query's mean cosine with its k nearest candidates, (queries,)."""
    means = np.empty(len(queries), dtype=np.float32)
    for block, cosines in _blocks(queries, candidates):
        nearest = np.partition(cosines, len(candidates) - k, axis=1)[:, len(candidates) - k :]
        means[block] = nearest.mean(axis=1)
    return means


def _hits(
    queries: np.ndarray,
    candidates: np.ndarray,
    around_queries: np.ndarray | None = None,
    around_candidates: np.ndarray | None = None,
) -> float:
    """Returns the share of queries whose best-scoring candidate is the one of their own row."""
    hits = 0.0
    for block, scores in _blocks(queries, candidates):
        if around_queries is not None and around_candidates is not None:
            around = (around_queries[block, None] + around_candidates[None, :]) / 2
            scores /= np.maximum(around, _MIN_NEIGHBOURHOOD)
        own = scores[np.arange(len(scores)), np.arange(block.start, block.start + len(scores))]
        best = scores.max(axis=1)
        shared = (scores == best[:, None]).sum(axis=1)
        hits += float(((own == best) / shared).sum())
    return hits / len(queries)
