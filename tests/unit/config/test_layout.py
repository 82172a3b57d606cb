"""Processes = pipeline stages x replicas; what does not come out names values that do."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaxlm.config.layout import divisors, grad_accum_steps, replicas_of, working_processes
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.errors import EXIT_BAD_USAGE, UserError


def run(layers: int = 12, **training: Any) -> PretrainConfig:
    given_ = {"max_steps": 10, "global_batch_size": 64, "micro_batch_size": 4, **training}
    return PretrainConfig.model_validate(
        {
            "run_dir": "r",
            "data": {"path": "d"},
            "model": {"num_hidden_layers": layers},
            "training": given_,
        }
    )


def changed(config: PretrainConfig, **training: Any) -> PretrainConfig:
    """The same run with other training settings, validated again."""
    content = config.model_dump()
    content["training"].update(training)
    return PretrainConfig.model_validate(content)


def refusal(config: PretrainConfig, processes: int) -> str:
    with pytest.raises(UserError) as caught:
        grad_accum_steps(config, processes, "run.yaml")
    message = str(caught.value)
    assert caught.value.exit_code == EXIT_BAD_USAGE
    assert message.startswith("run.yaml: ") and "\n" not in message
    return message


def test_stages_take_their_part_of_the_processes() -> None:
    assert replicas_of(run(), 8) == 8
    assert grad_accum_steps(run(), 8) == 2
    piped = run(pipeline_stages=4)
    assert replicas_of(piped, 8) == 2
    assert grad_accum_steps(piped, 8) == 8
    assert grad_accum_steps(piped, 4) == 16


@pytest.mark.parametrize(
    ("training", "processes", "said"),
    [
        (
            {"pipeline_stages": 4},
            6,
            "training.pipeline_stages 4 does not divide 6 processes; use training.pipeline_stages "
            "3 or 6, or start 4 or 8 processes",
        ),
        (
            {"pipeline_stages": 2},
            1,
            "training.pipeline_stages 2 does not divide 1 process; use training.pipeline_stages 1, "
            "or start 2 processes",
        ),
        (
            {"pipeline_stages": 13},
            13,
            "training.pipeline_stages 13 exceeds model.num_hidden_layers 12",
        ),
        (
            {"pipeline_stages": 2, "global_batch_size": 60, "micro_batch_size": 8},
            6,
            "training.global_batch_size 60 is not a multiple of training.micro_batch_size 8 x "
            "3 replicas (6 processes / training.pipeline_stages 2) = 24; use "
            "training.global_batch_size 48 or 72, or training.micro_batch_size 5",
        ),
        (
            {"batch_size_warmup": [{"until_tokens": 9, "global_batch_size": 20}]},
            4,
            "training.batch_size_warmup.0.global_batch_size 20 is not a multiple of "
            "training.micro_batch_size 4 x 4 processes = 16; use for it 16 or 32, or "
            "training.micro_batch_size 1, or 1 process",
        ),
    ],
)
def test_what_does_not_come_out_is_refused(
    training: dict[str, Any], processes: int, said: str
) -> None:
    assert said in refusal(run(**training), processes)


def test_every_phase_of_the_warmup_has_to_divide() -> None:
    phases = [
        {"until_tokens": 10, "global_batch_size": 16},
        {"until_tokens": 20, "global_batch_size": 32},
    ]
    config = run(batch_size_warmup=phases)
    assert grad_accum_steps(config, 4) == 4
    assert "batch_size_warmup.0.global_batch_size 16" in refusal(config, 8)
    assert working_processes(config) == [1, 2, 4]


def test_divisors() -> None:
    assert divisors(1) == [1]
    assert divisors(36) == [1, 2, 3, 4, 6, 9, 12, 18, 36]


@settings(max_examples=300, deadline=None)
@given(
    rows=st.integers(1, 120),
    first=st.integers(1, 119),
    micro=st.integers(1, 16),
    stages=st.integers(1, 6),
    processes=st.integers(1, 24),
    layers=st.integers(1, 8),
)
def test_what_a_refusal_offers_passes_when_it_is_taken(
    rows: int, first: int, micro: int, stages: int, processes: int, layers: int
) -> None:
    warmup = [{"until_tokens": 9, "global_batch_size": first}] if first < rows else []
    config = run(
        layers,
        global_batch_size=rows,
        micro_batch_size=micro,
        pipeline_stages=stages,
        batch_size_warmup=warmup,
    )
    if processes in working_processes(config) and stages <= layers:
        steps = grad_accum_steps(config, processes)
        assert steps * micro * processes == rows * stages
        return
    message = refusal(config, processes)
    use = message.rsplit("; ", 1)[1]

    def offered(pattern: str) -> list[int]:
        found = re.search(pattern + r" ((?:\d+(?:, | or )?)+)", use)
        return [int(number) for number in re.findall(r"\d+", found[1])] if found else []

    taken = 0
    for value in offered("training.micro_batch_size"):
        grad_accum_steps(changed(config, micro_batch_size=value), processes)
        taken += 1
    for value in offered("training.pipeline_stages"):
        grad_accum_steps(changed(config, pipeline_stages=value), processes)
        taken += 1
    for value in offered("training.global_batch_size"):
        fitting = changed(config, global_batch_size=value, batch_size_warmup=[])
        grad_accum_steps(fitting, processes)
        taken += 1
    for value in offered("for it"):
        phase = [{"until_tokens": 9, "global_batch_size": value}]
        # The other sizes are looked at next: alone, this one passes.
        fitting = changed(config, batch_size_warmup=phase, global_batch_size=1000 * value)
        grad_accum_steps(fitting, processes)
        taken += 1
    counts = re.search(r"((?:\d+(?:, | or ))*\d+) process", use)
    for value in map(int, re.findall(r"\d+", counts[1])) if counts else ():
        if "start" in use:
            replicas_of(config, value)
        else:
            grad_accum_steps(config, value)
        taken += 1
    assert taken or "at most" in use or "sizes that are all multiples" in use, message
