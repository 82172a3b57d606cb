import pytest
from pydantic import ValidationError

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.config.data_filters import FilterConfig
from megaxlm.config.load import dump_config, load_config
from megaxlm.errors import UserError

HEAD = "output: out\ncorpora:\n  - {lang: sw, paths: [a.txt]}\n"


def load(tmp_path, text, *overrides):
    path = tmp_path / "recipe.yaml"
    path.write_text(HEAD + text, encoding="utf-8")
    return load_config(DataBuildConfig, path, overrides).filters


def test_what_is_written_overrides_the_preset():
    config = FilterConfig(preset="gopher", max_repeated_line_share=0.6)
    assert config.max_repeated_line_share == 0.6
    assert config.max_top_ngram_share == {2: 0.2, 3: 0.18, 4: 0.16}
    assert config.max_mean_word_chars == 10
    assert FilterConfig(preset="lenient") == FilterConfig()


def test_none_drops_only_what_is_empty_or_enormous():
    config = FilterConfig(preset="none")
    assert config.max_top_ngram_share == config.max_repeated_ngram_share == {}
    assert not config.drop_identical_pairs
    assert config.max_document_chars == FilterConfig().max_document_chars


def test_a_language_overrides_defaults_and_preset(tmp_path):
    config = load(
        tmp_path,
        "filters:\n  preset: gopher\n  min_letter_share: 0.6\n  by_lang:\n"
        "    th: {min_letter_share: 0.3, max_top_ngram_share: {2: 0.5}}\n"
        "    sw: {preset: none, min_document_chars: 5}\n"
        "    no: {mask_personal_data: true}\n",
    )
    thai = config.for_lang("th")
    assert thai.min_letter_share == 0.3
    assert thai.max_top_ngram_share == {2: 0.5, 3: 0.18, 4: 0.16}
    assert thai.max_symbol_share == 0.1
    swahili = config.for_lang("sw")
    assert swahili.min_letter_share == 0
    assert swahili.max_top_ngram_share == {}
    assert swahili.min_document_chars == 5
    assert config.for_lang("no").mask_personal_data.emails == "<email>"
    assert config.for_lang("fi").min_letter_share == 0.6
    assert config.for_lang("fi").by_lang == {}


def test_an_override_on_the_command_line_reaches_a_language(tmp_path):
    config = load(tmp_path, "", "filters.by_lang.th.min_letter_share=0.3")
    assert config.for_lang("th").min_letter_share == 0.3


def test_a_resolved_config_means_the_same(tmp_path):
    text = "filters: {preset: gopher, mask_personal_data: true, by_lang: {th: {preset: none}}}\n"
    path = tmp_path / "recipe.yaml"
    path.write_text(HEAD + text, encoding="utf-8")
    config = load_config(DataBuildConfig, path)
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(DataBuildConfig, path) == config


@pytest.mark.parametrize("preset", ["lenient", "gopher", "none"])
def test_a_config_that_was_written_and_read_is_written_the_same(preset):
    # the settings go into dataset.json: its bytes may not tell where they came from
    config = FilterConfig(preset=preset, by_lang={"th": {"min_letter_share": 0.3}})
    written = config.model_dump_json()
    assert FilterConfig.model_validate_json(written).model_dump_json() == written


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{by_lang: {th: {min_leter_share: 0.3}}}", "did you mean `min_letter_share`?"),
        ("{by_lang: {th: {min_letter_share: 3}}}", "by_lang.th.min_letter_share"),
        ("{by_lang: {th: {by_lang: {}}}}", "by_lang.th: unknown key `by_lang`"),
        ("{preset: strict}", "`filters.preset`: input should be 'lenient', 'gopher' or 'none'"),
        ("{by_lang: {th: {preset: strict}}}", "by_lang.th.preset"),
        ("{max_top_ngram_share: {7: 0.5}}", "less than or equal to 4"),
        ("{mask_personal_data: {emails: x@example.org}}", "it would be masked"),
        ("{mask_personal_data: {email: null}}", "did you mean `emails`?"),
    ],
)
def test_a_mistake_is_named_in_one_line(tmp_path, text, said):
    with pytest.raises(UserError) as error:
        load(tmp_path, f"filters: {text}\n")
    message = str(error.value)
    assert said in message
    assert "recipe.yaml:4" in message
    assert "\n" not in message


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        FilterConfig().min_letter_share = 0.1
