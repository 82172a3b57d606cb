"""What is dropped out is a pure function of (seed, row of the stream, place in the row, layer).

The number of ranks, the ZeRO stage, the pipeline, the micro-batch size and a resume then change
nothing, a recomputed layer drops the same units, and a checkpoint needs no random state.

On the CPU each row, and each segment of a row, has a stream of bits of its own. On CUDA the kernels
draw from torch's generator. In fp32 that is seeded anew for each row; in bf16 and fp16, where one
launch for all rows counts more than the last digits, for each layer from the first row of the
micro-batch: there another `micro_batch_size` drops other units.
"""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

EMBEDDINGS = -1  # their place among the layers
ATTENTION, AFTER_ATTENTION, AFTER_FEED_FORWARD = range(3)  # places in a layer
AFTER_EMBEDDINGS = 0
LEVELS = 1 << 16  # of a random int16, so a probability is rounded to a multiple of 1 / 65,536
PER_WORD = 4  # of these in 64 random bits
SETTLING_ROUNDS = 12  # of SFC64 after its three seeds, as its author has it


@dataclass(frozen=True)
class DropoutKey:
    """The rows of one micro-batch, under the run's seed."""

    seed: int  # any integer; 64 bits of it count
    row_ids: tuple[int, ...]  # position of each row in the global stream
    seq_len: int

    @classmethod
    def of(cls, seed: int, row_ids: Tensor, seq_len: int) -> DropoutKey:
        """Takes the rows of a micro-batch, (rows,) int64, best on the CPU."""
        return cls(seed, tuple(row_ids.tolist()), seq_len)

    def places(self, device: torch.device) -> Tensor:
        """Returns each token's position in the stream, (tokens,) int64, which kernels draw by."""
        return _places(self.row_ids, self.seq_len, device)

    def layer(self, index: int, hidden: Tensor) -> LayerDropout | None:
        """Returns what a layer draws from for these hidden states; None: torch's generator."""
        if hidden.device.type != "cuda":
            return RowStreams(self, index)
        number = hidden.device.index
        generator = torch.cuda.default_generators[number]
        if hidden.dtype in (torch.bfloat16, torch.float16):
            generator.manual_seed(_hash(self.seed, self.row_ids[0], index))
            return None
        return SeededRows(self, index, generator)


class LayerDropout(ABC):
    """The random bits of one layer for one micro-batch."""

    key: DropoutKey
    index: int

    @abstractmethod
    def keep_factors(
        self, place: int, hidden_size: int, dropout_prob: float, dtype: torch.dtype
    ) -> Tensor:
        """Returns 0 or 1 / (1 - dropout_prob) for each hidden unit, (tokens, hidden)."""

    def _place(self, place: int) -> int:
        return self.index - EMBEDDINGS << 2 | place


