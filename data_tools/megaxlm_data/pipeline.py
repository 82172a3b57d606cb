"""`megaxlm data build`: from the files of a config to a data set of shards.

    plan      which files, in which pieces; every missing file shows here
    clean     read, normalise, filter: clean text, compressed, one file a piece
    lines     if asked for: lines out that an earlier document of the language holds
    exact     exact duplicates out
    near      if asked for: near duplicates out
    select    validation chosen by hash
    tokenizer an existing one, or trained on a balanced sample of the clean text
    encode    clean text to tokens to shards
    index     dataset.json, the last act

Every stage leaves its work in `DIR/.build` until the index is written. A build that was killed, or
that ran into a full disk, continues from there and makes the same bytes as one that was not.
Memory does not grow with the corpus but for one bit a document, and four bytes a document of one
language where near duplicates are looked for.
"""

from __future__ import annotations

import errno
import fcntl
import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.data.shards import (
    INDEX_NAME,
    SPLITS,
    TEMPORARY_SUFFIX,
    DatasetIndex,
    Subset,
    read_index,
    tokenizer_path,
    write_atomically,
    write_index,
)
from megaxlm.data.tokenizer import Tokenizer
from megaxlm.errors import EXIT_FOUND_WRONG, CorruptDataError, UserError
from megaxlm_data.cluster import DaskPool
from megaxlm_data.crew import Crew, FinishedError
from megaxlm_data.filters.build_steps import prepare_build
from megaxlm_data.progress import Progress
from megaxlm_data.stages.clean import clean
from megaxlm_data.stages.encode import encode, tidy
from megaxlm_data.stages.exact import exact_duplicates
from megaxlm_data.stages.lines import deduplicate_lines
from megaxlm_data.stages.named_languages import check_named
from megaxlm_data.stages.near import near_duplicates
from megaxlm_data.stages.near_samples import write_report
from megaxlm_data.stages.plan import Inputs, find_inputs
from megaxlm_data.stages.select import select
from megaxlm_data.stages.vocabulary import ensure_tokenizer
from megaxlm_data.statistics import build_statistics, report_contamination, report_rejected
from megaxlm_data.tokenizer import check_model
from megaxlm_data.workers import WorkerPool, available_cpus
from megaxlm_data.writers.cleaned import open_cleaned

WORK_DIR = ".build"

_SHARD_NAME = re.compile(r"(\d{5}-)?\d{5}\.arrow")
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}  # some network file systems have none
_REMOVALS = 5  # attempts
_MAX_SHARD_TOKENS = 2**31 - 1  # Arrow list offsets are int32


def build(
    config: DataBuildConfig,
    progress: bool = True,
    rank: int = 0,
    world_size: int = 1,
    dask: str | None = None,
) -> DatasetIndex | None:
    """Builds a data set, or continues an interrupted build.

    Args:
        config: What to build.
        progress: Whether bars and remarks are shown on stderr.
        rank: Of this process among those that build the data set together, from 0.
        world_size: How many of them there are, on any hosts that share `output`.
        dask: Address or scheduler file of a Dask cluster that does the tasks of this process.

    Returns:
        The index of the finished data set; None on a rank other than 0 that has done its part.

    Raises:
        UserError: An input is missing, damaged or without a document, the disk is full, or the
            folder holds another data set. Finished work is kept.
    """
    report = Progress(progress)
    try:
        return _build(config, report, rank, world_size, dask)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise UserError(
            f"{where}{error.strerror or error}; finished work in {config.output} is kept: mend "
            "that and run the same command again",
            EXIT_FOUND_WRONG,
            "rank" if world_size > 1 else "node",
        ) from None
    finally:
        open_cleaned.cache_clear()


def _build(
    config: DataBuildConfig, progress: Progress, rank: int, world_size: int, dask: str | None
) -> DatasetIndex | None:
    if world_size < 1:
        raise UserError(f"--world-size {world_size}: must be 1 or more")
    if not 0 <= rank < world_size:
        raise UserError(f"--rank {rank}: must be from 0 up to --world-size {world_size}, less one")
    if config.shard_tokens > _MAX_SHARD_TOKENS:
        raise UserError(f"shard_tokens: {config.shard_tokens} is more than {_MAX_SHARD_TOKENS}")
    inputs = find_inputs(config, progress)
    if config.tokenizer.model is not None:
        check_model(config.tokenizer.model)
    if inputs.languages_known:
        check_named(config, [unit.langs for unit in inputs.units], progress)
    work = config.output / WORK_DIR
    # before a lock is asked for: ranks that all start again each find that nothing is to do
    index = _already_built(config.output, inputs)
    if index is None:
        with _speaks_for_itself(world_size), _locked(work, rank, world_size):
            index = _already_built(config.output, inputs)  # by who held the lock until now
            if index is None:
                with _open_pool(config, dask) as pool:
                    index = _build_together(inputs, config, work, rank, world_size, pool, progress)
    else:
        progress.say(f"{config.output}: is built already, nothing to do")
    if _is_finished(config.output):
        _remove_folder(work, progress)
    return index


