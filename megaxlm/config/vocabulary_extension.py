"""What an extended tokenizer owes to the one it was made from: `extension.json` in its folder.

The ids of the base stay what they are, but for `<mask>`: by XLM-R's layout it is the last id, so it
moves behind the new pieces. Text that was encoded with the base holds no `<mask>` (it is put in
when a row is masked), so that shards of the base stay valid; a model needs its embeddings grown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from megaxlm.config.base import Section
from megaxlm.errors import CorruptDataError, UserError

EXTENSION_NAME = "extension.json"


class VocabularyExtension(Section):
    """Which ids are new, what they are made of, and where `<mask>` went."""

    format: Literal[1] = 1
    base_sha256: str  # of the base's SentencePiece model
    base_vocab_size: int = Field(ge=5)  # special tokens in, as everywhere
    vocab_size: int
    moved: dict[int, int]  # base id -> id, of every id that is not the same
    # For each new id, from base_vocab_size - 1 on: the base ids that spell its piece, without
    # <unk>; empty if the base knows no part of it.
    made_of: list[list[int]]

    @model_validator(mode="after")
    def _consistent(self) -> VocabularyExtension:
        base, size = self.base_vocab_size, self.vocab_size
        if size != base + len(self.made_of) or self.moved != {base - 1: size - 1}:
            raise ValueError("its sizes do not agree")
        if any(not 0 <= part < base - 1 for parts in self.made_of for part in parts):
            raise ValueError("made_of names an id that is no piece of the base")
        return self


def read_extension(directory: Path) -> VocabularyExtension:
    """Reads the record of a tokenizer folder.

    Raises:
        UserError: The folder holds no extended tokenizer.
        CorruptDataError: The record is damaged.
    """
    path = directory / EXTENSION_NAME
    try:
        return VocabularyExtension.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{path}: no such file; give the tokenizer folder of a data set that was built with "
            "tokenizer.extend"
        ) from None
    except OSError as error:
        raise CorruptDataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        problem = error.errors()[0]
        raise CorruptDataError(
            f"{path}: {' '.join([*map(str, problem['loc']), problem['msg']])}; build the tokenizer "
            "again"
        ) from None
