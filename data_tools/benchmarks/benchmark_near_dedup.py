"""Near-duplicate detection beside what one would use instead, on the same documents in one run.

    PYTHONPATH=.:data_tools python data_tools/benchmarks/benchmark_near_dedup.py [--text FILE ...]

Besides this project it takes whichever of `rensa`, `datasketch` and `datatrove` (with `spacy`) is
installed. Without `--text`, documents are made up. To every fifth document a copy is added in
which some tokens are replaced, so that pairs of known similarity (Jaccard of the shingles, exact)
are there to be found.

    ours: sign      signatures of the documents alone, one core
    ours: stage     the whole stage from clean text to what stays, files and syncing included
    rensa, datasketch   shingles cut in Python, their signatures and their index, in memory
    datatrove       its four steps by default: spaCy's words, 14 bands of 8, no check of pairs

A round runs each once; the medians of MB/s of CPU time over a few rounds count. `found` is the
share of planted pairs of similarity >= 0.85 of which one document went, `false` that of pairs
below 0.6, `agrees` the documents that both it and the stage drop over those that either does.

On a 2-core x86 machine (AMD EPYC, shared, busy), 3.8 MB of made-up words (`--megabytes 3`), rensa
0.5.0, datasketch 2.0.0, datatrove 0.10.1; at this size the files of the stage cost more than its
signatures:

                    MB/s a core  stage over it   dropped    found    false   agrees
    ours: sign           126.62           0.33
    ours: stage           42.21           1.00       118    0.988    0.000    1.000
    rensa                 10.55           4.00       114    1.000    0.000    0.841
    datasketch             1.22          34.56       100    0.919    0.000    0.758
    datatrove              0.13         325.67       194    1.000    0.043    0.592

    share found, by similarity: ours: stage, rensa, datasketch, datatrove
      0.65 - 0.70 (   37 pairs)   0.027   0.000   0.000   0.351
      0.70 - 0.75 (   31 pairs)   0.065   0.000   0.032   0.774
      0.75 - 0.80 (   24 pairs)   0.292   0.208   0.167   0.958
      0.80 - 0.85 (   29 pairs)   0.793   0.793   0.552   0.966
      0.85 - 0.90 (   24 pairs)   0.958   1.000   0.750   1.000
      0.90 - 0.95 (   20 pairs)   1.000   1.000   0.950   1.000
      0.95 - 1.00 (   42 pairs)   1.000   1.000   1.000   1.000

On 2.1 MB of Thai, Japanese and Chinese, one round: sign 105, stage 19, rensa 5.8, datasketch 1.1
MB/s a core.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from megaxlm_data.crew import Crew
from megaxlm_data.dedup.minhash import Shingling, sign
from megaxlm_data.dedup.shingles import UNSPACED_ABOVE, folding_table, shingle_hashes
from megaxlm_data.document import count_unspaced
from megaxlm_data.progress import Progress
from megaxlm_data.stages.clean import clean
from megaxlm_data.stages.exact import exact_duplicates
from megaxlm_data.stages.near import near_duplicates
from megaxlm_data.stages.plan import find_inputs
from megaxlm_data.workers import WorkerPool

from megaxlm.config.data_build import DataBuildConfig

THRESHOLD, WORDS, CHARACTERS = 0.8, 5, 10
PERMUTATIONS = 120  # 20 bands of 6; the others get 128
Dropped = set[int]


def made_up(size: int) -> list[str]:
    """Returns documents of some 1,200 bytes."""
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    lexicon = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(20_000)]
    return [" ".join(rng.choices(lexicon, k=rng.randint(50, 350))) for _ in range(size // 1_250)]


def read(files: list[Path]) -> list[str]:
    """Returns the distinct documents of text files, a line each."""
    texts: dict[str, None] = {}
    for path in files:
        opened = gzip.open(path, "rt") if path.suffix == ".gz" else open(path)
        with opened as file:
            for document in file.read().split("\n\n"):
                line = " ".join(document.split())
                if 200 < len(line) < 100_000:
                    texts[line] = None
    return list(texts)


def unspaced(text: str) -> bool:
    """Returns whether a document is cut into characters."""
    return count_unspaced(text) > UNSPACED_ABOVE * (len(text) - text.count(" "))


def planted(texts: list[str]) -> tuple[list[str], list[tuple[int, int]]]:
    """Appends edited copies; returns all documents and (original, copy)."""
    rng = random.Random(1)
    pairs, result = [], list(texts)
    for number in range(0, len(texts), 5):
        cut = list(texts[number]) if unspaced(texts[number]) else texts[number].split(" ")
        share = rng.random() * (0.06 if unspaced(texts[number]) else 0.12)
        edited = [rng.choice(cut) if rng.random() < share else token for token in cut]
        pairs.append((number, len(result)))
        result.append(("" if unspaced(texts[number]) else " ").join(edited))
    return result, pairs


def joined(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the bytes of all documents and their offsets."""
    raw = [text.encode() for text in texts]
    return np.frombuffer(b"".join(raw), np.uint8), np.cumsum([0, *map(len, raw)])


