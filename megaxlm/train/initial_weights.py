"""Where a run's first weights come from: the initialisation table, or `init_from`."""

from __future__ import annotations

from megaxlm.checkpoint.resolve import load_weights
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.errors import UserError
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.initialization import initialize


def fill(model: MaskedLanguageModel, config: PretrainConfig) -> None:
    """Gives every parameter of a full model its value before the first step.

    Raises:
        UserError: `init_from` is not a run, checkpoint or Hugging Face folder, or its model has
            other parameters or shapes.
        CorruptDataError: A file of it is damaged.
    """
    if config.init_from is None:
        initialize(model, config.model, config.seed)
        return
    weights = load_weights(config.init_from).parameters
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


def _shown(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape))
