"""The on-disk contract between `megaxlm_data`, which writes shards, and the trainer.

    DIR/dataset.json                     written last, atomically
    DIR/tokenizer/                       SentencePiece model and Hugging Face tokenizer files
    DIR/<split>/<lang>/00012.arrow       one row a document
    DIR/<split>/<a>-<b>/00003.arrow      bitext, one row a pair
    DIR/<split>/<lang>/00002-00003.arrow likewise, of a language cut into segments

A shard is an uncompressed Arrow IPC file of exactly one record batch, so that memory mapping it
gives the token values and the list offsets (= cumulative token counts) as plain NumPy views.
Token rows carry no special tokens. `text_bytes` counts the UTF-8 bytes of the normalised text
that the tokens encode. The schema's metadata may hold `content_xxh3`, a checksum of the columns by
which `megaxlm data verify --repair` knows a sound shard without the index; nobody else reads it.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import xxhash

from megaxlm.errors import CorruptDataError, UserError

FORMAT_VERSION = 1
INDEX_NAME = "dataset.json"
TOKENIZER_DIR = "tokenizer"
TEMPORARY_SUFFIX = ".tmp"
Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
_MEND = "`megaxlm data verify {} --repair` makes it again from the shards"

MONOLINGUAL_SCHEMA = pa.schema(
    [
        pa.field("tokens", pa.list_(pa.field("item", pa.uint32(), nullable=False)), nullable=False),
        pa.field("text_bytes", pa.uint32(), nullable=False),
        pa.field("doc_id", pa.uint64(), nullable=False),
    ]
)
_SIDE = pa.list_(pa.field("item", pa.uint32(), nullable=False))
BITEXT_SCHEMA = pa.schema(
    [
        pa.field("source_tokens", _SIDE, nullable=False),
        pa.field("target_tokens", _SIDE, nullable=False),
        pa.field("source_bytes", pa.uint32(), nullable=False),
        pa.field("target_bytes", pa.uint32(), nullable=False),
        pa.field("doc_id", pa.uint64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class ShardInfo:
    """What the index says of one shard file."""

    path: str  # relative to the data set, with forward slashes
    rows: int
    tokens: int  # without special tokens; both sides for bitext
    text_bytes: int
    size: int  # bytes on disk
    xxh3: str  # XXH3-64 of the file, 16 hex digits


@dataclass(frozen=True)
class Subset:
    """All shards of one language or one language pair in one split, in order."""

    split: Split
    langs: tuple[str, ...]  # one language, or the source and target of bitext
    shards: tuple[ShardInfo, ...]

    @property
    def name(self) -> str:
        """`en`, or `en-fr` for bitext."""
        return "-".join(self.langs)

    @property
    def is_bitext(self) -> bool:
        """Whether the rows are pairs."""
        return len(self.langs) == 2

    @property
    def rows(self) -> int:
        """Documents or pairs."""
        return sum(shard.rows for shard in self.shards)

    @property
    def tokens(self) -> int:
        """Tokens without special tokens."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of the text that the tokens encode."""
        return sum(shard.text_bytes for shard in self.shards)


@dataclass(frozen=True)
class DatasetIndex:
    """The content of `dataset.json`."""

    tokenizer_sha256: str  # of DIR/tokenizer/sentencepiece.bpe.model
    vocab_size: int
    subsets: tuple[Subset, ...]
    build: dict[str, Any] = field(default_factory=dict)  # statistics of the build, for `inspect`

    def subset(self, split: Split, *langs: str) -> Subset | None:
        """Returns the subset of a language or pair, or None."""
        return next((s for s in self.subsets if s.split == split and s.langs == langs), None)

    def monolingual(self, split: Split) -> tuple[Subset, ...]:
        """Returns the monolingual subsets of a split that hold at least one row."""
        return tuple(s for s in self.subsets if s.split == split and not s.is_bitext and s.rows)

    def bitext(self, split: Split) -> tuple[Subset, ...]:
        """Returns the bitext subsets of a split that hold at least one row."""
        return tuple(s for s in self.subsets if s.split == split and s.is_bitext and s.rows)

    @property
    def languages(self) -> tuple[str, ...]:
        """Every language, in the order of the index; a language's position is its id."""
        seen: dict[str, None] = {}
        for subset in self.subsets:
            seen.update(dict.fromkeys(subset.langs))
        return tuple(seen)


