"""What a launch command asks of DeepSpeed's launcher: its host file and the hosts it would start.

DeepSpeed 0.19.8 (`deepspeed/launcher/runner.py`) takes a host file that it does not find for a
request to train on this machine alone, ends in a traceback over a line that it cannot read, and
reads `slots=8x` as 8. A job of many nodes would be done by one, or start and fall apart; here the
same options and files are read strictly, before anything is started.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from megaxlm.errors import UserError

DEFAULT_HOSTFILE = "/job/hostfile"  # DeepSpeed's, taken where no other is named
PROGRAMS = ("deepspeed", "deepspeed.launcher.runner")
# Options of `deepspeed` with a value and without one. All of them stand here, so that the value of
# one is never taken for the program that it starts.
VALUE_OPTIONS = (
    ("-H", "--hostfile"),
    ("-i", "--include"),
    ("-e", "--exclude"),
    ("--num_nodes",),
    ("--num_gpus", "--num_accelerators"),
    ("--master_port",),
    ("--master_addr",),
    ("--node_rank",),
    ("--launcher",),
    ("--launcher_args",),
    ("--enable_each_rank_log",),
    ("--autotuning",),
    ("--bind_core_list",),
    ("--ssh_port",),
    ("--venv_script",),
    ("--log_level",),
)
SWITCHES = (
    ("--module",),
    ("--no_python",),
    ("--no_local_rank",),
    ("--no_ssh",),
    ("--no_ssh_check",),
    ("--force_multi",),
    ("--save_pid",),
    ("--bind_cores_to_rank",),
    ("-q", "--quiet"),
)
WHOLE_NUMBERS = ("--num_nodes", "--num_gpus", "--master_port", "--node_rank", "--ssh_port")
# DeepSpeed passes over whatever follows the slots; a second number of them is a mistake.
_LINE = re.compile(r"(\S+)\s+slots=([^\s#]+)(\s+(?!slots=)[^\s#]\S*)*\s*(#.*)?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")  # RFC 1123, and `_` inside


@dataclass(frozen=True)
class DeepSpeedLaunch:
    """A `deepspeed` command over the hosts of a file."""

    hostfile: Path
    slots: dict[str, int]  # processes of each host that is started, in the order of the file
    own_ssh: bool  # whether DeepSpeed itself goes to every host, by PDSH and ssh
    local: bool  # whether DeepSpeed logs in on the one host and starts its ranks on this machine
    check_ssh: bool  # whether it may be tried first: not with --no_ssh_check
    filters: tuple[str, ...]  # of --include, --exclude, --num_nodes and --num_gpus, those given
    ssh_port: int | None
    bare: dict[str, str]  # values of options that every host gets outside of quotes, by option
    words: tuple[str, ...]  # the program and its arguments, as every host gets them

    @property
    def tried(self) -> bool:
        """Whether its hosts are to be tried by ssh, because DeepSpeed will log in on them."""
        return self.check_ssh and (self.own_ssh or self.local)

    @property
    def warning(self) -> str | None:
        """What DeepSpeed does with the only host that is left, if that is another machine."""
        host = next(iter(self.slots))
        if not self.local or _is_this_machine(host):
            return None
        return (
            f"{host} is the only host of {self.hostfile} that is left, and DeepSpeed starts its "
            f"ranks on this machine; --force_multi starts them on {host}"
        )

    @property
    def summary(self) -> str:
        """One line: hosts and processes, and how far they were looked at."""
        hosts, processes = len(self.slots), sum(self.slots.values())
        text = f"{hosts} host{'s' if hosts > 1 else ''} of {self.hostfile}, {processes} processes"
        if not (self.own_ssh or self.local):
            return f"{text}; not looked at by ssh, for DeepSpeed does not start them by PDSH"
        answers = "each answers by ssh" if hosts > 1 else "it answers by ssh"
        return f"{text}, {answers if self.check_ssh else 'ssh not tried'}"


def read_launch(command: Sequence[str], strict: bool = False) -> DeepSpeedLaunch | None:
    """Returns what a launch command asks of DeepSpeed, or None if it names no hosts to it.

    Args:
        command: The launch command, of whatever launcher.
        strict: Refuse options that DeepSpeed does not know, else pass over them.

    Raises:
        UserError: The host file names no host or has a line that is none, or `--include`,
            `--exclude` or `--num_nodes` ask for what it has not; or as `strict` says.
    """
    given, problem = _deepspeed_call(command)
    if strict and problem is not None:
        raise UserError(f"the launch command: deepspeed would refuse it: {problem}; correct it")
    if given is None or (given.hostfile is None and not Path(DEFAULT_HOSTFILE).is_file()):
        return None
    hostfile = Path(given.hostfile or DEFAULT_HOSTFILE)
    pool = read_hostfile(hostfile)
    slots = _chosen(pool, given, hostfile)
    several = len(slots) > 1 or given.force_multi
    own_ssh = several and not given.no_ssh and (given.launcher or "pdsh").lower() == "pdsh"
    for host in slots:
        if own_ssh and ":" in host:
            raise UserError(
                f"{hostfile}: `{host}` is no host name for pdsh, which reads a colon as its own "
                "syntax; write a name or an IPv4 address, such as `node1 slots=8`"
            )
    return DeepSpeedLaunch(
        hostfile,
        slots,
        own_ssh=own_ssh,
        local=not several and not given.no_ssh,
        check_ssh=not given.no_ssh_check,
        filters=_filters(given),
        ssh_port=given.ssh_port,
        bare={
            f"--{name}": value
            for name in ("venv_script", "enable_each_rank_log")
            if (value := getattr(given, name))
        },
        words=(given.user_script, *given.user_args),
    )


def read_hostfile(path: Path) -> dict[str, int]:
    """Returns the processes of each host, in the order of the file.

    Raises:
        UserError: It cannot be read or names no host; a line is not `HOST slots=N`, or a host
            stands twice.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UserError(
            f"{path}: the host file of the launch command cannot be read: {reason}; DeepSpeed "
            "would train on this machine alone; correct the path, or leave --hostfile out"
        ) from None
    found: dict[str, int] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        where = f"{path}:{number}"
        match = _LINE.fullmatch(line)
        if match is None:
            raise UserError(f"{where}: `{line}` is not a host; write lines such as `node1 slots=8`")
        host, slots = match[1], match[2]
        problem = _problem_of(host)
        if problem:
            raise UserError(
                f"{where}: `{host}` is no host name: {problem}; write a name or an IPv4 address, "
                "such as `node1 slots=8`"
            )
        if not (slots.isascii() and slots.isdecimal() and int(slots) > 0):
            raise UserError(
                f"{where}: slots={slots} of {host} is no number of processes; use 1 or more, such "
                "as slots=8"
            )
        if host in found:
            raise UserError(f"{where}: {host} stands twice; keep one line with all its slots")
        found[host] = int(slots)
    if not found:
        raise UserError(
            f"{path}: the host file of the launch command names no host; write lines such as "
            "`node1 slots=8`, or leave --hostfile out"
        )
    return found


