"""The packed encoder: segments apart, ties tied, losses in fp32, values from names alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from megaxlm.config.pretrain import ModelConfig
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.flops import training_flops
from megaxlm.model.initialization import initial_value, initialize

FAMILIES = pytest.mark.parametrize("model_type", ["xlm-roberta", "xlm-roberta-xl"])
SEQ_LEN = 32


def small_config(model_type: str = "xlm-roberta", **changes: object) -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "model_type": model_type,
            "vocab_size": 83,
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 40,
            "max_position_embeddings": SEQ_LEN + 2,
            **changes,
        }
    )


def make_model(config: ModelConfig, seed: int = 1) -> MaskedLanguageModel:
    model = MaskedLanguageModel(config)
    initialize(model, config, seed)
    return model


def make_batch() -> tuple[Tensor, ...]:
    """Two rows of 32 in segments of 20, 12, 32, with six targets."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, 83, (64,), generator=generator)
    positions = torch.cat([torch.arange(20), torch.arange(12), torch.arange(32)])
    cu_seqlens = torch.tensor([0, 20, 32, 64, 64, 64], dtype=torch.int32)
    index = torch.tensor([1, 8, 19, 20, 40, 63])
    targets = torch.tensor([5, 80, 33, 4, 82, 17])
    weight = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    return tokens, positions, cu_seqlens, index, targets, weight


@FAMILIES
def test_a_segment_is_computed_as_if_it_were_alone(model_type: str) -> None:
    model = make_model(small_config(model_type)).double().eval()
    tokens, positions, cu_seqlens, *_ = make_batch()
    together = model.hidden_states(tokens, positions, cu_seqlens, SEQ_LEN)
    for start, end in ((0, 20), (20, 32), (32, 64)):
        bounds = torch.tensor([0, end - start], dtype=torch.int32)
        alone = model.hidden_states(tokens[start:end], positions[start:end], bounds, SEQ_LEN)
        for packed, single in zip(together, alone, strict=True):
            torch.testing.assert_close(packed[start:end], single, rtol=1e-9, atol=1e-9)


@FAMILIES
def test_the_loss_is_the_weighted_mean_over_all_targets(model_type: str) -> None:
    model = make_model(small_config(model_type)).eval()
    tokens, positions, cu_seqlens, index, targets, weight = make_batch()
    loss, losses = model(tokens, positions, cu_seqlens, index, targets, weight, SEQ_LEN)
    logits = model.logits(tokens, positions, cu_seqlens, index, SEQ_LEN)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(losses, expected.detach())
    torch.testing.assert_close(loss, expected[:5].sum() / 6)  # the last has weight 0
    assert loss.requires_grad and not losses.requires_grad


@FAMILIES
def test_the_last_layer_loses_nothing_by_running_on_the_targets(model_type: str) -> None:
    """Values and gradients equal those of a head that reads all hidden states."""
    model = make_model(small_config(model_type)).double().eval()
    tokens, positions, cu_seqlens, index, targets, _ = make_batch()
    index[2] = index[1]  # a position may be predicted twice
    hidden = model.hidden_states(tokens, positions, cu_seqlens, SEQ_LEN)[-1]
    expected = torch.nn.functional.cross_entropy(model.head.logits(hidden[index]), targets)
    weight = torch.ones(6, dtype=torch.float64)
    loss, _ = model(tokens, positions, cu_seqlens, index, targets, weight, SEQ_LEN)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, list(model.parameters())),
        torch.autograd.grad(expected, list(model.parameters())),
    )


