"""Writes shards as `megaxlm.data.shards` defines them: one record batch, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from megaxlm.data.shards import BITEXT_SCHEMA, MONOLINGUAL_SCHEMA, ShardInfo
from megaxlm_data.writers.atomic import atomic_file

# In the schema's metadata, which readers pass over: XXH3-64 of the columns. With it a shard can be
# told from a damaged one where the index, which holds the checksum of the file, is lost.
CONTENT_CHECKSUM = b"content_xxh3"


@dataclass(frozen=True)
class EncodedSide:
    """The tokens of one language of some rows."""

    values: npt.NDArray[np.uint32]  # (tokens,)
    lengths: npt.NDArray[np.int64]  # (rows,) tokens of each row
    text_bytes: npt.NDArray[np.uint32]  # (rows,)


def content_checksum(columns: Iterable[npt.NDArray[np.generic]]) -> bytes:
    """Returns XXH3-64 of a shard's columns as 16 hex digits.

    Args:
        columns: Offsets and values of each side, then the byte counts, then the document ids.
    """
    digest = xxhash.xxh3_64()
    for column in columns:
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest().encode()


def write_shard(
    directory: Path, path: str, sides: list[EncodedSide], doc_ids: npt.NDArray[np.uint64]
) -> ShardInfo:
    """Writes one shard.

    Args:
        directory: The data set.
        path: Of the shard, relative to the data set.
        sides: One, or source and target.
        doc_ids: (rows,) hashes of the text.
    """
    schema = MONOLINGUAL_SCHEMA if len(sides) == 1 else BITEXT_SCHEMA
    columns: list[pa.Array] = []
    hashed: list[npt.NDArray[np.generic]] = []
    for index, side in enumerate(sides):
        offsets = np.zeros(len(side.lengths) + 1, dtype=np.int32)
        np.cumsum(side.lengths, out=offsets[1:])
        hashed += [offsets, side.values]
        columns.append(
            pa.ListArray.from_arrays(
                pa.array(offsets), pa.array(side.values), type=schema.field(index).type
            )
        )
    columns += [pa.array(side.text_bytes) for side in sides]
    columns.append(pa.array(doc_ids))
    checksum = content_checksum([*hashed, *(side.text_bytes for side in sides), doc_ids])
    schema = schema.with_metadata({CONTENT_CHECKSUM: checksum})
    batch = pa.RecordBatch.from_arrays(columns, schema=schema)
    with atomic_file(directory / path) as file:
        with pa.ipc.new_file(pa.PythonFile(file, mode="w"), schema) as writer:
            writer.write_batch(batch)
        size, xxh3 = file.size, file.xxh3
    return ShardInfo(
        path=path,
        rows=len(doc_ids),
        tokens=sum(len(side.values) for side in sides),
        text_bytes=sum(int(side.text_bytes.sum(dtype=np.int64)) for side in sides),
        size=size,
        xxh3=xxh3,
    )
