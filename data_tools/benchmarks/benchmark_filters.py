"""What the filters and edits cost, beside those of datatrove on the same text.

    PYTHONPATH=.:data_tools python data_tools/benchmarks/benchmark_filters.py [--text LANG=FILE ...]

Without `--text`, the documents are made up: words of Zipf frequencies in three alphabets, and
characters without spaces. Times are CPU time of one process, the median of a few rounds, all in
turn. "by itself" is one step over all documents with nothing in its caches; "defaults" and
"gopher" are whole recipes as a build runs them, up to the filter that drops a document.

datatrove's GopherRepetitionFilter and GopherQualityFilter do what the preset `gopher` does. They
take part if `datatrove` is installed with the word tokenizer of its default language (spacy):
once as they come, and once with words split at spaces, which leaves their own work alone.

On one core of a crowded 2-core x86 machine (AMD EPYC, load above 15, so that the ratios say more
than the rates), g++ 12.2, datatrove 0.10.1, equal parts of en de sw fi ru ar hi zh th my:

    1,608 documents, 2.3 MB
    normalize (NFKC)                              20.3 MB/s
    Boilerplate by itself                         30.6 MB/s
    DocumentLength by itself                     557.5 MB/s
    RepeatedLines by itself                      837.8 MB/s
    BulletLines by itself                        454.6 MB/s
    EllipsisLines by itself                      454.1 MB/s
    WordLength by itself                         103.6 MB/s
    LetterShare by itself                         92.6 MB/s
    DigitShare by itself                          84.3 MB/s
    SymbolShare by itself                         88.8 MB/s
    ReplacementShare by itself                    98.1 MB/s
    ScriptShare by itself                        102.4 MB/s
    TopNgram by itself                            25.4 MB/s
    RepeatedNgrams by itself                      25.6 MB/s
    MaskPersonalData by itself                    22.7 MB/s
    defaults                                      13.8 MB/s
    gopher                                         8.8 MB/s
    gopher, boilerplate, personal data             4.2 MB/s
    datatrove gopher                               0.2 MB/s
    datatrove gopher, words at spaces              1.1 MB/s
    gopher is 40.3 times as fast as datatrove gopher
    gopher is 7.7 times as fast as datatrove gopher, words at spaces
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from megaxlm_data.document import Document, normalize_lines
from megaxlm_data.filters.base import Edit, Filter, Step, apply_steps
from megaxlm_data.filters.recipe import document_steps

from megaxlm.config.data_filters import FilterConfig

ALPHABETS = {
    "en": "abcdefghijklmnopqrstuvwxyz",
    "ru": "абвгдежзийклмнопрстуфхцчшщыэюя",
    "hi": "अआइईउऊएऐओऔकखगघचजटडणतथदधनपफबमयरलव",
}
ROUNDS = 3
REQUIRED_TIMES_DATATROVE = 3.0

Raw = tuple[str, str]  # language, text
Run = Callable[[], object]


def made_up(size: int) -> list[Raw]:
    """Returns documents of some 2,000 characters, `size` bytes in all, equal parts a language."""
    rng = np.random.default_rng(0)
    raws: list[Raw] = []
    for lang, alphabet in (*ALPHABETS.items(), ("zh", "".join(map(chr, range(0x4E00, 0x5800))))):
        spaced = lang in ALPHABETS
        letters = np.array(list(alphabet))
        lengths = rng.integers(2, 10, 20_000) if spaced else np.ones(len(letters), dtype=np.int64)
        words = ["".join(rng.choice(letters, n)) for n in lengths]
        done = 0
        while done < size // 4:
            ranks = np.minimum(rng.zipf(1.2, 300 if spaced else 2_000) - 1, len(words) - 1)
            lines = np.array_split(ranks, 8)
            join = " " if spaced else ""
            text = "\n".join(join.join(words[rank] for rank in line) for line in lines)
            raws.append((lang, text))
            done += len(text.encode())
    return raws


def from_files(named: list[str], size: int) -> list[Raw]:
    """Returns the documents at the beginning of each file, `size` bytes in all."""
    raws: list[Raw] = []
    for name in named:
        lang, _, path = name.partition("=")
        opener = gzip.open if path.endswith(".gz") else open
        with opener(Path(path), "rt", encoding="utf-8", newline="\n") as file:
            text = file.read(size // len(named))
        while len(text.encode()) > size // len(named):
            text = text[: len(text) * 9 // 10]
        raws += [(lang, document) for document in text.split("\n\n") if document.strip()]
    return raws


def step_runs(raws: list[Raw]) -> dict[str, Run]:
    """Returns what is measured of ours."""
    documents = [Document(lang, normalize_lines(text, "nfkc")) for lang, text in raws]

    def normalize() -> None:
        for _, text in raws:
            normalize_lines(text, "nfkc")

    def alone(step: Step[Document]) -> Run:
        def run() -> None:
            for document in documents:
                fresh = Document(document.lang, document.lines)  # its text is joined anew
                if isinstance(step, Edit):
                    step.edit(fresh)
                elif isinstance(step, Filter):
                    step.reason_to_drop(fresh)

        return run

    def recipe(config: FilterConfig) -> Run:
        def run() -> None:
            steps = document_steps(config)
            for document in documents:
                apply_steps(steps, Document(document.lang, document.lines))

        return run

    everything = FilterConfig(preset="gopher", remove_boilerplate=True, mask_personal_data=True)
    runs: dict[str, Run] = {"normalize (NFKC)": normalize}
    for step in document_steps(everything):
        runs[f"{type(step).__name__} by itself"] = alone(step)
    runs["defaults"] = recipe(FilterConfig())
    runs["gopher"] = recipe(FilterConfig(preset="gopher"))
    runs["gopher, boilerplate, personal data"] = recipe(everything)
    return runs


def datatrove_runs(raws: list[Raw]) -> dict[str, Run]:
    """Returns what is measured of datatrove; nothing if it is not installed."""
    try:
        from datatrove.data import Document as Text
        from datatrove.pipeline.filters import (
            GopherQualityFilter,
            GopherRepetitionFilter,
            gopher_quality_filter,
            gopher_repetition_filter,
        )

        filters = GopherRepetitionFilter(), GopherQualityFilter()
        texts = [Text(text="\n".join(normalize_lines(raw, "nfkc")), id="0") for _, raw in raws]
        filters[0].filter(texts[0])
    except ImportError as error:
        print(f"datatrove is left out: {error}")
        return {}

    def as_it_comes() -> None:
        for text in texts:
            all(each.filter(text) is True for each in filters)

    def at_spaces() -> None:
        modules = gopher_repetition_filter, gopher_quality_filter
        own = [module.split_into_words for module in modules]
        for module in modules:
            module.split_into_words = lambda text, language: text.split()
        try:
            as_it_comes()
        finally:
            for module, function in zip(modules, own, strict=True):
                module.split_into_words = function

    return {"datatrove gopher": as_it_comes, "datatrove gopher, words at spaces": at_spaces}


def main() -> int:
    """Prints MB/s of each step; exit code 1 if gopher is not well ahead of datatrove's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", nargs="+", metavar="LANG=FILE", default=[])
    parser.add_argument("--megabytes", type=float, default=4.0)
    args = parser.parse_args()
    size = int(args.megabytes * 1e6)
    raws = from_files(args.text, size) if args.text else made_up(size)
    megabytes = sum(len(text.encode()) for _, text in raws) / 1e6
    print(f"{len(raws):,} documents, {megabytes:.1f} MB")
    runs = step_runs(raws) | datatrove_runs(raws)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for lap in range(ROUNDS + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if lap:  # the first makes tables and compiles
                seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(of) for name, of in seconds.items()}
    for name, median in medians.items():
        print(f"{name:40} {megabytes / median:9.1f} MB/s")
    ratios = [medians[name] / medians["gopher"] for name in medians if name.startswith("datatrove")]
    for name, ratio in zip((n for n in medians if n.startswith("datatrove")), ratios, strict=True):
        print(f"gopher is {ratio:.1f} times as fast as {name}")
    return int(bool(ratios) and min(ratios) < REQUIRED_TIMES_DATATROVE)


if __name__ == "__main__":
    raise SystemExit(main())
