from __future__ import annotations

from pathlib import Path

import pytest
from megaxlm_data.decontamination.index import ContaminationIndex, open_index, prepare
from megaxlm_data.document import Document, Pair, document_id, pair_id
from megaxlm_data.filters.base import PerLanguage, apply_steps, total_drops, total_edits
from megaxlm_data.filters.contamination import (
    Contaminated,
    ContaminatedLines,
    ContaminatedPair,
    LittleLeft,
)
from megaxlm_data.filters.findings import findings_of
from megaxlm_data.progress import Progress

from megaxlm.config.data_decontamination import DecontaminationConfig

ITEM = "Nobody in the valley could remember who had planted the pear trees behind the old school."
SHORT = "The clockmaker sold his last clock."
CLEAN = "A different story altogether, about a lake and the people who skate on it."


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ContaminationIndex:
    folder = tmp_path_factory.mktemp("evaluation")
    (folder / "set.txt").write_text(f"{ITEM}\n{SHORT}\n")
    sets = [{"name": "set", "paths": [str(folder / "set.txt")]}]
    config = DecontaminationConfig.model_validate({"evaluation_sets": sets})
    prepare(config, folder / "index", Progress(False))
    return open_index(config, folder / "index")


def test_a_document_that_overlaps_is_dropped_and_reported(
    index: ContaminationIndex, tmp_path: Path
) -> None:
    step = Contaminated(index, samples=1)
    dirty = Document("en", (CLEAN, f"“{ITEM.upper()}”"))
    more = Document("en", (SHORT,))
    for document in (dirty, Document("en", (CLEAN,)), more, Document("de", (SHORT,))):
        apply_steps([step], document)
    assert total_drops([step], "en") == {"contaminated": 2}
    found = findings_of([step], "en")["contamination"]["set"]
    assert found["count"] == 2
    (sample,) = found["samples"]
    assert sample["item"].endswith("set.txt:1")
    assert sample["id"] == f"{document_id(dirty.text):016x}"
    assert sample["snippet"] == ITEM.lower().rstrip(".")
    assert findings_of([step], "de")["contamination"]["set"]["count"] == 1
    assert findings_of([step], "fr") == {}


def test_an_overlap_over_the_end_of_a_line_is_seen(index: ContaminationIndex) -> None:
    half = ITEM.index("who")
    document = Document("en", (ITEM[:half], ITEM[half:]))
    assert Contaminated(index, 0).reason_to_drop(document) == "contaminated"


def test_only_the_lines_that_overlap_are_cut(index: ContaminationIndex) -> None:
    step = ContaminatedLines(index, samples=5)
    half = ITEM.index("who")
    document = Document("en", (CLEAN, ITEM[:half], ITEM[half:], "The end.", SHORT))
    edited, reason = apply_steps([step], document)
    assert reason is None
    assert edited.lines == (CLEAN, "The end.")
    assert total_edits([step], "en") == {"contaminated_lines": 3}
    assert findings_of([step], "en")["contamination"]["set"]["count"] == 1


def test_a_document_of_which_little_is_left_goes(index: ContaminationIndex) -> None:
    steps = [ContaminatedLines(index, samples=5), LittleLeft(PerLanguage(10))]
    assert apply_steps(steps, Document("en", (SHORT, "Yes.")))[1] == "contaminated"
    assert apply_steps(steps, Document("en", (SHORT,)))[1] == "contaminated"
    assert apply_steps(steps, Document("en", (SHORT, "Yes, and no.")))[1] is None


def test_a_clean_document_is_left_alone(index: ContaminationIndex) -> None:
    step = ContaminatedLines(index, samples=5)
    document = Document("en", (CLEAN,))
    assert step.edit(document) is document
    assert findings_of([step], "en") == {}


@pytest.mark.parametrize("swapped", [False, True])
def test_a_pair_is_dropped_for_either_side(index: ContaminationIndex, swapped: bool) -> None:
    step = ContaminatedPair(index, samples=5)
    langs, sides = ("en", "de"), (SHORT, "Der Uhrmacher verkaufte seine letzte Uhr.")
    pair = Pair(langs, *(reversed(sides) if swapped else sides))
    assert apply_steps([step], pair)[1] == "contaminated"
    sample = findings_of([step], "en-de")["contamination"]["set"]["samples"][0]
    assert sample["id"] == f"{pair_id(*sides):016x}"
    assert sample["snippet"] == SHORT.lower().rstrip(".")


def test_a_clean_pair_stays(index: ContaminationIndex) -> None:
    assert ContaminatedPair(index, 1).reason_to_drop(Pair(("en", "de"), CLEAN, "Anders.")) is None
