"""Dropout keyed by row: what a row loses depends on nothing but the row."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from megaxlm.data.batch import MicroBatch
from megaxlm.model.dropout_key import AFTER_EMBEDDINGS, DropoutKey, SeededRows, drop_out
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.initialization import initialize
from megaxlm.model.segments import Segments, block_mask
from megaxlm.testing.models import join_micro_batches, random_micro_batch, tiny_model_config

HIDDEN = torch.zeros(1)
SEQ_LEN = 16


def seed_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the CPU do what CUDA does in fp32: torch's kernels and generator, masked rows."""

    def layer(self: DropoutKey, index: int, hidden: torch.Tensor) -> SeededRows:
        return SeededRows(self, index, torch.default_generator)

    def plan(
        cls: type[Segments],
        cu_seqlens: torch.Tensor,
        num_tokens: int,
        seq_len: int,
        dtype: torch.dtype,
    ) -> Segments:
        mask = block_mask(cu_seqlens, num_tokens, seq_len)
        return cls(cu_seqlens, seq_len, "masked", row_mask=mask)

    monkeypatch.setattr(DropoutKey, "layer", layer)
    monkeypatch.setattr(Segments, "plan", classmethod(plan))


@pytest.fixture(params=["streams", "seeded"])
def drawn_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """On the CPU, and what CUDA does in fp32."""
    if request.param == "seeded":
        seed_rows(monkeypatch)
    return str(request.param)


each_way = pytest.mark.usefixtures("drawn_by")


def hidden_kept(key: DropoutKey, layer: int = 0, place: int = 0, prob: float = 0.5) -> torch.Tensor:
    drawn = key.layer(layer, HIDDEN)
    ones = torch.ones(len(key.row_ids) * key.seq_len, 20)
    return drop_out(ones, prob, drawn, place).view(len(key.row_ids), key.seq_len, 20)


@each_way
def test_a_row_drops_the_same_wherever_it_stands() -> None:
    whole = hidden_kept(DropoutKey(1, (8, 3, 1 << 40), SEQ_LEN))
    assert set(whole.unique().tolist()) == {0.0, 2.0}
    for number, row in enumerate((8, 3, 1 << 40)):
        assert torch.equal(hidden_kept(DropoutKey(1, (row,), SEQ_LEN))[0], whole[number])


@each_way
def test_seed_row_layer_and_place_all_count() -> None:
    one = hidden_kept(DropoutKey(1, (8,), SEQ_LEN))
    others = (
        hidden_kept(DropoutKey(2, (8,), SEQ_LEN)),
        hidden_kept(DropoutKey(1, (9,), SEQ_LEN)),
        hidden_kept(DropoutKey(1, (8,), SEQ_LEN), layer=1),
        hidden_kept(DropoutKey(1, (8,), SEQ_LEN), place=1),
        hidden_kept(DropoutKey(-1, (8,), SEQ_LEN)),
    )
    for other in others:
        assert 0.3 < float((other == one).double().mean()) < 0.7  # as chance has it


@each_way
def test_kept_tokens_drop_what_they_do_among_all() -> None:
    drawn = DropoutKey(1, (8, 3), SEQ_LEN).layer(2, HIDDEN)
    keep = torch.tensor([0, 5, 17, 31])
    ones = torch.ones(2 * SEQ_LEN, 21)  # rows that do not fill whole words
    whole = drop_out(ones, 0.3, drawn, 1)
    assert torch.equal(drop_out(ones[keep], 0.3, drawn, 1, keep), whole[keep])


@each_way
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_share_scale_and_gradient(dtype: torch.dtype) -> None:
    drawn = DropoutKey(1, tuple(range(64)), 64).layer(-1, HIDDEN)
    hidden = torch.full((64 * 64, 24), 0.9, dtype=dtype, requires_grad=True)
    dropped = drop_out(hidden, 0.1, drawn, AFTER_EMBEDDINGS)
    dropped.sum().backward()
    kept = dropped != 0
    assert dropped.dtype == dtype and hidden.grad is not None
    assert abs(float(kept.double().mean()) - 0.9) < 0.005
    # 1 to the resolution of a probability; a factor rounded to bf16 would make it 0.996.
    torch.testing.assert_close(dropped[kept].double().mean().item(), 1.0, rtol=2e-5, atol=0)
    assert torch.equal(hidden.grad != 0, kept)


@each_way
def test_a_probability_just_under_one_stays_finite() -> None:
    assert hidden_kept(DropoutKey(1, (8,), SEQ_LEN), prob=1 - 1e-9).isfinite().all()


@each_way
@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_losses_of_a_row_do_not_depend_on_its_micro_batch(
    pre_norm: bool, checkpointing: bool
) -> None:
    check_losses(pre_norm, checkpointing, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("pre_norm", [False, True])
def test_losses_of_a_row_do_not_depend_on_its_micro_batch_on_a_gpu(pre_norm: bool) -> None:
    check_losses(pre_norm, True, torch.device("cuda:0"))


def check_losses(pre_norm: bool, checkpointing: bool, device: torch.device) -> None:
    """All dropout on: embeddings, attention of unequal segments, both sums, the last layer."""
    config = tiny_model_config(num_hidden_layers=3, dropout=0.3, pre_norm=pre_norm)
    config = config.model_copy(update={"activation_checkpointing": checkpointing})
    model = MaskedLanguageModel(config).train()
    initialize(model, config, 3)
    model.to(device)
    parts = [random_micro_batch(seed, rows=rows) for seed, rows in ((5, 1), (6, 3), (9, 2))]

    def train(part: MicroBatch) -> torch.Tensor:
        key = DropoutKey.of(7, part.row_ids, SEQ_LEN)
        places = (part.tokens, part.positions, part.cu_seqlens, part.target_index, part.targets)
        inputs = [*places, torch.ones(len(part.targets))]
        loss, losses = model(*(side.to(device) for side in inputs), SEQ_LEN, key)
        (loss * len(part.targets)).backward()
        return losses  # type: ignore[no-any-return]

    def gradients() -> dict[str, torch.Tensor]:
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        return found

    batch = join_micro_batches(parts)
    whole, whole_gradients = train(batch), gradients()
    torch.testing.assert_close(torch.cat([train(part) for part in parts]), whole, rtol=0, atol=2e-6)
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, whole_gradients[name], rtol=1e-4, atol=1e-5, msg=name)
    other = replace(batch, row_ids=batch.row_ids + 1)
    assert float((train(other) - whole).abs().max()) > 1e-3
