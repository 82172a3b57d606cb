"""What DeepSpeed's PDSH launcher sends through a shell: all that passes arrives as it was."""

import argparse
import subprocess
from pathlib import Path

import pytest
from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator
from deepspeed.launcher import runner
from deepspeed.launcher.multinode_runner import PDSHRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from megaxlm.errors import EXIT_BAD_USAGE, UserError
from megaxlm.supervise.deepspeed_launch import DeepSpeedLaunch
from megaxlm.supervise.exported_words import (
    ENV_FILE_NAME,
    EXPORTED_PREFIXES,
    NOT_EXPORTED,
    refuse_what_shells_change,
)

FOLDER = Path("/nowhere")  # neither is there, so no file of variables is read
HOME = Path("/nobody")


def launch_of(
    *arguments: str, program: str = "megaxlm", bare: dict[str, str] | None = None
) -> DeepSpeedLaunch:
    slots, words = {"node1": 1, "node2": 1}, (program, *arguments)
    return DeepSpeedLaunch(Path("hosts"), slots, True, False, True, (), None, bare or {}, words)


def refusal(
    *words: str,
    folder: Path = FOLDER,
    home: Path = HOME,
    program: str = "megaxlm",
    bare: dict[str, str] | None = None,
    **env: str,
) -> str:
    launch = launch_of(*words, program=program, bare=bare)
    with pytest.raises(UserError) as caught:
        refuse_what_shells_change(launch, env, folder, home)
    assert caught.value.exit_code == EXIT_BAD_USAGE and "\n" not in str(caught.value)
    return str(caught.value)


def passes(launch: DeepSpeedLaunch, environment: dict[str, str]) -> bool:
    try:
        refuse_what_shells_change(launch, environment, FOLDER, HOME)
    except UserError:
        return False
    return True


def sent(
    words: list[str], exports: dict[str, str], script: str = "x"
) -> tuple[list[str], dict[str, str]]:
    """Program and arguments, and variables, as a host gets them from DeepSpeed's own command."""
    args = argparse.Namespace(
        user_args=words,
        user_script=script,
        launcher_args="",
        ssh_port=None,
        venv_script=None,
        master_addr="a",
        master_port=1,
        no_python=False,
        module=False,
        no_local_rank=False,
        save_pid=False,
        enable_each_rank_log=None,
    )
    theirs = PDSHRunner(args, "e30=")
    for name, value in exports.items():
        theirs.add_export(name, value)
    command, _, _ = theirs.get_cmd({}, {"node1": [0]})
    exported = next(word for word in command if word.startswith("export") or not word)
    line = " ".join(["printf '%s\\0'", *command[command.index(script) :]]) + "; env -0"
    # As ssh has it: one string for the shell of the host, in some folder with files.
    done = subprocess.run(["bash", "-c", exported + line], env={}, cwd="/", capture_output=True)
    parts = done.stdout.decode(errors="replace").split("\0")
    ends = len(words) + 1
    found = dict(part.split("=", 1) for part in parts[ends:] if "=" in part)
    return parts[:ends], found


TEXTS = st.text(st.sampled_from("aZ09_ @%+=:,./-'\"\\$`;&|<>(){}[]*?~#!\n\t"), max_size=8)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(value=TEXTS, word=TEXTS)
@example(value="a b; c", word="data.skip_rows=[[0,100]]")
@example(value="it's", word='a "quoted" word')
@example(value="", word="schedule.name=wsd")
@example(value="a#b", word="#")
@example(value="a~b", word="run#1")
@example(value="~", word="a~b")
@example(value="a:~", word="a=~")
def test_what_passes_arrives_as_it_was(value: str, word: str) -> None:
    # printf takes `--` and `%` of arguments as they are; pdsh, which is not here, replaces some %.
    if passes(launch_of(), {"NCCL_X": value}):
        assert sent([], {"NCCL_X": value})[1].get("NCCL_X") == value.strip()
    if passes(launch_of(word), {}):
        assert sent([word], {})[0] == ["x", word]
    if passes(launch_of(program=word), {}):
        assert sent([], {}, word)[0] == [word]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("$HOME/x", "`$`"),
        ("`id`", "a backquote"),
        ('"quoted"', '`"`'),
        ("a\\b", "`\\`"),
        ("a\nreboot", "a newline"),
        ("job-%h", "`%h`, which pdsh replaces"),
        ("%%%u", "`%u`"),
    ],
)
@pytest.mark.parametrize("name", [f"{prefix}_X" for prefix in EXPORTED_PREFIXES])
def test_a_variable_that_would_change_is_named_without_its_value(
    name: str, value: str, shown: str
) -> None:
    said = refusal(**{name: value})
    assert f"environment: the value of {name}" in said and shown in said
    assert value not in said or value == shown.strip("`")
    assert passes(launch_of(), {"OTHER": value})  # which is not exported


