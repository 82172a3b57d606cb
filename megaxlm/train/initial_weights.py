"""Where a run's first weights come from: the initialisation table, or `init_from`.

Either is a source of ranges: a rank asks for the part that it holds, so that no rank ever has the
whole model in memory (but for a Hugging Face folder, which is read whole: `megaxlm import` it
first where that is too much).
"""

from __future__ import annotations

import torch
from torch import Tensor

from megaxlm.checkpoint.catalog import list_checkpoints
from megaxlm.checkpoint.fragments import WEIGHTS_PREFIX
from megaxlm.checkpoint.manifest import sha256_of
from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.checkpoint.resolve import SENTENCEPIECE_NAME, Source, find_source
from megaxlm.config.pretrain import ModelConfig, PretrainConfig
from megaxlm.errors import UserError
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.hf import read_hf_config, read_hf_folder
from megaxlm.model.initialization import initial_range
from megaxlm.train.sources import InMemoryWeights, TensorSource


class InitialWeights:
    """The initialisation table as a source of ranges, named as in a checkpoint."""

    def __init__(self, config: ModelConfig, seed: int) -> None:
        """Takes a resolved model config and the run's seed."""
        self._config, self._seed = config, seed
        self._shapes = parameter_shapes(config)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the whole shape of `model/<parameter>`."""
        return self._shapes[name.removeprefix(WEIGHTS_PREFIX)]

    def read(self, name: str, start: int, numel: int) -> Tensor:
        """Returns the flat range [start, start + numel) as a (numel,) fp32 tensor."""
        name = name.removeprefix(WEIGHTS_PREFIX)
        return initial_range(name, self._shapes[name], start, numel, self._config, self._seed)


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Returns every parameter's shape by name, without making one."""
    with torch.device("meta"):
        model = MaskedLanguageModel(config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def initial_weights(config: PretrainConfig, tokenizer_sha256: str) -> TensorSource:
    """Returns what every parameter is before the first step.

    A run that has a checkpoint takes its weights from there: `init_from` may be gone by then.

    Args:
        config: The run, with every derived value in place.
        tokenizer_sha256: Of the SentencePiece model of the data set.

    Raises:
        UserError: `init_from` is not a run, checkpoint or Hugging Face folder, or its model has
            another tokenizer, other parameters or shapes.
        CorruptDataError: A file of it is damaged.
    """
    if config.init_from is None or list_checkpoints(config.run_dir):
        return InitialWeights(config.model, config.seed)
    found = find_source(config.init_from)
    given: TensorSource
    if found.kind == "huggingface":
        _, parameters = read_hf_folder(found.folder)
        given, recorded = InMemoryWeights(parameters), None
        theirs = {name: tuple(value.shape) for name, value in parameters.items()}
    else:
        given = reader = CheckpointReader(found.folder)
        recorded = reader.shared.get("tokenizer_sha256")
        theirs = _shapes(reader)
    _refuse_unfit(config, found, recorded, theirs, tokenizer_sha256)
    return given


def check_initial_weights(config: PretrainConfig, tokenizer_sha256: str) -> None:
    """Does the checks of `initial_weights` without reading or hashing a weight.

    Raises:
        UserError: As `initial_weights`; a damaged file of weights is not found.
    """
    if config.init_from is None or list_checkpoints(config.run_dir):
        return
    found = find_source(config.init_from)
    if found.kind == "huggingface":
        theirs, recorded = parameter_shapes(read_hf_config(found.folder)), None
    else:
        with CheckpointReader(found.folder, verify=False) as reader:
            theirs, recorded = _shapes(reader), reader.shared.get("tokenizer_sha256")
    _refuse_unfit(config, found, recorded, theirs, tokenizer_sha256)


def _shapes(reader: CheckpointReader) -> dict[str, tuple[int, ...]]:
    return {
        name.removeprefix(WEIGHTS_PREFIX): reader.shape(name)
        for name in reader.names(WEIGHTS_PREFIX)
    }


def _refuse_unfit(
    config: PretrainConfig,
    found: Source,
    recorded: str | None,
    theirs: dict[str, tuple[int, ...]],
    tokenizer_sha256: str,
) -> None:
    if (recorded or _tokenizer_sha256(found)) not in (None, tokenizer_sha256):
        raise UserError(
            f"init_from {config.init_from}: trained with another tokenizer than "
            f"{config.data.path} has; build the data set with that one (tokenizer.model in its "
            "recipe), or, if the data set's is an extension of it, name what `megaxlm import "
            "--tokenizer` makes"
        )
    mine = parameter_shapes(config.model)
    for name in sorted(mine.keys() | theirs.keys()):
        if mine.get(name) != theirs.get(name):
            raise UserError(
                f"init_from {config.init_from}: {name} is {_shown(theirs.get(name))} there and "
                f"{_shown(mine.get(name))} in the model of this config; make `model` and the "
                "tokenizer those it was trained with"
            )


def _tokenizer_sha256(source: Source) -> str | None:
    model_path = source.tokenizer_dir / SENTENCEPIECE_NAME
    return sha256_of(model_path) if model_path.is_file() else None


def _shown(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape))
