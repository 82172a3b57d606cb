from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from megaxlm_data.decontamination import index as module
from megaxlm_data.decontamination.index import (
    ContaminationIndex,
    decontamination_key,
    open_index,
    prepare,
    read_summaries,
)
from megaxlm_data.decontamination.spans import fold
from megaxlm_data.progress import Progress

from megaxlm.config.data_decontamination import DecontaminationConfig
from megaxlm.errors import UserError

LONG = "When the snow had melted the two sisters walked down to the mill to ask for their wages."
SHORT = "My uncle keeps eleven grey geese."
CHINESE = "等到雪化了，两个姐妹就走到磨坊去要她们的工钱，可是磨坊主人已经搬到城里去住了很久很久。"
QUIET = Progress(False)


def make(tmp_path: Path, **settings: Any) -> DecontaminationConfig:
    """Writes two sets and returns a config that names them."""
    (tmp_path / "first.tsv").write_text(f"premise\tlabel\n{LONG}\tneutral\n{SHORT}\tyes\n")
    (tmp_path / "second.txt").write_text(f"{CHINESE}\n{LONG}\nGood morning.\n")
    sets = [
        {"name": "first", "paths": [str(tmp_path / "first.tsv")]},
        {"name": "second", "paths": [str(tmp_path / "second.txt")]},
    ]
    return DecontaminationConfig.model_validate({"evaluation_sets": sets} | settings)


def opened(tmp_path: Path, config: DecontaminationConfig) -> ContaminationIndex:
    prepare(config, tmp_path / "index", QUIET)
    return open_index(config, tmp_path / "index")


def found(index: ContaminationIndex, text: str) -> list[tuple[str, str]]:
    """Returns set and `file:line` of each overlap, without the folder."""
    overlaps = index.find(fold(text))
    return [(each.evaluation_set, os.path.basename(each.item)) for each in overlaps]


def test_a_piece_of_an_item_is_found_in_each_set_that_has_it(tmp_path: Path) -> None:
    index = opened(tmp_path, make(tmp_path))
    text = "He said: the snow had melted, the TWO sisters walked down to the mill to ask for it."
    assert found(index, text) == [("first", "first.tsv:2"), ("second", "second.txt:2")]
    (overlap, _) = index.find(fold(text))
    assert fold(text)[overlap.first : overlap.last] == (
        "the snow had melted, the two sisters walked down to the mill to ask for"
    )


def test_twelve_words_in_common_are_no_overlap(tmp_path: Path) -> None:
    index = opened(tmp_path, make(tmp_path))
    assert (
        found(index, "Well, the snow had melted the two sisters walked down to the mill again.")
        == []
    )


def test_a_short_item_counts_as_a_whole_sentence(tmp_path: Path) -> None:
    index = opened(tmp_path, make(tmp_path))
    wrapped = "It is so. my uncle keeps\neleven grey geese? Yes."
    assert found(index, "It is so. My uncle keeps eleven grey geese! Yes.") == [
        ("first", "first.tsv:3")
    ]
    assert found(index, "They say my uncle keeps eleven grey geese.") == []
    assert found(index, wrapped) == [("first", "first.tsv:3")]


def test_what_is_everybodys_is_not_looked_for(tmp_path: Path) -> None:
    index = opened(tmp_path, make(tmp_path))
    assert found(index, "Good morning.") == []
    lenient = opened(tmp_path, make(tmp_path, min_words=2))
    assert found(lenient, "Good morning!") == [("second", "second.txt:3")]


def test_scripts_without_spaces_are_compared_in_characters(tmp_path: Path) -> None:
    index = opened(tmp_path, make(tmp_path))
    text = "她说 「雪化了两个姐妹就走到磨坊去要她们的工钱，可是磨坊主人已经搬到城里」 别处。"
    assert found(index, text) == [("second", "second.txt:1")]
    assert found(index, "两个姐妹就走到磨坊去要她们的工钱。") == []


THAI = "พอหิมะละลายแล้วพี่น้องสองคนก็เดินไปที่โรงสีเพื่อขอค่าจ้างของพวกเธอแต่เจ้าของโรงสีย้ายเข้าไปอยู่ในเมืองนานแล้ว"


def test_letters_of_thai_say_less_than_characters_of_chinese(tmp_path: Path) -> None:
    config = make(tmp_path)
    (tmp_path / "second.txt").write_text(THAI)
    index = opened(tmp_path, config)
    assert found(index, f"เขาว่า {THAI[5:80]} จริงๆ") == [("second", "second.txt:1")]
    assert found(index, THAI[5:60]) == []


def test_summaries_say_what_was_taken(tmp_path: Path) -> None:
    opened(tmp_path, make(tmp_path))
    first, second = read_summaries(tmp_path / "index")
    assert (first.name, first.items, first.too_short, first.whole) == ("first", 6, 4, 1)
    assert (second.items, second.too_short, second.whole) == (3, 1, 0)
    assert first.ngrams == 6 + 1  # 18 words give 6 n-grams
    assert second.files == [str(tmp_path / "second.txt")]


def test_the_files_are_the_same_bytes_each_time(tmp_path: Path, monkeypatch: Any) -> None:
    config = make(tmp_path)
    prepare(config, tmp_path / "a", QUIET)
    monkeypatch.setattr(module, "_BATCH_CHARS", 10)
    prepare(config, tmp_path / "b", QUIET)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["bits.npy", "index.json", "items.npy", "keys.npy", "lines.npy"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_index_is_made_again_only_if_something_changed(tmp_path: Path) -> None:
    config = make(tmp_path)
    prepare(config, tmp_path / "index", QUIET)
    before = (tmp_path / "index" / "keys.npy").stat().st_mtime_ns
    prepare(config, tmp_path / "index", QUIET)
    assert (tmp_path / "index" / "keys.npy").stat().st_mtime_ns == before
    (tmp_path / "second.txt").write_text(SHORT + " And seven white ones, which nobody believes.\n")
    prepare(config, tmp_path / "index", QUIET)
    assert (tmp_path / "index" / "keys.npy").stat().st_mtime_ns != before
    assert found(open_index(config, tmp_path / "index"), CHINESE) == []


def test_an_index_that_was_not_finished_is_made_again(tmp_path: Path) -> None:
    config = make(tmp_path)
    prepare(config, tmp_path / "index", QUIET)
    (tmp_path / "index" / "index.json").unlink()
    (tmp_path / "index" / "keys.npy").write_bytes(b"half")
    assert found(opened(tmp_path, config), LONG) != []


def test_without_a_set_there_is_no_index(tmp_path: Path) -> None:
    prepare(make(tmp_path), tmp_path / "index", QUIET)
    off = DecontaminationConfig()
    prepare(off, tmp_path / "index", QUIET)
    assert not (tmp_path / "index").exists()
    assert decontamination_key(off) is None


def test_the_key_follows_settings_and_content(tmp_path: Path) -> None:
    key = decontamination_key(make(tmp_path))
    assert decontamination_key(make(tmp_path)) == key
    assert decontamination_key(make(tmp_path, ngram_words=12)) != key
    config = make(tmp_path)
    (tmp_path / "first.tsv").write_text("another\n")
    assert decontamination_key(config) != key


@pytest.mark.parametrize("content", ["", "\n\n", "a b\nyes\n"])
def test_a_set_with_nothing_to_look_for_is_one_line(tmp_path: Path, content: str) -> None:
    config = make(tmp_path)
    (tmp_path / "second.txt").write_text(content)
    with pytest.raises(UserError, match=r"evaluation_sets.1 \(second\): nothing to look for in"):
        prepare(config, tmp_path / "index", QUIET)
