"""What the reports of cleaning hold."""

import json
from pathlib import Path

import fsspec
import pytest
from megaxlm_data.crew import Crew
from megaxlm_data.document import Document
from megaxlm_data.filters.base import Edit
from megaxlm_data.progress import Progress
from megaxlm_data.stages.clean import _DocumentCleaner, clean
from megaxlm_data.stages.plan import find_inputs
from megaxlm_data.stages.select import blocks_of
from megaxlm_data.stages.tally import Tally
from megaxlm_data.workers import WorkerPool
from megaxlm_data.writers.cleaned import open_cleaned

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.errors import UserError

GOOD = "a sentence of letters that is long enough to stay, number"


def run(tmp_path, source, **changes):
    config = DataBuildConfig(output=tmp_path / "out", corpora=[source], **changes)
    inputs = find_inputs(config, Progress(False))
    with WorkerPool(1) as pool:
        return clean(inputs, config, tmp_path / "clean", pool, Crew.alone(), Progress(False))


def texts_of(made, group, folder):
    found = []
    for block in blocks_of(group, made.reports, folder):
        file = open_cleaned(block.path, True)
        rows = block.stop - block.start
        assert rows == len(file.numbers(block.number)[0])
        found += file.texts(block.number, file.numbers(block.number)[0] >= 0)[0]
    return found


class Shout(Edit[Document]):
    def edit(self, item):
        self.count(item, "shouted")
        return Document(item.lang, tuple(line.upper() for line in item.lines))


def test_edits_are_applied_and_counted_by_language(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": GOOD, "l": "en"}))
    source = {"lang_field": "l", "paths": [f"{tmp_path}/a.jsonl"]}
    config = DataBuildConfig(output=tmp_path / "out", corpora=[source])
    (unit,) = find_inputs(config, Progress(False)).units
    tally = Tally(unit, samples=0)
    cleaner = _DocumentCleaner(unit, [Shout()], config, tally)
    found = [cleaner.clean((GOOD, lang)) for lang in ("eng", "sw", "en")]
    assert found == [Document(lang, (GOOD.upper(),)) for lang in ("en", "sw", "en")]
    reports = tally.finished(cleaner.steps)
    assert {name: report.edits for name, report in reports.items()} == {
        "en": {"shouted": 2},
        "sw": {"shouted": 1},
    }
    assert [report.kept for report in reports.values()] == [2, 1]


def test_blocks_of_several_languages_share_a_file_and_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr("megaxlm_data.writers.cleaned.BLOCK_BYTES", 150)
    texts = {lang: [f"{GOOD} {lang} {number}" for number in range(9)] for lang in ("en", "sw")}
    lines = [
        json.dumps({"text": text, "l": lang})
        for pair in zip(texts["sw"], texts["en"], strict=True)
        for lang, text in zip(("sw", "en"), pair, strict=True)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    made = run(tmp_path, {"lang_field": "l", "paths": [f"{tmp_path}/a.jsonl"]})
    assert len(list((tmp_path / "clean").glob("*.arrow"))) == 1
    for group in made.plan.groups:
        (unit,) = group.units
        report = made.reports[unit.digest]
        assert len(report.block_rows) == len(report.blocks) > 2
        assert (report.read, report.kept, sum(report.block_rows)) == (9, 9, 9)
        assert texts_of(made, group, tmp_path / "clean") == texts[group.name]
        assert report.text_bytes == sum(map(len, texts[group.name]))


def test_text_held_for_many_languages_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("megaxlm_data.writers.cleaned._MOST_HELD_BYTES", 300)
    codes = ["en", "sw", "fr", "de", "es", "it", "pt", "nl"]
    lines = [
        json.dumps({"text": f"{GOOD} {number}", "l": codes[number % 8 if number % 3 else 0]})
        for number in range(60)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    made = run(tmp_path, {"lang_field": "l", "paths": [f"{tmp_path}/a.jsonl"]})
    assert sum(len(report.block_rows) for report in made.reports.values()) > 8
    found = [
        text for group in made.plan.groups for text in texts_of(made, group, tmp_path / "clean")
    ]
    assert sorted(found) == sorted(f"{GOOD} {number}" for number in range(60))


def test_remote_inputs_are_cleaned_as_local_ones_are(tmp_path):
    for name in ("one", "two"):
        with fsspec.open(f"memory://clean-test/en/{name}.jsonl", "wt") as file:
            file.write(json.dumps({"text": f"{GOOD} {name}"}) + "\n")
    source = {"lang_from": "path", "paths": ["memory://clean-test/{lang}/*.jsonl"]}
    made = run(tmp_path, source)
    (group,) = made.plan.groups
    assert group.name == "en"
    assert group.files == ["memory:///clean-test/en/one.jsonl", "memory:///clean-test/en/two.jsonl"]
    assert texts_of(made, group, tmp_path / "clean") == [f"{GOOD} one", f"{GOOD} two"]


def test_a_source_that_names_no_language_and_gives_nothing_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": GOOD, "l": "nonsense"}))
    with pytest.raises(UserError) as caught:
        run(tmp_path, {"lang_field": "l", "paths": [f"{tmp_path}/a.jsonl"]})
    assert str(caught.value) == (
        f"corpora.0: every document of {tmp_path}/a.jsonl was dropped: language_unknown 1; change "
        "`filters`, or take it out of the config"
    )
    assert not list(Path(tmp_path).glob("out/*"))


def test_millions_of_empty_pairs_are_counted_like_others(tmp_path):
    (tmp_path / "a.tsv").write_text("\t\n" * 1000 + "one house\tun casa\n\none\t\n")
    config = DataBuildConfig(
        output=tmp_path / "out", bitext=[{"langs": ["en", "es"], "paths": [f"{tmp_path}/a.tsv"]}]
    )
    with WorkerPool(1) as pool:
        inputs = find_inputs(config, Progress(False))
        made = clean(inputs, config, tmp_path / "clean", pool, Crew.alone(), Progress(False))
    (report,) = made.reports.values()
    assert (report.read, report.kept, report.drops) == (1003, 1, {"empty_side": 1002})


def test_a_language_that_a_source_asks_for_and_does_not_give_is_named(tmp_path, capsys):
    lines = [json.dumps({"text": text, "l": lang}) for text, lang in ((GOOD, "en"), ("x", "sw"))]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    source = {"lang_field": "l", "paths": [f"{tmp_path}/a.jsonl"]}
    made = run(tmp_path, {**source, "languages": ["en", "sw", "fr"]})
    assert "warning: corpora.0.languages: no document of sw, fr is left" in capsys.readouterr().err
    assert made.left_out["sw"].drops == {"too_short": 1}


def test_a_path_without_a_document_leaves_its_language_out(tmp_path, capsys):
    for lang, text in (("en", GOOD), ("ru", ""), ("hi", "123 456 789 " * 9)):
        (tmp_path / f"raw.{lang}.txt").write_text(text)
    source = {"lang_from": "path", "paths": [f"{tmp_path}/raw.{{lang}}.txt"]}
    made = run(tmp_path, source)
    assert [group.name for group in made.plan.groups] == ["en"]
    assert made.left_out["hi"].drops == {"few_letters": 1}
    said = capsys.readouterr().err
    for lang in ("hi", "ru"):
        assert f"warning: {lang}: no document of it is left, the data set is without it" in said
    (tmp_path / "raw.en.txt").write_text("")
    with pytest.raises(UserError, match="^corpora.0: every document of "):
        run(tmp_path, source)
