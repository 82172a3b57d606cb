"""add_layer_norm and add_rms_norm against float64 truth, in each dtype and implementation."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from megaxlm_kernels.layer_norm import (
    add_layer_norm,
    add_layer_norm_reference,
    add_rms_norm,
    add_rms_norm_reference,
)
from megaxlm_kernels.library import choose_implementation
from megaxlm_kernels.testing import (
    assert_no_worse_than_eager,
    normals,
    results_and_gradients,
    widened,
)
from torch import Tensor

NAMES = ("x", "residual", "bias", "gamma", "beta")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
EPS = 1e-5
OPS = {True: (add_layer_norm, add_layer_norm_reference)}
OPS[False] = (add_rms_norm, add_rms_norm_reference)


@pytest.fixture(scope="module", autouse=True)
def library(builds: object) -> None:
    assert choose_implementation("cuda", "cpu") == "cuda"


def make_inputs(
    rows: int,
    hidden: int,
    dtype: torch.dtype,
    seed: int = 0,
    absent: tuple[str, ...] = (),
) -> dict[str, Tensor | None]:
    shapes = {name: (hidden,) for name in NAMES} | {"x": (rows, hidden), "residual": (rows, hidden)}
    means = {"x": 0.5, "gamma": 1.0}
    return normals(shapes | dict.fromkeys(absent), dtype, seed, means)  # type: ignore[arg-type]


def run(op, inputs, dropout_p, seed, grads, **options) -> dict[str, Tensor]:
    """The results and gradients of every input, by name."""
    bound = functools.partial(op, eps=EPS, dropout_p=dropout_p, seed=seed, **options)
    return results_and_gradients(bound, inputs, ("y", "sum"), grads)


def compare(inputs, dropout_p: float, seed: int, with_grad_sum: bool, centred: bool = True) -> None:
    op, reference = OPS[centred]
    if not centred:
        inputs = {name: tensor for name, tensor in inputs.items() if name != "beta"}
    x = inputs["x"]
    generator = torch.Generator().manual_seed(1)
    grad_y = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype)
    grad_sum = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype)
    grads = (grad_y, grad_sum if with_grad_sum else None)
    exact = run(reference, widened(inputs), dropout_p, seed, grads)
    eager = run(op, inputs, dropout_p, seed, grads, implementation="torch")
    fused = run(op, inputs, dropout_p, seed, grads, implementation="cuda")
    for name, found in fused.items():
        assert_no_worse_than_eager(name, found, eager[name], exact[name])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dropout_p", [0.0, 0.1])
@pytest.mark.parametrize("hidden", [768, 1024, 1280, 2304, 2560, 4096])
@pytest.mark.parametrize("centred", [True, False])
def test_errs_no_more_than_eager_torch(
    dtype: torch.dtype, dropout_p: float, hidden: int, centred: bool
) -> None:
    compare(make_inputs(33, hidden, dtype), dropout_p, 7, with_grad_sum=False, centred=centred)


@pytest.mark.parametrize("with_grad_sum", [False, True])
@pytest.mark.parametrize(
    "absent",
    [c for n in range(4) for c in itertools.combinations(("residual", "bias", "beta"), n)],
)
@pytest.mark.parametrize("dropout_p", [0.0, 0.25])
def test_any_part_may_be_absent(
    absent: tuple[str, ...], dropout_p: float, with_grad_sum: bool
) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        inputs = make_inputs(17, 264, dtype, absent=absent)
        compare(inputs, dropout_p, 3, with_grad_sum=with_grad_sum)
        if "beta" in absent:
            compare(inputs, dropout_p, 3, with_grad_sum=with_grad_sum, centred=False)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 40),
    groups=st.integers(1, 60),
    dropout_p=st.sampled_from([0.0, 0.1, 0.9]),
    seed=st.integers(-(2**63), 2**63 - 1),
    with_grad_sum=st.booleans(),
    centred=st.booleans(),
)
def test_ragged_shapes(
    rows: int, groups: int, dropout_p: float, seed: int, with_grad_sum: bool, centred: bool
) -> None:
    # fp32: in low precision a single row of 8 errs by the luck of its roundings.
    inputs = make_inputs(rows, groups * 8, torch.float32, seed=seed & 0xFFFF)
    compare(inputs, dropout_p, seed, with_grad_sum, centred)


@pytest.mark.parametrize("centred", [True, False])
def test_gradients_of_the_reference_equal_finite_differences(centred: bool) -> None:
    """The kernels know no fp64: they are held to the reference, and the reference to this."""
    inputs = tuple(make_inputs(3, 8, torch.float64).values())[: 5 if centred else 4]
    op, reference = OPS[centred]

    def of(op, **options):
        return lambda *tensors: op(*tensors, EPS, 0.3, 11, **options)

    assert torch.autograd.gradcheck(of(reference), inputs)
    assert torch.autograd.gradcheck(of(op, implementation="torch"), inputs)


@pytest.mark.parametrize("implementation", ["cuda", "torch"])
def test_backward_drops_what_forward_dropped(implementation: str) -> None:
    inputs = make_inputs(16, 64, torch.float32)
    _, total = add_layer_norm(*inputs.values(), EPS, 0.5, 5, implementation=implementation)
    kept = (total - inputs["residual"]).detach() != 0
    (dx,) = torch.autograd.grad(total.sum(), [inputs["x"]])
    assert 0.4 < float(kept.float().mean()) < 0.6
    assert torch.equal(dx, kept * 2.0)


@pytest.mark.parametrize("implementation", ["cuda", "torch"])
def test_nothing_to_add_returns_x_as_the_sum(implementation: str) -> None:
    inputs = make_inputs(5, 16, torch.bfloat16, absent=("residual", "bias"))
    y, total = add_layer_norm(*inputs.values(), EPS, implementation=implementation)
    assert total is inputs["x"] and y.dtype == torch.bfloat16


def test_y_is_the_norm_of_the_sum_as_returned() -> None:
    inputs = make_inputs(9, 128, torch.bfloat16)
    y, total = add_layer_norm(*inputs.values(), EPS, 0.2, 3, implementation="cuda")
    again, _ = add_layer_norm(
        total.detach(), None, None, inputs["gamma"], inputs["beta"], EPS, implementation="cuda"
    )
    assert torch.equal(y, again)


def test_a_mean_far_above_the_spread_costs_no_precision() -> None:
    """The variance is taken about the mean: sums of squares would leave nothing of it in fp32."""
    x = (torch.randn(4, 256) + 1000).requires_grad_()
    weight = torch.ones(256)
    y, _ = add_layer_norm(x, None, None, weight, None, EPS, implementation="cuda")
    exact, _ = add_layer_norm_reference(x, None, None, weight, None, EPS)
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=1e-3)


@pytest.mark.parametrize("implementation", ["cuda", "torch"])
def test_no_rows(implementation: str) -> None:
    inputs = make_inputs(0, 16, torch.float32)
    grads = (torch.zeros(0, 16), None)
    found = run(add_layer_norm, inputs, 0.1, 1, grads, implementation=implementation)
    assert found["y"].shape == (0, 16)
    assert torch.equal(found["dgamma"], torch.zeros(16))


def test_two_runs_give_the_same_bits() -> None:
    inputs = make_inputs(40, 256, torch.bfloat16)
    grads = (torch.randn(40, 256), None)
    first, second = (
        run(add_layer_norm, inputs, 0.1, 9, grads, implementation="cuda") for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_infinite_and_nan_inputs_stay_in_their_row() -> None:
    x = torch.randn(3, 16)
    x[1, 4] = float("nan")
    y, _ = add_layer_norm(x, None, None, torch.ones(16), None, EPS, implementation="cuda")
    assert y[1].isnan().all() and y[[0, 2]].isfinite().all()
