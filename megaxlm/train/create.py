"""Chooses the engine of a run: one that holds every layer, or one stage of a pipeline."""

from __future__ import annotations

from megaxlm.config.pretrain import PretrainConfig
from megaxlm.data.shards import DatasetIndex
from megaxlm.distributed.environment import Environment
from megaxlm.train.engine import TrainingEngine


def create_engine(
    config: PretrainConfig, index: DatasetIndex, place: Environment, *, debug: bool = False
) -> TrainingEngine:
    """Connects the ranks and builds this rank's engine, still without its weights.

    Args:
        config: The run, with every derived value in place.
        index: Its data set.
        place: This rank; torch's environment variables must be exported.
        debug: Lets DeepSpeed's own log through.

    Raises:
        UserError: As `TrainingEngine.create`.
    """
    kind: type[TrainingEngine] = TrainingEngine
    if config.training.pipeline_stages > 1:
        from megaxlm.train.pipeline_engine import PipelineTrainingEngine

        kind = PipelineTrainingEngine
    return kind.create(config, index, place, debug=debug)
