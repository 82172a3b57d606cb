import errno
import json
import os
import resource
import shutil
import subprocess
import threading

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from megaxlm.checkpoint import writer as writer_module
from megaxlm.checkpoint.catalog import find_latest
from megaxlm.checkpoint.fragments import DTYPE_NAMES, whole
from megaxlm.checkpoint.manifest import sha256_of
from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.checkpoint.storage import StorageError
from megaxlm.checkpoint.writer import CheckpointWriter, write_safetensors
from megaxlm.errors import EXIT_FOUND_WRONG, UserError

SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@st.composite
def tensors_and_layout(draw):
    """Named tensors, and for each the cuts and the rank that owns each piece."""
    world_size = draw(st.integers(1, 4))
    tensors, owned = {}, [[] for _ in range(world_size)]
    for index in range(draw(st.integers(1, 4))):
        shape, dtype = draw(SHAPES), draw(st.sampled_from(list(DTYPE_NAMES)))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
        tensor = (torch.rand(shape, generator=generator) * 200 - 50).to(dtype)
        cuts = draw(st.sets(st.integers(1, max(1, tensor.numel() - 1)), max_size=4))
        name = f"model/layer.{index}.weight"
        tensors[name] = (tensor, sorted(cut for cut in cuts if cut < tensor.numel()))
    return world_size, tensors, owned, draw(st.randoms(use_true_random=False))


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(tensors_and_layout(), st.integers(1, 4))
def test_any_layout_is_read_by_any_other(
    save_on_ranks, cut_tensor, tmp_path_factory, layout, readers
):
    world_size, tensors, owned, random = layout
    for name, (tensor, cuts) in tensors.items():
        pieces = cut_tensor(name, tensor, cuts) or [whole(name, tensor)]
        for piece in pieces:
            owned[random.randrange(world_size)].append(piece)
    run_dir = tmp_path_factory.mktemp("run")
    paths = save_on_ranks(run_dir, 3, owned)
    assert set(paths) == {run_dir / "checkpoints" / "step-00000003"}
    with CheckpointReader(paths[0]) as reader:
        assert reader.names() == sorted(tensors)
        assert reader.world_size == world_size
        for name, (tensor, _) in tensors.items():
            assert reader.dtype(name) == tensor.dtype
            assert reader.shape(name) == tuple(tensor.shape)
            whole_back = reader.full(name)
            assert whole_back.dtype == tensor.dtype and torch.equal(whole_back, tensor)
            bounds = [tensor.numel() * rank // readers for rank in range(readers + 1)]
            for low, high in zip(bounds[:-1], bounds[1:], strict=True):
                part = reader.read(name, low, high - low)
                assert torch.equal(part, tensor.reshape(-1)[low:high])
    shutil.rmtree(run_dir)


def test_the_folder_is_as_documented(save_two, tmp_path):
    path = save_two(tmp_path, 500)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["saved.json", "step-00000500"]
    assert sorted(os.listdir(path)) == [
        "COMPLETE",
        "manifest.json",
        "rank-00000.json",
        "rank-00000.safetensors",
        "rank-00001.json",
        "rank-00001.safetensors",
        "shared.json",
    ]
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["format_version"] == 2 and manifest["world_size"] == 2
    assert manifest["tensors"]["model/w"] == {
        "shape": [4, 6],
        "dtype": "F32",
        "fragments": [[0, 0, 10], [1, 10, 14]],
    }
    assert (path / "COMPLETE").read_text().strip() == sha256_of(path / "manifest.json")
    for name, entry in manifest["files"].items():
        assert entry == {"size": (path / name).stat().st_size, "sha256": sha256_of(path / name)}
    # the tensor files are plain safetensors to anyone else
    assert load_file(path / "rank-00001.safetensors")["model/w@10"].tolist() == [
        510.0 + index for index in range(14)
    ]
    shared = json.loads((path / "shared.json").read_text())
    assert shared["step"] == 500 and shared["position"] == 500 and "torch" in shared["versions"]


def test_streamed_safetensors_mixes_dtypes_and_views(tmp_path):
    base = torch.arange(40.0)
    tensors = {
        "model/bytes": torch.arange(3, dtype=torch.uint8),
        "model/wide": torch.arange(5, dtype=torch.float64),
        "model/strided": base[::2],
        "model/half": base.bfloat16(),
    }
    path = tmp_path / "x.safetensors"
    entry = write_safetensors(path, [whole(name, tensor) for name, tensor in tensors.items()])
    assert (entry.size, entry.sha256) == (path.stat().st_size, sha256_of(path))
    back = load_file(path)
    for name, tensor in tensors.items():
        assert torch.equal(back[f"{name}@0"], tensor) and back[f"{name}@0"].dtype == tensor.dtype


def test_large_tensors_cross_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "_CHUNK_BYTES", 1000)
    tensor = torch.randn(10_001)
    path = tmp_path / "x.safetensors"
    entry = write_safetensors(path, [whole("model/w", tensor)])
    assert entry.sha256 == sha256_of(path)
    assert torch.equal(load_file(path)["model/w@0"], tensor)


def test_a_requires_grad_parameter_is_saved(tmp_path):
    parameter = torch.nn.Parameter(torch.randn(3, 2))
    path = CheckpointWriter(tmp_path).save(1, [whole("model/w", parameter)], {}, {})
    assert torch.equal(CheckpointReader(path).full("model/w"), parameter.detach())


