"""Decontamination: our search, compiled and with NumPy, against datatrove's n-gram filter.

    export PYTHONPATH=.:data_tools
    python data_tools/benchmarks/benchmark_decontamination.py --text TEXT... --evaluation FILE...

All look for the same evaluation files in the same documents (blocks of lines that a blank line
ends), one document a call, 13 words in a row. Ours folds, searches and looks for short items too;
datatrove's `NGramsDecontFilter` (if it is installed) simplifies, splits into words with its
tokenizer for `--lang`, joins and hashes each n-gram and looks it up in a dict; its index is made
here in its own format with its own functions, because its indexer wants `lighteval`. Times are CPU
times of this process, the median of a few rounds in turn.

On one core of a busy 2-core x86 machine, English documents of 2 KB against XNLI dev and the English
sides of Tatoeba (datatrove 0.10.1, spaCy's tokenizer):

    our index: 0.71 s
    datatrove's index: 35.74 s
    ours           37.99 MB/s, ours is 1.0 times as fast
    ours, NumPy     2.64 MB/s, ours is 14.4 times as fast
    datatrove       0.22 MB/s, ours is 169.6 times as fast
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xxhash
from megaxlm_data import native
from megaxlm_data.decontamination import search
from megaxlm_data.decontamination.index import ContaminationIndex, ngrams_of, prepare
from megaxlm_data.decontamination.items import files_of, read_items
from megaxlm_data.decontamination.spans import fold
from megaxlm_data.progress import Progress

from megaxlm.config.data_decontamination import DecontaminationConfig

Drops = Callable[[str], bool]


def ours(config: DecontaminationConfig, folder: Path) -> Drops:
    """Returns what says whether we would drop a document."""
    index = ContaminationIndex(ngrams_of(config), folder)
    return lambda text: bool(index.find(fold(text)))


def datatrove(config: DecontaminationConfig, folder: Path, lang: str) -> Drops:
    """Returns what says whether datatrove would drop a document; makes its index."""
    from datatrove.data import Document
    from datatrove.pipeline.decont import NGramsDecontConfig, NGramsDecontFilter
    from datatrove.utils.text import ngrams, simplify_text

    settings = NGramsDecontConfig(n_grams=config.ngram_words)
    filters = NGramsDecontFilter(str(folder), settings, language=lang)
    filters.hash_func = lambda text: xxhash.xxh64_intdigest(text.encode())  # its own, for xxhash 4
    folder.mkdir()
    for number, each in enumerate(config.evaluation_sets):
        hashes = set()
        for path in files_of(each, f"evaluation_sets.{number}"):
            for item in read_items(each, path):
                words = filters.tokenizer.word_tokenize(
                    simplify_text(item.text, settings.norm_config)
                )
                grams = map(" ".join, ngrams(words, settings.n_grams))
                hashes.update(map(filters.hash_func, grams))
        array = np.array(list(hashes), dtype=settings.hash_config.np_descr)
        array.tofile(folder / f"{each.name}.index.hashes")
    filters.load_index_hashes()
    return lambda text: filters.filter(Document(text=text, id="")) is not True


def read(paths: list[Path], megabytes: float) -> list[str]:
    """Returns documents, up to so many megabytes of each file."""
    documents = []
    for path in paths:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8", newline="\n") as file:
            text = file.read(int(megabytes * 1e6))
        documents += [document for document in text.split("\n\n") if document.strip()]
    return documents


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--evaluation", nargs="+", required=True)
    parser.add_argument("--lang", default="eng", help="for datatrove's tokenizer, ISO 639-3")
    parser.add_argument("--megabytes", type=float, default=2.0, help="at most, of each text file")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    config = DecontaminationConfig.model_validate(
        {"evaluation_sets": [{"name": "evaluation", "paths": args.evaluation}]}
    )
    documents = read(args.text, args.megabytes)
    megabytes = sum(len(document.encode()) for document in documents) / 1e6
    print(f"{len(documents):,} documents, {megabytes:.2f} MB")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        start = time.process_time()
        prepare(config, root / "ours", Progress(False))
        print(f"our index: {time.process_time() - start:.2f} s")
        contenders: dict[str, Drops] = {"ours": ours(config, root / "ours")}
        if native.load() is not None:
            with_compiler = search.native.load
            search.native.load = lambda: None  # type: ignore[assignment]
            contenders["ours, NumPy"] = ours(config, root / "ours")
            search.native.load = with_compiler
        try:
            start = time.process_time()
            contenders["datatrove"] = datatrove(config, root / "datatrove", args.lang)
            print(f"datatrove's index: {time.process_time() - start:.2f} s")
        except ImportError as error:
            print(f"datatrove is left out: {error}")
        times: dict[str, list[float]] = {name: [] for name in contenders}
        dropped: dict[str, int] = {}
        for _ in range(args.rounds):
            for name, drops in contenders.items():
                start = time.process_time()
                dropped[name] = sum(map(drops, documents))
                times[name].append(time.process_time() - start)
    fastest = statistics.median(times["ours"])
    for name, each in times.items():
        seconds = statistics.median(each)
        print(
            f"{name:12} {megabytes / seconds:7.2f} MB/s, ours is {seconds / fastest:.1f} times as "
            f"fast; {dropped[name]} documents dropped"
        )


if __name__ == "__main__":
    main()
