"""The two-way bridge to Hugging Face: names, config and folder, exact in both directions.

Two things differ between our parameters and theirs. Queries, keys and values are one matrix here.
And their `token_type_embeddings`, of which every token gets row 0, is added to the position table
on import and written as zeros on export: the same function with one table less. So ours -> theirs
-> ours is exact to the byte, and theirs -> ours -> theirs computes the same logits.

Weights are read from safetensors alone: a `pytorch_model.bin` is a pickle, which can run code.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from megaxlm.config.pretrain import ModelConfig
from megaxlm.errors import CorruptDataError, UserError
from megaxlm.model.embeddings import POSITION_OFFSET

CONFIG_NAME = "config.json"
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
WEIGHTS_NAME = "model.safetensors"
WEIGHTS_INDEX_NAME = "model.safetensors.index.json"
PICKLE_NAME = "pytorch_model.bin"
ARCHITECTURES = {
    "xlm-roberta": "XLMRobertaForMaskedLM",
    "xlm-roberta-xl": "XLMRobertaXLForMaskedLM",
}
# What Transformers takes for a key that config.json leaves out; the shape keys must be there.
HF_DEFAULTS: dict[str, Any] = {
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
}
HF_LAYER_NORM_EPS = {"xlm-roberta": 1e-12, "xlm-roberta-xl": 1e-5}
SHAPE_KEYS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)
# What we compute and nothing else: a config that asks for more is refused, not approximated.
FIXED = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "pad_token_id": 1,
    "is_decoder": False,
    "add_cross_attention": False,
}

_EMBEDDINGS = "roberta.embeddings."
_TOKEN_TYPE = _EMBEDDINGS + "token_type_embeddings.weight"
_PROJECTIONS = ("query", "key", "value")
# What other heads and older versions store beside the masked language model: not ours to keep.
_UNUSED = ("roberta.pooler.", _EMBEDDINGS + "position_ids", _EMBEDDINGS + "token_type_ids")


def to_hf_config(config: ModelConfig) -> dict[str, Any]:
    """Returns the content of `config.json`."""
    copied = (*SHAPE_KEYS, *HF_DEFAULTS, "layer_norm_eps", "model_type")
    return {
        "architectures": [ARCHITECTURES[config.model_type]],
        **{name: getattr(config, name) for name in copied},
        **FIXED,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "type_vocab_size": 1,
        "dtype": "float32",
    }


def from_hf_config(content: Mapping[str, Any], where: str = CONFIG_NAME) -> ModelConfig:
    """Returns our config of a Hugging Face one.

    Args:
        content: The parsed `config.json`.
        where: What to call it in an error.

    Raises:
        UserError: Another architecture, a missing key or a setting that we do not compute.
    """
    model_type = content.get("model_type")
    if model_type not in ARCHITECTURES:
        raise UserError(
            f"{where}: model_type {model_type!r} is not supported; give a model of type "
            f"{' or '.join(ARCHITECTURES)}"
        )
    for name, expected in FIXED.items():
        if content.get(name, expected) != expected:
            raise UserError(
                f"{where}: {name} is {content[name]!r}, only {expected!r} is supported; "
                "give another model"
            )
    if missing := [name for name in SHAPE_KEYS if name not in content]:
        raise UserError(f"{where}: {missing[0]} is missing; take config.json from the source again")
    values = {name: content[name] for name in SHAPE_KEYS}
    values |= {name: content.get(name, default) for name, default in HF_DEFAULTS.items()}
    epsilon = content.get("layer_norm_eps", HF_LAYER_NORM_EPS[model_type])
    try:
        return ModelConfig(model_type=model_type, layer_norm_eps=epsilon, **values)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"]) or "config"
        raise UserError(f"{where}: {name}: {problem['msg']}; correct it") from None


def parameter_names(config: ModelConfig) -> dict[str, str]:
    """Returns our name -> Hugging Face's, of all parameters stored one to one.

    The fused projections and the position table are not: see `to_hf_state`.
    """
    post_norm = config.model_type == "xlm-roberta"
    modules = {
        "head.dense": "lm_head.dense",
        "head.norm": "lm_head.layer_norm",
    }
    if post_norm:
        modules["embeddings.norm"] = _EMBEDDINGS + "LayerNorm"
    else:
        modules["final_norm"] = "roberta.encoder.LayerNorm"
    for index in range(config.num_hidden_layers):
        ours, theirs = f"layers.{index}.", _layer(index)
        modules |= {
            ours + "attention.output": theirs + "attention.output.dense",
            ours + "feed_forward.up": theirs + "intermediate.dense",
            ours + "feed_forward.down": theirs + "output.dense",
            ours + "attention_norm": theirs
            + ("attention.output.LayerNorm" if post_norm else "attention.self_attn_layer_norm"),
            ours + "feed_forward_norm": theirs + ("output.LayerNorm" if post_norm else "LayerNorm"),
        }
    names = {
        f"{ours}.{kind}": f"{theirs}.{kind}"
        for ours, theirs in modules.items()
        for kind in ("weight", "bias")
    }
    names["embeddings.word.weight"] = _EMBEDDINGS + "word_embeddings.weight"
    names["head.decoder.bias"] = "lm_head.bias"
    if not config.tie_word_embeddings:
        names["head.decoder.weight"] = "lm_head.decoder.weight"
    return names


def to_hf_state(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Renames our parameters to Hugging Face's; tensors are views where they can be.

    Args:
        state: Every parameter of `MaskedLanguageModel.named_parameters()`.
        config: Of the model.

    Raises:
        ValueError: A parameter is missing.
    """
    names = parameter_names(config)
    fused = [
        f"layers.{index}.attention.qkv.{kind}"
        for index in range(config.num_hidden_layers)
        for kind in ("weight", "bias")
    ]
    required = (*names, *fused, "embeddings.position.weight")
    if missing := [name for name in required if name not in state]:
        raise ValueError(f"no parameter named {missing[0]!r} to export")
    exported = {theirs: state[ours] for ours, theirs in names.items()}
    positions = state["embeddings.position.weight"]
    exported[_EMBEDDINGS + "position_embeddings.weight"] = positions
    exported[_TOKEN_TYPE] = positions.new_zeros(1, positions.shape[1])
    for index in range(config.num_hidden_layers):
        for kind in ("weight", "bias"):
            parts = state[f"layers.{index}.attention.qkv.{kind}"].chunk(3)
            for projection, part in zip(_PROJECTIONS, parts, strict=True):
                exported[f"{_layer(index)}attention.self.{projection}.{kind}"] = part
    if not config.tie_word_embeddings:
        exported["lm_head.decoder.bias"] = state["head.decoder.bias"].clone()
    return exported


