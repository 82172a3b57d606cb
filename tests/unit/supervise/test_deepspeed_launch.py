"""Which hosts a launch command starts, as DeepSpeed reads it too, and what is refused."""

import argparse
from pathlib import Path

import pytest
from deepspeed.launcher import runner

from megaxlm.errors import EXIT_BAD_USAGE, UserError
from megaxlm.supervise import deepspeed_launch
from megaxlm.supervise.deepspeed_launch import (
    SWITCHES,
    VALUE_OPTIONS,
    WHOLE_NUMBERS,
    read_hostfile,
    read_launch,
)

HOSTS = """\
# the first rack
node1 slots=4
node2.cluster.local  slots=2# slots=4 before
10.0.0.3\tslots=8 max_slots=8 gpu=a100 # and its note

me@node_4 slots=1
"""
POOL = {"node1": 4, "node2.cluster.local": 2, "10.0.0.3": 8, "me@node_4": 1}
PROGRAM = ["--module", "megaxlm", "pretrain", "run.yaml", "--set", "a=b"]


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text(HOSTS)
    return path


def refusal(hosts: Path, *options: str) -> str:
    with pytest.raises(UserError) as caught:
        read_launch(["deepspeed", "--hostfile", str(hosts), *options, *PROGRAM])
    assert caught.value.exit_code == EXIT_BAD_USAGE and "\n" not in str(caught.value)
    return str(caught.value)


