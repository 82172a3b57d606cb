"""Run state as JSON without loss and without pickle.

Random states are tuples, NumPy arrays and byte tensors; callbacks may hold an infinity. Plain
JSON turns tuples into lists and refuses the rest, so these become objects with one reserved key.
Everything else stays as a person would write it, readable with any JSON tool.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from megaxlm.checkpoint.fragments import DTYPE_NAMES, DTYPES

_TUPLE, _FLOAT, _BYTES, _ARRAY, _TENSOR = (
    "__tuple__",
    "__float__",
    "__bytes__",
    "__array__",
    "__tensor__",
)
_RESERVED = {_TUPLE, _FLOAT, _BYTES, _ARRAY, _TENSOR}


def dumps(state: Mapping[str, Any]) -> bytes:
    """Returns the state as UTF-8 JSON.

    Raises:
        ValueError: A value is of a kind that has no encoding, or a key is not a plain string.
    """
    return (json.dumps(_encode(state, "state"), indent=1, allow_nan=False) + "\n").encode()


def loads(content: bytes) -> Any:
    """Returns what `dumps` was given: tuples, arrays and tensors (on the CPU) as they were.

    Raises:
        ValueError: The content is not JSON, or an encoded value is damaged.
    """
    try:
        return json.loads(content, object_hook=_decode)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"damaged value ({error})") from None


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _encode(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        number = float(value)
        return number if math.isfinite(number) else {_FLOAT: repr(number)}
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or key in _RESERVED:
                raise ValueError(f"{where}: key {key!r} cannot be saved; use another string")
        return {key: _encode(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, tuple):
        return {_TUPLE: [_encode(item, f"{where}[{i}]") for i, item in enumerate(value)]}
    if isinstance(value, list):
        return [_encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, bytes | bytearray):
        return {_BYTES: _base64(bytes(value))}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        array = np.ascontiguousarray(value)
        return {_ARRAY: [array.dtype.str, list(value.shape), _base64(array.tobytes())]}
    if isinstance(value, torch.Tensor) and value.dtype in DTYPE_NAMES:
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        content = _base64(flat.numpy().tobytes())
        return {_TENSOR: [DTYPE_NAMES[value.dtype], list(value.shape), content]}
    raise ValueError(f"{where}: a value of type {type(value).__name__} cannot be saved")


def _decode(item: dict[str, Any]) -> Any:
    if len(item) != 1:
        return item
    ((kind, content),) = item.items()
    if kind == _TUPLE:
        return tuple(content)
    if kind == _FLOAT:
        return float(content)
    if kind == _BYTES:
        return base64.b64decode(content, validate=True)
    if kind == _ARRAY:
        dtype, shape, data = content
        array = np.frombuffer(base64.b64decode(data, validate=True), dtype=np.dtype(dtype))
        return array.reshape(shape).copy()
    if kind == _TENSOR:
        dtype_name, shape, data = content
        raw = bytearray(base64.b64decode(data, validate=True))
        if not raw:
            return torch.empty(shape, dtype=DTYPES[dtype_name])
        return torch.frombuffer(raw, dtype=torch.uint8).view(DTYPES[dtype_name]).reshape(shape)
    return item
