"""A wrong config ends with one line that names file, line, key and what would be right."""

from pathlib import Path

import pytest
import yaml

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.config.load import dump_config, load_config
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.errors import UserError

GOOD = """\
run_dir: runs/a
data:
  path: data/a
  languages: [en, no]
training:
  max_steps: 10
  global_batch_size: 8
  micro_batch_size: 4
optimizer: {lr: 1e-4}
"""


def load(tmp_path: Path, text: str = GOOD, overrides: tuple[str, ...] = ()) -> PretrainConfig:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return load_config(PretrainConfig, path, overrides)


def problem(tmp_path: Path, text: str = GOOD, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text, overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def test_values_and_defaults(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.optimizer.lr == 1e-4
    assert config.training.max_steps == 10
    assert config.data.sampling_alpha == 0.3


def test_norwegian_is_a_language_and_not_false(tmp_path: Path) -> None:
    assert load(tmp_path).data.languages == ["en", "no"]


def test_overrides_reach_nested_keys_lists_and_absent_sections(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        GOOD + "objectives:\n  - {name: mlm}\n  - {name: tlm}\n",
        ("objectives.1.weight=3", "model.hidden_size=96", "data.languages=[de]"),
    )
    assert config.objectives[1].weight == 3
    assert config.model.hidden_size == 96
    assert config.data.languages == ["de"]


def test_unknown_key_names_file_line_and_nearest(tmp_path: Path) -> None:
    message = problem(tmp_path, GOOD.replace("max_steps", "max_stpes"))
    assert "run.yaml:6" in message
    assert "`training.max_stpes`" in message
    assert "`max_steps`" in message


def test_unknown_key_inside_a_list(tmp_path: Path) -> None:
    message = problem(tmp_path, GOOD + "objectives:\n  - {name: mlm, wieght: 2}\n")
    assert "`objectives.0.wieght`" in message and "`weight`" in message


def test_wrong_type_names_line_and_value(tmp_path: Path) -> None:
    message = problem(tmp_path, GOOD.replace("max_steps: 10", "max_steps: many"))
    assert "run.yaml:6" in message and "`training.max_steps`" in message and "'many'" in message


def test_wrong_override_names_the_override(tmp_path: Path) -> None:
    message = problem(tmp_path, GOOD, ("training.max_steps=-1",))
    assert "--set training.max_steps=-1" in message


@pytest.mark.parametrize("override", ["nonsense", "objectives.5.name=mlm", "seed.deep.er=1"])
def test_override_that_leads_nowhere(tmp_path: Path, override: str) -> None:
    assert override in problem(tmp_path, GOOD, (override,))


def test_missing_key(tmp_path: Path) -> None:
    assert "`run_dir` is required" in problem(tmp_path, GOOD.replace("run_dir: runs/a\n", ""))


def test_key_given_twice(tmp_path: Path) -> None:
    message = problem(tmp_path, GOOD + "seed: 1\nseed: 2\n")
    assert "run.yaml:11" in message and "seed" in message and "twice" in message


def test_missing_file_names_the_near_one(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(GOOD)
    with pytest.raises(UserError, match=r"bsae\.yaml.*did you mean .*base\.yaml"):
        load_config(PretrainConfig, tmp_path / "bsae.yaml")


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    assert "run.yaml:3" in problem(tmp_path, "a: 1\nb: [1, 2\nc: 3\n")


def test_heads_must_divide(tmp_path: Path) -> None:
    message = problem(tmp_path, GOOD, ("model={hidden_size: 100, num_attention_heads: 12}",))
    assert "100" in message and "12" in message


def test_dump_is_complete_and_loads_again(tmp_path: Path) -> None:
    config = load(tmp_path)
    text = dump_config(config)
    assert yaml.safe_load(text)["schedule"]["name"] == "linear"
    again = tmp_path / "again.yaml"
    again.write_text(text)
    assert load_config(PretrainConfig, again) == config


@pytest.mark.parametrize(
    ("bitext", "said"),
    [
        ("{langs: [en, en], tsv: [a]}", "two different languages"),
        ("{langs: [en, fr]}", "either `paths`"),
        ("{langs: [en, fr], source: [a, b], target: [c]}", "2 files"),
    ],
)
def test_bitext_forms(tmp_path: Path, bitext: str, said: str) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(f"output: out\nbitext:\n  - {bitext}\n")
    with pytest.raises(UserError, match=said):
        load_config(DataBuildConfig, path)


def test_a_recipe_without_sources_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text("output: out\n")
    with pytest.raises(UserError, match="corpora"):
        load_config(DataBuildConfig, path)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=-1", "`seed`"),
        ("optimizer.betas=[0.9, 1.5]", "optimizer.betas.1"),
    ],
)
def test_values_that_torch_or_numpy_would_refuse_later(
    tmp_path: Path, override: str, said: str
) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, overrides=(override,))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.pipeline_stages=0", "`training.pipeline_stages`"),
        ("optimizer.name=adam", "`optimizer.name`"),
        ("optimizer.layer_lr_decay=0", "`optimizer.layer_lr_decay`"),
        ("optimizer.ema_decay=1", "`optimizer.ema_decay`"),
        ("optimizer.muon_momentum=1", "`optimizer.muon_momentum`"),
        ("model.activation_checkpointing=-1", "`model.activation_checkpointing"),
        ("model.activation_checkpointing=some", "`model.activation_checkpointing"),
        ("data.skip_rows=[[5, 5]]", "skip_rows: [5, 5) is not a range of rows"),
        ("data.skip_rows=[[-1, 5]]", "skip_rows: [-1, 5) is not a range of rows"),
        ("checkpoint.retry_seconds=-1", "`checkpoint.retry_seconds`"),
        ("faults.straggler_ratio=1", "`faults.straggler_ratio`"),
        ("faults.spike_window=4", "`faults.spike_window`"),
        ("faults.max_rollbacks=-1", "`faults.max_rollbacks`"),
        ("faults.heartbeat=9", "did you mean `heartbeat_seconds`?"),
        (
            "training.batch_size_warmup=[{until_tokens: 9, global_batch_size: 8}]",
            "smaller than training.global_batch_size 8, got [8]",
        ),
        (
            "training.batch_size_warmup=[{until_tokens: 9, global_batch_size: 4}, "
            "{until_tokens: 9, global_batch_size: 6}]",
            "increasing until_tokens",
        ),
        (
            "training.batch_size_warmup=[{until_tokens: 8, global_batch_size: 4}, "
            "{until_tokens: 9, global_batch_size: 2}]",
            "larger than the one before it",
        ),
    ],
)
def test_what_a_layout_an_optimizer_or_a_watch_cannot_be(
    tmp_path: Path, override: str, said: str
) -> None:
    assert said in problem(tmp_path, GOOD, (override,))


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("training.pipeline_stages=4", "training", "pipeline_stages", 4),
        ("model.activation_checkpointing=true", "model", "activation_checkpointing", True),
        ("model.activation_checkpointing=0", "model", "activation_checkpointing", False),
        ("model.activation_checkpointing=1", "model", "activation_checkpointing", 1),
        ("data.skip_rows=[[0, 8], [16, 24]]", "data", "skip_rows", [(0, 8), (16, 24)]),
        ("optimizer.ema_decay=0.999", "optimizer", "ema_decay", 0.999),
        ("faults.replica_check_steps=null", "faults", "replica_check_steps", None),
        ("faults.spike_sigma=null", "faults", "spike_sigma", None),
        ("checkpoint.asynchronous=false", "checkpoint", "asynchronous", False),
    ],
)
def test_what_they_can_be(
    tmp_path: Path, override: str, section: str, key: str, value: object
) -> None:
    given = getattr(getattr(load(tmp_path, overrides=(override,)), section), key)
    assert given == value and type(given) is type(value)


@pytest.mark.parametrize("value", ["!thing 1", "!!int a", "!!python/name:os.system"])
def test_a_yaml_tag_is_one_line(tmp_path: Path, value: str) -> None:
    with pytest.raises(UserError, match=r"run\.yaml:10: seed") as caught:
        load(tmp_path, GOOD + f"seed: {value}\n")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "objectives", ["[]", "[{name: mlm}, {name: mlm, weight: 3}]"], ids=["empty", "twice"]
)
def test_objectives_of_a_curriculum_phase_are_checked(tmp_path: Path, objectives: str) -> None:
    phase = f"data.curriculum=[{{from_tokens: 9, objectives: {objectives}}}]"
    assert "data.curriculum.0" in problem(tmp_path, GOOD, (phase,))


@pytest.mark.parametrize("lang", ["swh_Latn", "hi_rom", "zh-Hant", "en"])
def test_language_codes_of_known_corpora(tmp_path: Path, lang: str) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(f"output: out\ncorpora:\n  - {{lang: {lang}, paths: [a.txt]}}\n")
    assert load_config(DataBuildConfig, path).corpora[0].lang == lang