class _Unreadable(Exception):
    """DeepSpeed would refuse these arguments."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _Unreadable(message)


def _deepspeed_call(command: Sequence[str]) -> tuple[argparse.Namespace | None, str | None]:
    """Returns the options of `deepspeed` in a launch command, and why it would refuse them.

    A container or environment may be called `deepspeed` too (`conda run -n deepspeed deepspeed
    ...`): of all such words the last one counts that reads as a call with a host file.
    """
    end = command.index("pretrain") if "pretrain" in command else len(command)
    calls: list[tuple[argparse.Namespace | None, str | None]] = []
    for place, word in enumerate(command[:end]):
        if Path(word).name in PROGRAMS:
            given, problem = _parse(command[place + 1 :])
            before = command[place - 1] if place else ""
            no_hosts = given is None or given.hostfile is None
            if problem and no_hosts and before.startswith("-") and before != "-m":
                continue  # the value of an option: `docker run --name deepspeed --rm ...`
            calls.append((given, problem))
    calls.reverse()
    with_hosts = [call for call in calls if call[0] is not None and call[0].hostfile is not None]
    readable = [call for call in with_hosts if call[1] is None]
    # Of other launchers `-H` is a list of hosts.
    return next(iter(readable or with_hosts or calls), (None, None))


def _parse(words: Sequence[str]) -> tuple[argparse.Namespace | None, str | None]:
    parser = _Parser(add_help=False)
    for names in VALUE_OPTIONS:
        parser.add_argument(*names, type=int if names[0] in WHOLE_NUMBERS else str)
    for names in SWITCHES:
        parser.add_argument(*names, action="store_true")
    parser.add_argument("user_script")
    parser.add_argument("user_args", nargs=argparse.REMAINDER)
    parser.set_defaults(include="", exclude="", num_nodes=-1, num_gpus=-1)
    try:
        given, unknown = parser.parse_known_args(words)
    except _Unreadable as error:
        return None, str(error)
    return given, f"unrecognized arguments: {' '.join(unknown)}" if unknown else None


def _problem_of(host: str) -> str | None:
    """Returns why ssh or DeepSpeed would take a host for something else; None: it is fine."""
    user, at, name = host.rpartition("@")
    if at and not _USER.fullmatch(user):
        return f"`{user}` is no user"
    if ":" in name or re.fullmatch(r"[0-9.]+", name):
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return f"no IPv{6 if ':' in name else 4} address"
        return None
    labels = name.removesuffix(".").split(".")
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
        return "letters, digits and hyphens between dots alone"
    return None


def _is_this_machine(host: str) -> bool:
    """Whether a name or address is one of this machine, as far as it can be looked up."""
    try:
        found = socket.getaddrinfo(host.rpartition("@")[2], 0, type=socket.SOCK_DGRAM)
    except OSError:
        return False
    for family, kind, _, _, address in found:
        with contextlib.suppress(OSError), socket.socket(family, kind) as own:
            own.bind(address)  # no address of another machine can be bound
            return True
    return False


def _filters(given: argparse.Namespace) -> tuple[str, ...]:
    texts = [f"--{name}" for name in ("include", "exclude") if getattr(given, name)]
    return (
        *texts,
        *(f"--{name}" for name in ("num_nodes", "num_gpus") if getattr(given, name) >= 0),
    )


def _chosen(pool: dict[str, int], given: argparse.Namespace, path: Path) -> dict[str, int]:
    """Returns the processes of the hosts that DeepSpeed starts: `parse_resource_filter` there."""
    include, exclude = given.include, given.exclude
    num_nodes, num_gpus = given.num_nodes, given.num_gpus
    if (include and exclude) or ((include or exclude) and (num_nodes >= 0 or num_gpus >= 0)):
        raise UserError(
            "--include, --exclude and --num_nodes or --num_gpus exclude one another in `deepspeed`;"
            " keep one of them"
        )
    if include or exclude:
        option = "--include" if include else "--exclude"
        named = _parse_nodes(include or exclude, option, pool, path)
        if include:
            return {host: len(named[host]) for host in pool if host in named}
        left = {host: slots - len(named.get(host, ())) for host, slots in pool.items()}
        left = {host: slots for host, slots in left.items() if slots}
        if not left:
            raise UserError(f"--exclude {exclude} leaves no host of {path}; name fewer")
        return left
    if num_nodes > len(pool):
        raise UserError(
            f"--num_nodes {num_nodes}, but {path} names {len(pool)} host"
            f"{'s' if len(pool) > 1 else ''}, and DeepSpeed would start those alone; use at most "
            f"{len(pool)}"
        )
    hosts = list(pool)[: num_nodes if num_nodes > 0 else None]
    return {host: num_gpus if num_gpus > 0 else pool[host] for host in hosts}


def _parse_nodes(text: str, option: str, pool: dict[str, int], path: Path) -> dict[str, set[int]]:
    """Reads `node1@node2:0,2`: the slots of each host, all of them where none is named."""
    found: dict[str, set[int]] = {}
    for part in text.split("@"):
        host, colon, numbers = part.partition(":")
        if host not in pool:
            near = difflib.get_close_matches(host, pool, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there is: {_some(pool)}"
            raise UserError(f"{option} {text}: {path} names no host `{host}`; {hint}")
        slots = set(range(pool[host]))
        if colon:
            words = numbers.split(",")
            if not all(word.isascii() and word.isdecimal() for word in words):
                raise UserError(
                    f"{option} {text}: `{numbers}` are no slots of {host}; write numbers, such as "
                    f"{host}:0,1"
                )
            asked = set(map(int, words))
            if asked - slots:
                raise UserError(
                    f"{option} {text}: {host} has no slot {max(asked - slots)}; use 0 to "
                    f"{pool[host] - 1}"
                )
            slots = asked
        found[host] = found.get(host, set()) | slots
    return found


def _some(names: Iterable[str], most: int = 8) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")
