"""What a unit is and what its digest depends on."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from megaxlm_data.progress import Progress
from megaxlm_data.readers import choice
from megaxlm_data.stages import plan
from megaxlm_data.stages.plan import Group, find_inputs

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.errors import UserError


def units(tmp_path, source, **changes):
    settings = DataBuildConfig(output=tmp_path / "out", corpora=[source], **changes)
    return find_inputs(settings, Progress(False)).units


@pytest.fixture
def records(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "x", "lang": "en"}) + "\n" for _ in range(50)))
    return {"lang": "en", "paths": [str(path)]}


def test_forms_follow_the_extension_and_the_config(tmp_path):
    names = {
        "a.txt": "documents",
        "b": "documents",
        "c.JSONL": "jsonl",
        "d.ndjson.gz": "jsonl",
        "e.json": "jsonl",
        "wiki_07": "wikipedia",
        "wiki_08": "wikipedia_json",
        "wiki_09.gz": "wikipedia_json",
    }
    content = dict.fromkeys(names, b"x") | {"wiki_08": b'{"text": "x"}'}
    content["wiki_09.gz"] = gzip.compress(b'{"text": "x"}')
    content["d.ndjson.gz"] = gzip.compress(b"{}")
    for name in names:
        (tmp_path / name).write_bytes(content[name])
        (unit,) = units(tmp_path, {"lang": "en", "paths": [f"{tmp_path}/{name}"]})
        assert unit.form == names[name], name
    source = {"lang": "en", "format": "lines", "paths": [f"{tmp_path}/c.JSONL"]}
    assert units(tmp_path, source)[0].form == "lines"


def test_a_digest_changes_with_all_that_cleaning_depends_on_and_nothing_else(tmp_path, records):
    def digest(source=records, **changes):
        (unit,) = units(tmp_path, source, **changes)
        return unit.digest

    first = digest()
    for changes in (
        {"on_bad_record": "skip"},
        {"on_invalid_utf8": "skip"},
        {"normalization": "nfc"},
        {"filters": {"min_document_chars": 5}},
        {"rejected_samples": 3},
    ):
        assert digest(**changes) != first, changes
    for changes in (
        {"text_field": "lang"},
        {"lang": "sw"},
        {"lang": None, "lang_field": "lang"},
        {"format": "lines"},
    ):
        assert digest({**records, **changes}) != first, changes
    for changes in (
        {"seed": 5},
        {"workers": 7},
        {"shard_tokens": 5000},
        {"validation_fraction": 0.5},
        {"deduplication": {"documents": False}},
        {"tokenizer": {"vocab_size": 500}},
    ):
        assert digest(**changes) == first, changes
    languages = {"lang": None, "lang_field": "lang"}
    assert digest({**records, **languages, "languages": ["en"]}) != digest({**records, **languages})


def test_detection_counts_by_the_versions_of_its_libraries(tmp_path, records, monkeypatch):
    found = []
    for version in ("1", "2"):
        monkeypatch.setattr(choice, "identifier_key", lambda config, v=version: {"library": v})
        (unit,) = units(tmp_path, {**records, "lang": "detect"})
        assert unit.langs == ()
        found.append(unit.digest)
    assert found[0] != found[1]


def test_large_files_are_read_in_parts_and_compressed_ones_whole(tmp_path, records, monkeypatch):
    monkeypatch.setattr(plan, "RANGE_BYTES", 400)
    size = (tmp_path / "a.jsonl").stat().st_size
    parts = units(tmp_path, records)
    assert [unit.start for unit in parts] == list(range(0, size, 400))
    assert [unit.end for unit in parts] == [*range(400, size, 400), None]
    assert sum(unit.input_bytes for unit in parts) == size
    assert len({unit.digest for unit in parts}) == len(parts)
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes(), 0))
    (unit,) = units(tmp_path, {"lang": "en", "paths": [str(packed)]})
    assert (unit.start, unit.end, unit.input_bytes) == (0, None, packed.stat().st_size)

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x" * 300] * 7}), path, row_group_size=2, compression=None,
                   use_dictionary=False)  # fmt: skip
    parts = units(tmp_path, {"lang": "en", "paths": [str(path)]})
    assert [(unit.start, unit.end) for unit in parts] == [(0, 1), (1, 2), (2, 3), (3, None)]


def test_a_part_of_a_unit_has_a_name_of_its_own(tmp_path, records):
    (unit,) = units(tmp_path, {**records, "lang": None, "lang_field": "lang"})
    part = unit.part(("zh-Hant",))
    assert part.digest == f"{unit.digest}.zh-Hant"
    group = Group(("zh-Hant",), (part, part))
    assert (group.name, group.files, group.is_bitext) == ("zh-Hant", list(unit.files), False)


def test_a_language_called_as_a_pair_is_refused(tmp_path, records):
    with pytest.raises(UserError, match="`en-fr` names both a language and a pair; rename one"):
        settings = DataBuildConfig(
            output=tmp_path,
            corpora=[{**records, "lang": "en-fr"}],
            bitext=[{"langs": ["en", "fr"], "paths": records["paths"], "fields": ["text", "lang"]}],
        )
        find_inputs(settings, Progress(False))
