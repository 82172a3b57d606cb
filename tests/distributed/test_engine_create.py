"""Building an engine from a run's config: start-up, first weights, and refusals in one line."""

import json
import logging
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from megaxlm.checkpoint.writer import CheckpointWriter
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.data.shards import DatasetIndex, Subset
from megaxlm.distributed import environment
from megaxlm.errors import UserError
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.hf import write_hf_folder
from megaxlm.model.initialization import initialize
from megaxlm.testing.distributed import run_distributed
from megaxlm.testing.models import random_micro_batch, tiny_model_config

pytestmark = pytest.mark.distributed

INDEX = DatasetIndex("0" * 64, 203, tuple(Subset("train", (lang,), ()) for lang in "abc"))
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def config_of(world_size: int = 1, seed: int = 1, **settings: Any) -> PretrainConfig:
    training = {
        "max_steps": 10,
        "global_batch_size": 2 * world_size,
        "micro_batch_size": 2,
        "precision": "bf16",
        **settings.pop("training", {}),
    }
    return PretrainConfig.model_validate(
        {
            "run_dir": "unused",
            "seed": seed,
            "data": {"path": "unused", "seq_len": 16},
            "model": tiny_model_config().model_dump(),
            "training": training,
            **settings,
        }
    )


def weights_of(engine: Any) -> dict[str, torch.Tensor]:
    return {
        fragment.name.removeprefix("model/"): fragment.tensor.clone().view(fragment.shape)
        for fragment in engine.fragments()
        if fragment.name.startswith("model/")
    }


def start_without_a_launcher(folder: Path) -> dict[str, Any]:
    import deepspeed
    import torch.distributed as dist

    from megaxlm.train import backend
    from megaxlm.train.engine import TrainingEngine

    for name in LAUNCHER_VARIABLES:
        os.environ.pop(name, None)
    backend.TIMEOUT = timedelta(minutes=7)  # not what torch gives every group
    place = environment.discover()
    place.export()
    started = time.perf_counter()
    engine = TrainingEngine.create(config_of(), INDEX, place)
    engine.load_initial()
    seconds = time.perf_counter() - started
    result = engine.train_step([random_micro_batch(0)], 1e-3)
    groups = list(dist.distributed_c10d._world.pg_map)
    answer = {
        "launcher": place.launcher,
        "seconds": seconds,
        "loss": result.loss,
        "languages": result.language_targets.sum().item(),
        "groups": len(groups),
        "timeouts": {group._get_backend(torch.device("cpu")).options._timeout for group in groups},
        "expected_timeout": backend.TIMEOUT,
        "compiled": deepspeed.ops.__compatible_ops__[backend.SHARED_MEMORY_OP],
        "level": logging.getLogger("DeepSpeed").level,
        "extensions": sorted(path.name for path in folder.rglob("*.so")),
    }
    engine.close()
    answer["initialized_after_close"] = dist.is_initialized()
    return answer


def timeouts_of_a_pipeline() -> dict[str, Any]:
    """Returns the timeouts of all groups of a rank after a step and an evaluation."""
    import torch.distributed as dist

    from megaxlm.train import backend
    from megaxlm.train.create import create_engine

    place = environment.discover()
    backend.TIMEOUT = timedelta(minutes=7)  # not what torch gives every group
    config = config_of(2, training={"pipeline_stages": 2, "zero_stage": 1})
    engine = create_engine(config, INDEX, place)
    engine.load_initial()
    batch = random_micro_batch(engine.grid.data_rank)
    engine.train_step([batch], 1e-3)
    engine.forward_module.eval()
    engine.forward_module(
        batch.tokens,
        batch.positions,
        batch.cu_seqlens,
        batch.target_index,
        batch.targets,
        batch.target_weight,
        batch.seq_len,
    )
    groups = dist.distributed_c10d._world.pg_map
    cpu = torch.device("cpu")
    answer = {
        "sizes": sorted(group.size() for group in groups),
        "timeouts": {group._get_backend(cpu).options._timeout for group in groups},
        "expected": backend.TIMEOUT,
    }
    engine.close()
    return answer