def _build_together(
    inputs: Inputs,
    config: DataBuildConfig,
    work: Path,
    rank: int,
    world_size: int,
    pool: WorkerPool,
    progress: Progress,
) -> DatasetIndex | None:
    def finished() -> bool:
        return _is_finished(config.output)

    with Crew(rank, world_size, work / "ranks", inputs.digest, progress, finished) as crew:
        if crew.leads:
            _announce(inputs, work, progress, alone=world_size == 1)
        try:
            index = _run_stages(inputs, config, work, pool, crew, progress)
        except (FinishedError, OSError):
            if crew.leads or not finished():
                raise
            # a rank with nothing left to do may come too late to see what the others did
            progress.say(f"{config.output}: the other ranks have finished it")
            return None
        if index is None:
            progress.say(f"rank {rank}: its part is done, rank 0 writes the index")
            return None
        _remove_temporary(config.output)  # no rank writes there any more
        write_index(config.output, index)
        _remove_strays(config.output, index)
        progress.say(_summary(config.output, index))
    return index


def _summary(directory: Path, index: DatasetIndex) -> str:
    documents, pairs = (
        sum(each.rows for each in index.subsets if each.is_bitext == of_pairs)
        for of_pairs in (False, True)
    )
    read = sum(found["read"] for found in index.build["cleaning"].values())
    counted = [f"{documents:,} documents"] if documents else []
    counted += [f"{pairs:,} pairs"] if pairs else []
    tokens = sum(each.tokens for each in index.subsets)
    return (
        f"{directory}: {' and '.join(counted)} of {read:,} read, {tokens:,} tokens; "
        f"`megaxlm data inspect {directory}` shows what each language has"
    )


@contextmanager
def _open_pool(config: DataBuildConfig, dask: str | None) -> Iterator[WorkerPool]:
    """Yields where tasks run: processes of this host, or a cluster's."""
    count = max(1, available_cpus() if config.workers == "auto" else config.workers)
    with WorkerPool(count) if dask is None else DaskPool(count, dask, config.output) as pool:
        yield pool


def _run_stages(
    inputs: Inputs,
    config: DataBuildConfig,
    work: Path,
    pool: WorkerPool,
    crew: Crew,
    progress: Progress,
) -> DatasetIndex | None:
    cleaned = work / "clean"
    crew.lead("prepare", lambda: prepare_build(config, work, progress))
    made = clean(inputs, config, cleaned, pool, crew, progress)
    if not inputs.languages_known:
        check_named(config, [group.langs for group in made.plan.groups], progress)
    if crew.leads:
        report_contamination(made, config, work)
    plan, reports, text = deduplicate_lines(
        made.plan, config, made.reports, cleaned, work / "lines", pool, crew, progress
    )
    made = replace(made, plan=plan, reports=reports)
    kept = exact_duplicates(plan, config, reports, text, work / "exact", crew, progress)
    near = work / "near"
    kept = near_duplicates(plan, config, kept, reports, text, near, pool, crew, progress)
    if crew.leads:
        write_report(plan, config, kept, near)
    selections = crew.lead(
        "select", lambda: select(plan, config, kept, reports, text, work / "select")
    )
    marker = work / "tokenizer.json"

    def make_tokenizer() -> Tokenizer:
        made = ensure_tokenizer(plan, config, selections, reports, text, marker, pool, progress)
        if crew.leads:
            tidy(config, selections, made, work / "encode")
        return made

    tokenizer = crew.lead("tokenizer", make_tokenizer)
    shards = encode(
        plan,
        config,
        selections,
        reports,
        text,
        work / "encode",
        tokenizer,
        pool,
        crew,
        progress,
    )
    if not crew.leads:
        return None
    subsets = tuple(
        Subset(split, group.langs, tuple(shard.info for shard in shards[group.name, split]))
        for split in SPLITS
        for group in plan.groups
        if shards[group.name, split]
    )
    statistics = build_statistics(made, config, selections, shards, tokenizer)
    report_rejected(inputs, statistics, config, cleaned)
    return DatasetIndex(tokenizer.sha256, tokenizer.vocab_size, subsets, statistics)


def _is_finished(directory: Path) -> bool:
    return (directory / INDEX_NAME).exists()


