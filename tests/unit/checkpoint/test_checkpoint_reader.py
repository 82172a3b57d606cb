import hashlib
import json
import os
import shutil

import pytest
import torch

from megaxlm.checkpoint.fragments import whole
from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.checkpoint.writer import CheckpointWriter
from megaxlm.errors import CorruptDataError, UserError

FILES = [
    "COMPLETE",
    "manifest.json",
    "rank-00000.json",
    "rank-00000.safetensors",
    "rank-00001.json",
    "rank-00001.safetensors",
    "shared.json",
]


def rewrite_manifest(path, change):
    """Alters the manifest and lets the marker vouch for it, as an attacker would."""
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    content = json.dumps(manifest).encode()
    (path / "manifest.json").write_bytes(content)
    (path / "COMPLETE").write_text(hashlib.sha256(content).hexdigest() + "\n")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip first", "flip last", "truncate", "extend", "remove"])
def test_any_damage_to_any_file_is_refused_by_name(save_two, tmp_path, name, damage):
    path = save_two(tmp_path, 5)
    file = path / name
    content = bytearray(file.read_bytes())
    if damage == "flip first":
        content[0] ^= 1
    elif damage == "flip last":
        content[-2] ^= 1  # the last byte of the marker is a newline, which is not read
    elif damage == "truncate":
        content = content[:-2]
    elif damage == "extend":
        content += b"\0\0"
    file.unlink()
    if damage != "remove":
        file.write_bytes(content)
    with pytest.raises(CorruptDataError) as caught:
        CheckpointReader(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("rank-00000.safetensors", "rank-00001.safetensors"),
        ("rank-00000.json", "rank-00001.json"),
    ],
)
def test_files_swapped_inside_a_checkpoint_are_refused(save_two, tmp_path, name, other):
    path = save_two(tmp_path, 5)
    os.rename(path / name, path / "x")
    os.rename(path / other, path / name)
    os.rename(path / "x", path / other)
    with pytest.raises(CorruptDataError, match=r"rank-0000[01]\."):
        CheckpointReader(path)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_checkpoint_is_refused(save_two, tmp_path, name):
    path, other = save_two(tmp_path, 5), save_two(tmp_path, 6)
    if (path / name).read_bytes() == (other / name).read_bytes():
        return  # a rank's own state is the same at both steps here
    shutil.copyfile(other / name, path / name)
    with pytest.raises(CorruptDataError) as caught:
        CheckpointReader(path)
    assert name in str(caught.value)


def test_a_checkpoint_under_the_name_of_another_step_is_refused(save_two, tmp_path):
    path = save_two(tmp_path, 5)
    os.rename(path, path.with_name("step-00000006"))
    with pytest.raises(CorruptDataError, match="step-00000006/manifest.json: it is of step 5"):
        CheckpointReader(path.with_name("step-00000006"))
    os.rename(path.with_name("step-00000006"), tmp_path / "best")
    assert CheckpointReader(tmp_path / "best").step == 5


def test_every_single_flipped_bit_of_a_tensor_file_is_found(save_two, tmp_path):
    path = save_two(tmp_path, 5)
    file = path / "rank-00001.safetensors"
    content = file.read_bytes()
    for position in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        file.write_bytes(damaged)
        with pytest.raises(CorruptDataError, match="rank-00001.safetensors"):
            CheckpointReader(path)
    file.write_bytes(content)
    CheckpointReader(path)


def test_ranks_share_the_hashing(save_two, tmp_path):
    path = save_two(tmp_path, 5)
    file = path / "rank-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    found = []
    for rank in range(3):
        try:
            CheckpointReader(path, verify=False).verify_files(rank, 3)
        except CorruptDataError as error:
            found.append((rank, str(error)))
    assert len(found) == 1 and "rank-00001.safetensors" in found[0][1]


def test_state_is_hashed_whenever_it_is_read(save_two, tmp_path):
    path = save_two(tmp_path, 5)
    reader = CheckpointReader(path)
    assert reader.shared["position"] == 5 and reader.shared["step"] == 5
    assert reader.rank_state(1) == {"rank": 1}
    assert reader.rank_state(2) is None
    content = (path / "shared.json").read_bytes()
    (path / "shared.json").write_bytes(content.replace(b'"position": 5', b'"position": 6'))
    with pytest.raises(CorruptDataError, match="shared.json"):
        _ = reader.shared


def test_a_file_truncated_after_opening_does_not_fault(save_two, tmp_path):
    path = save_two(tmp_path, 5)
    reader = CheckpointReader(path)
    os.truncate(path / "rank-00000.safetensors", 20)
    with pytest.raises(CorruptDataError, match="rank-00000.safetensors"):
        reader.read("model/w")


