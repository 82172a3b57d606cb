"""The command line of `megaxlm supervise`, and how it finds the folder of the run."""

import sys
from pathlib import Path

import pytest

from megaxlm import cli
from megaxlm.supervise import supervisor
from megaxlm.supervise.policy import Limits


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Path, Limits]]:
    """What the supervisor is called with."""
    found: list[tuple[list[str], Path, Limits]] = []

    def note(command: list[str], run_dir: Path, limits: Limits) -> int:
        found.append((command, run_dir, limits))
        return 0

    monkeypatch.setattr(supervisor, "supervise", note)
    return found


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "run.yaml"
    training = "{max_steps: 3, global_batch_size: 4, micro_batch_size: 1}"
    path.write_text(f"run_dir: runs/from-file\ndata: {{path: data}}\ntraining: {training}\n")
    return str(path)


def test_the_folder_is_that_of_the_config(
    calls: list[tuple[list[str], Path, Limits]], config: str
) -> None:
    launch = ["deepspeed", "--num_gpus", "8", "--module", "megaxlm", "pretrain", config]
    assert cli.main(["supervise", "--", *launch]) == 0
    assert calls == [(launch, Path("runs/from-file"), Limits())]


def test_the_folder_of_the_command_line_counts_more(
    calls: list[tuple[list[str], Path, Limits]], config: str
) -> None:
    launch = ["torchrun", "-m", "megaxlm", "pretrain", config, "--debug"]
    launch += ["--set", "training.max_steps=9", "run_dir=elsewhere"]
    given = ["--max-restarts", "0", "--window", "60", "--backoff", "1.5", "--grace", "7"]
    assert cli.main(["supervise", *given, "--stall", "90", "--", *launch]) == 0
    assert cli.main(["supervise", "--run-dir", "mine", "--", "bash", "job.sh"]) == 0
    assert [(command, run_dir) for command, run_dir, _ in calls] == [
        (launch, Path("elsewhere")),
        (["bash", "job.sh"], Path("mine")),
    ]
    assert calls[0][2] == Limits(0, 60.0, 1.5, 7.0, 90.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["after --"]),
        (["--", "bash", "job.sh"], ["bash", "--run-dir"]),
        (["--", "megaxlm", "pretrain", "/nowhere/run.yaml"], ["/nowhere/run.yaml"]),
        (["--run-dir", "run", "--", "/nowhere/launcher"], ["/nowhere/launcher", "No such file"]),
    ],
)
def test_wrong_use_is_one_line_and_code_2(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["supervise", *arguments]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    for word in words:
        assert word in said[0]


@pytest.mark.parametrize("option", ["--hostfile", "-H", "--hostfile="])
@pytest.mark.parametrize("content", [None, "", "# node1 slots=8\n\n"])
def test_a_host_file_without_hosts_is_refused_before_deepspeed_trains_here_alone(
    calls: list[tuple[list[str], Path, Limits]],
    config: str,
    tmp_path: Path,
    option: str,
    content: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hosts = tmp_path / "hosts"
    given = [f"{option}{hosts}"] if option.endswith("=") else [option, str(hosts)]
    launch = ["/usr/bin/deepspeed", *given, "--no_ssh_check", "megaxlm", "pretrain", config]
    if content is not None:
        hosts.write_text(content)
    assert cli.main(["supervise", "--", *launch]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and str(hosts) in said[0] and "--hostfile" in said[0]
    hosts.write_text("# all\nnode1 slots=8\n")
    assert cli.main(["supervise", "--", *launch]) == 0
    assert calls[0][0] == launch


def test_hosts_of_another_launcher_are_no_file(
    calls: list[tuple[list[str], Path, Limits]], config: str
) -> None:
    assert cli.main(["supervise", "--", "mpiexec", "-H", "a,b", "megaxlm", "pretrain", config]) == 0


@pytest.mark.parametrize(
    "arguments",
    [["--backoff", "soon"], ["--grace", "-1"], ["--stall", "inf"], ["--max-restarts", "1.5"]],
)
def test_numbers_are_checked(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["supervise", *arguments, "--", sys.executable])
    assert ended.value.code == 2
    assert arguments[1] in capsys.readouterr().err
