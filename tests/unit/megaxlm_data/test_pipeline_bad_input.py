"""Each kind of bad input that real corpora bring ends in one line, or is counted and skipped."""

import gzip
import json
import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from megaxlm_data.pipeline import build
from megaxlm_data.readers import locations
from megaxlm_data.readers.documents import read_documents
from megaxlm_data.readers.lines import OVERLONG, LineReader

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.errors import UserError

GOOD = "a sentence of letters that is long enough to stay"


@pytest.fixture
def config(tmp_path, build_model):
    def make(*paths, output="out", **changes):
        source = {"lang": "en", "paths": [str(path) for path in paths]}
        source |= changes.pop("source", {})
        values = {
            "output": tmp_path / output,
            "corpora": [source],
            "tokenizer": {"model": build_model},
            "workers": 1,
        }
        return DataBuildConfig(**{**values, **changes})

    return make


def fails(settings):
    with pytest.raises(UserError) as caught:
        build(settings, progress=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def cleaning(settings):
    return build(settings, progress=False).build["cleaning"]["en"]


def test_a_parquet_file_with_a_missing_column_shows_before_anything_is_read(tmp_path, config):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"content": [GOOD], "url": ["x"]}), path)
    assert fails(config(path)) == (
        f"{path}: no field `text`; the fields there are: content, url; correct `text_field`"
    )
    source = {"lang": None, "lang_field": "language", "text_field": "content"}
    assert fails(config(path, source=source)) == (
        f"{path}: no field `language`; the fields there are: content, url; correct `lang_field`"
    )
    assert not (tmp_path / "out").exists()


def test_a_json_line_cut_in_half_keeps_the_work_on_other_files(tmp_path, config):
    whole, half = tmp_path / "whole.jsonl", tmp_path / "half.jsonl.gz"
    line = json.dumps({"text": GOOD}) + "\n"
    whole.write_text(line)
    half.write_bytes(gzip.compress((line + line[:25]).encode()))
    settings = config(whole, half)
    assert fails(settings) == (
        f"{half}:2: not valid JSON: Unterminated string starting at at character 10 (the line "
        "breaks off: perhaps the file was not fetched whole); repair it, or set on_bad_record to "
        "skip"
    )
    counts = cleaning(config(whole, half, on_bad_record="skip"))
    assert (counts["read"], counts["kept"], counts["dropped"]) == (3, 1, {"bad_record": 1})


def test_an_archive_of_records_cut_in_half(tmp_path, config):
    path = tmp_path / "a.jsonl.gz"
    lines = "".join(
        json.dumps({"text": f"{GOOD} {os.urandom(40).hex()}"}) + "\n" for _ in range(9000)
    )
    content = gzip.compress(lines.encode())
    path.write_bytes(content[: len(content) // 2])
    message = fails(config(path))
    assert message.startswith(f"{path}: compressed data is truncated or damaged after ")
    assert message.endswith(" documents were read before)")


@pytest.mark.parametrize(
    "lines",
    [
        f"{GOOD}\r\n\r\n{GOOD} two\r\n",
        f"\ufeff{GOOD}\n\n{GOOD}\u200b two",
        f"{GOOD}\n\n\n{GOOD} two",
    ],
)
def test_crlf_marks_and_zero_width_spaces_change_no_document(tmp_path, config, lines):
    (tmp_path / "a.txt").write_text(lines, newline="", encoding="utf-8")
    records = [json.dumps({"text": text}) for text in (f"\ufeff{GOOD}\r\n", f"{GOOD}\u200b two")]
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(records).encode())
    counts = cleaning(config(tmp_path / "a.txt", tmp_path / "b.jsonl"))
    assert (counts["read"], counts["kept"], counts["duplicates"]) == (4, 2, 2)


def test_two_files_of_one_name_in_different_folders_are_two(tmp_path, config):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "part.txt").write_text(f"{GOOD} {folder}\n")
        os.utime(tmp_path / folder / "part.txt", (1, 1))
    counts = cleaning(config(f"{tmp_path}/*/part.txt"))
    assert counts["files"] == [f"{tmp_path}/a/part.txt", f"{tmp_path}/b/part.txt"]
    assert counts["kept"] == 2


