"""From a path to a model: a run folder, a checkpoint folder or a Hugging Face folder.

What a folder is, is told by what lies in it, never by its name. A run and its checkpoints share
`RUN_DIR/tokenizer/`; a Hugging Face folder holds its tokenizer beside the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from torch import Tensor

from megaxlm.checkpoint.catalog import find_latest
from megaxlm.checkpoint.fragments import AVERAGES_PREFIX, WEIGHTS_PREFIX
from megaxlm.checkpoint.hf_tokenizer import HuggingFaceTokenizer, TextTokenizer
from megaxlm.checkpoint.manifest import (
    CHECKPOINTS_DIR,
    MANIFEST_NAME,
    MARKER_NAME,
    SHARED_NAME,
    sha256_of,
)
from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.config.pretrain import ModelConfig
from megaxlm.data.shards import TOKENIZER_DIR
from megaxlm.data.tokenizer import Tokenizer
from megaxlm.errors import CorruptDataError, UserError
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.hf import CONFIG_NAME, read_hf_folder

SENTENCEPIECE_NAME = "sentencepiece.bpe.model"
POSITION_OFFSET = 2  # XLM-R counts positions from pad_token_id + 1


@dataclass(frozen=True)
class Source:
    """What a path was found to be."""

    kind: Literal["checkpoint", "huggingface"]
    folder: Path  # the checkpoint folder itself when a run was given
    tokenizer_dir: Path


@dataclass(frozen=True)
class Weights:
    """All parameters of a model by their own names, and what they need to be used."""

    config: ModelConfig  # vocab_size and max_position_embeddings resolved
    parameters: dict[str, Tensor]  # fp32, as `MaskedLanguageModel.named_parameters()` names them
    source: Source
    tokenizer_sha256: str | None  # of the SentencePiece model they were trained with, if known
    run_config: dict[str, Any]  # the resolved config of the run; empty for an imported model


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for evaluation."""

    model: MaskedLanguageModel  # fp32, on the CPU, in eval mode
    config: ModelConfig
    tokenizer: TextTokenizer
    source: str  # the folder that was read, for reports
    run_config: dict[str, Any]  # the resolved config of the run; empty for an imported model


def find_source(path: Path) -> Source:
    """Tells what a path is; of a run the newest finished checkpoint counts.

    Raises:
        UserError: It is none of the three kinds, two at once, or a run without a checkpoint.
    """
    if not path.is_dir():
        raise UserError(
            f"{path}: no such folder; give a run, a checkpoint or a Hugging Face folder"
        )
    is_checkpoint = (path / MANIFEST_NAME).exists() or (path / MARKER_NAME).exists()
    is_run = (path / CHECKPOINTS_DIR).is_dir()
    is_hf = (path / CONFIG_NAME).is_file()
    if is_checkpoint + is_run + is_hf != 1:
        found = "none of them is" if not (is_checkpoint or is_run or is_hf) else "several are"
        raise UserError(
            f"{path}: not clear what this folder is: a run has {CHECKPOINTS_DIR}/, a checkpoint "
            f"{MANIFEST_NAME} and {MARKER_NAME}, a Hugging Face model {CONFIG_NAME}; {found} here"
        )
    if is_hf:
        return Source("huggingface", path, path)
    if is_checkpoint:
        run_dir = path.resolve().parent.parent
        return Source("checkpoint", path, run_dir / TOKENIZER_DIR)
    latest = find_latest(path)
    if latest is None:
        raise UserError(
            f"{path / CHECKPOINTS_DIR}: no finished checkpoint; let the run save one first"
        )
    return Source("checkpoint", latest, path / TOKENIZER_DIR)


