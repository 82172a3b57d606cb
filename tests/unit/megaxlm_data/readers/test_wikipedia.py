import json

import pytest
from megaxlm_data.readers.lines import OVERLONG
from megaxlm_data.readers.records import Malformed, Policies
from megaxlm_data.readers.wikipedia import WikipediaJsonReader, WikipediaReader, is_json

from megaxlm.errors import UserError

EXTRACT = """<doc id="7" url="https://example.org/wiki?curid=7" title="Rain">
Rain

Water that falls &amp; runs; &lt;b&gt; is no markup here, nor is &amp;lt;.

It is wet.

</doc>

<doc id="8" url="https://example.org/wiki?curid=8" title="Empty">
Empty

</doc>
"""
RAIN = "Rain\n\nWater that falls & runs; <b> is no markup here, nor is &lt;.\n\nIt is wet.\n"


def read(path, policies=None, max_chars=10_000):
    with WikipediaReader(str(path), policies or Policies(), max_chars) as reader:
        return list(reader)


def test_an_article_is_a_document_with_its_blank_lines(tmp_path):
    path = tmp_path / "wiki_00"
    path.write_text(EXTRACT)
    assert read(path) == [(RAIN,), ("Empty\n",)]
    assert read(path, max_chars=50) == [OVERLONG, ("Empty\n",)]


def test_the_json_form_says_the_same(tmp_path):
    path = tmp_path / "wiki_00"
    text = EXTRACT.split(">\n", 1)[1].split("\n</doc>")[0]
    path.write_text(json.dumps({"id": "7", "title": "Rain", "text": text}) + "\n")
    with WikipediaJsonReader(str(path), Policies(), 10_000) as reader:
        assert list(reader) == [(RAIN,)]
    assert is_json(path.read_bytes())
    assert not is_json(EXTRACT.encode())


def test_an_extract_cut_off_or_mixed_with_other_text(tmp_path):
    path = tmp_path / "wiki_00"
    path.write_text(EXTRACT[: EXTRACT.index("It is")])
    with pytest.raises(UserError, match="wiki_00:5: the file ends inside an article, it is not wh"):
        read(path)
    assert read(path, Policies(bad_record="skip")) == [Malformed()]
    path.write_text("stray\n" + EXTRACT)
    with pytest.raises(UserError, match="wiki_00:1: is outside of `<doc id=...>` and `</doc>`; re"):
        read(path)
    assert read(path, Policies(bad_record="skip")) == [Malformed(), (RAIN,), ("Empty\n",)]
