"""The build: once for many, nothing broken after a kill, and one line for what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from megaxlm_kernels import build as build_module
from megaxlm_kernels import toolchain
from megaxlm_kernels.build import LIBRARY, build, find_built, main


@pytest.fixture
def tiny_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One source that compiles in a moment instead of the ops."""
    sources = tmp_path / "csrc"
    sources.mkdir()
    (sources / "one.cpp").write_text('extern "C" int one() { return 1; }\n')
    monkeypatch.setattr(build_module, "SOURCES", sources)
    return sources


def fake_nvcc(folder: Path, release: str) -> Path:
    path = folder / "bin" / "nvcc"
    path.parent.mkdir(parents=True)
    path.write_text(f'#!/bin/sh\necho "Cuda compilation tools, release {release}, V"\necho sm_80\n')
    path.chmod(0o755)
    return path


def only_candidates(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> None:
    monkeypatch.setattr(toolchain, "nvcc_candidates", lambda: list(paths))


def test_command_builds_once_and_says_so_in_one_line(builds: Path) -> None:
    command = [sys.executable, "-m", "megaxlm_kernels.build", "--cpu", "--out", str(builds)]
    home = Path(build_module.__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": str(home)}
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") == 1 and "for the CPU alone in" in done.stdout
    assert done.stdout.startswith("found, built earlier,")
    built = find_built((), builds)
    assert built is not None and str(built.path) in done.stdout


def test_building_does_not_import_torch() -> None:
    home = Path(build_module.__file__).resolve().parents[1]
    code = (
        "import sys; import megaxlm_kernels.build as b; b.find_torch(); b.source_hash(); "
        "assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(home)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_many_at_once_build_once(tiny_sources: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        all_built = list(pool.map(lambda _: build((), tmp_path / "out"), range(6)))
    assert sum(built.fresh for built in all_built) == 1
    assert len({built.path for built in all_built}) == 1 and all_built[0].path.is_file()


def test_another_source_is_another_library(tiny_sources: Path, tmp_path: Path) -> None:
    first = build((), tmp_path / "out")
    assert find_built((), tmp_path / "out") == build((), tmp_path / "out")
    (tiny_sources / "one.cpp").write_text('extern "C" int one() { return 2; }\n')
    assert find_built((), tmp_path / "out") is None
    second = build((), tmp_path / "out")
    assert second.path != first.path and second.fresh


def test_what_a_killed_build_left_is_removed_and_never_loaded(
    tiny_sources: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    name = build((), out).path.parent.name
    (out / name).rename(out / f".building-{name}-killed")
    (out / f".building-{name}-killed" / LIBRARY).write_bytes(b"half")
    assert find_built((), out) is None
    built = build((), out)
    assert built.fresh and built.path.read_bytes() != b"half"
    assert not list(out.glob(".building-*"))
    # A description that is cut short counts for nothing either.
    (built.path.parent / "build.json").write_text("{")
    assert find_built((), out) is None


def test_a_library_for_more_architectures_serves_fewer(tiny_sources: Path, tmp_path: Path) -> None:
    built = build((), tmp_path)
    stored = json.loads((built.path.parent / "build.json").read_text())
    stored["architectures"] = ["80", "90a"]
    (built.path.parent / "build.json").write_text(json.dumps(stored))
    assert find_built(("90a",), tmp_path) is not None
    assert find_built(("90a", "100"), tmp_path) is None


def test_compile_failure_names_the_file_and_the_log(
    tiny_sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiny_sources / "one.cpp").write_text("no C++ at all\n")
    assert main(["--cpu", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "failed on one.cpp; see " in error
    assert "no C++ at all" in Path(error.rsplit(" ", 1)[1].strip()).read_text()
    assert not list((tmp_path / "out").glob(".building-*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cpu", "--arch", "80"], "exclude each other"),
        (["--arch", "80,ninety"], "not 'ninety'"),
        (["--arch", "70"], "cannot compile for sm_70; it knows 80"),
        ([], "no GPU is visible"),
    ],
)
def test_bad_usage_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    only_candidates(monkeypatch, fake_nvcc(tmp_path / "cuda", "12.8"))
    monkeypatch.setattr(build_module, "visible_architectures", lambda: ())
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error


def test_no_nvcc_and_too_old_an_nvcc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only_candidates(monkeypatch)
    assert main(["--arch", "80", "--out", str(tmp_path)]) == 2
    assert "no nvcc in CUDA_HOME, PATH" in capsys.readouterr().err
    only_candidates(monkeypatch, fake_nvcc(tmp_path / "old", "12.3"))
    assert main(["--arch", "80", "--out", str(tmp_path)]) == 2
    assert "nvcc 12.4 or newer is needed, found " in capsys.readouterr().err


def test_a_newer_nvcc_behind_an_older_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = fake_nvcc(tmp_path / "old", "11.8"), fake_nvcc(tmp_path / "new", "13.0")
    only_candidates(monkeypatch, old, new)
    assert toolchain.find_nvcc().path == new


def test_cuda_home_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = fake_nvcc(tmp_path, "13.0")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert toolchain.find_nvcc().path == named


def test_no_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(build_module, "source_hash", lambda: "other")
    assert main(["--cpu", "--out", str(tmp_path)]) == 2
    assert "no C++ compiler (no-such-compiler) on PATH" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(
    tiny_sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--cpu", "--out", str(tmp_path / "file" / "below")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "set MEGAXLM_KERNELS_DIR" in error


def test_the_toolchain_says_which_nvcc_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fake_nvcc(tmp_path, "12.6")
    only_candidates(monkeypatch, path)
    assert toolchain.main() == 0
    assert capsys.readouterr().out == f"nvcc 12.6: {path}\n"
    only_candidates(monkeypatch)
    assert toolchain.main() == 1
    assert capsys.readouterr().out.startswith("no nvcc in CUDA_HOME")
