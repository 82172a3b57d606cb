"""`megaxlm pretrain`: what has to stand before the loop runs, and what is taken down after it."""

from __future__ import annotations

from megaxlm.config.pretrain import PretrainConfig
from megaxlm.distributed import environment, reduce
from megaxlm.distributed.stop_request import StopRequest
from megaxlm.train import run_folder
from megaxlm.train.backend import connect, device_of, disconnect
from megaxlm.train.check import check_run
from megaxlm.train.create import create_engine
from megaxlm.train.engine import TrainingEngine
from megaxlm.train.prepare import ResolvedRun
from megaxlm.train.roll_call import RollCall
from megaxlm.train.trainer import Trainer
from megaxlm.train.watchdog import Watchdog


def pretrain(
    config: PretrainConfig, debug: bool = False, request: StopRequest | None = None
) -> int:
    """Trains a run from its beginning or from its newest valid checkpoint.

    Args:
        config: The run; `run_dir` decides whether this is a beginning or a resume.
        debug: Lets DeepSpeed's own log through.
        request: Where requests to stop are noted already; None: they are from now on.

    Returns:
        0 when `max_steps` are done, 75 when stopped by a signal after saving.

    Raises:
        UserError: Whatever the user can mend; the same one on every rank.
    """
    request = request or StopRequest.listen()
    try:
        with RollCall(config.run_dir, config.faults.start_seconds) as roll_call:
            place = environment.discover()
            place.export()
            roll_call.meet(place)
            run = check_run(config, place.world_size).run
            connect(place, device_of(place), debug=debug)
            watchdog = Watchdog.start(place, run.config.run_dir, run.config.faults)
        # Around all that needs several ranks, building and taking down the engine as well.
        with watchdog:
            watchdog.progress("building the model")
            engine = create_engine(run.config, run.index, place, debug=debug)
            try:
                return _train(run, engine, place, watchdog, request)
            finally:
                watchdog.progress("taking down the engine")
                engine.close(disconnect_ranks=False)
    finally:
        disconnect()


def _train(
    run: ResolvedRun,
    engine: TrainingEngine,
    place: environment.Environment,
    watchdog: Watchdog,
    request: StopRequest,
) -> int:
    with reduce.together():
        lock = (
            run_folder.open_run_folder(run.config.run_dir, run.config.data.path)
            if place.rank == 0
            else None
        )
    try:
        trainer = Trainer(run, engine, place, watchdog, request)
        try:
            return trainer.fit()
        finally:
            trainer.close()
    finally:
        if lock is not None:
            lock.close()
