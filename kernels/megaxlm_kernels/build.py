"""Builds the ops' library: `python -m megaxlm_kernels.build [--arch 80,90a | --cpu] [--out DIR]`.

One library serves torch 2.11 to 2.13 of any Python, with or without CUDA, because it is bound
through torch's stable ABI alone. Its folder is named by a hash of everything that makes it
(sources, flags, nvcc's version, architectures), so a build is never stale. It is written once,
under a lock and another name, and then renamed: of many ranks that start at once one builds and the
others wait, and a killed build leaves nothing that could be loaded.

`--cpu` needs g++ alone and holds the ops' CPU implementations only, which is what tests use.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from megaxlm_kernels.toolchain import (
    KNOWN_ARCHITECTURES,
    BuildError,
    Nvcc,
    check_architectures,
    find_compiler,
    find_nvcc,
    find_torch,
    visible_architectures,
)

SOURCES = Path(__file__).resolve().parent / "csrc"
LIBRARY = "libmegaxlm_kernels.so"
# Binds to torch 2.11's ABI, which every later torch keeps. Without it 2.11 misses a symbol.
CXX_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
TORCH_FLAGS = ("-O2", "-DTORCH_TARGET_VERSION=0x020b000000000000")
NVCC_FLAGS = ("-O3", "-std=c++17", "-Xcompiler", "-fPIC,-fvisibility=hidden", "-Xptxas", "-v")


@dataclass(frozen=True)
class Built:
    """A finished library on disk, as its build.json tells of it."""

    path: Path
    architectures: tuple[str, ...]  # empty: CPU implementations alone
    sources: str  # hash of the sources that it was built from
    seconds: float  # that its build took
    fresh: bool = False  # built by this very call


def cache_folder() -> Path:
    """Returns where libraries are kept: MEGAXLM_KERNELS_DIR or ~/.cache/megaxlm/kernels."""
    if named := os.environ.get("MEGAXLM_KERNELS_DIR"):
        return Path(named)
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "megaxlm" / "kernels"


def source_hash() -> str:
    """Returns a hash of every file in csrc and of the flags."""
    digest = hashlib.sha256(repr((CXX_FLAGS, TORCH_FLAGS, NVCC_FLAGS)).encode())
    digest.update(platform.machine().encode())
    for path in sorted(SOURCES.iterdir()):
        if path.is_file():
            content = path.read_bytes()
            digest.update(f"{path.name} {len(content)} ".encode() + content)
    return digest.hexdigest()[:16]


def find_built(architectures: tuple[str, ...], folder: Path | None = None) -> Built | None:
    """Returns the smallest library of today's sources that holds these architectures, or None."""
    folder = folder or cache_folder()
    wanted = source_hash()
    # A dot: still being built, or left by a build that was killed.
    folders = [p.parent for p in folder.glob("*/build.json") if not p.parent.name.startswith(".")]
    fit = [
        built
        for built in map(_read, sorted(folders))
        if built and built.sources == wanted and set(architectures) <= set(built.architectures)
    ]
    return min(fit, key=lambda built: len(built.architectures), default=None)


def build(architectures: tuple[str, ...], folder: Path | None = None) -> Built:
    """Returns the library for these architectures, compiled unless it is in the folder already.

    Args:
        architectures: Such as ("80", "90a"); empty for CPU implementations alone.
        folder: Where libraries are kept; None takes `cache_folder()`.

    Raises:
        BuildError: A compiler is missing, too old or failed.
    """
    folder = (folder or cache_folder()).resolve()
    nvcc = find_nvcc() if architectures else None
    if nvcc is not None:
        check_architectures(architectures, nvcc)
    version = "none" if nvcc is None else ".".join(map(str, nvcc.version))
    sources = source_hash()
    key = hashlib.sha256(f"{sources} {version} {architectures}".encode()).hexdigest()[:12]
    final = folder / f"{'-'.join(architectures) or 'cpu'}-{key}"
    if (built := _read(final)) is not None:
        return built
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f".{key}.lock") as alone:
            return _read(final) or _build_in(final, architectures, sources, nvcc, alone)
    except OSError as error:
        raise BuildError(f"cannot write {folder}: {error}; set MEGAXLM_KERNELS_DIR") from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Holds the lock; gives False where the file system knows none, and many may build the same."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True