def from_hf_state(
    state: Mapping[str, Tensor], config: ModelConfig, where: str = WEIGHTS_NAME
) -> dict[str, Tensor]:
    """Renames Hugging Face's parameters to ours, in fp32.

    Args:
        state: Of `XLMRobertaForMaskedLM` or `XLMRobertaXLForMaskedLM`.
        config: Of the model.
        where: What to call the state in an error.

    Raises:
        UserError: A parameter is missing, of the wrong shape or unknown.
    """
    remaining = {name: tensor for name, tensor in state.items() if not name.startswith(_UNUSED)}
    # Untied, Transformers decodes with `decoder.bias` and never looks at `lm_head.bias`.
    decoder_bias = remaining.pop("lm_head.decoder.bias", None)
    if decoder_bias is not None and not config.tie_word_embeddings:
        remaining["lm_head.bias"] = decoder_bias
    if config.tie_word_embeddings:
        remaining.pop("lm_head.decoder.weight", None)

    architecture = ARCHITECTURES[config.model_type]

    def take(name: str, *shape: int | None) -> Tensor:
        tensor = remaining.pop(name, None)
        if tensor is None:
            raise UserError(f"{where}: {name} is missing; give the folder of a {architecture}")
        if len(tensor.shape) != len(shape) or any(
            wanted not in (None, found) for wanted, found in zip(shape, tensor.shape, strict=True)
        ):
            expected = tuple("any" if size is None else size for size in shape)
            raise UserError(
                f"{where}: {name} is {tuple(tensor.shape)} where config.json asks for {expected}"
            )
        return tensor.to(torch.float32)

    assert config.vocab_size is not None and config.max_position_embeddings is not None
    hidden, inner, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    imported: dict[str, Tensor] = {}
    for ours, theirs in parameter_names(config).items():
        shape: tuple[int, ...]
        if ours in ("embeddings.word.weight", "head.decoder.weight"):
            shape = (vocab, hidden)
        elif ours == "head.decoder.bias":
            shape = (vocab,)
        elif ours.endswith("norm.weight") or ours.endswith("norm.bias"):
            shape = (hidden,)
        else:
            wide = inner if ".up." in ours else hidden
            shape = (wide, inner if ".down." in ours else hidden)
            shape = shape[:1] if ours.endswith(".bias") else shape
        imported[ours] = take(theirs, *shape)
    for index in range(config.num_hidden_layers):
        for kind, shape in (("weight", (hidden, hidden)), ("bias", (hidden,))):
            imported[f"layers.{index}.attention.qkv.{kind}"] = torch.cat(
                [take(f"{_layer(index)}attention.self.{p}.{kind}", *shape) for p in _PROJECTIONS]
            )
    positions = take(
        _EMBEDDINGS + "position_embeddings.weight", config.max_position_embeddings, hidden
    )
    token_type = take(_TOKEN_TYPE, None, hidden)[0]
    # Adding zeros would turn -0.0 into 0.0, and an export of ours would not come back to the byte.
    imported["embeddings.position.weight"] = (
        positions + token_type if token_type.any() else positions
    )
    if remaining:
        raise UserError(
            f"{where}: unknown parameter {min(remaining)}; give the folder of a {architecture}"
        )
    return imported