@FAMILIES
def test_in_bf16_the_loss_is_fp32(model_type: str) -> None:
    config = small_config(model_type, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    exact, *_ = make_model(config)(*make_batch(), SEQ_LEN)
    model = make_model(config).bfloat16()
    loss, losses = model(*make_batch(), SEQ_LEN)
    loss.backward()
    assert loss.dtype == losses.dtype == torch.float32
    assert abs(loss - exact) < 0.02
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(g is not None and g.dtype == torch.bfloat16 for g in gradients)


@FAMILIES
def test_activation_checkpointing_changes_nothing(model_type: str) -> None:
    plain = make_model(small_config(model_type))
    recomputed = make_model(small_config(model_type, activation_checkpointing=True))
    results = []
    for model in (plain, recomputed):
        torch.manual_seed(5)  # dropout is on, and recomputed as it was
        loss, _ = model(*make_batch(), SEQ_LEN)
        loss.backward()
        results.append((loss, [parameter.grad for parameter in model.parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    for one, other in zip(results[0][1], results[1][1], strict=True):
        assert torch.equal(one, other)


def test_dropout_is_on_in_training_alone() -> None:
    model = make_model(small_config())
    first, second = (model(*make_batch(), SEQ_LEN)[0] for _ in range(2))
    assert not torch.equal(first, second)
    model.eval()
    first, second = (model(*make_batch(), SEQ_LEN)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_tied_weights_are_one_parameter_in_two_modules() -> None:
    tied = make_model(small_config())
    assert tied.head.decoder.weight is tied.embeddings.word.weight
    assert "head.decoder.weight" not in dict(tied.named_parameters())
    untied = make_model(small_config(tie_word_embeddings=False))
    parameters = dict(untied.named_parameters())
    assert parameters["head.decoder.weight"] is not parameters["embeddings.word.weight"]
    assert parameters.keys() - dict(tied.named_parameters()).keys() == {"head.decoder.weight"}


@FAMILIES
def test_every_parameter_learns(model_type: str) -> None:
    model = make_model(small_config(model_type))
    model(*make_batch(), SEQ_LEN)[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@FAMILIES
def test_initial_values_follow_names_and_seed_alone(model_type: str) -> None:
    config = small_config(model_type, initializer_range=0.05)
    torch.manual_seed(1)
    model = make_model(config, seed=3)
    torch.manual_seed(2)
    other = make_model(config, seed=3)
    different = dict(make_model(config, seed=4).named_parameters())
    deeper = dict(make_model(small_config(model_type, num_hidden_layers=3), 3).named_parameters())
    seen: set[float] = set()
    for (name, parameter), (_, twin) in zip(
        model.named_parameters(), other.named_parameters(), strict=True
    ):
        assert torch.equal(parameter, twin), name
        assert torch.equal(parameter, initial_value(name, parameter.shape, config, 3))
        if "norm.weight" in name:
            assert (parameter == 1).all()
        elif name.endswith("bias"):
            assert (parameter == 0).all()
        else:
            assert abs(float(parameter.detach().std()) - 0.05) < 0.005, name
            assert not torch.equal(parameter, different[name])
            assert float(parameter.flatten()[0].detach()) not in seen  # no two share a stream
            seen.add(float(parameter.flatten()[0].detach()))
            torch.testing.assert_close(deeper[name] / 0.02, parameter / 0.05)
    with pytest.raises(ValueError, match="no initial value for a parameter named 'scale'"):
        initial_value("scale", (3,), config, 0)


def test_parameters_are_loaded_whole_or_not_at_all() -> None:
    model = make_model(small_config())
    state = {
        name: p.detach().clone() for name, p in make_model(small_config(), 9).named_parameters()
    }
    model.load_parameters(state)
    assert all(torch.equal(p, state[name]) for name, p in model.named_parameters())
    with pytest.raises(ValueError, match=r"head\.dense\.bias is \(24,\), the given one \(3,\)"):
        model.load_parameters({**state, "head.dense.bias": torch.zeros(3)})
    with pytest.raises(ValueError, match="missing or unknown: extra"):
        model.load_parameters({**state, "extra": torch.zeros(3)})


def test_unresolved_configs_are_refused() -> None:
    with pytest.raises(ValueError, match="must be resolved"):
        MaskedLanguageModel(small_config(vocab_size=None))


def test_flops_of_xlm_roberta_base() -> None:
    config = ModelConfig(vocab_size=250_002, max_position_embeddings=514)
    counted = training_flops(config, num_tokens=512, num_targets=77, seq_len=512)
    after_attention = 768 * 768 + 2 * 768 * 3072
    everywhere = 512 * 12 * 3 * 768 * 768 + 512 * 11 * after_attention
    assert counted.layers == 6 * (everywhere + 77 * after_attention)
    assert counted.attention == 3 * 12 * 4 * 512 * 512 * 768
    assert counted.head == 6 * 77 * (768 * 768 + 768 * 250_002)
    assert counted.total == counted.layers + counted.attention + counted.head
    short = training_flops(config, 512, 77, 512, attention_pairs=16 * 32 * 32)
    assert short.attention * 16 == counted.attention


def test_flops_agree_with_what_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = small_config(attention_probs_dropout_prob=0.1)
    model = make_model(config)
    tokens, positions, _, index, targets, weight = make_batch()
    cu_seqlens = torch.tensor([0, 32, 64], dtype=torch.int32)
    with FlopCounterMode(display=False) as counter:
        model(tokens, positions, cu_seqlens, index, targets, weight, SEQ_LEN)[0].backward()
    expected = training_flops(config, num_tokens=64, num_targets=6, seq_len=SEQ_LEN)
    # Attention with dropout computes its scores again in backward: one product more than six.
    # torch counts the bias of the head as a product, and no bias elsewhere.
    spent = expected.total + expected.attention / 6
    assert abs(counter.get_total_flops() / spent - 1) < 0.01
