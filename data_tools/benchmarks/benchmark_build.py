"""What `data build` costs: encoding beside bare sentencepiece, scaling, and memory.

    PYTHONPATH=.:data_tools python data_tools/benchmarks/benchmark_build.py [--text FILE ...]

Without `--text`, the corpus is made up: words of four alphabets with Zipf frequencies. "bare" is
one call of sentencepiece for each megabyte, lists of ids out. "stage" is our whole encode stage
on the same text: reading and decompressing the clean text, encoding, splitting, writing, hashing
and syncing the shards. They run in turn and the best of a few rounds counts. CPU time is that of
this process: with one worker all of it, with two that of the process that writes, which tells how
many workers it can serve. Memory is the sum of resident bytes over all processes of a whole build
(2 workers, an existing tokenizer), pages they share counted twice.

On 2 quiet cores of a shared x86 machine (AMD EPYC), documents in English, German, Russian, Arabic,
Hindi and Chinese, sentencepiece 0.2.3:

    15.9 MB of clean text, vocabulary 20,000
    clean stage                    22.6 MB/s of CPU time
    encode: bare, 1       30.44 MB/s by the clock    30.46 MB/s of CPU time
    encode: bare, 2       52.03 MB/s by the clock
    encode: stage, 1      26.74 MB/s by the clock    27.13 MB/s of CPU time
    encode: stage, 2      47.12 MB/s by the clock
    stage over bare, 1 worker      0.88 by the clock, 0.89 in CPU time
    bare, 2 processes over 1       1.71 by the clock
    stage, 2 workers over 1        1.76 by the clock
    one writer is enough for         10 workers
    whole build of     32 MB, 2 workers: peak 718 MB
    whole build of    256 MB, 2 workers: peak 865 MB
    whole build of   1024 MB, 2 workers: peak 865 MB (in an earlier run)

On the made-up text, where bare sentencepiece runs at 52 MB/s, the stage reached 0.79 - 0.90 of it
in CPU time while other jobs kept the machine busy.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from megaxlm_data.crew import Crew
from megaxlm_data.pipeline import build
from megaxlm_data.progress import Progress
from megaxlm_data.stages.clean import clean
from megaxlm_data.stages.encode import encode
from megaxlm_data.stages.exact import exact_duplicates
from megaxlm_data.stages.plan import find_inputs
from megaxlm_data.stages.select import Selection, blocks_of, select
from megaxlm_data.stages.vocabulary import ensure_tokenizer
from megaxlm_data.workers import WorkerPool
from megaxlm_data.writers.cleaned import open_cleaned

from megaxlm.config.data_build import DataBuildConfig

ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz",
    "абвгдежзийклмнопрстуфхцчшщыэюя",
    "अआइईउऊएऐओऔकखगघचजटडणतथदधनपफबमयरलव",
    "αβγδεζηθικλμνξοπρστυφχψω",
)
REQUIRED_SHARE_OF_BARE = 0.8
REQUIRED_PEAK_BYTES = 2e9


def made_up_documents(size: int) -> Iterable[str]:
    """Yields documents of some 1,500 bytes, `size` bytes in all."""
    rng = np.random.default_rng(0)
    words = []
    for alphabet in ALPHABETS:
        letters = np.array(list(alphabet))
        words.append(["".join(rng.choice(letters, n)) for n in rng.integers(2, 10, 20_000)])
    done = 0
    for number in itertools.count():
        ranks = np.minimum(rng.zipf(1.3, 200) - 1, 19_999)
        text = " ".join(words[number % len(words)][rank] for rank in ranks)
        yield text
        done += len(text.encode()) + 2
        if done >= size:
            return


def text_documents(files: list[Path], size: int) -> Iterable[str]:
    """Yields the documents of files, again and again with a number until there is enough."""
    texts = [
        (gzip.open(path, "rt") if path.suffix == ".gz" else open(path)).read().split("\n\n")
        for path in files
    ]
    done = 0
    for turn in itertools.count():
        for text in itertools.chain.from_iterable(texts):
            yield f"{turn} {text}"
            done += len(text.encode()) + 4
            if done >= size:
                return


def write_corpus(path: Path, documents: Iterable[str]) -> None:
    """Writes one text file."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{document}\n\n" for document in documents)


class Prepared:
    """A corpus that is clean and has a tokenizer: all that the encode stage starts from."""

    def __init__(self, config: DataBuildConfig) -> None:
        self.config = config
        self.progress = Progress(False)
        work = config.output / "work"
        self.crew = Crew.alone()
        self.cleaned = work / "clean"
        inputs = find_inputs(config, self.progress)
        with WorkerPool(1) as pool:
            start = time.process_time()
            made = clean(inputs, config, self.cleaned, pool, self.crew, self.progress)
            self.clean_seconds = time.process_time() - start
            self.plan, self.reports = made.plan, made.reports
            kept = exact_duplicates(
                self.plan,
                config,
                self.reports,
                self.cleaned,
                work / "exact",
                self.crew,
                self.progress,
            )
            self.selections: dict[str, Selection] = select(
                self.plan, config, kept, self.reports, self.cleaned, work / "select"
            )
            self.tokenizer = ensure_tokenizer(
                self.plan,
                config,
                self.selections,
                self.reports,
                self.cleaned,
                work / "tokenizer.json",
                pool,
                self.progress,
            )
        self.size = sum(report.text_bytes for report in self.reports.values())

    def texts(self) -> list[list[str]]:
        """Returns the text that will be encoded, block by block."""
        found = []
        for group in self.plan.groups:
            for block in blocks_of(group, self.reports, self.cleaned):
                keep = self.selections[group.name].rows(block)
                (texts,) = open_cleaned(block.path, True).texts(block.number, keep)
                found.append([text.replace("\n", " ") for text in texts])
        return found

    def encode(self, pool: WorkerPool) -> None:
        """Runs the stage from its beginning."""
        with tempfile.TemporaryDirectory(dir=self.config.output) as markers:
            encode(
                self.plan,
                self.config,
                self.selections,
                self.reports,
                self.cleaned,
                Path(markers),
                self.tokenizer,
                pool,
                self.crew,
                self.progress,
            )


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Returns wall and CPU seconds of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


