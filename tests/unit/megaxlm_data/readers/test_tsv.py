"""Text in a column of a TSV file, by number or by the name in its first line."""

import gzip

import pytest
from megaxlm_data.readers.lines import UNDECODABLE
from megaxlm_data.readers.records import Malformed, Policies
from megaxlm_data.readers.tsv import TsvReader, column_places

from megaxlm.errors import UserError

KEYS = ("text_field", "lang_field")
SKIP = Policies("skip", "skip")


def rows(path, *columns, policies=SKIP, start=0, end=None):
    with TsvReader(
        str(path), columns, KEYS[: len(columns)], policies, 1 << 20, start, end
    ) as reader:
        return list(reader)


def test_a_column_by_number_takes_every_line_and_quotes_are_text(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes('\ufeff1\t"one\r\n\n2\ttwo\ten\n'.encode() + b"3\n4\t\xff\n")
    assert rows(path, 1) == [('"one',), ("two",), Malformed(), UNDECODABLE]
    assert rows(path, 1)[2].head == "3"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_column_by_name_takes_no_first_line(tmp_path, pack):
    path = tmp_path / ("a.tsv" if pack is bytes else "a.tsv.gz")
    path.write_bytes(pack(b"id\tsentence\tlang\r\n1\tone\ten\r\n2\tdeux\tfr"))
    assert rows(path, "sentence", "lang") == [("one", "en"), ("deux", "fr")]
    assert rows(path, "sentence", 0) == [("one", "1"), ("deux", "2")]


def test_parts_of_a_file_give_every_line_once(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("id\ttext\n" + "".join(f"{n}\tline {n}\n" for n in range(50)))
    size = path.stat().st_size
    for columns in (("text",), (1,)):
        whole = rows(path, *columns)
        for span in (1, 8, 9, 13, 100):
            starts = range(0, size, span)
            parts = [rows(path, *columns, start=at, end=at + span) for at in starts]
            assert [row for part in parts for row in part] == whole
    assert len(rows(path, "text")) == 50


def test_a_line_without_the_column_is_named(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("id\ttext\n1\tone\n2\n")
    for start in (0, 10):
        with pytest.raises(UserError) as caught:
            rows(path, "text", policies=Policies(), start=start)
        assert str(caught.value) == (
            f"{path}:3: 1 columns, and `text_field` asks for number 1, counted from 0; repair the "
            "line, correct `text_field`, or set on_bad_record to skip"
        )


def test_a_name_that_is_not_in_the_first_line_is_refused(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("1\tone\n")
    with pytest.raises(UserError) as caught:
        column_places(str(path), ("text",), KEYS[:1])
    assert str(caught.value) == (
        f"{path}:1: no column `text`; the first line has: 1, one; correct `text_field`, or where "
        "the columns have no names give a number, counted from 0: `text_field: 1`"
    )
    path.write_text("")
    assert rows(path, "text") == []
