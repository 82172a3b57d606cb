"""The emulator runs what is right, and finds each mistake of faults.cu by name, thread and line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from emulator.emulate import EmulatorFault, Module, compile_for_emulator
from torch import Tensor

SOURCE = Path(__file__).with_name("faults.cu")
RIGHT = {
    "sums_of_the_block": lambda x: x.sum().expand(64),
    "sums_by_shuffles": lambda x: x.view(2, 32).sum(1, keepdim=True).expand(2, 32).reshape(64),
    "warps_exchange_through_syncwarp": lambda x: x.view(2, 32).flip(1).reshape(64),
    "halves_of_a_block_have_barriers_of_their_own": lambda x: torch.cat(
        [x[:32].flip(0), x[32:].flip(0) + 1]
    ),
    "atomics_count": lambda x: x.sum().expand(64),
    "copies_by_cp_async": lambda x: torch.cat([x[:60], torch.zeros(4)]),
    "dynamic_shared_memory": lambda x: x,
}
WRONG = {
    "writes_past_the_end": "writes 4 bytes out of bounds, 256 bytes into 'out' of 256 at faults",
    "reads_before_the_start": "reads 4 bytes out of bounds, -4 bytes into 'in' of 256",
    "writes_the_input": "writes 4 bytes of the input 'in'",
    "reads_shared_memory_unwritten": "'tile' at byte 0 that no thread has written",
    "reads_past_a_shared_array": "out of bounds, 256 bytes into 'tile' of 256",
    "reads_with_no_barrier_after_the_write": "thread .63,0,0.: race: reads .* that thread 5 wrote",
    "overwrites_with_no_barrier_after_the_read": "race: .* with no barrier between",
    "takes_a_shuffle_for_a_barrier": "race: reads .* that thread 30 wrote",
    "takes_syncwarp_for_a_barrier_of_the_block": "race: reads .* that thread 0 wrote",
    "half_of_the_block_skips_a_barrier": "deadlock: 32 threads wait at .*, 32 have returned",
    "two_barriers_in_two_branches": "divergent: this thread is at faults.cu:.*, others are at",
    "half_of_a_warp_skips_a_shuffle": "deadlock: 32 threads wait at faults.cu:.*, 32 have returned",
    "is_not_in_its_own_mask": "thread .16,0,0.: calls faults.cu:.* with a mask without itself",
    "loads_a_vector_from_an_odd_address": "misaligned access at faults.cu:",
    "forgets_to_wait_for_cp_async": "that no thread has written",
    "too_little_dynamic_shared_memory": "out of bounds, 252 bytes into 'dynamic' of 252",
    "no_dynamic_shared_memory": "asks for dynamic shared memory, launched with none",
    "too_many_threads": "blocks of .1056,1,1. threads cannot be launched",
}


@pytest.fixture(scope="module")
def module(builds: Path) -> Module:
    return compile_for_emulator([SOURCE], builds / "emulator")


def run(module: Module, probe: str) -> tuple[Tensor, Tensor]:
    values = torch.randint(-9, 9, (64,), generator=torch.Generator().manual_seed(0)).float()
    with module.call() as call:
        out = call.write("out", 64, dtype=torch.float32)
        module.launch(f"probe_{probe}", call.address("in", values), call.address_of(out))
    return values, out


@pytest.mark.parametrize("probe", RIGHT)
def test_runs_what_is_right(module: Module, probe: str) -> None:
    values, out = run(module, probe)
    torch.testing.assert_close(out, RIGHT[probe](values), rtol=0, atol=0)


@pytest.mark.parametrize("probe", WRONG)
def test_finds_what_is_wrong(module: Module, probe: str) -> None:
    with pytest.raises(EmulatorFault) as fault:
        run(module, probe)
    assert re.search(WRONG[probe], str(fault.value)), str(fault.value)
    # One fault leaves nothing behind: the next launch runs.
    run(module, "sums_of_the_block")


def test_every_probe_is_tested() -> None:
    text = SOURCE.read_text(encoding="utf-8")
    probes = set(re.findall(r"^(?:SIMPLE|WITH)\((\w+)[,)]", text, re.MULTILINE))
    assert probes == set(RIGHT) | set(WRONG)
