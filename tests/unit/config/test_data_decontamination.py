import pytest
from pydantic import ValidationError

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.config.data_decontamination import DecontaminationConfig
from megaxlm.config.data_languages import LanguageIdentificationConfig


def test_both_are_off_unless_a_recipe_asks():
    config = DataBuildConfig(output="x", corpora=[{"lang": "en", "paths": ["a.txt"]}])
    assert not config.language_identification.enabled
    assert config.decontamination.evaluation_sets == []


def test_two_sets_of_one_name_are_refused():
    sets = [{"name": "dev", "paths": ["a"]}, {"name": "dev", "paths": ["b"]}]
    with pytest.raises(ValidationError, match="two evaluation sets are named dev"):
        DecontaminationConfig(evaluation_sets=sets)


@pytest.mark.parametrize("unit", ["words", "chars", "letters"])
def test_no_item_is_both_too_short_and_long_enough(unit):
    with pytest.raises(ValidationError, match=f"min_{unit} may not be more than ngram_{unit}"):
        DecontaminationConfig(**{f"min_{unit}": 9, f"ngram_{unit}": 8})


@pytest.mark.parametrize("changes", [{"threshold": 1.5}, {"thresholds": {"en": -1}}])
def test_a_confidence_is_a_share(changes):
    with pytest.raises(ValidationError):
        LanguageIdentificationConfig(**changes)
