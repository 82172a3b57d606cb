"""Times tokenizer training and takes its peak memory, beside what else one would train with.

    python data_tools/benchmarks/benchmark_tokenizer_training.py --text FILES [--vocab-size N ...]

Every run is a process of its own; memory is the peak of its resident bytes less what the same
process holds before it trains.

Seen on two cores of an AMD EPYC that ten other programs shared, so that CPU time is to be compared
and not the clock, on text in 200 languages:

    sample                      pieces   contender            memory    CPU time
    8.0 MB, 5.8 M characters    32,000   unigram              0.28 GB     61 s
                                         bpe                  0.27 GB      5 s
                                         tokenizers bpe       0.29 GB      7 s
    60 MB, 43.4 M characters    64,000   bpe                  1.13 GB     34 s
    60 MB, 43.4 M characters   256,000   unigram              1.24 GB    190 s
    140 MB                     256,000   unigram              2.6 GB   stopped after its peak

So 256,000 pieces by Unigram take 22 bytes of memory a character and 4 a byte: 24 GB are enough for
a sample of 900 MB in Latin letters, some 3 million lines of 300 bytes, or for 2 GB in Devanagari.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from megaxlm_data.tokenizer.training import train_model

from megaxlm.config.data_tokenizer import TokenizerConfig

CONTENDERS = ("unigram", "bpe", "tokenizers unigram", "tokenizers bpe")


def lines_of(path: Path) -> Iterator[str]:
    """Yields the lines of a file; columns of a table are lines of their own."""
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", newline="\n") as file:
        for line in file:
            for text in line.rstrip("\n").split("\t"):
                if text:
                    yield text


def sample(files: list[Path], megabytes: float) -> Iterator[str]:
    """Yields lines of the files in turn, until there are so many bytes."""
    left = megabytes * 1e6
    for row in itertools.zip_longest(*(lines_of(path) for path in files)):
        for line in filter(None, row):
            yield line
            left -= len(line.encode())
            if left <= 0:
                return


def train(contender: str, sentences: list[str], vocab_size: int) -> None:
    """Trains one model and forgets it."""
    if contender in ("unigram", "bpe"):
        settings: dict[str, Any] = {"vocab_size": vocab_size}
        if contender == "bpe":
            settings["model_type"] = "bpe"
        train_model(sentences, TokenizerConfig(**settings), seed=0, workers=64)
        return
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    unigram = contender.endswith("unigram")
    tokenizer = Tokenizer(models.Unigram() if unigram else models.BPE())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    kind: Any = trainers.UnigramTrainer if unigram else trainers.BpeTrainer
    special = ["<unk>", "<s>", "</s>"]
    options = {"unk_token": "<unk>"} if unigram else {}
    trainer = kind(vocab_size=vocab_size, special_tokens=special, show_progress=False, **options)
    tokenizer.train_from_iterator(sentences, trainer)


def run_here(task: dict[str, Any]) -> None:
    """Reads the sample, trains, prints what it took as JSON."""
    sentences = list(sample([Path(name) for name in task["files"]], task["megabytes"]))
    chars, size = sum(map(len, sentences)), sum(len(s.encode()) for s in sentences)
    process = psutil.Process()
    before = process.memory_info().rss
    peak, stop = [before], threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        train(task["contender"], sentences, task["vocab_size"])
    finally:
        stop.set()
        watcher.join()
    result = {
        "sentences": len(sentences),
        "bytes": size,
        "chars": chars,
        "memory_bytes": peak[0] - before,
        "wall_seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
    }
    print(json.dumps(result))


def measured(task: dict[str, Any]) -> dict[str, float] | str:
    """Runs a task in a process of its own; returns its numbers, or how it failed."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(task, file)
        file.flush()
        done = subprocess.run(
            [sys.executable, __file__, "--run", file.name],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        return f"failed ({done.returncode}): {(done.stderr.strip().splitlines() or [''])[-1]}"
    numbers: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def main() -> int:
    """Prints a line for each contender, sample and vocabulary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", nargs="+", type=Path, default=[])
    parser.add_argument("--megabytes", nargs="+", type=float, default=[16.0])
    parser.add_argument("--vocab-size", nargs="+", type=int, default=[64_000])
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run_here(json.loads(args.run.read_text()))
        return 0
    show: Callable[[str], None] = lambda line: print(line, flush=True)  # noqa: E731
    for megabytes, vocab_size in itertools.product(args.megabytes, args.vocab_size):
        for contender in args.only:
            task = {
                "files": [str(path) for path in args.text],
                "megabytes": megabytes,
                "vocab_size": vocab_size,
                "contender": contender,
            }
            found = measured(task)
            if isinstance(found, str):
                show(f"{contender:<20} {megabytes:6.0f} MB {vocab_size:>7,} pieces: {found}")
                continue
            show(
                f"{contender:<20} {found['bytes'] / 1e6:6.1f} MB {found['chars'] / 1e6:6.1f} M "
                f"characters {found['sentences']:>9,} lines {vocab_size:>7,} pieces: "
                f"{found['memory_bytes'] / 1e9:6.2f} GB {found['wall_seconds']:7.0f} s by the "
                f"clock {found['cpu_seconds']:7.0f} s of CPU time"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
