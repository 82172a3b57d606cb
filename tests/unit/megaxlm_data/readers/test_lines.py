import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megaxlm_data.readers import stream
from megaxlm_data.readers.lines import OVERLONG, UNDECODABLE, LineReader

from megaxlm.errors import UserError


def read(path, policy="fail", limit=1 << 20, **range_):
    with LineReader(path, policy, limit, **range_) as reader:
        return [line for block in reader for line in block.lines]


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"a\n\n", ["a", ""]),
        (b"\n", [""]),
        (b"\xef\xbb\xbfa\nb", ["a", "b"]),
        (b"\xef\xbb\xbf", []),
        ("a\u2028b\u0085c\nd\x0ce".encode(), ["a\u2028b\u0085c", "d\x0ce"]),
        (b"a\rb\r\n", ["a\rb\r"]),
    ],
)
def test_lines_end_at_a_line_feed_alone(tmp_path, content, lines):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert read(path) == lines


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text(alphabet="aé中\r ", max_size=12), max_size=40),
    st.integers(1, 9),
    st.integers(1, 40),
)
def test_block_size_and_ranges_do_not_change_the_lines(tmp_path_factory, lines, block, span):
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    path.write_bytes("\n".join(lines).encode())
    expected = read(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "_BLOCK", block)
        assert read(path) == expected
        size = path.stat().st_size
        found = []
        for start in range(0, size, span):
            with LineReader(path, "fail", 1 << 20, start, start + span) as reader:
                for part in reader:
                    if part.past_end:
                        break
                    found += part.lines
        assert found == expected


def test_a_line_beyond_the_limit_is_marked_and_not_held(tmp_path):
    path = tmp_path / "a.txt.gz"
    long = b"x" * 5_000_000
    path.write_bytes(gzip.compress(b"a\n" + long + b"\nb\n" + long))
    assert read(path, limit=1_000_000) == ["a", OVERLONG, "b", OVERLONG]


def test_invalid_utf8_by_policy(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"good\nb\xffd\nfine\n")
    with pytest.raises(UserError, match=r"a.txt:2: invalid UTF-8 \(byte 0xff\)"):
        read(path)
    assert read(path, "skip") == ["good", UNDECODABLE, "fine"]
    assert read(path, "replace") == ["good", "b\ufffdd", "fine"]
    with LineReader(path, "skip", 100) as reader:
        list(reader)
        assert reader.counts == {"invalid_utf8": 1}


def test_invalid_utf8_names_the_line_of_the_file_from_inside_a_range(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n" * 1000 + b"\xc3\n")
    with pytest.raises(UserError, match="a.txt:1001: invalid UTF-8"):
        read(path, start=2000)


def test_a_character_cut_off_at_the_end_is_invalid(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\n" + "é".encode()[:1])
    with pytest.raises(UserError, match="a.txt:2"):
        read(path)
