"""The command line of `megaxlm supervise`."""

from __future__ import annotations

import argparse
from pathlib import Path

from megaxlm.errors import UserError
from megaxlm.supervise.policy import Limits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the limits and the launch command, each limit under its name in `Limits`."""
    default = Limits()

    def add(name: str, value: float | None, text: str) -> None:
        shown = "" if value is None else f" ({value:g})"
        parser.add_argument(
            name, type=_seconds, default=value, metavar="SECONDS", help=text + shown
        )

    parser.add_argument(
        "--max-restarts",
        type=_count,
        default=default.max_restarts,
        metavar="N",
        help=f"within the window ({default.max_restarts})",
    )
    add("--window", default.window, "in which restarts are counted")
    add("--backoff", default.backoff, "before a restart, doubled if nothing was gained")
    add("--grace", default.grace, "for ranks to save when they are asked to stop")
    add("--stall", default.stall, "without a change in the run folder that count as a crash (off)")
    parser.add_argument(
        "--run-dir", type=Path, metavar="DIR", help="if the command does not show its config"
    )
    parser.add_argument(
        "--check", action="store_true", help="look at the command and its hosts, start nothing"
    )
    parser.add_argument(
        "launch", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="such as `-- deepspeed ...`"
    )


def launch_command(arguments: argparse.Namespace) -> list[str]:
    """Returns the launch command.

    Raises:
        UserError: There is none.
    """
    command = list(arguments.launch[arguments.launch[:1] == ["--"] :])
    if not command:
        raise UserError("no launch command; give it after --: megaxlm supervise -- deepspeed ...")
    return command


def pretrain_arguments(command: list[str]) -> list[str]:
    """Returns the part of a launch command that is `pretrain CONFIG ...`.

    Raises:
        UserError: It has none, as where a script starts the ranks.
    """
    if "pretrain" not in command:
        raise UserError(
            f"{command[0]}: no `pretrain CONFIG` in the launch command to tell its run by; give "
            "--run-dir"
        )
    return command[command.index("pretrain") :]


def limits_of(arguments: argparse.Namespace) -> Limits:
    """Returns the limits that were given."""
    return Limits(
        max_restarts=arguments.max_restarts,
        window=arguments.window,
        backoff=arguments.backoff,
        grace=arguments.grace,
        stall=arguments.stall,
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a number of restarts")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return value
