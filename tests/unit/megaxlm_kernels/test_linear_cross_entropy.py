"""The chunked head equals the eager one in every dtype, and never holds all logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from megaxlm_kernels.checks import reads_values
from megaxlm_kernels.linear_cross_entropy import (
    default_chunk_size,
    linear_cross_entropy,
    linear_cross_entropy_reference,
)
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

VOCAB_SIZE = 61
HIDDEN_SIZE = 16


def make_inputs(
    num_targets: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    statistics = torch.float64 if dtype == torch.float64 else torch.float32

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return [
        normal(num_targets, HIDDEN_SIZE).requires_grad_(),
        normal(VOCAB_SIZE, HIDDEN_SIZE).requires_grad_(),
        normal(VOCAB_SIZE).requires_grad_(),
        torch.randint(0, VOCAB_SIZE, (num_targets,), generator=generator),
        torch.randint(0, 3, (num_targets,), generator=generator).to(statistics),
    ]


def loss_and_gradients(op, inputs: list[Tensor], *extra: int, **options) -> tuple[Tensor, ...]:
    loss, losses = op(*inputs, *extra, **options)
    return loss.detach(), losses, *torch.autograd.grad(loss * 0.37, inputs[:3])


@settings(max_examples=30, deadline=None)
@given(
    num_targets=st.integers(0, 20),
    chunk_size=st.integers(1, 25),
    seed=st.integers(0, 1000),
    label_smoothing=st.sampled_from([0.0, 0.1]),
    z_loss=st.sampled_from([0.0, 1e-2]),
)
def test_equals_the_reference_for_any_chunking(
    num_targets: int, chunk_size: int, seed: int, label_smoothing: float, z_loss: float
) -> None:
    inputs = make_inputs(num_targets, seed=seed)
    options = {"label_smoothing": label_smoothing, "z_loss": z_loss}
    found = loss_and_gradients(linear_cross_entropy, inputs, chunk_size, **options)
    expected = loss_and_gradients(linear_cross_entropy_reference, inputs, **options)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_gradients_equal_finite_differences() -> None:
    """As gradcheck does, which needs several backward passes over one forward."""
    inputs = make_inputs(4)
    gradients = torch.autograd.grad(linear_cross_entropy(*inputs, 3)[0], inputs[:3])
    step = 1e-6
    for tensor, gradient in zip(inputs[:3], gradients, strict=True):
        flat = tensor.detach().view(-1)
        for index in range(0, flat.numel(), 7):
            value = float(flat[index])
            losses = []
            for moved in (value + step, value - step):
                flat[index] = moved
                with torch.no_grad():
                    losses.append(linear_cross_entropy(*inputs, 3)[0])
            flat[index] = value
            difference = (losses[0] - losses[1]) / (2 * step)
            torch.testing.assert_close(gradient.view(-1)[index], difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_loses_no_more_than_eager_torch_in_the_same_dtype(dtype: torch.dtype) -> None:
    inputs = make_inputs(40, dtype)
    exact_inputs = [t.detach().double().requires_grad_(t.requires_grad) for t in inputs]
    exact_inputs[3] = inputs[3]
    exact = loss_and_gradients(linear_cross_entropy_reference, exact_inputs)
    eager = loss_and_gradients(linear_cross_entropy_reference, inputs)
    chunked = loss_and_gradients(linear_cross_entropy, inputs, 7)
    assert [tensor.dtype for tensor in chunked] == [torch.float32] * 2 + [dtype] * 3
    for ours, theirs, truth in zip(chunked, eager, exact, strict=True):
        error = (ours - truth).norm() / truth.norm()
        allowed = (theirs - truth).norm() / truth.norm()
        assert error <= 1.05 * allowed + 1e-5, (error, allowed)


def test_large_logits_do_not_overflow() -> None:
    inputs = make_inputs(6, torch.float32)
    inputs[0] = (inputs[0].detach() * 1e3).requires_grad_()
    loss, losses = linear_cross_entropy(*inputs, 4)
    _, expected = linear_cross_entropy_reference(*inputs)
    torch.testing.assert_close(losses, expected)
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, inputs[:3]))


def test_targets_of_weight_zero_add_nothing() -> None:
    inputs = make_inputs(12)
    inputs[4] = torch.tensor([1.0, 0.0] * 6, dtype=torch.float64)
    kept = inputs[4].bool()
    alone = [inputs[0].detach()[kept].requires_grad_(), *inputs[1:3]]
    alone += [inputs[3][kept], inputs[4][kept]]
    loss, losses, *gradients = loss_and_gradients(linear_cross_entropy, inputs, 5)
    expected_loss, expected_losses, *expected = loss_and_gradients(linear_cross_entropy, alone, 5)
    torch.testing.assert_close(loss, expected_loss)
    torch.testing.assert_close(losses[kept], expected_losses)
    torch.testing.assert_close(gradients[0][kept], expected[0])
    assert not gradients[0][~kept].any()
    torch.testing.assert_close(gradients[1:], expected[1:])


def test_without_bias_and_with_frozen_inputs() -> None:
    hidden, weight, bias, targets, target_weight = make_inputs(9)
    arguments = (hidden, weight, None, targets, target_weight)
    found = torch.autograd.grad(linear_cross_entropy(*arguments, 4)[0], (hidden, weight))
    expected = torch.autograd.grad(linear_cross_entropy_reference(*arguments)[0], (hidden, weight))
    torch.testing.assert_close(found, expected)
    frozen = linear_cross_entropy(hidden, weight.detach(), bias, targets, target_weight, 4)[0]
    found = torch.autograd.grad(frozen, (hidden, bias))
    reference = linear_cross_entropy_reference(hidden, weight, bias, targets, target_weight)[0]
    torch.testing.assert_close(found, torch.autograd.grad(reference, (hidden, bias)))


def test_losses_are_detached_and_nothing_is_kept_without_gradients() -> None:
    inputs = make_inputs(5)
    loss, losses = linear_cross_entropy(*inputs)
    assert loss.requires_grad and not losses.requires_grad
    with torch.no_grad():
        evaluated, evaluated_losses = linear_cross_entropy(*inputs)
    assert not evaluated.requires_grad
    assert torch.equal(evaluated, loss.detach()) and torch.equal(evaluated_losses, losses)


def test_weight_is_not_needed_in_backward() -> None:
    """ZeRO-3 frees the gathered weight after the forward of the module that holds it."""
    inputs = make_inputs(5)
    expected = loss_and_gradients(linear_cross_entropy_reference, inputs)[2:]
    loss = linear_cross_entropy(*inputs)[0] * 0.37
    with torch.no_grad():
        inputs[1].zero_()
    torch.testing.assert_close(torch.autograd.grad(loss, inputs[:3]), tuple(expected))


def test_a_second_backward_is_refused() -> None:
    inputs = make_inputs(5)
    loss = linear_cross_entropy(*inputs)[0]
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward ran twice"):
        loss.backward()


def peak_bytes(run) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        outputs = run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    assert peak > 0
    return peak - sum(output.untyped_storage().nbytes() for output in outputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_holds_less_than_a_tenth_of_the_logits(dtype: torch.dtype) -> None:
    num_targets, vocab_size, hidden_size, chunk_size = 256, 8_000, 8, 8
    hidden = torch.randn(num_targets, hidden_size).to(dtype).requires_grad_()
    weight = torch.randn(vocab_size, hidden_size).to(dtype).requires_grad_()
    bias = torch.zeros(vocab_size, dtype=dtype, requires_grad=True)
    inputs = [hidden, weight, bias, torch.arange(num_targets), torch.ones(num_targets)]
    logits_bytes = num_targets * vocab_size * 4
    loss_and_gradients(linear_cross_entropy, inputs, chunk_size)  # first-call workspaces
    extra = peak_bytes(lambda: loss_and_gradients(linear_cross_entropy, inputs, chunk_size))
    eager = peak_bytes(lambda: loss_and_gradients(linear_cross_entropy_reference, inputs))
    assert eager > logits_bytes
    assert extra < logits_bytes / 10
    with torch.no_grad():
        evaluated = peak_bytes(lambda: linear_cross_entropy(*inputs, chunk_size))
    assert evaluated < logits_bytes / 10


def test_default_chunk_stays_below_a_tenth_at_the_size_that_counts() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.empty(250_002, 768, dtype=dtype, device="meta")
        cpu_like = torch.empty(250_002, 1, dtype=dtype)
        rows = default_chunk_size(cpu_like)
        bytes_per_logit = 4 if dtype == torch.float32 else 6
        assert 64 <= rows and rows * 250_002 * bytes_per_logit < 2458 * 250_002 * 4 / 10
        assert default_chunk_size(weight) > rows
    assert default_chunk_size(torch.empty(1 << 27, 1, dtype=torch.bfloat16)) == 1


@pytest.mark.parametrize(
    ("position", "wrong", "message"),
    [
        (0, torch.zeros(5), r"hidden must be floating \(targets, hidden\)"),
        (0, torch.zeros(5, HIDDEN_SIZE, dtype=torch.int64), "hidden must be floating"),
        (1, torch.zeros(VOCAB_SIZE, 3), r"weight must be \(vocab, 16\)"),
        (1, torch.zeros(VOCAB_SIZE, HIDDEN_SIZE, dtype=torch.bfloat16), "weight must have the dty"),
        (2, torch.zeros(VOCAB_SIZE + 1), r"bias must be \(61,\)"),
        (3, torch.zeros(5), r"targets must be \(5,\) int64"),
        (3, torch.zeros(4, dtype=torch.int64), r"targets must be \(5,\) int64"),
        (3, torch.tensor([0, 1, 2, 3, VOCAB_SIZE]), "targets holds 61, outside the vocabulary"),
        (3, torch.tensor([0, 1, 2, -100, 3]), "targets holds -100, outside the vocabulary"),
        (4, torch.tensor([1.0, 1.0, float("nan"), 1.0, 1.0]), "target_weight holds NaN"),
        (4, torch.ones(5, dtype=torch.float64), r"target_weight must be \(5,\) torch.float32"),
        (4, torch.ones(5, device="meta"), "target_weight is on meta, hidden on cpu"),
    ],
)
def test_wrong_arguments_are_named(position: int, wrong: Tensor, message: str) -> None:
    inputs = make_inputs(5, torch.float32)
    inputs[position] = wrong
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(*inputs)


def test_a_chunk_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        linear_cross_entropy(*make_inputs(5), chunk_size=0)


def test_on_a_gpu_values_are_looked_at_on_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = torch.empty(3, device="meta")
    assert reads_values(torch.empty(3)) and not reads_values(torch.empty(0))
    assert not reads_values(elsewhere)
    monkeypatch.setenv("MEGAXLM_KERNELS_CHECK", "1")
    assert reads_values(elsewhere)
