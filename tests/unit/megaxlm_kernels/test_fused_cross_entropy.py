"""linear_cross_entropy, "cuda": the CPU implementation and the kernel itself under the emulator."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path

import pytest
import torch
from emulator.emulate import CSRC, Module, compile_for_emulator
from hypothesis import given, settings
from hypothesis import strategies as st
from megaxlm_kernels.library import choose_implementation
from megaxlm_kernels.linear_cross_entropy import (
    default_chunk_size,
    linear_cross_entropy,
    linear_cross_entropy_reference,
)
from megaxlm_kernels.testing import EPSILON, relative_error
from torch import Tensor

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
NAMES = ("loss", "nll", "dhidden", "dweight", "dbias")
POINTER = ctypes.c_void_p


class Arguments(ctypes.Structure):
    """CrossEntropy of csrc/cross_entropy.h."""

    _fields_ = [(name, POINTER) for name in ("logits", "bias", "targets", "nll", "loss")]
    _fields_ += [("rows", ctypes.c_int64), ("stride", ctypes.c_int64), ("vocab", ctypes.c_int32)]
    _fields_ += [("dtype", ctypes.c_int32), ("label_smoothing", ctypes.c_float)]
    _fields_ += [("z_loss", ctypes.c_float), ("wants_gradient", ctypes.c_int32)]
    _fields_ += [("kept_bytes", ctypes.c_int32)]


@pytest.fixture(scope="module", autouse=True)
def library(builds: Path) -> None:
    assert choose_implementation("cuda", "cpu") == "cuda"


@pytest.fixture(scope="module")
def module(builds: Path) -> Module:
    return compile_for_emulator([CSRC / "cross_entropy.cu"], builds / "emulator")


def make_inputs(
    num_targets: int, vocab_size: int, dtype: torch.dtype, seed: int = 0, with_bias: bool = True
) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return values.to(dtype).requires_grad_()

    return [
        normal(num_targets, 16),
        normal(vocab_size, 16),
        normal(vocab_size) if with_bias else None,
        torch.randint(0, vocab_size, (num_targets,), generator=generator),
        torch.randint(0, 3, (num_targets,), generator=generator).float(),
    ]


def run(op, inputs: list[Tensor | None], **options) -> dict[str, Tensor]:
    loss, nll = op(*inputs, **options)
    leaves = [tensor for tensor in inputs[:3] if tensor is not None]
    gradients = torch.autograd.grad(loss * 0.37, leaves)
    return dict(zip(NAMES, (loss.detach(), nll, *gradients), strict=False))


def compare(inputs: list[Tensor | None], chunk_size: int, **options) -> None:
    wide = [None if t is None else t.detach().double().requires_grad_() for t in inputs[:3]]
    exact = run(linear_cross_entropy_reference, [*wide, inputs[3], inputs[4].double()], **options)
    eager = run(linear_cross_entropy_reference, inputs, **options)
    fused = run(
        linear_cross_entropy, inputs, chunk_size=chunk_size, implementation="cuda", **options
    )
    for name, found in fused.items():
        assert found.dtype == eager[name].dtype
        error, allowed = (relative_error(one[name], exact[name]) for one in (fused, eager))
        # As many roundings, but of other numbers: eager's GEMM has added the bias before its own.
        assert error <= 1.1 * allowed + EPSILON, (name, error, allowed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("label_smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.1, 1e-3)])
def test_errs_no_more_than_eager_torch(
    dtype: torch.dtype, with_bias: bool, label_smoothing: float, z_loss: float
) -> None:
    inputs = make_inputs(600, 1003, dtype, with_bias=with_bias)
    compare(inputs, 170, label_smoothing=label_smoothing, z_loss=z_loss)


@settings(max_examples=25, deadline=None)
@given(
    num_targets=st.integers(1, 20),
    vocab_size=st.integers(1, 70),
    chunk_size=st.integers(1, 25),
    seed=st.integers(0, 1000),
)
def test_ragged_shapes(num_targets: int, vocab_size: int, chunk_size: int, seed: int) -> None:
    inputs = make_inputs(num_targets, vocab_size, torch.float32, seed)
    options = {"label_smoothing": 0.05, "z_loss": 1e-3}
    wide = [t.detach().double().requires_grad_() for t in inputs[:3]]
    exact = run(linear_cross_entropy_reference, [*wide, inputs[3], inputs[4].double()], **options)
    fused = run(
        linear_cross_entropy, inputs, chunk_size=chunk_size, implementation="cuda", **options
    )
    for name, found in fused.items():
        torch.testing.assert_close(found.double(), exact[name], rtol=1e-4, atol=1e-5)


def test_no_targets_no_gradients_and_frozen_inputs() -> None:
    inputs = make_inputs(0, 61, torch.bfloat16)
    found = run(linear_cross_entropy, inputs, implementation="cuda")
    assert float(found["loss"]) == 0 and not found["dweight"].any() and not found["dbias"].any()
    hidden, weight, bias, targets, target_weight = make_inputs(9, 61, torch.float32)
    frozen = (hidden, weight.detach(), bias, targets, target_weight)
    loss, nll = linear_cross_entropy(*frozen, 4, implementation="cuda")
    expected, _ = linear_cross_entropy_reference(*frozen)
    for one, other in zip(
        torch.autograd.grad(loss, (hidden, bias)),
        torch.autograd.grad(expected, (hidden, bias)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        evaluated, evaluated_nll = linear_cross_entropy(*frozen, 4, implementation="cuda")
    assert not evaluated.requires_grad
    assert torch.equal(evaluated, loss.detach()) and torch.equal(evaluated_nll, nll)


def test_a_second_backward_is_refused_and_the_weight_may_be_gone_by_the_first() -> None:
    inputs = make_inputs(5, 61, torch.float32)
    expected = run(linear_cross_entropy_reference, inputs)["dhidden"]
    loss, _ = linear_cross_entropy(*inputs, implementation="cuda")
    with torch.no_grad():
        inputs[1].zero_()  # as ZeRO-3 frees it after the module's forward
    (found,) = torch.autograd.grad(loss * 0.37, inputs[:1], retain_graph=True)
    torch.testing.assert_close(found, expected)
    with pytest.raises(RuntimeError, match="backward ran twice"):
        loss.backward()


def test_opcheck() -> None:
    logits = torch.randn(4, 64)
    for bias, wants_gradient in ((torch.randn(61), True), (None, False)):
        arguments = (logits.clone(), bias, torch.tensor([0, 60, 5, 7]), 61, 0.1, 1e-3)
        torch.library.opcheck(
            torch.ops.megaxlm.cross_entropy_.default, (*arguments, wants_gradient)
        )


def test_compiles_whole() -> None:
    inputs = make_inputs(10, 61, torch.float32)

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        arguments = (hidden, weight, bias, inputs[3], inputs[4])
        return linear_cross_entropy(*arguments, 4, z_loss=1e-3, implementation="cuda")[0]

    expected = torch.autograd.grad(loss(*inputs[:3]), inputs[:3])
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(*inputs[:3]), inputs[:3])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("implementation", ["cuda", "torch"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("label_smoothing", 1.0), ("label_smoothing", -0.1), ("z_loss", -1.0), ("z_loss", math.nan)],
)
def test_bad_options_are_named(implementation: str, name: str, value: float) -> None:
    inputs = make_inputs(3, 9, torch.float32)
    with pytest.raises(ValueError, match=f"^{name} must"):
        linear_cross_entropy(*inputs, implementation=implementation, **{name: value})


def test_bad_targets_dtypes_and_raw_arguments_are_refused() -> None:
    inputs = make_inputs(3, 9, torch.float32)
    inputs[3] = torch.tensor([0, 9, 1])
    with pytest.raises(ValueError, match="targets holds 9, outside the vocabulary of 9"):
        linear_cross_entropy(*inputs, implementation="cuda")
    wide = [t.detach().double() for t in make_inputs(3, 9, torch.float32)[:3]]
    with pytest.raises(ValueError, match="^hidden must be float32, bfloat16 or float16"):
        linear_cross_entropy(*wide, inputs[3], inputs[4].double(), implementation="cuda")
    op, targets = torch.ops.megaxlm.cross_entropy_, torch.zeros(2, dtype=torch.int64)
    for logits, bias, ids, vocab in (
        (torch.ones(2, 12), None, targets, 12),
        (torch.ones(2, 16), None, targets, 17),
        (torch.ones(2, 16), torch.ones(16), targets, 15),
        (torch.ones(2, 16), None, targets[:1], 16),
        (torch.ones(16, 2).t(), None, targets, 16),
    ):
        with pytest.raises(RuntimeError):
            op(logits, bias, ids, vocab, 0.0, 0.0, True)


def test_the_fused_form_holds_logits_once() -> None:
    weight = torch.empty(250_002, 1, dtype=torch.bfloat16)
    assert default_chunk_size(weight, fused=True) == 3 * default_chunk_size(weight)


def run_kernel(
    module: Module,
    logits: Tensor,  # (rows, stride)
    bias: Tensor | None,
    targets: Tensor,
    vocab: int,
    kept_bytes: int,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    wants_gradient: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, stride = logits.shape
    with module.call(2) as call:
        placed = call.write("logits", rows, stride, dtype=logits.dtype)
        placed[:, :vocab] = logits[:, :vocab]  # behind the vocabulary lies NaN
        nll, loss = (call.write(name, rows, dtype=torch.float32) for name in ("nll", "loss"))
        arguments = Arguments(
            logits=call.address_of(placed),
            bias=call.address("bias", bias),
            targets=call.address("targets", targets),
            nll=call.address_of(nll),
            loss=call.address_of(loss),
            rows=rows,
            stride=stride,
            vocab=vocab,
            dtype=DTYPES[logits.dtype],
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            wants_gradient=wants_gradient,
            kept_bytes=kept_bytes,
        )
        module.launch("megaxlm_cross_entropy_cuda", ctypes.byref(arguments), None)
        return nll.clone(), loss.clone(), placed[:, :vocab].clone()


def exact_rows(
    logits: Tensor, bias: Tensor | None, targets: Tensor, label_smoothing: float, z_loss: float
) -> tuple[Tensor, Tensor, Tensor]:
    biased = (logits.double() + (0 if bias is None else bias.double())).requires_grad_()
    options = {"reduction": "none", "label_smoothing": label_smoothing}
    loss = torch.nn.functional.cross_entropy(biased, targets, **options)
    loss = loss + z_loss * biased.logsumexp(1).square()
    (gradient,) = torch.autograd.grad(loss.sum(), biased)
    nll = torch.nn.functional.cross_entropy(biased.detach(), targets, reduction="none")
    return nll, loss.detach(), gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kept_bytes", [0, 4096, -1])
@pytest.mark.parametrize("vocab", [1, 61, 8200, 12_003])
def test_the_kernel(module: Module, dtype: torch.dtype, kept_bytes: int, vocab: int) -> None:
    """Rows for two blocks, none, some or all of a row in shared memory, and a ragged end."""
    generator = torch.Generator().manual_seed(vocab)
    rows, stride = 3, -(-vocab // 64) * 64
    logits = (3 * torch.randn(rows, stride, generator=generator)).to(dtype)
    bias = torch.randn(vocab, generator=generator).to(dtype)
    targets = torch.tensor([0, vocab - 1, vocab // 2])
    for with_bias, smooth, z_loss in ((bias, 0.1, 1e-3), (None, 0.0, 0.0)):
        found = run_kernel(module, logits, with_bias, targets, vocab, kept_bytes, smooth, z_loss)
        exact = exact_rows(logits[:, :vocab], with_bias, targets, smooth, z_loss)
        torch.testing.assert_close(found[0].double(), exact[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[1].double(), exact[1], rtol=1e-5, atol=1e-5)
        rounding = torch.finfo(dtype).eps if dtype != torch.float32 else 1e-5
        torch.testing.assert_close(found[2].double(), exact[2], rtol=rounding, atol=1e-7)


@settings(max_examples=10, deadline=None)
@given(
    rows=st.integers(0, 5),
    vocab=st.integers(1, 200),
    kept_bytes=st.sampled_from([0, 64, -1]),
    seed=st.integers(0, 1000),
)
def test_the_kernel_on_ragged_shapes(
    module: Module, rows: int, vocab: int, kept_bytes: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, -(-vocab // 8) * 8, generator=generator)
    targets = torch.randint(0, vocab, (rows,), generator=generator)
    found = run_kernel(module, logits, None, targets, vocab, kept_bytes)
    exact = exact_rows(logits[:, :vocab], None, targets, 0.0, 0.0)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-6)


def test_the_kernel_leaves_logits_alone_in_evaluation_and_repeats_its_bits(module: Module) -> None:
    logits = torch.randn(2, 128).bfloat16()
    targets = torch.tensor([3, 99])
    nll, _, same = run_kernel(module, logits, None, targets, 100, -1, wants_gradient=False)
    assert torch.equal(same, logits[:, :100])
    first, again = (run_kernel(module, logits, None, targets, 100, 64) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert torch.equal(first[0], nll)


def test_what_is_wrong_in_a_row_makes_its_loss_nan_and_no_other(module: Module) -> None:
    logits = torch.zeros(5, 64)
    logits[0, 7] = float("nan")
    logits[3, 9] = float("inf")
    logits[4, :32] = float("-inf")  # masked words are fine
    targets = torch.tensor([1, 64, -1, 2, 40])  # of 64 words
    nll, loss, gradient = run_kernel(module, logits, None, targets, 64, -1)
    assert nll.isnan().tolist() == [True, True, True, True, False] == loss.isnan().tolist()
    assert float(nll[4]) == pytest.approx(math.log(32)) and not gradient[4, :32].any()


def test_large_logits_do_not_overflow(module: Module) -> None:
    logits = 1e4 * torch.randn(2, 512)
    targets = torch.tensor([5, 500])
    nll, _, gradient = run_kernel(module, logits, None, targets, 512, -1)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(nll, expected)
    assert gradient.isfinite().all()
