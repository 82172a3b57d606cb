import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megaxlm_data.readers import stream
from megaxlm_data.readers.documents import read_documents
from megaxlm_data.readers.lines import OVERLONG, LineReader


def read(path, max_chars=1 << 20, policy="fail", start=0, end=None):
    with LineReader(path, policy, 4 * max_chars, start, end) as reader:
        return list(read_documents(reader, max_chars, first_range=start == 0))


@pytest.mark.parametrize(
    ("content", "documents"),
    [
        (b"", []),
        (b"\n\n \n", []),
        (b"a\nb\n\nc", ["a\nb", "c"]),
        (b"a\r\nb\r\n\r\nc\r\n", ["a\r\nb\r", "c\r"]),
        (b"\n\na\n\n\n \t\nb\n\n", ["a", "b"]),
        (b"a\n\xff\nb", ["a\nb"]),
    ],
)
def test_a_blank_line_ends_a_document(tmp_path, content, documents):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert read(path, policy="skip") == documents


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from(["", "", " ", "a", "bcd", "éé", "\r"]), max_size=40),
    st.integers(1, 30),
    st.integers(1, 11),
)
def test_ranges_give_every_document_once_and_in_order(tmp_path_factory, lines, span, block):
    path = tmp_path_factory.mktemp("documents") / "a.txt"
    path.write_bytes("\n".join(lines).encode())
    whole = read(path)
    starts = list(range(0, max(1, path.stat().st_size), span))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "_BLOCK", block)
        parts = [
            read(path, start=start, end=None if start == starts[-1] else start + span)
            for start in starts
        ]
    assert [document for part in parts for document in part] == whole


def test_too_long_a_document_is_marked_once(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"ab\n\n" + b"0123456789\n" * 50 + b"\ncd\n")
    assert read(path, max_chars=100) == ["ab", OVERLONG, "cd"]
