"""All that a build does to its text: the recipe of filters, the language check, decontamination.

The language check comes after the cheap filters. Decontamination comes before personal data is
masked, which stands unmasked in evaluation sets too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megaxlm.config.data_build import DataBuildConfig
from megaxlm_data.decontamination.index import (
    ContaminationIndex,
    decontamination_key,
    open_index,
    prepare,
)
from megaxlm_data.document import Document, Pair
from megaxlm_data.filters.base import Step
from megaxlm_data.filters.contamination import (
    Contaminated,
    ContaminatedLines,
    ContaminatedPair,
    LittleLeft,
)
from megaxlm_data.filters.language import language_match, pair_language_match
from megaxlm_data.filters.recipe import (
    document_filters,
    edits,
    min_document_chars,
    pair_filters,
)
from megaxlm_data.languages.identify import library_versions
from megaxlm_data.progress import Progress

INDEX_FOLDER = "decontamination"  # in the work folder


def build_key(config: DataBuildConfig) -> list[Any]:
    """Returns what these steps depend on beside the config: libraries, evaluation files.

    Raises:
        UserError: A library or a file is missing.
    """
    languages = config.language_identification
    versions = library_versions(languages) if languages.enabled else None
    return [versions, decontamination_key(config.decontamination)]


def prepare_build(config: DataBuildConfig, work: Path, progress: Progress) -> None:
    """Makes in the work folder what the steps of all workers share.

    Raises:
        UserError: An evaluation set is missing, damaged or empty.
    """
    prepare(config.decontamination, work / INDEX_FOLDER, progress)


def build_document_steps(config: DataBuildConfig, work: Path) -> list[Step[Document]]:
    """Returns what is done to monolingual documents.

    Args:
        config: The recipe.
        work: The folder that `prepare_build` was given.
    """
    steps, masks = document_filters(config.filters), edits(config.filters)
    if config.language_identification.enabled:
        steps.append(language_match(config.language_identification))
    index = _index(config, work)
    if index is None:
        return [*steps, *masks]
    samples = config.decontamination.samples
    if config.decontamination.action == "drop":
        return [*steps, Contaminated(index, samples), *masks]
    left = LittleLeft(min_document_chars(config.filters))
    return [*steps, ContaminatedLines(index, samples), left, *masks]


def build_pair_steps(config: DataBuildConfig, work: Path) -> list[Step[Pair]]:
    """Returns what is done to sentence pairs; a pair that overlaps goes as a whole.

    Args:
        config: The recipe.
        work: The folder that `prepare_build` was given.
    """
    steps = pair_filters(config.filters)
    if config.language_identification.enabled:
        steps.append(pair_language_match(config.language_identification))
    index = _index(config, work)
    if index is not None:
        steps.append(ContaminatedPair(index, config.decontamination.samples))
    return [*steps, *edits(config.filters)]


def _index(config: DataBuildConfig, work: Path) -> ContaminationIndex | None:
    if not config.decontamination.evaluation_sets:
        return None
    return open_index(config.decontamination, work / INDEX_FOLDER)
