"""How fast the loader makes micro-batches, and how fast a data set of many shards opens.

    PYTHONPATH=. python data_tools/benchmarks/benchmark_loader.py

Makes its own data set in a temporary folder: documents of log-normal length (median 300 tokens,
sigma 1), pairs of some 50 tokens, ten languages, five pairs; a few shards that are hard linked
until there are 1,000. The rate is that of one thread without prefetching, masking included,
NumPy and torch held to one core. "row order alone" is what a rank does for rows of other ranks.

On a quiet core of a shared x86 machine (AMD EPYC), NumPy 2, files in the page cache:

    1,005 shards, 995,614,707 tokens, rows of 512
    case                          open + first batch        tokens/s
    mlm, stream                              0.013 s      10,549,541  ok
    mlm, stream, across                      0.014 s      10,267,854  ok
    mlm, documents                           0.089 s      25,852,586  ok
    tlm, pairs                               0.062 s       8,638,245  ok
    row order alone, stream                  0.014 s   2,601,903,663  ok
    row order alone, documents               0.176 s     796,297,530  ok
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from megaxlm.config.pretrain import DataConfig, MaskingConfig, ObjectiveConfig
from megaxlm.data.shards import DatasetIndex, ShardInfo, Subset, write_index
from megaxlm.objectives.mixture import open_stream
from megaxlm.testing.datasets import write_dataset

VOCAB_SIZE = 250_002
LANGUAGES = [f"l{number}" for number in "abcdefghij"]
REQUIRED_TOKENS_PER_SECOND = 300_000
REQUIRED_OPEN_SECONDS = 1.0


def make_dataset(directory: Path, num_shards: int, tokens_per_shard: int) -> DatasetIndex:
    """Writes one shard a subset and links each until the data set has `num_shards`."""
    rng = np.random.default_rng(0)

    def ids(length: int) -> np.ndarray:
        return rng.integers(4, VOCAB_SIZE - 1, length)

    def documents() -> list[np.ndarray]:
        lengths = rng.lognormal(np.log(300), 1.0, tokens_per_shard // 495)
        return [ids(max(1, int(length))) for length in lengths]

    def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
        lengths = rng.integers(10, 40, (tokens_per_shard // 50, 2))
        return [(ids(a), ids(b)) for a, b in lengths]

    index = write_dataset(
        directory,
        {lang: documents() for lang in LANGUAGES},
        {(LANGUAGES[0], lang): pairs() for lang in LANGUAGES[1:6]},
        VOCAB_SIZE,
        rows_per_shard=1 << 30,
    )
    copies = -(-num_shards // len(index.subsets))
    subsets = tuple(link_copies(directory, subset, copies) for subset in index.subsets)
    index = replace(index, subsets=subsets)
    write_index(directory, index)
    return index


def link_copies(directory: Path, subset: Subset, copies: int) -> Subset:
    """Gives a subset of one shard `copies` shards of the same content."""
    shard = subset.shards[0]
    shards: list[ShardInfo] = [shard]
    for number in range(1, copies):
        path = shard.path.replace("00000.arrow", f"{number:05d}.arrow")
        os.link(directory / shard.path, directory / path)
        shards.append(replace(shard, path=path))
    return replace(subset, shards=tuple(shards))


def measure(
    directory: Path,
    seconds: float,
    objective: str,
    world_size: int = 1,
    **data: object,
) -> tuple[float, float]:
    """Returns (seconds to open and make the first batch, tokens per second after it)."""
    config = DataConfig(path=directory, prefetch_batches=0, **data)  # type: ignore[arg-type]
    started = time.perf_counter()
    stream = open_stream(
        directory,
        config,
        [ObjectiveConfig(name=objective)],  # type: ignore[arg-type]
        MaskingConfig(),
        seed=1,
        global_batch_size=32 * world_size,
        micro_batch_size=32,
        world_size=world_size,
    )
    next(stream)
    opened = time.perf_counter() - started
    until = time.perf_counter() + seconds / 4
    while time.perf_counter() < until:  # the first plans and page faults
        next(stream)
    tokens, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        tokens += next(stream).batch.tokens.numel() * world_size
    return opened, tokens / elapsed


def main() -> None:
    """Measures and prints one line a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=1_000)
    parser.add_argument("--tokens-per-shard", type=int, default=1_000_000)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    cases: list[tuple[str, dict[str, object]]] = [
        ("mlm, stream", {"packing": "stream"}),
        ("mlm, stream, across", {"packing": "stream", "attend_across_documents": True}),
        ("mlm, documents", {"packing": "documents"}),
        ("tlm, pairs", {"objective": "tlm"}),
        ("row order alone, stream", {"packing": "stream", "world_size": 512}),
        ("row order alone, documents", {"packing": "documents", "world_size": 512}),
    ]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        index = make_dataset(directory, args.shards, args.tokens_per_shard)
        shards = sum(len(subset.shards) for subset in index.subsets)
        tokens = sum(subset.tokens for subset in index.subsets)
        print(f"{shards:,} shards, {tokens:,} tokens, rows of {args.seq_len}")
        print(f"{'case':<28}{'open + first batch':>20}{'tokens/s':>16}")
        for label, settings in cases:
            merged: dict[str, object] = {"objective": "mlm", "seq_len": args.seq_len, **settings}
            opened, rate = measure(directory, args.seconds, **merged)  # type: ignore[arg-type]
            met = opened <= REQUIRED_OPEN_SECONDS and rate >= REQUIRED_TOKENS_PER_SECOND
            print(f"{label:<28}{opened:>18.3f} s{rate:>16,.0f}  {'ok' if met else 'TOO SLOW'}")


if __name__ == "__main__":
    main()
