"""Builds that several ranks share: the same bytes, and one line where a rank cannot go on."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from megaxlm_data import pipeline
from megaxlm_data.pipeline import build
from megaxlm_data.progress import Progress
from megaxlm_data.sample import write_corpus
from megaxlm_data.stages import encode as encode_module
from megaxlm_data.stages.plan import find_inputs
from megaxlm_data.writers import cleaned as cleaned_module

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.errors import UserError

SCRIPT = """
import json, sys
from megaxlm.config.data_build import DataBuildConfig
from megaxlm.errors import UserError
from megaxlm_data import crew
from megaxlm_data.pipeline import build
from megaxlm_data.stages import encode
from megaxlm_data.writers import cleaned
if __name__ == "__main__":
    encode.SEGMENT_BLOCKS, cleaned.BLOCK_BYTES = 2, 2_000  # many segments
    if sys.argv[4:]:
        crew._POLL_SECONDS = (float(sys.argv[4]),) * 2
    config = DataBuildConfig(**json.load(open(sys.argv[1])))
    try:
        build(config, False, int(sys.argv[2]), int(sys.argv[3]))
    except UserError as error:
        sys.exit(f"{error} ({error.known_to})")
"""


@pytest.fixture
def small_segments(monkeypatch):
    monkeypatch.setattr(encode_module, "SEGMENT_BLOCKS", 2)
    monkeypatch.setattr(cleaned_module, "BLOCK_BYTES", 2_000)


@pytest.fixture
def make_config(tmp_path, make_corpus, build_model):
    for lang in ("en", "ru", "hi"):
        for number in range(4):
            text = make_corpus(lang, 60, seed=number)
            (tmp_path / f"{lang}{number}.txt").write_text(text)

    def make(output, **changes):
        corpora = [
            {"lang": lang, "paths": [f"{tmp_path}/{lang}?.txt"]} for lang in ("en", "ru", "hi")
        ]
        values = {
            "output": tmp_path / output,
            "corpora": corpora,
            "tokenizer": {"model": build_model},
            "shard_tokens": 1_000,
            "workers": 1,
        }
        return DataBuildConfig(**{**values, **changes})

    return make


@pytest.fixture
def start(tmp_path):
    """Starts a rank: `start(config, rank, world_size)`; what is left of them ends with the test."""
    (tmp_path / "build.py").write_text(SCRIPT)
    started = []

    def run(config, rank, world_size, *poll):
        path = tmp_path / f"{config.output.name}.json"
        path.write_text(json.dumps(config.model_dump(mode="json")))
        process = subprocess.Popen(
            [
                sys.executable,
                str(tmp_path / "build.py"),
                path,
                *map(str, (rank, world_size, *poll)),
            ],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def said(process):
    return process.communicate(timeout=300)[1].strip().splitlines()


def test_ranks_of_any_number_make_the_same_bytes(make_config, start, tree_hash, small_segments):
    alone = make_config("alone")
    index = build(alone, progress=False)
    names = [shard.path.rpartition("/")[2] for subset in index.subsets for shard in subset.shards]
    assert len(set(name.split("-")[0] for name in names if "-" in name)) > 3  # segments
    together = make_config("together")
    first = [start(together, rank, 3) for rank in (1, 2)]
    time.sleep(1)  # the others wait for one that comes late
    lead = start(together, 0, 3)
    assert [process.wait(300) for process in (lead, *first)] == [0, 0, 0]
    assert tree_hash(together.output) == tree_hash(alone.output)
    assert not (together.output / ".build").exists()


def test_a_rank_whose_input_is_bad_ends_the_others_with_a_line(make_config, start, tmp_path):
    config = make_config("out")
    bad = tmp_path / "hi3.txt"
    bad.write_bytes(bad.read_bytes() + b"\xff\xfe broken\n")
    ranks = [start(config, rank, 2) for rank in (0, 1)]
    lines = [said(process) for process in ranks]
    assert [process.returncode for process in ranks] == [1, 1]
    assert any("hi3.txt" in line[-1] and "invalid UTF-8" in line[-1] for line in lines)
    assert any("failed, its own output says why" in line[-1] for line in lines)
    assert not any("Traceback" in text for line in lines for text in line)
    assert [line[-1].rpartition(" ")[2] for line in lines] == ["(rank)"] * 2
    bad.write_text("क" * 40)
    ranks = [start(config, rank, 2) for rank in (0, 1)]
    assert [process.wait(300) for process in ranks] == [0, 0]


def test_ranks_are_checked(make_config):
    for rank, world_size in ((2, 2), (-1, 2)):
        with pytest.raises(UserError, match=f"--rank {rank}: must be from 0 up to --world-size 2"):
            build(make_config("out"), False, rank, world_size)
    with pytest.raises(UserError, match="--world-size 0: must be 1 or more") as caught:
        build(make_config("out"), False, 0, 0)
    assert caught.value.known_to == "node"  # all of them have it


def test_ranks_detect_and_check_languages_as_one_process_does(
    make_config, start, tree_hash, small_segments, tmp_path
):
    pytest.importorskip("eldc")
    pytest.importorskip("py3langid")
    write_corpus(tmp_path / "sample", ("de", "ru", "sw"), 60, 0, 0)
    texts = [
        (tmp_path / f"sample/mono/{lang}.txt").read_text().split("\n\n")
        for lang in ("de", "ru", "sw")
    ]
    mixed = [text for row in zip(*texts, strict=True) for text in row]
    for number in range(3):
        (tmp_path / f"mixed{number}.txt").write_text("\n\n".join(mixed[60 * number :][:60]))
    (tmp_path / "named.txt").write_text("\n\n".join([*texts[0][:30], *texts[2][:5]]))
    changes = {
        "corpora": [
            {"lang": "detect", "paths": [f"{tmp_path}/mixed?.txt"]},
            {"lang": "de", "paths": [f"{tmp_path}/named.txt"]},
        ],
        "language_identification": {"enabled": True},
        "deduplication": {"lines": {"max_documents": 3}, "near": {}},
    }
    alone, together = make_config("alone", **changes), make_config("together", **changes)
    index = build(alone, progress=False)
    assert {"de", "ru", "sw"} <= set(index.languages)
    assert index.build["cleaning"]["de"]["dropped"]["wrong_language"] >= 5
    ranks = [start(together, rank, 2) for rank in (1, 0)]
    assert [said(process) for process in ranks] == [[], []]
    assert tree_hash(together.output) == tree_hash(alone.output)


def test_ranks_on_a_disk_that_is_really_full_go_on_when_there_is_room(
    make_config, start, tree_hash, small_segments, tmp_path
):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    alone, config = make_config("alone"), make_config("disk/out")
    try:
        ranks = [start(config, rank, 2) for rank in (0, 1)]
        lines = [said(process) for process in ranks]
        assert [process.returncode for process in ranks] == [1, 1]
        ends = [line[-1] for line in lines]
        assert any("No space left on device; finished work in" in end for end in ends)
        assert all(
            "finished work" in end
            and end.endswith("is kept: mend that and run the same command again (rank)")
            or "failed, its own output" in end
            for end in ends
        )
        assert not any("Traceback" in text for line in lines for text in line)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        ranks = [start(config, rank, 2) for rank in (0, 1)]
        assert [said(process) for process in ranks] == [[], []]
        build(alone, progress=False)
        assert tree_hash(config.output) == tree_hash(alone.output)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_rank_that_is_not_needed_ends_with_the_others(make_config, start, tmp_path, make_corpus):
    """More ranks than shards to make: the data set is finished while this one still waits."""
    (tmp_path / "few.txt").write_text(make_corpus("en", 20))
    config = make_config("out", corpora=[{"lang": "en", "paths": [f"{tmp_path}/few.txt"]}])
    ranks = [start(config, 1, 2, 4), start(config, 0, 2)]
    assert [process.wait(30) for process in ranks] == [0, 0]
    assert not (config.output / ".build").exists()


def test_a_lead_that_starts_again_leaves_what_others_are_writing(make_config):
    config = make_config("out")
    cleaned = config.output / ".build" / "clean"
    cleaned.mkdir(parents=True)
    under_way = cleaned / ".0123456789abcdef.arrow.77.tmp"
    under_way.write_bytes(b"of rank 1")
    inputs = find_inputs(config, Progress(False))
    pipeline._announce(inputs, config.output / ".build", Progress(False), alone=False)
    assert under_way.exists()
    pipeline._announce(inputs, config.output / ".build", Progress(False), alone=True)
    assert not under_way.exists()


def test_a_file_that_a_killed_builds_worker_ends_just_now_is_no_error(tmp_path, monkeypatch):
    path = tmp_path / ".dataset.json.7.tmp"
    path.touch()
    is_file = Path.is_file

    def last_moment(self):
        found = is_file(self)
        self.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "is_file", last_moment)
    pipeline._remove_temporary(tmp_path)
    assert not path.exists()


class Killed(BaseException):
    """Nothing in the build catches it, as nothing catches a SIGKILL."""


@pytest.fixture
def kill_before_index(monkeypatch):
    """Builds a data set but for its index."""

    def run(config):
        def die(directory, index):
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "write_index", die)
            with pytest.raises(Killed):
                build(config, progress=False)

    return run


def start_lead_first(start, config):
    lead = start(config, 0, 2)
    with contextlib.suppress(subprocess.TimeoutExpired):
        lead.wait(5)  # by now it waits for what is not there
    other = start(config, 1, 2)
    assert [process.wait(60) for process in (lead, other)] == [0, 0]


def test_a_shard_that_another_rank_lost_is_waited_for(
    make_config, start, tree_hash, small_segments, kill_before_index
):
    reference, config = make_config("reference"), make_config("out")
    build(reference, progress=False)
    kill_before_index(config)
    for path in config.output.glob("train/*/*.arrow"):
        path.unlink()  # whichever segments fall to rank 1
    start_lead_first(start, config)
    assert tree_hash(config.output) == tree_hash(reference.output)


def test_shards_of_another_config_are_not_taken_for_those_of_this_one(
    make_config, start, tree_hash, small_segments, kill_before_index
):
    reference, config = make_config("reference"), make_config("out")
    build(reference, progress=False)
    kill_before_index(config)
    kill_before_index(make_config("out", normalization="nfc"))  # as large, or nearly
    kill_before_index(make_config("out", shard_tokens=1_500))
    start_lead_first(start, config)
    assert tree_hash(config.output) == tree_hash(reference.output)


def test_a_build_killed_while_it_drops_altered_shards_makes_them_all_again(
    make_config, tree_hash, kill_before_index
):
    reference, config = make_config("reference"), make_config("out")
    build(reference, progress=False)
    kill_before_index(config)
    markers = sorted((config.output / ".build" / "encode").glob("en.*/train-*.json"))
    assert len(markers) > 2
    markers[1].unlink()
    build(config, progress=False)
    assert tree_hash(config.output) == tree_hash(reference.output)
