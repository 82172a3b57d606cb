import multiprocessing
import os
import stat
import subprocess
import sys
import time

import pytest
from megaxlm_data import native

SOURCE = 'extern "C" __attribute__((visibility("default"))) int answer() { return ANSWER; }\n'
compiled = pytest.mark.skipif(native.find_compiler() is None, reason="no C++ compiler here")
_SCRIPT = (
    "import sys; from pathlib import Path; from megaxlm_data import native\n"
    "native.SOURCES = Path(sys.argv[1])\n"
    "library = native.load(); sys.exit(library.answer() if library else 1)\n"
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A cache folder and a source folder of this test alone; `native.load` has seen neither."""
    sources = tmp_path / "csrc"
    sources.mkdir()
    (sources / "answer.cpp").write_text(f'#include "answer.h"\n{SOURCE}')
    (sources / "answer.h").write_text("#define ANSWER 42\n")
    monkeypatch.setattr(native, "SOURCES", sources)
    monkeypatch.setenv("MEGAXLM_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv(native.DISABLED, raising=False)
    native.load.cache_clear()
    yield tmp_path
    native.load.cache_clear()


def fake_compiler(folder, body):
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def _environment():
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@compiled
def test_library_is_built_once_and_again_when_a_header_changes(here, monkeypatch):
    library = native.load()
    assert library is not None and library.answer() == 42
    (built,) = names(here / "cache")
    native.load.cache_clear()
    monkeypatch.setattr(native, "_build", lambda *_: pytest.fail("built again"))
    again = native.load()
    assert again is not None and again.answer() == 42
    monkeypatch.undo()
    monkeypatch.setattr(native, "SOURCES", here / "csrc")
    monkeypatch.setenv("MEGAXLM_DATA_DIR", str(here / "cache"))
    (here / "csrc" / "answer.h").write_text("#define ANSWER 43\n")
    native.load.cache_clear()
    changed = native.load()
    assert changed is not None and changed.answer() == 43
    assert built in names(here / "cache") and len(names(here / "cache")) == 2


def test_no_compiler(here, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(here))
    monkeypatch.delenv("CXX", raising=False)
    assert native.load() is None and native.load() is None
    printed = capsys.readouterr().err
    assert printed.count("warning") == 1 and "install g++ or set CXX" in printed


def test_switched_off_says_nothing(here, monkeypatch, capsys):
    monkeypatch.setenv(native.DISABLED, "0")
    assert native.load() is None
    assert capsys.readouterr().err == "" and names(here / "cache") == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("exit 3", "exit code 3"),
        ("echo 'x.cpp:1: error: no such thing' >&2; exit 1", "error: no such thing"),
        ("printf '\\377\\376 no license\\n' >&2; exit 1", "no license"),
        (
            "echo 'ld: final link failed: No space left on device' >&2; "
            "echo 'collect2: error: ld returned 1 exit status' >&2; exit 1",
            "No space left on device; make room, or set MEGAXLM_DATA_DIR",
        ),
        ('[ "$1" = --version ] || kill -9 $$', "killed by signal 9"),
    ],
)
def test_broken_compiler_is_one_line_and_leaves_nothing(here, monkeypatch, capsys, body, says):
    monkeypatch.setenv("CXX", fake_compiler(here, body))
    assert native.load() is None
    printed = capsys.readouterr().err
    assert says in printed and printed.count("\n") == 1
    assert names(here / "cache") == []


def test_compiler_that_is_no_program(here, monkeypatch, capsys):
    path = here / "compiler"
    path.write_bytes(b"\x7fELF of another machine")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    assert native.load() is None
    assert "cannot run" in capsys.readouterr().err


def test_compiler_that_makes_rubbish(here, monkeypatch, capsys):
    body = 'while [ $# -gt 0 ]; do [ "$1" = -o ] && echo rubbish > "$2"; shift; done'
    monkeypatch.setenv("CXX", fake_compiler(here, body))
    assert native.load() is None
    assert "cannot build or load" in capsys.readouterr().err


@compiled
def test_folder_that_cannot_be_written(here, monkeypatch, capsys):
    (here / "file").write_text("in the way")
    monkeypatch.setenv("MEGAXLM_DATA_DIR", str(here / "file" / "cache"))
    assert native.load() is None
    assert "set MEGAXLM_DATA_DIR" in capsys.readouterr().err


@compiled
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(here, capsys):
    (here / "cache").mkdir()
    (here / "cache").chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert native.load() is None
    assert "Permission denied" in capsys.readouterr().err


@compiled
def test_library_cut_short_is_built_again(here):
    # in another process: this one would find the library in its memory, by its path
    subprocess.run([sys.executable, "-c", _SCRIPT, str(here / "csrc")], env=_environment())
    (built,) = (here / "cache").iterdir()
    content = built.read_bytes()
    built.write_bytes(content[:100])
    again = native.load()
    assert again is not None and again.answer() == 42
    assert built.stat().st_size == len(content)


@compiled
def test_killed_build_leaves_nothing_to_load_and_its_rest_goes(here, monkeypatch):
    slow = fake_compiler(
        here, f'[ "$1" = --version ] || {{ touch {here}/begun; sleep 60; }}\nexec c++ "$@"'
    )
    build = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, str(here / "csrc")],
        env=_environment() | {"CXX": slow},
        start_new_session=True,
    )
    while not (here / "begun").exists():
        assert build.poll() is None
        time.sleep(0.02)
    os.killpg(build.pid, 9)
    build.wait()
    (left,) = (here / "cache").iterdir()
    assert left.name.startswith(".building-")
    os.utime(left, (0, 0))  # long ago
    library = native.load()
    assert library is not None and library.answer() == 42
    assert [name for name in names(here / "cache") if name.startswith(".")] == []


@compiled
def test_builds_at_once_all_succeed(here):
    builds = [
        subprocess.Popen([sys.executable, "-c", _SCRIPT, str(here / "csrc")], env=_environment())
        for _ in range(4)
    ]
    assert [build.wait() for build in builds] == [42] * 4
    assert len(names(here / "cache")) == 1


def _load_in_worker(sources):
    native.SOURCES = sources
    return native.load() is None


def test_workers_keep_silent(here, monkeypatch, capfd):
    monkeypatch.setenv("CXX", fake_compiler(here, "exit 3"))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_load_in_worker, (here / "csrc",))
    assert "warning" not in capfd.readouterr().err


@compiled
def test_the_real_sources_compile_without_a_warning(tmp_path):
    compiler = native.find_compiler()
    assert compiler is not None
    for source in sorted(native.SOURCES.glob("*.cpp")):
        flags = [flag for flag in native.FLAGS if flag != "-O3"]
        command = [compiler, *flags, "-Werror", "-fsyntax-only", str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