def read_hf_config(directory: Path) -> ModelConfig:
    """Reads the config of a Hugging Face folder that holds safetensors.

    Raises:
        UserError: No such folder, no safetensors in it, or a model that is not of this family.
        CorruptDataError: The file cannot be parsed.
    """
    config_path = directory / CONFIG_NAME
    config = from_hf_config(_read_json(config_path), str(config_path))
    _weight_files(directory)
    return config


def _weight_files(directory: Path) -> tuple[list[str], str]:
    whole, index_path = directory / WEIGHTS_NAME, directory / WEIGHTS_INDEX_NAME
    if whole.is_file():
        return [WEIGHTS_NAME], str(whole)
    if index_path.is_file():
        weight_map = _read_json(index_path).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CorruptDataError(f"{index_path}: no weight_map; download the folder again")
        files = sorted({str(name) for name in weight_map.values()})
        if outside := [name for name in files if Path(name).name != name]:
            raise UserError(f"{index_path}: {outside[0]!r} lies outside the folder; do not use it")
        return files, str(index_path)
    if (directory / PICKLE_NAME).is_file() or list(directory.glob("pytorch_model-*.bin")):
        raise UserError(
            f"{directory}: holds pickled weights ({PICKLE_NAME}), which can run code and are not "
            "read; load it with transformers and save_pretrained it to get model.safetensors"
        )
    raise UserError(f"{directory}: no {WEIGHTS_NAME} here; give a Hugging Face model folder")


def read_hf_folder(directory: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Reads a Hugging Face folder.

    Returns:
        Our config, and our parameters in fp32.

    Raises:
        UserError: No such folder, no safetensors in it, or a model that is not of this family.
        CorruptDataError: A file is truncated or cannot be parsed.
    """
    config, (files, where) = read_hf_config(directory), _weight_files(directory)
    state: dict[str, Tensor] = {}
    for name in files:
        path = directory / name
        try:
            with safe_open(path, framework="pt") as file:
                state |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise CorruptDataError(f"{path}: shard is missing; download the folder again") from None
        except (SafetensorError, OSError) as error:
            raise CorruptDataError(
                f"{path}: not a readable safetensors file ({error}); download the folder again"
            ) from None
    return config, from_hf_state(state, config, where)


def write_hf_folder(
    directory: Path,
    config: ModelConfig,
    state: Mapping[str, Tensor],
    tokenizer_files: Iterable[Path] | None = None,
) -> None:
    """Writes a folder that `transformers.AutoModelForMaskedLM.from_pretrained` loads.

    It is written beside its place under a hidden name and renamed when complete.

    Args:
        directory: Must not exist, or be empty.
        config: With `vocab_size` and `max_position_embeddings` resolved.
        state: Every parameter of `MaskedLanguageModel.named_parameters()`, on any device.
        tokenizer_files: Are copied beside the weights.

    Raises:
        UserError: The folder is not empty, or cannot be written.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory}: already there and not an empty folder; name another")
    partial = directory.with_name(f".{directory.name}.partial")
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in to_hf_state(state, config).items()
    }
    try:
        if partial.exists():  # left by an export that was killed
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        text = json.dumps(to_hf_config(config), indent=2, sort_keys=True) + "\n"
        (partial / CONFIG_NAME).write_text(text, encoding="utf-8")
        save_file(tensors, partial / WEIGHTS_NAME, metadata={"format": "pt"})
        # safetensors makes its file for the owner alone; a model is to be shared like its config.
        (partial / WEIGHTS_NAME).chmod((partial / CONFIG_NAME).stat().st_mode)
        for path in tokenizer_files or ():
            shutil.copyfile(path, partial / path.name)
        _set_max_length(partial / TOKENIZER_CONFIG_NAME, config)
        for path in (*partial.iterdir(), partial):
            _sync(path)
        os.replace(partial, directory)
        _sync(directory.parent)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{directory}: cannot write the folder: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _layer(index: int) -> str:
    return f"roberta.encoder.layer.{index}."


def _sync(path: Path) -> None:
    """Makes a file's content, or the names inside a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file; give a Hugging Face model folder") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptDataError(f"{path}: unreadable ({error}); download the folder again") from None
    if not isinstance(content, dict):
        raise CorruptDataError(f"{path}: not a JSON object; download the folder again")
    return content


def _set_max_length(path: Path, config: ModelConfig) -> None:
    """Tells the tokenizer how much the model takes, so that `truncation=True` cuts there."""
    if not path.is_file() or config.max_position_embeddings is None:
        return
    content = _read_json(path)
    content["model_max_length"] = config.max_position_embeddings - POSITION_OFFSET
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