@cache
def processor_of(model: Path) -> Any:
    """Returns sentencepiece's own object."""
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(model))


def encode_bare(task: tuple[Path, list[str]]) -> None:
    """Encodes a block and forgets it: what two processes can do at best on this machine now."""
    model, texts = task
    processor_of(model).encode(texts, num_threads=1)


def benchmark_encoding(prepared: Prepared, rounds: int) -> bool:
    """Prints rates and ratios; returns whether the stage keeps to its share of bare."""
    tasks = [(prepared.tokenizer.model_path, block) for block in prepared.texts()]

    def bare(pool: WorkerPool) -> None:
        for _ in pool.map(encode_bare, tasks, "finished"):
            pass

    times: dict[str, list[tuple[float, float]]] = {
        name: [] for name in ("bare, 1", "bare, 2", "stage, 1", "stage, 2")
    }
    with WorkerPool(1) as one, WorkerPool(2) as two:
        prepared.encode(two)  # starts its processes
        for _ in range(rounds):
            times["bare, 1"].append(timed(lambda: bare(one)))
            times["bare, 2"].append(timed(lambda: bare(two)))
            times["stage, 1"].append(timed(lambda: prepared.encode(one)))
            times["stage, 2"].append(timed(lambda: prepared.encode(two)))
    best = {
        name: [min(column) for column in zip(*each, strict=True)] for name, each in times.items()
    }
    size = prepared.size / 1e6
    print(f"{size:.1f} MB of clean text, vocabulary {prepared.tokenizer.vocab_size:,}")
    print(f"clean stage                {size / prepared.clean_seconds:8.1f} MB/s of CPU time")
    for name, (wall, cpu) in best.items():
        in_cpu = f"{size / cpu:8.2f} MB/s of CPU time" if name.endswith("1") else ""
        print(f"encode: {name:<10} {size / wall:8.2f} MB/s by the clock {in_cpu}")
    (bare_one, bare_cpu), (bare_two, _) = best["bare, 1"], best["bare, 2"]
    (one_worker, one_cpu), (two_workers, writing) = best["stage, 1"], best["stage, 2"]
    share = bare_cpu / one_cpu
    ok = bool(share >= REQUIRED_SHARE_OF_BARE)
    print(f"stage over bare, 1 worker  {bare_one / one_worker:8.2f} by the clock")
    print(f"stage over bare, 1 worker  {share:8.2f} in CPU time{'' if ok else '  TOO SLOW'}")
    print(f"bare, 2 processes over 1   {bare_one / bare_two:8.2f} by the clock")
    print(f"stage, 2 workers over 1    {one_worker / two_workers:8.2f} by the clock")
    print(f"one writer is enough for   {bare_cpu / writing:8.0f} workers")
    return ok


def peak_memory(config: DataBuildConfig, folder: Path) -> int:
    """Runs a build in a process of its own; returns the peak of the sum of resident bytes."""
    path = folder / "config.json"
    path.write_text(config.model_dump_json())
    process = subprocess.Popen([sys.executable, __file__, "--build", str(path)])
    peak, stop = [0], threading.Event()

    def watch() -> None:
        parent = psutil.Process(process.pid)
        while not stop.wait(0.05):
            total = 0
            try:
                for each in [parent, *parent.children(recursive=True)]:
                    total += each.memory_info().rss
            except psutil.NoSuchProcess:
                continue
            peak[0] = max(peak[0], total)

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.wait()
    stop.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(process.returncode)
    return peak[0]


def main() -> int:
    """Runs all; returns 1 if a requirement is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", nargs="*", type=Path, default=[])
    parser.add_argument("--megabytes", type=float, default=16.0)
    parser.add_argument("--memory-megabytes", nargs="*", type=float, default=[32.0, 256.0])
    parser.add_argument("--vocab-size", type=int, default=16_000)
    parser.add_argument("--model", type=Path, help="an existing SentencePiece model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.build:
        build(DataBuildConfig.model_validate_json(args.build.read_text()), progress=False)
        return 0

    def documents(megabytes: float) -> Iterable[str]:
        size = int(megabytes * 1e6)
        return text_documents(args.text, size) if args.text else made_up_documents(size)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def config(output: str, megabytes: float, model: Path | None) -> DataBuildConfig:
            corpus = folder / f"{output}.txt"
            write_corpus(corpus, documents(megabytes))
            return DataBuildConfig.model_validate(
                {
                    "output": folder / output,
                    "corpora": [{"lang": "en", "paths": [str(corpus)]}],
                    "tokenizer": {
                        "model": model,
                        "vocab_size": args.vocab_size,
                        "max_sentences": 50_000,
                    },
                    "workers": 2,
                }
            )

        prepared = Prepared(config("encoding", args.megabytes, args.model))
        ok = benchmark_encoding(prepared, args.rounds)
        for megabytes in args.memory_megabytes:
            settings = config(f"memory{megabytes}", megabytes, prepared.tokenizer.model_path)
            peak = peak_memory(settings, folder)
            ok = ok and peak < REQUIRED_PEAK_BYTES
            print(f"whole build of {megabytes:6.0f} MB, 2 workers: peak {peak / 1e6:.0f} MB")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
