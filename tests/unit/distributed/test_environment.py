"""Each launcher's variables lead to the same kind of answer."""

import pytest

from megaxlm.distributed.environment import discover, first_host
from megaxlm.errors import UserError


def test_alone() -> None:
    place = discover({})
    assert (place.rank, place.world_size, place.local_rank) == (0, 1, 0)
    assert place.launcher == "single"
    assert place.master_port > 0


def test_torch_names_as_deepspeed_and_torchrun_export_them() -> None:
    place = discover(
        {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "7"}
    )
    assert (place.rank, place.world_size, place.local_rank) == (3, 4, 1)
    assert (place.master_addr, place.master_port) == ("a", 7)


def test_slurm_step() -> None:
    place = discover(
        {
            "SLURM_PROCID": "9",
            "SLURM_NTASKS": "16",
            "SLURM_LOCALID": "1",
            "SLURM_STEP_ID": "0",
            "SLURM_JOB_ID": "123456",
            "SLURM_STEP_NODELIST": "gpu[003-004]",
        }
    )
    assert (place.rank, place.world_size, place.local_rank) == (9, 16, 1)
    assert place.master_addr == "gpu003"
    assert place.master_port == 20000 + 123456 % 20000
    assert place.launcher == "slurm"


def test_a_slurm_allocation_without_srun_is_one_process() -> None:
    assert discover({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}).launcher == "single"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("a1", "a1"), ("a1,b2", "a1"), ("gpu[003-007,9],x", "gpu003"), ("n[1,4]", "n1")],
)
def test_first_host(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RANK": "x", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "RANK='x'"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR"),
        ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "outside WORLD_SIZE"),
    ],
)
def test_contradictions_are_named(variables: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        discover(variables)
