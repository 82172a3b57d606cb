"""Every file under configs/ is complete, and DeepSpeed's own config classes accept it."""

from pathlib import Path
from typing import Any

import pytest

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.config.deepspeed import deepspeed_config_of, load_deepspeed_config
from megaxlm.config.layout import working_processes
from megaxlm.config.load import load_config
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.train.check import validate_by_deepspeed

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
PRESETS = sorted((CONFIGS / "deepspeed").glob("*.json"))
RUNS = sorted((CONFIGS / "pretrain").glob("*.yaml"))
BUCKETS = ("reduce_bucket_size", "allgather_bucket_size", "stage3_prefetch_bucket_size")


def run(path: Path, **training: Any) -> PretrainConfig:
    settings = {"max_steps": 10, "global_batch_size": 64, "micro_batch_size": 4, **training}
    return PretrainConfig.model_validate(
        {
            "run_dir": "r",
            "data": {"path": "d"},
            "training": {**settings, "deepspeed_config": path},
        }
    )


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_deepspeed_accepts_every_preset(path: Path, precision: str) -> None:
    stages = 4 if path.stem == "pipeline" else 1
    config = deepspeed_config_of(run(path, precision=precision, pipeline_stages=stages), 16)
    validate_by_deepspeed(config, str(path))
    zero = config["zero_optimization"]
    if zero["stage"] > 0:
        assert config["data_types"]["grad_accum_dtype"] == "fp32"
        assert config["zero_allow_untested_optimizer"]


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_pin_their_buckets(path: Path) -> None:
    zero = load_deepspeed_config(path)["zero_optimization"]
    pinned = {0: 0, 1: 2, 2: 2, 3: 2}[zero["stage"]]
    assert sum(key in zero for key in BUCKETS) == pinned


def test_presets_are_what_their_names_say() -> None:
    zero = {path.stem: load_deepspeed_config(path)["zero_optimization"] for path in PRESETS}
    assert {name for name, keys in zero.items() if "offload_optimizer" in keys} == {
        "zero2-offload",
        "zero3-offload",
    }
    assert zero["zero3-offload"]["offload_param"] == {"device": "cpu", "pin_memory": True}
    assert zero["zero3-hpz"]["zero_hpz_partition_size"] == 8
    assert {name for name, keys in zero.items() if keys.get("overlap_comm")} == {
        "zero2-overlap",
        "zero3-overlap",
        "zero3-hpz",
    }
    assert zero["pipeline"]["stage"] == 1
    # torch's fused AdamW updates what is offloaded: nothing is compiled for minutes at the start.
    for path in PRESETS:
        if "offload" in path.stem:
            assert load_deepspeed_config(path)["zero_force_ds_cpu_optimizer"] is False


def test_every_preset_stands_in_the_readme() -> None:
    text = (CONFIGS / "deepspeed" / "README.md").read_text()
    assert [path.name for path in PRESETS if f"`{path.name}`" not in text] == []


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_run_can_be_laid_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)  # the files name DeepSpeed's as seen from there
    config = load_config(PretrainConfig, path)
    counts = working_processes(config)
    assert counts[0] == config.training.pipeline_stages
    for processes in (counts[0], counts[-1]):
        validate_by_deepspeed(deepspeed_config_of(config, processes), str(path))


@pytest.mark.parametrize(
    "path", sorted((CONFIGS / "data").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_data_recipe_is_valid(path: Path) -> None:
    assert load_config(DataBuildConfig, path).output
