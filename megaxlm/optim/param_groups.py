"""Parameter groups: what is decayed, at which share of the rate, and by which rule it is updated.

Matrices and embeddings are decayed, norms and biases are not. With `layer_lr_decay` below 1 the
rate falls towards the embeddings, layer by layer. With Muon the matrices of the encoder's layers
are groups of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from megaxlm.config.pretrain import ModelConfig, OptimizerConfig
from megaxlm.optim.state import ADAM_MOMENTS, EMA, MOMENTS, MUON_MOMENTS, STACKED

DECAYED = "decayed"
UNDECAYED = "undecayed"
MUON = "muon"
# One parameter that holds the matrices of queries, keys and values, one above the other. Each is
# orthogonalised alone: they are maps of their own, and only their gradients arrive together.
MUON_QKV = "muon_qkv"
QKV_SUFFIX = ".attention.qkv.weight"
KINDS = (MUON, MUON_QKV, DECAYED, UNDECAYED)
LR_SCALE = "lr_scale"
_LAYER = re.compile(r"layers\.(\d+)\.")


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    model_config: ModelConfig,
    optimizer_config: OptimizerConfig,
) -> list[dict[str, Any]]:
    """Splits the trainable parameters into an optimizer's groups.

    Every parameter of one dimension is a bias or the scale of a norm: none of them is decayed.

    Args:
        named_parameters: Those of a `MaskedLanguageModel`, or of one stage of a pipeline under the
            same names, each once; at ZeRO-3 already partitioned.
        model_config: Of the whole model.
        optimizer_config: Its name, decays and whether weights are averaged.

    Returns:
        Groups with `name`, `params`, `weight_decay`, `lr_scale` (what the step's rate is multiplied
        by), `moments` (the state tensors of each parameter) and `stacked` (how many matrices each
        parameter is, one above the other); an empty one is left out. A group's name and settings
        do not depend on which other parameters there are.
    """
    averaged = () if optimizer_config.ema_decay is None else (EMA,)
    members: dict[tuple[float, int], list[nn.Parameter]] = {}
    names: dict[tuple[float, int], str] = {}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        kind = _kind(name, parameter, optimizer_config)
        scale, place = 1.0, ""
        if optimizer_config.layer_lr_decay != 1.0:
            down, place = _depth(name, model_config)
            scale = optimizer_config.layer_lr_decay**down
        key = (-scale, KINDS.index(kind))
        members.setdefault(key, []).append(parameter)
        names[key] = f"{place}.{kind}" if place else kind
    groups = []
    for key in sorted(members):
        scale, kind = -key[0], KINDS[key[1]]
        moments = MUON_MOMENTS if kind in (MUON, MUON_QKV) else ADAM_MOMENTS
        groups.append(
            {
                "name": names[key],
                "params": members[key],
                "weight_decay": 0.0 if kind == UNDECAYED else optimizer_config.weight_decay,
                LR_SCALE: scale,
                MOMENTS: moments + averaged,
                STACKED: 3 if kind == MUON_QKV else 1,
            }
        )
    return groups


def _kind(name: str, parameter: nn.Parameter, config: OptimizerConfig) -> str:
    ndim = len(getattr(parameter, "ds_shape", parameter.shape))  # partitioned ones are flat
    if ndim < 2:
        return UNDECAYED
    if config.name == MUON and ndim == 2 and _LAYER.match(name):
        return MUON_QKV if name.endswith(QKV_SUFFIX) else MUON
    return DECAYED


def _depth(name: str, config: ModelConfig) -> tuple[int, str]:
    """Returns how many layers lie above a parameter, the head being one, and what to call it.

    As in ELECTRA (Clark et al. 2020) and BEiT (Bao et al. 2021): the head, and the norm before it,
    train at the full rate, the last layer one decay below, the embeddings lowest.
    """
    layer = _LAYER.match(name)
    if layer is not None:
        return config.num_hidden_layers - int(layer[1]), f"layers.{layer[1]}"
    tied = config.tie_word_embeddings and name == "head.decoder.weight"
    if name.startswith("embeddings.") or tied:
        return config.num_hidden_layers + 1, "embeddings"
    return 0, "head"
