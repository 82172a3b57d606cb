"""From the config to one stream: objectives by weight, languages by alpha, phase by phase.

A row's source is drawn with probability weight(objective) x n^alpha(language or pair), each
normalised; a curriculum phase replaces what it names from `from_tokens` on. Phases change
probabilities alone: every source keeps its cursor, so nothing is repeated or left out.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megaxlm.config.pretrain import (
    BatchSizePhase,
    DataConfig,
    MaskingConfig,
    ObjectiveConfig,
)
from megaxlm.data.assembly import BatchAssembler
from megaxlm.data.batch_layout import BatchLayout, BatchSchedule
from megaxlm.data.loader import Stream, StreamState
from megaxlm.data.masking import Masker
from megaxlm.data.rows import RowFormat
from megaxlm.data.sampling import Mixture, MixturePhase, alpha_probabilities
from megaxlm.data.shards import DatasetIndex, Subset
from megaxlm.data.store import ShardStore
from megaxlm.errors import UserError
from megaxlm.objectives.base import Objective, RowSettings
from megaxlm.objectives.mlm import MaskedLanguageModeling
from megaxlm.objectives.tlm import TranslationLanguageModeling

OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (MaskedLanguageModeling(), TranslationLanguageModeling())
}


def open_stream(
    dataset_dir: Path,
    data: DataConfig,
    objectives: Sequence[ObjectiveConfig],
    masking: MaskingConfig,
    seed: int,
    global_batch_size: int,
    micro_batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    state: StreamState | None = None,
    batch_size_warmup: Sequence[BatchSizePhase] = (),
    announce: bool | None = None,
) -> Stream:
    """Opens the training stream of one rank.

    Args:
        dataset_dir: The data set.
        data: Rows, packing, sampling, curriculum, rows to leave out.
        objectives: Objectives and weights of the first phase.
        masking: What is predicted.
        seed: The seed of the run.
        global_batch_size: Rows an optimizer step, over all ranks.
        micro_batch_size: Rows a forward pass of one rank.
        rank: This process among the data-parallel ranks.
        world_size: Data-parallel ranks.
        state: A `LoadedBatch.state_after` to resume from.
        batch_size_warmup: Smaller global batches at first.
        announce: Whether to log what fits badly; None: on rank 0 alone.

    Raises:
        UserError: The config asks for what the data set does not have, the batch does not divide,
            or the state belongs to another run.
        CorruptDataError: The index cannot be read.
    """
    schedule = BatchSchedule.of(
        data.seq_len,
        BatchLayout(global_batch_size, micro_batch_size, rank, world_size),
        [(phase.until_tokens, phase.global_batch_size) for phase in batch_size_warmup],
    )
    if announce is None:
        announce = rank == 0
    store = ShardStore(dataset_dir)
    row_format = row_format_of(data)
    masker = Masker(masking, data.seq_len, store.index.vocab_size, seed)
    mixture = build_mixture(
        store, data, objectives, RowSettings(row_format, data.packing, seed, announce)
    )
    assembler = BatchAssembler(
        dataset_dir, row_format, micro_batch_size, store.index.vocab_size, masker
    )
    return Stream(
        mixture,
        assembler,
        schedule,
        seed,
        data.seq_len,
        data.prefetch_batches,
        state,
        data.skip_rows,
    )


def row_format_of(data: DataConfig) -> RowFormat:
    """Returns the shape of rows that a config asks for."""
    return RowFormat(data.seq_len, data.max_segments_per_row, data.attend_across_documents)


@dataclass(frozen=True)
class _Blend:
    """What is in force during one phase."""

    start_row: int
    key: str  # of the config, for messages
    alpha: float
    languages: tuple[str, ...] | None
    objectives: tuple[ObjectiveConfig, ...]


def build_mixture(
    store: ShardStore,
    data: DataConfig,
    objectives: Sequence[ObjectiveConfig],
    settings: RowSettings,
) -> Mixture:
    """Opens every source that some phase draws from and tabulates the probabilities.

    Raises:
        UserError: A language or objective has no training data here.
    """
    shares_by_phase: list[tuple[int, dict[str, float]]] = []
    subsets: dict[str, tuple[Objective, Subset]] = {}
    for blend in _blends(data, objectives):
        shares: dict[str, float] = {}
        for objective, weight, chosen in _choose(store, blend):
            probabilities = alpha_probabilities([s.tokens for s in chosen], blend.alpha)
            for subset, probability in zip(chosen, probabilities, strict=True):
                name = objective.source_name(subset)
                subsets[name] = (objective, subset)
                shares[name] = weight * probability
        shares_by_phase.append((blend.start_row, shares))
    return Mixture(
        sources=tuple(o.open(store, subset, settings) for o, subset in subsets.values()),
        phases=tuple(
            MixturePhase(start, tuple(shares.get(name, 0.0) for name in subsets))
            for start, shares in shares_by_phase
        ),
    )


def _blends(data: DataConfig, objectives: Sequence[ObjectiveConfig]) -> list[_Blend]:
    languages = None if data.languages is None else tuple(data.languages)
    blends = [_Blend(0, "data", data.sampling_alpha, languages, tuple(objectives))]
    for number, phase in enumerate(data.curriculum):
        last = blends[-1]
        alpha, named, mixed = phase.sampling_alpha, phase.languages, phase.objectives
        blends.append(
            _Blend(
                start_row=-(-phase.from_tokens // data.seq_len),
                key=f"data.curriculum.{number}",
                alpha=last.alpha if alpha is None else alpha,
                languages=last.languages if named is None else tuple(named),
                objectives=last.objectives if mixed is None else tuple(mixed),
            )
        )
    # Of phases that begin within one row, the last is in force.
    following = [blend.start_row for blend in blends[1:]]
    return [
        blend
        for blend, end in zip(blends, [*following, None], strict=True)
        if blend.start_row != end
    ]


def _choose(store: ShardStore, blend: _Blend) -> list[tuple[Objective, float, tuple[Subset, ...]]]:
    """Returns objectives, normalised weights and the subsets of the allowed languages."""
    total = sum(objective.weight for objective in blend.objectives)
    chosen = []
    for config in blend.objectives:
        objective = OBJECTIVES[config.name]
        subsets = tuple(
            subset
            for subset in objective.subsets(store.index, "train")
            if blend.languages is None or set(subset.langs) <= set(blend.languages)
        )
        chosen.append((objective, config.weight / total, subsets))
    used = {lang for _, _, subsets in chosen for subset in subsets for lang in subset.langs}
    for lang in blend.languages or ():
        if lang not in used:
            raise UserError(_no_such_language(store, blend, lang))
    for objective, _, subsets in chosen:
        if not subsets:
            among = f" among the languages of {blend.key}.languages" if blend.languages else ""
            raise UserError(
                f"objective {objective.name} needs {objective.needs}, and {store.directory} has "
                f"none{among}: add it to the data set or take the objective out of the config"
            )
    return chosen


def _no_such_language(store: ShardStore, blend: _Blend, lang: str) -> str:
    names = [objective.name for objective in blend.objectives]
    there = _languages_with_text(store.index, names)
    # It may have some, but none with the other languages that were asked for.
    near = difflib.get_close_matches(lang, [other for other in there if other != lang], n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    return (
        f"{blend.key}.languages: {lang} has no training data for {' or '.join(names)} in "
        f"{store.directory}{meant}; there is: {', '.join(there) or 'nothing'}"
    )


def _languages_with_text(index: DatasetIndex, objectives: Sequence[str]) -> list[str]:
    found = {
        lang
        for name in objectives
        for subset in OBJECTIVES[name].subsets(index, "train")
        for lang in subset.langs
    }
    return sorted(found)
