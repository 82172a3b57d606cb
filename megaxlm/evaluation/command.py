"""`megaxlm evaluate`: loads a run, checkpoint or Hugging Face folder and runs one task on it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import RenderableType

from megaxlm.checkpoint.resolve import LoadedModel, load_model
from megaxlm.config.pretrain import DataConfig, MaskingConfig
from megaxlm.data.shards import tokenizer_path
from megaxlm.data.tokenizer import Tokenizer
from megaxlm.errors import UserError
from megaxlm.evaluation.perplexity import evaluate_perplexity
from megaxlm.evaluation.report import evaluation_to_json, perplexity_table, retrieval_table
from megaxlm.evaluation.retrieval import Scoring, evaluate_retrieval


def evaluate(
    checkpoint: Path,
    *,
    task: str,
    data: Path | None,
    pairs: list[str] | None = None,
    layer: int | None = None,
    scoring: Scoring | None = None,
    limit: int | None = None,
    rows: int | None = None,
    seq_len: int | None = None,
) -> tuple[dict[str, Any], RenderableType]:
    """Runs one task.

    Args:
        checkpoint: A run, checkpoint or Hugging Face folder.
        task: `perplexity` (data: a built data set) or `retrieval` (data: Tatoeba-format files).
        data: The data of the task; None takes those of the run, where it names them.
        pairs: Retrieval pairs such as `deu-eng`; None is every pair of the folder.
        layer: Hidden state to pool; None takes the run's choice, else the last.
        scoring: `cosine` or `margin`; None takes the run's choice, else `margin`.
        limit: Sentences a pair; None takes the run's, else all.
        rows: Validation rows a language; None takes the run's number, else 64.
        seq_len: Row length of the perplexity task; None takes that of the run, else 512.

    Returns:
        The results as JSON values, and as a table.

    Raises:
        UserError: The model or the data cannot be found or do not fit each other.
    """
    loaded = load_model(checkpoint)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaded.model.to(device)
    settings = loaded.run_config.get("evaluation", {})
    if task == "retrieval":
        folder = data or _path(settings.get("retrieval"))
        if folder is None:
            raise UserError("--data FOLDER is required: sentence pairs in Tatoeba format")
        chosen = settings.get("retrieval_layer", -1) if layer is None else layer
        report = evaluate_retrieval(
            loaded.model,
            loaded.tokenizer,
            folder,
            settings.get("retrieval_pairs") if data is None and pairs is None else pairs,
            layer=chosen,
            scoring=scoring or settings.get("retrieval_scoring", "margin"),
            limit=settings.get("retrieval_limit") if limit is None else limit,
            device=device,
        )
        document = evaluation_to_json(str(checkpoint), retrieval=report)
        return document, retrieval_table(report)

    directory = data or _path(loaded.run_config.get("data", {}).get("path"))
    if directory is None:
        raise UserError("--data DIR is required: a data set built with this model's tokenizer")
    _check_tokenizer(loaded, directory)
    of_run = loaded.run_config.get("data", {})
    length = seq_len or of_run.get("seq_len") or 512
    positions = loaded.config.max_position_embeddings or 514
    masking = MaskingConfig(**loaded.run_config.get("masking", {}))
    if data is not None:  # another data set has languages of its own
        of_run = {key: of_run[key] for key in of_run.keys() - {"languages", "curriculum"}}
    measure = partial(
        evaluate_perplexity,
        loaded.model,
        directory,
        DataConfig(**(of_run | {"path": directory, "seq_len": min(length, positions - 2)})),
        masking,
        seed=loaded.run_config.get("seed", 0),  # the rows and masks that the run measured too
        max_rows_per_language=rows or settings.get("max_rows_per_language", 64),
        micro_batch_size=8,
        device=device,
    )
    perplexity = measure() or measure(objective="tlm")  # pairs, where there is nothing else
    if not perplexity:
        raise UserError(
            f"{directory}: no validation text; build it again with validation_fraction above 0"
        )
    document = evaluation_to_json(str(checkpoint), perplexity=perplexity)
    return document, perplexity_table(perplexity)


def _path(value: str | None) -> Path | None:
    return None if value is None else Path(value)


def _check_tokenizer(loaded: LoadedModel, directory: Path) -> None:
    of_data = Tokenizer(tokenizer_path(directory)).sha256
    if loaded.tokenizer.sha256 != of_data:
        raise UserError(
            f"{directory}: tokenised with another tokenizer than {loaded.source} has; "
            "build the validation text with the model's tokenizer (tokenizer.model in the recipe)"
        )
