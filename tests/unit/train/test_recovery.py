"""Which steps are trouble, how far a run goes back, and what it remembers of it."""

import json
import random
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from megaxlm.checkpoint.catalog import list_checkpoints, recorded_step
from megaxlm.checkpoint.fragments import whole
from megaxlm.checkpoint.writer import CheckpointWriter
from megaxlm.config.pretrain import CurriculumPhase, FaultsConfig
from megaxlm.data.row_ranges import RowRange, merge_ranges, rows_outside
from megaxlm.errors import EXIT_FOUND_WRONG, CorruptDataError, UserError
from megaxlm.train.callbacks.base import StepRecord
from megaxlm.train.recovery import (
    INCIDENTS_NAME,
    Recovery,
    Trouble,
    checkpoint_before,
    drop_later_checkpoints,
    logged_skips,
)
from megaxlm.train.trainer import Trainer

ROWS = 10  # of a global batch
WINDOW = 8
NAN = float("nan")


class Run:
    """A stand-in for the trainer: a stream of ten rows a step, and a folder of checkpoints."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.rank, self.world_size, self.step = run_dir, 0, 1, 0
        self.skipped: list[RowRange] = []
        self.said: list[str] = []
        self.stream = SimpleNamespace(
            state={"position": 0},
            rows_between=lambda begin, end: rows_outside(merge_ranges(self.skipped), begin, end),
        )
        self.saver = SimpleNamespace(saved_step=None)
        self.config = SimpleNamespace(checkpoint=SimpleNamespace(retry_seconds=0))
        self.states: dict[int, dict[str, Any]] = {}
        self.waited = 0

    def save(self, recovery: Recovery) -> None:
        fragments = [whole("model/a", torch.zeros(2))]
        CheckpointWriter(self.run_dir).save(self.step, fragments, {}, {"model": {}})
        self.saver.saved_step = self.step
        self.states[self.step] = json.loads(json.dumps(recovery.state_dict()))

    def wait_for_save(self) -> None:
        self.waited += 1

    def restore(self, path: Path) -> None:
        self._stand_at(int(path.name.removeprefix("step-")))

    def start_over(self) -> None:
        self._stand_at(0)

    def _stand_at(self, step: int) -> None:
        self.step = self.saver.saved_step = step
        self.stream.state["position"] = step * ROWS
        self.recovery.load_state_dict(self.states[step])

    def skip_rows(self, ranges: list[RowRange]) -> None:
        self.skipped += ranges

    def say(self, message: str) -> None:
        assert "\n" not in message
        self.said.append(message)

    def begin(self, **faults: Any) -> Recovery:
        curriculum = [CurriculumPhase(from_tokens=12 * ROWS * 16 + 1)]
        config = FaultsConfig(spike_window=WINDOW, **faults)
        self.recovery = Recovery(config, curriculum, seq_len=16)
        self.states[0] = self.recovery.state_dict()
        self.recovery.on_train_begin(cast(Trainer, self))
        return self.recovery

    def go(self, *losses: float) -> Trouble | None:
        """Takes a step for each loss, up to the first trouble."""
        for loss in losses:
            rows = (self.step * ROWS, (self.step + 1) * ROWS)
            self.step += 1
            self.stream.state["position"] = rows[1]
            trouble = self.recovery.examine(cast(Trainer, self), record_of(self.step, loss), rows)
            if trouble is not None:
                return trouble
        return None

    def roll_back(self, trouble: Trouble, loss: float = NAN) -> None:
        rows = ((self.step - 1) * ROWS, self.step * ROWS)
        self.recovery.roll_back(cast(Trainer, self), trouble, record_of(self.step, loss), rows)

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(of) for of in (self.run_dir / INCIDENTS_NAME).read_text().splitlines()]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def record_of(step: int, loss: float) -> StepRecord:
    return StepRecord(step, loss, 1.0, 1e-3, loss != loss, 100, 100, 1.0, 0.0)


NORMAL = [2.0, 2.1, 1.9, 2.0, 2.1, 1.9, 2.0, 2.0]  # standard deviation 0.071


def test_a_jump_counts_once_the_window_is_full(run: Run) -> None:
    run.begin(spike_sigma=6.0)
    assert run.go(*NORMAL[:-1], 50.0) is None
    run.begin(spike_sigma=6.0)
    assert run.go(*NORMAL, 2.3) is None  # 4.2 standard deviations
    run.begin(spike_sigma=6.0)
    run.step = 0
    assert run.go(*NORMAL, 2.5) == Trouble("loss_spike", 9, (70, 90))
    run.begin(spike_sigma=None)
    assert run.go(*NORMAL, 1e6) is None


def test_the_default_is_six_sigma_of_the_last_128_steps(run: Run) -> None:
    noise = random.Random(0)

    def losses(number: int, mean: float) -> list[float]:
        return [noise.gauss(mean, 0.1) for _ in range(number)]

    def meets(sigmas: float, before: list[float]) -> Trouble | None:
        """What the loss that lies so many standard deviations above the last 128 comes to."""
        run.step = 0
        run.recovery = Recovery(FaultsConfig(), [], seq_len=16)
        assert run.go(*before) is None
        window = before[-128:]
        return run.go(statistics.fmean(window) + sigmas * statistics.pstdev(window))

    # The first 400 lie far above the others: a longer window would not see the jump, and a shorter
    # one has another mean and deviation.
    calm = [*losses(400, 9.0), *losses(128, 2.0)]
    assert meets(5.5, calm) is None and meets(5.99, calm) is None
    assert meets(6.01, calm) == Trouble("loss_spike", 529, (5270, 5290))
    assert meets(-50.0, calm) is None
    assert meets(1000.0, calm[-127:]) is None  # one loss too few to say what is normal
    assert meets(6.01, calm[-128:]) is not None


def test_a_loss_that_is_not_finite_never_enters_the_window(run: Run) -> None:
    recovery = run.begin()
    rows, record = (0, ROWS), StepRecord(1, NAN, 1.0, 1e-3, False, 100, 100, 1.0, 0.0)
    assert recovery.examine(cast(Trainer, run), record, rows) is None
    assert recovery.state_dict()["losses"] == []
    spoilt = {**recovery.state_dict(), "losses": [*NORMAL, NAN, float("inf")]}
    recovery.load_state_dict(spoilt)
    assert recovery.state_dict()["losses"] == NORMAL
    assert run.go(2.5) is not None  # a spike is one again


def test_the_rows_and_the_update_before_them_are_suspects(run: Run) -> None:
    run.begin()
    assert run.go(2.0, NAN, NAN, 2.0, 2.0, NAN, NAN) is None  # never three in a row
    assert run.go(NAN) == Trouble("not_finite", 6, (40, 80))
    assert [of["step"] for of in run.log] == [2, 3, 6, 7]
    assert {of["action"] for of in run.log} == {"not_updated"}
    assert run.log[0]["row_ids"] == list(range(10, 20)) and run.log[0]["loss"] is None
    run.begin()
    run.step = 0
    assert run.go(NAN, NAN, NAN) == Trouble("not_finite", 1, (0, 30))


def test_losses_from_before_a_phase_of_the_curriculum_are_forgotten(run: Run) -> None:
    run.begin()
    # The phase begins with row 121, inside the thirteenth step.
    assert run.go(*NORMAL, *NORMAL[:4], 9.0, 9.1, 8.9) is None
    assert run.go(*[9.0, 9.1, 8.9] * 2, 30.0) is not None


def test_state_outlives_a_resume_as_json(run: Run) -> None:
    first = run.begin()
    run.go(*NORMAL, NAN, NAN)
    state = json.loads(json.dumps(first.state_dict()))
    second = run.begin()
    second.load_state_dict(state)
    assert second.state_dict() == state
    assert run.go(NAN) == Trouble("not_finite", 9, (70, 110))
    second.load_state_dict(state)
    second.forget_losses()
    assert second.state_dict() == {**state, "losses": []}


def test_a_run_goes_back_behind_both_suspects_and_drops_what_came_later(run: Run) -> None:
    recovery = run.begin()
    for loss in NORMAL:
        run.go(loss)
        run.save(recovery)
    trouble = run.go(5.0)
    assert trouble is not None
    run.roll_back(trouble, 5.0)
    # Step 8 made the weights on which step 9 was bad: the checkpoint of step 7 is the last one.
    assert run.step == 7 and run.waited == 1
    assert run.skipped == [(70, 90)]
    assert [of.step for of in list_checkpoints(run.run_dir)] == list(range(1, 8))
    assert recorded_step(run.run_dir) == 7
    (incident,) = run.log
    assert incident["action"] == "rolled_back" and incident["to_step"] == 7
    assert incident["rows"] == [80, 90] and incident["skip_rows"] == [[70, 90]]
    assert incident["row_ids"] == list(range(80, 90))
    assert logged_skips(run.run_dir) == [(70, 90)]
    assert recovery.state_dict()["losses"] == NORMAL[:7]
    assert "rows 70 to 89" in run.said[-1]


def test_the_oldest_checkpoint_is_better_than_none(run: Run) -> None:
    recovery = run.begin()
    run.go(*NORMAL)
    run.save(recovery)
    trouble = run.go(5.0)
    assert trouble is not None
    run.roll_back(trouble, 5.0)
    assert run.step == 8
    assert run.skipped == [(80, 90)]  # what lies ahead; the log says what is true
    assert run.log[0]["skip_rows"] == [[80, 90]]


def test_without_a_checkpoint_it_starts_over(run: Run) -> None:
    run.begin()
    trouble = run.go(NAN, NAN, NAN)
    assert trouble is not None
    run.roll_back(trouble)
    assert run.step == 0 and run.skipped == [(0, 30)]
    assert "the initial weights" in run.said[-1]
    assert recorded_step(run.run_dir) is None


def test_only_a_checkpoint_past_the_trouble_gives_new_credit(run: Run) -> None:
    recovery = run.begin(max_rollbacks=2)
    run.go(2.0, 2.0)
    run.save(recovery)

    def meet_trouble() -> None:
        trouble = run.go(NAN, NAN, NAN)
        assert trouble is not None
        run.roll_back(trouble)
        assert run.step == 2

    meet_trouble()  # at step 5
    run.go(2.0)
    run.save(recovery)  # of step 3, before the trouble: dropped with the next rollback
    meet_trouble()  # at step 6
    with pytest.raises(UserError, match="after 2 rollbacks.*optimizer.lr.*max_rollbacks") as caught:
        meet_trouble()
    assert caught.value.exit_code == EXIT_FOUND_WRONG and "\n" not in str(caught.value)
    assert run.log[-1]["action"] == "gave_up"

    run._stand_at(2)
    recovery._rollbacks, recovery._troubled_step = 2, 6
    run.go(*[2.0] * 5)
    run.save(recovery)  # of step 7
    trouble = run.go(NAN, NAN, NAN)
    assert trouble is not None
    run.roll_back(trouble)
    assert recovery.state_dict()["rollbacks"] == 1


def test_no_rollback_at_all_can_be_asked_for(run: Run) -> None:
    run.begin(max_rollbacks=0)
    trouble = run.go(NAN, NAN, NAN)
    assert trouble is not None
    with pytest.raises(UserError, match=r"not finite in 3 steps in a row; lower"):
        run.roll_back(trouble)


def test_damaged_checkpoints_are_passed_over(run: Run) -> None:
    recovery = run.begin()
    for _ in range(3):
        run.go(2.0)
        run.save(recovery)
    folders = {of.step: of.path for of in list_checkpoints(run.run_dir)}
    assert checkpoint_before(run.run_dir, 3) == folders[2]
    assert checkpoint_before(run.run_dir, 1) == folders[1]
    _flip(folders[2])
    assert checkpoint_before(run.run_dir, 3) == folders[1]
    _flip(folders[1])
    assert checkpoint_before(run.run_dir, 3) == folders[3]
    _flip(folders[3])
    with pytest.raises(CorruptDataError, match="none of 3 checkpoints is whole"):
        checkpoint_before(run.run_dir, 3)
    assert checkpoint_before(run.run_dir / "new", 3) is None
    drop_later_checkpoints(run.run_dir / "new", 0)


def _flip(folder: Path) -> None:
    path = folder / "rank-00000.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_log_edited_by_hand_is_read_or_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / INCIDENTS_NAME
    assert logged_skips(tmp_path) == []
    path.write_text('{"step": 1, "skip_rows": [[3, 5], [5, 5]]}\n{"step": 2}\n{"st')
    assert logged_skips(tmp_path) == [(3, 5)]
    path.write_text('{"step": 4, "skip_rows": [3, 5]}\n')
    with pytest.raises(CorruptDataError, match=r"incidents\.jsonl: skip_rows of step 4"):
        logged_skips(tmp_path)
