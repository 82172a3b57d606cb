"""Which implementation runs is chosen once, logged once, and never changed in silence."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from megaxlm_kernels import library, toolchain
from megaxlm_kernels.library import choose_implementation


@pytest.fixture(autouse=True)
def fresh_choices() -> None:
    choose_implementation.cache_clear()


def test_the_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="megaxlm_kernels")
    for _ in range(3):
        assert choose_implementation("torch", "cpu") == "torch"
    assert [r.getMessage() for r in caplog.records] == ["kernels on cpu: torch (as asked)"]


def test_cuda_on_the_cpu_runs_the_librarys_cpu_implementations(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="megaxlm_kernels")
    assert choose_implementation("cuda", torch.device("cpu")) == "cuda"
    assert "kernels on cpu: cuda (as asked, " in caplog.text and library.is_loaded()


def test_auto_takes_torch_on_the_cpu_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="megaxlm_kernels")
    assert choose_implementation("auto", "cpu") == "torch"
    assert "torch (auto: the device is cpu)" in caplog.text


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="not 'triton'"):
        choose_implementation("triton", "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_an_error_and_auto_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(RuntimeError, match="sees no GPU; use implementation: torch"):
        choose_implementation("cuda", "cuda")
    caplog.set_level(logging.INFO, logger="megaxlm_kernels")
    assert choose_implementation("auto", "cuda") == "torch"
    assert "torch (auto: torch " in caplog.text and "sees no GPU" in caplog.text


def test_cuda_that_cannot_be_built_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_loaded", None)
    monkeypatch.setattr(library, "_visible_architectures", lambda: ("90a",))
    monkeypatch.setattr(toolchain, "nvcc_candidates", list)
    monkeypatch.setenv("MEGAXLM_KERNELS_DIR", str(tmp_path))
    with pytest.raises(RuntimeError, match="no nvcc in .* or use implementation: torch") as error:
        choose_implementation("cuda", "cuda")
    assert "\n" not in str(error.value)


def test_a_library_that_does_not_load_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(library, "_loaded", None)
    built = library.Built(broken, (), "", 0.0)
    monkeypatch.setattr(library, "_find_or_build", lambda *_: built)
    with pytest.raises(RuntimeError, match="broken.so does not load") as error:
        choose_implementation("cuda", "cpu")
    assert "\n" not in str(error.value)


def test_a_library_for_another_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    choose_implementation("cuda", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (12, 0))
    with pytest.raises(RuntimeError, match=r"holds no sm_120; run .*--arch 120"):
        choose_implementation("cuda", "cuda:0")
