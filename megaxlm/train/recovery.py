"""What a run does about losses that are not finite and losses that jump, without anybody there.

**A step is not finite** (loss or gradient, on any rank; the engine then updates nothing anywhere).
It is computed again with the same rows. Dropout is a function of seed, row and layer, so a fault
of the hardware that has passed leaves no trace in the run. If it is not finite again, the step
counts and nothing is updated: rates are a function of the step's number alone, so the schedule
goes on. The third such step in a row rolls back.

**A loss jumps**: it lies more than `faults.spike_sigma` standard deviations above the mean of the
last `faults.spike_window` finite losses, once there are so many. That rolls back. Losses from
before a phase of the curriculum say nothing about those in it and are forgotten.

**Rolling back**: a loss is measured before its step's update, so the cause may be the rows of that
step or the update of the step before. The run goes back to the newest whole checkpoint that is
older than both, drops later ones, leaves out the rows of all steps concerned when they come again,
and goes on with the rows behind them. Where no checkpoint is so old, the oldest one is taken;
where there is none, the initial weights. After `faults.max_rollbacks` without a checkpoint past
the trouble the run ends with exit code 1.

**The log**: every incident is a line of RUN_DIR/incidents.jsonl and a line on standard error. What
`skip_rows` says there is left out from then on, also by a run that is killed right after, and
stands in the state of every later checkpoint. A new run that is given these ranges as
`data.skip_rows` comes to the same weights, bit for bit.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megaxlm.checkpoint.catalog import delete_checkpoint, list_checkpoints, record_saved
from megaxlm.checkpoint.manifest import CHECKPOINTS_DIR
from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.checkpoint.storage import Patience
from megaxlm.config.pretrain import CurriculumPhase, FaultsConfig
from megaxlm.data.batch import MicroBatch
from megaxlm.data.row_ranges import RowRange, from_row, ranges_outside
from megaxlm.distributed import reduce
from megaxlm.errors import EXIT_FOUND_WRONG, CorruptDataError, UserError
from megaxlm.train.callbacks.base import Callback, StepRecord
from megaxlm.train.engine import StepResult
from megaxlm.train.line_file import LineFile, read_lines

if TYPE_CHECKING:
    from megaxlm.train.trainer import Trainer

INCIDENTS_NAME = "incidents.jsonl"
MAX_NOT_FINITE = 3  # steps in a row
_ADVICE = {
    "not_finite": (
        "lower optimizer.lr or training.gradient_clipping, lengthen schedule.warmup_steps, or "
        "set training.precision: fp32"
    ),
    "loss_spike": (
        "lower optimizer.lr, lengthen schedule.warmup_steps, or raise faults.spike_sigma if such "
        "losses are normal here"
    ),
}


@dataclass(frozen=True)
class Trouble:
    """Why a run has to go back."""

    kind: str  # `not_finite` or `loss_spike`
    first_step: int  # whose loss showed it first
    skip: RowRange  # rows of all steps that may have caused it


class Recovery(Callback):
    """Judges every step and takes the run back; its state is what it has seen of the losses."""

    name = "recovery"

    def __init__(
        self, faults: FaultsConfig, curriculum: Sequence[CurriculumPhase], seq_len: int
    ) -> None:
        """Keeps the limits.

        Args:
            faults: The limits.
            curriculum: Its phases.
            seq_len: Tokens a row.
        """
        self._sigma, self._max_rollbacks = faults.spike_sigma, faults.max_rollbacks
        self._phase_starts = [-(-phase.from_tokens // seq_len) for phase in curriculum]
        self._losses: deque[float] = deque(maxlen=faults.spike_window)
        self._not_finite: list[tuple[int, RowRange]] = []  # the steps of the present row
        self._last_good: RowRange | None = None  # rows of the last step that was well
        self._rollbacks = 0  # without a checkpoint past the trouble
        self._troubled_step = 0  # the furthest
        self._log: LineFile | None = None

    def on_train_begin(self, trainer: Trainer) -> None:
        """Opens the log."""
        if trainer.rank == 0:
            self._log = LineFile(trainer.run_dir / INCIDENTS_NAME, sync=True)

    def on_train_end(self, trainer: Trainer) -> None:
        """Writes what waits for a full disk."""
        if self._log is not None:
            self._log.flush()

    def state_dict(self) -> dict[str, Any]:
        """Returns what was seen of the losses, and how often the run went back."""
        return {
            "losses": list(self._losses),
            "not_finite": [[step, *rows] for step, rows in self._not_finite],
            "last_good": None if self._last_good is None else list(self._last_good),
            "rollbacks": self._rollbacks,
            "troubled_step": self._troubled_step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` returned."""
        self.forget_losses()
        self._losses.extend(loss for loss in state["losses"] if math.isfinite(loss))
        self._not_finite = [(step, (begin, end)) for step, begin, end in state["not_finite"]]
        last_good = state["last_good"]
        self._last_good = None if last_good is None else (last_good[0], last_good[1])
        self._rollbacks, self._troubled_step = state["rollbacks"], state["troubled_step"]

    def forget_losses(self) -> None:
        """Lets no former loss say what is normal: the data or the objectives have changed."""
        self._losses.clear()

    def resume_skips(self, trainer: Trainer) -> None:
        """Leaves out what the log says, and tells what the config names too late.

        Raises:
            CorruptDataError: The log cannot be read; on every rank.
        """
        stream, position = trainer.stream, trainer.stream.state["position"]
        late = [
            of
            for begin, end in trainer.config.data.skip_rows
            for of in ranges_outside(stream.skipped, begin, min(end, position))
        ]
        if late:
            trainer.say(f"data.skip_rows: rows {_shown(late)} were used before this checkpoint")
        with reduce.together():
            logged = logged_skips(trainer.run_dir) if trainer.rank == 0 else []
        ahead = from_row(reduce.broadcast(logged), position)
        if ahead:
            trainer.skip_rows(ahead)
            trainer.say(f"rows {_shown(ahead)} are left out, as {INCIDENTS_NAME} says")

    def compute(
        self, trainer: Trainer, batches: Sequence[MicroBatch], lr: float, rows: RowRange
    ) -> StepResult:
        """Runs a step, and once more if it is not finite.

        Args:
            trainer: The run.
            batches: This rank's micro-batches.
            lr: The rate of this step.
            rows: Where the global batch lies in the stream.
        """
        result = trainer.engine.train_step(batches, lr)
        if not result.skipped:
            return result
        again = trainer.engine.train_step(batches, lr)
        if not again.skipped:
            step = trainer.step + 1
            self._note(trainer, step, "not_finite", result.loss, rows, "computed_again")
            trainer.say(
                f"step {step}: loss or gradient was not finite, and is after computing it again"
            )
        return again

    def examine(self, trainer: Trainer, record: StepRecord, rows: RowRange) -> Trouble | None:
        """Judges a step; returns why the run has to go back, if it has to.

        Args:
            trainer: The run, at the step after this one.
            record: The step as all ranks agree on it.
            rows: Where its global batch lies in the stream.
        """
        if any(rows[0] <= start < rows[1] for start in self._phase_starts):
            self.forget_losses()
        if record.skipped:
            self._not_finite.append((record.step, rows))
            if len(self._not_finite) >= MAX_NOT_FINITE:
                return self._trouble("not_finite", *self._not_finite[0], rows)
            self._note(trainer, record.step, "not_finite", record.loss, rows, "not_updated")
            trainer.say(
                f"step {record.step}: loss or gradient is not finite, also when computed again; "
                f"nothing was updated; rows {rows[0]} to {rows[1] - 1}"
            )
            return None
        if self._is_spike(record.loss):
            return self._trouble("loss_spike", record.step, rows, rows)
        self._not_finite.clear()
        if math.isfinite(record.loss):  # else every mean were not, and no loss a spike
            self._losses.append(record.loss)
        self._last_good = rows
        return None

    def roll_back(
        self, trainer: Trainer, trouble: Trouble, record: StepRecord, rows: RowRange
    ) -> None:
        """Takes the run back to before the trouble; every rank calls it.

        Raises:
            UserError: It was taken back too often already.
            CorruptDataError: No checkpoint is whole.
        """
        trainer.wait_for_save()
        saved = trainer.saver.saved_step
        if saved is not None and saved > self._troubled_step:
            self._rollbacks = 0
        if self._rollbacks >= self._max_rollbacks:
            self._note(trainer, record.step, trouble.kind, record.loss, rows, "gave_up")
            raise UserError(self._given_up(trainer, trouble, record), EXIT_FOUND_WRONG, "run")
        counted = (self._rollbacks + 1, max(self._troubled_step, record.step))
        row_ids = trainer.stream.rows_between(*rows)
        patience = Patience(trainer.config.checkpoint.retry_seconds)
        path = checkpoint_before(
            trainer.run_dir, trouble.first_step - 1, trainer.rank, trainer.world_size, patience
        )
        if path is None:
            trainer.start_over()
        else:
            trainer.restore(path)
        self._rollbacks, self._troubled_step = counted
        ahead = from_row([trouble.skip], trainer.stream.state["position"])
        trainer.skip_rows(ahead)
        # Before the log tells of it: a kill in between meets the same trouble again, while a log
        # that is ahead would let a later checkpoint be resumed which it says was left behind.
        with reduce.together():
            if trainer.rank == 0:
                patience(lambda: drop_later_checkpoints(trainer.run_dir, trainer.step))
        self._note(
            trainer,
            record.step,
            trouble.kind,
            record.loss,
            rows,
            "rolled_back",
            row_ids,
            to_step=trainer.step,
            skip_rows=[list(of) for of in ahead],
        )
        trainer.say(
            f"step {record.step}: {_described(trouble, record)}; back to step {trainer.step} "
            f"({path or 'the initial weights'}), leaving out rows {_shown(ahead)}"
        )

    def _is_spike(self, loss: float) -> bool:
        losses = self._losses
        if self._sigma is None or len(losses) < (losses.maxlen or 0):
            return False
        # Both are exact up to the last rounding, so ranks on other processors decide alike.
        return loss > statistics.fmean(losses) + self._sigma * statistics.pstdev(losses)

    def _trouble(self, kind: str, step: int, first: RowRange, last: RowRange) -> Trouble:
        begin = first[0] if self._last_good is None else self._last_good[0]
        return Trouble(kind, step, (begin, last[1]))

    def _given_up(self, trainer: Trainer, trouble: Trouble, record: StepRecord) -> str:
        tried = f", after {self._rollbacks} rollbacks" if self._rollbacks else ""
        return (
            f"step {record.step}: {_described(trouble, record)}{tried}; "
            f"{_ADVICE[trouble.kind]}; then start it again (faults.max_rollbacks is "
            f"{self._max_rollbacks}; see {trainer.run_dir / INCIDENTS_NAME})"
        )

    def _note(
        self,
        trainer: Trainer,
        step: int,
        kind: str,
        loss: float,
        rows: RowRange,
        action: str,
        row_ids: list[int] | None = None,
        **more: Any,
    ) -> None:
        if self._log is None:
            return
        if row_ids is None:
            row_ids = trainer.stream.rows_between(*rows)
        self._log.append(
            {
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "step": step,
                "kind": kind,
                "loss": loss,
                "rows": list(rows),
                "row_ids": row_ids,
                "action": action,
                **more,
            }
        )


