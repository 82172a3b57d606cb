"""Who am I: rank and world size from whichever launcher started this process.

`deepspeed` and `torchrun` export RANK and friends; `srun` exports SLURM_*; `mpiexec` is asked
through mpi4py; nothing at all means one process. The answer is written into the environment
under torch's names, because DeepSpeed and torch.distributed read it there.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from megaxlm.errors import UserError

Launcher = Literal["torch", "slurm", "mpi", "single"]
DEFAULT_PORT = 29500


@dataclass(frozen=True)
class Environment:
    """The place of this process among all processes of the run."""

    rank: int
    world_size: int
    local_rank: int
    master_addr: str
    master_port: int
    launcher: Launcher

    def export(self) -> None:
        """Writes torch's variables, which DeepSpeed and torch.distributed read."""
        os.environ.update(
            RANK=str(self.rank),
            WORLD_SIZE=str(self.world_size),
            LOCAL_RANK=str(self.local_rank),
            MASTER_ADDR=self.master_addr,
            MASTER_PORT=str(self.master_port),
        )


@dataclass(frozen=True)
class Grid:
    """The place of a process among pipeline stages and data-parallel replicas.

    Ranks of one stage follow one another, as in DeepSpeed's PipeDataParallelTopology: the heavy
    traffic of gradients then stays inside a node, hidden states travel between nodes.
    """

    rank: int
    world_size: int
    num_stages: int = 1  # of the pipeline

    def __post_init__(self) -> None:
        if self.world_size % self.num_stages:
            raise ValueError(f"{self.world_size} ranks in {self.num_stages} stages")

    @property
    def data_world_size(self) -> int:
        """Replicas of the model, each fed with rows of its own."""
        return self.world_size // self.num_stages

    @property
    def data_rank(self) -> int:
        """This process's replica."""
        return self.rank % self.data_world_size

    @property
    def stage(self) -> int:
        """This process's pipeline stage, from 0."""
        return self.rank // self.data_world_size

    @property
    def is_first_stage(self) -> bool:
        """Whether it holds the embeddings."""
        return self.stage == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether it holds the head and computes the loss."""
        return self.stage == self.num_stages - 1


def discover(env: Mapping[str, str] | None = None) -> Environment:
    """Finds the launcher and this process's place.

    Raises:
        UserError: A variable of the launcher is missing or not a number.
    """
    env = os.environ if env is None else env
    if "RANK" in env and "WORLD_SIZE" in env:
        return _from_torch(env)
    if "SLURM_PROCID" in env and int(env.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_ID" in env:
        return _from_slurm(env)
    if any(name in env for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")):
        return _from_mpi(env)
    port = _integer(env, "MASTER_PORT", _free_port())
    return Environment(0, 1, 0, env.get("MASTER_ADDR", "127.0.0.1"), port, "single")


def _from_torch(env: Mapping[str, str]) -> Environment:
    rank, world_size = _integer(env, "RANK"), _integer(env, "WORLD_SIZE")
    if world_size > 1 and "MASTER_ADDR" not in env:
        raise UserError(f"RANK={rank} WORLD_SIZE={world_size} but MASTER_ADDR is not set; set it")
    if not 0 <= rank < world_size:
        raise UserError(f"RANK={rank} is outside WORLD_SIZE={world_size}; check the launcher")
    return Environment(
        rank,
        world_size,
        _integer(env, "LOCAL_RANK", 0),
        env.get("MASTER_ADDR", "127.0.0.1"),
        _integer(env, "MASTER_PORT", DEFAULT_PORT if world_size > 1 else _free_port()),
        "torch",
    )


def _from_slurm(env: Mapping[str, str]) -> Environment:
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    # Jobs that share a node must not share a port: derive it from the job's number.
    port = 20000 + _integer(env, "SLURM_JOB_ID", 0) % 20000
    return Environment(
        _integer(env, "SLURM_PROCID"),
        _integer(env, "SLURM_NTASKS"),
        _integer(env, "SLURM_LOCALID", 0),
        env.get("MASTER_ADDR", first_host(nodes)),
        _integer(env, "MASTER_PORT", port),
        "slurm",
    )


def first_host(nodelist: str) -> str:
    """Returns the first host of a Slurm node list such as `gpu[003-007,9],login1`."""
    match = re.match(r"([^,\[]+)(?:\[([^\]]+)\])?", nodelist)
    if match is None:
        raise UserError(f"SLURM node list {nodelist!r} cannot be read; set MASTER_ADDR")
    prefix, ranges = match.groups()
    return prefix + (re.split(r"[,-]", ranges)[0] if ranges else "")


def _from_mpi(env: Mapping[str, str]) -> Environment:
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        from mpi4py import MPI

        if not MPI.Is_initialized():
            # All ranks wait for one another here. mpi4py would do so with the interpreter's lock
            # held, and no thread could say which of them does not come.
            provided = ctypes.c_int()
            library = ctypes.CDLL(MPI.__file__)
            library.MPI_Init_thread(None, None, MPI.THREAD_MULTIPLE, ctypes.byref(provided))
            atexit.register(MPI.Finalize)
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"started by mpiexec, but mpi4py cannot load an MPI library ({error}); "
            "install mpi4py together with the MPI that mpiexec belongs to"
        ) from None
    world = MPI.COMM_WORLD
    local = world.Split_type(MPI.COMM_TYPE_SHARED)
    own = (_own_address(), _free_port()) if world.rank == 0 else None
    address, port = world.bcast(own, root=0)
    return Environment(
        world.rank,
        world.size,
        local.rank,
        env.get("MASTER_ADDR", address if local.size < world.size else "127.0.0.1"),
        _integer(env, "MASTER_PORT", port),
        "mpi",
    )


def _integer(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = env.get(name)
    if value is None and default is not None:
        return default
    try:
        return int(value if value is not None else "")
    except ValueError:
        raise UserError(f"environment variable {name}={value!r} is not a number") from None


def _own_address() -> str:
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return "127.0.0.1"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
