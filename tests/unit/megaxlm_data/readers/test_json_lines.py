import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megaxlm_data.readers import stream
from megaxlm_data.readers.json_lines import JsonLinesReader
from megaxlm_data.readers.lines import OVERLONG, UNDECODABLE
from megaxlm_data.readers.records import FieldNames, Malformed, Policies

from megaxlm.errors import UserError

TEXT = FieldNames(("text",), 1, ("text_field",))
WITH_LANG = FieldNames(("body.text", "meta.lang"), 1, ("text_field", "lang_field"))


def read(path, fields=TEXT, policies=None, limit=1 << 20, start=0, end=None):
    with JsonLinesReader(str(path), fields, policies or Policies(), limit, start, end) as reader:
        return list(reader)


def refused(path, **options):
    with pytest.raises(UserError) as caught:
        read(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), path.name)


def test_one_value_over_many_lines_is_told_from_json_lines(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[\n {\n  "text": "a"\n }\n]')
    with pytest.raises(UserError, match="a.json:1: is no JSON object; give one object a line, or"):
        read(path)


def test_fields_may_lie_inside_of_others_and_metadata_may_be_odd(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"body": {"text": "one\\ntwo"}, "meta": {"lang": "en"}, "score": NaN}\n'
        "\n   \n"
        '{"body.text": "named so", "body": {"text": "in"}, "meta": {"id": 98765432109876543210}}'
        "\r\n"
        '{"meta": {"lang": 7}, "body": {"text": null}}'
    )
    assert read(path, WITH_LANG) == [("one\ntwo", "en"), ("named so", ""), ("", "")]


def test_compressed_lines_with_a_byte_order_mark_and_unusual_separators(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    text = "a\u2028b\u0085c\u200bd"
    lines = [json.dumps({"text": text}, ensure_ascii=ascii) for ascii in (False, True)]
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + "\r\n".join(lines).encode()))
    assert read(path) == [(text,), (text,)]


def test_a_line_cut_in_half_at_the_end_says_so(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "whole"}\n{"text": "the other ha'))
    assert refused(path) == (
        "a.jsonl.gz:2: not valid JSON: Unterminated string starting at at character 10 (the line "
        "breaks off: perhaps the file was not fetched whole); repair it, or set on_bad_record to "
        "skip"
    )
    assert read(path, policies=Policies(bad_record="skip")) == [("whole",), Malformed()]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{text: 1}", "not valid JSON: Expecting property name enclosed in double quotes at"),
        ('["a", "b"]', "is no JSON object; give one object a line, or set on_bad_record to skip"),
        ("[" * 100_000, "not valid JSON: nested too deeply"),
        ('{"content": "x", "meta": {"id": 1}}', "no field `text`; the fields there are: content, "
         "meta, meta.id; correct `text_field`, or set on_bad_record to skip"),
        ("{}", "no field `text`; the fields there are: none;"),
        ('{"text": ["x"]}', "`text` is no text but list; correct `text_field`"),
    ],
)  # fmt: skip
def test_a_bad_record_names_file_and_line_or_is_skipped(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    good = '{"text": "good"}\n'
    path.write_text(good * 6 + line + "\n" + good)
    assert f"a.jsonl:7: {message}" in refused(path)
    assert f"a.jsonl:7: {message}" in refused(path, start=20)
    rows = read(path, policies=Policies(bad_record="skip"))
    assert rows == [("good",)] * 6 + [Malformed(), ("good",)]
    assert rows[6].head == line[:300]


def test_invalid_utf8_and_half_surrogate_pairs_follow_one_policy(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a\xff"}\n{"text": "b\\ud800"}\n{"text": "\\ud83d\\ude00"}\n')
    assert refused(path).startswith("a.jsonl:1: invalid UTF-8 (byte 0xff)")
    skip = JsonLinesReader(str(path), TEXT, Policies("skip"), 1000)
    assert list(skip) == [UNDECODABLE, UNDECODABLE, ("\U0001f600",)]
    assert skip.counts == {"invalid_utf8": 2}
    replace = JsonLinesReader(str(path), TEXT, Policies("replace"), 1000)
    assert list(replace) == [("a\ufffd",), ("b\ufffd",), ("\U0001f600",)]
    assert replace.counts == {"replaced_utf8": 2}
    path.write_bytes(path.read_bytes().split(b"\n", 1)[1])
    assert refused(path).startswith("a.jsonl:1: a text holds half a surrogate pair; repair")


def test_a_line_beyond_the_limit_is_not_held(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "' + b"x" * 3_000_000 + b'"}\n{"text": "short"}')
    assert read(path, limit=500_000) == [OVERLONG, ("short",)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(alphabet='aé中"\\\r ', max_size=12), max_size=30),
    st.integers(1, 60),
    st.integers(1, 13),
)
def test_ranges_give_every_record_once_and_in_order(tmp_path_factory, texts, span, block):
    path = tmp_path_factory.mktemp("json") / "a.jsonl"
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    path.write_text("\n".join(lines), newline="")
    size = path.stat().st_size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "_BLOCK", block)
        parts = [read(path, start=start, end=start + span) for start in range(0, size, span)]
    assert [row for part in parts for row in part] == [(text,) for text in texts]
