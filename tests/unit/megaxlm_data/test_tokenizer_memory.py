from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from megaxlm_data.tokenizer import memory
from megaxlm_data.tokenizer.memory import (
    available_memory,
    is_extremely_large,
    sample_within,
    training_memory,
)

GB = 10**9


@given(st.integers(GB // 4, 400 * GB), st.sampled_from(["unigram", "bpe"]))
def test_the_sample_is_the_largest_that_fits(budget, model_type):
    size = sample_within(budget, model_type)
    assert training_memory(size, size, model_type) <= budget
    assert training_memory(size + 1, size + 1, model_type) > budget


def test_characters_count_and_places_of_64_bits_count_twice():
    assert training_memory(3 * GB // 10, GB // 10) < 0.5 * training_memory(
        3 * GB // 10, 3 * GB // 10
    )
    assert not is_extremely_large(2 * GB) and is_extremely_large(2**31)
    assert training_memory(2**31, 2**31) > 1.7 * training_memory(2 * GB, 2 * GB)
    assert sample_within(1000) == 0


@pytest.mark.parametrize(
    ("line", "folder", "names"),
    [
        ("0::/job/step\n", "job", ("memory.max", "memory.current")),
        (
            "5:cpu:/x\n3:memory:/job/step\n",
            "memory/job",
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ),
    ],
    ids=["version 2", "version 1"],
)
def test_the_limit_of_a_container_counts(tmp_path, monkeypatch, line, folder, names):
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GB))
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "own")
    assert available_memory() == 8 * GB  # no cgroups at all
    (tmp_path / "own").write_text(line)
    (tmp_path / folder / "step").mkdir(parents=True)
    (tmp_path / folder / "step" / names[0]).write_text("max\n")
    assert available_memory() == 8 * GB
    (tmp_path / folder / names[0]).write_text(f"{4 * GB}\n")
    (tmp_path / folder / names[1]).write_text(f"{3 * GB}\n")
    (tmp_path / folder / "memory.stat").write_text(
        f"anon {GB}\nactive_file {GB}\ninactive_file {GB}\n"
    )
    assert available_memory() == 3 * GB
