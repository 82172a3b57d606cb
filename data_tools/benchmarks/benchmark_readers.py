"""What reading costs, form by form, beside the readers of datatrove on the same files.

    PYTHONPATH=.:data_tools python data_tools/benchmarks/benchmark_readers.py [--text FILE ...]

Without `--text` the documents are made up: words of Latin, Cyrillic and Han script. "ours" goes
through all rows of a file as the clean stage gets them, "datatrove" through all documents of its
JsonlReader or ParquetReader (`pip install datatrove orjson`; left out where it is not installed).
They run in turn; a number is the median of the rounds, MB/s of text by this process's CPU time.
"clean" is our whole clean stage on the same file, so that one sees what a reader's share of it is.
The last lines decode JSON alone, with the standard library and with orjson.

On a busy machine of two cores (AMD EPYC), 6 MB of made-up text, datatrove 0.10.1, Python 3.11;
the ratio is that of the two medians of CPU time:

    a.txt       ours   170.7
    a.jsonl     ours    99.9   datatrove    48.8   ratio 2.05
    a.jsonl.gz  ours    86.5   datatrove    39.2   ratio 2.21
    a.parquet   ours   164.9   datatrove   105.8   ratio 1.56
    a.arrow     ours   349.1
    a.jsonl     clean    14.9
    decoding    json   396.6   orjson   200.4   ratio 1.98

So reading JSON lines is a seventh of cleaning them. Decoding is a quarter of that: orjson, which in
other runs on Wikipedia text was between 0.6 and 3 times as fast as `json`, would change nothing.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from megaxlm_data.crew import Crew
from megaxlm_data.progress import Progress
from megaxlm_data.stages.clean import clean
from megaxlm_data.stages.plan import find_inputs
from megaxlm_data.stages.rows import open_rows
from megaxlm_data.workers import WorkerPool

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.config.data_sources import MonolingualSource

ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz",
    "абвгдежзийклмнопрстуфхцчшщыэюя",
    "的一是不了人我在有他这为之大来以个中上们",
)
ROUNDS = 5


def made_up(megabytes: float) -> list[str]:
    """Returns documents of some paragraphs."""
    rng = random.Random(0)
    words = ["".join(rng.choices(a, k=rng.randint(2, 9))) for a in ALPHABETS for _ in range(3000)]
    found, size = [], 0.0
    while size < megabytes * 1e6:
        count = rng.randint(1, 9)
        lines = (" ".join(rng.choices(words, k=rng.randint(5, 60))) for _ in range(count))
        found.append("\n".join(lines))
        size += len(found[-1].encode())
    return found


def write(folder: Path, documents: list[str]) -> dict[str, Path]:
    """Writes the documents in each form; returns the files."""
    about = {"url": "https://example.org/page", "dump": "CC-MAIN", "language_score": 0.98}
    lines = "".join(
        json.dumps({"text": text, "id": str(number), **about}, ensure_ascii=False) + "\n"
        for number, text in enumerate(documents)
    ).encode()
    files = {
        name: folder / name for name in ("a.txt", "a.jsonl", "a.jsonl.gz", "a.parquet", "a.arrow")
    }
    files["a.txt"].write_text("\n\n".join(documents), encoding="utf-8")
    files["a.jsonl"].write_bytes(lines)
    files["a.jsonl.gz"].write_bytes(gzip.compress(lines, 6))
    table = pa.table({"text": documents, "id": [str(n) for n in range(len(documents))]})
    pq.write_table(table, files["a.parquet"], row_group_size=1000)
    with pa.ipc.new_stream(files["a.arrow"], table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    return files


def ours(path: Path) -> Callable[[], int]:
    """Returns what reads all rows of a file."""
    source = MonolingualSource(lang="en", paths=[str(path)])
    config = DataBuildConfig(output=path.parent, corpora=[source])
    units = find_inputs(config, Progress(False)).units

    def read() -> int:
        rows = 0
        for unit in units:
            with ExitStack() as stack:
                rows += sum(1 for _ in open_rows(unit, config, stack, lambda: None).rows)
        return rows

    return read


def stage(path: Path) -> Callable[[], int]:
    """Returns what cleans a file."""

    def run() -> int:
        with tempfile.TemporaryDirectory() as folder, WorkerPool(1) as pool:
            source = MonolingualSource(lang="en", paths=[str(path)])
            config = DataBuildConfig(output=Path(folder), corpora=[source])
            progress = Progress(False)
            inputs = find_inputs(config, progress)
            made = clean(inputs, config, Path(folder), pool, Crew.alone(), progress)
            return sum(report.read for report in made.reports.values())

    return run


def theirs(path: Path) -> Callable[[], int] | None:
    """Returns what reads all documents with datatrove, if it has a reader for them."""
    if importlib.util.find_spec("datatrove") is None:
        return None
    from datatrove.pipeline import readers

    kinds = {".jsonl": readers.JsonlReader, ".gz": readers.JsonlReader}
    kind = kinds.get(path.suffix, readers.ParquetReader if path.suffix == ".parquet" else None)
    if kind is None:
        return None

    def read() -> int:
        reader: Iterable[Any] = kind(str(path.parent), glob_pattern=path.name)()
        return sum(1 for _ in reader)

    return read


def decoders(path: Path) -> Iterator[tuple[str, Callable[[], int]]]:
    """Yields what decodes the lines of a file, by library."""
    lines = path.read_text(encoding="utf-8").splitlines()
    libraries: dict[str, Callable[[str], Any]] = {"json": json.loads}
    if importlib.util.find_spec("orjson") is not None:
        import orjson

        libraries["orjson"] = orjson.loads
    for name, loads in libraries.items():
        yield name, partial(_decode, loads, lines)


def _decode(loads: Callable[[str], Any], lines: list[str]) -> int:
    # a line as a reader has it: a string whose UTF-8 nobody asked for yet
    return sum(1 for line in lines if loads((line + " ")[:-1]))


def compare(runs: dict[str, Callable[[], int]], megabytes: float, expected: int) -> str:
    """Runs each in turn; returns the medians as MB/s, and their ratio to the last one."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.process_time()
            count = run()
            seconds[name].append(time.process_time() - start)
            if count != expected:
                raise SystemExit(f"{name} gave {count} rows instead of {expected}")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    shown = [f"{name} {megabytes / each:7.1f}" for name, each in medians.items()]
    *_, last = medians.values()
    first = next(iter(medians.values()))
    return "   ".join(shown) + (f"   ratio {last / first:.2f}" if len(medians) > 1 else "")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", nargs="*", type=Path, help="plain text, documents by blank lines")
    parser.add_argument("--megabytes", type=float, default=10)
    arguments = parser.parse_args()
    documents = [
        document
        for path in arguments.text or []
        for document in path.read_text(encoding="utf-8").split("\n\n")
        if document.strip()
    ] or made_up(arguments.megabytes)
    documents = [document.strip() for document in documents]
    megabytes = sum(len(document.encode()) for document in documents) / 1e6
    print(f"{len(documents):,} documents, {megabytes:.1f} MB of text; MB/s of CPU time")
    with tempfile.TemporaryDirectory() as folder:
        files = write(Path(folder), documents)
        for name, path in files.items():
            runs = {"ours": ours(path)}
            if (other := theirs(path)) is not None:
                runs["datatrove"] = other
            print(f"{name:<12}{compare(runs, megabytes, len(documents))}", flush=True)
        clean_run = {"clean": stage(files["a.jsonl"])}
        print(f"{'a.jsonl':<12}{compare(clean_run, megabytes, len(documents))}")
        alone = dict(decoders(files["a.jsonl"]))
        print(f"{'decoding':<12}{compare(alone, megabytes, len(documents))}")


if __name__ == "__main__":
    main()
