"""The model cut into pipeline stages: which stage holds what, and the slice that one stage runs.

The units of a cut are the embeddings, every encoder layer, and the head with the final norm. A
stage is made of the same modules under the same names as `MaskedLanguageModel`, so that initial
values, checkpoints and exports know nothing of pipelines. From stage to stage travel the hidden
states alone: (tokens, hidden), or (targets, hidden) behind the last layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from megaxlm.config.pretrain import ModelConfig
from megaxlm.errors import UserError
from megaxlm.model.dropout_key import DropoutKey
from megaxlm.model.embeddings import Embeddings
from megaxlm.model.encoder import recomputed_layers, run_layer
from megaxlm.model.flops import FORWARD_AND_BACKWARD, training_flops
from megaxlm.model.heads import MaskedLanguageModelHead
from megaxlm.model.layer import EncoderLayer, FinalNorm, LayerState
from megaxlm.model.segments import Segments

# With tied embeddings the last stage holds a copy of this parameter; the first stage trains it.
TIED_PARAMETER = "embeddings.word.weight"
# The embeddings multiply no matrices: their time goes into moving about ten times (tokens, hidden)
# values to and from memory (two lookups, sum, norm, dropout, and twice that in the backward pass,
# where rows are added into the tables). A GPU of today does about 300 floating-point operations in
# the time of moving one bf16 value (A100: 312 TFLOP/s, 2.0 TB/s; H100: 989, 3.35).
EMBEDDING_MOVES = 10
FLOPS_PER_MOVE = 300


@dataclass(frozen=True)
class StageSpan:
    """The units [start, stop) of a model of `num_layers` layers; 0 is the embeddings."""

    start: int
    stop: int
    num_layers: int

    @property
    def has_embeddings(self) -> bool:
        """Whether this is the first stage."""
        return self.start == 0

    @property
    def has_head(self) -> bool:
        """Whether this is the last stage."""
        return self.stop == self.num_layers + 2

    @property
    def layers(self) -> range:
        """Global indices of its encoder layers; may be empty."""
        return range(max(1, self.start) - 1, min(self.stop, self.num_layers + 1) - 1)


def balance_stages(
    config: ModelConfig, num_stages: int, num_tokens: int, num_targets: int, seq_len: int
) -> list[StageSpan]:
    """Cuts a model so that its slowest stage is as fast as can be.

    Costs are analytic (`unit_costs`); layers that are computed again in the backward pass cost a
    forward pass more. Of equally good cuts, one with few units in early stages is taken: those keep
    the activations of the most micro-batches (1F1B, Narayanan et al. 2021, section 2.2).

    Args:
        config: With `vocab_size` resolved.
        num_stages: Number of parts, none of them empty.
        num_tokens: Packed tokens of a micro-batch.
        num_targets: Predicted positions among them.
        seq_len: Row length.

    Raises:
        UserError: More stages than encoder layers.
    """
    check_stages(config, num_stages)
    costs = unit_costs(config, num_tokens, num_targets, seq_len)
    units = len(costs)
    totals = [0]
    for cost in costs:
        totals.append(totals[-1] + cost)

    def cost_of(start: int, stop: int) -> float:
        layers = StageSpan(start, stop, config.num_hidden_layers).layers
        again = recomputed_layers(config, len(layers))
        repeated = sum(costs[layer + 1] for layer in layers[:again]) / FORWARD_AND_BACKWARD
        return totals[stop] - totals[start] + repeated

    # best[k][u]: (cost of the slowest of k stages that hold units [0, u), first unit of the last)
    best: list[dict[int, tuple[float, int]]] = [{0: (0.0, 0)}]
    for stage in range(1, num_stages + 1):
        row = {}
        for stop in range(stage, units - (num_stages - stage) + 1):
            row[stop] = min(
                (max(best[-1][start][0], cost_of(start, stop)), start)
                for start in best[-1]
                if start < stop
            )
        best.append(row)
    spans: list[StageSpan] = []
    stop = units
    for stage in range(num_stages, 0, -1):
        start = best[stage][stop][1]
        spans.append(StageSpan(start, stop, config.num_hidden_layers))
        stop = start
    return spans[::-1]


def check_stages(config: ModelConfig, num_stages: int) -> None:
    """Refuses a number of stages that the model cannot be cut into.

    Raises:
        UserError: More stages than encoder layers.
    """
    layers = config.num_hidden_layers
    if num_stages > layers:
        raise UserError(
            f"training.pipeline_stages {num_stages} exceeds model.num_hidden_layers {layers}; use "
            f"training.pipeline_stages 1 to {layers}"
        )


def unit_costs(
    config: ModelConfig, num_tokens: int, num_targets: int, seq_len: int
) -> list[int]:  # embeddings, every layer, head
    """Returns what each unit costs a micro-batch, forward and backward, in FLOPs.

    Layers and head as in `training_flops`: the last layer and the head run on the targets alone.
    """
    one = config.model_copy(update={"num_hidden_layers": 1})
    two = config.model_copy(update={"num_hidden_layers": 2})
    last = training_flops(one, num_tokens, num_targets, seq_len)
    both = training_flops(two, num_tokens, num_targets, seq_len)
    layer = both.total - last.total
    embeddings = EMBEDDING_MOVES * FLOPS_PER_MOVE * num_tokens * config.hidden_size
    inner = [layer] * (config.num_hidden_layers - 1)
    return [embeddings, *inner, last.layers + last.attention, last.head]


class _WordTable(nn.Module):
    """The word embedding alone: the copy that the last stage decodes with."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.vocab_size is not None
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)


