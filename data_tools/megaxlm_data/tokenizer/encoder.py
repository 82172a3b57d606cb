"""Encodes text for shards, with the compiled Unigram encoder where it can be had.

`csrc/unigram*` does what sentencepiece does, to the last rounding, at several times the speed: its
own normalizer, a trie over characters, and a cache of the parts between spaces, used only where the
result provably does not depend on the rest of the text. Which encoder runs never shows in the ids.

The compiled one takes Unigram models. BPE models, models with something in them that it does not
know, and machines without a C++ compiler are left to sentencepiece. Before it is used, both encode
a few hundred short texts made from the model's own pieces: should a coming version of sentencepiece
segment in another way, sentencepiece is the truth.
"""

from __future__ import annotations

import ctypes
import random
import threading
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from megaxlm.data.tokenizer import Tokenizer
from megaxlm_data import native

_UNIGRAM = 1  # TrainerSpec.ModelType
_BYTE = 6  # ModelProto.SentencePiece.Type
_PADDING = bytes(80)  # kPadding of unigram_cache.h

Encoded = tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]


class Encoder(Protocol):
    """Turns texts into ids; whichever it is, the ids are those of `Tokenizer.encode_flat`.

    Attributes:
        description: What it is, for a line in the build's report.
    """

    description: str

    def encode_flat(self, texts: Sequence[str]) -> Encoded:
        """Encodes many texts into one array, as `Tokenizer.encode_flat` does."""
        ...


def make_encoder(tokenizer: Tokenizer) -> Encoder:
    """Returns the fastest encoder that gives the tokenizer's ids.

    Args:
        tokenizer: Of a Unigram or BPE model.
    """
    library = native.load()
    if library is None:
        return SentencePieceEncoder(tokenizer, "compiled data tools are off")
    model = tokenizer.model_proto()
    if model.trainer_spec.model_type != _UNIGRAM:
        return SentencePieceEncoder(tokenizer, "the model is not a Unigram model")
    handle = _new_handle(library, model)
    if handle is None:
        return SentencePieceEncoder(tokenizer, "the model holds what the compiled one does not do")
    encoder = UnigramEncoder(tokenizer, library, handle)
    texts = _probes([piece.piece for piece in model.pieces])
    mine, truth = encoder.encode_flat(texts), tokenizer.encode_flat(texts)
    if np.array_equal(mine[0], truth[0]) and np.array_equal(mine[1], truth[1]):
        return encoder
    return SentencePieceEncoder(tokenizer, "the compiled one disagrees with this version")


class SentencePieceEncoder:
    """sentencepiece itself."""

    def __init__(self, tokenizer: Tokenizer, reason: str) -> None:
        """Encodes with `tokenizer`; `reason` says why not with the compiled encoder."""
        self._tokenizer = tokenizer
        self.description = f"sentencepiece ({reason})"

    def encode_flat(self, texts: Sequence[str]) -> Encoded:
        """Encodes many texts into one array, as `Tokenizer.encode_flat` does."""
        return self._tokenizer.encode_flat(texts)


