"""Whether the host memory of a node has room for the copies that asynchronous saving takes.

Every rank copies its share of the training state. Where that does not fit, the kernel kills a rank
without a word, hours after the start, when the first checkpoint is due.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from megaxlm.checkpoint.fragments import Fragment

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class SnapshotMemory:
    """What one rank's copy needs, and what its node has left before any rank has taken one."""

    host: str
    needed: int  # bytes
    available: int  # bytes


def snapshot_memory(fragments: Iterable[Fragment]) -> SnapshotMemory:
    """Returns what a copy of these fragments needs on this rank.

    Args:
        fragments: What this rank would save.
    """
    needed = sum(fragment.num_bytes for fragment in fragments)
    return SnapshotMemory(socket.gethostname(), needed, available_bytes())


def memory_shortage(ranks: Iterable[SnapshotMemory]) -> str | None:
    """Returns in one line where the copies do not fit; None: they do.

    It is an estimate for a warning: other programs come and go, and swap may take what is cold.

    Args:
        ranks: Those of the run, each with its own numbers.
    """
    nodes: dict[str, SnapshotMemory] = {}
    for rank in ranks:
        node = nodes.get(rank.host, SnapshotMemory(rank.host, 0, rank.available))
        nodes[rank.host] = SnapshotMemory(
            rank.host, node.needed + rank.needed, min(node.available, rank.available)
        )
    short = [node for node in nodes.values() if node.needed > node.available]
    if not short:
        return None
    worst = max(short, key=lambda node: node.needed - node.available)
    return (
        f"{worst.host}: asynchronous saving copies {worst.needed / 2**30:,.2f} GiB to host memory, "
        f"only {worst.available / 2**30:,.2f} GiB are available; set checkpoint.asynchronous: "
        "false, or a rank may be killed at the first checkpoint"
    )


def available_bytes() -> int:
    """Returns the host memory that this process may still take, also inside a container."""
    available = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = _OWN_CGROUP.read_text().splitlines()
        own = next(line for line in lines if line.startswith("0::")).removeprefix("0::/")
        group = _CGROUPS / own
        for level in (group, *group.parents):
            if level.is_relative_to(_CGROUPS):
                available = min(available, _left_in(level, available))
    return available


def _left_in(cgroup: Path, unlimited: int) -> int:
    """Returns the bytes left in one cgroup (version 2), counting the page cache as free."""
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        if limit == "max":
            return unlimited
        used = int((cgroup / "memory.current").read_text())
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # the root has no limit, other systems have no such files
        return unlimited
    return max(0, int(limit) - used + int(stat["inactive_file"]) + int(stat["active_file"]))
