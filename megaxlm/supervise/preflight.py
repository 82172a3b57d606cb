"""What is looked at before a launch over several hosts: their file, what they are sent, ssh.

DeepSpeed looks at the first host alone; with another one away, pdsh fails there while the ranks of
the rest wait for it until they time out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from megaxlm.errors import EXIT_FOUND_WRONG, UserError
from megaxlm.supervise.deepspeed_launch import DeepSpeedLaunch, read_launch
from megaxlm.supervise.exported_words import refuse_what_shells_change

CONNECT_SECONDS = 10  # for a host to answer
LOOK_SECONDS = 30.0  # for it to log in and run `true`
AT_ONCE = 64  # looks


def check_launch(command: Sequence[str], strict: bool = False) -> DeepSpeedLaunch | None:
    """Checks a launch command that goes to the hosts of a file; starts nothing but ssh.

    Args:
        command: The launch command, of whatever launcher.
        strict: As in `read_launch`.

    Returns:
        What it asks of DeepSpeed, or None if it names no hosts to it.

    Raises:
        UserError: As `read_launch`, `refuse_what_shells_change` and `require_reachable`; the last
            two where DeepSpeed itself goes to the hosts.
    """
    launch = read_launch(command, strict)
    if launch is not None and launch.own_ssh:
        home = Path(os.path.expanduser("~"))
        refuse_what_shells_change(launch, os.environ, Path.cwd(), home)
        if launch.check_ssh:
            options = os.environ.get("PDSH_SSH_ARGS_APPEND", "").split()
            require_reachable(list(launch.slots), launch.ssh_port, options)
    return launch


def require_reachable(
    hosts: Sequence[str], port: int | None = None, ssh_options: Sequence[str] = ()
) -> None:
    """Logs in on every host once, as DeepSpeed's PDSH launcher will.

    Args:
        hosts: Names or addresses, as `pdsh -w` gets them.
        port: Of ssh; None: the usual one.
        ssh_options: More arguments of ssh.

    Raises:
        UserError: pdsh or ssh is not installed here, or hosts do not answer; all of them are named.
    """
    for program in ("pdsh", "ssh"):
        if shutil.which(program) is None:
            raise UserError(
                f"{program} is not installed here, and `deepspeed --hostfile` starts the ranks of "
                f"{len(hosts)} hosts with it; install {program}, or start one `deepspeed --no_ssh "
                "--node_rank N` on each host"
            )
    command = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}"]
    command += [] if port is None else ["-p", str(port)]
    command += ssh_options
    with ThreadPoolExecutor(min(AT_ONCE, len(hosts))) as pool:
        problems = list(pool.map(lambda host: _problem_of([*command, host, "true"]), hosts))
    away: dict[str, list[str]] = {}
    for host, problem in zip(hosts, problems, strict=True):
        if problem is not None:
            away.setdefault(problem, []).append(host)
    if away:
        named = "; ".join(f"{', '.join(those)} ({problem})" for problem, those in away.items())
        away_hosts = "@".join(host for those in away.values() for host in those)
        raise UserError(
            f"not reached by `ssh HOST true`: {named}; mend that, or give deepspeed --exclude "
            f"{away_hosts}, or --no_ssh_check to start without a look",
            exit_code=EXIT_FOUND_WRONG,
        )


def _problem_of(command: Sequence[str]) -> str | None:
    """Returns in a few words why a command failed, or None."""
    # Not a pipe: the shared connection that ssh may leave in the background keeps it open.
    with tempfile.TemporaryFile() as said:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                timeout=LOOK_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return f"no answer in {LOOK_SECONDS:g} s"
        except OSError as error:
            return error.strerror or str(error)
        said.seek(0)
        lines = [line.strip() for line in said.read().decode(errors="replace").splitlines()]
    if done.returncode == 0:
        return None
    reason = next((line for line in reversed(lines) if line), f"exit code {done.returncode}")
    return reason.rpartition(": ")[2].rstrip(".")  # without the host, so that hosts share it
