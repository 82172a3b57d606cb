"""What one rank finds wrong all ranks raise, so that none waits in a collective for another."""

import os
from typing import Any

import pytest

from megaxlm.distributed import reduce
from megaxlm.errors import CorruptDataError, UserError
from megaxlm.testing.distributed import run_distributed


def errors_of_each_kind() -> list[tuple[str, str, Any, Any]]:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    failures: list[tuple[int, Exception]] = [
        (0, UserError("first", 2)),
        (1, CorruptDataError("second")),
        (1, FileNotFoundError(2, "No such file", "a/b")),
        (1, KeyError("k")),
    ]
    found = []
    for failing, failure in failures:
        try:
            with reduce.together():
                if rank == failing:
                    raise failure
        except Exception as error:
            code = getattr(error, "exit_code", None)
            known_to = getattr(error, "known_to", None)
            found.append((type(error).__name__, str(error), code, known_to))
    with reduce.together():
        pass
    assert reduce.any_true(rank == 1) and not reduce.all_ok(rank == 1)
    dist.destroy_process_group()
    return found


@pytest.mark.distributed
def test_an_error_of_one_rank_is_raised_on_all() -> None:
    first, second = run_distributed(errors_of_each_kind, 2)
    agreed = [
        ("UserError", "first", 2, "run"),
        ("UserError", "rank 1: second", 1, "run"),
        ("UserError", "rank 1: a/b: No such file", 1, "run"),
    ]
    assert first == [*agreed, ("UserError", "rank 1: KeyError: 'k'", 1, "run")]
    assert second == [*agreed, ("KeyError", "'k'", None, None)]


def test_one_process_raises_its_own_error() -> None:
    with pytest.raises(CorruptDataError, match="here"), reduce.together():
        raise CorruptDataError("here")
    assert reduce.all_ok(True) and not reduce.all_ok(False)
