"""The config of `megaxlm pretrain`: one complete file names one run.

Field names follow Hugging Face where it has one. What can be derived (accumulation steps, tokens
a step, number of targets) is derived where it is used, never configured twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from megaxlm.config.base import Section

Beta = Annotated[float, Field(ge=0, lt=1)]


class ObjectiveConfig(Section):
    """One training objective and its share of the rows."""

    name: Literal["mlm", "tlm"]
    weight: float = Field(default=1.0, gt=0)


def refuse_repeated(objectives: list[ObjectiveConfig]) -> None:
    """Raises ValueError if an objective stands twice: its weights would be ambiguous."""
    names = [objective.name for objective in objectives]
    if len(names) != len(set(names)):
        raise ValueError(f"objectives: each may stand once, got {names}")


class MaskingConfig(Section):
    """BERT's 80/10/10 rule on a fixed number of positions a row."""

    mlm_probability: float = Field(default=0.15, gt=0, lt=1)
    mask_token_share: float = Field(default=0.8, ge=0, le=1)
    random_token_share: float = Field(default=0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _shares(self) -> MaskingConfig:
        if self.mask_token_share + self.random_token_share > 1 + 1e-9:
            raise ValueError("mask_token_share + random_token_share must not exceed 1")
        return self


class CurriculumPhase(Section):
    """What changes once `from_tokens` tokens have been seen; `None` keeps what was in force."""

    from_tokens: int = Field(gt=0)
    sampling_alpha: float | None = Field(default=None, ge=0, le=1)
    languages: list[str] | None = Field(default=None, min_length=1)
    objectives: list[ObjectiveConfig] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _objectives_once(self) -> CurriculumPhase:
        refuse_repeated(self.objectives or [])
        return self


class DataConfig(Section):
    """Which shards, and how rows are drawn and packed."""

    path: Path
    seq_len: int = Field(default=512, ge=8)
    packing: Literal["stream", "documents"] = "stream"
    attend_across_documents: bool = False
    sampling_alpha: float = Field(default=0.3, ge=0, le=1)
    languages: list[str] | None = None  # None: every language of the data set
    max_segments_per_row: int = Field(default=32, ge=1)
    prefetch_batches: int = Field(default=4, ge=0)
    curriculum: list[CurriculumPhase] = Field(default_factory=list)
    skip_rows: list[tuple[int, int]] = Field(default_factory=list)  # [begin, end) of the stream

    @model_validator(mode="after")
    def _phases_in_order(self) -> DataConfig:
        starts = [phase.from_tokens for phase in self.curriculum]
        if starts != sorted(set(starts)):
            raise ValueError("curriculum phases must have increasing from_tokens")
        for begin, end in self.skip_rows:
            if not 0 <= begin < end:
                raise ValueError(f"skip_rows: [{begin}, {end}) is not a range of rows")
        return self


class ModelConfig(Section):
    """The encoder; `xlm-roberta` is post-LN (base, large), `xlm-roberta-xl` pre-LN (XL, XXL)."""

    model_type: Literal["xlm-roberta", "xlm-roberta-xl"] = "xlm-roberta"
    vocab_size: int | None = Field(default=None, ge=8)  # None: the tokenizer's
    hidden_size: int = Field(default=768, ge=8)
    num_hidden_layers: int = Field(default=12, ge=1)
    num_attention_heads: int = Field(default=12, ge=1)
    intermediate_size: int = Field(default=3072, ge=8)
    max_position_embeddings: int | None = Field(default=None, ge=10)  # None: seq_len + 2
    hidden_dropout_prob: float = Field(default=0.1, ge=0, lt=1)
    attention_probs_dropout_prob: float = Field(default=0.1, ge=0, lt=1)
    layer_norm_eps: float = Field(default=1e-5, gt=0)
    initializer_range: float = Field(default=0.02, gt=0)
    tie_word_embeddings: bool = True
    # Layers whose activations are computed again in the backward pass, a pipeline stage: all of
    # them (true), none (false) or the first N.
    activation_checkpointing: bool | Annotated[int, Field(ge=1)] = False

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        return self


class OptimizerConfig(Section):
    """The optimizer by name; norms and biases are never decayed."""

    name: Literal[
        "adamw", "deepspeed_adam", "apex_adam", "apex_lamb", "lamb", "stable_adamw", "muon"
    ] = "adamw"
    lr: float = Field(default=5e-4, gt=0)
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    eps: float = Field(default=1e-6, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    layer_lr_decay: float = Field(default=1.0, gt=0, le=1)  # the rate falls by this a layer down
    muon_momentum: float = Field(default=0.95, ge=0, lt=1)  # of the matrices; muon only
    ema_decay: float | None = Field(default=None, gt=0, lt=1)  # of the averaged weights; None: none


class ScheduleConfig(Section):
    """Linear warmup, then one of four decays (WSD: stable, then 1-sqrt over `decay_steps`)."""

    name: Literal["linear", "cosine", "inverse_sqrt", "wsd", "constant"] = "linear"
    warmup_steps: int = Field(default=0, ge=0)
    decay_steps: int | None = Field(default=None, ge=1)  # wsd only; None: a tenth of max_steps
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1)


class BatchSizePhase(Section):
    """A smaller global batch while fewer than `until_tokens` tokens have been seen."""

    until_tokens: int = Field(gt=0)
    global_batch_size: int = Field(ge=1)


class TrainingConfig(Section):
    """Batch, length, precision and the DeepSpeed layout."""

    max_steps: int = Field(ge=1)
    global_batch_size: int = Field(ge=1)  # rows per optimizer step, over all ranks
    batch_size_warmup: list[BatchSizePhase] = Field(default_factory=list)
    micro_batch_size: int = Field(ge=1)  # rows per device per forward
    pipeline_stages: int = Field(default=1, ge=1)  # processes = stages x data-parallel replicas
    precision: Literal["fp32", "bf16"] = "bf16"
    zero_stage: Literal[0, 1, 2, 3] | None = None  # None: what the DeepSpeed file says
    gradient_clipping: float = Field(default=1.0, ge=0)  # 0: no clipping
    deepspeed_config: Path | None = None  # None: the built-in file of zero_stage (default 1)
    # Embedding, norms, activations and the loss by the library of `megaxlm_kernels`: `auto` takes
    # it where there is a GPU and the library is built or can be. It has run on no GPU as yet.
    kernels: Literal["torch", "cuda", "auto"] = "torch"

    @model_validator(mode="after")
    def _warmup_in_order(self) -> TrainingConfig:
        ends = [phase.until_tokens for phase in self.batch_size_warmup]
        if ends != sorted(set(ends)):
            raise ValueError("batch_size_warmup phases must have increasing until_tokens")
        sizes = [phase.global_batch_size for phase in self.batch_size_warmup]
        if [*sizes, self.global_batch_size] != sorted({*sizes, self.global_batch_size}):
            raise ValueError(
                "batch_size_warmup: each global_batch_size must be larger than the one before it "
                f"and smaller than training.global_batch_size {self.global_batch_size}, got {sizes}"
            )
        return self


class CheckpointConfig(Section):
    """When a checkpoint is written and which are kept."""

    every_steps: int = Field(default=1_000, ge=1)
    keep_last: int = Field(default=2, ge=1)
    keep_every_steps: int | None = Field(default=None, ge=1)  # milestones that are never removed
    asynchronous: bool = True  # write in the background, from a copy of the state in host memory
    retry_seconds: float = Field(default=120, ge=0)  # how long a lost file system is waited for


class FaultsConfig(Section):
    """What is watched while a run trains, and when something is done about it."""

    # A rank that does not come to the start for so long, counted from its process's, ends the run;
    # more where ranks are started by hand, or import from a slow file system.
    start_seconds: float = Field(default=110, ge=1)
    heartbeat_seconds: float = Field(default=60, ge=1)  # a rank silent for so long ends the run
    stall_seconds: float = Field(default=1800, ge=1)  # so does a run in which nothing moves
    straggler_ratio: float = Field(default=1.2, gt=1)  # a rank slower than the median is named
    straggler_window: int = Field(default=20, ge=2)  # steps
    replica_check_steps: int | None = Field(default=1_000, ge=1)  # None: never
    spike_sigma: float | None = Field(default=6.0, gt=0)  # None: no loss is a spike
    spike_window: int = Field(default=128, ge=8)  # steps whose losses say what is normal
    max_rollbacks: int = Field(default=5, ge=0)  # without a new checkpoint in between


class LoggingConfig(Section):
    """How often a line of metrics is written."""

    every_steps: int = Field(default=10, ge=1)
    tensorboard: bool = True


class EvaluationConfig(Section):
    """Validation inside a run, and how sentences are pooled for retrieval."""

    every_steps: int | None = Field(default=None, ge=1)  # None: at the beginning and the end
    max_rows_per_language: int = Field(default=64, ge=1)
    retrieval: Path | None = None  # folder of sentence pairs in Tatoeba format
    retrieval_pairs: list[str] | None = None  # None: every pair of the folder
    retrieval_limit: int | None = Field(default=1_000, ge=2)  # sentences a pair
    retrieval_layer: int = Field(default=-1)  # hidden state that is mean pooled; -1: the last
    retrieval_scoring: Literal["cosine", "margin"] = "margin"


class PretrainConfig(Section):
    """One run: `megaxlm pretrain configs/pretrain/NAME.yaml`."""

    run_dir: Path
    seed: int = Field(default=0, ge=0, lt=2**63)
    init_from: Path | None = None  # a checkpoint or Hugging Face folder to take weights from
    data: DataConfig
    objectives: list[ObjectiveConfig] = Field(
        default_factory=lambda: [ObjectiveConfig(name="mlm")], min_length=1
    )
    masking: MaskingConfig = MaskingConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    training: TrainingConfig
    checkpoint: CheckpointConfig = CheckpointConfig()
    faults: FaultsConfig = FaultsConfig()
    logging: LoggingConfig = LoggingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _sizes_that_kernels_take(self) -> PretrainConfig:
        if self.training.kernels != "torch":
            for key in ("hidden_size", "intermediate_size"):
                size = getattr(self.model, key)
                if size % 8:
                    raise ValueError(
                        f"training.kernels {self.training.kernels} takes multiples of 8, but "
                        f"model.{key} is {size}; change it, or use training.kernels torch"
                    )
        return self

    @model_validator(mode="after")
    def _objectives_once(self) -> PretrainConfig:
        refuse_repeated(self.objectives)
        return self
