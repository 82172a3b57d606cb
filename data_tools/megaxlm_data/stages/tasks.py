"""Tasks that leave a file each, done by the workers of this rank and of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from megaxlm_data.crew import Crew
from megaxlm_data.progress import Progress
from megaxlm_data.workers import WorkerPool


class Task(Protocol):
    """A function's input."""

    @property
    def size(self) -> int:
        """How much work it is, the same on every rank; what `advance` is told of sums up to it."""

    @property
    def result(self) -> Path:
        """The file that it writes; it gets its name when it is whole."""

    @property
    def group_done(self) -> Path:
        """The file that is there when the whole group is done and the others may be gone."""


TaskT = TypeVar("TaskT", bound=Task)


def run_tasks(
    stage: str,
    unit: str,
    function: Callable[[TaskT], None],
    tasks: Sequence[TaskT],
    pool: WorkerPool,
    crew: Crew,
    progress: Progress,
) -> None:
    """Does the tasks that fall to this rank and are not done, and waits for the others.

    Args:
        stage: Its name, on the bar.
        unit: What a size counts.
        function: Of a module; does a task.
        tasks: All of the stage, done or not: every rank deals out the same.
        pool: Where tasks run.
        crew: The ranks that share them.
        progress: Where the bar is shown.
    """
    mine = crew.mine([task.size for task in tasks])
    waiting = [
        task for task, is_mine in zip(tasks, mine, strict=True) if is_mine and not _done(task)
    ]
    if len(waiting) < sum(mine):
        progress.say(f"{stage}: {sum(mine) - len(waiting)} of {sum(mine)} tasks are already done")
    with progress.bar(stage, sum(task.size for task in waiting), unit) as bar:
        for _ in pool.map(function, waiting, "finished", bar.update):
            pass
    crew.wait(stage, lambda: [task for task in tasks if not _done(task)])


def _done(task: Task) -> bool:
    # In this order: the result goes when the group's file is there.
    return task.result.exists() or task.group_done.exists()
