"""Whatever goes wrong ends in one line, and nothing that was finished is lost."""

import contextlib
import errno
import gzip
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time

import pytest
from megaxlm_data import pipeline
from megaxlm_data.pipeline import build
from megaxlm_data.writers.atomic import CheckedFile

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.data import shards
from megaxlm.data.shards import read_index, tokenizer_path
from megaxlm.errors import CorruptDataError, UserError


@pytest.fixture
def config(tmp_path, make_corpus, make_lines, build_model):
    for lang in ("en", "ru"):
        (tmp_path / f"{lang}.txt").write_text(make_corpus(lang, 150))
    rows = zip(make_lines("en", 60, 3), make_lines("ru", 60, 3), strict=True)
    (tmp_path / "pairs.tsv").write_text("\n".join("\t".join(row) for row in rows))

    def make(output="out", **changes):
        values = {
            "output": tmp_path / output,
            "corpora": [
                {"lang": lang, "paths": [str(tmp_path / f"{lang}.txt")]} for lang in ("en", "ru")
            ],
            "bitext": [{"langs": ["en", "ru"], "tsv": [str(tmp_path / "pairs.tsv")]}],
            "tokenizer": {"model": build_model},
            "shard_tokens": 4_000,
            "workers": 1,
        }
        return DataBuildConfig(**{**values, **changes})

    return make


@pytest.fixture
def reference(config, tree_hash):
    """The tree of a build that nothing happened to."""
    settings = config("reference")
    build(settings, progress=False)
    return tree_hash(settings.output)


def fails(settings, match, code=2):
    with pytest.raises(UserError, match=match) as caught:
        build(settings, progress=False)
    assert caught.value.exit_code == code
    assert "\n" not in str(caught.value)
    return str(caught.value)


def mono(lang, *paths):
    return {"lang": lang, "paths": [str(path) for path in paths]}


def test_a_missing_file_is_named_before_anything_is_done(config, tmp_path):
    settings = config(corpora=[mono("en", tmp_path / "en.txt", tmp_path / "no.txt")])
    fails(settings, "no.txt: input file does not exist")
    assert not settings.output.exists()
    fails(
        config(corpora=[mono("en", f"{tmp_path}/no*.txt")]), r"corpora.0.paths .* no file matches"
    )


def test_a_missing_tokenizer_model(config, tmp_path):
    fails(config(tokenizer={"model": tmp_path / "no.model"}), "no.model: cannot read the tokenizer")


def test_invalid_utf8_fails_is_dropped_or_replaced(config, tmp_path):
    path = tmp_path / "en.txt"
    raw = path.read_bytes().split(b"\n")
    raw[4] = b"\xff" + raw[4]
    path.write_bytes(b"\n".join(raw))
    fails(config(), r"en.txt:5: invalid UTF-8 \(byte 0xff\)")
    index = build(config("skip", on_invalid_utf8="skip"), progress=False)
    assert index.build["cleaning"]["en"]["lines"] == {"invalid_utf8": 1}
    index = build(config("replaced", on_invalid_utf8="replace"), progress=False)
    assert index.build["cleaning"]["en"]["lines"] == {"replaced_utf8": 1}


def test_an_empty_file_is_a_warning_and_a_language_without_text_an_error(config, tmp_path, capsys):
    empty = tmp_path / "empty.txt"
    empty.touch()
    build(config(corpora=[mono("en", tmp_path / "en.txt", empty)], bitext=[]), progress=False)
    assert "warning" in capsys.readouterr().err.split("empty.txt")[0]
    fails(
        config("other", corpora=[mono("en", tmp_path / "en.txt"), mono("sw", empty)]),
        "sw: no document in .*empty.txt; give it text or take it out",
    )


