import pytest
from pydantic import ValidationError

from megaxlm.config.data_sources import BitextSource, MonolingualSource


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "say in one way which language it is: .*; here are none"),
        ({"lang": "en", "lang_field": "l"}, "here are lang and lang_field"),
        ({"lang_from": "path"}, "`lang_from: path` needs `{lang}` in every path"),
        ({"lang": "en", "paths": ["a/{lang}/b"]}, "a/{lang}/b: `{lang}` in a path needs `lang_fro"),
        (
            {"lang": "en", "languages": ["en"]},
            "`languages` chooses among several, and `lang`",
        ),
        ({"lang_field": "l", "format": "lines"}, "files of format `lines` have no field `l`"),
        ({"lang": "en", "format": "jsonl", "text_field": 1}, "`text_field: 1` is a column of TSV"),
        ({"lang": "en", "text_field": True}, "valid string"),
        ({"lang": "en", "text_field": -1}, "greater than or equal to 0"),
        ({"lang_field": "text"}, "`text_field` and `lang_field` are both text"),
        ({"lang": "en", "lang_field": 0}, "here are lang and lang_field"),
        ({"lang": "en", "format": "tmx"}, "Input should be 'auto'"),
        ({"lang": "en", "paths": []}, "at least 1 item"),
    ],
)
def test_a_source_of_documents_that_contradicts_itself_is_refused(source, message):
    with pytest.raises(ValidationError, match=message):
        MonolingualSource(**{"paths": ["a.txt"], **source})


def test_every_way_to_say_the_language_is_taken():
    assert MonolingualSource(lang="detect", languages=["en"], paths=["a"]).languages == ["en"]
    assert MonolingualSource(lang_from="path", paths=["{lang}/a"]).lang is None
    named = MonolingualSource(lang_field="l", languages={"zho_Hans": "zh"}, paths=["a"])
    assert named.languages == {"zho_Hans": "zh"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "give either `paths`, or `tsv`, or `source` and `target`"),
        ({"paths": ["a"], "tsv": ["b"]}, "give either `paths`, or `tsv`"),
        ({"source": ["a"]}, "`source` names 1 files and `target` 0"),
        ({"langs": ["en", "en"], "paths": ["a"]}, "two different languages, got en twice"),
        ({"paths": ["a"], "columns": [1, 1]}, "`columns` names column 1 twice"),
        ({"paths": ["a"], "columns": [-1, 1]}, "greater than or equal to 0"),
    ],
)
def test_a_source_of_pairs_that_contradicts_itself_is_refused(source, message):
    with pytest.raises(ValidationError, match=message):
        BitextSource(**{"langs": ["en", "fr"], **source})


def test_the_fields_of_pairs_are_those_of_hugging_face_unless_said():
    assert BitextSource(langs=("en", "fr"), paths=["a"]).text_fields == (
        "translation.en",
        "translation.fr",
    )
    named = BitextSource(langs=("en", "fr"), paths=["a"], fields=("src", "tgt"))
    assert named.text_fields == ("src", "tgt")
