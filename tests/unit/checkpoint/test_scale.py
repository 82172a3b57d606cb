"""A checkpoint of a thousand ranks: what each rank writes, reads and keeps in memory."""

import hashlib
import json
from math import prod

import pytest
import torch

from megaxlm.checkpoint import reader as reader_module
from megaxlm.checkpoint.fragments import Fragment
from megaxlm.checkpoint.manifest import (
    FileEntry,
    Manifest,
    TensorEntry,
    data_name,
    read_manifest,
    state_name,
)
from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.checkpoint.stored import StoredFragment, joined, ordered_cover
from megaxlm.errors import CorruptDataError

RANKS = 1_000
SHAPES = {f"layers.{index}.weight": (1_024, 1_024 + 8 * index) for index in range(24)}
KINDS = ("model", "exp_avg", "exp_avg_sq")


def cut_by_stage_3(numel, rank, world_size):
    """Every tensor is cut over all ranks into even pieces, the last one shorter."""
    each = -(-numel // world_size)
    return min(rank * each, numel), min((rank + 1) * each, numel)


def thousand_ranks(cut):
    """The manifest that rank 0 merges from the pieces of a thousand ranks."""
    tensors, bytes_of = {}, [0] * RANKS
    for name, shape in SHAPES.items():
        bounds = [cut(name, prod(shape), rank) for rank in range(RANKS)]
        pieces = [(low, rank, high - low) for rank, (low, high) in enumerate(bounds) if low < high]
        for _, rank, numel in pieces:
            bytes_of[rank] += 4 * numel * len(KINDS)
        cover = ordered_cover(name, shape, joined(pieces))
        tensors |= {f"{kind}/{name}": TensorEntry(shape, "F32", cover) for kind in KINDS}
    digest = hashlib.sha256(b"").hexdigest()
    files = {"shared.json": FileEntry(1_000, digest)}
    for rank, size in enumerate(bytes_of):
        files[state_name(rank)] = FileEntry(100, digest)
        if size:
            files[data_name(rank)] = FileEntry(size + 1_000, digest)
    return Manifest(5, RANKS, tensors, files)


def by_stage_1(name, numel, rank):
    """All tensors end to end, and each rank has one even run of that."""
    before = sum(prod(SHAPES[other]) for other in list(SHAPES)[: list(SHAPES).index(name)])
    each = -(-sum(prod(shape) for shape in SHAPES.values()) // RANKS)
    low, high = rank * each - before, (rank + 1) * each - before
    return min(max(low, 0), numel), min(max(high, 0), numel)


def by_stage_3(name, numel, rank):
    return cut_by_stage_3(numel, rank, RANKS)


@pytest.mark.parametrize("cut", [by_stage_1, by_stage_3])
def test_the_manifest_of_a_thousand_ranks_stays_small(tmp_path, cut):
    manifest = thousand_ranks(cut)
    content = manifest.to_bytes()
    folder = tmp_path / "step-00000005"
    folder.mkdir()
    (folder / "manifest.json").write_bytes(content)
    (folder / "COMPLETE").write_text(hashlib.sha256(content).hexdigest())
    parsed = read_manifest(folder)
    assert parsed == manifest
    # A rank keeps and reads no piece for every tensor and rank: those would be 72,000.
    assert all(len(entry.fragments) <= 3 for entry in parsed.tensors.values())
    lines_of_files = sum(len(line) for line in content.splitlines() if b"sha256" in line)
    assert len(content) - lines_of_files < 200 * len(parsed.tensors)
    assert len(content) < 400_000
    # Taken apart again, the rows are what the ranks said.
    for name, shape in SHAPES.items():
        pieces = []
        for piece in parsed.tensors[f"model/{name}"].fragments:
            for i in range(piece.count):
                pieces.append((piece.rank + i, piece.start + i * piece.numel, piece.numel))
        expected = [(rank, *cut(name, prod(shape), rank)) for rank in range(RANKS)]
        assert pieces == [(rank, low, high - low) for rank, low, high in expected if low < high]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda entry: entry[0].__setitem__(3, RANKS + 1), "in no fragment|in two|fragments reach"),
        (lambda entry: entry[0].__setitem__(0, 5), "is not among the files"),
        (lambda entry: entry[0].__setitem__(3, 0), "fragment of"),
        (lambda entry: entry[0].append(1), "damaged manifest"),
    ],
)
def test_rows_of_ranks_that_make_no_sense_are_refused(tmp_path, change, problem):
    manifest = thousand_ranks(by_stage_3)
    content = json.loads(manifest.to_bytes())
    change(content["tensors"]["model/layers.0.weight"]["fragments"])
    folder = tmp_path / "step-00000005"
    folder.mkdir()
    altered = json.dumps(content).encode()
    (folder / "manifest.json").write_bytes(altered)
    (folder / "COMPLETE").write_text(hashlib.sha256(altered).hexdigest())
    with pytest.raises(CorruptDataError, match=problem):
        read_manifest(folder)


def test_pieces_join_if_rank_size_and_place_go_on():
    assert joined([]) == []
    assert joined([(4, 1, 4), (0, 0, 4), (8, 2, 4), (12, 3, 1)]) == [
        StoredFragment(0, 0, 4, 3),
        StoredFragment(3, 12, 1),
    ]
    apart = [(0, 0, 4), (4, 2, 4), (8, 1, 4), (13, 2, 4), (17, 3, 3)]  # rank, rank, place, size
    assert joined(apart) == [StoredFragment(rank, start, numel) for start, rank, numel in apart]


def test_a_rank_reads_no_more_files_than_hold_its_part(save_on_ranks, tmp_path, monkeypatch):
    """Written by 24 ranks, read by 24, 12 and 5; each tensor is cut over all of them."""
    writers, shapes = 24, {f"model/{index}": (37 + index, 11) for index in range(6)}
    values = {name: torch.randn(shape).reshape(-1) for name, shape in shapes.items()}
    owned = [
        [
            Fragment(name, shapes[name], low, flat[low:high])
            for name, flat in values.items()
            for low, high in [cut_by_stage_3(flat.numel(), rank, writers)]
        ]
        for rank in range(writers)
    ]
    path = save_on_ranks(tmp_path, 1, owned)[0]
    opened, statted = [], []
    original_file, original_check = reader_module.TensorFile, reader_module.check_regular
    monkeypatch.setattr(
        reader_module, "TensorFile", lambda path: opened.append(path.name) or original_file(path)
    )
    monkeypatch.setattr(
        reader_module,
        "check_regular",
        lambda path: statted.append(path.name) or original_check(path),
    )
    for readers, most in ((24, 1), (12, 3), (5, 7)):
        for rank in range(readers):
            opened.clear()
            statted.clear()
            with CheckpointReader(path, verify=False) as reader:
                for name, flat in values.items():
                    low, high = cut_by_stage_3(flat.numel(), rank, readers)
                    assert torch.equal(reader.read(name, low, high - low), flat[low:high])
            assert len(opened) <= most, (readers, rank, opened)
            assert len(statted) <= most


def test_a_manifest_of_the_first_version_is_read(save_two, tmp_path):
    path = save_two(tmp_path, 3)
    manifest = json.loads((path / "manifest.json").read_text()) | {"format_version": 1}
    content = json.dumps(manifest).encode()
    (path / "manifest.json").write_bytes(content)
    (path / "COMPLETE").write_text(hashlib.sha256(content).hexdigest())
    assert CheckpointReader(path).read("model/w", 0, 3).tolist() == [3, 4, 5]
