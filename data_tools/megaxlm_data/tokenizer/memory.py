"""How much memory training takes, and how much there is.

sentencepiece holds the sample, and for Unigram the suffix array of its characters: four integers
and one code point each. That peak comes before the first pass of training.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")

# Fitted to benchmark_tokenizer_training.py; the fixed part holds a million candidate pieces.
_FIXED_BYTES = 150_000_000
_PER_BYTE, _PER_CHAR = 4.0, 22.0
_BPE_PER_BYTE = 17.0

# sentencepiece counts characters in 32 bits, unless it is told that there are more
_MAX_SMALL_SAMPLE = 2**31 - 2**24


def is_extremely_large(sample_bytes: int) -> bool:
    """Returns whether a sample needs 64-bit places, which take twice the memory."""
    return sample_bytes > _MAX_SMALL_SAMPLE


def training_memory(
    sample_bytes: int, chars: int, model_type: Literal["unigram", "bpe"] = "unigram"
) -> int:
    """Estimates the peak of resident bytes that training adds.

    Args:
        sample_bytes: Of the sample in UTF-8.
        chars: Its characters; `sample_bytes` where they are not known, for an upper bound.
        model_type: What is trained.
    """
    if model_type == "bpe":
        return int(_FIXED_BYTES + _BPE_PER_BYTE * sample_bytes)
    places = 2 if is_extremely_large(sample_bytes) else 1
    return int(_FIXED_BYTES + _PER_BYTE * sample_bytes + _PER_CHAR * places * chars)


def sample_within(memory_bytes: int, model_type: Literal["unigram", "bpe"] = "unigram") -> int:
    """Returns how many bytes of sample can be trained in so much memory, whatever its script."""
    low, high = 0, memory_bytes
    while low < high:
        middle = (low + high + 1) // 2
        if training_memory(middle, middle, model_type) <= memory_bytes:
            low = middle
        else:
            high = middle - 1
    return low


def available_memory() -> int:
    """Returns the bytes that this process may still take, also inside a container or a job."""
    available = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError):
        for line in _OWN_CGROUP.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                top = _CGROUPS / controllers
                group = top / path.removeprefix("/")
                for level in (group, *group.parents):
                    if level.is_relative_to(top):
                        available = min(available, _left_in(level, available))
    return available


def _left_in(cgroup: Path, unlimited: int) -> int:
    """Returns what is left in one cgroup of either version; page cache counts as free."""
    for limit_name, used_name in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError, KeyError):
            limit = int((cgroup / limit_name).read_text())  # "max" is no number
            used = int((cgroup / used_name).read_text())
            stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
            return max(0, limit - used + int(stat["inactive_file"]) + int(stat["active_file"]))
    return unlimited
