"""The training loop, to be read in one sitting.

`Trainer.fit` is the loop, `Trainer` what it stands on: the stream, the engine, the checkpoints.
How a run is prepared is in `megaxlm.train.pretrain`; what happens besides the step (metrics,
progress, validation, checkpoints) is a callback; what is done about steps that go wrong is in
`megaxlm.train.recovery`.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.checkpoint.retention import select_resume
from megaxlm.checkpoint.saver import CheckpointSaver
from megaxlm.checkpoint.space import check_space_before_training
from megaxlm.data.batch import MicroBatch
from megaxlm.data.masking import targets_per_row
from megaxlm.data.row_ranges import RowRange
from megaxlm.data.special_tokens import PAD
from megaxlm.distributed import environment, reduce
from megaxlm.distributed.groups import new_rank_group
from megaxlm.distributed.stop_request import StopCause, StopRequest, agreed
from megaxlm.errors import EXIT_DONE, EXIT_RESUMABLE, UserError
from megaxlm.model.flops import TrainingFlops, training_flops
from megaxlm.objectives.mixture import open_stream
from megaxlm.optim.schedules import learning_rate
from megaxlm.train import run_folder
from megaxlm.train.callbacks.base import Callback, StepRecord
from megaxlm.train.callbacks.checkpoints import Checkpoints
from megaxlm.train.callbacks.evaluation import Evaluation
from megaxlm.train.callbacks.metrics import Metrics
from megaxlm.train.callbacks.progress import Progress
from megaxlm.train.callbacks.replicas import Replicas
from megaxlm.train.callbacks.straggler import Straggler
from megaxlm.train.engine import StepResult, TrainingEngine
from megaxlm.train.peak_flops import peak_flops
from megaxlm.train.prepare import ResolvedRun
from megaxlm.train.recovery import Recovery
from megaxlm.train.resume import (
    changed_settings,
    check_compatible,
    refuse_silent_restart,
    settings_in_force,
)
from megaxlm.train.watchdog import Watchdog


class Trainer:
    """One run on one rank: the stream, the engine, the callbacks, and what resume needs."""

    def __init__(
        self,
        run: ResolvedRun,
        engine: TrainingEngine,
        place: environment.Environment,
        watchdog: Watchdog,
        request: StopRequest,
    ) -> None:
        config = run.config
        self.run, self.engine, self.place, self.watchdog = run, engine, place, watchdog
        self.config = config
        self._settings = settings_in_force(config.model_dump(mode="json"))
        self.max_steps = config.training.max_steps
        self.step = 0
        self.device = engine.device
        self.stopping: StopCause | None = None  # why the run stops early, once all ranks agree
        self._request = request
        with reduce.together():
            self.stream = open_stream(
                config.data.path,
                config.data,
                config.objectives,
                config.masking,
                seed=config.seed,
                global_batch_size=config.training.global_batch_size,
                micro_batch_size=config.training.micro_batch_size,
                rank=engine.grid.data_rank,
                world_size=engine.grid.data_world_size,
                batch_size_warmup=config.training.batch_size_warmup,
                announce=place.rank == 0,
            )
        self.stream_state = self.stream.state  # at the last step boundary, the same on every rank
        precision = torch.bfloat16 if config.training.precision == "bf16" else torch.float32
        self.recovery = Recovery(config.faults, config.data.curriculum, config.data.seq_len)
        self.callbacks: list[Callback] = [
            self.recovery,
            Metrics(
                config.logging.every_steps,
                config.logging.tensorboard,
                peak_flops(self.device, precision),
            ),
            Progress(),
            Straggler(config.faults.straggler_ratio, config.faults.straggler_window),
            Replicas(config.faults.replica_check_steps, config.checkpoint.every_steps),
            Evaluation(config.evaluation.every_steps),
            Checkpoints(config.checkpoint.every_steps),  # last: it saves what the others hold
        ]
        self._fresh = {one.name: copy.deepcopy(one.state_dict()) for one in self.callbacks}
        self._group = new_rank_group("checkpoint")
        self.saver = CheckpointSaver(
            self.run_dir,
            place.rank,
            place.world_size,
            self._group.barrier,
            self._group.all_ok,
            asynchronous=config.checkpoint.asynchronous,
            retry_seconds=config.checkpoint.retry_seconds,
            keep_last=config.checkpoint.keep_last,
            keep_every_steps=config.checkpoint.keep_every_steps,
        )

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return self.config.run_dir

    @property
    def rank(self) -> int:
        """This process among all."""
        return self.place.rank

    @property
    def world_size(self) -> int:
        """All processes."""
        return self.place.world_size

    @property
    def tokens_seen(self) -> int:
        """Tokens of the stream up to here, over all ranks; rows that were left out count too."""
        return int(self.stream_state["position"]) * self.config.data.seq_len

    def flops(self, rows: int, attention_pairs: int) -> TrainingFlops:
        """Counts what some steps of all ranks need, forward and backward.

        Args:
            rows: Rows of their global batches.
            attention_pairs: Squared segment lengths, summed over these steps.
        """
        seq_len = self.config.data.seq_len
        targets = rows * targets_per_row(self.config.masking, seq_len)
        return training_flops(self.config.model, rows * seq_len, targets, seq_len, attention_pairs)

    def fit(self) -> int:
        """Runs the loop to `max_steps` or to a request to stop; returns the exit code."""
        self._resume()
        if self.step >= self.max_steps:
            # A kill may have come between the last checkpoint and the marker.
            self._mark_completed()
            self.say(f"{self.run_dir} is complete at step {self.step}; nothing to do")
            return EXIT_DONE
        with reduce.together():
            if self.rank == 0:
                run_folder.record_start(self.config, self.world_size)
        with reduce.together():  # apart from the above: it sums over the ranks
            check_space_before_training(
                self.run_dir, self.engine.fragments(), self.world_size, self._group.total
            )
        self.agree_to_stop()  # the request may have come while all this was loaded
        for callback in self.callbacks:
            callback.on_train_begin(self)
        try:
            while self.step < self.max_steps and self.stopping is None:
                self._take_step()
            self.save(now=True)
        finally:
            for callback in self.callbacks:
                callback.on_train_end(self)
        if self.step < self.max_steps and self.stopping is not None:
            if self.rank == 0:  # now that it is saved: the supervisor takes this for its proof
                run_folder.mark_stopped(self.run_dir, self.step, self.stopping)
            self.say(f"stopped on request at step {self.step}; the same command resumes")
            return EXIT_RESUMABLE
        self._mark_completed()
        return EXIT_DONE

    def save(self, now: bool = False) -> None:
        """Saves the checkpoint of this step; old ones go by the rules of retention.

        Args:
            now: Return when it is finished, or raise; else it may be written while training goes
                on, and what fails is said and tried again at the next interval.

        Raises:
            UserError: It was to be finished now and could not be; the same on every rank.
        """
        if self.step == 0:  # nothing would be lost
            return
        self.watchdog.progress(f"saving step {self.step}")
        shared = {
            "step": self.step,
            "optimizer_step": self.engine.optimizer_step,
            "stream": self.stream_state,
            "callbacks": {callback.name: callback.state_dict() for callback in self.callbacks},
            "model": self.config.model.model_dump(mode="json"),
            "config": self._settings,
            "tokenizer_sha256": self.run.index.tokenizer_sha256,
            "languages": list(self.run.index.languages),
        }
        save = self.saver.save_now if now else self.saver.save
        save(self.step, self.engine.fragments(), {}, shared)

    def wait_for_save(self) -> None:
        """Returns when no checkpoint is being written any more."""
        self.watchdog.progress(f"waiting for a checkpoint at step {self.step}")
        self.saver.wait()

    def restore(self, path: Path) -> dict[str, Any]:
        """Goes to the state that a whole checkpoint holds, whatever layout wrote it.

        Returns:
            Its shared state.

        Raises:
            UserError: It is of another model, tokenizer or place in the data; on every rank.
        """
        self.watchdog.progress(f"loading {path.name}")
        with reduce.together():
            reader = CheckpointReader(path, verify=False)  # the ranks have just shared that
            check_compatible(reader, self.config, self.run.index.tokenizer_sha256)
            shared = reader.shared
            self.stream.load_state(shared["stream"])
        self.engine.load(reader, shared["optimizer_step"])
        reader.close()
        self._stand_at(shared["step"], shared["callbacks"])
        return shared

    def start_over(self) -> None:
        """Goes to the state before the first step: the initial weights, the first rows."""
        self.watchdog.progress("initial weights")
        self.engine.load_initial()
        self.stream.start_over()
        self._stand_at(0, {})

    def skip_rows(self, ranges: Sequence[RowRange]) -> None:
        """Leaves out rows that lie ahead; for calls between two steps."""
        for begin, end in ranges:
            self.stream.skip(begin, end)
        self.stream_state = self.stream.state

    def say(self, message: str) -> None:
        """Prints one line on standard error, on rank 0."""
        if self.rank == 0:
            print(f"megaxlm: {message}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Waits for a checkpoint that is being written and stops the loader's thread."""
        self.saver.close()
        self.stream.close()

    def _resume(self) -> None:
        """Takes up the newest valid checkpoint, or starts from initial or given weights."""
        self.watchdog.progress("checking checkpoints")
        patience = self.config.checkpoint.retry_seconds
        with reduce.together():
            found = select_resume(self.run_dir, self.rank, self.world_size, reduce.all_ok, patience)
        if found is None:
            with reduce.together():
                if self.rank == 0:
                    refuse_silent_restart(self.run_dir, self.config.checkpoint.every_steps)
            self.start_over()
        else:
            if found.notice:
                self.say(found.notice)
            shared = self.restore(found.path)
            self.say(f"resumed {found.path} at step {self.step} of {self.max_steps}")
            changed = changed_settings(shared["config"], self.config)
            if changed:
                self.say("the config has changed since then: " + ", ".join(changed))
            learnt = ("data.", "objectives", "masking")
            if any(of.startswith(learnt) and "data.skip_rows" not in of for of in changed):
                self.recovery.forget_losses()
        self.recovery.resume_skips(self)

    def _stand_at(self, step: int, states: dict[str, Any]) -> None:
        self.step = step
        self.stream_state = self.stream.state
        self.saver.resumed(step)
        for callback in self.callbacks:
            state = states.get(callback.name, self._fresh[callback.name])
            callback.load_state_dict(copy.deepcopy(state))

    def agree_to_stop(self) -> bool:
        """Returns whether any rank has been asked to stop; all ranks call it together."""
        flags = torch.tensor(self._request.flags(), dtype=torch.float64, device=self.device)
        self.stopping = agreed(*reduce.all_sum(flags).tolist())
        return self.stopping is not None

    def _take_step(self) -> None:
        """Goes a step on, or back to an earlier one."""
        self.watchdog.progress(f"loading the rows of step {self.step + 1}")
        started = time.perf_counter()
        begin = self.stream_state["position"]
        batches, waited = self._next_global_batch()
        rows = (begin, self.stream_state["position"])
        self.watchdog.progress(f"step {self.step + 1}")
        result = self.recovery.compute(self, batches, self._learning_rate(), rows)
        self.step += 1
        record = self._agree(result, batches, started, waited)
        trouble = self.recovery.examine(self, record, rows)
        if trouble is None:
            for callback in self.callbacks:
                callback.on_step_end(self, record)
        else:
            self.recovery.roll_back(self, trouble, record, rows)
            for callback in self.callbacks:
                callback.on_rollback(self)

    def _next_global_batch(self) -> tuple[list[MicroBatch], float]:
        """Returns this rank's micro-batches of one step and the seconds spent waiting."""
        started = time.perf_counter()
        batches, failure = [], None
        try:
            for _ in range(self.stream.grad_accum_steps):
                loaded = next(self.stream)
                batches.append(loaded.batch)
        except Exception as error:  # a damaged shard shows on the ranks that read it alone
            failure = error
        waited = time.perf_counter() - started
        if not reduce.all_ok(failure is None):
            self._save_what_there_is()  # every rank stands between two steps
            with reduce.together():
                if failure is not None:
                    raise failure
        self.stream_state = self.stream.state
        return batches, waited

    def _save_what_there_is(self) -> None:
        try:
            self.save(now=True)
        except UserError as error:  # what ends the run is said next
            self.say(str(error))

    def _learning_rate(self) -> float:
        return learning_rate(
            self.step, self.config.optimizer.lr, self.config.schedule, self.max_steps
        )

    def _agree(
        self, result: StepResult, batches: list[MicroBatch], started: float, waited: float
    ) -> StepRecord:
        """Sums what ranks know apart in one small reduction: stop flags, tokens, language losses.

        What they say of stopping is in `stopping` afterwards.
        """
        own_rows = real_tokens = pairs = 0
        if self.engine.grid.is_first_stage:  # all stages of a replica have the same rows
            own_rows = sum(len(batch.row_ids) for batch in batches)
            real_tokens = sum(int((batch.tokens != PAD).sum()) for batch in batches)
            pairs = sum(int(batch.cu_seqlens.diff().long().square().sum()) for batch in batches)
        mine = [*self._request.flags(), own_rows, real_tokens, pairs, waited]
        scalars = torch.tensor(mine, dtype=torch.float64, device=self.device)
        # (languages,) each, zero on all stages of a pipeline but the last
        losses, counts = result.language_loss_sum, result.language_targets
        totals = reduce.all_sum(torch.cat([scalars, losses.double(), counts.double()])).tolist()
        by_signal, by_launcher, num_rows, real, num_pairs, wait = totals[: len(mine)]
        self.stopping = agreed(by_signal, by_launcher)
        languages = self.run.index.languages
        sums = totals[len(mine) : len(mine) + len(languages)]
        numbers = totals[len(mine) + len(languages) :]
        return StepRecord(
            step=self.step,
            loss=result.loss,
            grad_norm=result.grad_norm,
            lr=result.lr,
            skipped=result.skipped,
            real_tokens=int(real),
            attention_pairs=int(num_pairs),
            seconds=time.perf_counter() - started,
            data_wait_seconds=wait / self.world_size,
            language_loss={
                language: (total, number)
                for language, total, number in zip(languages, sums, numbers, strict=True)
                if number > 0
            },
            rows=int(num_rows),
        )

    def _mark_completed(self) -> None:
        with reduce.together():
            if self.rank == 0:
                run_folder.mark_completed(self.run_dir, self.step)
