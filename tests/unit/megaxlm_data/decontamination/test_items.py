from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from megaxlm_data.decontamination.items import files_of, read_items

from megaxlm.config.data_decontamination import EvaluationSet
from megaxlm.errors import UserError


def items(path: Path, **settings: object) -> list[tuple[str, int]]:
    evaluation_set = EvaluationSet.model_validate({"name": "x", "paths": [str(path)]} | settings)
    return [(item.text, item.line) for item in read_items(evaluation_set, path)]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_a_line_of_text_is_an_item(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one\r\n\r\ntwo\nthree")
    assert items(path) == [("one", 1), ("", 2), ("two", 3), ("three", 4)]


def test_an_unknown_extension_is_text(tmp_path: Path) -> None:
    assert items(write(tmp_path / "a-b.eng.gz", "one\ttwo\n")) == [("one\ttwo", 1)]


def test_every_cell_is_an_item_unless_columns_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "dev.tsv.gz", "premise\thypothesis\tlabel\nA b\tC d\tneutral\n\n")
    assert items(path)[3:] == [("A b", 2), ("C d", 2), ("neutral", 2)]
    assert items(path, fields=["hypothesis"]) == [("C d", 2)]
    assert items(path, fields=[2, 0])[2:] == [("neutral", 2), ("A b", 2)]


def test_csv_cells_may_hold_commas_and_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'question,answer\n"One, or\ntwo?",Both\nLast,None\n')
    assert items(path, fields=["question"]) == [("One, or\ntwo?", 2), ("Last", 4)]


def test_json_lines_give_every_string_or_those_of_keys(tmp_path: Path) -> None:
    row = {"id": "7", "pair": {"premise": "P", "more": ["Q", {"x": "R"}]}, "label": 1}
    path = write(tmp_path / "a.jsonl", json.dumps(row) + "\n\n" + json.dumps({"id": "8"}) + "\n")
    assert items(path) == [("7", 1), ("P", 1), ("Q", 1), ("R", 1), ("8", 3)]
    assert items(path, fields=["more"]) == [("Q", 1), ("R", 1)]


def test_a_json_file_is_one_value(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", json.dumps({"data": [{"context": "C"}, "D"]}, indent=1))
    assert items(path, fields=["context"]) == [("C", 1)]


def test_the_format_may_be_given(tmp_path: Path) -> None:
    assert items(write(tmp_path / "a.dev", "x\ty\n"), format="tsv") == [("x", 1), ("y", 1)]


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        ("a.tsv", "p\tq\n", {"fields": ["r"]}, r"a.tsv:1: no column `r`, there are p, q"),
        ("a.tsv", "", {"fields": ["r"]}, r"a.tsv:1: no column `r`, there are none"),
        (
            "a.tsv",
            "p\tq\nx\n",
            {"fields": ["q"]},
            r"a.tsv:2: has 1 columns, .* for number 1, counted from 0",
        ),
        ("a.jsonl", "{}\n", {"fields": [1]}, r"a.jsonl: JSON has keys, not numbers of columns"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', {}, r"a.jsonl:2: not JSON"),
        ("a.json", '{\n"a": ]', {}, r"a.json:2: not JSON"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(
    tmp_path: Path, name: str, content: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        items(write(tmp_path / name, content), **settings)


def test_half_an_archive_is_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt.gz", "".join(f"some line {n * n}\n" for n in range(1000)))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"a.txt.gz"):
        items(path)


def test_folders_globs_and_files_are_found_in_order(tmp_path: Path) -> None:
    first = write(tmp_path / "set" / "en.tsv", "a")
    second = write(tmp_path / "set" / "more" / "de.tsv", "b")
    write(tmp_path / "set" / ".hidden", "c")
    other = write(tmp_path / "z.txt", "d")
    paths = [str(tmp_path / "z.*"), str(tmp_path / "set"), str(first)]
    assert files_of(EvaluationSet(name="x", paths=paths), "sets.0") == [other, first, second]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none.txt", r"sets.0.paths \(x\): .*none.txt"),
        ("none*.txt", r"sets.0.paths \(x\): no file in .*none\*.txt"),
        ("empty", r"sets.0.paths \(x\): no file in .*empty"),
        ("false.gz", r"sets.0.paths \(x\): .*false.gz: the extension says gzip"),
    ],
)
def test_a_missing_set_is_one_line(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "false.gz").write_text("plain")
    with pytest.raises(UserError, match=message):
        files_of(EvaluationSet(name="x", paths=[str(tmp_path / path)]), "sets.0")
