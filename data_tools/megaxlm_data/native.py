"""The hot loops of the data tools in C++ (`csrc/`), compiled at first use by the user's compiler.

The library is named by a hash of everything that makes it (sources, flags, compiler, processor), so
it is never stale and nodes of different kinds can share a home folder. It is written under another
name and renamed: a killed build leaves nothing that could be loaded. Without a compiler, who asks
gets None and goes another, slower way that gives the same result.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "csrc"
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-march=native")
DISABLED = "MEGAXLM_DATA_NATIVE"  # set to 0: as if there were no compiler


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

    Its functions have C linkage and no types set: whoever calls one declares its own.
    """
    if os.environ.get(DISABLED) == "0":
        return None
    compiler = find_compiler()
    if compiler is None:
        return _without("no C++ compiler was found; install g++ or set CXX")
    try:
        return ctypes.CDLL(str(_built(compiler)))
    except subprocess.CalledProcessError as error:
        first = next((line for line in error.stderr.splitlines() if "error" in line), "")
        return _without(f"{compiler} failed: {first or f'exit code {error.returncode}'}")
    except OSError as error:
        return _without(f"cannot build in {cache_folder()}: {error}; set MEGAXLM_DATA_DIR")


def _without(reason: str) -> None:
    print(f"warning: compiled data tools are off, slower ways take over: {reason}", file=sys.stderr)


def _built(compiler: str) -> Path:
    sources = sorted(SOURCES.glob("*.cpp"))
    digest = hashlib.sha256(repr((FLAGS, compiler, platform.machine(), _processor())).encode())
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    digest.update(version)
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    final = cache_folder() / f"megaxlm-data-{digest.hexdigest()[:16]}.so"
    if final.exists():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=final.parent) as folder:
        library = Path(folder) / final.name
        subprocess.run(
            [compiler, *FLAGS, "-shared", "-o", str(library), *map(str, sources)],
            capture_output=True,
            text=True,
            check=True,
        )
        library.replace(final)
    return final


def _processor() -> str:
    """Returns what instructions the processor has, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