class UnigramEncoder:
    """The compiled encoder; `make_encoder` makes it.

    Calls from several threads wait for one another. Beside the model it holds 12 MB of cache.

    Attributes:
        by_parts: Whether text is taken part by part between spaces; as a whole, some two times
            slower, if a piece holds a space inside or the model treats spaces in another way than
            XLM-R's.
    """

    def __init__(self, tokenizer: Tokenizer, library: ctypes.CDLL, handle: int) -> None:
        """Takes over what `megaxlm_unigram_new` returned."""
        self._tokenizer = tokenizer
        self._library = library
        self._handle = handle
        self._lock = threading.Lock()
        weakref.finalize(self, library.megaxlm_unigram_free, handle)
        self.by_parts = bool(library.megaxlm_unigram_by_parts(handle))
        self.description = f"compiled Unigram, text by {'parts' if self.by_parts else 'documents'}"

    def encode_flat(self, texts: Sequence[str]) -> Encoded:
        """Encodes many texts into one array, as `Tokenizer.encode_flat` does.

        Raises:
            TypeError: From sentencepiece, as ever: a text is no string, or holds a lone surrogate.
            MemoryError: There is not enough of it.
        """
        try:
            encoded = [text.encode() for text in texts]
        except (AttributeError, UnicodeEncodeError):
            return self._tokenizer.encode_flat(texts)
        rows = len(encoded)
        ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, rows))
        encoded.append(_PADDING)
        joined = b"".join(encoded)
        del encoded
        offsets = np.zeros(rows + 1, dtype=np.int64)
        with self._lock:
            count = self._library.megaxlm_unigram_encode(
                self._handle, joined, ends.ctypes.data, rows, offsets.ctypes.data
            )
            if count < 0:
                raise MemoryError(f"encoding {len(joined)} bytes of text")
            values = np.empty(count, dtype=np.uint32)
            self._library.megaxlm_unigram_take(self._handle, values.ctypes.data)
        return values, offsets


def _new_handle(library: ctypes.CDLL, model: Any) -> int | None:
    """Hands a `ModelProto` in XLM-R's order to the library; None if it does not take it."""
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    new = library.megaxlm_unigram_new
    new.restype = pointer
    new.argtypes = [ctypes.c_char_p, pointer, pointer, pointer, count]
    new.argtypes += [ctypes.c_char_p, count, ctypes.c_uint32, pointer]
    library.megaxlm_unigram_encode.restype = count
    library.megaxlm_unigram_encode.argtypes = [pointer, ctypes.c_char_p, pointer, count, pointer]
    library.megaxlm_unigram_take.restype = None
    library.megaxlm_unigram_take.argtypes = [pointer, pointer]
    library.megaxlm_unigram_free.restype = None
    library.megaxlm_unigram_free.argtypes = [pointer]
    library.megaxlm_unigram_by_parts.argtypes = [pointer]

    pieces = [piece.piece.encode() for piece in model.pieces]
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    scores = np.array([piece.score for piece in model.pieces], dtype=np.float32)
    types = np.array([piece.type for piece in model.pieces], dtype=np.uint8)
    rules = model.normalizer_spec
    flags = (
        rules.add_dummy_prefix
        | rules.remove_extra_whitespaces << 1
        | rules.escape_whitespaces << 2
        | model.trainer_spec.treat_whitespace_as_suffix << 3
    )
    byte_ids = None
    if model.trainer_spec.byte_fallback:
        named = {p.piece: i for i, p in enumerate(model.pieces) if p.type == _BYTE}
        byte_ids = np.array([named[f"<0x{byte:02X}>"] for byte in range(256)], dtype=np.int32)
    handle: int | None = new(
        b"".join(pieces),
        lengths.ctypes.data,
        scores.ctypes.data,
        types.ctypes.data,
        len(pieces),
        rules.precompiled_charsmap,
        len(rules.precompiled_charsmap),
        flags,
        None if byte_ids is None else byte_ids.ctypes.data,
    )
    return handle


def _probes(pieces: list[str]) -> list[str]:
    """Returns texts that show most of what a model does, the same ones each time."""
    rng = random.Random(0)
    texts = ["", " ", "\u2581", "\u2581 a", "a\u2581", " a  b\t\u3000c ", "<s></s> <0x41> <unk>"]
    texts += ["\ufb01ne e\u0301 \uff21\uff22 \u00b4x", "\ufdfa \u200b \u00ad", "\x00a\x00 b"]
    texts += ["\ue000\ue001 x \U0001f642", "x" * 300, "a b " * 8000]
    for size in (1, 2, 4, 8, 16):
        for gap in ("", " ", "\u2581"):
            for _ in range(20):
                chosen = rng.choices(pieces, k=size)
                texts.append(gap.join(piece.replace("\u2581", " ") for piece in chosen))
    return texts
