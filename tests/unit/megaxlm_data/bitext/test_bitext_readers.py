import pytest
from megaxlm_data.bitext.readers import read_aligned, read_tsv
from megaxlm_data.readers.lines import OVERLONG, UNDECODABLE, LineReader
from megaxlm_data.readers.records import Malformed

from megaxlm.errors import UserError


def aligned(tmp_path, left, right, policy="fail", limit=1 << 20):
    for name, content in (("a.txt", left), ("b.txt", right)):
        (tmp_path / name).write_bytes(content)
    with (
        LineReader(tmp_path / "a.txt", policy, limit) as source,
        LineReader(tmp_path / "b.txt", policy, limit) as target,
    ):
        return list(read_aligned(source, target, lambda: None))


def test_lines_are_paired_whatever_they_hold(tmp_path):
    left = "one\n\ntwo\u2028x\nthree".encode()
    assert aligned(tmp_path, left, b"1\n2\n\n3\n") == [
        ("one", "1"),
        ("", "2"),
        ("two\u2028x", ""),
        ("three", "3"),
    ]


@pytest.mark.parametrize(("left", "right"), [(3, 5), (70_000, 3), (0, 2)])
def test_sides_of_different_length_name_both_files_and_counts(tmp_path, left, right):
    expected = rf"a.txt has {left:,} lines and .*b.txt has {right:,}:"
    with pytest.raises(UserError, match=expected):
        aligned(tmp_path, b"x\n" * left, b"y\n" * right)


def test_a_bad_line_drops_its_pair_and_no_other(tmp_path):
    pairs = aligned(tmp_path, b"a\n\xff\nc\nd\n", b"1\n2\n\xfe\n4\n", "skip")
    assert pairs == [("a", "1"), UNDECODABLE, UNDECODABLE, ("d", "4")]
    long = b"x" * 2_000_000
    pairs = aligned(tmp_path, b"a\n" + long + b"\nc\n", b"1\n2\n3\n", limit=1000)
    assert pairs == [("a", "1"), OVERLONG, ("c", "3")]


def test_tsv_has_two_columns(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b'he said "hi\tsie sagte\r\n\n\tempty\n')
    with LineReader(path, "fail", 1 << 20) as reader:
        assert list(read_tsv(reader)) == [('he said "hi', "sie sagte\r"), ("", ""), ("", "empty")]


@pytest.mark.parametrize(("line", "columns"), [(b"alone", 1), (b"a\tb\tc", 3)])
def test_tsv_with_other_columns_names_file_and_line(tmp_path, line, columns):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"a\tb\n" * 7 + line + b"\n")
    for start in (0, 10):
        with (
            LineReader(path, "fail", 1 << 20, start) as reader,
            pytest.raises(UserError, match=f"a.tsv:8: {columns} columns"),
        ):
            list(read_tsv(reader, start))


def test_chosen_columns_of_a_tsv_with_ids_and_scores(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("1\tone\tun\t0.9\n2\ttwo\tdeux\n3\tthree\n\n")
    with LineReader(path, "fail", 1 << 20) as reader:
        rows = read_tsv(reader, chosen=(2, 1))
        assert [next(rows), next(rows)] == [("un", "one"), ("deux", "two")]
        with pytest.raises(UserError) as caught:
            next(rows)
    assert str(caught.value) == (
        f"{path}:3: 2 columns, `columns` asks for number 2, counted from 0; repair the line, "
        "correct `columns`, or set on_bad_record to skip"
    )
    with LineReader(path, "fail", 1 << 20) as reader:
        rows = list(read_tsv(reader, chosen=(1, 2), on_bad_record="skip"))
    assert rows == [("one", "un"), ("two", "deux"), Malformed(), ("", "")]
    assert rows[2].head == "3\tthree"