def file_xxh3(path: Path) -> str:
    """Returns the XXH3-64 of a file as 16 hex digits, reading 4 MiB at a time."""
    digest = xxhash.xxh3_64()
    with open(path, "rb") as file:
        while block := file.read(4 << 20):
            digest.update(block)
    return digest.hexdigest()


def temporary_of(path: Path) -> Path:
    """Returns a name for a file until it is whole, one that no other process on any host gives."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{TEMPORARY_SUFFIX}")


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that a kill leaves the old content or the new, never a part."""
    temporary = temporary_of(path)
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Makes the names inside a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_index(directory: Path, index: DatasetIndex) -> None:
    """Writes `dataset.json`: the last act of a build."""
    content = {
        "format_version": FORMAT_VERSION,
        "tokenizer_sha256": index.tokenizer_sha256,
        "vocab_size": index.vocab_size,
        "languages": list(index.languages),
        "subsets": [asdict(subset) for subset in index.subsets],
        "build": index.build,
    }
    write_atomically(
        directory / INDEX_NAME, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
    )


def read_index(directory: Path) -> DatasetIndex:
    """Reads `dataset.json`.

    Raises:
        UserError: There is no data set here, or one of another format version.
        CorruptDataError: The index cannot be parsed.
    """
    path = directory / INDEX_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if not directory.is_dir():
            hint = "no such folder; build it with `megaxlm data build CONFIG`"
        else:
            hint = "is the build unfinished? run `megaxlm data build` again"
            if any((directory / split).is_dir() for split in SPLITS):
                hint += f"; if the index alone is lost, {_MEND.format(directory)}"
        raise UserError(f"{path}: no data set here: {hint}") from None
    except (ValueError, OSError) as error:
        raise CorruptDataError(
            f"{path}: unreadable index ({error}); {_MEND.format(directory)}"
        ) from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path}: format version {version}, this megaxlm reads {FORMAT_VERSION}; rebuild it"
        )
    try:
        subsets = tuple(
            Subset(
                split=subset["split"],
                langs=tuple(subset["langs"]),
                shards=tuple(ShardInfo(**shard) for shard in subset["shards"]),
            )
            for subset in content["subsets"]
        )
        return DatasetIndex(
            tokenizer_sha256=content["tokenizer_sha256"],
            vocab_size=content["vocab_size"],
            subsets=subsets,
            build=content.get("build", {}),
        )
    except (KeyError, TypeError) as error:
        raise CorruptDataError(
            f"{path}: damaged index ({error}); {_MEND.format(directory)}"
        ) from None


class Shard:
    """One memory-mapped shard: token values and offsets as zero-copy NumPy views.

    Opening checks the size that the index gives; `megaxlm data verify` checks the content.
    """

    def __init__(self, directory: Path, info: ShardInfo, is_bitext: bool) -> None:
        self.info = info
        path = directory / info.path
        try:
            size = path.stat().st_size
            if size != info.size:
                raise CorruptDataError(
                    f"{path}: {size} bytes where dataset.json says {info.size}; "
                    "run `megaxlm data verify` and build this data set again"
                )
            # Closing gives the descriptor back at once; the views below keep the mapping itself.
            with pa.memory_map(str(path)) as mapped:
                batch = pa.ipc.open_file(mapped).get_batch(0)
            batch.validate()  # an altered header may point outside the file
        except FileNotFoundError:
            raise CorruptDataError(f"{path}: shard is missing; build this data set again") from None
        except (OSError, pa.ArrowException) as error:
            raise CorruptDataError(
                f"{path}: not a readable Arrow file ({error}); build this data set again"
            ) from None
        expected = BITEXT_SCHEMA if is_bitext else MONOLINGUAL_SCHEMA
        if not batch.schema.equals(expected) or batch.num_rows != info.rows:
            raise CorruptDataError(f"{path}: columns or rows differ from dataset.json; rebuild")
        self.sides: tuple[tuple[np.ndarray, np.ndarray], ...]  # ((values, offsets), ...) per side
        names = ("source_tokens", "target_tokens") if is_bitext else ("tokens",)
        sides = []
        for name in names:
            column = batch.column(name)
            offsets = column.offsets.to_numpy()  # (rows + 1,) int32, cumulative token counts
            sides.append((column.values.to_numpy(), offsets))
        self.sides = tuple(sides)
        self.doc_ids: np.ndarray = batch.column("doc_id").to_numpy()  # (rows,) uint64


def tokenizer_path(directory: Path) -> Path:
    """Returns where the SentencePiece model of a data set lies."""
    return directory / TOKENIZER_DIR / "sentencepiece.bpe.model"
