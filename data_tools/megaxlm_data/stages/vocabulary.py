"""Stage 4: the tokenizer, an existing one or one trained on a balanced sample of the clean text.

Languages are sampled with p ~ bytes^alpha (XLM-R, arXiv:1911.02116, section 3.1). A small language
gets its share by repetition, at most `MAX_REPEATS` times; what it cannot take goes to the others.
Whether a sentence is drawn depends on the seed, its document's hash and its place in it alone.
Validation documents are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
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
from megaxlm_data.tokenizer import install_tokenizer, sampling_quota, train_tokenizer
from megaxlm_data.workers import WorkerPool, advance
from megaxlm_data.writers.cleaned import open_cleaned

MAX_REPEATS = 5
_BYTES_PER_SENTENCE = 300  # what `max_sentences` allows for on average
_TRAINING_MEMORY_RATIO = 25  # measured, on samples of 1 to 10 MB of Latin, Han and Burmese text


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
    model = config.tokenizer.model
    path = tokenizer_path(config.output)
    if model is not None:
        digest = digest_of([model_digest(model), config.normalization])
    else:
        selected = [selections[group.name].digest for group in plan.groups]
        digest = digest_of([selected, config.tokenizer.model_dump(mode="json"), config.seed])
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
    if model is not None:
        install_tokenizer(model, config.output / TOKENIZER_DIR, config.normalization)
    else:
        total = sum(sum(selection.text_bytes) for selection in selections.values())
        with progress.bar("sample", total, "B") as bar:
            sentences = _sample(plan, config, selections, reports, cleaned, pool, bar, progress)
            train_tokenizer(
                sentences,
                config.tokenizer,
                config.output / TOKENIZER_DIR,
                seed=config.seed,
                workers=pool.count,
                normalization=config.normalization,
            )
    tokenizer = Tokenizer(path)
    content = {"digest": digest, "sha256": tokenizer.sha256}
    write_atomically(marker, json.dumps(content).encode())
    return tokenizer


def _sample(
    plan: Plan,
    config: DataBuildConfig,
    selections: dict[str, Selection],
    reports: dict[str, CleanReport],
    cleaned: Path,
    pool: WorkerPool,
    bar: tqdm[Any],
    progress: Progress,
) -> Iterator[str]:
    text_bytes: dict[str, int] = {}
    sentences: dict[str, int] = {}
    for group in plan.groups:
        selection = selections[group.name]
        for lang, size in zip(group.langs, selection.text_bytes, strict=True):
            text_bytes[lang] = text_bytes.get(lang, 0) + size
            sentences[lang] = sentences.get(lang, 0) + selection.lines
    limits = config.tokenizer
    available = {lang: MAX_REPEATS * count for lang, count in sentences.items()}
    count = min(limits.max_sentences, sum(sentences.values()))
    quotas = sampling_quota(text_bytes, limits.alpha, count, available=available)
    # Memory follows bytes: where lines are whole documents, fewer of them are drawn.
    expected = sum(quotas[lang] * text_bytes[lang] / max(1, sentences[lang]) for lang in quotas)
    budget = limits.max_sentences * _BYTES_PER_SENTENCE
    if expected > budget:
        count = max(1, int(count * budget / expected))
        quotas = sampling_quota(text_bytes, limits.alpha, count, available=available)

    def tasks() -> Iterator[_SampleTask]:
        for group in plan.groups:
            selection = selections[group.name]
            rates = tuple(quotas[lang] / max(1, sentences[lang]) for lang in group.langs)
            for block in blocks_of(group, reports, cleaned):
                yield _SampleTask(
                    block,
                    selection.rows(block),
                    selection.validation_below,
                    rates,
                    config.seed,
                )

    total = size = 0
    for _, drawn in pool.map(_sample_block, tasks(), "tasks", bar.update):
        yield from drawn
        total += len(drawn)
        size += sum(len(sentence.encode()) for sentence in drawn)
    bar.close()
    progress.say(
        f"tokenizer: training {limits.vocab_size:,} pieces on {total:,} sentences; sentencepiece "
        f"shows no bar and takes some {_TRAINING_MEMORY_RATIO * size / 1e9:.1f} GB of memory"
    )


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
