import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from megaxlm_data.inspect import inspect
from megaxlm_data.inspect.page import make_page
from megaxlm_data.inspect.plots.sizes import _apart
from megaxlm_data.writers.shards import EncodedSide, write_shard

from megaxlm.cli import main
from megaxlm.data.shards import DatasetIndex, Subset, write_index

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Checker(HTMLParser):
    """Reads a page: every tag closed in order, ids unique, nothing fetched."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.wrong = [], [], [], []
        self.texts, self.tips, self.headings = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "xlink:href", "action", "data"):
                self.links.append(value)
            self.links += re.findall(r"url\(([^)]*)\)", value or "")

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] == "text":
            self.texts.append(data)
        if self.open[-2:] == ["g", "title"]:
            self.tips.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def check(page):
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == [] and checker.wrong == []
    assert len(checker.ids) == len(set(checker.ids))
    assert all(link.startswith("#") and link[1:] in checker.ids for link in checker.links)
    assert "://" not in page and "@import" not in page
    return checker


def make_dataset(directory, languages, pairs=(), build=None, reasons=2):
    rng = np.random.default_rng(0)
    shared = rng.integers(0, 2**64, 30, dtype=np.uint64)
    subsets, cleaning, counts = [], {}, {}
    groups = [*((lang,) for lang in languages), *pairs]
    for place, langs in enumerate(groups):
        name = "-".join(langs)
        cleaning[name] = {
            "files": [],
            "read": 500,
            "kept": 400,
            "dropped": {f"reason_{r}": int(c) for r, c in enumerate(rng.integers(1, 9, reasons))},
            "duplicates": place % 7,
            "near_duplicates": place % 5,
            "lines": {"replaced_utf8": place},
            "unspaced_share": [0.0 if lang != "zh" else 1.0 for lang in langs],
        }
        counts[name] = {}
        for split, rows in (("train", max(3, 400 // (place + 1))), ("validation", 3)):
            ids = rng.integers(0, 2**64, rows, dtype=np.uint64)
            ids[:2] = rng.choice(shared, 2, replace=False)
            sides = []
            for _ in langs:
                lengths = rng.integers(1, 900, rows)
                values = rng.integers(4, 90, int(lengths.sum())).astype(np.uint32)
                sides.append(EncodedSide(values, lengths, (3 * lengths).astype(np.uint32)))
            info = write_shard(directory, f"{split}/{name}/00000.arrow", sides, ids)
            subsets.append(Subset(split, langs, (info,)))
            counts[name][split] = {
                lang: {
                    "documents": rows,
                    "tokens": len(side.values),
                    "text_bytes": int(side.text_bytes.sum()),
                    "chars": 2 * len(side.values),
                    "words": len(side.values) // 2,
                    "unknown": place,
                    "byte_fallback": 3,
                }
                for lang, side in zip(langs, sides, strict=True)
            }
    statistics = {"cleaning": cleaning, "counts": counts, "settings": {"seed": 1}}
    index = DatasetIndex("0" * 64, 100, tuple(subsets), statistics if build is None else build)
    write_index(directory, index)
    return directory


def codes(count):
    return [f"{a}{b}" for a in "abcdefgh" for b in "abcdefghijklmnopqrst"][:count]


def test_every_language_is_on_the_page_with_all_sections(tmp_path):
    languages = [*codes(20), "zh", "sr-Latn"]
    pairs = [("aa", "ab"), ("zh", "sr-Latn"), ("ab", "zh")]
    directory = make_dataset(tmp_path / "d", languages, pairs, reasons=16)
    page = make_page(inspect(directory, tokens=10**7), directory)
    checker = check(page)
    names = [*languages, *("-".join(pair) for pair in pairs)]
    labels = [text.strip() for text in checker.texts]
    for name in names:
        assert labels.count(name) >= 3  # sizes, lengths, drops
        assert any(tip.startswith(f"{name}: ") for tip in checker.tips)
    assert len(checker.headings) == 8
    told = " ".join(checker.tips)
    # sixteen reasons: the rarest share a colour, the table has all
    assert "): reason " in told and "): other reasons" in told and "documents in both" in told
    assert ">near duplicates</button>" in page and ">reason 15</button>" in page
    assert "zh and ab" in told or "ab and zh" in told


def test_numbers_on_the_page_are_those_of_the_report(tmp_path):
    directory = make_dataset(tmp_path / "d", ["en", "fr", "sw"])
    report = inspect(directory, alpha=0.5, tokens=10**6)
    page = make_page(report, directory)
    checker = check(page)
    for subset in report.subsets:
        if subset.split == "train":
            told = f"{subset.name}: {subset.documents:,} documents, {subset.text_bytes:,} bytes, "
            assert told + f"{subset.tokens:,} tokens" in checker.tips
            share = f"{subset.name}: {subset.sampling_share:.3%} at alpha 0.5"
            assert share in checker.tips
            assert f'<td data-v="{subset.epochs:.10g}">' in page


@pytest.mark.parametrize("count", [1, 2, 150])
def test_one_language_and_a_hundred_and_fifty(tmp_path, count):
    languages = codes(count)
    pairs = [("aa", lang) for lang in languages[1:]]
    directory = make_dataset(tmp_path / "d", languages, pairs)
    checker = check(make_page(inspect(directory), directory))
    labels = {text.strip() for text in checker.texts}
    assert labels.issuperset(languages)
    if count == 150:  # the matrix of bitext is a strip: one row, not 150
        assert sum(tip.startswith("aa and ") and "pairs" in tip for tip in checker.tips) == 149


def test_bitext_alone(tmp_path):
    directory = make_dataset(tmp_path / "d", [], [("en", "fr"), ("fr", "de")])
    checker = check(make_page(inspect(directory), directory))
    assert {"en-fr", "fr-de"} <= {text.strip() for text in checker.texts}


def test_an_index_without_statistics_still_gives_a_page(tmp_path):
    directory = make_dataset(tmp_path / "d", ["en", "fr"], [("en", "fr")], build={})
    page = make_page(inspect(directory), directory)
    checker = check(page)
    assert {"en", "fr", "en-fr"} <= {text.strip() for text in checker.texts}
    assert "does not tell what cleaning did" in page


def test_a_repaired_index_says_what_is_lost(tmp_path):
    counts = {"tokens": 100, "text_bytes": 300, "unknown": 1, "byte_fallback": 0}
    build = {"absent": ["cleaning", "words"], "counts": {"en": {"train": {"en": counts}}}}
    directory = make_dataset(tmp_path / "d", ["en"], build=build)
    report = inspect(directory)
    (english,) = next(s for s in report.subsets if s.split == "train").languages
    assert english.tokens_per_word is None and english.bytes_per_token == 3
    page = make_page(report, directory)
    check(page)
    assert "lost with the old one: cleaning, words" in page


def test_statistics_that_nobody_here_knows_are_shown_by_name(tmp_path):
    build = {
        "tokenizer_report": {
            "vocab_size": 100,
            "pivot": None,
            "languages": {"en": {"parity": 1.25, "premium": None}, "fr": {"parity": 1.5}},
        },
        "near_duplicates": {"pairs_compared": 1234567, "by_band": {"en": {"b0": 5}}},
        "note": "<script>alert(1)</script>",
    }
    directory = make_dataset(tmp_path / "d", ["en", "fr"], build=build)
    page = make_page(inspect(directory), directory)
    check(page)
    assert ">parity</button>" in page and ">1.2500</td>" in page
    assert "pairs compared 1,234,567" in page and ">b0</button>" in page
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


def test_the_same_data_set_gives_the_same_page(tmp_path):
    directory = make_dataset(tmp_path / "d", ["en", "fr", "de"])
    pages = [make_page(inspect(directory), directory, threads) for threads in (1, 2)]
    assert pages[0] == pages[1]


def test_the_command_writes_the_page_beside_the_data_or_where_it_is_told(tmp_path, capsys):
    directory = make_dataset(tmp_path / "d", ["en", "fr"])
    assert main(["data", "inspect", str(directory), "--html"]) == 0
    check((directory / "report.html").read_text())
    other = tmp_path / "new" / "page.html"
    files = ["--html", str(other), "--json", str(tmp_path / "r.json")]
    assert main(["data", "inspect", str(directory), *files]) == 0
    check(other.read_text())
    assert str(other) in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["cleaning"]["fr"]["duplicates"] == 1


def test_without_matplotlib_one_line_says_what_to_do(tmp_path, monkeypatch, capsys):
    directory = make_dataset(tmp_path / "d", ["en"])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["data", "inspect", str(directory), "--html"]) == 2
    said = capsys.readouterr().err
    assert "pip install matplotlib" in said and said.count("\n") == 1
    assert not (directory / "report.html").exists()


def test_a_damaged_shard_is_one_line(tmp_path, capsys):
    directory = make_dataset(tmp_path / "d", ["en"])
    path = directory / "train" / "en" / "00000.arrow"
    path.write_bytes(path.read_bytes()[:-20])
    assert main(["data", "inspect", str(directory), "--html"]) == 1
    said = capsys.readouterr().err
    assert str(path) in said and "data verify" in said and said.count("\n") == 1
    path.unlink()
    assert main(["data", "inspect", str(directory), "--html"]) == 1
    said = capsys.readouterr().err
    assert str(path) in said and "data verify" in said and said.count("\n") == 1


def test_names_at_the_ends_of_curves_keep_apart():
    wanted = [0.1, 0.11, 0.12, 0.5, 0.9, 0.91]
    spots = _apart(wanted, 0.05)
    assert (np.diff(spots) >= 0.05 - 1e-9).all()
    assert spots[3] == 0.5
    assert np.mean(spots[:3]) == pytest.approx(0.11)
    assert _apart([0.2, 0.4], 0.05) == [0.2, 0.4]
