"""The model by kernels equals the model by torch: their CPU implementations stand in for them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from megaxlm_kernels.library import choose_implementation

from megaxlm.config.pretrain import ModelConfig, PretrainConfig
from megaxlm.data.batch import MicroBatch
from megaxlm.errors import UserError
from megaxlm.model.dropout_key import DropoutKey
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.fused import use_kernels
from megaxlm.model.initialization import initialize
from megaxlm.testing.models import join_micro_batches, random_micro_batch, tiny_model_config
from megaxlm.train.kernels import kernels_of

SEQ_LEN = 16


@pytest.fixture(scope="module", autouse=True)
def library() -> None:
    builds = Path(__file__).resolve().parents[3] / "build" / "kernels"
    os.environ["MEGAXLM_KERNELS_DIR"] = str(builds)
    assert choose_implementation("cuda", "cpu") == "cuda"


def config_of(pre_norm: bool, dropout: float = 0.0, **changes: object) -> ModelConfig:
    config = tiny_model_config(num_hidden_layers=3, dropout=dropout, pre_norm=pre_norm)
    return config.model_copy(update={"intermediate_size": 48, **changes})


def model_of(config: ModelConfig, implementation: str, dtype: torch.dtype) -> MaskedLanguageModel:
    model = MaskedLanguageModel(config).train()
    initialize(model, config, 3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # zeros and ones would hide what is left out
                parameter += 0.1 * torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(len(name))
                )
    use_kernels(model, implementation)  # type: ignore[arg-type]
    return model.to(dtype)


def train(
    model: MaskedLanguageModel, batch: MicroBatch, key: DropoutKey | None = None
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss, losses = model(
        batch.tokens,
        batch.positions,
        batch.cu_seqlens,
        batch.target_index,
        batch.targets,
        batch.target_weight,
        SEQ_LEN,
        key,
    )
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), losses, gradients


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("checkpointing", [False, 2])
def test_a_step_agrees(pre_norm: bool, tied: bool, checkpointing: bool | int) -> None:
    config = config_of(pre_norm, tie_word_embeddings=tied, activation_checkpointing=checkpointing)
    batch = random_micro_batch(4, rows=5)
    loss, losses, gradients = train(model_of(config, "cuda", torch.float32), batch)
    expected = train(model_of(config, "torch", torch.float32), batch)
    torch.testing.assert_close(loss, expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(losses, expected[1], rtol=1e-5, atol=1e-6)
    assert gradients.keys() == expected[2].keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[2][name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_a_step_in_bf16_errs_no_more(pre_norm: bool) -> None:
    config, batch = config_of(pre_norm), random_micro_batch(4, rows=5)
    exact = train(
        model_of(config, "torch", torch.float64),
        replace(batch, target_weight=batch.target_weight.double()),
    )
    errors = {}
    for implementation in ("torch", "cuda"):
        loss, _, gradients = train(model_of(config, implementation, torch.bfloat16), batch)
        assert abs(float(loss) / float(exact[0]) - 1) < 1e-2
        difference = [(g.double() - exact[2][name]).norm() for name, g in gradients.items()]
        errors[implementation] = float(torch.stack(difference).norm())
    assert errors["cuda"] < 1.1 * errors["torch"]


@pytest.mark.parametrize("pre_norm", [False, True])
def test_dropout_of_kernels_is_keyed_by_row_too(pre_norm: bool) -> None:
    model = model_of(config_of(pre_norm, dropout=0.3), "cuda", torch.float32)
    parts = [random_micro_batch(seed, rows=rows) for seed, rows in ((5, 1), (6, 3), (9, 2))]

    def losses(batch: MicroBatch, seed: int = 7) -> torch.Tensor:
        return train(model, batch, DropoutKey.of(seed, batch.row_ids, SEQ_LEN))[1]

    whole = losses(join_micro_batches(parts))
    alone = torch.cat([losses(part) for part in parts])
    torch.testing.assert_close(alone, whole, rtol=0, atol=3e-6)
    assert float((losses(join_micro_batches(parts), 8) - whole).abs().max()) > 1e-3


def test_without_a_key_dropout_follows_torch_and_evaluation_drops_nothing() -> None:
    model = model_of(config_of(False, dropout=0.3), "cuda", torch.float32)
    batch = random_micro_batch(4)
    torch.manual_seed(1)
    first, second = (train(model, batch)[0] for _ in range(2))
    torch.manual_seed(1)
    assert float(train(model, batch)[0]) == float(first) != float(second)
    model.eval()
    plain = model_of(config_of(False, dropout=0.3), "torch", torch.float32).eval()
    arguments = (batch.tokens, batch.positions, batch.cu_seqlens, batch.target_index, SEQ_LEN)
    torch.testing.assert_close(model.logits(*arguments), plain.logits(*arguments))


def run_config(**training: object) -> PretrainConfig:
    return PretrainConfig.model_validate(
        {
            "run_dir": "unused",
            "data": {"path": "unused", "seq_len": 16},
            "model": config_of(False).model_dump(),
            "training": {
                "max_steps": 1,
                "global_batch_size": 1,
                "micro_batch_size": 1,
                **training,
            },
        }
    )


def test_what_a_run_asks_for_is_what_it_gets() -> None:
    cpu = torch.device("cpu")
    assert kernels_of(run_config(), cpu) == "torch"
    assert kernels_of(run_config(kernels="auto"), cpu) == "torch"
    assert kernels_of(run_config(kernels="cuda"), cpu) == "cuda"
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="^training.kernels cuda: .*training.kernels: torch"):
            kernels_of(run_config(kernels="cuda"), torch.device("cuda"))


def test_sizes_that_kernels_do_not_take_are_refused() -> None:
    config = run_config().model_dump()
    config["model"]["intermediate_size"] = 49
    PretrainConfig.model_validate(config)
    config["training"]["kernels"] = "auto"
    with pytest.raises(ValueError, match="training.kernels auto takes multiples of 8, but model.i"):
        PretrainConfig.model_validate(config)
