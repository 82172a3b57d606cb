"""Stage 3, if asked for: near duplicates in a language go, the first of each cluster stays.

    sign      a chunk of blocks to signatures and to sorted records of (hash of a band, row)
    match     a range of hashes, out of all chunks, to pairs that share a hash
    verify    the pairs of a chunk's rows to those whose signatures agree often enough
    unite     all of these to clusters, in this process, a language at a time

Each task is a function of its inputs and writes a file that gets its name when it is whole, so that
a killed build continues from the files that are there. A task takes 350 MB at most. On disk,
until a language is done, a document takes 2 bytes a permutation and 16 a band: 560 bytes at 20
bands of 6. In memory it takes four bytes while its language is united.

Similarity goes along a chain: where a is like b and b like c, both b and c go. Pairs of bitext are
left alone.
"""

from __future__ import annotations

import math
import shutil
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.config.data_deduplication import NearDuplicatesConfig
from megaxlm_data.crew import Crew
from megaxlm_data.dedup import records as sorted_records
from megaxlm_data.dedup.clusters import Clusters
from megaxlm_data.dedup.kept import Kept, kept_marker, read_kept
from megaxlm_data.dedup.lsh import band_records, candidate_pairs
from megaxlm_data.dedup.minhash import Shingling, band_hashes, has_shingles, sign
from megaxlm_data.dedup.records import RECORD, read_pieces, write_sorted
from megaxlm_data.dedup.signature_files import SignatureFiles, write_signatures
from megaxlm_data.progress import Progress
from megaxlm_data.stages import chunks
from megaxlm_data.stages.chunks import Chunk, chunks_of, remove_temporary
from megaxlm_data.stages.clean import CleanReport
from megaxlm_data.stages.near_samples import write_samples
from megaxlm_data.stages.plan import Plan, digest_of
from megaxlm_data.stages.select import blocks_of
from megaxlm_data.stages.shuffle import BucketTask, ChunkTask, GroupFiles
from megaxlm_data.stages.tasks import run_tasks
from megaxlm_data.workers import WorkerPool, advance
from megaxlm_data.writers.atomic import atomic_file
from megaxlm_data.writers.cleaned import open_cleaned

_PIECE_PAIRS = 1 << 17  # twice as many signatures in memory
_PIECE_ROWS = 1 << 20
_VERSION = 1  # of signatures: raised when they change


@dataclass(frozen=True)
class _Work(GroupFiles):
    """A group's files, until what stays is known."""

    starts: tuple[int, ...]  # first row of each chunk
    rows: int
    config: NearDuplicatesConfig

    def signatures(self, chunk: int) -> Path:
        return self.folder / f"{chunk:06d}.signatures"

    def pairs(self, bucket: int) -> Path:
        return self.folder / f"{bucket:06d}.pairs"

    def similar(self, chunk: int) -> Path:
        return self.folder / f"{chunk:06d}.similar"

    def signature_files(self) -> SignatureFiles:
        paths = [self.signatures(number) for number in range(self.chunks)]
        return SignatureFiles(paths, self.starts, self.config.num_permutations)


@dataclass(frozen=True)
class _SignTask(ChunkTask[_Work]):
    bits: npt.NDArray[np.uint8]  # of the rows of the chunk, 1 for those that stay

    @property
    def result(self) -> Path:
        return self.work.records(self.chunk.number)


class _VerifyTask(ChunkTask[_Work]):
    @property
    def result(self) -> Path:
        return self.work.similar(self.chunk.number)


class _MatchTask(BucketTask[_Work]):
    @property
    def result(self) -> Path:
        return self.work.pairs(self.bucket)


@dataclass(frozen=True)
class _Group:
    """A group, its files and what exact deduplication left of it."""

    name: str
    work: _Work
    chunks: list[Chunk]
    before: Kept
    digest: str


def near_duplicates(
    plan: Plan,
    config: DataBuildConfig,
    kept: dict[str, Kept],
    reports: dict[str, CleanReport],
    cleaned: Path,
    folder: Path,
    pool: WorkerPool,
    crew: Crew,
    progress: Progress,
) -> dict[str, Kept]:
    """Takes near duplicates out of what exact deduplication left.

    Args:
        plan: The groups; those of pairs are left as they are.
        config: The build's config.
        kept: What stays until now, by group name.
        reports: What cleaning left, by unit digest.
        cleaned: The folder of clean text.
        folder: For the files of this stage.
        pool: Where tasks run.
        crew: The ranks that share them.
        progress: Where the bars are shown.

    Returns:
        What stays, by group name.
    """
    settings = config.deduplication.near
    if settings is None:
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    groups = []
    for group in plan.groups:
        if group.is_bitext:
            continue
        before = kept[group.name]
        digest = near_digest(before, settings)
        pieces = chunks_of(blocks_of(group, reports, cleaned))
        rows = pieces[-1].stop
        work = _Work(
            folder / digest,
            kept_marker(folder, digest),
            len(pieces),
            rows * settings.bands,
            sorted_records.BUCKET_RECORDS,
            tuple(chunk.start for chunk in pieces),
            rows,
            settings,
        )
        groups.append(_Group(group.name, work, pieces, before, digest))
    waiting = [each for each in groups if not each.work.done.exists()]
    if crew.leads:
        _tidy(folder, [each.digest for each in waiting], alone=crew.world_size == 1)
    for each in waiting:
        each.work.folder.mkdir(exist_ok=True)
    _run(groups, pool, crew, progress)
    mine = crew.mine([each.work.rows for each in groups])
    for each, is_mine in zip(groups, mine, strict=True):
        if is_mine and not each.work.done.exists():
            _unite(each, folder)
            shutil.rmtree(each.work.folder)
    crew.wait("unite", lambda: [each for each in groups if not each.work.done.exists()])
    return {**kept, **{each.name: read_kept(folder, each.digest) for each in groups}}


