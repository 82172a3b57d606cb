"""One folder holds a run.

RUN_DIR/config.yaml        the resolved config of the last start
RUN_DIR/environment.json   versions, commit and hardware of each start
RUN_DIR/tokenizer/         a copy, so that a checkpoint is complete without the data set
RUN_DIR/checkpoints/       step-00000500/, ...
RUN_DIR/tensorboard/, metrics.jsonl, evaluation.json
RUN_DIR/COMPLETED          written when max_steps are done
RUN_DIR/STOPPED            written when the ranks have stopped early and saved; it says why
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from megaxlm import __version__
from megaxlm.config.load import dump_config
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.data.shards import (
    TOKENIZER_DIR,
    file_xxh3,
    sync_directory,
    tokenizer_path,
    write_atomically,
)
from megaxlm.distributed.stop_request import StopCause
from megaxlm.errors import UserError

COMPLETED_NAME = "COMPLETED"
STOPPED_NAME = "STOPPED"
STARTS_NAME = "environment.json"
# Cluster file systems may be mounted without locks; a run there goes on unguarded.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def open_run_folder(run_dir: Path, dataset_dir: Path) -> Any:
    """Makes or takes over RUN_DIR on rank 0; returns the lock, to be held while the run lives.

    Raises:
        UserError: Another process trains here, the folder cannot be written, or it belongs to a
            run with another tokenizer.
    """
    with _writing(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = open(run_dir / ".lock", "a")  # noqa: SIM115 - lives as long as the run
    try:
        with _writing(run_dir):
            _lock(lock, run_dir)
            _copy_tokenizer(dataset_dir, run_dir)
    except BaseException:
        lock.close()
        raise
    return lock


def record_start(config: PretrainConfig, world_size: int) -> None:
    """Notes, on rank 0, that training starts now: its config, its machine, and not completed.

    Raises:
        UserError: The folder cannot be written.
    """
    run_dir = config.run_dir
    with _writing(run_dir):
        (run_dir / COMPLETED_NAME).unlink(missing_ok=True)
        (run_dir / STOPPED_NAME).unlink(missing_ok=True)
        write_atomically(run_dir / "config.yaml", dump_config(config).encode())
        starts_path = run_dir / STARTS_NAME
        try:
            starts = list(json.loads(starts_path.read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):  # none yet, or edited by hand
            starts = []
        starts.append(describe_environment(world_size))
        write_atomically(starts_path, (json.dumps(starts, indent=1) + "\n").encode())


@contextmanager
def _writing(run_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or run_dir}: cannot write the run folder: {error.strerror or error}; "
            "choose another run_dir or free the disk"
        ) from None


def _lock(lock: Any, run_dir: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{run_dir}: another process trains in this run_dir; wait for it or change run_dir"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def _copy_tokenizer(dataset_dir: Path, run_dir: Path) -> None:
    source, target = dataset_dir / TOKENIZER_DIR, run_dir / TOKENIZER_DIR
    if not tokenizer_path(dataset_dir).is_file():
        raise UserError(
            f"{tokenizer_path(dataset_dir)}: the tokenizer of the data set is missing; restore it "
            "or build the data set again"
        )
    if target.exists():
        if file_xxh3(tokenizer_path(dataset_dir)) != file_xxh3(tokenizer_path(run_dir)):
            raise UserError(
                f"{target}: this run was begun with another tokenizer than {source}; "
                "use the data set it was begun with, or a new run_dir"
            )
        return
    staging = target.with_name(f"{TOKENIZER_DIR}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(source, staging)
    os.rename(staging, target)
    sync_directory(target.parent)


def mark_completed(run_dir: Path, step: int) -> None:
    """Writes the marker that tells a finished run from one that merely exited."""
    write_atomically(run_dir / COMPLETED_NAME, json.dumps({"step": step}).encode() + b"\n")


def mark_stopped(run_dir: Path, step: int, cause: StopCause) -> None:
    """Notes that the ranks stop after a step, and why, once that step is saved.

    Launchers do not pass on the exit code that says so. A marker that cannot be written, on a full
    disk for one, does not keep the ranks from stopping.
    """
    content = json.dumps({"step": step, "cause": cause}) + "\n"
    with contextlib.suppress(OSError):
        write_atomically(run_dir / STOPPED_NAME, content.encode())


def describe_environment(world_size: int) -> dict[str, Any]:
    """Returns what a reader needs to reproduce the run or to read its speed."""
    import torch  # slow, and the supervisor reads this module's names alone

    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": sys.argv,
        "megaxlm": __version__,
        "commit": _git_commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("torch", "deepspeed", "transformers")},
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "world_size": world_size,
        "threads_per_rank": torch.get_num_threads(),
    }


def _git_commit() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):  # installed from a wheel, or no git here
        return None
    return answer.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
