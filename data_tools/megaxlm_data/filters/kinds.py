"""Counts characters by kind, given a table of the kind of every code point."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from megaxlm_data import native
from megaxlm_data.document import code_points

NUM_KINDS = 8

Table = npt.NDArray[np.uint8]  # (code points,), values below NUM_KINDS


@cache
def _compiled() -> Any:
    if (library := native.load()) is None:
        return None
    function = library.megaxlm_count_kinds
    function.argtypes = [ctypes.c_char_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p]
    function.restype = None
    return function


def count_kinds(text: str, kinds: Table) -> list[int]:
    """Returns how many characters of a text are of each kind, NUM_KINDS numbers."""
    if (function := _compiled()) is None:
        # clip: no check, every code point is inside
        found = np.take(kinds, code_points(text), mode="clip")
        counts: list[int] = np.bincount(found, minlength=NUM_KINDS).tolist()
        return counts
    out = (ctypes.c_int64 * NUM_KINDS)()
    function(text.encode("utf-32-le"), len(text), kinds.ctypes.data, out)
    return list(out)