@pytest.mark.parametrize("fault", ["gap", "overlap", "twice", "dtype", "shape"])
def test_fragments_that_do_not_tile_are_refused_on_every_rank(
    save_on_ranks, cut_tensor, save_two, tmp_path, fault
):
    before = save_two(tmp_path, 1)
    tensor = torch.randn(4, 6)
    first, second = cut_tensor("model/w", tensor, [10])
    owned = {
        "gap": [[first], []],
        "overlap": [[first, second], cut_tensor("model/w", tensor, [12])[1:]],
        "twice": [[first, second, second], []],
        "dtype": [[first], cut_tensor("model/w", tensor.double(), [10])[1:]],
        "shape": [[first], cut_tensor("model/w", tensor.reshape(6, 4), [10])[1:]],
    }[fault]
    errors = save_on_ranks(tmp_path, 2, owned)
    assert isinstance(errors[0], ValueError)
    assert isinstance(errors[1], UserError)
    assert "model/w" in str(errors[1])
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["saved.json", before.name]


def test_saving_the_same_step_again_replaces_it(save_two, save_on_ranks, tmp_path):
    save_two(tmp_path, 7)
    path = save_on_ranks(tmp_path, 7, [[whole("model/w", torch.ones(3))]])[0]
    assert os.listdir(path.parent).count(path.name) == 1
    assert len(os.listdir(path.parent)) == 2
    assert CheckpointReader(path).names() == ["model/w"]


def test_stale_staging_of_a_killed_save_is_cleared(save_two, tmp_path):
    parent = tmp_path / "checkpoints"
    for name in ("step-00000003.staging", "step-00000001.deleting"):
        (parent / name).mkdir(parents=True)
        (parent / name / "rank-00000.safetensors").write_bytes(b"half")
    (parent / "notes-of-mine").mkdir()
    save_two(tmp_path, 4)
    assert sorted(os.listdir(parent)) == ["notes-of-mine", "saved.json", "step-00000004"]


def test_too_little_space_is_refused_before_writing(save_two, save_on_ranks, tmp_path, monkeypatch):
    before = save_two(tmp_path, 1)
    usage = shutil.disk_usage(tmp_path)._replace(free=3 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    wrote = []
    monkeypatch.setattr(writer_module, "write_safetensors", lambda *a: wrote.append(a))
    halves = [[whole(f"model/{rank}", torch.zeros(2**18))] for rank in range(3)]  # 3 x 1 MiB
    errors = save_on_ranks(tmp_path, 2, halves)
    assert not wrote
    assert {type(error) for error in errors} == {StorageError}
    assert len({str(error) for error in errors}) == 1
    assert "needs 3.8 MiB, only 3.0 MiB are free; make room" in str(errors[0])
    assert errors[0].exit_code == EXIT_FOUND_WRONG
    assert sorted(os.listdir(before.parent)) == ["saved.json", before.name]
    usage = usage._replace(free=4 * 2**20)  # 1.2 x 3 MiB and a little state fit
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert save_on_ranks(tmp_path, 2, halves)[0].name == "step-00000002"


def _assert_failed_alike(errors, before, who="(rank 1)"):
    assert {type(error) for error in errors} == {StorageError}, errors
    assert len({str(error) for error in errors}) == 1
    assert "earlier checkpoints are intact" in str(errors[0]) and who in str(errors[0])
    assert sorted(os.listdir(before.parent)) == ["saved.json", before.name]
    assert find_latest(before.parent.parent) == before
    CheckpointReader(before)


def test_a_file_size_limit_on_one_rank_fails_all_ranks_alike(save_two, save_on_ranks, tmp_path):
    before = save_two(tmp_path, 1)
    owned = [[whole("model/small", torch.zeros(10))], [whole("model/big", torch.zeros(50_000))]]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, hard))
    try:
        errors = save_on_ranks(tmp_path, 2, owned)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    _assert_failed_alike(errors, before)
    assert os.strerror(errno.EFBIG) in str(errors[0])
    assert save_on_ranks(tmp_path, 2, owned)[0].is_dir()


def test_a_full_disk_on_one_rank_fails_all_ranks_alike(
    save_two, save_on_ranks, tmp_path, monkeypatch
):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        before = save_two(disk, 1)
        # the check of free space would refuse it: another program fills the disk meanwhile
        monkeypatch.setattr(writer_module, "required_bytes", lambda *sizes: 0)
        owned = [[whole("model/s", torch.zeros(10))], [whole("model/b", torch.zeros(100_000))]]
        errors = save_on_ranks(disk, 2, owned)
        _assert_failed_alike(errors, before, who="(rank ")  # it may hit both, whose disk is one
        assert os.strerror(errno.ENOSPC) in str(errors[0])
        save_two(disk, 3)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_run_folder_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="checkpoints"):
        CheckpointWriter(tmp_path).save(1, [whole("model/w", torch.zeros(2))], {}, {})


def test_a_state_that_cannot_be_saved_stops_every_rank(thread_ranks, tmp_path):
    ranks = thread_ranks(2)

    def work(rank):
        writer = CheckpointWriter(tmp_path, rank, 2, ranks.barrier, ranks.all_ok(rank))
        state = {"bad": threading.Lock()} if rank else {}
        return writer.save(1, [whole(f"model/{rank}", torch.zeros(2))], state, {})

    healthy, broken = ranks.run(work)
    assert isinstance(broken, ValueError)
    assert isinstance(healthy, UserError) and "state.bad" in str(healthy)
    assert os.listdir(tmp_path / "checkpoints") == []
