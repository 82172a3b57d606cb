"""How an op is judged: by float64 truth, and by what eager torch loses in the same dtype."""

from __future__ import annotations

import torch
from torch import Tensor

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
