"""What is looked at before a launch over several hosts: their file, what they are sent, ssh.

DeepSpeed looks at the first host alone; with another one away, pdsh fails there while the ranks of
the rest wait for it until they time out. It logs in on a host that is the only one, too, although
it starts the ranks of that one on this machine.
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
    if launch is not None and launch.tried:
        options = os.environ.get("PDSH_SSH_ARGS_APPEND", "").split()
        require_reachable(launch, options if launch.own_ssh else ())
    return launch


def require_reachable(launch: DeepSpeedLaunch, ssh_options: Sequence[str] = ()) -> None:
    """Logs in on every host once, as DeepSpeed and its PDSH launcher will.

    Args:
        launch: Whose hosts are names or addresses, as `pdsh -w` and ssh get them.
        ssh_options: More arguments of ssh.

    Raises:
        UserError: pdsh or ssh is not installed here, or hosts do not answer; all of them are named.
    """
    hosts = list(launch.slots)
    for program in ("pdsh", "ssh") if launch.own_ssh else ("ssh",):
        if shutil.which(program) is None:
            raise UserError(
                f"{program} is not installed here, and `deepspeed --hostfile` goes to its hosts "
                f"with it; install {program}, or start one `deepspeed --no_ssh --node_rank N` on "
                "each host"
            )
    command = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}"]
    command += [] if launch.ssh_port is None else ["-p", str(launch.ssh_port)]
    command += ssh_options
    with ThreadPoolExecutor(min(AT_ONCE, len(hosts))) as pool:
        problems = list(pool.map(lambda host: _problem_of([*command, host, "true"]), hosts))
    away: dict[str, list[str]] = {}
    for host, problem in zip(hosts, problems, strict=True):
        if problem is not None:
            away.setdefault(problem, []).append(host)
    if away:
        named = "; ".join(f"{', '.join(those)} ({problem})" for problem, those in away.items())
        instead = _instead([host for those in away.values() for host in those], launch)
        raise UserError(
            f"not reached by `ssh HOST true`: {named}; mend that, {instead}",
            exit_code=EXIT_FOUND_WRONG,
        )


def _instead(away: Sequence[str], launch: DeepSpeedLaunch) -> str:
    """Returns how to start without hosts that are away."""
    if launch.local:  # without its look DeepSpeed would log in for the address of the host
        return (
            "or leave --hostfile out: DeepSpeed starts the ranks of a single host on this machine"
        )
    return f"{_without(away, launch)}or give deepspeed --no_ssh_check to start without a look"


def _without(away: Sequence[str], launch: DeepSpeedLaunch) -> str:
    if len(away) == len(launch.slots):
        return ""
    if launch.filters == ("--include",):
        return f"or take {'it' if len(away) == 1 else 'them'} out of --include, "
    # `@` separates the hosts of --exclude, which takes no other filter beside it.
    if launch.filters or any("@" in host for host in away):
        lines = "its line" if len(away) == 1 else "their lines"
        return f"or take {lines} out of {launch.hostfile}, "
    return f"or give deepspeed --exclude {'@'.join(away)}, "


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
