r"""What DeepSpeed's PDSH launcher hands to a shell on every host and would arrive otherwise.

`deepspeed/launcher/multinode_runner.py` of 0.19.8 writes one command line for all hosts: `export
NAME=VALUE; cd FOLDER; ...`. A value with a character beyond `\w@%+=:,./-` stands between double
quotes, where a shell still expands `$`, backquotes, backslashes and quotes; the folder and those
arguments that have no space stand bare. pdsh itself replaces %h, %u, %n and %%. Each is refused by
its name. Values are not shown: some are passwords, such as that of `MLFLOW_TRACKING_PASSWORD`.
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

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IN_QUOTES = '$`"\\\n\r'
_UNQUOTED = "$`\"'\\;&|<>(){}*?~#\n\r\t "
_PDSH = re.compile(r"%[hun%]")
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
        found = _altered(value, _IN_QUOTES)
        if found:
            raise UserError(
                f"{where}the value of {name}, which DeepSpeed exports on every host, has {found}; "
                "write the value without it, or unset the variable"
            )
    bare = [("the folder", str(folder), "start it in another one")]
    if "--venv_script" in launch.bare:
        bare.append(("--venv_script", launch.bare["--venv_script"], "use another path"))
    for what, text, instead in bare:
        found = _altered(text, _UNQUOTED)
        if found:
            raise UserError(f"{what} {text!r} has {found}; {instead}")
    for word in launch.words:
        quoted = " " in word
        # DeepSpeed escapes quotes in what it quotes.
        special = _IN_QUOTES.replace('"', "") if quoted else _UNQUOTED
        found = _altered(word, special) if word else "nothing in it, and would be gone"
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
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise UserError(
                f"{path}: cannot be read ({reason}), and DeepSpeed exports what it holds; mend or "
                "remove it"
            ) from None
        for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
            name, equals, value = line.partition("=")
            if not equals:
                raise UserError(
                    f"{path}:{number}: not NAME=VALUE, and DeepSpeed takes neither empty lines nor "
                    "comments there; remove the line"
                )
            yield f"{path}:{number}: ", name.strip(), value.strip()


def _altered(text: str, special: str) -> str | None:
    """Returns the first thing in a text that would not arrive as it is, in words."""
    for character in text:
        if character in special:
            shown = _SHOWN.get(character, f"`{character}`")
            return f"{shown}, which the shell of every host would read as its own"
    found = _PDSH.search(text)
    return f"`{found[0]}`, which pdsh replaces" if found else None
