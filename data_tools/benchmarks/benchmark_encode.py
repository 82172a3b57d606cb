"""The compiled Unigram encoder beside sentencepiece and other encoders, and where ids differ.

    PYTHONPATH=.:data_tools python data_tools/benchmarks/benchmark_encode.py
        [--model FILE] [--text FILE_OR_FOLDER ...] [--megabytes N] [--all]

Lines of the files named (.txt, .tsv, also .gz) are encoded script by script. Without `--text` the
text is the embedded sample corpus, without `--model` a model of 4,000 pieces is trained on it.
"ours" starts with an empty cache each round and counts everything from `str` to NumPy arrays.
Rates are megabytes of UTF-8 for each second of CPU time, so that neighbours on the machine and
encoders with threads of their own do not blur them; the ratio is that of sentencepiece's median
over ours, both run in turn. Lines whose ids are not sentencepiece's are counted; exit code 1 if
"ours" has one. With `--all`, other encoders run on the first megabyte of each script, as far as
they are installed: Hugging Face tokenizers, tokie, kitoken.

Vocabulary 250,002, real text of 93 languages, on one core of a busy shared machine (AMD EPYC, 2
cores), sentencepiece 0.2.3. Neighbours move each rate by a third; a script of one or two megabytes
is mostly what the cache has not seen:

                       MB   list  numpy   ours  ratio  lines differ
    ARABIC            8.0    9.3    7.8   37.4    4.0       0 of 32372
    CJK               5.8   14.1   14.4   37.0    2.6       0 of 22554
    CYRILLIC          8.0    7.9    8.2   30.3    3.8       0 of 28173
    DEVANAGARI        6.9   13.4   13.3   57.7    4.3       0 of 17288
    HIRAGANA          1.1   11.9   12.4   30.5    2.6       0 of 5731
    LATIN             8.0    5.5    4.1   24.2    4.4       0 of 36171
    MYANMAR           1.3   14.8   13.0   34.7    2.3       0 of 3009
    THAI              2.0   11.5   10.5   23.2    2.0       0 of 4751
    all 24 scripts   63.3   10.6    9.3   37.5    3.5       0

In a run over all 208 MB of that text, "numpy" made 6.5 MB/s, "ours" 33.0 (5.1 times), and no line
of 1.26 million differed. Of monolingual text alone, at most 2 MB a script, the ratio was 3.1 with
32,000 pieces and 2.9 with 128,000, and no line differed. With 1 MB a script and 250,002 it was 2.8,
lowest for Latin (1.7: a megabyte of some 60 languages is mostly new to the cache). In that run
Hugging Face tokenizers made 0.6 to 1.4 MB/s, and 0.06% of its lines differed; kitoken 0.7 to 7.7
with 64%, tokie 1.9 to 7.2 with 97%: neither reads this model as it should.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import sys
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from megaxlm_data.sample.corpus import LANGUAGES, sentences
from megaxlm_data.tokenizer import train_tokenizer, write_hf_tokenizer
from megaxlm_data.tokenizer.encoder import make_encoder

from megaxlm.config.data_tokenizer import TokenizerConfig
from megaxlm.data.tokenizer import Tokenizer

ROUNDS = 3
OTHERS_BYTES = 1_000_000
Ids = Sequence[Any]  # one sequence of ids a line


def lines_of(path: Path) -> list[str]:
    """Returns the lines that are not empty."""
    opened = gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")
    with opened as file:
        text = file.read().decode("utf-8", errors="replace")
    return [line for line in text.split("\n") if line]


def script_of(lines: list[str]) -> str:
    """Returns the script of most letters, in Unicode's name for it."""
    counts: Counter[str] = Counter()
    for char in "".join(lines[:: max(1, len(lines) // 200)]):
        if char.isalpha():
            counts[unicodedata.name(char, "UNKNOWN").split()[0]] += 1
    return counts.most_common(1)[0][0] if counts else "NONE"


def text_by_script(named: list[Path], megabytes: float) -> dict[str, list[str]]:
    """Returns lines by script, at most `megabytes` of each."""
    groups: dict[str, list[str]] = {}
    sizes: Counter[str] = Counter()
    for path in files_of(named):
        lines = lines_of(path)
        script = script_of(lines)
        for line in lines:
            if sizes[script] < megabytes * 1e6:
                groups.setdefault(script, []).append(line)
                sizes[script] += len(line.encode())
    return groups


def files_of(named: list[Path]) -> Iterator[Path]:
    """Yields files, and those of folders in order."""
    for path in named:
        yield from sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]


def measured(encode: Callable[[list[str]], Ids], lines: list[str]) -> tuple[float, Ids]:
    """Returns the CPU seconds of one call and what it returned."""
    start = time.process_time()
    result = encode(lines)
    return time.process_time() - start, result


def rows(values: Any, offsets: Any) -> list[Any]:
    """Returns the ids of each line."""
    return np.split(values, offsets[1:-1]) if len(offsets) > 1 else []


def differing(mine: Ids, truth: Ids) -> int:
    """Returns how many lines have other ids."""
    return sum(not np.array_equal(a, b) for a, b in zip(mine, truth, strict=True))


def other_encoders(
    tokenizer: Tokenizer, folder: Path
) -> Iterator[tuple[str, Callable[[list[str]], Ids]]]:
    """Yields the name and the function of each encoder that is installed."""
    path = tokenizer.model_path
    write_hf_tokenizer(path, folder, "none")
    from tokenizers import Tokenizer as HuggingFace

    fast = HuggingFace.from_file(str(folder / "tokenizer.json"))
    yield (
        "HF tokenizers",
        lambda lines: [e.ids for e in fast.encode_batch_fast(lines, add_special_tokens=False)],
    )
    try:
        import tokie

        one = tokie.Tokenizer.from_json(str(folder / "tokenizer.json"))
        yield (
            "tokie",
            lambda lines: [e.ids for e in one.encode_batch(lines, add_special_tokens=False)],
        )
    except ImportError:
        print("tokie is not installed", file=sys.stderr)
    try:
        import kitoken

        (folder / "reordered.model").write_bytes(tokenizer.model_proto().SerializeToString())
        two = kitoken.Kitoken.from_sentencepiece_file(str(folder / "reordered.model"))
        yield "kitoken", lambda lines: two.encode_all(lines)
    except ImportError:
        print("kitoken is not installed", file=sys.stderr)


def sample_model(folder: Path) -> Path:
    """Trains a small model on the sample corpus; returns its file."""
    lines = [line for lang in LANGUAGES for line in sentences(lang, 2_000)]
    train_tokenizer(lines, TokenizerConfig(vocab_size=4_000), folder / "tokenizer", 0, 1)
    return folder / "tokenizer" / "sentencepiece.bpe.model"


def main() -> int:
    """Returns 1 if an id of the compiled encoder differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--text", type=Path, nargs="+")
    parser.add_argument("--megabytes", type=float, default=8, help="of each script, at most")
    parser.add_argument("--all", action="store_true", help="other encoders too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = args.model or sample_model(folder)
        if args.text:
            groups = text_by_script(args.text, args.megabytes)
        else:
            groups = {lang: list(sentences(lang, 10_000)) for lang in LANGUAGES}
        tokenizer = Tokenizer(model)
        print(f"{model}: {tokenizer.vocab_size} ids; {make_encoder(tokenizer).description}")
        wrong = compare(tokenizer, groups)
        if args.all:
            for label, encode in other_encoders(tokenizer, folder):
                compare_other(label, encode, tokenizer, groups)
    return int(wrong > 0)


def compare(tokenizer: Tokenizer, groups: dict[str, list[str]]) -> int:
    """Prints a line a script; returns how many lines of text differ."""
    print(f"{'':14} {'MB':>6} {'list':>6} {'numpy':>6} {'ours':>6} {'ratio':>6}  lines differ")
    spent: dict[str, float] = dict.fromkeys(("list", "numpy", "ours"), 0)
    total = wrong = 0
    for script, lines in sorted(groups.items()):
        size = sum(len(line.encode()) for line in lines)
        times: dict[str, list[float]] = {label: [] for label in spent}
        for _ in range(ROUNDS):
            encoder = make_encoder(tokenizer)
            seconds, _ = measured(tokenizer.encode_batch, lines)
            times["list"].append(seconds)
            seconds, truth = measured(tokenizer.encode_flat, lines)
            times["numpy"].append(seconds)
            seconds, mine = measured(encoder.encode_flat, lines)
            times["ours"].append(seconds)
        bad = differing(rows(*mine), rows(*truth))
        medians = {label: statistics.median(each) for label, each in times.items()}
        report(script, size, medians, f"{bad:>6} of {len(lines)}")
        for label, seconds in medians.items():
            spent[label] += seconds
        total, wrong = total + size, wrong + bad
    report("all", total, spent, f"{wrong:>6}")
    return wrong


def report(label: str, size: int, seconds: dict[str, float], end: str) -> None:
    """Prints rates and the ratio of one script."""
    rates = " ".join(f"{size / 1e6 / each:6.1f}" for each in seconds.values())
    print(f"{label:14} {size / 1e6:6.1f} {rates} {seconds['list'] / seconds['ours']:6.1f}  {end}")


def compare_other(
    label: str,
    encode: Callable[[list[str]], Ids],
    tokenizer: Tokenizer,
    groups: dict[str, list[str]],
) -> None:
    """Prints the rates of another encoder on the beginning of each script."""
    rates, bad, count = [], 0, 0
    for script, lines in sorted(groups.items()):
        some, size = [], 0
        for line in lines:
            if size < OTHERS_BYTES:
                some.append(line)
                size += len(line.encode())
        seconds, mine = measured(encode, some)
        rates.append(f"{script} {size / 1e6 / seconds:.1f}")
        bad, count = bad + differing(mine, tokenizer.encode_batch(some)), count + len(some)
    print(f"{label}: {bad} of {count} lines differ ({bad / count:.2%}); {', '.join(rates)}")


if __name__ == "__main__":
    sys.exit(main())
