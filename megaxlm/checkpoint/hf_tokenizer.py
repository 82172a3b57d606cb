"""A published model's tokenizer that comes without its SentencePiece model.

`megaxlm.data.tokenizer.Tokenizer` is the truth for ids. Some Hugging Face folders hold only
`tokenizer.json`; Transformers reads it, and this gives it the same small face.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from megaxlm.data.special_tokens import BOS, EOS, PAD, UNK
from megaxlm.errors import UserError


class TextTokenizer(Protocol):
    """What evaluation asks of a tokenizer; ids are XLM-R's, without special tokens."""

    @property
    def vocab_size(self) -> int:
        """Ids, special tokens among them."""

    @property
    def mask_id(self) -> int:
        """The id of `<mask>`."""

    @property
    def sha256(self) -> str:
        """Of the file that defines it."""

    def encode(self, text: str) -> list[int]:
        """Encodes one text."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes many texts."""

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids."""

    def piece(self, token_id: int) -> str:
        """Returns the piece of an id."""


class HuggingFaceTokenizer:
    """`tokenizer.json` of a folder, read by Transformers; no code of the folder is run.

    Args:
        directory: The Hugging Face folder.

    Raises:
        UserError: There is no tokenizer that can be read, or its special ids are not XLM-R's.
    """

    def __init__(self, directory: Path) -> None:
        from transformers import AutoTokenizer  # seconds to import

        try:
            content = (directory / "tokenizer.json").read_bytes()
            tokenizer: Any = AutoTokenizer.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # a damaged tokenizer.json is a bare Exception of its library
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
            raise UserError(
                f"{directory}: its tokenizer cannot be read ({reason}); "
                "take the tokenizer files from the model's source again"
            ) from None
        special = (
            tokenizer.bos_token_id,
            tokenizer.pad_token_id,
            tokenizer.eos_token_id,
            tokenizer.unk_token_id,
        )
        if special != (BOS, PAD, EOS, UNK) or tokenizer.mask_token_id is None:
            raise UserError(
                f"{directory}: ids of bos, pad, eos, unk are {special}, XLM-R's are "
                f"{(BOS, PAD, EOS, UNK)} and it has a mask; give a model with XLM-R's tokenizer"
            )
        self._tokenizer = tokenizer
        self.vocab_size: int = len(tokenizer)
        self.mask_id: int = tokenizer.mask_token_id
        self.sha256 = hashlib.sha256(content).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Encodes one text, without special tokens."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes many texts; `encode` of each."""
        if not texts:
            return []
        encoded = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)
        return [list(ids) for ids in encoded["input_ids"]]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; special tokens but `<mask>` are left out."""
        leading = {BOS, PAD, EOS}
        kept = [int(token) for token in ids if int(token) not in leading]
        return str(self._tokenizer.decode(kept, clean_up_tokenization_spaces=False))

    def piece(self, token_id: int) -> str:
        """Returns the piece of an id; a word starts with U+2581."""
        if not 0 <= token_id < self.vocab_size:
            raise IndexError(f"token id {token_id} outside the vocabulary of {self.vocab_size}")
        return str(self._tokenizer.convert_ids_to_tokens(int(token_id)))
