"""The recipe's section on copies: off where it costs, on by an empty section, refused by name."""

from pathlib import Path

import pytest

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.config.load import load_config
from megaxlm.errors import UserError

RECIPE = "output: out\ncorpora: [{lang: en, paths: [x.txt]}]\n"


def load(folder: Path, text: str, *changes: str) -> DataBuildConfig:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE + text)
    return load_config(DataBuildConfig, path, list(changes))


def test_what_costs_is_off_by_default(tmp_path: Path) -> None:
    deduplication = load(tmp_path, "").deduplication
    assert deduplication.documents
    assert deduplication.lines is None and deduplication.near is None


def test_an_empty_section_switches_on_the_defaults(tmp_path: Path) -> None:
    deduplication = load(tmp_path, "deduplication: {lines: {}, near: {}}").deduplication
    assert deduplication.lines is not None and deduplication.near is not None
    assert deduplication.lines.max_documents == 1
    assert deduplication.near.num_permutations == 120


def test_a_value_on_the_command_line_switches_it_on_too(tmp_path: Path) -> None:
    near = load(tmp_path, "", "deduplication.near.threshold=0.7").deduplication.near
    assert near is not None and near.threshold == 0.7
    off = load(tmp_path, "deduplication: {near: {}}", "deduplication.near=null").deduplication
    assert off.near is None


def test_mistakes_are_one_line_that_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"deduplication\.near\.treshold"):
        load(tmp_path, "deduplication: {near: {treshold: 0.7}}")
    with pytest.raises(UserError, match="take more `bands` or fewer `rows_per_band`"):
        load(tmp_path, "deduplication: {near: {bands: 2, rows_per_band: 20}}")
    with pytest.raises(UserError, match=r"deduplication\.lines\.min_chars"):
        load(tmp_path, "deduplication: {lines: {min_chars: 0}}")


def test_recall_follows_the_bands(tmp_path: Path) -> None:
    near = load(tmp_path, "deduplication: {near: {}}").deduplication.near
    assert near is not None
    assert near.recall(1.0) == 1.0
    assert near.recall(0.8) == pytest.approx(0.9977, abs=1e-4)
    assert near.recall(0.5) == pytest.approx(0.27, abs=5e-3)