def _already_built(directory: Path, plan: Inputs) -> DatasetIndex | None:
    """Returns the index of a finished build of the same config and input."""
    if not _is_finished(directory):
        return None
    index = read_index(directory)
    if index.build.get("digest") != plan.digest:
        raise UserError(
            f"{directory}: holds a data set of another config or input; give another `output`, or "
            "move that one away"
        )
    if Tokenizer(tokenizer_path(directory)).sha256 != index.tokenizer_sha256:
        raise CorruptDataError(
            f"{tokenizer_path(directory)}: is not the tokenizer of this data set (SHA-256 "
            f"{index.tokenizer_sha256[:12]}); put it back, or delete {directory} and build again"
        )
    for subset in index.subsets:
        for shard in subset.shards:
            path = directory / shard.path
            if not path.exists() or path.stat().st_size != shard.size:
                raise CorruptDataError(
                    f"{path}: shard is missing or altered; delete {directory / INDEX_NAME} and "
                    "build again"
                )
    return index


@contextmanager
def _speaks_for_itself(world_size: int) -> Iterator[None]:
    """Has each rank say its own errors, also where a launcher starts several on a node."""
    try:
        yield
    except UserError as error:
        if world_size > 1:
            error.known_to = "rank"
        raise


@contextmanager
def _locked(work: Path, rank: int = 0, world_size: int = 1) -> Iterator[None]:
    """Holds the work folder against a second build, or against a second process of this rank."""
    try:
        work.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{work.parent}: `output` is a file; name a folder") from None
    with ExitStack() as stack:
        lock = stack.enter_context(open(work / "lock", "w"))
        try:
            if world_size == 1:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                own = stack.enter_context(open(work / f"lock.{rank:05d}", "w"))
                fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            what = (
                "another build"
                if world_size == 1
                else f"a build by itself, or another rank {rank},"
            )
            raise UserError(
                f"{work.parent}: {what} is writing there; wait for it or stop it"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        try:
            yield
        except UserError:
            if {path.name for path in work.glob("*")} <= {"lock", f"lock.{rank:05d}"}:
                shutil.rmtree(work, ignore_errors=True)  # nothing was begun
            raise


def _announce(plan: Inputs, work: Path, progress: Progress, alone: bool) -> None:
    """Says what an interrupted build left, and removes what this one cannot use."""
    path = work / "plan.json"
    wanted = {unit.digest for unit in plan.distinct}
    cleaned = {marker.stem for marker in (work / "clean").glob("*.json")}
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))["digest"]
        if before == plan.digest:
            progress.say(f"{work.parent}: continues the interrupted build")
        else:
            progress.say(
                f"{work.parent}: config or input changed since the interrupted build; "
                f"{len(wanted & cleaned)} of {len(wanted)} inputs are still clean, the stages that "
                "depend on the change start again"
            )
    for file in (work / "clean").glob("[!.]*"):  # another rank may be writing those with a dot
        if file.name.split(".")[0] not in wanted:
            file.unlink()
    if alone:
        _remove_temporary(work.parent)
        shutil.rmtree(work / "ranks", ignore_errors=True)  # what they say holds no more
    write_atomically(path, json.dumps({"digest": plan.digest}).encode())


def _remove_temporary(directory: Path) -> None:
    """Removes what killed builds left under temporary names."""
    for pattern in ("*", f"{WORK_DIR}/*", f"{WORK_DIR}/clean/*", *(f"{s}/*/*" for s in SPLITS)):
        for path in directory.glob(pattern):
            if not path.name.startswith("."):
                continue
            if path.is_dir() and path.name.startswith(".tokenizer."):
                shutil.rmtree(path)
            elif path.is_file() and path.name.endswith(TEMPORARY_SUFFIX):
                path.unlink(missing_ok=True)  # a killed build's worker may be ending it just now


def _remove_folder(folder: Path, progress: Progress) -> None:
    """Removes a folder in which another rank may write its last beat, or which it removes too."""
    for _ in range(_REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.2)
    progress.warn(f"{folder}: cannot be removed; the data set is whole, remove it by hand")


def _remove_strays(directory: Path, index: DatasetIndex) -> None:
    """Removes shards of an earlier, interrupted build of another config."""
    known = {shard.path for subset in index.subsets for shard in subset.shards}
    for split in SPLITS:
        for path in directory.glob(f"{split}/*/*.arrow"):
            stray = path.relative_to(directory).as_posix() not in known
            if stray and _SHARD_NAME.fullmatch(path.name):
                path.unlink()
                if not any(path.parent.iterdir()):
                    path.parent.rmdir()