def similarities(texts: list[str], pairs: list[tuple[int, int]]) -> list[float]:
    """Returns the exact Jaccard similarity of pairs of documents."""
    found = []
    for pair in pairs:
        hashes, owners = shingle_hashes(*joined([texts[i] for i in pair]), WORDS, CHARACTERS)
        a, b = (set(hashes[owners == side].tolist()) for side in (0, 1))
        found.append(len(a & b) / max(1, len(a | b)))
    return found


def python_shingles(text: str) -> list[str]:
    """Cuts a document as one does in Python."""
    folded = text.lower()
    if unspaced(text):
        letters = "".join(c for c in folded if c.isalnum())
        return [letters[i : i + CHARACTERS] for i in range(max(1, len(letters) - CHARACTERS + 1))]
    words = folded.split()
    return [" ".join(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1))]


def ours_sign(texts: list[str]) -> Dropped:
    """Signs the documents."""
    sign(*joined(texts), Shingling(WORDS, CHARACTERS, PERMUTATIONS))
    return set()


class Stage:
    """The whole stage, from clean text."""

    def __init__(self, texts: list[str], folder: Path) -> None:
        source = folder / "texts.txt"
        source.write_text("\n\n".join(texts) + "\n")
        self._config = DataBuildConfig(
            output=folder / "out",
            corpora=[{"lang": "en", "paths": [str(source)]}],
            filters={"min_letter_share": 0, "min_document_chars": 0},
            deduplication={"near": {"threshold": THRESHOLD}},
        )
        self._folder = folder
        self._quiet = Progress(False)
        self._crew = Crew.alone()
        inputs = find_inputs(self._config, self._quiet)
        with WorkerPool(1) as pool:
            made = clean(inputs, self._config, folder / "clean", pool, self._crew, self._quiet)
        self._plan, self._reports = made.plan, made.reports
        self._exact = exact_duplicates(
            self._plan,
            self._config,
            self._reports,
            folder / "clean",
            folder / "exact",
            self._crew,
            self._quiet,
        )
        self._count = len(texts)

    def __call__(self, texts: list[str]) -> Dropped:
        """Runs it in a folder of its own."""
        with tempfile.TemporaryDirectory(dir=self._folder) as work, WorkerPool(1) as pool:
            kept = near_duplicates(
                self._plan,
                self._config,
                self._exact,
                self._reports,
                self._folder / "clean",
                Path(work),
                pool,
                self._crew,
                self._quiet,
            )
        return set(np.flatnonzero(~kept["en"].rows(0, self._count)).tolist())


def with_rensa(texts: list[str]) -> Dropped:
    """Shingles in Python, signatures and index in Rust."""
    from rensa import RMinHashDeduplicator

    index = RMinHashDeduplicator(threshold=THRESHOLD, num_perm=128, use_lsh=True, num_bands=16)
    keep = index.add_pairs((str(i), python_shingles(text)) for i, text in enumerate(texts))
    return {i for i, stays in enumerate(keep) if not stays}


