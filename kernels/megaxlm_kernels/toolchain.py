"""Finds what a build needs, without importing torch: nvcc, g++, torch's headers, visible GPUs.

`python -m megaxlm_kernels.toolchain` says which nvcc there is; exit code 1 if there is none.

nvcc may come from a CUDA toolkit or from PyPI. There it is spread over five wheels, all needed and
all of one version: nvidia-cuda-nvcc, nvidia-cuda-crt, nvidia-nvvm, nvidia-cuda-runtime and
nvidia-cuda-cccl (tried with 13.0; 271 MB installed). They share the folder nvidia/cu13.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

OLDEST_NVCC = (12, 4)
WHEELS = (
    "nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm nvidia-cuda-runtime nvidia-cuda-cccl (one "
    "version, such as ==13.0.*)"
)
# In the order of preference of `--arch all`. 90a, and not 90: wgmma exists in no other.
KNOWN_ARCHITECTURES = ("80", "86", "89", "90a", "100")


class BuildError(RuntimeError):
    """A library cannot be built here; the text says in one line what is missing."""


@dataclass(frozen=True)
class Nvcc:
    """A CUDA compiler that is new enough."""

    path: Path
    version: tuple[int, int]
    known: frozenset[str]  # architectures without a suffix: "80", "90"

    @property
    def library_folders(self) -> list[Path]:
        """Folders with libcudart_static.a; the wheels' nvcc looks into lib64 alone."""
        root = self.path.resolve().parent.parent
        return [folder for folder in (root / "lib64", root / "lib") if folder.is_dir()]


@dataclass(frozen=True)
class TorchFolders:
    """Where the running Python's torch keeps its headers and libraries."""

    include: Path
    library: Path


def nvcc_candidates() -> list[Path]:
    """Returns where nvcc is looked for, in order: CUDA_HOME, PATH, /usr/local/cuda, wheels."""
    found: list[Path] = []
    if home := os.environ.get("CUDA_HOME"):
        found.append(Path(home) / "bin" / "nvcc")
    if on_path := shutil.which("nvcc"):
        found.append(Path(on_path))
    found.append(Path("/usr/local/cuda/bin/nvcc"))
    packages = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    found += sorted(packages.glob("cu*/bin/nvcc"), reverse=True)
    found += sorted(packages.glob("cuda_nvcc/bin/nvcc"))
    return [path for path in found if os.access(path, os.X_OK)]


def find_nvcc() -> Nvcc:
    """Returns the first nvcc that is new enough.

    Raises:
        BuildError: There is none, or all are older than CUDA 12.4.
    """
    old: list[str] = []
    for path in nvcc_candidates():
        nvcc = _describe_nvcc(path)
        if nvcc is not None and nvcc.version >= OLDEST_NVCC:
            return nvcc
        version = "of unknown version" if nvcc is None else ".".join(map(str, nvcc.version))
        old.append(f"{path} ({version})")
    if old:
        raise BuildError(f"nvcc 12.4 or newer is needed, found {', '.join(old)}; set CUDA_HOME")
    raise BuildError(
        "no nvcc in CUDA_HOME, PATH, /usr/local/cuda or site-packages; install the CUDA toolkit "
        f"(12.4 or newer) or the wheels {WHEELS}"
    )


@cache
def _describe_nvcc(path: Path) -> Nvcc | None:
    try:
        text = _output([str(path), "--version"])
        known = re.findall(r"sm_(\d+)", _output([str(path), "--list-gpu-code"]))
    except (OSError, subprocess.CalledProcessError):
        return None
    match = re.search(r"release (\d+)\.(\d+)", text)
    if match is None:
        return None
    return Nvcc(path, (int(match[1]), int(match[2])), frozenset(known))


def find_compiler() -> str:
    """Returns the path of g++ (or of what CXX names).

    Raises:
        BuildError: There is none.
    """
    name = os.environ.get("CXX", "g++")
    found = shutil.which(name)
    if found is None:
        raise BuildError(f"no C++ compiler ({name}) on PATH; install g++ or set CXX")
    return found


def find_torch() -> TorchFolders:
    """Returns the folders of the torch that this Python would import.

    Raises:
        BuildError: torch is not installed, or without its headers.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise BuildError("torch is not installed in this Python; install torch 2.11 or newer")
    root = Path(spec.origin).parent
    if not (root / "include/torch/csrc/stable/library.h").is_file():
        raise BuildError(f"{root} has no stable ABI headers; install torch 2.11 or newer")
    return TorchFolders(root / "include", root / "lib")


def visible_architectures() -> tuple[str, ...]:
    """Returns the architectures of this machine's GPUs as nvidia-smi lists them, sorted."""
    try:
        text = _output(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"])
    except (OSError, subprocess.CalledProcessError):
        return ()
    pairs = {(int(major), int(minor)) for major, minor in re.findall(r"(\d+)\.(\d+)", text)}
    return tuple(architecture_of(*pair) for pair in sorted(pairs))


def architecture_of(major: int, minor: int) -> str:
    """Returns what `--arch` calls a compute capability: (9, 0) is "90a"."""
    return "90a" if (major, minor) == (9, 0) else f"{major}{minor}"


def check_architectures(names: tuple[str, ...], nvcc: Nvcc) -> None:
    """Refuses names that no architecture has or that this nvcc cannot compile for.

    Raises:
        BuildError: With the name and what nvcc knows.
    """
    for name in names:
        if re.fullmatch(r"\d{2,3}a?", name) is None:
            raise BuildError(f"--arch takes names such as 80,90a, not {name!r}")
        if name.removesuffix("a") not in nvcc.known:
            known = ", ".join(sorted(nvcc.known, key=int))
            raise BuildError(f"{nvcc.path} cannot compile for sm_{name}; it knows {known}")


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def main() -> int:
    """Says which nvcc a build would take; returns the exit code."""
    try:
        nvcc = find_nvcc()
    except BuildError as error:
        print(error)
        return 1
    print(f"nvcc {nvcc.version[0]}.{nvcc.version[1]}: {nvcc.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
