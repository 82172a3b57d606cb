"""How an op is judged: by float64 truth, and by what eager torch loses in the same dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Inputs = Mapping[str, Tensor | None]

EPSILON = 1e-5  # relative; what an op may lose beyond eager torch


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Returns the norm of the difference over the norm of the truth, both in float64."""
    exact = exact.detach().double()
    difference = float((found.detach().double() - exact).norm())
    if difference == 0:
        return 0.0
    return difference / max(float(exact.norm()), torch.finfo(torch.float64).tiny)


def assert_no_worse_than_eager(
    name: str,
    found: Tensor,
    eager: Tensor,
    exact: Tensor,  # float64
) -> None:
    """Raises AssertionError unless the op errs at most as much as eager torch, plus 1e-5."""
    assert found.dtype == eager.dtype and found.shape == eager.shape, f"{name}: not like eager's"
    error, allowed = relative_error(found, exact), relative_error(eager, exact) + EPSILON
    # NaN compares false: it fails here.
    assert error <= allowed, f"{name}: relative error {error:.3g}, allowed {allowed:.3g}"


def normals(
    shapes: Mapping[str, tuple[int, ...] | None],
    dtype: torch.dtype,
    seed: int = 0,
    means: Mapping[str, float] | None = None,
) -> dict[str, Tensor | None]:
    """Returns leaves of normal numbers, by name; None where no shape is given."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor | None] = {}
    for name, shape in shapes.items():
        if shape is None:
            made[name] = None
            continue
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        made[name] = (values + (means or {}).get(name, 0.0)).to(dtype).requires_grad_()
    return made


def widened(inputs: Inputs) -> dict[str, Tensor | None]:
    """Returns the same numbers as float64 leaves."""
    return {
        name: None if tensor is None else tensor.detach().double().requires_grad_()
        for name, tensor in inputs.items()
    }


def results_and_gradients(
    op: Callable[..., tuple[Tensor, ...]],
    inputs: Inputs,
    names: Sequence[str],  # of the op's results
    grads: Sequence[Tensor | None],  # of the results; None: nothing flows back
) -> dict[str, Tensor]:
    """Returns the op's results by name, and as "d" + name the gradient of every input."""
    outputs = op(**inputs)
    found = {name: out.detach() for name, out in zip(names, outputs, strict=True)}
    present = {name: tensor for name, tensor in inputs.items() if tensor is not None}
    flowing = [(out, g) for out, g in zip(outputs, grads, strict=True) if g is not None]
    gradients = torch.autograd.grad(
        [out for out, _ in flowing],
        list(present.values()),
        [g.to(out.dtype) for out, g in flowing],
    )
    return found | {f"d{name}": g for name, g in zip(present, gradients, strict=True)}