def test_a_language_that_loses_every_document_says_why(config, tmp_path):
    path = tmp_path / "sw.txt"
    path.write_text("habari\n\n12 345 678 90 12 345 678 90 12\n")
    fails(
        config(corpora=[mono("sw", path)]),
        "sw: every document of .*sw.txt was dropped: few_letters 1, too_short 1; change `filters`",
    )
    path.write_text("habari ya asubuhi rafiki yangu\n" * 100)
    fails(
        config(corpora=[mono("sw", path)], filters={"max_document_chars": 1_000}),
        r"too_long 1 \(documents are separated by a blank line\)",
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_a_truncated_file_keeps_the_work_on_the_others(config, tmp_path, make_corpus, workers):
    path = tmp_path / "hi.txt.gz"
    whole = gzip.compress(make_corpus("hi", 4000).encode())
    path.write_bytes(whole[: len(whole) // 2])
    corpora = [mono("hi", path), mono("en", tmp_path / "en.txt")]
    settings = config(corpora=corpora, workers=workers)
    message = fails(settings, r"hi.txt.gz: compressed data is truncated or damaged")
    documents = message.rsplit("(", 1)[1]
    assert documents.endswith("documents were read before)")
    assert int(documents.split()[0].replace(",", "")) > 100


def test_bitext_sides_of_different_length(config, tmp_path):
    (tmp_path / "a").write_text("one house\n" * 7)
    (tmp_path / "b").write_text("ein Haus\n" * 5)
    pair = {"langs": ["en", "ru"], "source": [f"{tmp_path}/a"], "target": [f"{tmp_path}/b"]}
    fails(config(bitext=[pair]), "/a has 7 lines and .*/b has 5")
    (tmp_path / "c").write_text("x\n")
    pair["source"] = [f"{tmp_path}/[ac]"]
    fails(config(bitext=[pair]), "bitext.0: `source` gives 2 files and `target` 1")


def test_the_output_is_a_file_or_another_data_set_or_in_use(config, tmp_path, tree_hash):
    (tmp_path / "file").touch()
    fails(config("file"), "`output` is a file")
    build(config(), progress=False)
    before = tree_hash(config().output)
    fails(config(seed=1), "holds a data set of another config or input")
    (tmp_path / "en.txt").write_text("another text of this language, long enough\n")
    fails(config(), "holds a data set of another config or input")
    assert tree_hash(config().output) == before
    settings = config("busy")
    with pipeline._locked(settings.output / pipeline.WORK_DIR):
        fails(settings, "another build is writing there")


class Killed(BaseException):
    """Nothing in the build catches it, as nothing catches a SIGKILL."""


def die_at_rename(monkeypatch, number, before):
    real, seen = os.replace, [0]

    def replace(source, target):
        seen[0] += 1
        if seen[0] == number and before:
            raise Killed
        real(source, target)
        if seen[0] == number:
            raise Killed

    monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize("before", [True, False])
def test_a_build_stopped_at_any_rename_continues_to_the_same_bytes(
    config, reference, tree_hash, monkeypatch, before
):
    # Right after a rename little differs from right before the next one.
    for number in itertools.count(1, 1 if before else 3):
        settings = config(f"stopped{number}")
        with monkeypatch.context() as patch:
            die_at_rename(patch, number, before)
            try:
                build(settings, progress=False)
                break
            except Killed:
                pass
        build(settings, progress=False)
        assert tree_hash(settings.output) == reference, number
    assert number > 15


def test_finished_work_is_not_done_again(config, monkeypatch, capsys):
    settings = config()
    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_index", None)
        patch.setattr(pipeline, "write_index", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            build(settings, progress=False)
    made = {p: p.stat().st_mtime_ns for p in settings.output.rglob("*.arrow")}
    build(settings, progress=True)
    shown = capsys.readouterr().err
    assert "continues the interrupted build" in shown
    assert "clean: 3 of 3 inputs are already done" in shown
    assert "shards are already done" in shown
    for path, stamp in made.items():
        assert pipeline.WORK_DIR in path.parts or path.stat().st_mtime_ns == stamp


def interrupted(settings, monkeypatch, shards_before_the_end):
    """Stops a build when so many shards are written."""
    written = []
    real = pipeline.encode.__globals__["Assembler"]._flush

    def flush(self, position):
        real(self, position)
        written.append(position)
        if len(written) == shards_before_the_end:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.encode.__globals__["Assembler"], "_flush", flush)
        with pytest.raises(Killed):
            build(settings, progress=False)


def test_a_changed_config_or_input_restarts_what_it_touches_and_says_so(
    config, monkeypatch, tmp_path, tree_hash, capsys
):
    settings = config()
    interrupted(settings, monkeypatch, 3)
    build(config(shard_tokens=2_500), progress=True)
    shown = capsys.readouterr().err
    assert "config or input changed since the interrupted build; 3 of 3 inputs" in shown
    build(config("fresh", shard_tokens=2_500), progress=False)
    assert tree_hash(settings.output) == tree_hash(config("fresh").output)

    settings = config("second")
    interrupted(settings, monkeypatch, 3)
    (tmp_path / "ru.txt").write_text("совсем другой текст, достаточно длинный\n")
    build(settings, progress=True)
    assert "2 of 3 inputs are still clean" in capsys.readouterr().err
    build(config("third"), progress=False)
    assert tree_hash(settings.output) == tree_hash(config("third").output)


def test_a_tokenizer_that_changed_under_finished_shards_is_refused(config, monkeypatch):
    settings = config()
    interrupted(settings, monkeypatch, 3)
    path = tokenizer_path(settings.output)
    original = path.read_bytes()
    import sentencepiece.sentencepiece_model_pb2 as proto

    model = proto.ModelProto.FromString(original)
    model.pieces[400].score -= 0.5
    path.write_bytes(model.SerializeToString())
    fails(settings, "is not the tokenizer that this build began with")
    path.write_bytes(original)
    build(settings, progress=False)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CorruptDataError, match="is not the tokenizer of this data set"):
        build(settings, progress=False)


def test_a_shard_altered_while_the_build_was_down_is_made_again(
    config, reference, monkeypatch, tree_hash, capsys
):
    settings = config()
    interrupted(settings, monkeypatch, 4)
    path = settings.output / "train/en/00001.arrow"
    path.write_bytes(path.read_bytes()[:-9])
    build(settings, progress=False)
    assert "train/en: a finished shard" in capsys.readouterr().err
    assert tree_hash(settings.output) == reference


def test_a_finished_data_set_that_lost_a_shard_is_not_called_finished(config):
    settings = config()
    build(settings, progress=False)
    (settings.output / "train/en/00001.arrow").unlink()
    with pytest.raises(CorruptDataError, match="00001.arrow: shard is missing or altered"):
        build(settings, progress=False)


@pytest.mark.parametrize("room", [0, 1_000, 20_000, 60_000, 90_000])
def test_a_full_disk_is_one_line_and_the_next_run_continues(
    config, reference, monkeypatch, tree_hash, room
):
    settings = config()
    with monkeypatch.context() as patch:
        real, written = CheckedFile.write, [0]

        def write(self, data):
            written[0] += memoryview(data).nbytes
            if written[0] > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(self, data)

        patch.setattr(CheckedFile, "write", write)
        fails(settings, "No space left on device; finished work in .* is kept", code=1)
    assert not list(settings.output.rglob("*.tmp"))
    build(settings, progress=False)
    assert tree_hash(settings.output) == reference


def test_a_disk_that_is_really_full(config, reference, tree_hash, tmp_path, make_corpus):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        settings = config(output="disk/out", workers=2)
        fails(settings, "No space left on device; finished work", code=1)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        build(settings, progress=False)
        assert tree_hash(settings.output) == reference
    finally:
        subprocess.run(["umount", str(disk)], check=True)


SCRIPT = """
import json, sys
from megaxlm.config.data_build import DataBuildConfig
from megaxlm_data.pipeline import build
if __name__ == "__main__":
    build(DataBuildConfig(**json.load(open(sys.argv[1]))), progress=False)
"""


def test_a_build_killed_at_20_random_moments_ends_with_the_same_bytes(
    config, reference, tree_hash, tmp_path
):
    settings = config("killed", workers=2)
    (tmp_path / "build.py").write_text(SCRIPT)
    (tmp_path / "config.json").write_text(json.dumps(settings.model_dump(mode="json")))
    command = [sys.executable, str(tmp_path / "build.py"), str(tmp_path / "config.json")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    plan = settings.output / ".build/plan.json"  # written when the stages begin
    rng = random.Random(5)
    kills = 0
    while kills < 20:
        before = plan.stat().st_mtime_ns if plan.exists() else None
        process = subprocess.Popen(command, env=environment)
        while process.poll() is None:
            with contextlib.suppress(FileNotFoundError):
                if plan.stat().st_mtime_ns != before:
                    break
            time.sleep(0.002)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.5 * rng.random())
        kills += process.poll() is None
        process.kill()
        process.wait()
        if (settings.output / "dataset.json").exists():  # then once more, from the beginning
            subprocess.run(command, env=environment, check=True, timeout=600)
            assert tree_hash(settings.output) == reference
            shutil.rmtree(settings.output)
    subprocess.run(command, env=environment, check=True, timeout=600)
    assert tree_hash(settings.output) == reference
    assert read_index(settings.output).build["cleaning"]["en"]["read"] == 150
