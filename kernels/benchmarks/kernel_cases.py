"""What benchmark_kernels.py measures: each op at a shape, its floor, and who else computes it."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from megaxlm_kernels.embedding import embedding_layer_norm, embedding_layer_norm_reference
from megaxlm_kernels.gelu import bias_gelu, bias_gelu_reference, geglu, geglu_reference
from megaxlm_kernels.layer_norm import (
    add_layer_norm,
    add_layer_norm_reference,
    add_rms_norm,
    add_rms_norm_reference,
)
from megaxlm_kernels.linear_cross_entropy import (
    linear_cross_entropy,
    linear_cross_entropy_reference,
)
from torch import Tensor

EPS, DROPOUT = 1e-5, 0.1
Inputs = dict[str, Tensor]
Op = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """An op at a shape: what it computes, from what, and what that costs at the least."""

    name: str
    shapes: dict[str, tuple[int, ...]]  # of the tensors that are differentiated
    reference: Op
    ours: Op
    eager: Op
    forward_bytes: int
    both_bytes: int  # forward and backward
    forward_flops: int = 0
    both_flops: int = 0
    others: tuple[tuple[str, Op], ...] = ()
    same_dropout: Op | None = None  # eager's, with the dropout of ours, where there is dropout


def elementwise_cases(rows: int, hidden: int, wide: int) -> list[Case]:
    """Norms of (rows, hidden) and activations of (rows, wide), in bf16."""
    narrow, broad = 2 * rows * hidden, 2 * rows * wide
    norm = {"x": (rows, hidden), "residual": (rows, hidden), "bias": (hidden,), "gamma": (hidden,)}
    drawn = {"eps": EPS, "dropout_p": DROPOUT, "seed": 7}
    cases = [
        Case(
            f"add_layer_norm {rows} x {hidden}",
            {**norm, "beta": (hidden,)},
            functools.partial(add_layer_norm_reference, **drawn),
            functools.partial(add_layer_norm, **drawn, implementation="cuda"),
            _eager_layer_norm,
            4 * narrow,
            8 * narrow,  # backward: gradient and sum in, gradients of residual and x out
            others=_optional(_apex_layer_norm),
            same_dropout=functools.partial(add_layer_norm, **drawn),
        ),
        Case(
            f"add_rms_norm {rows} x {hidden}",
            norm,
            functools.partial(add_rms_norm_reference, **drawn),
            functools.partial(add_rms_norm, **drawn, implementation="cuda"),
            _eager_rms_norm,
            4 * narrow,
            8 * narrow,
            same_dropout=functools.partial(add_rms_norm, **drawn),
        ),
        Case(
            f"bias_gelu {rows} x {wide}",
            {"x": (rows, wide), "bias": (wide,)},
            bias_gelu_reference,
            functools.partial(bias_gelu, implementation="cuda"),
            bias_gelu,
            2 * broad,
            5 * broad,
        ),
        Case(
            f"geglu {rows} x {wide}",
            {"x": (rows, 2 * wide), "bias": (2 * wide,)},
            geglu_reference,
            functools.partial(geglu, implementation="cuda"),
            geglu,
            3 * broad,
            8 * broad,
            others=_optional(_liger_geglu),
        ),
    ]
    return cases


def embedding_case(rows: int, hidden: int, vocab: int, seq_len: int = 512) -> Case:
    """Tables, norm and dropout; words as uneven as those of a language."""

    def bound(op: Op, **options: Any) -> Op:
        def run(word: Tensor, position: Tensor, gamma: Tensor, beta: Tensor) -> Any:
            tokens = _word_ids(rows, vocab, word.device)
            positions = torch.arange(rows, device=word.device) % seq_len
            arguments = (tokens, word, positions, position, gamma, beta, EPS, DROPOUT, 7)
            return op(*arguments, **options)

        return run

    narrow = 2 * rows * hidden
    return Case(
        f"embedding_layer_norm {rows} x {hidden}, {vocab} words",
        {
            "word": (vocab, hidden),
            "position": (seq_len, hidden),
            "gamma": (hidden,),
            "beta": (hidden,),
        },
        bound(embedding_layer_norm_reference),
        bound(embedding_layer_norm, implementation="cuda"),
        bound(_eager_embedding),
        4 * narrow,
        8 * narrow + 2 * vocab * hidden,  # the gradient of all words is written
        same_dropout=bound(embedding_layer_norm),
    )


def loss_case(targets: int, hidden: int, vocab: int) -> Case:
    """The loss head; its floor is its three GEMMs."""
    ids = functools.partial(_target_ids, targets, vocab)

    def bound(op: Op, **options: Any) -> Op:
        return lambda hidden, weight, bias: op(
            hidden, weight, bias, ids(hidden.device), _ones(targets, hidden), **options
        )[0]

    gemm = 2 * targets * hidden * vocab
    return Case(
        f"linear_cross_entropy {targets} of {vocab}, hidden {hidden}",
        {"hidden": (targets, hidden), "weight": (vocab, hidden), "bias": (vocab,)},
        bound(linear_cross_entropy_reference),
        bound(linear_cross_entropy, implementation="cuda"),
        bound(linear_cross_entropy_reference),
        2 * vocab * hidden,
        8 * vocab * hidden,
        gemm,
        3 * gemm,
        others=(
            ("torch, chunked", bound(linear_cross_entropy)),
            *_optional(functools.partial(_cut_cross_entropy, ids), _named="cut-cross-entropy"),
            *_optional(functools.partial(_liger_loss, ids), _named="Liger"),
        ),
    )


@functools.cache
def _word_ids(count: int, vocab: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    ids = (torch.rand(count, generator=generator) ** 6 * (vocab - 1)).long()
    ids[torch.rand(count, generator=generator) < 0.12] = vocab - 1  # <mask>
    return ids.to(device)


@functools.cache
def _target_ids(targets: int, vocab: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, vocab, (targets,), generator=generator).to(device)


def _ones(count: int, like: Tensor) -> Tensor:
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.ones(count, device=like.device, dtype=dtype)


def _eager_layer_norm(
    x: Tensor, residual: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor]:
    total = residual + F.dropout(x + bias, DROPOUT)
    return F.layer_norm(total, x.shape[1:], gamma, beta, EPS), total


def _eager_embedding(
    tokens: Tensor,
    word: Tensor,
    positions: Tensor,
    position: Tensor,
    gamma: Tensor,
    beta: Tensor,
    *_: Any,
) -> Tensor:
    hidden = F.embedding(tokens, word) + F.embedding(positions, position)
    return F.dropout(F.layer_norm(hidden, gamma.shape, gamma, beta, EPS), DROPOUT)


def _eager_rms_norm(
    x: Tensor, residual: Tensor, bias: Tensor, gamma: Tensor
) -> tuple[Tensor, Tensor]:
    total = residual + F.dropout(x + bias, DROPOUT)
    return F.rms_norm(total, x.shape[1:], gamma, EPS), total


def _optional(make: Callable[[], Op], _named: str = "") -> tuple[tuple[str, Op], ...]:
    """Returns a competitor, or none where its package is missing or is another of that name."""
    try:
        op = make()
    except (ImportError, AttributeError, RuntimeError):
        return ()
    return ((_named or make.__name__.strip("_").split("_")[0], op),)


def _apex_layer_norm() -> Op:
    fused = importlib.import_module("apex.normalization.fused_layer_norm").fused_layer_norm_affine

    def run(x: Tensor, residual: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor) -> Any:
        total = residual + F.dropout(x + bias, DROPOUT)
        return fused(total, gamma, beta, x.shape[1:], EPS), total

    return run


def _liger_geglu() -> Op:
    # Its GELU is the tanh approximation: faster than the exact one, and another function.
    function = importlib.import_module("liger_kernel.ops.geglu").LigerGELUMulFunction

    def run(x: Tensor, bias: Tensor) -> Any:
        gate, linear = (x + bias).chunk(2, 1)
        return function.apply(gate.contiguous(), linear.contiguous())

    return run


def _liger_loss(ids: Callable[[torch.device], Tensor]) -> Op:
    module = importlib.import_module("liger_kernel.transformers.functional")
    function = module.liger_fused_linear_cross_entropy

    def run(hidden: Tensor, weight: Tensor, bias: Tensor) -> Any:
        return function(hidden, weight, ids(hidden.device), bias=bias, reduction="sum")

    return run


def _cut_cross_entropy(ids: Callable[[torch.device], Tensor]) -> Op:
    function = importlib.import_module("cut_cross_entropy").linear_cross_entropy

    def run(hidden: Tensor, weight: Tensor, bias: Tensor) -> Any:
        return function(hidden, weight, ids(hidden.device), bias=bias, reduction="sum")

    return run


def make_inputs(case: Case, device: torch.device, number: int) -> Inputs:
    """Returns leaves in bf16; a weight of one for norms, small ones for the head."""
    generator = torch.Generator(device).manual_seed(number)
    made = {}
    for name, shape in case.shapes.items():
        values = torch.randn(shape, device=device, generator=generator)
        scale = 0.02 if name == "weight" else 1.0
        values = values * scale + (1.0 if name == "gamma" else 0.0)
        made[name] = values.bfloat16().requires_grad_()
    return made