def test_reads_span_fragments_and_own_their_memory(save_two, tmp_path):
    path = save_two(tmp_path, 5)
    reader = CheckpointReader(path)
    part = reader.read("model/w", 8, 5)
    assert part.tolist() == [13, 14, 15, 16, 17]
    part.zero_()
    assert reader.read("model/w", 8, 5).tolist() == [13, 14, 15, 16, 17]
    assert reader.read("model/w", 24, 0).shape == (0,)
    assert reader.read("model/w", 22).tolist() == [27, 28]
    assert reader.names("exp_avg/") == ["exp_avg/b"] and not reader.weights_only
    for start, numel in ((-1, 3), (20, 5), (3, -1)):
        with pytest.raises(ValueError, match="leaves its 24 elements"):
            reader.read("model/w", start, numel)
    with pytest.raises(UserError, match="holds no tensor model/x"):
        reader.read("model/x")


def test_reading_a_range_does_not_read_the_file(tmp_path):
    path = CheckpointWriter(tmp_path).save(1, [whole("model/w", torch.zeros(4_000_000))], {}, {})
    reader = CheckpointReader(path, verify=False)
    before = _resident_bytes()
    for start in range(0, 4_000_000, 1_000_000):
        assert reader.read("model/w", start, 10).shape == (10,)
    assert _resident_bytes() - before < 8_000_000  # the file has 16 MB


def _resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_thousand_files_do_not_stay_open(tmp_path, monkeypatch, save_on_ranks):
    monkeypatch.setattr("megaxlm.checkpoint.reader._MAX_OPEN_FILES", 2)
    owned = [[whole(f"model/{rank}", torch.full((3,), float(rank)))] for rank in range(5)]
    reader = CheckpointReader(save_on_ranks(tmp_path, 1, owned)[0])
    for rank in (0, 1, 2, 3, 4, 0, 4, 2):
        assert reader.full(f"model/{rank}").tolist() == [rank] * 3
        assert len(reader._open) <= 2


@pytest.mark.parametrize(
    "name",
    [
        "../../../etc/passwd",
        "/etc/passwd",
        "..",
        "sub/rank-00000.json",
        "rank-00000.pkl",
        "rank-00000.json\n",
        "rank-٠٠٠٠٠.json",
        "COMPLETE",
    ],
)
def test_file_names_that_are_not_ours_are_refused(save_two, tmp_path, name):
    path = save_two(tmp_path, 5)

    def change(manifest):
        manifest["files"][name] = manifest["files"]["shared.json"]

    rewrite_manifest(path, change)
    with pytest.raises(CorruptDataError, match="is not one of a checkpoint"):
        CheckpointReader(path)


@pytest.mark.parametrize("name", FILES)
def test_links_are_refused(save_two, tmp_path, name):
    path = save_two(tmp_path, 5)
    os.rename(path / name, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", path / name)
    with pytest.raises(CorruptDataError, match=f"{name}: not a plain file"):
        CheckpointReader(path)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (["tensors", "model/w", "shape"], [4, 7]),
        (["tensors", "model/w", "shape"], [4, -6]),
        (["tensors", "model/w", "shape"], "46"),
        (["tensors", "model/w", "dtype"], "PICKLE"),
        (["tensors", "model/w", "fragments"], [[0, 0, 24], [1, 24, 0]]),
        (["tensors", "model/w", "fragments"], [[0, 0, 12], [1, 10, 14]]),
        (["tensors", "model/w", "fragments"], [[0, 0, 10], [9, 10, 14]]),
        (["tensors", "model/w", "fragments"], [[0, 0, 10], [1, 10]]),
        (["tensors", "model/w", "fragments"], [[0, 0, 10], [1, 10, 14.0]]),
        (["tensors", "model/w"], None),
        (["files", "shared.json", "size"], True),
        (["files", "shared.json", "sha256"], "abc"),
        (["files"], []),
        (["step"], -1),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(save_two, tmp_path, where, value):
    path = save_two(tmp_path, 5)

    def change(manifest):
        for key in where[:-1]:
            manifest = manifest[key]
        manifest[where[-1]] = value

    rewrite_manifest(path, change)
    with pytest.raises(CorruptDataError, match="manifest.json: damaged manifest"):
        CheckpointReader(path)


@pytest.mark.parametrize("dtype", ["F64", "I32"])
def test_a_manifest_of_another_dtype_than_the_file_is_refused(save_two, tmp_path, dtype):
    path = save_two(tmp_path, 5)

    def change(manifest):
        manifest["tensors"]["model/w"]["dtype"] = dtype

    rewrite_manifest(path, change)
    with pytest.raises(CorruptDataError, match="rank-00000.safetensors"):
        CheckpointReader(path).full("model/w")


def test_a_newer_format_is_named_not_called_damaged(save_two, tmp_path):
    path = save_two(tmp_path, 5)
    rewrite_manifest(path, lambda manifest: manifest.update(format_version=3))
    with pytest.raises(UserError, match="version 3, this megaxlm reads megaxlm-checkpoint 2"):
        CheckpointReader(path)


def test_no_folder_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no such checkpoint folder"):
        CheckpointReader(tmp_path / "none")
