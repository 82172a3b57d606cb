"""`megaxlm` in which a rank's gradient is NaN once, whenever the benchmark asks for it.

The last rank looks for CONFIG with the suffix `.nan` before each step; where it is, it is removed
and the loss of the next micro-batch is multiplied by NaN.
"""

import os
import sys
from pathlib import Path
from typing import Any

from megaxlm import cli
from megaxlm.train.engine import TrainingEngine

REQUEST = next(
    (Path(word).with_suffix(".nan") for word in sys.argv if word.endswith(".yaml")), None
)


def poison_once(engine: Any) -> None:
    backward = engine.backward

    def poisoned(loss: Any, *rest: Any, **options: Any) -> Any:
        del engine.backward  # the method of the class again
        return backward(loss * float("nan"), *rest, **options)

    engine.backward = poisoned


def main() -> None:
    train_step = TrainingEngine.train_step

    def step(self: TrainingEngine, *arguments: Any, **options: Any) -> Any:
        last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
        if last and REQUEST is not None and REQUEST.exists():
            REQUEST.unlink()
            poison_once(self._engine)
        return train_step(self, *arguments, **options)

    TrainingEngine.train_step = step  # type: ignore[method-assign]
    cli.run()


if __name__ == "__main__":
    main()