def near_digest(before: Kept, settings: NearDuplicatesConfig) -> str:
    """Returns a digest of all that the near duplicates of a group depend on."""
    # what is a letter depends on the Unicode tables of Python; files under way on how work is cut
    key = [_VERSION, unicodedata.unidata_version, sorted_records.BUCKET_RECORDS, chunks.SIZES]
    return digest_of([key, before.digest, settings.model_dump()])


def _tidy(folder: Path, wanted: list[str], alone: bool) -> None:
    """Removes what builds of another config left, and what killed ones left half written."""
    for path in folder.iterdir():
        if path.is_dir() and path.name not in wanted:
            shutil.rmtree(path)
    if alone:  # else another rank may be writing
        remove_temporary(folder)


def _run(groups: list[_Group], pool: WorkerPool, crew: Crew, progress: Progress) -> None:
    """Does all but to unite."""
    works = [each.work for each in groups]
    signs = [
        _SignTask(each.work, chunk, _bits(each.before, chunk))
        for each in groups
        for chunk in each.chunks
    ]
    run_tasks("sign", "doc", _sign, signs, pool, crew, progress)
    matches = [_MatchTask(work, bucket) for work in works for bucket in range(len(work.buckets))]
    run_tasks("match", "bucket", _match, matches, pool, crew, progress)
    verifies = [_VerifyTask(each.work, chunk) for each in groups for chunk in each.chunks]
    run_tasks("verify", "doc", _verify, verifies, pool, crew, progress)


def _bits(kept: Kept, chunk: Chunk) -> npt.NDArray[np.uint8]:
    return np.packbits(kept.rows(chunk.start, chunk.stop), bitorder="little")


def _sign(task: _SignTask) -> None:
    work, settings = task.work, task.work.config
    shingling = Shingling(
        settings.shingle_words, settings.shingle_characters, settings.num_permutations
    )
    staying = np.unpackbits(task.bits, bitorder="little").astype(np.bool_)
    found = [np.zeros(0, RECORD)]
    with atomic_file(work.signatures(task.chunk.number)) as file:
        for block in task.chunk.blocks:
            start = block.start - task.chunk.start
            rows = staying[start : start + block.stop - block.start]
            text, offsets = open_cleaned(block.path, True).utf8(block.number, rows)
            signatures = sign(text, offsets, shingling)
            write_signatures(file, signatures, rows)
            filled = has_shingles(signatures)
            numbers = (np.flatnonzero(rows) + block.start).astype(np.uint64)
            found.append(
                band_records(band_hashes(signatures[filled], settings.bands), numbers[filled])
            )
            advance(len(rows))
    write_sorted(task.result, np.concatenate(found))


def _match(task: _MatchTask) -> None:
    pairs = candidate_pairs(task.work.read_bucket(task.bucket))
    with atomic_file(task.result) as file:
        file.write(pairs.tobytes())
    advance(task.size)


def _verify(task: _VerifyTask) -> None:
    work = task.work
    needed = math.ceil(work.config.threshold * work.config.num_permutations - 1e-9)
    signatures = work.signature_files()
    paths = [work.pairs(bucket) for bucket in range(len(work.buckets))]
    with atomic_file(task.result) as file:
        for _, _, pairs in read_pieces(paths, task.chunk.start, task.chunk.stop, _PIECE_PAIRS):
            pairs = sorted_records.unique(pairs)
            agreeing = signatures.agreement(pairs["key"], pairs["value"])
            file.write(pairs[agreeing >= needed].tobytes())
    advance(task.size)


def _unite(each: _Group, folder: Path) -> None:
    """Forms the clusters of a group and saves what stays."""
    work = each.work
    clusters = Clusters(work.rows)
    for chunk in each.chunks:
        with open(work.similar(chunk.number), "rb") as file:
            while len(pairs := np.fromfile(file, RECORD, _PIECE_ROWS)):
                clusters.unite(pairs["key"].astype(np.int64), pairs["value"].astype(np.int64))
    bits = each.before.bits.copy()
    dropped = 0
    for start in range(0, work.rows, _PIECE_ROWS):  # a multiple of 8
        rows = np.arange(start, min(work.rows, start + _PIECE_ROWS))
        near = clusters.roots(rows) != rows
        dropped += int(np.count_nonzero(near))
        packed = np.packbits(near, bitorder="little")
        bits[start >> 3 : (start >> 3) + len(packed)] &= ~packed
    write_samples(
        folder / f"{each.digest}.jsonl",
        each.name,
        [block for chunk in each.chunks for block in chunk.blocks],
        clusters,
        work.signature_files(),
        work.config,
    )
    Kept(each.digest, bits, each.before.duplicates, dropped).save(folder)
