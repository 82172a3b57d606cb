"""Stage 4: the tokenizer: an existing one, one trained here, or an existing one with new pieces.

What is trained is trained on a balanced sample of the clean text. Languages are sampled with
p ~ weight x bytes^alpha (XLM-R, arXiv:1911.02116, section 3.1). A small language gets its share by
repetition, at most `MAX_REPEATS` times; what it cannot take, or a cap keeps from it, goes to the
others.
Whether a sentence is drawn depends on the seed, its document's hash and its place in it alone.
Validation documents are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.data.shards import TOKENIZER_DIR, tokenizer_path, write_atomically
from megaxlm.data.tokenizer import Tokenizer
from megaxlm.errors import UserError
from megaxlm_data.progress import Progress
from megaxlm_data.stages.clean import CleanReport
from megaxlm_data.stages.plan import Plan, digest_of, model_digest
from megaxlm_data.stages.select import Block, Selection, blocks_of, is_validation
from megaxlm_data.tokenizer import (
    extend_tokenizer,
    install_tokenizer,
    sampling_quota,
    train_tokenizer,
)
from megaxlm_data.tokenizer.memory import (
    available_memory,
    is_extremely_large,
    sample_within,
    training_memory,
)
from megaxlm_data.workers import WorkerPool, advance
from megaxlm_data.writers.cleaned import open_cleaned

MAX_REPEATS = 5
_BYTES_PER_SENTENCE = 300  # what `max_sentences` allows for on average


@dataclass(frozen=True)
class _SampleTask:
    block: Block
    rows: npt.NDArray[np.bool_]
    validation_below: int
    rates: tuple[float, ...]  # copies of a sentence, for each side
    seed: int


def ensure_tokenizer(
    plan: Plan,
    config: DataBuildConfig,
    selections: dict[str, Selection],
    reports: dict[str, CleanReport],
    cleaned: Path,
    marker: Path,
    pool: WorkerPool,
    progress: Progress,
) -> Tokenizer:
    """Returns the tokenizer of the data set, made now unless an interrupted build made it.

    Raises:
        UserError: The tokenizer in the data set is another than the one the build began with.
    """
    settings = config.tokenizer
    path = tokenizer_path(config.output)
    trains = settings.model is None or settings.extend is not None
    parts: list[Any] = [] if settings.model is None else [model_digest(settings.model)]
    if trains:
        selected = [selections[group.name].digest for group in plan.groups]
        parts += [selected, settings.model_dump(mode="json"), config.seed]
    else:
        parts.append(config.normalization)
    digest = digest_of(parts)
    done = json.loads(marker.read_text(encoding="utf-8")) if marker.exists() else {}
    if done.get("digest") == digest and path.exists():
        tokenizer = Tokenizer(path)
        if tokenizer.sha256 != done["sha256"]:
            raise UserError(
                f"{path}: is not the tokenizer that this build began with (SHA-256 "
                f"{tokenizer.sha256[:12]} instead of {done['sha256'][:12]}); put it back, or "
                f"delete {marker.parent} to start again"
            )
        return tokenizer
    marker.unlink(missing_ok=True)
    if config.normalization != "nfkc":
        progress.warn(
            f"normalization {config.normalization}: Hugging Face's tokenizer may lose a combining "
            "mark that follows a character it maps or does not know; nfkc has exact ids there too"
        )
    folder = config.output / TOKENIZER_DIR
    if settings.model is not None and not trains:
        install_tokenizer(settings.model, folder, config.normalization)
    else:
        shares = _shares(plan, config, selections, progress)
        total = sum(sum(selection.text_bytes) for selection in selections.values())
        options: dict[str, Any] = {
            "seed": config.seed,
            "workers": pool.count,
            "normalization": config.normalization,
            "extremely_large": is_extremely_large(shares.expected_bytes),
        }
        with progress.bar("sample", total, "B") as bar:
            drawn = _sample(plan, config, selections, reports, cleaned, shares, pool, bar)
            sentences = _checked(drawn, config, bar, progress)
            if settings.model is not None:
                extend_tokenizer(settings.model, sentences, settings, folder, **options)
            else:
                train_tokenizer(sentences, settings, folder, **options)
    tokenizer = Tokenizer(path)
    content = {"digest": digest, "sha256": tokenizer.sha256}
    write_atomically(marker, json.dumps(content).encode())
    return tokenizer


@dataclass(frozen=True)
class _Shares:
    """What each language gives to the sample."""

    quotas: dict[str, int]  # sentences, repetitions counted
    sentences: dict[str, int]  # that it has
    expected_bytes: int  # of the whole sample


def _shares(
    plan: Plan, config: DataBuildConfig, selections: dict[str, Selection], progress: Progress
) -> _Shares:
    text_bytes: dict[str, int] = {}
    sentences: dict[str, int] = {}
    for group in plan.groups:
        selection = selections[group.name]
        for lang, size in zip(group.langs, selection.text_bytes, strict=True):
            text_bytes[lang] = text_bytes.get(lang, 0) + size
            sentences[lang] = sentences.get(lang, 0) + selection.lines
    settings = config.tokenizer
    chosen = set(settings.languages or sentences).difference(settings.exclude_languages)
    cap = settings.max_sentences_per_language
    available = {
        lang: min(MAX_REPEATS * count, cap or MAX_REPEATS * count) if lang in chosen else 0
        for lang, count in sentences.items()
    }

    def quotas(count: int) -> dict[str, int]:
        return sampling_quota(text_bytes, settings.alpha, count, available, settings.weights)

    def bytes_of(quota: dict[str, int]) -> float:
        return sum(quota[lang] * text_bytes[lang] / max(1, sentences[lang]) for lang in quota)

    count = min(settings.max_sentences, sum(sentences[lang] for lang in chosen))
    quota = quotas(count)
    # Memory follows bytes: where lines are whole documents, fewer of them are drawn.
    budget = settings.max_sentences * _BYTES_PER_SENTENCE
    if settings.max_memory_gb is not None:
        within = sample_within(int(settings.max_memory_gb * 1e9), settings.model_type)
        if within < min(budget, bytes_of(quota)):
            progress.say(
                f"tokenizer: max_memory_gb {settings.max_memory_gb:g} cuts the sample from "
                f"{min(budget, bytes_of(quota)) / 1e6:,.1f} to {within / 1e6:,.1f} MB"
            )
        budget = min(budget, within)
    if (expected := bytes_of(quota)) > budget:
        quota = quotas(max(1, int(count * budget / expected)))
    return _Shares(quota, sentences, int(bytes_of(quota)))


def _checked(
    sentences: Iterable[list[str]], config: DataBuildConfig, bar: tqdm[Any], progress: Progress
) -> Iterator[str]:
    """Yields the sample; when it is complete, before training, looks whether memory will do."""
    total = size = chars = 0
    for drawn in sentences:
        yield from drawn
        total += len(drawn)
        chars += sum(map(len, drawn))
        size += sum(len(sentence.encode()) for sentence in drawn)
    bar.close()
    settings = config.tokenizer
    # the sample itself is held by now
    needed, free = training_memory(size, chars, settings.model_type), available_memory() + size
    what = f"{total:,} sentences of {size / 1e6:,.1f} MB"
    if needed > free:
        fitting = int(settings.max_sentences * free / needed)
        raise UserError(
            f"tokenizer: training on {what} takes some {needed / 1e9:.1f} GB of memory, "
            f"{free / 1e9:.1f} GB are free here: set tokenizer.max_sentences to at most "
            f"{fitting} (now {settings.max_sentences}), or use a larger machine"
        )
    pieces = settings.extend.pieces if settings.extend else settings.vocab_size
    progress.say(
        f"tokenizer: training {pieces:,} {'new ' if settings.extend else ''}pieces on {what}; "
        f"sentencepiece shows no bar and takes some {needed / 1e9:.1f} GB of memory"
    )


def _sample(
    plan: Plan,
    config: DataBuildConfig,
    selections: dict[str, Selection],
    reports: dict[str, CleanReport],
    cleaned: Path,
    shares: _Shares,
    pool: WorkerPool,
    bar: tqdm[Any],
) -> Iterator[list[str]]:
    def tasks() -> Iterator[_SampleTask]:
        for group in plan.groups:
            selection = selections[group.name]
            rates = tuple(
                shares.quotas[lang] / max(1, shares.sentences[lang]) for lang in group.langs
            )
            if not any(rates):
                bar.update(sum(selection.text_bytes))
                continue
            for block in blocks_of(group, reports, cleaned):
                yield _SampleTask(
                    block,
                    selection.rows(block),
                    selection.validation_below,
                    rates,
                    config.seed,
                )

    for _, drawn in pool.map(_sample_block, tasks(), "tasks", bar.update):
        yield drawn


def _sample_block(task: _SampleTask) -> list[str]:
    ids, lines, sizes = open_cleaned(task.block.path, False).numbers(task.block.number)
    train = task.rows & ~is_validation(ids, task.validation_below)
    drawn: list[str] = []
    copies = [
        _copies(ids, lines, rate, (task.seed << 1) | side) for side, rate in enumerate(task.rates)
    ]
    starts = np.cumsum(lines, dtype=np.int64) - lines  # of each row in the lines of the block
    touched = train & np.logical_or.reduce([np.add.reduceat(c, starts) > 0 for c in copies])
    advance(int(sum(size[train].sum(dtype=np.int64) for size in sizes)))
    if not touched.any():
        return drawn
    rows = np.flatnonzero(touched)
    for texts, side_copies in zip(
        open_cleaned(task.block.path, True).texts(task.block.number, touched), copies, strict=True
    ):
        for row, text in zip(rows, texts, strict=True):
            counts = side_copies[starts[row] : starts[row] + lines[row]]
            if counts.any():
                for line, count in zip(text.split("\n"), counts.tolist(), strict=True):
                    if count:
                        drawn += [line] * count
    return drawn


def _copies(
    ids: npt.NDArray[np.uint64], lines: npt.NDArray[np.uint32], rate: float, key: int
) -> npt.NDArray[np.int64]:
    """Returns how often each line is drawn, (lines of the block,): `rate` on average."""
    key = key * 0x9E3779B97F4A7C15 % (1 << 64)
    starts = np.cumsum(lines, dtype=np.int64) - lines
    place = np.arange(int(lines.sum(dtype=np.int64)), dtype=np.int64) - np.repeat(starts, lines)
    uniform = _mixed(np.repeat(ids, lines) ^ _mixed(place.astype(np.uint64) + np.uint64(key)))
    extra = uniform.astype(np.float64) / 2.0**64 < rate % 1.0
    copies: npt.NDArray[np.int64] = int(rate) + extra.astype(np.int64)
    return copies


def _mixed(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
