"""The training loop, to be read in one sitting.

`pretrain` prepares: ranks, checks, stream, engine, resume. `Trainer.fit` is the loop. What
happens besides the step (metrics, progress, validation, checkpoints) is a callback.
"""

from __future__ import annotations

import signal
import sys
import time
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.checkpoint.retention import apply_retention, select_resume
from megaxlm.checkpoint.writer import CheckpointWriter
from megaxlm.config.pretrain import PretrainConfig
from megaxlm.data.batch import MicroBatch
from megaxlm.data.masking import targets_per_row
from megaxlm.data.shards import tokenizer_path
from megaxlm.data.special_tokens import PAD
from megaxlm.data.tokenizer import Tokenizer
from megaxlm.distributed import environment, reduce
from megaxlm.errors import EXIT_DONE, EXIT_RESUMABLE, UserError
from megaxlm.evaluation.perplexity import evaluate_perplexity
from megaxlm.evaluation.report import evaluation_to_json
from megaxlm.evaluation.retrieval import evaluate_retrieval
from megaxlm.model.flops import TrainingFlops, training_flops
from megaxlm.objectives.mixture import open_stream
from megaxlm.optim.schedules import learning_rate
from megaxlm.train import run_folder
from megaxlm.train.backend import disconnect
from megaxlm.train.callbacks.base import Callback, StepRecord
from megaxlm.train.callbacks.checkpoints import Checkpoints
from megaxlm.train.callbacks.evaluation import Evaluation
from megaxlm.train.callbacks.metrics import Metrics
from megaxlm.train.callbacks.progress import Progress
from megaxlm.train.engine import StepResult, TrainingEngine
from megaxlm.train.peak_flops import peak_flops
from megaxlm.train.prepare import ResolvedRun, resolve_run
from megaxlm.train.resume import changed_settings, check_compatible, refuse_silent_restart

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def pretrain(config: PretrainConfig, debug: bool = False) -> int:
    """Trains a run from its beginning or from its newest valid checkpoint.

    Args:
        config: The run; `run_dir` decides whether this is a beginning or a resume.
        debug: Lets DeepSpeed's own log through.

    Returns:
        0 when `max_steps` are done, 75 when stopped by a signal after saving.

    Raises:
        UserError: Whatever the user can mend; the same one on every rank.
    """
    place = environment.discover()
    place.export()
    run = resolve_run(config)
    try:
        engine = TrainingEngine.create(run.config, run.index, place, debug=debug)
    except UserError:  # of all ranks alike: none waits for another in a collective
        disconnect()
        raise
    try:
        with reduce.together():
            lock = (
                run_folder.open_run_folder(run.config.run_dir, run.config.data.path)
                if place.rank == 0
                else None
            )
        trainer = Trainer(run, engine, place)
        try:
            return trainer.fit()
        finally:
            trainer.close()
            if lock is not None:
                lock.close()
    finally:
        engine.close()


