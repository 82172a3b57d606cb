r"""What DeepSpeed's PDSH launcher hands to a shell on every host and would arrive otherwise.

`deepspeed/launcher/multinode_runner.py` of 0.19.8 writes one command line for all hosts: `export
NAME=VALUE; cd FOLDER; ...`. A value with a character beyond `\w@%+=:,./-` stands between double
quotes, where a shell still expands `$`, backquotes, backslashes and quotes; the folder, the program
and those arguments that have no space stand bare. pdsh itself replaces %h, %u and %n, and makes one
% of two. Each but `%%`, which nobody writes by chance, is refused by its name. Values are not
shown: some are passwords, such as that of `MLFLOW_TRACKING_PASSWORD`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from megaxlm.errors import UserError
from megaxlm.supervise.deepspeed_launch import DeepSpeedLaunch

# Variables of this shell that DeepSpeed exports by the beginnings of their names; NCCL with GPUs.
EXPORTED_PREFIXES = ("MLFLOW", "PYTHON", "MV2", "UCX", "NCCL")
# Those it leaves out where the variable named first is set.
NOT_EXPORTED = {"AISC_JOB_NAME": ("NCCL_IB_HCA", "UCX_NET_DEVICES")}
ENV_FILE_VARIABLE, ENV_FILE_NAME = "DS_ENV_FILE", ".deepspeed_env"
# NCCL reads %h as the name of the host, which is what pdsh puts there.
NAMED_BY_HOST = ("NCCL_DEBUG_FILE",)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IN_QUOTES = '$`"\\\n\r'
_UNQUOTED = "$`\"'\\;&|<>(){}*?\n\r\t "
_UNQUOTED_AT = re.compile(r"^[#~]|(?<=[=:])~")  # elsewhere in a word both are themselves
_PDSH = re.compile(r"%[hun%]")
_NOTHING = "nothing in it, and would be gone"
_SHOWN = {
    "\n": "a newline",
    "\r": "a carriage return",
    "\t": "a tab",
    " ": "a space",
    "`": "a backquote",
}


def refuse_what_shells_change(
    launch: DeepSpeedLaunch, environment: Mapping[str, str], folder: Path, home: Path
) -> None:
    """Refuses variables, a folder and arguments that the shell of a host would alter.

    Args:
        launch: A launch by PDSH.
        environment: Of the launcher.
        folder: In which it is started; the ranks start there too.
        home: The user's, where DeepSpeed looks for `.deepspeed_env` as well as in `folder`.

    Raises:
        UserError: The first of them.
    """
    for where, name, value in _exports(environment, folder, home):
        if not _NAME.fullmatch(name):
            raise UserError(
                f"{where}`{name}` is no name of a variable, and DeepSpeed would export it on every "
                "host; use letters, digits and _, or remove it"
            )
        found = _altered(value, _IN_QUOTES, ("%h",) if name in NAMED_BY_HOST else ())
        if found:
            raise UserError(
                f"{where}the value of {name}, which DeepSpeed exports on every host, has {found}; "
                "write the value without it, or unset the variable"
            )
    program, *arguments = launch.words
    bare = [("the folder", str(folder), "start it in another one")]
    bare += [(option, value, "use another path") for option, value in launch.bare.items()]
    bare.append(("the program", program, "use another path"))
    for what, text, instead in bare:
        # The home folder of each host, as `source ~/venv/bin/activate` has it.
        seen = text.removeprefix("~") if what == "--venv_script" else text
        found = _altered(seen, _UNQUOTED) if text else _NOTHING
        if found:
            raise UserError(f"{what} {text!r} has {found}; {instead}")
    for word in arguments:
        quoted = " " in word
        # DeepSpeed escapes quotes in what it quotes.
        special = _IN_QUOTES.replace('"', "") if quoted else _UNQUOTED
        found = _altered(word, special) if word else _NOTHING
        if found:
            raise UserError(
                f"the argument {word!r} has {found}; write the setting into the config file"
            )


def _exports(
    environment: Mapping[str, str], folder: Path, home: Path
) -> Iterator[tuple[str, str, str]]:
    """Yields what DeepSpeed exports: where it comes from, name and value."""
    left_out = {
        name for sign, names in NOT_EXPORTED.items() if sign in environment for name in names
    }
    for name, value in environment.items():
        if name.startswith(EXPORTED_PREFIXES) and name not in left_out:
            yield "environment: ", name, value.strip()
    for place in dict.fromkeys((home, folder)):
        path = place / environment.get(ENV_FILE_VARIABLE, ENV_FILE_NAME)
        if not path.is_file():
            continue
        try:
            with path.open() as file:
                lines = file.readlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise UserError(
                f"{path}: cannot be read ({reason}), and DeepSpeed exports what it holds; mend or "
                "remove it"
            ) from None
        for number, line in enumerate(lines, start=1):
            name, equals, value = line.partition("=")
            if not equals:
                raise UserError(
                    f"{path}:{number}: not NAME=VALUE, and DeepSpeed takes neither empty lines nor "
                    "comments there; remove the line"
                )
            # `export export NAME=VALUE`, as it becomes, does the same to NAME.
            yield f"{path}:{number}: ", name.strip().removeprefix("export ").lstrip(), value.strip()


def _altered(text: str, special: str, wanted: tuple[str, ...] = ()) -> str | None:
    """Returns in words what in a text would not arrive as it is; `wanted` may be replaced."""
    found = [character for character in text if character in special]
    if special == _UNQUOTED:
        found += _UNQUOTED_AT.findall(text)
    if found:
        shown = _SHOWN.get(found[0], f"`{found[0]}`")
        return f"{shown}, which the shell of every host would read as its own"
    for sign in _PDSH.findall(text):
        if sign not in ("%%", *wanted):
            return f"`{sign}`, which pdsh replaces (`%{sign}` arrives as `{sign}`)"
    return None
