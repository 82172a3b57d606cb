"""A group's files and tasks while its documents meet by hash: of lines and of near duplicates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from megaxlm_data.dedup.records import Records, bucket_bounds, read_range
from megaxlm_data.stages.chunks import Chunk


@dataclass(frozen=True)
class GroupFiles:
    """A group's files, until it is done.

    Attributes:
        folder: Where they lie.
        done: The marker of the whole group.
        chunks: How many there are, each with a file of records.
        most_records: An upper bound of the records of all chunks.
        bucket_records: About how many are worked on at a time.
    """

    folder: Path
    done: Path
    chunks: int
    most_records: int
    bucket_records: int

    def records(self, chunk: int) -> Path:
        """Returns the file of a chunk's records (hash, row), sorted."""
        return self.folder / f"{chunk:06d}.records"

    @property
    def buckets(self) -> list[tuple[int, int]]:
        """The ranges of hashes, by an upper bound of the number of records."""
        return bucket_bounds(self.most_records, self.bucket_records)

    def read_bucket(self, bucket: int) -> Records:
        """Returns the records of a range of hashes, chunk by chunk."""
        paths = [self.records(number) for number in range(self.chunks)]
        return read_range(paths, *self.buckets[bucket])


FilesT = TypeVar("FilesT", bound=GroupFiles)


@dataclass(frozen=True)
class GroupTask(Generic[FilesT]):
    """A task of a group; see `tasks.Task`."""

    work: FilesT

    @property
    def group_done(self) -> Path:
        """The marker of the whole group."""
        return self.work.done


@dataclass(frozen=True)
class ChunkTask(GroupTask[FilesT]):
    """A task on a chunk."""

    chunk: Chunk

    @property
    def size(self) -> int:
        """Its rows."""
        return self.chunk.stop - self.chunk.start


@dataclass(frozen=True)
class BucketTask(GroupTask[FilesT]):
    """A task on a range of hashes."""

    bucket: int
    size: int = 1
