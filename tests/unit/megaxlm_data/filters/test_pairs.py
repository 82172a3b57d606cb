import pytest
from megaxlm_data.document import Pair
from megaxlm_data.filters.base import PerLanguage
from megaxlm_data.filters.pairs import ContainedSide, IdenticalSides, NumberOverlap


def pair(source, target, langs=("en", "fr")):
    return Pair(langs, source, target)


@pytest.mark.parametrize(
    ("source", "target", "drop"),
    [
        ("Good morning.", "Good morning.", True),
        ("Good morning.", "GOOD MORNING!", True),
        ("Good morning.", "Bonjour.", False),
        ("I see.", "Ich sehe.", False),
        ("...", "!", True),  # nothing on either side
        ("café", "cafe", False),
        ("“Good”", '"good"', True),
        ("राम की गाय", "राम का गाय", False),
    ],
)
def test_identical_sides(source, target, drop):
    reason = IdenticalSides(PerLanguage(True)).reason_to_drop(pair(source, target))
    assert reason == ("identical_sides" if drop else None)


def test_a_side_inside_the_other():
    contained = ContainedSide(PerLanguage(True))
    both = pair("Good morning, all.", "Good morning, all. Bonjour à tous.")
    assert contained.reason_to_drop(both) == "contained_side"
    assert contained.reason_to_drop(pair(both.target, both.source)) == "contained_side"
    assert contained.reason_to_drop(pair("Berlin", "Berlin est là")) is None  # a name
    assert contained.reason_to_drop(pair("Good morning, all.", "Bonjour à tous.")) is None


@pytest.mark.parametrize(
    ("source", "target", "overlap"),
    [
        ("In 1987 it cost 1,250.50", "1987 kostete es 1.250,50", 1.0),
        ("It cost 12 000 in 1987", "Es kostete 12.000 im Jahr 1987", 1.0),
        ("on 12 May", "१२ मई को", 1.0),
        ("in 2019", "عام ٢٠١٩", 1.0),
        ("two of 3 doors", "deux des trois portes", 1.0),  # one digit may be a word
        ("no number", "aucun nombre", 1.0),
        ("in 1987", "in 1978", 0.0),
        ("from 1987 to 1990", "seit 1987", 0.5),
        ("in 1999 200 men came", "en 1999, 200 hommes", 1.0),
    ],
)
def test_numbers_agree_across_scripts_and_separators(source, target, overlap):
    at, above = NumberOverlap(PerLanguage(overlap)), NumberOverlap(PerLanguage(overlap + 1e-9))
    assert at.reason_to_drop(pair(source, target)) is None
    if overlap < 1:
        assert above.reason_to_drop(pair(source, target)) == "numbers_differ"


def test_what_is_off_keeps_everything_and_pairs_have_their_own_settings():
    same = pair("Good morning, all.", "Good morning, all.")
    assert IdenticalSides(PerLanguage(False)).reason_to_drop(same) is None
    assert ContainedSide(PerLanguage(False)).reason_to_drop(same) is None
    assert NumberOverlap(PerLanguage(0.0)).reason_to_drop(pair("1987", "1978")) is None
    off_for_one = IdenticalSides(PerLanguage(True, {"en-fr": False}))
    assert off_for_one.reason_to_drop(same) is None
    assert off_for_one.reason_to_drop(pair("Good", "Good", ("en", "de"))) == "identical_sides"
