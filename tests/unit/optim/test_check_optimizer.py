"""Which optimizers are refused with which layout, and on which machine."""

import shutil
import sys
from types import ModuleType

import deepspeed
import pytest
import torch
from deepspeed.git_version_info import installed_ops

from megaxlm.config.pretrain import OptimizerConfig, PretrainConfig
from megaxlm.errors import UserError
from megaxlm.optim.param_groups import parameter_groups
from megaxlm.optim.state import moment_names, reset_state, step_count
from megaxlm.testing import cpu_adam
from megaxlm.testing.models import tiny_model_config
from megaxlm.train.optimizer import build_optimizer, check_optimizer, share_step


def config(name: str, precision: str = "fp32") -> PretrainConfig:
    return PretrainConfig.model_validate(
        {
            "run_dir": "unused",
            "data": {"path": "unused"},
            "model": tiny_model_config().model_dump(),
            "optimizer": {"name": name},
            "training": {
                "max_steps": 1,
                "global_batch_size": 1,
                "micro_batch_size": 1,
                "precision": precision,
            },
        }
    )


@pytest.fixture
def apex(monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = ModuleType("apex"), ModuleType("apex.optimizers")
    for name in ("FusedAdam", "FusedLAMB"):
        setattr(module, name, type(name, (torch.optim.Optimizer,), {}))
    monkeypatch.setitem(sys.modules, "apex", package)
    monkeypatch.setitem(sys.modules, "apex.optimizers", module)


@pytest.mark.parametrize("name", ["adamw", "lamb", "stable_adamw", "muon"])
def test_ours_go_with_everything(name: str) -> None:
    for stage in range(4):
        for device in ("cuda", "cpu", None):
            for precision in ("fp32", "bf16"):
                check_optimizer(config(name, precision), stage, device, offload=stage > 0)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_apex_lamb_needs_whole_parameters(apex: None, stage: int) -> None:
    with pytest.raises(UserError, match=f"ZeRO stage {stage}.*optimizer.name: lamb"):
        check_optimizer(config("apex_lamb"), stage, "cuda", offload=False)
    check_optimizer(config("apex_lamb"), 0, "cuda", offload=False)


@pytest.mark.parametrize("name", ["apex_adam", "apex_lamb"])
def test_apex_needs_a_gpu(apex: None, name: str) -> None:
    with pytest.raises(UserError, match="runs on GPUs alone"):
        check_optimizer(config(name), 0, "cpu", offload=False)
    with pytest.raises(UserError, match="runs on GPUs alone"):
        check_optimizer(config("apex_adam"), 2, None, offload=True)


@pytest.mark.parametrize("name", ["apex_adam", "deepspeed_adam"])
def test_flat_masters_of_stage_0_in_bf16_are_refused(apex: None, name: str) -> None:
    with pytest.raises(UserError, match=r"stage 0 in bf16.*training\.zero_stage: 1"):
        check_optimizer(config(name, "bf16"), 0, "cuda", offload=False)
    check_optimizer(config(name, "bf16"), 1, "cuda", offload=False)
    check_optimizer(config(name, "fp32"), 0, "cuda", offload=False)


def test_deepspeed_adam_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(program: str) -> None:
        return None

    monkeypatch.setattr(shutil, "which", nothing)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"Adam for the CPU must be compiled.*c\+\+ and ninja"):
        check_optimizer(config("deepspeed_adam"), 2, "cuda", offload=True)
    with pytest.raises(UserError, match="fused Adam must be compiled"):
        check_optimizer(config("deepspeed_adam"), 2, "cuda", offload=False)
    with pytest.raises(UserError, match="optimizer.name: adamw"):
        group = {"params": [torch.nn.Parameter(torch.zeros(2))]}
        build_optimizer(OptimizerConfig(name="deepspeed_adam"), [group], torch.device("cpu"))
    monkeypatch.setitem(installed_ops, "cpu_adam", True)
    check_optimizer(config("deepspeed_adam"), 2, "cuda", offload=True)


def test_a_failed_build_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **settings: object) -> None:
        raise RuntimeError("cpu_adam op") from OSError("g++: fatal error:\nno space left")

    monkeypatch.setattr(deepspeed.ops.adam, "DeepSpeedCPUAdam", broken)
    monkeypatch.setitem(installed_ops, "cpu_adam", True)
    group = {"params": [torch.nn.Parameter(torch.zeros(2))]}
    with pytest.raises(UserError) as caught:
        build_optimizer(OptimizerConfig(name="deepspeed_adam"), [group], torch.device("cpu"))
    message = str(caught.value)
    assert "g++: fatal error: no space left" in message and "\n" not in message


@pytest.mark.skipif(
    not cpu_adam.is_compiled(), reason="DeepSpeed's Adam has not been compiled here"
)
def test_deepspeeds_adam_is_adamw() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(3, 1000, generator=generator)
    results = []
    for name in ("deepspeed_adam", "adamw"):
        weight = torch.nn.Parameter(first.clone())
        settings = OptimizerConfig(name=name, ema_decay=0.5)
        named = [("head.dense.weight", weight)]
        groups = parameter_groups(named, tiny_model_config(), settings)
        optimizer = build_optimizer(settings, groups, torch.device("cpu"))
        (group,) = optimizer.param_groups
        reset_state(optimizer, group, weight, 5)
        group["lr"] = 1e-2
        for step in range(3):
            seeded = torch.Generator().manual_seed(step)
            weight.grad = torch.randn(weight.shape, generator=seeded)
            optimizer.step()
        assert step_count(optimizer, group, weight) == 8
        state = optimizer.state[weight]
        results.append([weight.detach(), *(state[moment] for moment in moment_names(group))])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_fused_adam_counts_for_all_masters() -> None:
    """DeepSpeed's kernel for GPUs raises the count of a group's last master alone."""
    masters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    groups = [{"params": masters[:2]}, {"params": masters[2:]}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    for master, step in zip(masters, (4, 5, 9), strict=True):
        optimizer.state[master]["step"] = step
    optimizer.register_step_post_hook(share_step)
    optimizer.step()
    assert [optimizer.state[master]["step"] for master in masters] == [5, 5, 9]
