"""Compiles .cu files for the emulator and calls their launchers on tensors of the CPU.

    module = compile_for_emulator([path_of_cu], folder)
    with module.call() as call:
        y = call.write("y", *shape, dtype=torch.float32)
        module.launch("my_launcher", call.address("x", x), call.address_of(y))  # EmulatorFault

See simt.h for what it is and memory.cpp for what it finds. Needs g++ alone.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent / "megaxlm_kernels" / "csrc"
# no-strict-aliasing: kernels read 16-byte vectors out of arrays of other types, as nvcc allows.
# No _FORTIFY_SOURCE, some systems' default: its longjmp refuses to go to another stack.
FLAGS = "-std=c++17 -O1 -g1 -fno-strict-aliasing -fPIC -U_FORTIFY_SOURCE".split()
FLAGS += ["-DMEGAXLM_EMULATOR", "-Wno-unknown-pragmas", f"-I{HERE}", f"-I{CSRC}"]
# These make the compiler tell of every load and store; their own libraries are not linked.
WATCHED = ["-fsanitize=thread", "-fsanitize=alignment", "-x", "c++"]
GUARD = 4096  # bytes around a tensor that belong to nothing


class EmulatorFault(Exception):
    """A kernel did what it must not; the text says which thread did what, and at which line."""


class Call:
    """The tensors of one launch, each in memory of its own with a guard on both sides."""

    def __init__(self, module: Module) -> None:
        self._module = module
        self._kept: list[Tensor] = []

    def address(self, name: str, tensor: Tensor | None) -> ctypes.c_void_p:
        """Returns the address of a copy that kernels may read; null for None."""
        return self.address_of(
            None if tensor is None else self._place(name, tensor.detach(), False)
        )

    @staticmethod
    def address_of(tensor: Tensor | None) -> ctypes.c_void_p:
        """Returns the address of what `write` gave; null for None."""
        return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())

    def write(self, name: str, *shape: int, dtype: torch.dtype) -> Tensor:
        """Returns a tensor that kernels may read and write; it starts as NaN, or all bits set."""
        return self._place(name, torch.empty(shape, dtype=dtype), True)

    def _place(self, name: str, tensor: Tensor, writable: bool) -> Tensor:
        count = tensor.numel() * tensor.element_size()
        memory = torch.full((count + 2 * GUARD,), 0xFF, dtype=torch.uint8)
        self._kept.append(memory)
        # Tensors of torch start at multiples of 64 bytes; here at 16 and no more, the least that
        # a slice of one can have.
        start = GUARD - memory.data_ptr() % 64 + 16
        placed = memory[start : start + count].view(tensor.dtype).view(tensor.shape)
        if not writable:
            placed.copy_(tensor)
        library = self._module.library
        library.emulator_register(
            name.encode(), ctypes.c_void_p(placed.data_ptr()), ctypes.c_size_t(count), int(writable)
        )
        return placed


class Module:
    """A compiled module: its launchers, run by the emulator."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.library = ctypes.CDLL(str(path))

    @contextmanager
    def call(self, multiprocessors: int = 2) -> Iterator[Call]:
        """Gives the place for one launch's tensors; kernels see a device of so many SMs."""
        self.library.emulator_set_multiprocessors(multiprocessors)
        try:
            yield Call(self)
        finally:
            self.library.emulator_forget_tensors()

    def launch(self, launcher: str, *arguments: Any) -> None:
        """Calls an `extern "C"` function that returns null or what went wrong.

        Raises:
            EmulatorFault: It went wrong.
        """
        function = getattr(self.library, launcher)
        function.restype = ctypes.c_char_p
        if (error := function(*arguments)) is not None:
            raise EmulatorFault(self._with_line(error.decode()))

    def _with_line(self, text: str) -> str:
        """Replaces the address of the code by its file and line, as addr2line knows them."""
        match = re.search(r" @(0x[0-9a-f]+)$", text)
        if match is None:
            return text
        base = next(
            int(line.split("-")[0], 16)
            for line in Path("/proc/self/maps").read_text().splitlines()
            if line.endswith(str(self._path))
        )
        # One byte back: what is known is where the call returns to.
        offset = hex(int(match[1], 16) - base - 1)
        command = ["addr2line", "-e", str(self._path), offset]
        try:
            line = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            line = f"?:{offset}"
        return f"{text[: match.start()]} at {line.split('(')[0].strip().rsplit('/', 1)[-1]}"


def compile_for_emulator(sources: list[Path], folder: Path) -> Module:
    """Compiles .cu files and the emulator into one module; what the folder has already is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = list(
            pool.map(lambda path: _object(path, folder), [*sources, *sorted(HERE.glob("*.cpp"))])
        )
    digest = hashlib.sha256(" ".join(path.name for path in objects).encode()).hexdigest()[:16]
    module = folder / f"{sources[0].stem}-{digest}.so"
    if not module.exists():
        _make(module, ["-shared", "-Wl,-Bsymbolic", *map(str, objects)])
    return Module(module)


def _object(source: Path, folder: Path) -> Path:
    flags = FLAGS + (WATCHED if source.suffix == ".cu" else ["-fvisibility=hidden"])
    digest = hashlib.sha256(" ".join(flags).encode())
    for path in sorted([source, *HERE.glob("*.h"), *CSRC.glob("*.h"), *CSRC.glob("*.cuh")]):
        digest.update(path.name.encode() + path.read_bytes())
    made = folder / f"{source.stem}-{digest.hexdigest()[:16]}.o"
    if not made.exists():
        _make(made, [*flags, "-c", str(source)])
    return made


def _make(path: Path, arguments: list[str]) -> None:
    """Runs g++ into another name, then renames: other processes may make the same just now."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        subprocess.run(["g++", *arguments, "-o", str(made)], check=True)
        made.rename(path)