def logged_skips(run_dir: Path) -> list[RowRange]:
    """Returns the ranges of rows that the log of a run says are left out.

    Raises:
        CorruptDataError: A line says so in a way that cannot be read.
    """
    path = run_dir / INCIDENTS_NAME
    found: list[RowRange] = []
    for line in read_lines(path):
        try:
            found.extend((int(begin), int(end)) for begin, end in line.get("skip_rows", []))
        except (TypeError, ValueError):
            raise CorruptDataError(
                f"{path}: skip_rows of step {line['step']} is no list of [begin, end]; mend that "
                "line or remove it"
            ) from None
    return [of for of in found if 0 <= of[0] < of[1]]


def checkpoint_before(
    run_dir: Path,
    step: int,
    rank: int = 0,
    world_size: int = 1,
    patience: Patience | None = None,
) -> Path | None:
    """Returns the newest whole checkpoint of less than `step` steps, else the oldest whole one.

    All ranks call it and get the same; None where there is no checkpoint.

    Args:
        run_dir: The run folder.
        step: Steps that the checkpoint should not have yet.
        rank: This rank.
        world_size: Ranks that call this together.
        patience: With a file system that is away; None: none.

    Raises:
        CorruptDataError: There are checkpoints and none of them is whole.
    """
    patience = patience or Patience(0)
    with reduce.together():
        listed = patience(lambda: list_checkpoints(run_dir)) if rank == 0 else []
    folders = reduce.broadcast([(folder.path, folder.step, folder.problem) for folder in listed])
    older = [folder for folder in reversed(folders) if folder[1] < step]
    problems = []
    for path, _, problem in [*older, *(folder for folder in folders if folder[1] >= step)]:
        if problem is None:
            try:
                reader = CheckpointReader(path, verify=False, retry_seconds=patience.left)
                reader.verify_files(rank, world_size)
            except (UserError, OSError) as error:
                problem = str(error)
        if reduce.all_ok(problem is None):
            return Path(path)
        problems.append(problem or f"{path}: damaged, as another rank found")
    if problems:
        raise CorruptDataError(
            f"{run_dir / CHECKPOINTS_DIR}: the run has to go back and none of {len(problems)} "
            f"checkpoints is whole ({problems[0]}); restore one from a copy"
        )
    return None


def drop_later_checkpoints(run_dir: Path, step: int) -> None:
    """Removes the checkpoints of more than `step` steps, so that no start goes on from them.

    Raises:
        OSError: One cannot be removed.
    """
    if step:  # first, so that no start misses one of those that go
        record_saved(run_dir / CHECKPOINTS_DIR, step)
    for folder in list_checkpoints(run_dir):
        if folder.step > step and not folder.path.is_symlink():
            delete_checkpoint(folder.path)


def _shown(ranges: Sequence[RowRange]) -> str:
    return ", ".join(f"{begin} to {end - 1}" for begin, end in ranges)


def _described(trouble: Trouble, record: StepRecord) -> str:
    if trouble.kind == "loss_spike":
        return f"loss {record.loss:.4g} is far above those before it"
    return f"loss or gradient is not finite in {MAX_NOT_FINITE} steps in a row"
