"""Every host of a launch is looked at once, before anything is started."""

import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megaxlm import cli
from megaxlm.errors import EXIT_FOUND_WRONG, UserError
from megaxlm.supervise import preflight, supervisor
from megaxlm.supervise.deepspeed_launch import DeepSpeedLaunch
from megaxlm.supervise.preflight import require_reachable

PROGRAM = ["--module", "megaxlm", "pretrain", "run.yaml"]
# Notes its arguments; hosts called away-N refuse, one called silent never answers.
SSH = """\
#!/bin/sh
echo "$@" >>{log}
for word in "$@"; do
    case "$word" in
    *away-1 | away-2) echo "ssh: connect to host $word port 22: Connection refused" >&2; exit 255 ;;
    locked) echo "Permission denied (publickey)." >&2; exit 255 ;;
    broken) exit 1 ;;
    silent) exec sleep 60 ;;
    slow-*) sleep 1 ;;
    esac
done
"""

Launch = Callable[..., list[str]]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The calls of an `ssh` that is none, with a `pdsh` beside it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("ssh", "pdsh"):
        (programs / name).write_text(SSH.format(log=tmp_path / "log"))
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    for name in ("PYTHONPATH", "PDSH_SSH_ARGS_APPEND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "log"
    path.write_text("")
    return path


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    training = "{max_steps: 3, global_batch_size: 4, micro_batch_size: 1}"
    (tmp_path / "run.yaml").write_text(f"run_dir: r\ndata: {{path: d}}\ntraining: {training}\n")

    def command(hosts: str, *options: str) -> list[str]:
        (tmp_path / "hosts").write_text("".join(f"{host} slots=2\n" for host in hosts.split()))
        return ["deepspeed", "--hostfile", "hosts", *options, *PROGRAM]

    return command


def launch_of(
    *hosts: str, port: int | None = None, filters: tuple[str, ...] = ()
) -> DeepSpeedLaunch:
    slots = dict.fromkeys(hosts, 1)
    return DeepSpeedLaunch(Path("hosts"), slots, True, False, True, filters, port, {}, ("megaxlm",))


def refusal(*hosts: str, filters: tuple[str, ...] = ()) -> str:
    with pytest.raises(UserError) as caught:
        require_reachable(launch_of(*hosts, filters=filters))
    assert caught.value.exit_code == EXIT_FOUND_WRONG and "\n" not in str(caught.value)
    return str(caught.value)


def test_all_that_are_away_are_named_in_one_line_and_nothing_is_started(
    log: Path,
    launch: Launch,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(supervisor, "supervise", lambda command, *_: started.append(command) or 0)
    away = launch("node1 away-1 locked node2 away-2 broken")
    for options in ([], ["--check"]):
        assert cli.main(["supervise", *options, "--", *away]) == EXIT_FOUND_WRONG
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        for part in (
            "away-1, away-2 (Connection refused)",
            "locked (Permission denied (publickey))",
            "broken (exit code 1)",
            "--exclude away-1@away-2@locked@broken",
            "--no_ssh_check",
        ):
            assert part in said[0], said[0]
    assert started == []
    mended = [*away[:3], "--exclude", "away-1@away-2@locked@broken", *away[3:]]
    assert cli.main(["supervise", "--", *mended]) == 0 and started == [mended]


def test_hosts_that_answer_are_told_of_by_a_check(
    log: Path, launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = launch("node1 node2 node3", "--ssh_port", "2222", "--num_nodes=2")
    assert cli.main(["supervise", "--check", "--", *command]) == 0
    assert capsys.readouterr().out == "2 hosts of hosts, 4 processes, each answers by ssh\nok\n"
    calls = log.read_text().splitlines()
    assert sorted(call.split()[-2] for call in calls) == ["node1", "node2"]
    for call in calls:
        assert "-o BatchMode=yes" in call and "-o ConnectTimeout=" in call
        assert "-p 2222" in call and call.endswith(" true")


@pytest.mark.parametrize(
    ("hosts", "options"),
    [
        ("away-1", ["--no_ssh_check"]),
        ("away-1 away-2", ["--no_ssh", "--node_rank", "0"]),
        ("away-1 away-2", ["--no_ssh_check"]),
        ("away-1 away-2", ["--launcher", "mpich"]),
    ],
)
def test_where_deepspeed_does_not_go_by_ssh_nothing_is_asked(
    log: Path, launch: Launch, hosts: str, options: list[str]
) -> None:
    assert cli.main(["supervise", "--check", "--", *launch(hosts, *options)]) == 0
    assert log.read_text() == ""


def test_the_only_host_is_asked_as_deepspeed_does_although_it_starts_the_ranks_here(
    log: Path, launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    (log.parent / "bin" / "pdsh").unlink()  # which has no part in it
    for hosts, options in (("node1", []), ("node1 node2", ["--include", "node1"])):
        log.write_text("")
        assert cli.main(["supervise", "--check", "--", *launch(hosts, *options)]) == 0
        said = capsys.readouterr()
        assert said.out == "1 host of hosts, 2 processes, it answers by ssh\nok\n"
        assert "node1 is the only host of hosts that is left" in said.err
        assert "on this machine; --force_multi starts them on node1" in said.err
        assert [call.split()[-2] for call in log.read_text().splitlines()] == ["node1"]
    for options in ([], ["--check"]):
        assert cli.main(["supervise", *options, "--", *launch("away-1")]) == EXIT_FOUND_WRONG
        said = capsys.readouterr()
        assert "away-1 (Connection refused)" in said.err and "leave --hostfile out" in said.err
        assert "--exclude" not in said.err and "\n" not in said.err.strip()
    for host in ("localhost", "127.0.0.1", "me@localhost", socket.gethostname()):
        assert cli.main(["supervise", "--check", "--", *launch(host)]) == 0
        assert capsys.readouterr().err == ""


def test_a_way_to_start_without_a_host_is_one_that_deepspeed_takes(log: Path) -> None:
    assert "give deepspeed --exclude away-1, " in refusal("away-1", "node1")
    assert "or take its line out of hosts, " in refusal("me@away-1", "node1")
    assert "or take their lines out of hosts, " in refusal(
        "away-1", "away-2", "node1", filters=("--num_nodes", "--num_gpus")
    )
    assert "or take its line out of hosts, " in refusal("away-1", "node1", filters=("--exclude",))
    assert "or take it out of --include, " in refusal("away-1", "node1", filters=("--include",))
    none_left = refusal("away-1", "away-2")
    assert "mend that, or give deepspeed --no_ssh_check" in none_left


def test_options_that_deepspeed_does_not_know_are_refused_by_a_check_alone(
    log: Path,
    launch: Launch,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(supervisor, "supervise", lambda command, *_: started.append(command) or 0)
    command = launch("node1 node2", "--no_such_option")
    assert cli.main(["supervise", "--check", "--", *command]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "unrecognized arguments: --no_such_option" in said[0]
    assert cli.main(["supervise", "--", *command]) == 0 and started == [command]
    (log.parent / "hosts").unlink()
    assert cli.main(["supervise", "--", *command]) == 2
    assert "the host file of the launch command cannot be read" in capsys.readouterr().err


def test_other_launchers_have_no_hosts_to_look_at(
    log: Path, launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch("away-1 away-2")
    torchrun = ["torchrun", "-m", "megaxlm", "pretrain", "run.yaml"]
    assert cli.main(["supervise", "--check", "--", *torchrun]) == 0
    assert capsys.readouterr().out == "ok\n" and log.read_text() == ""


def test_what_a_shell_would_change_is_refused_before_any_host_is_asked(
    log: Path,
    launch: Launch,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = launch("node1 node2")
    (log.parent / ".deepspeed_env").write_text("NCCL_DEBUG=$LEVEL\n")
    assert cli.main(["supervise", "--check", "--", *command]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and ".deepspeed_env:1: the value of NCCL_DEBUG" in said[0]
    (log.parent / ".deepspeed_env").unlink()
    monkeypatch.setenv("UCX_NET", "a`b")
    assert cli.main(["supervise", "--check", "--", *command]) == 2
    assert "the value of UCX_NET" in capsys.readouterr().err
    assert log.read_text() == ""


def test_many_hosts_are_asked_at_the_same_time_and_a_silent_one_is_not_waited_for(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.monotonic()
    require_reachable(launch_of(*(f"slow-{number}" for number in range(20))))
    assert time.monotonic() - began < 10  # one after the other: 20
    monkeypatch.setattr(preflight, "LOOK_SECONDS", 1.0)
    began = time.monotonic()
    assert "silent (no answer in 1 s)" in refusal("node1", "silent")
    assert time.monotonic() - began < 10


def test_options_that_pdsh_gives_to_ssh_are_given_here_too(
    log: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PDSH_SSH_ARGS_APPEND", "-i key -o StrictHostKeyChecking=no")
    assert cli.main(["supervise", "--check", "--", *launch("node1 node2")]) == 0
    for call in log.read_text().splitlines():
        assert "-i key -o StrictHostKeyChecking=no" in call


@pytest.mark.parametrize("missing", ["ssh", "pdsh"])
def test_programs_that_are_not_there_are_named(
    log: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (log.parent / "bin" / missing).unlink()
    monkeypatch.setenv("PATH", str(log.parent / "bin"))
    with pytest.raises(UserError, match=f"{missing} is not installed here.*--no_ssh"):
        require_reachable(launch_of("node1", "node2"))


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs an ssh client")
def test_the_real_ssh_against_a_closed_port_and_one_that_says_nothing(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (log.parent / "bin" / "ssh").unlink()  # the system's comes next on PATH
    monkeypatch.setattr(preflight, "CONNECT_SECONDS", 2)
    with socket.socket() as closed, socket.socket() as silent:
        closed.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for server, reason in ((closed, "Connection refused"), (silent, "127.0.0.1")):
            with pytest.raises(UserError) as caught:
                require_reachable(launch_of("127.0.0.1", "127.0.0.2", port=server.getsockname()[1]))
            said = str(caught.value)
            assert "127.0.0.1" in said and "127.0.0.2" in said and reason in said, said
