"""The tokenizer of a data set: a SentencePiece model, Unigram or BPE, with XLM-R's id layout.

sentencepiece is the truth for ids (what Hugging Face makes of the same model is made to agree, and
`megaxlm_data.tokenizer.huggingface` says where it cannot). The model itself normalises text and
folds whitespace, so that `encode` takes raw text. Literal `<s>`, `</s>` or `<mask>` in a text is
only text here: the ids of special tokens never come out of `encode`.

The file keeps sentencepiece's own order (`<unk> <s> </s>`, then the pieces). It is re-ordered to
XLM-R's in memory, before sentencepiece reads it, so that no token's id is touched from Python.

Which call for what:

- `encode_flat` for building shards: NumPy arrays straight from sentencepiece's buffers, ready for
  an Arrow list column, with no Python object per token.
- `encode_batch` and `encode` where lists are wanted (evaluation, tests).

All of them run at the speed of bare sentencepiece on the calling thread: the build and the
evaluation parallelise over processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megaxlm.data.special_tokens import (
    BOS_TOKEN,
    EOS_TOKEN,
    MASK_TOKEN,
    PAD_TOKEN,
    UNK_TOKEN,
    mask_id,
)
from megaxlm.errors import CorruptDataError, UserError

_UNKNOWN, _CONTROL = 2, 3  # ModelProto.SentencePiece.Type; text never matches either
_LAYOUT_OF_FILE = [(UNK_TOKEN, _UNKNOWN), (BOS_TOKEN, _CONTROL), (EOS_TOKEN, _CONTROL)]
_LEADING = [
    (BOS_TOKEN, _CONTROL),
    (PAD_TOKEN, _CONTROL),
    (EOS_TOKEN, _CONTROL),
    (UNK_TOKEN, _UNKNOWN),
]


class Tokenizer:
    """Encodes text to XLM-R ids and back.

    Attributes:
        model_path: The file it was read from.
        sha256: Of that file, as `dataset.json` records it.
        vocab_size: SentencePiece pieces + 2: `<s> <pad> </s> <unk>` stand for the file's three
            leading pieces, and `<mask>` is appended.
        mask_id: The last id.

    Args:
        model_path: The SentencePiece model, `DIR/tokenizer/sentencepiece.bpe.model`.

    Raises:
        UserError: The file does not exist, or does not begin with the pieces `<unk> <s> </s>`.
        CorruptDataError: The file is not a SentencePiece model.
    """

    def __init__(self, model_path: Path) -> None:
        import sentencepiece  # here, so that `--help` and config errors do not wait for it

        self.model_path = Path(model_path)
        try:
            content = self.model_path.read_bytes()
        except OSError as error:
            raise UserError(
                f"{self.model_path}: cannot read the SentencePiece model ({error.strerror}); "
                "build the data set again or name an existing model"
            ) from None
        reordered, pieces = _in_xlmr_order(content, self.model_path)
        self._processor: Any = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(reordered)
        except (RuntimeError, ValueError) as error:
            raise _corrupt(self.model_path, content, error) from None
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.vocab_size = pieces + 2
        self.mask_id = mask_id(self.vocab_size)

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[Path]]:
        """Pickles as the path, so that worker processes read the model themselves."""
        return Tokenizer, (self.model_path,)

    def model_proto(self) -> Any:
        """Returns the model as sentencepiece reads it: a `ModelProto`, its pieces in id order."""
        from sentencepiece import sentencepiece_model_pb2

        pb: Any = sentencepiece_model_pb2
        return pb.ModelProto.FromString(self._processor.serialized_model_proto())

    def encode(self, text: str) -> list[int]:
        """Encodes one text, without special tokens."""
        ids: list[int] = self._processor.Encode(text)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes many texts; `encode` of each."""
        rows: list[list[int]] = self._processor.Encode(list(texts), num_threads=1)
        return rows

    def encode_flat(
        self, texts: Sequence[str]
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """Encodes many texts into one array.

        Args:
            texts: One text a row.

        Returns:
            values: (tokens,) uint32, the ids of all rows without special tokens.
            offsets: (rows + 1,) int64; row i is `values[offsets[i] : offsets[i + 1]]`.
        """
        rows = self._processor.Encode(list(texts), return_type="numpy", num_threads=1)
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        if not rows:
            return np.zeros(0, dtype=np.uint32), offsets
        np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)), out=offsets[1:])
        # ids are never negative, so that sentencepiece's int32 may be viewed as the shards' uint32
        return np.concatenate(rows).view(np.uint32), offsets

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; `<s>`, `<pad>` and `</s>` are left out, `<mask>` is shown.

        Raises:
            UserError: An id is outside the vocabulary.
        """
        spans: list[list[int]] = [[]]
        for token in map(int, ids):
            if not 0 <= token < self.vocab_size:
                raise UserError(
                    f"token id {token} is outside the vocabulary of {self.vocab_size}: the ids "
                    f"were not made with {self.model_path}"
                )
            if token == self.mask_id:
                spans.append([])
            else:
                spans[-1].append(token)
        return f" {MASK_TOKEN} ".join(self._processor.Decode(span) for span in spans).strip(" ")

    def piece(self, token_id: int) -> str:
        """Returns the piece of an id; a word starts with U+2581, a byte is written `<0xE2>`."""
        if not 0 <= token_id < self.vocab_size:
            raise IndexError(f"token id {token_id} outside the vocabulary of {self.vocab_size}")
        return str(self._processor.IdToPiece(int(token_id)))


def _in_xlmr_order(content: bytes, path: Path) -> tuple[bytes, int]:
    """Returns the model with XLM-R's special pieces, and how many pieces the file has."""
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    pb: Any = sentencepiece_model_pb2
    model = pb.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise _corrupt(path, content, error) from None
    pieces = len(model.pieces)
    if pieces <= len(_LAYOUT_OF_FILE):
        raise _corrupt(path, content, ValueError(f"{pieces} pieces"))
    layout = [(piece.piece, piece.type) for piece in model.pieces[:3]]
    if layout != _LAYOUT_OF_FILE:
        raise UserError(
            f"{path}: begins with the pieces {' '.join(name for name, _ in layout)}, XLM-R's "
            f"layout needs {UNK_TOKEN} {BOS_TOKEN} {EOS_TOKEN}; train it with --unk_id=0 "
            "--bos_id=1 --eos_id=2 --pad_id=-1"
        )
    reserved = {PAD_TOKEN, MASK_TOKEN}
    if taken := next((p.piece for p in model.pieces if p.piece in reserved), None):
        raise UserError(
            f"{path}: holds the piece {taken}, which XLM-R's layout gives to a special token; "
            "train it with --pad_id=-1 and on text without this literal"
        )

    def special(*tokens: tuple[str, int]) -> bytes:
        part = pb.ModelProto()
        for name, kind in tokens:
            part.pieces.add(piece=name, score=0.0, type=kind)
        serialized: bytes = part.SerializeToString()
        return serialized

    # messages concatenated on the wire are merged: their lists follow one another
    del model.pieces[:3]
    return special(*_LEADING) + model.SerializeToString() + special((MASK_TOKEN, _CONTROL)), pieces


def _corrupt(path: Path, content: bytes, error: Exception) -> CorruptDataError:
    reason = " ".join(str(error).split())[:120]
    return CorruptDataError(
        f"{path}: not a readable SentencePiece model ({len(content)} bytes; {reason}); "
        "build or copy it again"
    )
