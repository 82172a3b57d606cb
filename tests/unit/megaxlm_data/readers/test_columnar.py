import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megaxlm_data.readers import columnar
from megaxlm_data.readers.columnar import ArrowReader, ParquetReader, arrow_facts, parquet_facts
from megaxlm_data.readers.lines import UNDECODABLE
from megaxlm_data.readers.records import FieldNames, Policies

from megaxlm.errors import UserError

TEXT = FieldNames(("text",), 1, ("text_field",))
SIDES = FieldNames(("translation.en", "translation.fr"), 2, ("fields", "fields"))


def save(path, table, rows=3):
    """Writes a table in parts of some rows, in the form that the name says."""
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=rows)
        return
    new = pa.ipc.new_stream if path.stem == "stream" else pa.ipc.new_file
    with new(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


def read(path, fields=TEXT, policies=None, start=0, end=None):
    kind = ParquetReader if path.suffix == ".parquet" else ArrowReader
    with kind(str(path), fields, policies or Policies(), start, end) as reader:
        rows = list(reader)
    return rows, reader


FORMS = ["a.parquet", "file.arrow", "stream.arrow"]


@pytest.mark.parametrize("name", FORMS)
def test_text_columns_of_every_kind(tmp_path, name):
    texts = ["one", None, "three\nlines", "", "é中"]
    path = tmp_path / name
    for kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        save(path, pa.table({"id": range(5), "text": pa.array(texts, kind)}))
        assert read(path)[0] == [(text or "",) for text in texts]
    save(path, pa.table({"text": pa.array(texts).dictionary_encode()}))
    assert read(path)[0] == [(text or "",) for text in texts]
    save(path, pa.table({"text": pa.nulls(2)}))
    assert read(path)[0] == [("",), ("",)]


@pytest.mark.parametrize("name", FORMS)
def test_the_two_sides_of_a_struct(tmp_path, name):
    pairs = [{"en": "one", "fr": "un"}, None, {"en": None, "fr": "deux"}, {"en": "x", "fr": "y"}]
    kind = pa.struct({"de": pa.string(), "en": pa.string(), "fr": pa.string()})
    path = tmp_path / name
    save(path, pa.table({"id": range(4), "translation": pa.array(pairs, kind)}))
    assert read(path, SIDES)[0] == [("one", "un"), ("", ""), ("", "deux"), ("x", "y")]


@pytest.mark.parametrize("name", FORMS)
def test_a_missing_column_names_the_ones_there_are(tmp_path, name):
    path = tmp_path / name
    inner = pa.array([{"en": "x"}], pa.struct({"en": pa.string()}))
    save(path, pa.table({"content": ["x"], "translation": inner}))
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value) == (
        f"{path}: no field `text`; the fields there are: content, translation, translation.en; "
        "correct `text_field`"
    )
    with pytest.raises(UserError, match="no field `translation.fr`; .*; correct `fields`"):
        read(path, SIDES)
    save(path, pa.table({"text": [1, 2]}))
    with pytest.raises(UserError, match="`text` is no text but int64; correct `text_field`"):
        read(path)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("kind", [pa.binary(), pa.string()])
def test_invalid_utf8_follows_the_policy(tmp_path, name, kind):
    values = [b"a", b"b", b"c", b"d", b"bad\xff", b"f"]
    array = pa.array(values, pa.binary())
    path = tmp_path / name
    save(path, pa.table({"text": array if kind == pa.binary() else array.view(pa.string())}))
    first = 0 if path.stem == "stream" else 1
    with pytest.raises(UserError) as caught:
        read(path, start=first)
    assert str(caught.value) == (
        f"{path}: row 5 of `text`: invalid UTF-8 (byte 0xff); repair the file, or set "
        "on_invalid_utf8 to skip or replace"
    )
    rows, reader = read(path, policies=Policies("skip"))
    assert rows == [("a",), ("b",), ("c",), ("d",), UNDECODABLE, ("f",)]
    assert reader.counts == {"invalid_utf8": 1}
    rows, reader = read(path, policies=Policies("replace"))
    assert rows[4] == ("bad\ufffd",)
    assert reader.counts == {"replaced_utf8": 1}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_file_cut_off_is_one_line(tmp_path, name, share):
    path = tmp_path / name
    save(path, pa.table({"text": [f"text number {i} " * 50 for i in range(300)]}))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        UserError, match="file, or is damaged or cut off .*; fetch the fi"
    ) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: is no ")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=8), min_size=1, max_size=40), st.integers(1, 9), st.data())
def test_ranges_of_parts_give_every_row_once_and_in_order(tmp_path_factory, texts, rows, data):
    folder = tmp_path_factory.mktemp("columnar")
    for name in ("a.parquet", "file.arrow"):
        path = folder / name
        save(path, pa.table({"text": texts}), rows)
        facts = (
            parquet_facts(str(path))
            if name == "a.parquet"
            else arrow_facts(str(path), path.stat().st_size, path.read_bytes()[:16])
        )
        parts = len(facts.part_bytes)
        assert facts.names == ["text"]
        assert parts == -(-len(texts) // rows)
        cuts = data.draw(st.sets(st.integers(1, parts)).map(sorted))
        bounds = [0, *[cut for cut in cuts if cut < parts], None]
        found = []
        for start, end in zip(bounds, bounds[1:], strict=False):
            found += read(path, start=start, end=end)[0]
        assert found == [(text,) for text in texts]


def test_few_rows_are_held_where_they_are_long(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    save(path, pa.table({"text": ["x" * 10_000] * 50}), rows=50)
    monkeypatch.setattr(columnar, "_BATCH_BYTES", 1)
    sizes = []
    real = ParquetReader._take

    def take(self, batch):
        sizes.append(batch.num_rows)
        return real(self, batch)

    monkeypatch.setattr(ParquetReader, "_take", take)
    assert len(read(path)[0]) == 50
    assert sizes == [1] * 50


def test_progress_ends_at_the_size_of_what_was_read(tmp_path):
    table = pa.table({"text": [str(i) for i in range(10)]})
    path = tmp_path / "a.parquet"
    save(path, table)
    facts = parquet_facts(str(path))
    assert read(path, start=1, end=3)[1].position == sum(facts.part_bytes[1:3]) > 0
    path = tmp_path / "file.arrow"
    save(path, table)
    size = path.stat().st_size
    facts = arrow_facts(str(path), size, path.read_bytes()[:16])
    assert sum(facts.part_bytes) == size
    assert read(path, start=1, end=3)[1].position == sum(facts.part_bytes[1:3]) > 0
    path = tmp_path / "stream.arrow"
    save(path, table)
    assert 0 < read(path)[1].position <= path.stat().st_size
