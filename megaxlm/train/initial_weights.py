"""Where a run's first weights come from: the initialisation table, or `init_from`."""

from __future__ import annotations

from megaxlm.checkpoint.catalog import list_checkpoints
from megaxlm.checkpoint.manifest import sha256_of
from megaxlm.checkpoint.resolve import SENTENCEPIECE_NAME, Weights, load_weights
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.errors import UserError
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.initialization import initialize


def fill(model: MaskedLanguageModel, config: PretrainConfig, tokenizer_sha256: str) -> None:
    """Gives every parameter of a full model its value before the first step.

    A run that has a checkpoint takes its weights from there: `init_from` may be gone by then.

    Args:
        model: On the CPU.
        config: The run, with every derived value in place.
        tokenizer_sha256: Of the SentencePiece model of the data set.

    Raises:
        UserError: `init_from` is not a run, checkpoint or Hugging Face folder, or its model has
            another tokenizer, other parameters or shapes.
        CorruptDataError: A file of it is damaged.
    """
    if config.init_from is None or list_checkpoints(config.run_dir):
        initialize(model, config.model, config.seed)
        return
    given = load_weights(config.init_from)
    theirs_sha256 = _tokenizer_sha256(given)
    if theirs_sha256 not in (None, tokenizer_sha256):
        raise UserError(
            f"init_from {config.init_from}: trained with another tokenizer than "
            f"{config.data.path} has; build the data set with that one (tokenizer.model in its "
            "recipe)"
        )
    weights = given.parameters
    mine = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name in sorted(mine.keys() | weights.keys()):
        theirs = tuple(weights[name].shape) if name in weights else None
        if mine.get(name) != theirs:
            raise UserError(
                f"init_from {config.init_from}: {name} is {_shown(theirs)} there and "
                f"{_shown(mine.get(name))} in the model of this config; make `model` and the "
                "tokenizer those it was trained with"
            )
    model.load_parameters(weights)


def _tokenizer_sha256(weights: Weights) -> str | None:
    if weights.tokenizer_sha256 is not None:
        return weights.tokenizer_sha256
    model_path = weights.source.tokenizer_dir / SENTENCEPIECE_NAME
    return sha256_of(model_path) if model_path.is_file() else None


def _shown(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape))
