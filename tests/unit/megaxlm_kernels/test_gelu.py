"""bias_gelu and geglu: against float64 truth, within torch, under bad input, and emulated."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from emulator.emulate import CSRC, Module, compile_for_emulator
from hypothesis import given, settings
from hypothesis import strategies as st
from megaxlm_kernels.gelu import bias_gelu, bias_gelu_reference, geglu, geglu_reference
from megaxlm_kernels.library import choose_implementation
from megaxlm_kernels.testing import (
    assert_no_worse_than_eager,
    normals,
    results_and_gradients,
    widened,
)
from torch import Tensor

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
OPS = {False: (bias_gelu, bias_gelu_reference), True: (geglu, geglu_reference)}
POINTER = ctypes.c_void_p


class Forward(ctypes.Structure):
    """BiasGeluForward of csrc/bias_gelu.h."""

    _fields_ = [(name, POINTER) for name in ("x", "bias", "y")]
    _fields_ += [("rows", ctypes.c_int64)]
    _fields_ += [(name, ctypes.c_int32) for name in ("width", "gated", "dtype")]


class Backward(ctypes.Structure):
    """BiasGeluBackward of csrc/bias_gelu.h."""

    _fields_ = [(name, POINTER) for name in ("grad_y", "x", "bias", "dx", "dbias", "partials")]
    _fields_ += [("rows", ctypes.c_int64)]
    _fields_ += [(name, ctypes.c_int32) for name in ("width", "gated", "blocks", "dtype")]


@pytest.fixture(scope="module", autouse=True)
def library(builds: Path) -> None:
    assert choose_implementation("cuda", "cpu") == "cuda"


@pytest.fixture(scope="module")
def module(builds: Path) -> Module:
    return compile_for_emulator([CSRC / "bias_gelu.cu"], builds / "emulator")


def make_inputs(
    rows: int, width: int, gated: bool, dtype: torch.dtype, with_bias: bool = True
) -> dict[str, Tensor | None]:
    columns = 2 * width if gated else width
    shapes = {"x": (rows, columns), "bias": (columns,) if with_bias else None}
    inputs = normals(shapes, dtype)
    with torch.no_grad():
        inputs["x"].mul_(3)  # far into both tails
    return inputs


def run(op: Callable[..., Tensor], inputs, grad: Tensor, **options) -> dict[str, Tensor]:
    def one(**tensors: Tensor | None) -> tuple[Tensor]:
        return (op(**tensors, **options),)

    return results_and_gradients(one, inputs, ("y",), (grad,))


def compare(
    rows: int,
    width: int,
    gated: bool,
    dtype: torch.dtype,
    with_bias: bool = True,
    kernels: Callable[..., dict[str, Tensor]] | None = None,
) -> None:
    """Judges the CPU implementation, or the kernels if given."""
    inputs = make_inputs(rows, width, gated, dtype, with_bias)
    grad = normals({"grad": (rows, width)}, dtype, 1)["grad"].detach()
    op, reference = OPS[gated]
    exact = run(reference, widened(inputs), grad)
    eager = run(op, inputs, grad, implementation="torch")
    if kernels is None:
        found = run(op, inputs, grad, implementation="cuda")
    else:
        found = kernels(inputs, grad, gated)
    assert found.keys() == exact.keys()
    for name, tensor in found.items():
        assert_no_worse_than_eager(name, tensor, eager[name], exact[name])


def run_kernels(
    module: Module,
    multiprocessors: int,
    inputs: dict[str, Tensor | None],
    grad: Tensor,
    gated: bool,
) -> dict[str, Tensor]:
    x, bias = inputs["x"], inputs["bias"]
    rows, width = grad.shape
    sizes = {"rows": rows, "width": width, "gated": gated, "dtype": DTYPES[grad.dtype]}
    with module.call(multiprocessors) as call:
        y = call.write("y", rows, width, dtype=x.dtype)
        arguments = Forward(
            x=call.address("x", x),
            bias=call.address("bias", bias),
            y=call.address_of(y),
            **sizes,
        )
        module.launch("megaxlm_bias_gelu_forward_cuda", ctypes.byref(arguments), None)
    with module.call(multiprocessors) as call:
        count = module.library.megaxlm_bias_gelu_backward_blocks_cuda
        blocks = count(ctypes.byref(Backward(**sizes)))
        made = {"dx": call.write("dx", *x.shape, dtype=x.dtype)}
        partials = None
        if bias is not None:
            made["dbias"] = call.write("dbias", *bias.shape, dtype=x.dtype)
            partials = call.write("partials", blocks, x.shape[1], dtype=torch.float32)
        arguments = Backward(
            grad_y=call.address("grad_y", grad),
            x=call.address("x", x),
            bias=call.address("bias", bias),
            **{name: call.address_of(tensor) for name, tensor in made.items()},
            partials=call.address_of(partials),
            blocks=blocks,
            **sizes,
        )
        module.launch("megaxlm_bias_gelu_backward_cuda", ctypes.byref(arguments), None)
    return {"y": y} | made


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_errs_no_more_than_eager_torch(dtype: torch.dtype, gated: bool, with_bias: bool) -> None:
    compare(37, 1024, gated, dtype, with_bias)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(0, 40), width=st.integers(1, 40).map(lambda n: 8 * n), gated=st.booleans())
def test_ragged_shapes(rows: int, width: int, gated: bool) -> None:
    compare(rows, width, gated, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_kernels(module: Module, dtype: torch.dtype, gated: bool, with_bias: bool) -> None:
    """Rows that no number of blocks divides, and a tile of columns that is not full."""
    kernels = functools.partial(run_kernels, module, 2)
    compare(83, 1032, gated, dtype, with_bias, kernels)


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(0, 70),
    width=st.integers(1, 150).map(lambda n: 8 * n),
    gated=st.booleans(),
    multiprocessors=st.integers(1, 5),
)
def test_kernels_on_ragged_shapes(
    module: Module, rows: int, width: int, gated: bool, multiprocessors: int
) -> None:
    kernels = functools.partial(run_kernels, module, multiprocessors)
    compare(rows, width, gated, torch.float32, True, kernels)


def test_kernels_give_the_same_bits_twice_and_columns_do_not_mix(module: Module) -> None:
    inputs = make_inputs(90, 64, True, torch.bfloat16)
    grad = torch.ones(90, 64, dtype=torch.bfloat16)
    first, again = (run_kernels(module, 3, inputs, grad, True) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    one = torch.zeros(90, 64, dtype=torch.bfloat16)
    one[:, 5] = 1
    found = run_kernels(module, 3, inputs, one, True)["dbias"]
    assert found.nonzero().flatten().tolist() == [5, 64 + 5]


@pytest.mark.parametrize("dtype", DTYPES)
def test_tails_infinities_and_nan(module: Module, dtype: torch.dtype) -> None:
    """The fast cdf of the 16-bit kernels is off by 1.5e-7 at most, everywhere."""
    row = torch.tensor([-60.0, -9.0, -5.5, -0.0, 5.5, 9.0, 60.0, float("inf")]).to(dtype)[None]
    inputs = {"x": row, "bias": None}
    found = run_kernels(module, 1, inputs, torch.ones_like(row), False)
    wide = row.double().requires_grad_()
    exact = torch.nn.functional.gelu(wide)
    assert float(found["y"][0, -1]) == float("inf")
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(found["y"][0, :7].double(), exact[0, :7], rtol=rounding, atol=2e-6)
    (slope,) = torch.autograd.grad(exact[:, :7].sum(), wide)
    torch.testing.assert_close(found["dx"][0, :7].double(), slope[0, :7], rtol=rounding, atol=2e-6)
    row[0, 2] = float("nan")
    spoilt = run_kernels(module, 1, inputs, torch.ones_like(row), False)["y"]
    assert spoilt.isnan().nonzero().tolist() == [[0, 2]]


@pytest.mark.parametrize("gated", [False, True])
def test_opcheck(gated: bool) -> None:
    x, bias = make_inputs(5, 16, gated, torch.float32).values()
    torch.library.opcheck(torch.ops.megaxlm.bias_gelu.default, (x, bias, gated))
    torch.library.opcheck(torch.ops.megaxlm.bias_gelu.default, (x, None, gated))
    grad = torch.ones(5, 16)
    for held in (bias.detach(), None):
        torch.library.opcheck(
            torch.ops.megaxlm.bias_gelu_backward.default, (grad, x.detach(), held, gated)
        )


@pytest.mark.parametrize("gated", [False, True])
def test_gradcheck_of_the_torch_implementation(gated: bool) -> None:
    x, bias = make_inputs(3, 8, gated, torch.float64).values()
    assert torch.autograd.gradcheck(OPS[gated][0], (x, bias))


@pytest.mark.parametrize("implementation", ["cuda", "torch"])
@pytest.mark.parametrize("gated", [False, True])
def test_compiles_whole(implementation: str, gated: bool) -> None:
    def loss(x: Tensor, bias: Tensor) -> Tensor:
        return OPS[gated][0](x, bias, implementation=implementation).square().sum()

    inputs = list(make_inputs(5, 16, gated, torch.float32).values())
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(*inputs), inputs)
    found = torch.autograd.grad(compiled(*inputs), inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("gated", [False, True])
def test_strided_inputs_and_gradients_are_read_right(gated: bool) -> None:
    x, bias = (tensor.detach() for tensor in make_inputs(6, 16, gated, torch.float32).values())
    strided = x.t().contiguous().t().requires_grad_()
    wide_bias = bias.repeat_interleave(2)[::2]
    dense = x.clone().requires_grad_()
    results = []
    for one, other in ((strided, wide_bias), (dense, bias)):
        y = OPS[gated][0](one, other, implementation="cuda")
        results.append((y, *torch.autograd.grad(y[:, 0].sum(), [one])))
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


BAD = [
    ("x", torch.ones(4, 2, 16), "2 dimensions"),
    ("x", torch.ones(4, 12), "positive multiple of"),
    ("x", torch.ones(4, 16, dtype=torch.int64), "float"),
    ("x", None, "must be a tensor, got NoneType"),
    ("bias", torch.ones(4, 16), "must be .16,., got"),
    ("bias", torch.ones(16).half(), "torch.float32 as x is"),
    ("bias", torch.ones(16, device="meta"), "must be on cpu as x is, is on meta"),
]


@pytest.mark.parametrize("implementation", ["cuda", "torch"])
@pytest.mark.parametrize("op", [bias_gelu, geglu])
@pytest.mark.parametrize(("name", "value", "message"), BAD, ids=lambda v: str(v)[:24])
def test_bad_input_is_named(op, name: str, value: object, message: str, implementation) -> None:
    good: dict[str, object] = {"x": torch.ones(4, 16), "bias": torch.ones(16)}
    with pytest.raises(ValueError, match=f"^{name} .*{message}") as error:
        op(**{**good, name: value}, implementation=implementation)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="^x must be float32, bfloat16 or float16, got"):
        op(torch.ones(4, 16).double(), None, implementation="cuda")
    with pytest.raises(ValueError, match=r"positive multiple of 16, got \(4, 24\)"):
        geglu(torch.ones(4, 24), None, implementation=implementation)


def test_the_raw_op_refuses_what_it_cannot_read() -> None:
    op, x = torch.ops.megaxlm.bias_gelu, torch.ones(4, 16)
    for arguments in ((x.t(), None, False), (x, x[0, :8], False), (x[:, :8], None, True)):
        with pytest.raises(RuntimeError):
            op(*arguments)
