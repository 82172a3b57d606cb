"""Languages that settings name: without text they are refused, or said to change nothing."""

import pytest
from megaxlm_data.progress import Progress
from megaxlm_data.stages.named_languages import check_named

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.errors import UserError

GROUPS = [("en",), ("sw",), ("en", "fr")]


def check(**sections):
    values = {"output": "out", "corpora": [{"lang": "en", "paths": ["a"]}], **sections}
    check_named(DataBuildConfig(**values), GROUPS, Progress(False))


@pytest.mark.parametrize(
    "sections",
    [
        {"filters": {"by_lang": {"eng": {"min_document_chars": 9}}}},
        {"language_identification": {"thresholds": {"eng": 0.5}}},
    ],
)
def test_a_setting_for_a_language_that_is_not_there_is_warned_of(sections, capsys):
    check(**sections)
    where = "filters.by_lang" if "filters" in sections else "language_identification.thresholds"
    assert capsys.readouterr().err == (
        f"warning: {where}: there is no text of 'eng' (`en` is here); the languages of this data "
        "set are en, fr, sw\n"
    )


def test_languages_and_pairs_that_are_there_are_fine(capsys):
    settings = {code: {"min_letter_share": 0.5} for code in ("en", "fr", "en-fr")}
    check(filters={"by_lang": settings}, tokenizer={"languages": ["en", "fr"]})
    assert not capsys.readouterr().err


def test_a_tokenizer_for_no_language_is_refused():
    with pytest.raises(UserError, match="exclude_languages: leaves no language to train on"):
        check(tokenizer={"exclude_languages": ["en", "sw", "fr"]})
    with pytest.raises(UserError, match="languages: there is no text of 'fo'; the languages"):
        check(tokenizer={"languages": ["fo"]})
