"""Everything that can be wrong is checked here, before the first second of GPU time."""

from __future__ import annotations

from dataclasses import dataclass

from megaxlm.config.pretrain import EvaluationConfig, PretrainConfig
from megaxlm.data.shards import DatasetIndex, read_index
from megaxlm.errors import UserError
from megaxlm.evaluation.tatoeba import find_tatoeba_pairs
from megaxlm.model.embeddings import POSITION_OFFSET
from megaxlm.optim.schedules import check_schedule


@dataclass(frozen=True)
class ResolvedRun:
    """A config with every derived value in place, and the index of its data set."""

    config: PretrainConfig
    index: DatasetIndex

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step over all ranks."""
        return self.config.training.global_batch_size * self.config.data.seq_len


def resolve_run(config: PretrainConfig) -> ResolvedRun:
    """Reads the data set's index and fills in what the config leaves to it.

    Raises:
        UserError: The data set is missing, or model and data contradict each other.
    """
    index = read_index(config.data.path)
    model, seq_len = config.model, config.data.seq_len
    vocab_size = model.vocab_size or index.vocab_size
    if vocab_size < index.vocab_size:
        raise UserError(
            f"model.vocab_size={vocab_size} is smaller than the {index.vocab_size} of the "
            f"tokenizer of {config.data.path}; leave it out or give at least that"
        )
    positions = model.max_position_embeddings or seq_len + POSITION_OFFSET
    if positions < seq_len + POSITION_OFFSET:
        raise UserError(
            f"model.max_position_embeddings={positions} is too small for data.seq_len={seq_len}: "
            f"XLM-R needs seq_len + {POSITION_OFFSET} = {seq_len + POSITION_OFFSET}"
        )
    _check_evaluation(config.evaluation, model.num_hidden_layers)
    check_schedule(config.schedule, config.training.max_steps)
    update = {"vocab_size": vocab_size, "max_position_embeddings": positions}
    resolved = config.model_copy(update={"model": model.model_copy(update=update)})
    return ResolvedRun(resolved, index)


def _check_evaluation(evaluation: EvaluationConfig, num_hidden_layers: int) -> None:
    """Finds now what would end the run at its next evaluation."""
    if evaluation.retrieval is None:
        return
    try:
        find_tatoeba_pairs(evaluation.retrieval, evaluation.retrieval_pairs)
    except UserError as error:
        raise UserError(f"evaluation.retrieval: {error}") from None
    states = num_hidden_layers + 1
    if not -states <= evaluation.retrieval_layer < states:
        raise UserError(
            f"evaluation.retrieval_layer={evaluation.retrieval_layer}: the hidden states are 0 "
            f"(embeddings) to {num_hidden_layers}, or -1 for the last"
        )
