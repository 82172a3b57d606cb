"""add_layer_norm within torch: opcheck, torch.compile, meta tensors, and what it refuses."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import megaxlm_kernels
import pytest
import torch
from megaxlm_kernels.layer_norm import add_layer_norm, add_rms_norm
from megaxlm_kernels.library import choose_implementation
from torch import Tensor, nn

EPS = 1e-5


@pytest.fixture(scope="module", autouse=True)
def library(builds: object) -> None:
    assert choose_implementation("cuda", "cpu") == "cuda"


def tensors(rows: int = 6, hidden: int = 16, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(rows, hidden), (rows, hidden), (hidden,), (hidden,), (hidden,)]
    return [torch.randn(*s, generator=generator).to(dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize("dropout_p", [0.0, 0.2])
@pytest.mark.parametrize("parts", [(0, 1, 2, 3, 4), (0, 3)])
def test_opcheck(dropout_p: float, parts: tuple[int, ...]) -> None:
    inputs = [t if i in parts else None for i, t in enumerate(tensors())]
    places = torch.tensor([5, 0, 2**40, 9, 9, 1]) if dropout_p else None
    for centred in (True, False):
        torch.library.opcheck(
            torch.ops.megaxlm.add_layer_norm.default, (*inputs, EPS, dropout_p, 7, places, centred)
        )
    x, _, _, gamma, _ = (t.detach() for t in tensors())
    mean, rstd = x.mean(1), (x.var(1, correction=0) + EPS).rsqrt()
    torch.library.opcheck(
        torch.ops.megaxlm.add_layer_norm_backward.default,
        (x, None if 1 not in parts else x, x, gamma, mean, rstd, dropout_p, 7, places, True, False),
    )
    torch.library.opcheck(
        torch.ops.megaxlm.add_layer_norm_backward.default,
        (x, None, x, gamma, None, rstd, dropout_p, 7, None, False, True),
    )


@pytest.mark.parametrize("implementation", ["cuda", "torch"])
def test_compiles_whole_and_no_new_seed_compiles_again(implementation: str) -> None:
    def loss(inputs: list[Tensor], seed: int) -> Tensor:
        y, total = add_layer_norm(*inputs, EPS, 0.2, seed, implementation=implementation)
        return (y * y).sum() + total.mean()

    torch.compiler.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    inputs = tensors()
    for seed in (3, 5, 2**62 + 1, 77, -9):
        expected = torch.autograd.grad(loss(inputs, seed), inputs)
        found = torch.autograd.grad(compiled(inputs, seed), inputs)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
    assert counter.frame_count <= 2  # for one seed, and for any


def test_compiling_first_loads_the_library_too() -> None:
    code = """if True:
        import torch
        from megaxlm_kernels.layer_norm import add_layer_norm, add_rms_norm
        from megaxlm_kernels.library import is_loaded
        def of(x):
            return add_layer_norm(x, x, None, x[0], None, 1e-5, implementation="cuda")[0]
        x = torch.randn(4, 16)
        assert not is_loaded()
        y = torch.compile(of, fullgraph=True, backend="aot_eager")(x)
        assert is_loaded() and torch.equal(y, of(x))
    """
    home = str(Path(megaxlm_kernels.__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": home}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_block_around_it_compiles_whole() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 16, bias=False)
            self.bias = nn.Parameter(torch.randn(16))
            self.norm = nn.LayerNorm(16)

        def forward(self, hidden: Tensor) -> Tensor:
            y, _ = add_layer_norm(
                self.linear(hidden),
                hidden,
                self.bias,
                self.norm.weight,
                self.norm.bias,
                EPS,
                implementation="cuda",
            )
            return y

    torch.manual_seed(0)
    block = Block()
    compiled = torch.compile(copy.deepcopy(block), fullgraph=True, backend="aot_eager")
    hidden = torch.randn(5, 16)
    for module in (block, compiled):
        module(hidden).square().sum().backward()
    torch.testing.assert_close(compiled(hidden), block(hidden))
    for (name, one), two in zip(block.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, msg=lambda text, name=name: f"{name} {text}")


@pytest.mark.parametrize("implementation", ["cuda", "torch"])
def test_rms_norm_compiles_whole_and_names_bad_input(implementation: str) -> None:
    def loss(x: Tensor, gamma: Tensor) -> Tensor:
        y, total = add_rms_norm(x, 2 * x, None, gamma, EPS, 0.2, 5, implementation=implementation)
        return (y * y).sum() + total.mean()

    x, _, _, gamma, _ = tensors()
    expected = torch.autograd.grad(loss(x, gamma), [x, gamma])
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(x, gamma), [x, gamma])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(ValueError, match=r"^gamma must be \(16,\), got \(8,\)"):
        add_rms_norm(x, None, None, gamma[:8], EPS, implementation=implementation)


@pytest.mark.parametrize("implementation", ["cuda", "torch"])
def test_meta_tensors_give_shapes(implementation: str) -> None:
    inputs = [t.detach().to("meta") for t in tensors(6, 24, torch.bfloat16)]
    y, total = add_layer_norm(*inputs, EPS, 0.1, 3, implementation=implementation)
    assert y.shape == total.shape == (6, 24) and y.dtype == torch.bfloat16
    assert y.device.type == "meta"


def test_strided_inputs_and_gradients_are_read_right() -> None:
    inputs = [t.detach() for t in tensors(6, 32)]
    strided = [
        torch.empty(32, 6).t().copy_(inputs[0]).requires_grad_(),
        torch.empty(6, 64)[:, ::2].copy_(inputs[1]),
        torch.empty(64)[::2].copy_(inputs[2]),
        torch.ones(1).expand(32),
        inputs[4],
    ]
    dense = [t.detach().clone(memory_format=torch.contiguous_format) for t in strided]
    dense[0].requires_grad_()
    results = []
    for one in (strided, dense):
        y, total = add_layer_norm(*one, EPS, 0.3, 9, implementation="cuda")
        (dx,) = torch.autograd.grad(y[:, 0].sum() + total.sum(), [one[0]])
        results.append((y, total, dx))
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


GOOD: dict[str, object] = {
    "x": torch.ones(4, 16),
    "residual": torch.ones(4, 16),
    "bias": torch.ones(16),
    "gamma": torch.ones(16),
    "beta": torch.ones(16),
    "eps": EPS,
    "dropout_p": 0.1,
    "seed": 1,
}
BAD = [
    ("x", torch.ones(4, 2, 16), "2 dimensions"),
    ("x", torch.ones(4, 12), "positive multiple of 8"),
    ("x", torch.ones(4, 0), "positive multiple of 8"),
    ("x", torch.ones(4, 16, dtype=torch.int64), "float"),
    ("x", [[1.0] * 16], "must be a tensor, got list"),
    ("residual", torch.ones(3, 16), "must be .4, 16., got .3, 16."),
    ("residual", torch.ones(4, 16, dtype=torch.bfloat16), "torch.float32 as x is"),
    ("residual", torch.ones(4, 16, device="meta"), "must be on cpu as x is, is on meta"),
    ("bias", torch.ones(4, 16), "must be .16,., got"),
    ("gamma", torch.ones(8), "must be .16,., got .8,."),
    ("gamma", torch.ones(16).half(), "torch.float32 as x is"),
    ("gamma", None, "must be a tensor, got NoneType"),
    ("beta", torch.ones(17), "must be .16,., got .17,."),
    ("eps", -1.0, "must not be negative"),
    ("eps", float("nan"), "must not be negative"),
    ("dropout_p", 1.0, "must be in .0, 1., got 1.0"),
    ("dropout_p", -0.1, "must be in"),
    ("dropout_p", float("nan"), "must be in"),
    ("seed", 2**63, "64-bit"),
    ("seed", 1.5, "64-bit"),
    ("places", torch.arange(3), "must be .4,., got .3,."),
    ("places", torch.ones(4), "must be int64, got torch.float32"),
    ("places", torch.arange(4, device="meta"), "must be on cpu as x is, is on meta"),
    ("places", 5, "must be a tensor, got int"),
]


@pytest.mark.parametrize("implementation", ["cuda", "torch"])
@pytest.mark.parametrize(("name", "value", "message"), BAD, ids=lambda v: str(v)[:24])
def test_bad_input_is_named(name: str, value: object, message: str, implementation: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} .*{message}") as error:
        add_layer_norm(**{**GOOD, name: value}, implementation=implementation)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_the_kernels_know_no_float64_and_auto_is_chosen_beforehand() -> None:
    wide = {n: v.double() if isinstance(v, Tensor) else v for n, v in GOOD.items()}
    with pytest.raises(ValueError, match="^x must be float32, bfloat16 or float16, got"):
        add_layer_norm(**wide, implementation="cuda")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="choose_implementation"):
        add_layer_norm(**GOOD, implementation="auto")  # type: ignore[arg-type]


def test_the_raw_op_refuses_what_it_cannot_read() -> None:
    """Reached only past the public function: an exception, not an illegal access."""
    op = torch.ops.megaxlm.add_layer_norm
    x, weight = torch.ones(4, 16), torch.ones(16)
    for arguments in (
        (x.t(), None, None, weight, None),
        (x, x[:3], None, weight, None),
        (x, None, None, weight[:8], None),
        (x.double(), None, None, weight.double(), None),
        (x, None, None, weight.half(), None),
    ):
        with pytest.raises(RuntimeError):
            op(*arguments, EPS, 0.0, 0, None, True)
    for places in (torch.arange(3), torch.arange(4, dtype=torch.int32), torch.arange(8)[::2]):
        with pytest.raises(RuntimeError):
            op(x, None, None, weight, None, EPS, 0.1, 0, places, True)
