"""What ptxas says of each kernel: the registers it takes and what it spills, out of a build.log.

A kernel that spills writes registers to memory in its inner loop, silently and at a large cost; so
the tests hold every kernel to no spills and to a number of registers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<architecture>\w+)'\n"
    r"(?:.*\n)*?"
    r".* (?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads\n"
    r".*Used (?P<registers>\d+) registers"
)


@dataclass(frozen=True)
class KernelResources:
    """One kernel as compiled for one architecture."""

    name: str  # mangled
    architecture: str  # "90a"
    registers: int  # a thread
    spilled_bytes: int  # a thread, stored and loaded
    stack_bytes: int  # a thread; an array indexed by what only run time knows lies there


def read_resources(log: Path) -> list[KernelResources]:
    """Returns the resources of every kernel that a build.log tells of."""
    return [
        KernelResources(
            name=match["name"],
            architecture=match["architecture"],
            registers=int(match["registers"]),
            spilled_bytes=int(match["stores"]) + int(match["loads"]),
            stack_bytes=int(match["stack"]),
        )
        for match in _ENTRY.finditer(log.read_text(encoding="utf-8"))
    ]
