"""How fast a data set is verified, and how fast its shards are read for the page of `inspect`.

    PYTHONPATH=.:data_tools python data_tools/benchmarks/benchmark_verify.py [--megabytes N]

The data set is made up: random tokens, half of it in long documents and half in short ones of 12
tokens, so that ids and offsets weigh as much as they ever do. What a user would run instead is
`sha256sum -c` over the files, or `xxhsum -c` where that is installed, several at a time
(`xargs -P`); both tell of altered bytes alone. Rounds take turns; medians. Files are in the page
cache: a disk that is slower than the CPUs is the limit of all of them.

Seen on 2 cores of a shared x86 machine (AMD EPYC) with a load of 20, so that CPU time says more:

    899 MB in 12 shards, 8,159,994 documents, 2 CPUs
    verify, 1 thread                      322 MB/s    1,473 MB/s of CPU time
    verify, 2 threads                     228 MB/s    1,382 MB/s of CPU time
    repair, 2 threads                     244 MB/s    1,449 MB/s of CPU time
    sha256sum, 2 processes                 42 MB/s      186 MB/s of CPU time
    inspect: lengths of documents       1,089 MB/s    4,992 MB/s of CPU time
    inspect: shared documents             129 MB/s      755 MB/s of CPU time
    verify over sha256sum 5.48, in CPU time 7.42
    memory of this process at the end: 442 MB
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import sentencepiece
from megaxlm_data.document import document_id
from megaxlm_data.inspect.lengths import length_histograms
from megaxlm_data.inspect.overlap import find_overlap
from megaxlm_data.tokenizer import write_hf_tokenizer
from megaxlm_data.verify import repair, verify
from megaxlm_data.workers import available_cpus
from megaxlm_data.writers.shards import EncodedSide, write_shard

from megaxlm.data.shards import INDEX_NAME, read_index, tokenizer_path
from megaxlm.data.tokenizer import Tokenizer

_SHARD_TOKENS = 16_000_000
_ROUNDS = 3


def make_dataset(directory: Path, megabytes: int) -> None:
    """Writes shards, a small tokenizer, and an index by way of a repair."""
    rng = np.random.default_rng(0)
    model = io.BytesIO()
    words = ["".join(chr(97 + int(c)) for c in rng.integers(0, 26, 6)) for _ in range(3000)]
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(words),
        model_writer=model,
        vocab_size=1000,
        byte_fallback=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    path = tokenizer_path(directory)
    path.parent.mkdir(parents=True)
    path.write_bytes(model.getvalue())
    write_hf_tokenizer(path, path.parent)
    shards = max(2, megabytes * 1_000_000 // (4 * _SHARD_TOKENS))
    for number in range(shards):
        length = 12 if number % 2 else 600
        lengths = np.full(_SHARD_TOKENS // length, length, np.int64)
        values = rng.integers(4, 900, int(lengths.sum())).astype(np.uint32)
        ids = rng.integers(0, 2**64, len(lengths), dtype=np.uint64)
        if number < 2:  # a row that the tokenizer spells, or a repair would doubt the tokenizer
            ids[0] = document_id(Tokenizer(path).decode(values[:length].tolist()))
        side = EncodedSide(values, lengths, (3 * lengths).astype(np.uint32))
        name = f"train/{'ab'[number % 2]}a/{number // 2:05d}.arrow"
        write_shard(directory, name, [side], ids)
    assert repair(directory, progress=False).written


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Returns the time by the clock, and CPU time with that of processes started."""
    start, before = time.perf_counter(), sum(os.times()[:4])
    work()
    return time.perf_counter() - start, sum(os.times()[:4]) - before


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=1024)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "data"
        make_dataset(directory, arguments.megabytes)
        index = read_index(directory)
        files = [directory / info.path for subset in index.subsets for info in subset.shards]
        size = sum(path.stat().st_size for path in files)
        rows = sum(subset.rows for subset in index.subsets)
        cpus = available_cpus()
        names = "\0".join(map(str, files)).encode()

        def run_tool(tool: str) -> None:
            command = ["xargs", "-0", "-n", "1", "-P", str(cpus), tool]
            subprocess.run(command, input=names, check=True, stdout=subprocess.DEVNULL)

        def run_repair() -> None:
            (directory / INDEX_NAME).unlink()
            assert repair(directory, progress=False).written

        contestants: dict[str, Callable[[], object]] = {
            "verify, 1 thread": lambda: verify(directory, progress=False, threads=1),
            f"verify, {cpus} threads": lambda: verify(directory, progress=False),
            f"repair, {cpus} threads": run_repair,
            f"sha256sum, {cpus} processes": lambda: run_tool("sha256sum"),
            "inspect: lengths of documents": lambda: length_histograms(directory, index),
            "inspect: shared documents": lambda: find_overlap(directory, index),
        }
        if shutil.which("xxhsum"):
            contestants[f"xxhsum, {cpus} processes"] = lambda: run_tool("xxhsum")
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
        for _ in range(_ROUNDS):
            for name, work in contestants.items():
                times[name].append(seconds(work))
        print(f"{size / 1e6:,.0f} MB in {len(files)} shards, {rows:,} documents, {cpus} CPUs")
        medians = {}
        for name, taken in times.items():
            clock, cpu = (statistics.median(each) for each in zip(*taken, strict=True))
            medians[name] = (clock, cpu)
            print(
                f"{name:<32} {size / 1e6 / clock:8,.0f} MB/s {size / 1e6 / cpu:8,.0f} MB/s of CPU"
            )
        tool, ours = medians[f"sha256sum, {cpus} processes"], medians[f"verify, {cpus} threads"]
        print(f"verify over sha256sum {tool[0] / ours[0]:.2f}, in CPU time {tool[1] / ours[1]:.2f}")
        peak = psutil.Process(os.getpid()).memory_info().rss
        print(f"memory of this process at the end: {peak / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
