"""Whole builds that take out lines and near duplicates: counts, and SIGKILL in every phase."""

import glob
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter

import pytest
from megaxlm_data.pipeline import build

from megaxlm.config.data_build import DataBuildConfig

BOILERPLATE = "this page uses small files to keep you signed in"


@pytest.fixture
def config(tmp_path, make_corpus, make_lines, build_model):
    """Two languages with copies of every kind, and pairs."""
    for lang in ("en", "ru"):
        rng = random.Random(lang)
        documents = make_corpus(lang, 200).strip().split("\n\n")
        documents += rng.sample(documents, 20)  # exact
        for document in rng.sample(documents[:200], 40):  # near, if it is long enough
            documents.append(document.upper() + "!" if rng.random() < 0.5 else f"{document}\nx y")
        for place in rng.sample(range(len(documents)), 60):
            documents[place] += "\n" + BOILERPLATE
        for number in (1, 2):
            part = documents[(number - 1) * 150 :][:150]
            (tmp_path / f"{lang}{number}.txt").write_text("\n\n".join(part) + "\n")
    rows = zip(make_lines("en", 60, 3), make_lines("ru", 60, 3), strict=True)
    (tmp_path / "pairs.tsv").write_text("\n".join("\t".join(row) for row in rows))

    def make(output="out", **changes):
        values = {
            "output": tmp_path / output,
            "corpora": [
                {"lang": lang, "paths": [f"{tmp_path}/{lang}?.txt"]} for lang in ("en", "ru")
            ],
            "bitext": [{"langs": ["en", "ru"], "tsv": [str(tmp_path / "pairs.tsv")]}],
            "deduplication": {"lines": {"max_documents": 5}, "near": {"samples": 6}},
            "tokenizer": {"model": build_model},
            "filters": {"max_pair_length_ratio": 100},
            "shard_tokens": 4_000,
            "workers": 1,
        }
        return DataBuildConfig(**{**values, **changes})

    return make


def test_every_document_is_counted_once_and_pairs_are_shown(config):
    settings = config()
    cleaning = build(settings, progress=False).build["cleaning"]
    for lang in ("en", "ru"):
        counts = cleaning[lang]
        assert counts["read"] == counts["kept"] + counts["duplicates"] + counts[
            "near_duplicates"
        ] + sum(counts["dropped"].values())
        assert 10 < counts["duplicates"] <= 20
        assert 10 < counts["near_duplicates"] < 60
        assert counts["lines"]["duplicate"] == 59  # all but the first
    assert cleaning["en-ru"]["near_duplicates"] == 0
    text = (settings.output / "reports/near_duplicates.jsonl").read_text()
    shown = Counter(json.loads(line)["lang"] for line in text.splitlines())
    assert shown == {"en": 6, "ru": 6}
    assert not (settings.output / ".build").exists()


def test_what_is_off_by_default_costs_and_writes_nothing(config):
    settings = config(deduplication={})
    cleaning = build(settings, progress=False).build["cleaning"]["en"]
    assert cleaning["near_duplicates"] == 0
    assert "duplicate" not in cleaning["lines"]
    assert not (settings.output / "reports/near_duplicates.jsonl").exists()


def test_workers_and_a_missing_compiler_change_no_byte(config, tree_hash, monkeypatch):
    build(config("one"), progress=False)
    monkeypatch.setenv("MEGAXLM_DATA_NATIVE", "0")
    build(config("two", workers=2), progress=False)
    assert tree_hash(config("one").output) == tree_hash(config("two").output)


SCRIPT = """
import json, sys
from megaxlm.config.data_build import DataBuildConfig
from megaxlm_data.dedup import records
from megaxlm_data.pipeline import build
from megaxlm_data.stages import chunks
if __name__ == "__main__":
    records.BUCKET_RECORDS, chunks.SIZES = 400, (1, 1)  # many small tasks
    rank, world_size = map(int, sys.argv[2:]) if len(sys.argv) > 2 else (0, 1)
    build(DataBuildConfig(**json.load(open(sys.argv[1]))), False, rank, world_size)
"""
PHASES = (
    "lines/*/*.records",
    "lines/*/*.repeats",
    "lines/*.arrow",
    "exact/*.bits",
    "near/*/*.signatures",
    "near/*/*.records",
    "near/*/*.pairs",
    "near/*/*.similar",
    "near/*.bits",
    "select/*.bits",
)


def script(folder, settings):
    """Returns a command that builds, and its environment."""
    (folder / "build.py").write_text(SCRIPT)
    (folder / "config.json").write_text(json.dumps(settings.model_dump(mode="json")))
    command = [sys.executable, str(folder / "build.py"), str(folder / "config.json")]
    return command, {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_killed_in_every_phase_it_ends_with_the_same_bytes(config, tree_hash, tmp_path):
    reference = config("reference")
    build(reference, progress=False)
    settings = config("killed", workers=2)
    command, environment = script(tmp_path, settings)
    rng = random.Random(9)

    def kill_in(phase):
        """Returns whether it was killed: what the build has made decides when, and then a throw."""
        process = subprocess.Popen(command, env=environment)
        killed = False
        while process.poll() is None and not killed:
            if glob.glob(f"{settings.output}/.build/{phase}"):
                time.sleep(0.1 * rng.random())
                process.kill()
                killed = process.wait() != 0
            time.sleep(0.001)
        if (settings.output / "dataset.json").exists():  # the throw or the look came too late
            assert tree_hash(settings.output) == tree_hash(reference.output)
            shutil.rmtree(settings.output)
        return killed

    for phase in PHASES:
        assert any(kill_in(phase) for _ in range(5))
    subprocess.run(command, env=environment, check=True, timeout=600)
    assert tree_hash(settings.output) == tree_hash(reference.output)


def test_ranks_share_the_work_and_one_that_died_is_started_again(config, tree_hash, tmp_path):
    reference = config("reference")
    build(reference, progress=False)
    settings = config("ranks")
    command, environment = script(tmp_path, settings)

    def start(rank):
        return subprocess.Popen([*command, str(rank), "2"], env=environment)

    lead, other = start(0), start(1)
    try:
        while not glob.glob(f"{settings.output}/.build/near/*/*.records") and lead.poll() is None:
            time.sleep(0.001)
        other.kill()
        other.wait()
        other = start(1)
        assert lead.wait(300) == 0
        assert other.wait(300) == 0
    finally:
        for process in (lead, other):
            process.kill()
            process.wait()
    assert tree_hash(settings.output) == tree_hash(reference.output)