def load_weights(path: Path, *, averaged: bool = False) -> Weights:
    """Reads all parameters of a run, checkpoint or Hugging Face folder, verified.

    Args:
        path: The folder.
        averaged: Takes the moving average that a run with `optimizer.ema_decay` keeps.

    Raises:
        UserError: The folder is not one of these, or holds no model of ours, or no averages.
        CorruptDataError: A file of it is damaged.
    """
    source = find_source(path)
    if source.kind == "huggingface":
        if averaged:
            raise UserError(f"{path}: a Hugging Face folder holds no averaged weights")
        config, parameters = read_hf_folder(source.folder)
        return Weights(config, parameters, source, None, {})
    with CheckpointReader(source.folder) as reader:
        shared = reader.shared
        try:
            config = ModelConfig.model_validate(shared.get("model"))
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(("model", *map(str, problem["loc"])))
            raise UserError(
                f"{source.folder / SHARED_NAME}: {key}: {problem['msg']}; "
                "was it saved by another version of megaxlm?"
            ) from None
        prefix = AVERAGES_PREFIX if averaged else WEIGHTS_PREFIX
        if averaged:
            _check_averages(reader)
        parameters = {
            name.removeprefix(prefix): reader.full(name).float() for name in reader.names(prefix)
        }
    run_config = shared.get("config") or {}
    return Weights(config, parameters, source, shared.get("tokenizer_sha256"), run_config)


def _check_averages(reader: CheckpointReader) -> None:
    if not list(reader.names(AVERAGES_PREFIX)):
        raise UserError(
            f"{reader.path}: no averaged weights here: the run had no optimizer.ema_decay; take "
            "the weights themselves"
        )
    if reader.shared.get("optimizer_step") == 0:
        raise UserError(
            f"{reader.path}: no averaged weights yet: no step had been taken; take a later one"
        )


def load_model(path: Path, seq_len: int | None = None) -> LoadedModel:
    """Loads a model and its tokenizer for evaluation.

    Args:
        path: A run, checkpoint or Hugging Face folder.
        seq_len: The longest row it will be given; checked against its position table.

    Raises:
        UserError: The folder is not one of these, its tokenizer is missing or another one, or
            its position table is too short.
        CorruptDataError: A file of it is damaged.
    """
    weights = load_weights(path)
    config, folder = weights.config, weights.source.folder
    limit = (config.max_position_embeddings or 0) - POSITION_OFFSET
    if seq_len is not None and seq_len > limit:
        raise UserError(
            f"{folder}: rows of {seq_len} tokens asked for, its positions end at {limit}"
        )
    tokenizer = load_tokenizer(weights)
    try:
        model = MaskedLanguageModel(config)
        model.load_parameters(weights.parameters)
    except ValueError as error:
        raise CorruptDataError(
            f"{folder}: its parameters are not those of its config ({error})"
        ) from None
    return LoadedModel(model.eval(), config, tokenizer, str(folder), weights.run_config)


def load_tokenizer(weights: Weights) -> TextTokenizer:
    """Returns the tokenizer of a model: its SentencePiece model, else its Hugging Face files.

    Raises:
        UserError: There is none, it is another one than the model was trained with, or it has
            more words than the model.
    """
    directory = weights.source.tokenizer_dir
    check_tokenizer(weights)
    tokenizer: TextTokenizer
    if (directory / SENTENCEPIECE_NAME).is_file():
        tokenizer = Tokenizer(directory / SENTENCEPIECE_NAME)
    else:
        tokenizer = HuggingFaceTokenizer(directory)
    if tokenizer.vocab_size > (weights.config.vocab_size or 0):
        raise UserError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} tokens, the model "
            f"{weights.config.vocab_size}; give the tokenizer that the model was trained with"
        )
    return tokenizer


def check_tokenizer(weights: Weights) -> None:
    """Checks that the tokenizer files are there and are those the model was trained with.

    Raises:
        UserError: They are not.
    """
    directory = weights.source.tokenizer_dir
    model_path = directory / SENTENCEPIECE_NAME
    if not model_path.is_file() and not (directory / "tokenizer.json").is_file():
        raise UserError(
            f"{directory}: no tokenizer here ({SENTENCEPIECE_NAME} or tokenizer.json); "
            "copy that of the model's training data there"
        )
    recorded = weights.tokenizer_sha256
    if recorded is not None and (not model_path.is_file() or sha256_of(model_path) != recorded):
        raise UserError(
            f"{model_path}: not the tokenizer that {weights.source.folder} was trained with; "
            "copy that of its data set there"
        )
