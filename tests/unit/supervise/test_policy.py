"""What is done when a launch command has ended."""

import itertools

import pytest

from megaxlm.supervise.policy import Limits, Outcome, RestartPolicy, exit_code


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome(0, completed=True), 0),
        (Outcome(1, completed=True), 0),  # a rank crashed while it was taken down
        (Outcome(75, completed=True, asked=True), 0),
        (Outcome(0), None),  # DeepSpeed's launcher, a part of it killed
        (Outcome(1), None),
        (Outcome(247), None),
        (Outcome(-9), None),
        (Outcome(137), None),
        (Outcome(1, stalled=True), None),
        (Outcome(-15, stalled=True), None),  # by the supervisor's own signal
        (Outcome(-15, stalled=True, asked=True), 75),
        (Outcome(2), 2),
        (Outcome(2, asked=True), 2),
        (Outcome(75), 75),
        (Outcome(1, stopped=True), 75),  # torchrun
        (Outcome(0, stopped=True), 75),
        (Outcome(1, asked=True), 75),
        (Outcome(-9, asked=True), 75),
        (Outcome(-15), 75),
        (Outcome(138), 75),  # SIGUSR1, through a shell
        (Outcome(1, asked=True, saved=False), 1),
        (Outcome(-9, asked=True, saved=False), 1),
        (Outcome(-15, saved=False), 1),
        (Outcome(247, saved=False), None),
        (Outcome(0, completed=True, asked=True, saved=False), 0),
        (Outcome(1, cleared=False), 1),
        (Outcome(75, cleared=False), 1),
        (Outcome(0, completed=True, cleared=False), 0),
    ],
)
def test_the_code_that_a_run_ends_with(outcome: Outcome, expected: int | None) -> None:
    assert exit_code(outcome) == expected


def test_three_crashes_without_a_new_checkpoint_are_the_end() -> None:
    policy = RestartPolicy(Limits(backoff=3.0), checkpoint_step=10)
    assert policy.after_crash(10, 0.0) == (6.0, None)
    assert policy.after_crash(10, 1.0) == (12.0, None)
    _, problem = policy.after_crash(10, 2.0)
    assert problem is not None and "3 starts" in problem


def test_a_new_checkpoint_starts_both_counts_of_patience_again() -> None:
    policy = RestartPolicy(Limits(backoff=3.0), checkpoint_step=0)
    assert policy.after_crash(0, 0.0) == (6.0, None)
    assert policy.after_crash(0, 0.0) == (12.0, None)
    assert policy.after_crash(5, 0.0) == (3.0, None)
    assert policy.after_crash(5, 0.0) == (6.0, None)
    assert policy.after_crash(5, 0.0) == (12.0, None)
    assert policy.after_crash(5, 0.0)[1] is not None


def test_a_checkpoint_that_was_there_before_is_no_progress() -> None:
    # The newest one is damaged, so the run falls back to 80 and saves up to 95 again and again.
    policy = RestartPolicy(Limits(), checkpoint_step=100)
    assert policy.after_crash(80, 0.0)[1] is None
    assert policy.after_crash(95, 0.0)[1] is None
    assert policy.after_crash(100, 0.0)[1] is not None


def test_restarts_are_counted_in_a_sliding_window() -> None:
    limits = Limits(max_restarts=4, window=100.0)
    steady = RestartPolicy(limits, 0)
    for step in range(1, 50):  # four in each 100 s, for ever
        assert steady.after_crash(step, 25.0 * step)[1] is None
    hasty = RestartPolicy(limits, 0)
    answers = [hasty.after_crash(step, 24.0 * step)[1] for step in range(1, 6)]
    assert answers[:4] == [None] * 4
    assert answers[4] is not None and "--max-restarts" in answers[4]


def test_no_restarts_at_all_can_be_asked_for() -> None:
    assert RestartPolicy(Limits(max_restarts=0), 0).after_crash(9, 0.0)[1] is not None


def test_delays_are_the_same_each_time() -> None:
    crashes = list(itertools.product([0, 3, 3, 7, 7], [0.0]))
    first, second = RestartPolicy(Limits(), 0), RestartPolicy(Limits(), 0)
    assert [first.after_crash(*crash) for crash in crashes] == [
        second.after_crash(*crash) for crash in crashes
    ]
