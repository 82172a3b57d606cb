"""What a build says while it runs: a bar a stage, and single lines. All of it on stderr."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


class Progress:
    """Bars with rate and time left.

    Args:
        show: Whether bars and remarks are shown; warnings always are.
    """

    def __init__(self, show: bool) -> None:
        self._show = show

    def bar(self, stage: str, total: int, unit: str) -> tqdm[Any]:
        """Opens the bar of a stage; use it in a `with` statement."""
        return tqdm(
            total=total,
            desc=f"{stage:<10}",
            unit=unit,
            unit_scale=True,
            unit_divisor=1000,
            file=sys.stderr,
            disable=not (self._show and total),  # an empty bar says nothing
            dynamic_ncols=True,
            mininterval=0.2,
        )

    def say(self, line: str) -> None:
        """Prints a remark above the bars."""
        if self._show:
            tqdm.write(line, file=sys.stderr)

    def warn(self, line: str) -> None:
        """Prints a warning, shown or not."""
        tqdm.write(f"warning: {line}", file=sys.stderr)
