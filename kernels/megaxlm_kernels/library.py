"""Loads the compiled library once and says which implementation a run uses.

A run asks `choose_implementation` at its start and hands the answer to every op. Nothing is chosen
per call and nothing falls back in silence: "cuda" that cannot be had is an error, and "auto" logs
what it took and why.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Literal

import torch

from megaxlm_kernels.build import Built, build, find_built
from megaxlm_kernels.toolchain import BuildError, architecture_of

Implementation = Literal["cuda", "torch"]
IMPLEMENTATIONS = ("cuda", "torch")

logger = logging.getLogger("megaxlm_kernels")
_when_loaded: list[Callable[[], None]] = []
_loaded: Built | None = None


def when_loaded(register: Callable[[], None]) -> Callable[[], None]:
    """Runs a function once the ops exist: it gives them their shapes and their autograd."""
    if _loaded is not None:
        register()
    else:
        _when_loaded.append(register)
    return register


@functools.cache
def choose_implementation(
    implementation: str,  # "cuda", "torch" or "auto"
    device: torch.device | str,
) -> Implementation:
    """Returns "cuda" or "torch" for tensors of a device; loads (and first builds) the library.

    "cuda" works for CPU tensors too: the library's CPU implementations then run, so that all around
    the kernels is tested without a GPU. "auto" takes "torch" on the CPU, and on a GPU "cuda" where
    the library is there or can be built. The choice is logged once for each pair of arguments.

    Raises:
        ValueError: No such implementation.
        RuntimeError: "cuda" was asked for and the library cannot be built or loaded.
    """
    device = torch.device(device)
    if implementation == "torch":
        chosen: Implementation = "torch"
        reason = "as asked"
    elif implementation == "cuda":
        reason = f"as asked, {load(device)}"
        chosen = "cuda"
    elif implementation != "auto":
        raise ValueError(
            f'implementation must be "cuda", "torch" or "auto", not {implementation!r}'
        )
    elif device.type != "cuda":
        chosen, reason = "torch", f"auto: the device is {device.type}"
    else:
        try:
            chosen, reason = "cuda", f"auto: {load(device)}"
        except RuntimeError as error:
            chosen, reason = "torch", f"auto: {error}"
    logger.info("kernels on %s: %s (%s)", device, chosen, reason)
    return chosen


def is_loaded() -> bool:
    """Says whether the ops exist in this process."""
    return _loaded is not None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def ensure_loaded(device_type: str) -> bool:
    """Loads the library unless it is loaded, for an op that no choice went before.

    torch.compile calls it once, while it traces, and looks no further into it.
    """
    if _loaded is None:
        load(torch.device(device_type))
    return True


def load(device: torch.device) -> str:
    """Loads the library for a device, building it if need be; returns a phrase that tells of it.

    Raises:
        RuntimeError: It cannot be had; one line says what to do.
    """
    global _loaded
    architectures = _visible_architectures()
    if _loaded is None:
        built = _find_or_build(architectures, device)
        try:
            torch.ops.load_library(str(built.path))  # type: ignore[no-untyped-call]
        except OSError as error:
            cause = str(error).splitlines()[0]
            raise RuntimeError(
                f"{built.path} does not load ({cause}); remove it, or use implementation: torch"
            ) from error
        _loaded = built
        for register in _when_loaded:
            register()
        _when_loaded.clear()
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError(f"torch {torch.__version__} sees no GPU; use implementation: torch")
        index = torch.cuda.current_device() if device.index is None else device.index
        wanted = architecture_of(*torch.cuda.get_device_capability(index))
        if wanted not in _loaded.architectures:
            raise RuntimeError(
                f"{_loaded.path} holds no sm_{wanted}; run "
                f"`python -m megaxlm_kernels.build --arch {wanted}` and restart"
            )
    names = ", ".join(f"sm_{name}" for name in _loaded.architectures) or "CPU implementations"
    return f"{names} from {_loaded.path}"


def _visible_architectures() -> tuple[str, ...]:
    if not torch.cuda.is_available():
        return ()
    indices = range(torch.cuda.device_count())
    return tuple(sorted({architecture_of(*torch.cuda.get_device_capability(i)) for i in indices}))


def _find_or_build(architectures: tuple[str, ...], device: torch.device) -> Built:
    try:
        built = find_built(architectures)
        if built is None:
            names = ", ".join(f"sm_{name}" for name in architectures) or "the CPU"
            logger.info("building the kernels for %s (once; a minute or two)", names)
            built = build(architectures)
            logger.info("built %s in %.1f s", built.path, built.seconds)
    except BuildError as error:
        if device.type == "cpu" and architectures:
            return _find_or_build((), device)  # CPU tensors need no nvcc, GPU or not
        raise RuntimeError(f"{error}; or use implementation: torch") from error
    return built