def with_datasketch(texts: list[str]) -> Dropped:
    """Shingles in Python, signatures in NumPy, index in dictionaries."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=THRESHOLD, num_perm=128)
    signatures, dropped = {}, set()
    for number, text in enumerate(texts):
        signature = MinHash(num_perm=128)
        signature.update_batch([shingle.encode() for shingle in python_shingles(text)])
        similar = (signatures[other].jaccard(signature) for other in index.query(signature))
        if any(each >= THRESHOLD for each in similar):
            dropped.add(number)
            continue
        signatures[number] = signature
        index.insert(number, signature)
    return dropped


def with_datatrove(texts: list[str]) -> Dropped:
    """Its four steps over JSON lines, in this process: no executor, no start of a process."""
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import JsonlReader

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        with open(folder / "in/a.jsonl", "w") as file:
            for number, text in enumerate(texts):
                file.write(json.dumps({"id": str(number), "text": text}) + "\n")
        config = MinhashConfig()
        documents = JsonlReader(f"{name}/in").run()
        MinhashDedupSignature(f"{name}/sig", config).run(documents, 0, 1)
        buckets = MinhashDedupBuckets(f"{name}/sig", f"{name}/buckets", config=config)
        for number in range(config.num_buckets):
            buckets.run(None, number, config.num_buckets)
        MinhashDedupCluster(f"{name}/buckets", f"{name}/remove", config=config).run(None, 0, 1)
        staying = MinhashDedupFilter(f"{name}/remove").run(JsonlReader(f"{name}/in").run(), 0, 1)
        kept = {int(document.id) for document in staying}
    return set(range(len(texts))) - kept


def cpu_seconds() -> float:
    """Returns CPU time of this process and of those it waited for."""
    return sum(os.times()[:4])


def main() -> None:
    """Runs all and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", type=Path, nargs="*", default=[])
    parser.add_argument("--megabytes", type=float, default=4.0, help="of made-up text")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    originals = read(arguments.text) if arguments.text else made_up(int(arguments.megabytes * 1e6))
    texts, pairs = planted(originals)
    size = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts):,} documents, {size:.1f} MB, {len(pairs):,} planted pairs")
    true = similarities(texts, pairs)
    folding_table()  # a tenth of a second, once a process
    with tempfile.TemporaryDirectory() as name:
        stage = Stage(texts, Path(name))
        ways: dict[str, Callable[[list[str]], Dropped]] = {"ours: sign": ours_sign}
        ways["ours: stage"] = stage
        needed = {"rensa": ["rensa"], "datasketch": ["datasketch"]}
        needed["datatrove"] = ["datatrove", "spacy"]
        others = {"rensa": with_rensa, "datasketch": with_datasketch, "datatrove": with_datatrove}
        for package, parts in needed.items():
            if all(importlib.util.find_spec(part) for part in parts):
                ways[package] = others[package]
            else:
                print(f"{package}: not installed", file=sys.stderr)
        for package in ways.keys() & others.keys():
            ways[package](texts[:20])  # imports and tables
        speeds: dict[str, list[float]] = {way: [] for way in ways}
        dropped: dict[str, Dropped] = {}
        for _ in range(arguments.rounds):
            for way, run in ways.items():
                start = cpu_seconds()
                dropped[way] = run(texts)
                speeds[way].append(size / (cpu_seconds() - start))
    report(speeds, dropped, pairs, true)


def report(
    speeds: dict[str, list[float]],
    dropped: dict[str, Dropped],
    pairs: list[tuple[int, int]],
    true: list[float],
) -> None:
    """Prints a line for each way, and recall over similarity."""
    median = {way: statistics.median(each) for way, each in speeds.items()}
    reference = dropped["ours: stage"]

    def share(way: str, low: float, high: float) -> str:
        hits = [
            a in dropped[way] or b in dropped[way]
            for (a, b), similarity in zip(pairs, true, strict=True)
            if low <= similarity < high
        ]
        return f"{np.mean(hits):6.3f}" if hits else "     -"

    print("                MB/s a core  stage over it   dropped    found    false   agrees")
    for way in speeds:
        line = f"{way:<14}{median[way]:13.2f}{median['ours: stage'] / median[way]:15.2f}"
        if way != "ours: sign":
            both = len(dropped[way] & reference) / max(1, len(dropped[way] | reference))
            line += f"{len(dropped[way]):10,}   {share(way, 0.85, 2)}   {share(way, 0, 0.6)}"
            line += f"{both:9.3f}"
        print(line)
    edges = [0, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.001]
    ways = [way for way in speeds if way != "ours: sign"]
    print("share found, by similarity: " + ", ".join(ways))
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        number = sum(low <= similarity < high for similarity in true)
        columns = "  ".join(partial(share, low=low, high=high)(way) for way in ways)
        print(f"  {low:.2f} - {min(high, 1):.2f} ({number:5,} pairs)  {columns}")


if __name__ == "__main__":
    main()
