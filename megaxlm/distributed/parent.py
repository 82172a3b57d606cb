"""Stops a rank whose launcher is gone, so that no orphan trains on.

A launcher that is killed cannot tell its ranks. DeepSpeed's even leaves them running when it gets
SIGTERM: the command `deepspeed` ends, the process that it started and its ranks do not. A batch
shell that is signalled does the same. Here a thread of each rank waits for the processes it
descends from and, when one has ended, notes that and sends SIGTERM to its own; the trainer then
saves at the next step boundary, together with all ranks, and exits with 75.

Watched are the parent and its parents as far as they belong to the same job: they share one
process group (an interactive shell gives each job a group of its own, a script does not) and treat
SIGHUP alike. So a terminal may be closed on what `nohup` or a terminal multiplexer started.
A signal of the kernel's at the parent's death (`PR_SET_PDEATHSIG`) would see the parent alone, and
also come when merely the thread ends that started the rank.

What this cannot see: a launcher on another machine. Under `srun` the parent is `slurmstepd`, which
ends the tasks itself; behind `ssh` or `pdsh` it is the remote shell or launcher. It is enough that
one rank sees its launcher go, as a stop is agreed by all.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from pathlib import Path

import psutil

from megaxlm.distributed.stop_request import StopRequest

POLL_SECONDS = 1.0
# What launchers set for their ranks; alone, a process may outlive the one that started it.
RANK_VARIABLES = ("RANK", "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")
MPI_PROXIES = ("hydra_", "pmi_proxy")  # of MPICH and its descendants, one a node

_thread: threading.Thread | None = None


def follow_launcher(request: StopRequest | None = None) -> None:
    """From now on, sends SIGTERM to this process when the job that it belongs to has ended.

    To be called before slow imports, so that a launcher which ends during those is not missed.
    Calls after the first change nothing.

    Args:
        request: Where it is noted before that this SIGTERM is nobody's wish.
    """
    global _thread
    if _thread is None:
        chain = launching_processes()
        _thread = threading.Thread(
            target=_follow, args=(chain, request), name="launcher", daemon=True
        )
        _thread.start()


def launching_processes() -> list[psutil.Process]:
    """Returns the parent of this process and its parents as far as they belong to the same job."""
    chain: list[psutil.Process] = []
    child = psutil.Process()
    launched = any(name in os.environ for name in RANK_VARIABLES)
    with contextlib.suppress(psutil.Error, OSError):  # ended meanwhile: what is above it counts not
        while (parent := child.parent()) is not None:
            # torchrun and mpiexec give each rank a session of its own, mpiexec its proxy as well.
            kept = (launched and not chain) or child.name().startswith(MPI_PROXIES)
            apart = os.getpgid(parent.pid) != os.getpgid(child.pid) and not kept
            if apart or _ignores_hangup(parent.pid) != _ignores_hangup(child.pid):
                break
            chain.append(parent)
            child = parent
    return chain


def _ignores_hangup(pid: int) -> bool:
    """Whether a process was made to outlive its terminal, as by `nohup`."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:  # no Linux
        return False
    mask = next(line for line in status.splitlines() if line.startswith("SigIgn:"))
    return bool(int(mask.split()[1], 16) >> (signal.SIGHUP - 1) & 1)


def _follow(chain: list[psutil.Process], request: StopRequest | None) -> None:
    poll = select.poll()
    for process in chain:
        with contextlib.suppress(AttributeError, OSError):  # no Linux from 5.3 on: looks must do
            poll.register(os.pidfd_open(process.pid), select.POLLIN)  # readable once it has ended
    while chain:
        ended = next((process for process in chain if not _is_alive(process)), None)
        if ended is not None:
            _say(f"the launching process {ended.pid} has ended; stopping")
            if request is not None:
                request.launcher_gone()
            os.kill(os.getpid(), signal.SIGTERM)
            return
        poll.poll(POLL_SECONDS * 1000)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # hidden from this user, so no evidence that it has ended
        return True


def _say(message: str) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        with contextlib.suppress(OSError):  # whoever read it has gone with the launcher
            print(f"megaxlm: {message}", file=sys.stderr, flush=True)
