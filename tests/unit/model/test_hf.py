"""The bridge: our encoder and Transformers' compute the same, both ways, and nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from megaxlm.config.pretrain import ModelConfig
from megaxlm.data import special_tokens
from megaxlm.errors import CorruptDataError, UserError
from megaxlm.model.embeddings import POSITION_OFFSET
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.hf import (
    from_hf_config,
    from_hf_state,
    read_hf_folder,
    to_hf_config,
    to_hf_state,
    write_hf_folder,
)

CLASSES = {
    "xlm-roberta": (transformers.XLMRobertaConfig, transformers.XLMRobertaForMaskedLM),
    "xlm-roberta-xl": (transformers.XLMRobertaXLConfig, transformers.XLMRobertaXLForMaskedLM),
}
VOCAB_SIZE = 97
LENGTHS = (5, 17, 1, 30, 11)  # a ragged batch
FAMILIES = pytest.mark.parametrize("model_type", list(CLASSES))
TYING = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def small_config(model_type: str, tied: bool = True) -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "model_type": model_type,
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 40,
            "max_position_embeddings": 34,
            "layer_norm_eps": 1e-5,
            "tie_word_embeddings": tied,
        }
    )


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Leaves no bias, norm or token type at a value that hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            mean = parameter.mean() if parameter.dim() == 1 else 0.0
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + mean)


def their_model(config: ModelConfig, seed: int = 7) -> torch.nn.Module:
    hf_config, hf_model = CLASSES[config.model_type]
    content = {k: v for k, v in to_hf_config(config).items() if k != "architectures"}
    model = hf_model(hf_config(**content))
    randomize(model, seed)
    return model.eval()


def our_model(config: ModelConfig, state: dict[str, Tensor] | None = None) -> MaskedLanguageModel:
    model = MaskedLanguageModel(config).eval()
    if state is None:
        randomize(model, 11)
    else:
        model.load_parameters(state)
    return model


def parameters(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def ragged_batch() -> tuple[Tensor, Tensor, Tensor]:
    """Returns padded ids and mask for them, and the same packed for us."""
    generator = torch.Generator().manual_seed(3)
    padded = torch.ones(len(LENGTHS), max(LENGTHS), dtype=torch.int64)
    for row, length in enumerate(LENGTHS):
        padded[row, :length] = torch.randint(4, VOCAB_SIZE, (length,), generator=generator)
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    return padded, mask, padded[mask.bool()]


def packed_arguments(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    bounds = [0, *torch.tensor(LENGTHS).cumsum(0).tolist()]
    cu_seqlens = torch.tensor([*bounds, bounds[-1], bounds[-1]], dtype=torch.int32)
    return tokens, positions, cu_seqlens


@torch.no_grad()
def assert_same_function(ours: MaskedLanguageModel, theirs: torch.nn.Module) -> None:
    padded, mask, tokens = ragged_batch()
    output = theirs(input_ids=padded, attention_mask=mask, output_hidden_states=True)
    packed = packed_arguments(tokens)
    states = ours.hidden_states(*packed, seq_len=64)
    assert len(states) == len(output.hidden_states) == ours.config.num_hidden_layers + 1
    for state, hidden in zip(states, output.hidden_states, strict=True):
        torch.testing.assert_close(state, hidden[mask.bool()], rtol=0, atol=1e-5)
    index = torch.arange(tokens.shape[0])
    logits = ours.logits(*packed, index, seq_len=64)
    assert logits.abs().max() > 1  # not a comparison of zeros
    torch.testing.assert_close(logits, output.logits[mask.bool()], rtol=0, atol=1e-4)


@FAMILIES
@TYING
def test_import_computes_what_transformers_computes(model_type: str, tied: bool) -> None:
    config = small_config(model_type, tied)
    theirs = their_model(config)
    state = from_hf_state(theirs.state_dict(), config)
    assert_same_function(our_model(config, state), theirs)


@FAMILIES
@TYING
def test_export_loads_whole_and_computes_the_same(
    model_type: str, tied: bool, tmp_path: Path
) -> None:
    config = small_config(model_type, tied)
    ours = our_model(config)
    write_hf_folder(tmp_path / "out", config, parameters(ours))
    theirs, info = transformers.AutoModelForMaskedLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert type(theirs) is CLASSES[model_type][1]
    assert not any(info.values()), info
    tables = theirs.get_input_embeddings().weight, theirs.get_output_embeddings().weight
    assert (tables[0] is tables[1]) == tied
    assert_same_function(ours, theirs.eval())


@FAMILIES
@TYING
def test_the_loss_equals_transformers_and_so_do_the_gradients(model_type: str, tied: bool) -> None:
    config = small_config(model_type, tied)
    ours = our_model(config)
    theirs = their_model(config)
    theirs.load_state_dict(to_hf_state(parameters(ours), config), strict=False)
    padded, mask, tokens = ragged_batch()
    index = torch.tensor([0, 6, 20, 22, 51, 63])
    targets = torch.tensor([5, 9, 44, 8, 90, 17])
    labels = torch.full_like(tokens, -100)
    labels[index] = targets
    padded_labels = torch.full_like(padded, -100)
    padded_labels[mask.bool()] = labels
    expected = theirs(input_ids=padded, attention_mask=mask, labels=padded_labels).loss
    expected.backward()
    loss, _ = ours(*packed_arguments(tokens), index, targets, torch.ones(6), seq_len=64)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    gradients = {name: p.grad for name, p in theirs.named_parameters(remove_duplicate=False)}
    for name, gradient in to_hf_state(
        {name: parameter.grad for name, parameter in ours.named_parameters()}, config
    ).items():
        if name == "lm_head.bias" and not tied:  # Transformers decodes with lm_head.decoder.bias
            continue
        if "token_type" in name:  # one row, folded into the positions here
            continue
        found = gradients[name]
        torch.testing.assert_close(gradient, found, rtol=1e-4, atol=1e-5, msg=name)


@FAMILIES
@TYING
def test_round_trip_is_exact_to_the_byte(model_type: str, tied: bool, tmp_path: Path) -> None:
    config = small_config(model_type, tied)
    state = parameters(our_model(config))
    state["embeddings.position.weight"][0, 0] = -0.0
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "sentencepiece.bpe.model").write_bytes(b"\x00model")
    write_hf_folder(tmp_path / "out", config, state, tokenizer.iterdir())
    assert (tmp_path / "out/sentencepiece.bpe.model").read_bytes() == b"\x00model"
    read_config, read_state = read_hf_folder(tmp_path / "out")
    assert read_config == config
    assert read_state.keys() == state.keys()
    for name, tensor in state.items():
        assert read_state[name].numpy().tobytes() == tensor.numpy().tobytes(), name
    write_hf_folder(tmp_path / "again", read_config, read_state, tokenizer.iterdir())
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


@FAMILIES
def test_a_folder_that_transformers_saved_is_read(model_type: str, tmp_path: Path) -> None:
    config = small_config(model_type)
    theirs = their_model(config)
    theirs.save_pretrained(tmp_path, max_shard_size="10KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    read_config, state = read_hf_folder(tmp_path)
    assert read_config == config
    assert_same_function(our_model(read_config, state), theirs)


def test_half_precision_is_read_as_fp32(tmp_path: Path) -> None:
    config = small_config("xlm-roberta")
    theirs = their_model(config).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path)
    _, state = read_hf_folder(tmp_path)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert_same_function(our_model(config, state), theirs.float())


def test_defaults_are_those_of_transformers() -> None:
    for model_type, (hf_config, _) in CLASSES.items():
        published = hf_config(vocab_size=99).to_dict()
        shape = {
            name: published[name]
            for name in to_hf_config(small_config(model_type))
            if name.endswith("_size") or name.startswith(("num_", "max_"))
        }
        bare = from_hf_config({"model_type": model_type, **shape})
        assert bare == from_hf_config({"model_type": model_type, **published})


def test_special_tokens_are_those_of_the_tokenizer() -> None:
    content = to_hf_config(small_config("xlm-roberta"))
    ids = content["bos_token_id"], content["pad_token_id"], content["eos_token_id"]
    assert ids == (special_tokens.BOS, special_tokens.PAD, special_tokens.EOS)
    assert special_tokens.PAD + 1 == POSITION_OFFSET


def folder(tmp_path: Path) -> Path:
    config = small_config("xlm-roberta")
    write_hf_folder(tmp_path / "hf", config, parameters(our_model(config)))
    return tmp_path / "hf"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "model_type 'bert' is not supported"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu', only 'gelu' is supported"),
        ({"pad_token_id": 0}, "pad_token_id is 0, only 1 is supported"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_attention_heads": 7}, "is not a multiple of"),
        (
            {"hidden_size": 48},
            r"dense\.weight is \(24, 24\) where config\.json asks for \(48, 48\)",
        ),
    ],
)
def test_a_config_that_does_not_fit_is_named(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = folder(tmp_path)
    content = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(content | change))
    with pytest.raises(UserError, match=message) as caught:
        read_hf_folder(path)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path)
    content = json.loads((path / "config.json").read_text())
    del content["vocab_size"]
    (path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"config\.json: vocab_size is missing"):
        read_hf_folder(path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = folder(tmp_path)
    weights = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(CorruptDataError, match=r"model\.safetensors: not a readable safetensors"):
        read_hf_folder(path)
    (path / "config.json").write_text("{")
    with pytest.raises(CorruptDataError, match=r"config\.json: unreadable"):
        read_hf_folder(path)
    with pytest.raises(UserError, match="no such file"):
        read_hf_folder(tmp_path / "nowhere")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    their_model(small_config("xlm-roberta")).save_pretrained(tmp_path, max_shard_size="10KB")
    lost = sorted(tmp_path.glob("model-00002-*"))[0]
    lost.unlink()
    with pytest.raises(CorruptDataError, match=f"{lost.name}: shard is missing"):
        read_hf_folder(tmp_path)


def test_missing_and_unknown_parameters_are_named(tmp_path: Path) -> None:
    path = folder(tmp_path)
    state = load_file(path / "model.safetensors")
    save_file({**state, "classifier.weight": torch.zeros(2)}, path / "model.safetensors")
    with pytest.raises(UserError, match=r"unknown parameter classifier\.weight"):
        read_hf_folder(path)
    del state["lm_head.dense.bias"]
    save_file(state, path / "model.safetensors")
    with pytest.raises(UserError, match=r"lm_head\.dense\.bias is missing"):
        read_hf_folder(path)


def test_the_pooler_of_older_checkpoints_is_left_out(tmp_path: Path) -> None:
    path = folder(tmp_path)
    _, expected = read_hf_folder(path)
    state = load_file(path / "model.safetensors")
    state["roberta.pooler.dense.weight"] = torch.zeros(24, 24)
    state["roberta.embeddings.position_ids"] = torch.arange(34)[None]
    save_file(state, path / "model.safetensors")
    _, found = read_hf_folder(path)
    assert found.keys() == expected.keys()


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    path = folder(tmp_path)
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled weights.*save_pretrained"):
        read_hf_folder(path)
    (path / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors here"):
        read_hf_folder(path)


def test_an_index_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    path = folder(tmp_path)
    (path / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.bias": "../other.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="outside the folder"):
        read_hf_folder(path)


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    path = folder(tmp_path)
    before = (path / "model.safetensors").read_bytes()
    config = small_config("xlm-roberta")
    with pytest.raises(UserError, match="not an empty folder; name another"):
        write_hf_folder(path, config, parameters(our_model(config)))
    assert (path / "model.safetensors").read_bytes() == before
    (tmp_path / "empty").mkdir()
    write_hf_folder(tmp_path / "empty", config, parameters(our_model(config)))
    assert (tmp_path / "empty/model.safetensors").is_file()


def test_a_failed_export_leaves_nothing_and_a_killed_one_is_replaced(tmp_path: Path) -> None:
    config = small_config("xlm-roberta")
    state = parameters(our_model(config))
    with pytest.raises(UserError, match="cannot write the folder"):
        write_hf_folder(tmp_path / "out", config, state, [tmp_path / "no-tokenizer"])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial/model.safetensors").write_bytes(b"torn")
    write_hf_folder(tmp_path / "out", config, state)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    read_hf_folder(tmp_path / "out")


def test_a_parameter_missing_from_the_export_is_named() -> None:
    config = small_config("xlm-roberta")
    state = parameters(our_model(config))
    del state["layers.1.attention.qkv.bias"]
    with pytest.raises(ValueError, match=r"layers\.1\.attention\.qkv\.bias"):
        to_hf_state(state, config)
