"""The random generators of one rank: seeded apart, saved and restored together.

Dropout is the one user of these generators: initial weights and masks have generators of their
own, keyed by name and row.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def seed_rank(seed: int, rank: int, step: int = 0) -> None:
    """Seeds Python, NumPy, torch and the current CUDA device from (seed, rank, step)."""
    words = [int(word) for word in np.random.SeedSequence([seed, rank, step]).generate_state(4)]
    random.seed(words[0])
    np.random.seed(words[1])
    torch.manual_seed(words[2] << 32 | words[3])  # every CUDA device of this process as well


def rng_state() -> dict[str, Any]:
    """Returns the states of this process's generators, of types that a checkpoint can hold."""
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),  # (5056,) uint8
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Takes back what `rng_state` returned; without a CUDA device its part is passed over."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