class Trainer:
    """One run on one rank: the stream, the engine, the callbacks, and what resume needs."""

    def __init__(
        self, run: ResolvedRun, engine: TrainingEngine, place: environment.Environment
    ) -> None:
        config = run.config
        self.run, self.engine, self.place = run, engine, place
        self.config = config
        self.max_steps = config.training.max_steps
        self.step = 0
        self.device = engine.device
        self.stop_signal: int | None = None
        self._saved_step = 0  # the step of the newest checkpoint; nothing is lost at step 0
        with reduce.together():
            self.stream = open_stream(
                config.data.path,
                config.data,
                config.objectives,
                config.masking,
                seed=config.seed,
                global_batch_size=config.training.global_batch_size,
                micro_batch_size=config.training.micro_batch_size,
                rank=place.rank,
                world_size=place.world_size,
            )
        self.stream_state: dict[str, Any] | None = None
        precision = torch.bfloat16 if config.training.precision == "bf16" else torch.float32
        self.callbacks: list[Callback] = [
            Metrics(
                config.logging.every_steps,
                config.logging.tensorboard,
                peak_flops(self.device, precision),
            ),
            Progress(),
            Evaluation(config.evaluation.every_steps),
            Checkpoints(config.checkpoint.every_steps),  # last: it saves what the others hold
        ]
        self.writer = CheckpointWriter(
            self.run_dir, place.rank, place.world_size, reduce.barrier, reduce.all_ok
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
        """Tokens of all steps done, over all ranks, also where the batch size has changed."""
        rows: int = 0 if self.stream_state is None else self.stream_state["position"]
        return rows * self.config.data.seq_len

    def flops(self, steps: int, attention_pairs: int) -> TrainingFlops:
        """Counts what some steps of all ranks need, forward and backward.

        Args:
            steps: Optimizer steps.
            attention_pairs: Squared segment lengths, summed over these steps.
        """
        seq_len = self.config.data.seq_len
        rows = steps * self.config.training.global_batch_size
        targets = rows * targets_per_row(self.config.masking, seq_len)
        return training_flops(self.config.model, rows * seq_len, targets, seq_len, attention_pairs)

    def fit(self) -> int:
        """Runs the loop to `max_steps` or to a stop signal; returns the exit code."""
        self._resume()
        if self.step >= self.max_steps:
            # A kill may have come between the last checkpoint and the marker.
            self._mark_completed()
            self._say(f"{self.run_dir} is complete at step {self.step}; nothing to do")
            return EXIT_DONE
        with reduce.together():
            if self.rank == 0:
                run_folder.record_start(self.config, self.world_size)
        self._listen()
        for callback in self.callbacks:
            callback.on_train_begin(self)
        try:
            while self.step < self.max_steps:
                started = time.perf_counter()
                batches, waited = self._next_global_batch()
                result = self.engine.train_step(batches, self._learning_rate())
                self.step += 1
                record, stop = self._agree(result, batches, started, waited)
                for callback in self.callbacks:
                    callback.on_step_end(self, record)
                if stop and self.step < self.max_steps:
                    if self._saved_step != self.step:
                        self.save()
                    self._say(f"stopped on request at step {self.step}; the same command resumes")
                    return EXIT_RESUMABLE
        finally:
            for callback in self.callbacks:
                callback.on_train_end(self)
        self._mark_completed()
        return EXIT_DONE

    def save(self) -> None:
        """Writes the checkpoint of this step and removes what retention no longer keeps."""
        shared = {
            "step": self.step,
            "optimizer_step": self.engine.optimizer_step,
            "stream": self.stream_state,
            "callbacks": {callback.name: callback.state_dict() for callback in self.callbacks},
            "model": self.config.model.model_dump(mode="json"),
            "config": self.config.model_dump(mode="json"),
            "tokenizer_sha256": self.run.index.tokenizer_sha256,
            "languages": list(self.run.index.languages),
        }
        rank_state = self.engine.rng_state()
        with reduce.together():
            self.writer.save(self.step, self.engine.fragments(), rank_state, shared)
        self._saved_step = self.step
        if self.rank == 0:
            policy = self.config.checkpoint
            apply_retention(self.run_dir, policy.keep_last, policy.keep_every_steps, self.step)

    def evaluate(self) -> dict[str, Any]:
        """Measures every language of the validation split, and retrieval if the config names it.

        Returns:
            A document of `evaluation_to_json`, the same on every rank.
        """
        settings = self.config.evaluation
        measure = partial(
            evaluate_perplexity,
            self.engine.forward_module,
            self.config.data.path,
            self.config.data,
            self.config.masking,
            seed=self.config.seed,
            max_rows_per_language=settings.max_rows_per_language,
            micro_batch_size=self.config.training.micro_batch_size,
            device=self.device,
            reduce=reduce.all_sum,
            rank=self.rank,
            world_size=self.world_size,
            together=reduce.together,
        )
        perplexity = measure() or measure(objective="tlm")  # pairs, where there is nothing else
        retrieval = None
        if settings.retrieval is not None:
            retrieval = evaluate_retrieval(
                self.engine.model,
                Tokenizer(tokenizer_path(self.config.data.path)),  # that of the run: checked
                settings.retrieval,
                settings.retrieval_pairs,
                layer=settings.retrieval_layer,
                scoring=settings.retrieval_scoring,
                limit=settings.retrieval_limit,
                device=self.device,
                reduce=reduce.all_sum,
                rank=self.rank,
                world_size=self.world_size,
            )
        return evaluation_to_json(str(self.run_dir), perplexity, retrieval)

    def close(self) -> None:
        """Stops the loader's thread."""
        self.stream.close()

    def _resume(self) -> None:
        """Takes up the newest valid checkpoint, or starts from initial or given weights."""
        with reduce.together():
            found = select_resume(self.run_dir, self.rank, self.world_size, reduce.all_ok)
        if found is None:
            with reduce.together():
                if self.rank == 0:
                    refuse_silent_restart(self.run_dir, self.config.checkpoint.every_steps)
            return
        if found.notice:
            self._say(found.notice)
        with reduce.together():
            reader = CheckpointReader(found.path, verify=False)  # the ranks have just shared that
            check_compatible(reader, self.config, self.run.index.tokenizer_sha256)
            shared = reader.shared
            rank_state = reader.rank_state(self.rank)
            self.stream.load_state(shared["stream"])
        self.engine.load(reader, shared["optimizer_step"])
        self.step = self._saved_step = shared["step"]
        self.stream_state = shared["stream"]
        for callback in self.callbacks:
            if callback.name in shared["callbacks"]:
                callback.load_state_dict(shared["callbacks"][callback.name])
        if rank_state is not None and reader.world_size == self.world_size:
            self.engine.set_rng_state(rank_state)
        else:  # another number of ranks: new dropout, but not that of the first steps again
            self.engine.reseed(self.step)
        reader.close()
        self._say(f"resumed {found.path} at step {self.step} of {self.max_steps}")
        changed = changed_settings(shared["config"], self.config)
        if changed:
            self._say("the config has changed since then: " + ", ".join(changed))

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
            if self._saved_step != self.step:  # every rank stands between two steps
                self.save()
            with reduce.together():
                if failure is not None:
                    raise failure
        self.stream_state = loaded.state_after
        return batches, waited

    def _learning_rate(self) -> float:
        return learning_rate(
            self.step, self.config.optimizer.lr, self.config.schedule, self.max_steps
        )

    def _agree(
        self, result: StepResult, batches: list[MicroBatch], started: float, waited: float
    ) -> tuple[StepRecord, bool]:
        """Sums what ranks know apart in one small reduction: stop flag, tokens, language losses."""
        real_tokens = sum(int((batch.tokens != PAD).sum()) for batch in batches)
        pairs = sum(int(batch.cu_seqlens.diff().long().square().sum()) for batch in batches)
        mine = [float(self.stop_signal is not None), float(real_tokens), float(pairs), waited]
        scalars = torch.tensor(mine, dtype=torch.float64, device=self.device)
        losses, counts = result.language_loss_sum, result.language_targets  # (languages,) each
        totals = reduce.all_sum(torch.cat([scalars, losses.double(), counts.double()])).tolist()
        stop, real, pairs, wait = totals[: len(mine)]
        languages = self.run.index.languages
        sums = totals[len(mine) : len(mine) + len(languages)]
        numbers = totals[len(mine) + len(languages) :]
        record = StepRecord(
            step=self.step,
            loss=result.loss,
            grad_norm=result.grad_norm,
            lr=result.lr,
            skipped=result.skipped,
            real_tokens=int(real),
            attention_pairs=int(pairs),
            seconds=time.perf_counter() - started,
            data_wait_seconds=wait / self.world_size,
            language_loss={
                language: (total, number)
                for language, total, number in zip(languages, sums, numbers, strict=True)
                if number > 0
            },
        )
        return record, stop > 0

    def _listen(self) -> None:
        """Lets a signal end the run at the next step boundary; a second Ctrl-C ends it at once."""

        def note(number: int, frame: FrameType | None) -> None:
            if number == signal.SIGINT and self.stop_signal == signal.SIGINT:
                raise KeyboardInterrupt
            self.stop_signal = number

        for number in STOP_SIGNALS:
            signal.signal(number, note)

    def _mark_completed(self) -> None:
        if self.rank == 0:
            run_folder.mark_completed(self.run_dir, self.step)

    def _say(self, message: str) -> None:
        if self.rank == 0:
            print(f"megaxlm: {message}", file=sys.stderr, flush=True)
