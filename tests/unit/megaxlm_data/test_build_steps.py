"""Language check and decontamination inside a whole build."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from megaxlm_data.filters import language as language_module
from megaxlm_data.pipeline import build

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.errors import UserError

Config = Callable[..., DataBuildConfig]


@pytest.fixture
def config(tmp_path: Path, make_corpus: Any, make_lines: Any, build_model: Path) -> Config:
    """A corpus and bitext, some of which stands in an evaluation set."""
    corpus = make_corpus("en", 60)
    english, russian = make_lines("en", 40, 7), make_lines("ru", 40, 7)
    (tmp_path / "en.txt").write_text(corpus)
    rows = zip(english, russian, strict=True)
    (tmp_path / "en-ru.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in rows))
    documents = corpus.rstrip().split("\n\n")
    longest = [max(document.split("\n"), key=len) for document in documents[:5]]
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "dev.tsv").write_text("".join(f"x\t{each}.\r\n" for each in longest))
    (tmp_path / "eval" / "ru.txt").write_text(russian[3].upper() + "\n")

    def make(output: str, **changes: Any) -> DataBuildConfig:
        values = {
            "output": tmp_path / output,
            "corpora": [{"lang": "en", "paths": [str(tmp_path / "en.txt")]}],
            "bitext": [{"langs": ["en", "ru"], "tsv": [str(tmp_path / "en-ru.tsv")]}],
            "decontamination": {
                "evaluation_sets": [{"name": "dev", "paths": [str(tmp_path / "eval")]}],
                "min_words": 4,
            },
            "tokenizer": {"model": build_model},
            "filters": {"max_pair_length_ratio": 100},
            "workers": 1,
        }
        return DataBuildConfig.model_validate({**values, **changes})

    return make


def report(directory: Path) -> list[dict[str, Any]]:
    text = (directory / "reports" / "contamination.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_contaminated_text_goes_and_the_report_says_what(config: Config, tmp_path: Path) -> None:
    index = build(config("out"), progress=False)
    cleaning = index.build["cleaning"]
    assert cleaning["en"]["dropped"]["contaminated"] == 5
    assert cleaning["en-ru"]["dropped"]["contaminated"] == 1
    lines = report(tmp_path / "out")
    counts = {line["lang"]: line for line in lines if line["kind"] == "count"}
    assert {lang: line["documents"] for lang, line in counts.items()} == {"en": 5, "en-ru": 1}
    assert counts["en"]["of"] == 60
    (summary,) = [line for line in lines if line["kind"] == "set"]
    assert [Path(file).name for file in summary["files"]] == ["dev.tsv", "ru.txt"]
    samples = [line for line in lines if line["kind"] == "sample"]
    assert len(samples) == 6
    assert samples[0]["item"].endswith("dev.tsv:1")
    assert samples[0]["files"] == [str(tmp_path / "en.txt")]


def test_a_language_that_goes_as_a_whole_is_in_the_report_too(
    config: Config, tmp_path: Path
) -> None:
    sentence = (tmp_path / "eval" / "ru.txt").read_text().strip()
    rows = [{"text": sentence, "lang": "ru"}]
    rows += [
        {"text": text, "lang": "en"} for text in (tmp_path / "en.txt").read_text().split("\n\n")
    ]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"lang_field": "lang", "paths": [str(tmp_path / "all.jsonl")]}
    index = build(config("out", corpora=[source], bitext=[]), progress=False)
    assert index is not None and index.build["left_out"]["ru"]["dropped"] == {"contaminated": 1}
    counts = [line for line in report(tmp_path / "out") if line["kind"] == "count"]
    assert {line["lang"]: line["documents"] for line in counts} == {"ru": 1, "en": 5}


def test_lines_are_cut_on_request(config: Config) -> None:
    settings = config("x").decontamination.model_dump() | {"action": "cut"}
    index = build(config("out", decontamination=settings), progress=False)
    english = index.build["cleaning"]["en"]
    emptied = english["dropped"].get("contaminated", 0)  # documents of one line
    assert emptied < 5
    assert english["kept"] == 60 - emptied - english["duplicates"]
    assert index.build["cleaning"]["en-ru"]["dropped"]["contaminated"] == 1


def test_the_result_does_not_depend_on_the_workers(
    config: Config, tmp_path: Path, tree_hash: Callable[[Path], dict[str, str]]
) -> None:
    build(config("one"), progress=False)
    build(config("two", workers=2), progress=False)
    assert tree_hash(tmp_path / "one") == tree_hash(tmp_path / "two")


def test_another_evaluation_file_is_another_build(config: Config, tmp_path: Path) -> None:
    build(config("out"), progress=False)
    build(config("out"), progress=False)  # nothing to do
    (tmp_path / "eval" / "ru.txt").write_text("other words than there were before\n")
    with pytest.raises(UserError, match="holds a data set of another config or input"):
        build(config("out"), progress=False)


def test_a_missing_evaluation_set_stops_before_anything_is_written(
    config: Config, tmp_path: Path
) -> None:
    sets = {"evaluation_sets": [{"name": "dev", "paths": [str(tmp_path / "nowhere.tsv")]}]}
    with pytest.raises(UserError, match=r"evaluation_sets.0.paths \(dev\): .*nowhere.tsv"):
        build(config("out", decontamination=sets), progress=False)
    assert not (tmp_path / "out").exists()


def test_text_in_another_language_is_counted_by_what_it_is_in(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Guess:
        """Takes Cyrillic letters for Russian, and an English line with a `q` for German."""

        def __init__(self, settings: Any) -> None:
            self.languages = frozenset({"en", "ru", "de"})

        def knows(self, code: str) -> bool:
            return code in self.languages

        def identify(self, text: str, expected: Any = None) -> tuple[str, float]:
            if not text.isascii():
                return "ru", 1.0
            return ("de" if "q" in text else "en"), 0.9

    pytest.importorskip("eldc")
    pytest.importorskip("py3langid")
    monkeypatch.setattr(language_module, "make_identifier", Guess)
    settings = {"enabled": True, "min_chars": 1}
    index = build(
        config("out", language_identification=settings, decontamination={}), progress=False
    )
    cleaning = index.build["cleaning"]
    dropped = cleaning["en"]["dropped"]["wrong_language"]
    assert 0 < dropped < 60
    assert cleaning["en"]["wrong_language"] == {"en": {"de": dropped}}
    assert list(cleaning["en-ru"]["wrong_language"]) == ["en"]