def test_every_option_of_deepspeed_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the value of an unknown one would be taken for the program."""
    seen: list[argparse.ArgumentParser] = []
    monkeypatch.setattr(
        argparse.ArgumentParser, "parse_args", lambda parser, args=None: seen.append(parser)
    )
    runner.parse_args([])
    known = {names: True for names in VALUE_OPTIONS} | {names: False for names in SWITCHES}
    theirs = {
        tuple(action.option_strings): action.nargs != 0
        for action in seen[0]._actions
        if action.option_strings and "--help" not in action.option_strings
    }
    assert theirs == known
    numbers = {action.option_strings[0] for action in seen[0]._actions if action.type is int}
    assert numbers == set(WHOLE_NUMBERS)
    assert [action.dest for action in seen[0]._actions if not action.option_strings] == [
        "user_script",
        "user_args",
    ]
    assert deepspeed_launch.DEFAULT_HOSTFILE == runner.DLTS_HOSTFILE


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--include", "10.0.0.3@node1:3,0"],
        ["-i", "node1"],
        ["--exclude", "node1@10.0.0.3:0,7"],
        ["-e=node2.cluster.local:1"],
        ["--num_nodes", "2"],
        ["--num_nodes=3", "--num_gpus", "1"],
        ["--num_accelerators", "2"],
        ["--num_nodes", "0"],
    ],
)
def test_the_hosts_are_those_that_deepspeed_starts(hosts: Path, options: list[str]) -> None:
    command = ["-H", str(hosts), *options, *PROGRAM]
    launch = read_launch(["/opt/bin/deepspeed", *command])
    assert launch is not None and launch == read_launch(
        ["python", "-m", "deepspeed.launcher.runner", *command]
    )
    theirs = runner.parse_args(command)
    pool = runner.fetch_hostfile(theirs.hostfile)
    assert pool == read_hostfile(hosts) == POOL
    active = runner.parse_inclusion_exclusion(pool, theirs.include, theirs.exclude)
    active = runner.apply_num_nodes_and_gpus(active, theirs.num_nodes, theirs.num_gpus)
    assert list(launch.slots.items()) == [(host, len(slots)) for host, slots in active.items()]
    assert launch.words == ("megaxlm", "pretrain", "run.yaml", "--set", "a=b")


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("node1", ["hosts:2: `node1` is not a host", "node1 slots=8"]),
        ("node1 slots=8x", ["slots=8x of node1", "1 or more"]),
        ("node1 slots=0", ["slots=0 of node1", "1 or more"]),
        ("node1 slots=4.5", ["slots=4.5"]),
        ("node1 slots=4 slots=8", ["is not a host"]),
        ("node1 gpus=4", ["is not a host"]),
        ("node0 slots=1", ["hosts:2: node0 stands twice", "keep one line"]),
        ("-oProxyCommand=x slots=1", ["`-oProxyCommand=x` is no host name"]),
        ("node;reboot slots=1", ["`node;reboot` is no host name"]),
        ("node[1-4] slots=1", ["`node[1-4]` is no host name"]),
        ("$(id) slots=1", ["is no host name"]),
        ("a..b slots=1", ["is no host name"]),
        ("10.0.0.300 slots=1", ["no IPv4 address"]),
        ("fe80:::1 slots=1", ["no IPv6 address"]),
        ("node1:22 slots=1", ["no IPv6 address"]),
        ("node1 slots=4 gpu=a100 slots=8", ["is not a host"]),
        ("-l@node1 slots=1", ["`-l` is no user"]),
        ("node-" + 70 * "a" + " slots=1", ["is no host name"]),
    ],
)
def test_a_line_that_is_no_host_is_named(tmp_path: Path, line: str, parts: list[str]) -> None:
    path = tmp_path / "hosts"
    path.write_text(f"node0 slots=8\n{line}\n")
    said = refusal(path)
    for part in [f"{path}:2", *parts]:
        assert part in said, said


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--include", "node9"], ["--include node9", "no host `node9`", "did you mean node1?"]),
        (["--exclude", "x@node1"], ["no host `x`", "there is: node1, node2.cluster.local"]),
        (["--include", "node1:0,4"], ["node1 has no slot 4", "use 0 to 3"]),
        (["--exclude", "node1:a"], ["`a` are no slots of node1", "node1:0,1"]),
        (["--exclude", "node1@node2.cluster.local@10.0.0.3"], []),
        (["--include", "node1", "--exclude", "node1:0"], ["keep one of them"]),
        (["--include", "node1", "--num_gpus", "1"], ["keep one of them"]),
        (["--num_nodes", "5"], ["--num_nodes 5", "names 4 hosts", "use at most 4"]),
    ],
)
def test_hosts_that_are_not_there_are_named(
    hosts: Path, options: list[str], parts: list[str]
) -> None:
    if not parts:  # the user's host is left
        command = ["deepspeed", "--hostfile", str(hosts), *options, *PROGRAM]
        launch = read_launch(command)
        assert launch is not None and launch.slots == {"me@node_4": 1}
        hosts.write_text("node1 slots=1\n")
        parts, options = ["leaves no host"], ["--exclude", "node1"]
    said = refusal(hosts, *options)
    for part in parts:
        assert part in said, said


@pytest.mark.parametrize(
    ("content", "options", "own_ssh"),
    [
        (HOSTS, [], True),
        (HOSTS, ["--launcher", "PDSH"], True),
        (HOSTS, ["--launcher", "openmpi"], False),
        (HOSTS, ["--no_ssh", "--node_rank", "1"], False),
        (HOSTS, ["--num_nodes", "1"], False),
        ("localhost slots=2\n", [], False),
        ("node1 slots=2\n", ["--force_multi"], True),
    ],
)
def test_whether_deepspeed_goes_to_the_hosts(
    tmp_path: Path, content: str, options: list[str], own_ssh: bool
) -> None:
    path = tmp_path / "hosts"
    path.write_text(content)
    launch = read_launch(["deepspeed", f"--hostfile={path}", *options, *PROGRAM])
    assert launch is not None and launch.own_ssh is own_ssh
    assert launch.check_ssh and launch.ssh_port is None
    assert launch.local is (len(launch.slots) == 1 and not own_ssh)


def test_values_that_every_host_gets_bare_are_read(hosts: Path) -> None:
    given = ["--venv_script", "~/venv/bin/activate", "--enable_each_rank_log=logs"]
    launch = read_launch(["deepspeed", "-H", str(hosts), *given, *PROGRAM])
    assert launch is not None and launch.bare == {
        "--venv_script": "~/venv/bin/activate",
        "--enable_each_rank_log": "logs",
    }


def test_what_pdsh_reads_in_its_own_way_is_refused_where_pdsh_is_used(hosts: Path) -> None:
    hosts.write_text("fe80::1 slots=1\nnode1 slots=2\n")
    assert "`fe80::1` is no host name for pdsh" in refusal(hosts)
    assert "is no host name for pdsh" in refusal(hosts, "--num_nodes", "1", "--force_multi")
    for options in (["--launcher", "mpich"], ["--no_ssh"], ["--include", "node1"]):
        launch = read_launch(["deepspeed", "-H", str(hosts), *options, *PROGRAM])
        assert launch is not None and not launch.own_ssh


@pytest.mark.parametrize(
    "before",
    [
        ["conda", "run", "-n", "deepspeed"],
        ["docker", "exec", "deepspeed"],
        ["docker", "run", "--name", "deepspeed", "--rm", "image"],
        ["/envs/deepspeed", "python", "-m", "deepspeed"],
        ["sudo", "-E"],
    ],
)
def test_what_else_is_called_deepspeed_hides_no_launch(hosts: Path, before: list[str]) -> None:
    command = [*before, "deepspeed", "--hostfile", str(hosts), *PROGRAM]
    assert read_launch(command, strict=True) == read_launch(command[len(before) :])
    assert read_launch([*before, "torchrun", "-m", *PROGRAM[1:]], strict=True) is None
    hosts.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        read_launch(command)


def test_what_deepspeed_would_not_read_is_refused_in_its_words(hosts: Path) -> None:
    for options, said in (
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["--num_nodes", "x"], "argument --num_nodes: invalid int value: 'x'"),
    ):
        for before in ([], ["docker", "exec", "deepspeed"]):
            command = [*before, "deepspeed", *options, "-H", str(hosts), *PROGRAM]
            with pytest.raises(UserError, match=said):
                read_launch(command, strict=True)
    with pytest.raises(UserError, match="unrecognized arguments: --bogus"):
        read_launch(["deepspeed", "--bogus", *PROGRAM], strict=True)


def test_without_hosts_there_is_nothing_to_read(
    hosts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_launch(["deepspeed", "--num_gpus", "2", *PROGRAM]) is None
    assert read_launch(["torchrun", "-H", "a,b", *PROGRAM]) is None
    assert read_launch(["deepspeed", "--bogus", *PROGRAM]) is None
    monkeypatch.setattr(deepspeed_launch, "DEFAULT_HOSTFILE", str(hosts))
    launch = read_launch(["deepspeed", *PROGRAM])
    assert launch is not None and launch.slots == POOL
