"""The CUDA kernels of add_layer_norm and add_rms_norm on the CPU, as they are, emulated."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import pytest
import torch
from emulator.emulate import CSRC, Module, compile_for_emulator
from hypothesis import given, settings
from hypothesis import strategies as st
from megaxlm_kernels.layer_norm import (
    add_layer_norm,
    add_layer_norm_reference,
    add_rms_norm,
    add_rms_norm_reference,
)
from megaxlm_kernels.philox import drop_threshold, dropout_mask, keep_scale
from megaxlm_kernels.testing import (
    assert_no_worse_than_eager,
    normals,
    results_and_gradients,
    widened,
)
from torch import Tensor

EPS = 1e-5
SEED = -(2**62) + 12345
PLACES = torch.arange(40) * 3 + 2**40
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
NAMES = ("x", "residual", "bias", "gamma", "beta")
POINTER = ctypes.c_void_p


class Dropout(ctypes.Structure):
    _fields_ = [
        ("seed", ctypes.c_int64),
        ("threshold", ctypes.c_uint32),
        ("scale", ctypes.c_float),
        ("places", POINTER),
    ]


class Forward(ctypes.Structure):
    """AddLayerNormForward of csrc/add_layer_norm.h."""

    _fields_ = [(name, POINTER) for name in (*NAMES, "y", "sum", "mean", "rstd")]
    _fields_ += [("rows", ctypes.c_int64), ("hidden", ctypes.c_int32), ("dtype", ctypes.c_int32)]
    _fields_ += [("eps", ctypes.c_float), ("dropout", Dropout)]


class Backward(ctypes.Structure):
    """AddLayerNormBackward of csrc/add_layer_norm.h."""

    _fields_ = [(name, POINTER) for name in ("grad_y", "grad_sum", "sum", "gamma", "mean", "rstd")]
    _fields_ += [(name, POINTER) for name in ("dsum", "dx", "dgamma", "dbeta", "dbias", "partials")]
    _fields_ += [("rows", ctypes.c_int64), ("hidden", ctypes.c_int32), ("blocks", ctypes.c_int32)]
    _fields_ += [("dtype", ctypes.c_int32), ("dropout", Dropout)]


@pytest.fixture(scope="module")
def module(builds: Path) -> Module:
    sources = sorted(CSRC.glob("add_layer_norm_*.cu"))
    return compile_for_emulator(sources, builds / "emulator")


def make_inputs(
    rows: int, hidden: int, dtype: torch.dtype, absent: tuple[str, ...] = ()
) -> dict[str, Tensor | None]:
    shapes = {name: (hidden,) for name in NAMES} | {"x": (rows, hidden), "residual": (rows, hidden)}
    return normals(shapes | dict.fromkeys(absent), dtype, 0, {"x": 0.5, "gamma": 1.0})


def run_kernels(
    module: Module,
    inputs: dict[str, Tensor | None],
    dropout_p: float,
    grads: tuple[Tensor, Tensor | None],
    multiprocessors: int,
) -> dict[str, Tensor]:
    """Forward, then backward over what it stored; every input is guarded and read-only.

    Inputs without a beta, present or not, are those of add_rms_norm.
    """
    x, gamma = inputs["x"], inputs["gamma"]
    centred = "beta" in inputs
    assert x is not None and gamma is not None
    rows, hidden = x.shape
    drawn = (SEED, drop_threshold(dropout_p), keep_scale(dropout_p))
    own_sum = drawn[1] or not (inputs["residual"] is None and inputs["bias"] is None)
    with module.call(multiprocessors) as call:
        y = call.write("y", rows, hidden, dtype=x.dtype)
        total = call.write("sum", rows, hidden, dtype=x.dtype) if own_sum else None
        mean = call.write("mean", rows, dtype=torch.float32) if centred else None
        rstd = call.write("rstd", rows, dtype=torch.float32)
        arguments = Forward(
            **{name: call.address(name, tensor) for name, tensor in inputs.items()},
            y=call.address_of(y),
            sum=call.address_of(total),
            mean=call.address_of(mean),
            rstd=call.address_of(rstd),
            rows=rows,
            hidden=hidden,
            dtype=DTYPES[x.dtype],
            eps=EPS,
            dropout=Dropout(*drawn, call.address("places", PLACES[:rows])),
        )
        module.launch("megaxlm_add_layer_norm_forward_cuda", ctypes.byref(arguments), None)
    stored = x.detach() if total is None else total
    with module.call(multiprocessors) as call:
        count = module.library.megaxlm_add_layer_norm_backward_blocks_cuda
        blocks = count(ctypes.c_int64(rows), hidden)
        made = {"dsum": call.write("dsum", rows, hidden, dtype=x.dtype)}
        if drawn[1]:
            made["dx"] = call.write("dx", rows, hidden, dtype=x.dtype)
        for name in ("gamma", "beta", "bias"):
            if inputs.get(name) is not None:
                made[f"d{name}"] = call.write(f"d{name}", hidden, dtype=x.dtype)
        partials = call.write("partials", blocks, 3, hidden, dtype=torch.float32)
        arguments = Backward(
            grad_y=call.address("grad_y", grads[0]),
            grad_sum=call.address("grad_sum", grads[1]),
            sum=call.address("sum", stored),
            gamma=call.address("gamma", gamma),
            mean=call.address("mean", mean),
            rstd=call.address("rstd", rstd),
            **{name: call.address_of(tensor) for name, tensor in made.items()},
            partials=call.address_of(partials),
            rows=rows,
            hidden=hidden,
            blocks=blocks,
            dtype=DTYPES[x.dtype],
            dropout=Dropout(*drawn, call.address("places", PLACES[:rows])),
        )
        module.launch("megaxlm_add_layer_norm_backward_cuda", ctypes.byref(arguments), None)
    dsum = made.pop("dsum")
    if inputs["residual"] is not None:
        made["dresidual"] = dsum
    return {"dx": dsum} | made | {"y": y, "sum": stored}


def compare(
    module: Module,
    rows: int,
    hidden: int,
    dtype: torch.dtype,
    dropout_p: float,
    with_grad_sum: bool,
    absent: tuple[str, ...] = (),
    multiprocessors: int = 2,
    centred: bool = True,
) -> None:
    inputs = make_inputs(rows, hidden, dtype, absent)
    op, reference = add_layer_norm, add_layer_norm_reference
    if not centred:
        del inputs["beta"]
        op, reference = add_rms_norm, add_rms_norm_reference
    shapes = {"grad_y": (rows, hidden), "grad_sum": (rows, hidden) if with_grad_sum else None}
    grads = tuple(g if g is None else g.detach() for g in normals(shapes, dtype, 1).values())
    fused = run_kernels(module, inputs, dropout_p, grads, multiprocessors)  # type: ignore[arg-type]

    def of(op, inputs, **options):
        bound = functools.partial(
            op, eps=EPS, dropout_p=dropout_p, seed=SEED, places=PLACES[:rows], **options
        )
        return results_and_gradients(bound, inputs, ("y", "sum"), grads)

    exact = of(reference, widened(inputs))
    eager = of(op, inputs, implementation="torch")
    assert fused.keys() == exact.keys()
    for name, found in fused.items():
        assert_no_worse_than_eager(name, found, eager[name], exact[name])
    if dropout_p:
        keep = dropout_mask(rows, hidden, dropout_p, SEED, torch.device("cpu"), PLACES[:rows])
        assert not fused["dx"][~keep].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("hidden", "rows"),
    # Listed sizes, with more rows than two SMs take at once, so that all loops go round.
    [(768, 27), (1024, 23), (1280, 19), (2304, 9), (2560, 7), (4096, 5)],
)
def test_listed_hidden_sizes(module: Module, hidden: int, rows: int, dtype: torch.dtype) -> None:
    with_grad_sum = dtype == torch.bfloat16
    compare(module, rows, hidden, dtype, 0.1, with_grad_sum)
    if dtype != torch.float16:
        compare(module, rows, hidden, dtype, 0.1, with_grad_sum, centred=False)


@pytest.mark.parametrize("hidden", [1024, 2560, 264])
def test_without_dropout_and_what_may_be_absent(module: Module, hidden: int) -> None:
    for absent in ((), ("residual",), ("bias", "beta"), ("residual", "bias", "beta")):
        compare(module, 5, hidden, torch.bfloat16, 0.0, with_grad_sum=False, absent=absent)


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(1, 12),
    hidden=st.one_of(st.integers(1, 70).map(lambda n: 8 * n), st.sampled_from([768, 2304, 5000])),
    dropout_p=st.sampled_from([0.0, 0.1, 0.9]),
    with_grad_sum=st.booleans(),
    multiprocessors=st.integers(1, 5),
    centred=st.booleans(),
)
def test_ragged_shapes(
    module: Module,
    rows: int,
    hidden: int,
    dropout_p: float,
    with_grad_sum: bool,
    multiprocessors: int,
    centred: bool,
) -> None:
    # fp32: in low precision a single row of 8 errs by the luck of its roundings.
    compare(
        module,
        rows,
        hidden,
        torch.float32,
        dropout_p,
        with_grad_sum,
        multiprocessors=multiprocessors,
        centred=centred,
    )


def test_the_number_of_multiprocessors_changes_only_the_order_of_sums(module: Module) -> None:
    inputs = make_inputs(13, 768, torch.bfloat16)
    grads = (torch.randn(13, 768).bfloat16(), None)
    one, again, many = (run_kernels(module, inputs, 0.1, grads, count) for count in (1, 1, 4))
    assert all(torch.equal(one[name], again[name]) for name in one)
    for name in ("y", "sum", "dx", "dresidual"):
        assert torch.equal(one[name], many[name])


def test_a_mean_far_above_the_spread_costs_no_precision(module: Module) -> None:
    """Sums of squares would leave nothing of the variance in fp32; several warps share a row."""
    inputs = make_inputs(2, 2304, torch.float32, absent=("residual", "bias", "beta"))
    shifted = inputs | {"x": (inputs["x"] + 1000).detach()}
    found = run_kernels(module, shifted, 0.0, (torch.ones(2, 2304), None), 2)["y"]
    exact, _ = add_layer_norm_reference(*shifted.values(), EPS)
    torch.testing.assert_close(found.double(), exact.detach(), rtol=0, atol=1e-3)
