"""Writes small data sets that keep the shard contract, from token ids given in the test itself.

No tokenizer is trained: DIR/tokenizer holds a stand-in file whose hash stands in the index, which
is all that the stream of rows looks at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from megaxlm.data.shards import (
    BITEXT_SCHEMA,
    MONOLINGUAL_SCHEMA,
    DatasetIndex,
    ShardInfo,
    Split,
    Subset,
    file_xxh3,
    tokenizer_path,
    write_index,
)

Document = Sequence[int] | npt.NDArray[Any]  # token ids without special tokens
Pair = tuple[Document, Document]
BYTES_PER_TOKEN = 4  # what `text_bytes` claims of text that was never there
STAND_IN_TOKENIZER = b"stand-in for a SentencePiece model\n"


def write_dataset(
    directory: Path,
    monolingual: Mapping[str, Sequence[Document]] | None = None,
    bitext: Mapping[tuple[str, str], Sequence[Pair]] | None = None,
    vocab_size: int = 1000,
    *,
    validation: Mapping[str, Sequence[Document]] | None = None,
    validation_bitext: Mapping[tuple[str, str], Sequence[Pair]] | None = None,
    rows_per_shard: int = 1000,
    tokenizer: bytes = STAND_IN_TOKENIZER,
) -> DatasetIndex:
    """Writes a whole data set: shards, tokenizer file and `dataset.json`.

    Args:
        directory: Where; made if missing.
        monolingual: Training documents by language.
        bitext: Training pairs by (source language, target language).
        vocab_size: Size of the vocabulary that the index states; `<mask>` is its last id.
        validation: Validation documents by language.
        validation_bitext: Validation pairs.
        rows_per_shard: Documents or pairs a shard.
        tokenizer: Content of the tokenizer's model file.

    Returns:
        The index as written.
    """
    subsets = []
    sources: tuple[tuple[Split, Mapping[Any, Sequence[Any]] | None], ...] = (
        ("train", monolingual),
        ("train", bitext),
        ("validation", validation),
        ("validation", validation_bitext),
    )
    for split, rows_by_name in sources:
        for name, rows in (rows_by_name or {}).items():
            langs = (name,) if isinstance(name, str) else tuple(name)
            subsets.append(_write_subset(directory, split, langs, rows, rows_per_shard))
    model = tokenizer_path(directory)
    model.parent.mkdir(parents=True, exist_ok=True)
    model.write_bytes(tokenizer)
    index = DatasetIndex(hashlib.sha256(tokenizer).hexdigest(), vocab_size, tuple(subsets))
    write_index(directory, index)
    return index


def _write_subset(
    directory: Path, split: Split, langs: tuple[str, ...], rows: Sequence[Any], per_shard: int
) -> Subset:
    shards: list[ShardInfo] = []
    for start in range(0, len(rows), per_shard):
        relative = f"{split}/{'-'.join(langs)}/{len(shards):05d}.arrow"
        part = rows[start : start + per_shard]
        sides = list(zip(*part, strict=True)) if len(langs) == 2 else [part]
        schema = BITEXT_SCHEMA if len(langs) == 2 else MONOLINGUAL_SCHEMA
        lengths = [np.array([len(ids) for ids in side], np.int64) for side in sides]
        columns = [
            *(_list_column(side, length) for side, length in zip(sides, lengths, strict=True)),
            *(pa.array(BYTES_PER_TOKEN * length, pa.uint32()) for length in lengths),
            pa.array(range(start, start + len(part)), pa.uint64()),
        ]
        batch = pa.record_batch(columns, schema=schema)
        path = directory / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            writer.write_batch(batch)
        tokens = sum(int(length.sum()) for length in lengths)
        shards.append(
            ShardInfo(
                path=relative,
                rows=len(part),
                tokens=tokens,
                text_bytes=BYTES_PER_TOKEN * tokens,
                size=path.stat().st_size,
                xxh3=file_xxh3(path),
            )
        )
    return Subset(split, langs, tuple(shards))


def _list_column(documents: Sequence[Document], lengths: npt.NDArray[np.int64]) -> pa.ListArray:
    values = np.concatenate([np.zeros(0, np.uint32), *(np.asarray(ids) for ids in documents)])
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(values.astype(np.uint32)), type=MONOLINGUAL_SCHEMA[0].type
    )
