"""What is dropped out is a pure function of (seed, micro-batch, layer).

Each layer seeds torch's generator before it draws. The number of ranks, the ZeRO stage, the
pipeline and a resume then change nothing, a recomputed layer drops the same units, and a
checkpoint needs no random state. A micro-batch is known by its first row, so another
`micro_batch_size` drops other units.
"""

from __future__ import annotations

import hashlib

import torch

EMBEDDINGS = -1  # their place among the layers


def dropout_key(seed: int, first_row: int) -> int:
    """Returns the key of one micro-batch: its place in the stream, under the run's seed."""
    return _hash(seed, first_row)


def seed_dropout(device: torch.device, key: int, layer: int) -> None:
    """Seeds the generator from which the layers on a device draw."""
    value = _hash(key, layer)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(value)
    else:
        torch.default_generator.manual_seed(value)


def _hash(*words: int) -> int:
    text = "/".join(map(str, words)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