def first_weights(configs: list[PretrainConfig]) -> list[dict[str, torch.Tensor] | str]:
    """Returns the masters before the first step, or the message of the refusal."""
    from megaxlm.train.engine import TrainingEngine

    place = environment.discover()
    results: list[dict[str, torch.Tensor] | str] = []
    for config in configs:
        try:
            engine = TrainingEngine.create(config, INDEX, place)
        except UserError as error:
            results.append(str(error))
            continue
        engine.load_initial()
        results.append(weights_of(engine) if place.world_size == 1 else "built")
        engine.close(disconnect_ranks=False)
    return results


def test_start_without_a_launcher(tmp_path: Path) -> None:
    (answer,) = run_distributed(
        start_without_a_launcher, 1, tmp_path, env={"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    )
    assert answer["launcher"] == "single"
    assert answer["loss"] > 0 and answer["languages"] == 7  # 8 targets, one of weight 0
    # Nothing was compiled for a run on the CPU, which takes minutes.
    assert answer["compiled"] is False and answer["extensions"] == []
    assert answer["seconds"] < 30
    assert answer["groups"] > 1 and answer["timeouts"] == {answer["expected_timeout"]}
    assert answer["level"] == logging.ERROR
    assert answer["initialized_after_close"] is False


def test_every_group_of_a_pipeline_has_our_timeout() -> None:
    for answer in run_distributed(timeouts_of_a_pipeline, 4):
        # The world, this rank's replica and its stage, at least.
        assert answer["sizes"].count(2) >= 2 and 4 in answer["sizes"]
        assert answer["timeouts"] == {answer["expected"]}


def test_first_weights_come_from_the_seed_or_from_init_from(tmp_path: Path) -> None:
    model = MaskedLanguageModel(tiny_model_config())
    initialize(model, model.config, seed=77)
    state = {name: value.detach().clone() for name, value in model.named_parameters()}
    hf = tmp_path / "hf"
    write_hf_folder(hf, model.config, state, None)
    from megaxlm.checkpoint.fragments import Fragment

    fragments = [
        Fragment(f"model/{name}", tuple(value.shape), 0, value.reshape(-1))
        for name, value in state.items()
    ]
    run = tmp_path / "run"
    checkpoint = CheckpointWriter(run).save(0, fragments, {}, {"model": {}})
    configs = [config_of(seed=77), config_of(seed=78)]
    configs += [config_of(init_from=source) for source in (hf, run, checkpoint)]
    (found,) = run_distributed(first_weights, 1, configs)
    seeded, other, *given = found
    for name, value in state.items():
        # In bf16 the masters are the fp32 values, not what bf16 made of them.
        assert torch.equal(seeded[name], value), name
        for weights in given:
            torch.testing.assert_close(weights[name], value, rtol=0, atol=0, msg=name)
    assert not torch.equal(
        other["layers.0.attention.output.weight"], seeded["layers.0.attention.output.weight"]
    )


def test_refusals_are_one_line_on_every_rank(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({"zero_optimization": {"stage": 2, "reduce_bucket_size": "many"}}))
    odd = tmp_path / "odd.json"
    odd.write_text(json.dumps({"gradient_allreduce_op": "median"}))
    wider = MaskedLanguageModel(tiny_model_config(hidden_size=32))
    initialize(wider, wider.config, seed=0)
    hf = tmp_path / "hf"
    write_hf_folder(hf, wider.config, dict(wider.named_parameters()), None)
    configs = [
        config_of(2, training={"deepspeed_config": bad}),
        config_of(2, training={"deepspeed_config": odd}),
        config_of(2, training={"global_batch_size": 6, "micro_batch_size": 2}),
        config_of(2, init_from=hf),
        config_of(2, init_from=tmp_path / "nothing"),
        config_of(2),
    ]
    ranks = run_distributed(first_weights, 2, configs)
    assert ranks[0] == ranks[1]
    bucket, operation, batch, shape, missing, good = ranks[0]
    assert f"{bad}: DeepSpeed refuses `reduce_bucket_size`" in bucket
    assert f"{odd}: DeepSpeed refuses it: Invalid gradient_allreduce_op" in operation
    assert "training.global_batch_size 6 is not a multiple" in batch
    assert str(hf) in shape and "24" in shape and "32" in shape
    assert f"{tmp_path / 'nothing'}: no such folder" in missing
    assert good == "built"
    assert all("\n" not in message for message in ranks[0])
