"""`megaxlm export --weights ema`: the average that the optimizer kept, as a Hugging Face folder."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from megaxlm import cli
from megaxlm.checkpoint.fragments import whole
from megaxlm.checkpoint.resolve import load_weights
from megaxlm.checkpoint.writer import CheckpointWriter
from megaxlm.config.pretrain import OptimizerConfig
from megaxlm.data.tokenizer import Tokenizer
from megaxlm.errors import UserError
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.hf import read_hf_folder
from megaxlm.model.initialization import initialize
from megaxlm.optim.param_groups import parameter_groups
from megaxlm.optim.state import moment_names
from megaxlm.testing.models import tiny_model_config
from megaxlm.train.optimizer import build_optimizer

DECAY = 0.75


def train(run_dir: Path, tokenizer_dir: Path, steps: int) -> tuple[dict[str, Tensor], ...]:
    """Trains on random gradients and saves; returns the weights and their average by hand."""
    shutil.copytree(tokenizer_dir, run_dir / "tokenizer")
    tokenizer = Tokenizer(tokenizer_dir / "sentencepiece.bpe.model")
    config = tiny_model_config(vocab_size=tokenizer.vocab_size)
    model = MaskedLanguageModel(config)
    initialize(model, config, seed=1)
    named = dict(model.named_parameters())
    settings = OptimizerConfig(ema_decay=DECAY)
    groups = parameter_groups(named.items(), config, settings)
    optimizer = build_optimizer(settings, groups, torch.device("cpu"))
    averages: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(2)
    for step in range(steps):
        for parameter in named.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = 0.05
        optimizer.step()
        for name, parameter in named.items():
            weights = parameter.detach().double()
            before = weights if step == 0 else averages[name]
            averages[name] = DECAY * before + (1 - DECAY) * weights
    fragments = [whole(f"model/{name}", parameter) for name, parameter in named.items()]
    names = {parameter: name for name, parameter in named.items()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for moment in moment_names(group):
                value = optimizer.state[parameter].get(moment, torch.zeros_like(parameter))
                fragments.append(whole(f"{moment}/{names[parameter]}", value))
    shared = {
        "model": config.model_dump(mode="json"),
        "tokenizer_sha256": tokenizer.sha256,
        "config": {},
        "optimizer_step": steps,
    }
    CheckpointWriter(run_dir).save(steps, fragments, {}, shared)
    return {name: parameter.detach() for name, parameter in named.items()}, averages


def test_the_average_is_exported(tokenizer_dir: Path, tmp_path: Path) -> None:
    weights, averages = train(tmp_path / "run", tokenizer_dir, steps=4)
    run, plain, averaged = (str(tmp_path / name) for name in ("run", "plain", "averaged"))
    assert cli.main(["export", run, plain]) == 0
    assert cli.main(["export", run, averaged, "--weights", "ema"]) == 0
    _, found = read_hf_folder(Path(averaged))
    _, last = read_hf_folder(Path(plain))
    assert found.keys() == last.keys() == weights.keys()
    for name, weight in weights.items():
        assert torch.equal(last[name], weight), name
        torch.testing.assert_close(found[name].double(), averages[name], rtol=1e-6, atol=1e-7)
        assert float((found[name] - weight).abs().max()) > 1e-3, name
    assert (Path(averaged) / "tokenizer.json").is_file()


def test_without_averages_the_message_says_so(
    make_run: Callable[..., Path], tokenizer_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"no averaged weights here.*optimizer\.ema_decay"):
        load_weights(make_run(), averaged=True)
    train(tmp_path / "early", tokenizer_dir, steps=0)
    with pytest.raises(UserError, match="no averaged weights yet"):
        load_weights(tmp_path / "early", averaged=True)
    assert load_weights(tmp_path / "early").parameters
    cli.main(["export", str(tmp_path / "early"), str(tmp_path / "hf")])
    with pytest.raises(UserError, match="a Hugging Face folder holds no averaged weights"):
        load_weights(tmp_path / "hf", averaged=True)
