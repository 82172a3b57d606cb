import gzip

import pytest
from megaxlm_data.bitext import tmx
from megaxlm_data.bitext.tmx import TmxReader
from megaxlm_data.readers import stream
from megaxlm_data.readers.lines import OVERLONG, UNDECODABLE
from megaxlm_data.readers.records import MissingSide

from megaxlm.errors import UserError

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<tmx version="1.4"><header srclang="en"/><body>\n'


def unit(**texts):
    variants = "".join(
        f'<tuv xml:lang="{lang.replace("_", "-")}"><seg>{text}</seg></tuv>'
        for lang, text in texts.items()
    )
    return f"<tu><prop>not text</prop>{variants}</tu>\n"


def read(path, langs=("en", "fr"), policy="fail", max_chars=1000):
    with TmxReader(str(path), langs, policy, max_chars) as reader:
        rows = list(reader)
    return rows, reader


def write(path, *units, head=HEAD, tail="</body></tmx>"):
    path.write_text(head + "".join(units) + tail, encoding="utf-8")
    return path


def refused(path, **options):
    with pytest.raises(UserError) as caught:
        read(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), path.name)


@pytest.mark.parametrize("block", [1, 7, 1 << 18])
def test_pairs_without_markup_whatever_the_size_of_the_blocks(tmp_path, monkeypatch, block):
    monkeypatch.setattr(stream, "_BLOCK", block)
    marked = 'a <bpt i="1">&lt;b></bpt><hi>bold</hi> &amp; <ph>{<sub>1</sub>}</ph>é'
    path = write(tmp_path / "a.tmx", unit(en=marked, fr="un"), unit(fr="deux", en="two\nlines"))
    assert read(path)[0] == [("a bold & é", "un"), ("two\nlines", "deux")]
    assert read(path, ("fr", "en"))[0] == [("un", "a bold & é"), ("deux", "two\nlines")]


def test_codes_with_a_region_or_of_another_spelling_are_found(tmp_path):
    path = write(
        tmp_path / "a.tmx",
        unit(en_US="one", fra="un", de="eins"),
        unit(zh_TW="繁", zh_cn="简", EN="two", en_GB="second variant"),
    )
    assert read(path)[0] == [("one", "un"), MissingSide()]
    assert read(path, ("en", "zh"))[0][1] == ("two", "简")
    assert read(path, ("en", "zh-Hant"))[0][1] == ("two", "繁")


def test_old_files_name_the_language_without_a_prefix_and_are_utf16(tmp_path):
    path = tmp_path / "a.tmx.gz"
    text = '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE tmx SYSTEM "tmx14.dtd"><tmx><body>' + (
        unit(en="one&nbsp;day", fr="un jour").replace("xml:lang", "lang") + "</body></tmx>"
    )
    path.write_bytes(gzip.compress(text.encode("utf-16")))
    assert read(path)[0] == [("one\u00a0day", "un jour")]


def test_what_lacks_a_side_or_is_too_long_is_named(tmp_path):
    path = write(
        tmp_path / "a.tmx", unit(en="alone"), unit(en="x" * 300, fr="y"), unit(en="", fr="")
    )
    rows, _ = read(path, max_chars=100)
    assert rows == [MissingSide(), OVERLONG, ("", "")]
    assert rows[0].head == "alone"


def test_a_language_that_is_not_there_names_those_that_are(tmp_path):
    path = write(tmp_path / "a.tmx", unit(en="a", de="b"), unit(en="c", de="d"))
    assert refused(path) == (
        "a.tmx: no text in `fr`; the languages there are: en, de; correct `langs`"
    )


def test_entities_are_refused_and_nothing_outside_is_read(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for entity in ('<!ENTITY a "aaaaaaaaaa">', f'<!ENTITY a SYSTEM "file://{secret}">'):
        head = f"<!DOCTYPE tmx [{entity}]>\n<tmx><body>"
        path = write(tmp_path / "a.tmx", unit(en="&a;", fr="x"), head=head)
        assert "a.tmx:1: declares an entity (a), which is not read for safety" in refused(path)
    head = f'<!DOCTYPE tmx SYSTEM "file://{secret}"><tmx><body>'
    path = write(tmp_path / "a.tmx", unit(en="a", fr="x"), head=head)
    assert read(path)[0] == [("a", "x")]


def test_invalid_utf8_follows_the_policy(tmp_path):
    path = write(tmp_path / "a.tmx", unit(en="one", fr="un"), unit(en="bad!", fr="y"))
    path.write_bytes(path.read_bytes().replace(b"bad!", b"bad\xff"))
    assert refused(path) == (
        "a.tmx:4: invalid UTF-8; repair the file, or set on_invalid_utf8 to skip or replace"
    )
    rows, reader = read(path, policy="skip")
    assert rows == [("one", "un"), UNDECODABLE]
    assert reader.counts == {"invalid_utf8": 1}
    rows, reader = read(path, policy="replace")
    assert rows == [("one", "un"), ("bad\ufffd", "y")]
    assert reader.counts == {"replaced_utf8": 1}


def test_control_characters_that_xml_forbids_are_left_out(tmp_path):
    path = write(tmp_path / "a.tmx", unit(en="o\x0bn\x01e", fr="un"))
    assert read(path)[0] == [("one", "un")]


def test_a_file_cut_off_or_of_another_kind(tmp_path):
    path = write(tmp_path / "a.tmx", unit(en="one", fr="un"), tail="<tu><tuv")
    assert refused(path).startswith("a.tmx:4: not well-formed XML (unclosed token; the file is cut")
    path.write_text("<html><p>no</p></html>")
    assert "a.tmx:1: is no TMX: its outermost element is `html`" in refused(path)
    path.write_text("plain text")
    assert "a.tmx:1: not well-formed XML (syntax error" in refused(path)
    path.write_bytes(b"")
    assert read(path)[0] == []


def test_a_tag_without_an_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(tmx, "_MARKUP_LIMIT", 1 << 20)
    path = write(tmp_path / "a.tmx", '<tu note="' + "x" * 3_000_000 + '"/>')
    assert "a tag has no end" in refused(path)