def test_no_permission_is_one_line(tmp_path, config, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text(GOOD)

    def no(*args, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(locations, "open", no, raising=False)  # root may read everything
    assert fails(config(path)) == (
        f"{path}: no permission to read the input; give this user access to it"
    )


def test_a_folder_that_may_not_be_looked_into_is_no_empty_one(tmp_path, config, monkeypatch):
    (tmp_path / "closed").mkdir()
    assert fails(config(tmp_path / "closed" / "*.txt")) == (
        f"corpora.0.paths (en): no file matches {tmp_path}/closed/*.txt; correct the pattern"
    )

    def no(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(locations.os, "scandir", no)  # root may read everything
    assert fails(config(tmp_path / "closed" / "*" / "a*.txt")) == (
        f"corpora.0.paths (en): {tmp_path}/closed: no permission to look into the folder; give "
        "this user access to it"
    )


def test_an_output_that_may_not_be_written_is_named(tmp_path, config, monkeypatch):
    (tmp_path / "a.txt").write_text(GOOD)
    mkdir = Path.mkdir

    def no(path, *args, **options):
        if ".build" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        mkdir(path, *args, **options)

    monkeypatch.setattr(Path, "mkdir", no)
    assert fails(config(tmp_path / "a.txt")).startswith(
        f"{tmp_path}/out/.build: Permission denied; finished work in {tmp_path}/out is kept"
    )


def test_a_wrong_language_in_the_recipe_takes_every_document(tmp_path, config):
    (tmp_path / "a.txt").write_text(f"{GOOD}\n\n{GOOD} two")
    assert fails(config(tmp_path / "a.txt", source={"lang": "ru"})) == (
        f"ru: every document of {tmp_path}/a.txt was dropped: wrong_script 2; change `filters`, or "
        "take it out of the config"
    )


def test_a_model_that_is_none_shows_before_anything_is_read(tmp_path, config):
    (tmp_path / "a.txt").write_text(GOOD)
    (tmp_path / "models").mkdir()
    settings = config(tmp_path / "a.txt", tokenizer={"model": tmp_path / "models"})
    assert "found none: name the file in tokenizer.model" in fails(settings)
    (tmp_path / "a.model").write_bytes(b"no model")
    settings = config(tmp_path / "a.txt", tokenizer={"model": tmp_path / "a.model"})
    assert f"{tmp_path}/a.model: not a readable SentencePiece model" in fails(settings)
    assert not (tmp_path / "out").exists()


def test_the_last_line_says_what_there_is(tmp_path, config, capsys):
    (tmp_path / "a.txt").write_text(f"{GOOD}\n\nshort\n\n{GOOD}\n\n{GOOD} two")
    build(config(tmp_path / "a.txt", validation_fraction=0), progress=True)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"{tmp_path}/out: 2 documents of 4 read, ")
    assert last.endswith(f"; `megaxlm data inspect {tmp_path}/out` shows what each language has")


def test_empty_files_of_every_form(tmp_path, config, capsys):
    names = ["a.txt", "b.jsonl", "c.jsonl.zst", "wiki_00", "d.txt.bz2"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "good.txt").write_text(GOOD)
    assert cleaning(config(*(tmp_path / name for name in [*names, "good.txt"])))["read"] == 1
    shown = capsys.readouterr().err
    for name in names:
        assert f"warning: {tmp_path}/{name}: empty file, it holds no documents of en" in shown
    (tmp_path / "e.parquet").touch()
    assert fails(config(tmp_path / "e.parquet", output="other")).startswith(
        f"{tmp_path}/e.parquet: is no Parquet file, or is damaged or cut off ("
    )


def test_a_form_that_a_file_cannot_have_is_refused(tmp_path, config):
    for name in ("a.parquet.gz", "a.tmx", "a.txt"):
        (tmp_path / name).write_bytes(b"text")
    assert fails(config(tmp_path / "a.parquet.gz")) == (
        f"{tmp_path}/a.parquet.gz: a Parquet file is compressed inside, not with gzip as a whole; "
        "unpack it"
    )
    assert fails(config(tmp_path / "a.tmx")) == (
        f"{tmp_path}/a.tmx: TMX holds pairs; name it under `bitext`"
    )
    assert fails(config(tmp_path / "a.txt", source={"lang": None, "lang_field": "lang"})) == (
        f"{tmp_path}/a.txt: text has no field `lang`; set `format`, or say in another way which "
        "language it is"
    )


def test_a_folder_of_several_splits_names_them(tmp_path, config):
    for split in ("train", "test"):
        (tmp_path / "saved" / split).mkdir(parents=True)
    (tmp_path / "saved" / "dataset_dict.json").write_text("{}")
    assert fails(config(tmp_path / "saved")) == (
        f"{tmp_path}/saved: holds several splits (test, train); name one: {tmp_path}/saved/train"
    )


def test_a_line_of_100_megabytes_is_never_held(tmp_path):
    path = tmp_path / "a.txt"
    with open(path, "wb") as file:
        file.write(b"before\n\n")
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b"\n\nafter")
    tracemalloc.start()
    with LineReader(path, "fail", 4 << 20) as reader:
        assert list(read_documents(reader, 1 << 20)) == ["before", OVERLONG, "after"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20


def test_ten_million_empty_lines_take_no_memory(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\n" * 10_000_000)
    tracemalloc.start()
    with LineReader(path, "fail", 4 << 20) as reader:
        assert list(read_documents(reader, 1 << 20)) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20