@dataclass(frozen=True)
class RowStreams(LayerDropout):
    """Streams of bits of our own, on the CPU."""

    key: DropoutKey
    index: int

    def keep_factors(
        self, place: int, hidden_size: int, dropout_prob: float, dtype: torch.dtype
    ) -> Tensor:
        """Draws 64 bits at a time for four units."""
        return keep_factors(self.hidden_levels(place, hidden_size), dropout_prob, dtype)

    def hidden_levels(self, place: int, hidden_size: int) -> Tensor:
        """Returns (tokens, hidden) int16, uniform, a stream for each row."""
        wanted = self.key.seq_len * hidden_size
        words = np.empty((len(self.key.row_ids), -(-wanted // PER_WORD)), dtype=np.uint64)
        bits = RandomBits(self.key.seed, self._place(place))
        for row, row_id in enumerate(self.key.row_ids):
            bits.begin(row_id, 0)
            words[row] = bits.draw(words.shape[1])
        levels = torch.from_numpy(words.view(np.int16))[:, :wanted]
        return levels.reshape(-1, hidden_size)

    def segments(self, starts: np.ndarray) -> SegmentStreams:
        """Returns the streams of the segments that start at these tokens, (segments,) int64."""
        rows, offsets = np.divmod(starts, self.key.seq_len)
        row_ids = [self.key.row_ids[row] for row in rows]
        return SegmentStreams(self.key.seed, self._place(ATTENTION), row_ids, offsets.tolist())


@dataclass(frozen=True)
class SeededRows(LayerDropout):
    """Torch's generator of a device, seeded for each row: a kernel launch for each of them."""

    key: DropoutKey
    index: int
    generator: torch.Generator  # the one that torch's kernels draw from by default

    def keep_factors(
        self, place: int, hidden_size: int, dropout_prob: float, dtype: torch.dtype
    ) -> Tensor:
        """Draws a row at a time."""
        shape = (len(self.key.row_ids), self.key.seq_len, hidden_size)
        keep = torch.empty(shape, dtype=torch.bool, device=self.generator.device)
        for row in self.each_row(place):
            keep[row].bernoulli_(1 - dropout_prob, generator=self.generator)
        return keep.view(-1, hidden_size).to(dtype).mul_(1 / (1 - dropout_prob))

    def each_row(self, place: int) -> Iterator[int]:
        """Yields each row's number in the micro-batch, the generator seeded for what it drops."""
        for row, row_id in enumerate(self.key.row_ids):
            self.generator.manual_seed(_hash(self.key.seed, row_id, self._place(place)))
            yield row


@dataclass(frozen=True)
class SegmentStreams:
    """Where the bits of each segment's attention probabilities come from."""

    seed: int
    place: int  # layer and place in it
    row_ids: Sequence[int]
    offsets: Sequence[int]  # of the segment's first token in its row

    @classmethod
    def from_generator(cls, num_segments: int) -> SegmentStreams:
        """Returns streams that torch's CPU generator chooses, for a layer without a key."""
        seed = int(torch.empty((), dtype=torch.int64).random_())
        return cls(seed, ATTENTION, range(num_segments), [0] * num_segments)


class RandomBits:
    """One stream at a time for one seed and place: SFC64, the fastest of numpy's generators."""

    def __init__(self, seed: int, place: int) -> None:
        self._generator = np.random.SFC64(0)
        self._seed, self._place = seed & (1 << 64) - 1, place

    def begin(self, row_id: int, offset: int) -> None:
        """Goes to the first bit of a row's, or a segment's, stream."""
        # No hash, no collision: the three seeds of SFC64 hold all of it.
        seeds = np.array([self._seed, row_id, self._place << 32 | offset, 1], dtype=np.uint64)
        self._generator.state = {
            "bit_generator": "SFC64",
            "state": {"state": seeds},
            "has_uint32": 0,
            "uinteger": 0,
        }
        self._generator.random_raw(SETTLING_ROUNDS)

    def draw(self, words: int) -> np.ndarray:
        """Returns the next (words,) uint64."""
        drawn: np.ndarray = self._generator.random_raw(words)
        return drawn


def num_dropped(dropout_prob: float) -> int:
    """Returns how many of the `LEVELS` levels are dropped; not all, for a probability under 1."""
    return min(round(dropout_prob * LEVELS), LEVELS - 1)


def keep_factors(levels: Tensor, dropout_prob: float, dtype: torch.dtype) -> Tensor:
    """Returns 0 or 1 / (1 - dropout_prob) for each level, int16, in its shape."""
    dropped = num_dropped(dropout_prob)
    keep = levels >= dropped - LEVELS // 2
    return keep.to(dtype).mul_(LEVELS / (LEVELS - dropped))


def drop_out(
    hidden: Tensor,  # (tokens, hidden), or (kept, hidden)
    dropout_prob: float,
    layer: LayerDropout | None,
    place: int,
    keep: Tensor | None = None,  # (kept,) int64, into tokens
) -> Tensor:  # of hidden's shape
    """Drops out hidden states in training; without a layer as torch's generator has it."""
    if layer is None or not dropout_prob:
        return F.dropout(hidden, dropout_prob)
    # In bf16 the factor itself would be rounded, and all hidden states be scaled by the error.
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    factors = layer.keep_factors(place, hidden.shape[-1], dropout_prob, dtype)
    if keep is not None:
        factors = factors[keep]
    return (hidden * factors).to(hidden.dtype)


def kernel_seed(key: DropoutKey | None, index: int, place: int) -> int:
    """Returns the seed of one dropout of a layer for kernels; without a key torch chooses it."""
    if key is None:
        return int(torch.empty((), dtype=torch.int64).random_())
    return _hash(key.seed, index, place)


@functools.lru_cache(maxsize=8)  # every layer asks, and a copy to a device makes the host wait
def _places(row_ids: tuple[int, ...], seq_len: int, device: torch.device) -> Tensor:
    rows = torch.tensor(row_ids, device=device)[:, None] * seq_len
    return (rows + torch.arange(seq_len, device=device)).flatten()


def _hash(*words: int) -> int:
    text = "/".join(map(str, words)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
