"""A recipe that is written wrongly is answered in one line: the place, the key and a way out."""

import pytest

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.config.load import load_config
from megaxlm.errors import UserError

SOURCE = "output: out\ncorpora:\n  - {lang: en, paths: [a.txt]}\n"


def problem(folder, more, source=SOURCE):
    path = folder / "recipe.yaml"
    path.write_text(source + more)
    with pytest.raises(UserError) as caught:
        load_config(DataBuildConfig, path)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{path}:")
    return message.removeprefix(f"{path}:")


@pytest.mark.parametrize(
    ("section", "misspelt", "meant"),
    [
        ("filtres: {}", "filtres", "filters"),
        ("filters: {min_document_char: 1}", "filters.min_document_char", "min_document_chars"),
        ("filters: {mask_personal_data: {emial: x}}", "emial", "emails"),
        ("deduplication: {nere: {}}", "deduplication.nere", "near"),
        ("deduplication: {near: {treshold: 0.7}}", "deduplication.near.treshold", "threshold"),
        ("deduplication: {lines: {min_char: 7}}", "deduplication.lines.min_char", "min_chars"),
        ("decontamination: {evaluation_set: []}", "evaluation_set", "evaluation_sets"),
        (
            "decontamination: {evaluation_sets: [{name: x, path: [a]}]}",
            "decontamination.evaluation_sets.0.path",
            "paths",
        ),
        ("language_identification: {enable: true}", "language_identification.enable", "enabled"),
        ("tokenizer: {model: m, extend: {pieces: 9, shares: 1}}", "extend.shares", "share"),
        ("tokenizer: {vocab_sise: 1000}", "tokenizer.vocab_sise", "vocab_size"),
        ("bitext: [{langs: [en, fr], source: [a], taget: [b]}]", "bitext.0.taget", "target"),
    ],
)
def test_a_misspelt_key_of_any_section_names_the_nearest(tmp_path, section, misspelt, meant):
    said = problem(tmp_path, section + "\n")
    assert said.startswith("4: unknown key `")
    assert f"{misspelt}`; did you mean `{meant}`?" in said


def test_a_misspelt_key_of_a_source_and_of_a_language(tmp_path):
    source = SOURCE.replace("paths: [a.txt]", "paths: [a.txt], textfield: body")
    assert problem(tmp_path, "", source) == (
        "3: unknown key `corpora.0.textfield`; did you mean `text_field`?"
    )
    said = problem(tmp_path, "filters:\n  by_lang:\n    en: {min_letters_share: 0.3}\n")
    assert "by_lang.en: unknown key `min_letters_share`; did you mean `min_letter_share`?" in said


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("workers: 0", "`workers`: input should be greater than or equal to 1, got 0"),
        ("workers: many", "`workers`: input should be a valid integer"),
        ("deduplication: {near: true}", "`deduplication.near`: is a section: give keys under it"),
        (
            "language_identification: {thresholds: {e n: 0.5}}",
            "`language_identification.thresholds.e n`: is no language code; give one such as `en`",
        ),
        ("filters: {by_lang: {en: {min_letter_share: 3}}}", "by_lang.en.min_letter_share: input"),
        ("normalization: nfd", "`normalization`: input should be 'nfkc', 'nfc' or 'none', got"),
        ("validation_fraction: 1.5", "`validation_fraction`: input should be less than 1, got 1.5"),
        ("tokenizer: {vocab_size: 0}", "`tokenizer.vocab_size`: input should be greater"),
        ("decontamination: {min_words: 20}", "min_words may not be more than ngram_words"),
    ],
)
def test_a_value_that_cannot_be_is_named(tmp_path, section, said):
    assert said in problem(tmp_path, section + "\n")


def test_a_language_that_is_no_code(tmp_path):
    assert problem(tmp_path, "", SOURCE.replace("lang: en", "lang: Engl!")).startswith(
        "3: `corpora.0.lang`: is no language code; give one such as `en`, `zh-Hant` or `eng_Latn`"
    )