def _read(folder: Path) -> Built | None:
    try:
        stored = json.loads((folder / "build.json").read_text(encoding="utf-8"))
        architectures, sources = tuple(stored["architectures"]), str(stored["sources"])
        seconds = float(stored["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    path = folder / LIBRARY
    return Built(path, architectures, sources, seconds) if path.is_file() else None


def _build_in(
    final: Path, architectures: tuple[str, ...], sources: str, nvcc: Nvcc | None, alone: bool
) -> Built:
    prefix = f".building-{final.name}-"
    # Under the lock, what carries this prefix was left by a build that was killed.
    for left in final.parent.glob(f"{prefix}*") if alone else ():
        shutil.rmtree(left, ignore_errors=True)
    started = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=final.parent))
    try:
        _compile(work, architectures, nvcc)
        seconds = round(time.monotonic() - started, 1)
        stored = {"architectures": architectures, "sources": sources, "seconds": seconds}
        (work / "build.json").write_text(json.dumps(stored) + "\n", encoding="utf-8")
        for object_file in work.glob("*.o"):
            object_file.unlink()
        work.chmod(0o755)  # mkdtemp's 0700 would hide an image's library from other users
        # Without locks another process may have built the same meanwhile: either serves.
        with contextlib.suppress(OSError):
            work.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    built = _read(final)
    if built is None:
        raise BuildError(f"{final} cannot be written; remove it or set MEGAXLM_KERNELS_DIR")
    return replace(built, fresh=True)


def _compile(work: Path, architectures: tuple[str, ...], nvcc: Nvcc | None) -> None:
    compiler, torch = find_compiler(), find_torch()
    commands: list[list[str]] = []
    for source in sorted(SOURCES.glob("*.cpp")):
        command = [compiler, *CXX_FLAGS]
        if source.stem.endswith("_bind"):
            command += [*TORCH_FLAGS, f"-I{torch.include}"]
        if nvcc is None:
            command.append("-DMEGAXLM_CPU_ONLY")
        commands.append([*command, "-c", str(source), "-o", str(work / f"{source.stem}.o")])
    if nvcc is not None:
        targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
        for source in sorted(SOURCES.glob("*.cu")):
            out = str(work / f"{source.stem}.cu.o")
            commands.insert(
                0, [str(nvcc.path), *NVCC_FLAGS, *targets, "-c", str(source), "-o", out]
            )
    # As many at once as there are cores that this process may use; the kernels, which take
    # longest, first.
    log: list[str] = []
    with ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)))) as pool:
        log += pool.map(lambda command: _run(command, work), commands)
    objects = sorted(str(path) for path in work.glob("*.o"))
    # libtorch, not libtorch_cpu: the former exists in every build of torch.
    libraries = [f"-L{torch.library}", "-ltorch"]
    if nvcc is None:
        link = [compiler, "-shared", *objects, "-Wl,--no-as-needed", *libraries]
    else:
        folders = [f"-L{path}" for path in nvcc.library_folders]
        link = [str(nvcc.path), "-shared", *objects, *folders, "-Xlinker", "--no-as-needed"]
        link += libraries
    log.append(_run([*link, "-o", str(work / LIBRARY)], work))
    (work / "build.log").write_text("".join(log), encoding="utf-8")


def _run(command: list[str], work: Path) -> str:
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=work
        )
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error.strerror}") from error
    text = " ".join(command) + "\n" + done.stdout
    if done.returncode != 0:
        log = work.parent / "failed.log"
        log.write_text(text, encoding="utf-8")
        what = next((arg for arg in command if arg.startswith(str(SOURCES))), "the library")
        raise BuildError(f"{Path(command[0]).name} failed on {Path(what).name}; see {log}")
    return text


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m megaxlm_kernels.build", description="Builds the library of CUDA ops."
    )
    parser.add_argument(
        "--arch",
        help="architectures, such as 80,90a, or all; default: those of the visible GPUs",
    )
    parser.add_argument("--cpu", action="store_true", help="CPU implementations alone, by g++")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder to build into, ahead of time; at run time MEGAXLM_KERNELS_DIR must name it",
    )
    options = parser.parse_args(arguments)
    try:
        if options.cpu and options.arch:
            raise BuildError("--cpu and --arch exclude each other")
        architectures = () if options.cpu else _wanted(options.arch)
        built = build(architectures, options.out)
    except BuildError as error:
        print(f"megaxlm_kernels.build: {error}", file=sys.stderr)
        return 2
    names = ", ".join(f"sm_{name}" for name in built.architectures) or "the CPU alone"
    how = "built" if built.fresh else "found, built earlier,"
    print(f"{how} {built.path} for {names} in {built.seconds:.1f} s")
    return 0


def _wanted(text: str | None) -> tuple[str, ...]:
    if text == "all":
        known = find_nvcc().known
        return tuple(name for name in KNOWN_ARCHITECTURES if name.removesuffix("a") in known)
    names = tuple(sorted(set(text.split(",")))) if text else visible_architectures()
    if not names:
        raise BuildError("no GPU is visible to nvidia-smi; name architectures (--arch 80,90a)")
    return names


if __name__ == "__main__":
    sys.exit(main())
