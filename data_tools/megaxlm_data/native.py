"""The hot loops of the data tools in C++ (`csrc/`), compiled at first use by the user's compiler.

The library is named by a hash of everything that makes it (sources, flags, compiler, processor), so
it is never stale and nodes of different kinds can share a home folder. It is written under another
name and renamed: a killed build leaves nothing that could be loaded, and of several builds at once
each yields the same file. Without a compiler, who asks gets None and goes another, slower way that
gives the same result.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "csrc"
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-march=native")
DISABLED = "MEGAXLM_DATA_NATIVE"  # set to 0: as if there were no compiler

_STAGING = ".building-"
_STALE_SECONDS = 3600  # a build takes some ten; what is older was left by one that was killed


class NoLibraryError(Exception):
    """Why there is no library, and what to do."""


def cache_folder() -> Path:
    """Returns where libraries are kept: MEGAXLM_DATA_DIR or ~/.cache/megaxlm/data."""
    if named := os.environ.get("MEGAXLM_DATA_DIR"):
        return Path(named)
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "megaxlm" / "data"


def find_compiler() -> str | None:
    """Returns the path of CXX, c++, g++ or clang++, the first that exists."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and (found := shutil.which(name)):
            return found
    return None


@cache
def load() -> ctypes.CDLL | None:
    """Returns the library, compiled now unless it was before; None, with a warning, if it can't be.

    The warning comes from the main process alone: call this there before workers do, and they find
    the library made, or keep silent about why there is none.

    Its functions have C linkage and no types set: whoever calls one declares its own.
    """
    if os.environ.get(DISABLED) == "0":
        return None
    try:
        return _loaded()
    except NoLibraryError as error:
        if multiprocessing.parent_process() is None:
            print(
                f"warning: compiled data tools are off, slower ways take over: {error}",
                file=sys.stderr,
            )
        return None


def _loaded() -> ctypes.CDLL:
    compiler = find_compiler()
    if compiler is None:
        raise NoLibraryError("no C++ compiler was found; install g++ or set CXX")
    try:
        folder = cache_folder()
    except RuntimeError:
        raise NoLibraryError("there is no home folder; set MEGAXLM_DATA_DIR") from None
    final = folder / f"megaxlm-data-{_digest(compiler)}.so"
    try:
        if not final.exists():
            _build(compiler, final)
        try:
            return ctypes.CDLL(str(final))
        except OSError:
            # cut short when the machine went down; if it is not that, the second error says what
            _build(compiler, final)
            return ctypes.CDLL(str(final))
    except OSError as error:
        raise NoLibraryError(
            f"cannot build or load {final}: {error.strerror or error}; set MEGAXLM_DATA_DIR"
        ) from None


def _digest(compiler: str) -> str:
    """Returns 16 hexadecimal digits that stand for all that makes the library."""
    digest = hashlib.sha256(repr((FLAGS, compiler, platform.machine(), _processor())).encode())
    digest.update(_run([compiler, "--version"]).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _build(compiler: str, final: Path) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(final.parent)
    sources = map(str, sorted(SOURCES.glob("*.cpp")))
    with tempfile.TemporaryDirectory(prefix=_STAGING, dir=final.parent) as folder:
        library = Path(folder) / final.name
        _run([compiler, *FLAGS, "-shared", "-o", str(library), *sources])
        library.replace(final)


def _remove_stale(folder: Path) -> None:
    """Removes what killed builds left."""
    for path in folder.glob(f"{_STAGING}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _run(command: list[str]) -> str:
    """Runs the compiler; returns what it prints on stdout.

    Raises:
        NoLibraryError: It cannot be run, or fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise NoLibraryError(f"cannot run {command[0]}: {error.strerror}; set CXX") from None
    if done.returncode < 0:
        raise NoLibraryError(
            f"{command[0]} was killed by signal {-done.returncode}, perhaps for want of memory"
        )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        if full := next((line for line in lines if os.strerror(errno.ENOSPC) in line), None):
            raise NoLibraryError(
                f"{command[0]}: {full.strip()}; make room, or set MEGAXLM_DATA_DIR (and TMPDIR) to "
                "folders that have it"
            )
        first = next((line for line in lines if "error" in line), lines[0] if lines else "")
        raise NoLibraryError(
            f"{command[0]} failed: {first or f'exit code {done.returncode}'}; "
            "mend it or set CXX to another compiler"
        )
    return done.stdout


def _processor() -> str:
    """Returns what instructions the processor has, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