def test_the_variables_are_those_that_deepspeed_exports() -> None:
    assert set(EXPORTED_PREFIXES) == {*runner.EXPORT_ENVS, *CUDA_Accelerator.export_envs(None)}
    assert {sign: tuple(names) for sign, names in runner.EXCLUDE_ENVS.items()} == NOT_EXPORTED
    assert ENV_FILE_NAME == runner.DEEPSPEED_ENVIRONMENT_NAME
    assert len(runner.DEEPSPEED_ENVIRONMENT_PATHS) == 2
    assert passes(launch_of(), {"AISC_JOB_NAME": "x", "NCCL_IB_HCA": "$x"})


@pytest.mark.parametrize("at_home", [True, False])
@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("A=1\nB=$HOME\n", [":2: the value of B", "`$`"]),
        ("A=1\n\nB=2\n", [":2: not NAME=VALUE", "empty lines"]),
        ("# note\n", [":1: not NAME=VALUE", "comments"]),
        ("\n", [":1: not NAME=VALUE"]),
        ("export A B=1\n", [":1: `A B` is no name of a variable"]),
        ("A;B=1\n", ["`A;B` is no name"]),
        ('A="1"\n', ["the value of A", '`"`']),
    ],
)
def test_the_files_of_variables_are_read(
    tmp_path: Path, at_home: bool, content: str, parts: list[str]
) -> None:
    places = {"home": tmp_path / "home", "folder": tmp_path / "folder"}
    for place in places.values():
        place.mkdir()
    path = places["home" if at_home else "folder"] / ENV_FILE_NAME
    path.write_text(content)
    said = refusal(**places)
    for part in [str(path), *parts]:
        assert part in said, said
    path.write_text("A = some text, and more\nNCCL_DEBUG=INFO")
    refuse_what_shells_change(launch_of(), {}, places["folder"], places["home"])
    path.write_text("")
    refuse_what_shells_change(launch_of(), {}, places["folder"], places["home"])
    path.write_text("export A=some text\n")
    refuse_what_shells_change(launch_of(), {}, places["folder"], places["home"])
    assert sent([], {"export A": "some text"})[1]["A"] == "some text"


def test_what_pdsh_replaces_on_purpose_passes() -> None:
    assert passes(launch_of(), {"NCCL_DEBUG_FILE": "/tmp/nccl.%h.%p"})
    assert "`%u`" in refusal(NCCL_DEBUG_FILE="/tmp/%h.%u")
    assert "`%%h` arrives as `%h`" in refusal(NCCL_X="/tmp/%h")
    assert passes(launch_of("run-%%h"), {"NCCL_X": "/tmp/%%h"})


def test_the_file_of_variables_may_have_another_name(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("A=$B\n")
    assert str(tmp_path / "mine") in refusal(home=tmp_path, DS_ENV_FILE="mine")


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("data.curriculum=[{from_tokens:5,sampling_alpha:1}]", "`{`"),
        ("a=b;reboot", "`;`"),
        ("a=$(id)", "`$`"),
        ("a=*", "`*`"),
        ("a='b'", "`'`"),
        ("a=\tb", "a tab"),
        ("#1", "`#`"),
        ("~/run", "`~`"),
        ("run_dir=~/run", "`~`"),
        ("a:~", "`~`"),
        ("a b $c", "`$`"),
        ("", "nothing"),
    ],
)
def test_an_argument_that_would_change_is_named(word: str, shown: str) -> None:
    said = refusal("pretrain", word)
    assert repr(word) in said and shown in said and "config file" in said
    assert passes(launch_of("data.curriculum=[{from_tokens: 5, sampling_alpha: 1}]"), {})


def test_folders_stand_bare() -> None:
    assert "the folder '/my work' has a space" in refusal(folder=Path("/my work"))
    assert "--venv_script '/a;b' has `;`" in refusal(bare={"--venv_script": "/a;b"})
    assert "has a space" in refusal(bare={"--enable_each_rank_log": "my logs"})
    assert "the program 'my run.py' has a space" in refusal(program="my run.py")
    assert "the program '' has nothing in it" in refusal(program="")
    assert passes(launch_of(bare={"--venv_script": "~/venv/bin/activate"}), {})