class PipelineStage(nn.Module):
    """The part of a `MaskedLanguageModel` that one stage holds, parameters named as in the whole.

    With tied embeddings the last stage has a copy of the word embedding, under its own name.
    """

    def __init__(self, config: ModelConfig, span: StageSpan) -> None:
        """Builds the modules without values of their own, as `MaskedLanguageModel` does.

        Args:
            config: With `vocab_size` and `max_position_embeddings` resolved.
            span: The units of this stage, one of several.

        Raises:
            ValueError: The span is the whole model, or one of the two is None.
        """
        super().__init__()
        if span.has_embeddings and span.has_head:
            raise ValueError("a single stage is a MaskedLanguageModel")
        self.config, self.span = config, span
        self.embeddings: Embeddings | _WordTable | None = None
        if span.has_embeddings:
            self.embeddings = Embeddings(config)
        elif span.has_head and config.tie_word_embeddings:
            self.embeddings = _WordTable(config)
        self.layers = nn.ModuleDict(
            {str(index): EncoderLayer(config, index) for index in span.layers}
        )
        self.final_norm: FinalNorm | None = None
        self.head: MaskedLanguageModelHead | None = None
        if span.has_head:
            if config.model_type == "xlm-roberta-xl":
                self.final_norm = FinalNorm(config)
            tied = self.embeddings.word if self.embeddings is not None else None
            self.head = MaskedLanguageModelHead(config, tied)

    @property
    def tied_embedding(self) -> nn.Embedding | None:
        """The word embedding if another stage has it too: on the first and the last stage."""
        if self.embeddings is None or not self.config.tie_word_embeddings:
            return None
        return self.embeddings.word

    @property
    def replicas(self) -> frozenset[str]:
        """Names of parameters that another stage trains and saves."""
        is_copy = isinstance(self.embeddings, _WordTable)
        return frozenset({TIED_PARAMETER} if is_copy else ())

    def forward(
        self,
        received: Tensor,  # first stage: (tokens,) int64; else (tokens or targets, hidden)
        positions: Tensor,  # (tokens,) int64, from 0 inside a segment
        cu_seqlens: Tensor,  # (max_segments + 1,) int32, tail repeated
        target_index: Tensor,  # (targets,) int64, into tokens
        seq_len: int,
        dropout_key: DropoutKey | None = None,
    ) -> Tensor:  # (tokens, hidden); behind the last layer (targets, hidden)
        """Runs the encoder's part of this stage for one micro-batch, up to the head's input.

        Raises:
            ValueError: A shape or dtype is wrong.
        """
        hidden = received
        if self.span.has_embeddings:
            assert isinstance(self.embeddings, Embeddings)
            hidden = self.embeddings(received, positions, dropout_key)
        if self.layers:
            state: LayerState = (hidden, self._segments(hidden, cu_seqlens, seq_len))
            last = self.config.num_hidden_layers - 1
            recomputed = recomputed_layers(self.config, len(self.layers))
            for number, (index, layer) in enumerate(self.layers.items()):
                keep = target_index if int(index) == last else None
                state = run_layer(layer, state, keep, dropout_key, recompute=number < recomputed)
            hidden = state[0]
        return hidden if self.final_norm is None else self._normalized(hidden)

    def loss(
        self,
        hidden: Tensor,  # (targets, hidden), what `forward` returned
        targets: Tensor,  # (targets,) int64
        target_weight: Tensor,  # (targets,) float32
    ) -> tuple[Tensor, Tensor]:
        """Returns what `MaskedLanguageModel.forward` does; on the last stage alone."""
        assert self.head is not None
        return self.head(hidden, targets, target_weight)  # type: ignore[no-any-return]

    def hidden_states(
        self,
        received: Tensor,  # first stage: (tokens,) int64; else (tokens, hidden)
        positions: Tensor,  # (tokens,) int64
        cu_seqlens: Tensor,  # (max_segments + 1,) int32
        seq_len: int,
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Returns the hidden states that this stage gives, and what the next one receives.

        The former are (tokens, hidden) by their index in `MaskedLanguageModel.hidden_states`.
        """
        states: dict[int, Tensor] = {}
        hidden = received
        if self.span.has_embeddings:
            assert isinstance(self.embeddings, Embeddings)
            hidden = states[0] = self.embeddings(received, positions)
        if self.layers:
            segments = self._segments(hidden, cu_seqlens, seq_len)
            for index, layer in self.layers.items():
                hidden = states[int(index) + 1] = layer((hidden, segments))[0]
        if self.final_norm is not None:
            states[self.config.num_hidden_layers] = self._normalized(hidden)
        return states, hidden

    def _normalized(self, hidden: Tensor) -> Tensor:
        assert self.final_norm is not None
        return nn.LayerNorm.forward(self.final_norm, hidden)

    @staticmethod
    def _segments(hidden: Tensor, cu_seqlens: Tensor, seq_len: int) -> Segments:
        return Segments.plan(cu_seqlens, hidden.shape[0], seq_len, hidden.dtype)


def state_owners(spans: list[StageSpan], config: ModelConfig) -> list[int]:
    """Returns which stage gives each hidden state (see `PipelineStage.hidden_states`)."""
    owners = [0]
    for index in range(config.num_hidden_layers):
        owners.append(next(stage for stage, span in enumerate(spans) if index in span.layers))
    if config.model_type == "xlm-roberta-xl":
        owners[-1] = len(spans) - 1  # the final norm is there
    return owners
