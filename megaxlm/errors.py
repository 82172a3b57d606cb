"""The one exception that becomes a single line on the terminal.

Whatever a user can cause (a missing file, a wrong key, a damaged shard) is raised as a
`UserError` whose message says what is wrong, where, and what to do. `megaxlm.cli` prints that
line without a traceback and exits with the error's code; anything else is a defect of ours.
"""

from typing import Literal

KnownTo = Literal["run", "node", "rank"]

EXIT_DONE = 0
EXIT_FOUND_WRONG = 1  # the work itself found something wrong: a damaged shard, a diverged run
EXIT_BAD_USAGE = 2  # bad command line, config or input
EXIT_RESUMABLE = 75  # stopped on request, resumable: EX_TEMPFAIL, which Slurm requeues


class UserError(Exception):
    """What a user can cause and mend.

    Args:
        message: One line: what, where (file, line, key) and what to do.
        exit_code: The code the command ends with.
        known_to: Which processes of a run have it, and so who says it: every rank (`run`), the
            ranks of some nodes (`node`), or this one alone (`rank`).
    """

    def __init__(
        self, message: str, exit_code: int = EXIT_BAD_USAGE, known_to: KnownTo = "node"
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.known_to: KnownTo = known_to


class CorruptDataError(UserError):
    """A file of ours does not hold what its index says (truncated, altered, missing)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=EXIT_FOUND_WRONG)
