"""Lines that an earlier document of the language holds go, whatever the pieces of the work."""

import os
import random

import numpy as np
import pytest
from megaxlm_data.dedup import records as sorted_records
from megaxlm_data.document import document_id
from megaxlm_data.stages import chunks
from megaxlm_data.stages.clean import cleaned_path
from megaxlm_data.stages.plan import Plan
from megaxlm_data.writers import cleaned as writer

A = "we use small files on your machine to keep you signed in"
B = "the baker opened her shop before the sun was over the hill"
C = "two boats left the harbour and only one of them came back"
D = "after the rain the road to the village was a river of mud"


def test_repeated_lines_go_and_the_rest_stays(prepare, texts_of):
    documents = [f"{A}\n{B}\n{A}", f"{A}\n{C}", f"{D}\nshort line\n{A}"]
    prepared = prepare({"en": [documents, [f"{B}\n{D} too\nshort line"]]}, lines={"min_chars": 20})
    plan, reports, folder = prepared.lines()
    ids, texts = texts_of(plan, reports, folder)
    assert texts == [f"{A}\n{B}\n{A}", C, f"{D}\nshort line", f"{D} too\nshort line"]
    assert ids == [document_id(text.replace("\n", " ")) for text in texts]
    first, second = (reports[unit.digest] for unit in plan.groups[0].units)
    assert first.lines == {"duplicate": 2}
    assert second.lines == {"duplicate": 1}
    assert (first.kept, first.read, first.drops) == (3, 3, {})
    assert first.text_bytes == sum(len(text.encode()) for text in texts[:3])


def test_what_is_too_short_without_its_lines_is_dropped_and_counted(prepare, texts_of):
    prepared = prepare({"en": [[f"{A}\n{B}", f"{A}\nso short", B, C, B]]}, lines={})
    plan, reports, folder = prepared.lines()
    assert texts_of(plan, reports, folder)[1] == [f"{A}\n{B}", C]
    (report,) = (reports[unit.digest] for unit in plan.groups[0].units)
    assert report.drops == {"duplicate_lines": 3}
    assert report.lines == {"duplicate": 3}
    assert (report.read, report.kept, sum(report.block_rows)) == (5, 2, 2)


def test_only_boilerplate_goes_if_asked_for(prepare, texts_of):
    documents = [f"{A}\n{B}", f"{A}\n{C}", f"{A}\n{D}", f"{D}\n{C} today"]
    prepared = prepare({"en": [documents]}, lines={"max_documents": 2})
    assert texts_of(*prepared.lines())[1] == [f"{A}\n{B}", C, D, f"{D}\n{C} today"]


def test_other_languages_and_pairs_keep_their_lines(prepare, texts_of):
    pairs = [(A, B), (A, C)]
    prepared = prepare({"en": [[f"{A}\n{B}"]], "ru": [[f"{A}\n{C}"]]}, pairs, lines={})
    result = prepared.lines()
    for name in ("en", "ru", "en-ru"):
        before = texts_of(prepared.plan, prepared.reports, prepared.cleaned, name)
        assert texts_of(*result, name) == before
    plan, reports, folder = result
    assert isinstance(plan, Plan)
    assert plan.digest == prepared.plan.digest
    for old, new in zip(prepared.plan.groups, plan.groups, strict=True):
        for unit, other in zip(old.units, new.units, strict=True):
            # nothing to do: the same file under another name
            assert os.path.samefile(
                cleaned_path(prepared.cleaned, unit), cleaned_path(folder, other)
            )
            assert reports[other.digest] == prepared.reports[unit.digest]


def test_where_files_cannot_be_linked_they_are_copied(prepare, texts_of, monkeypatch):
    def refuse(source, target):
        raise OSError(1, "Operation not permitted")

    prepared = prepare({"en": [[A, B]]}, lines={})
    monkeypatch.setattr(os, "link", refuse)
    assert texts_of(*prepared.lines())[1] == [A, B]


def test_without_the_setting_nothing_changes(prepare):
    prepared = prepare({"en": [[A, A]]})
    result = prepared.lines()
    assert result == (prepared.plan, prepared.reports, prepared.cleaned)
    assert not (prepared.work / "lines").exists()


@pytest.fixture
def small_pieces(monkeypatch):
    """Several blocks, chunks and buckets of what is a few kilobytes."""
    monkeypatch.setattr(writer, "BLOCK_BYTES", 1_500)
    monkeypatch.setattr(chunks, "SIZES", (2, 30))
    monkeypatch.setattr(sorted_records, "BUCKET_RECORDS", 60)


def files(make_lines, seed, documents=80):
    rng = random.Random(seed)
    lines = [line for line in make_lines("en", 200, seed) if len(line) >= 40]
    made = ["\n".join(rng.choices(lines, k=rng.randint(1, 5))) for _ in range(documents)]
    return [made[:30], made[30:31], made[31:]]


def expected(documents):
    seen, left = set(), []
    for document in documents:
        lines = document.split("\n")
        staying = [line for line in lines if line not in seen]
        seen |= set(lines)
        if staying:
            left.append("\n".join(staying))
    return left


def test_pieces_and_workers_change_nothing(prepare, texts_of, make_lines, small_pieces):
    made = files(make_lines, 1)
    prepared = prepare({"en": made}, lines={})
    result = prepared.lines()
    assert texts_of(*result)[1] == expected([document for file in made for document in file])
    # workers have the real size of a block, so the text is compared and not the files
    assert texts_of(*prepared.lines(workers=3, folder="parallel")) == texts_of(*result)
    plan, reports, folder = result
    for unit in plan.groups[0].units:
        report = reports[unit.digest]
        assert report.read == report.kept + sum(report.drops.values())
    assert not [path for path in folder.iterdir() if path.is_dir()]


def test_workers_write_the_same_files(prepare, make_lines, tree_hash):
    prepared = prepare({"en": files(make_lines, 5)}, lines={})
    prepared.lines()
    prepared.lines(workers=2, folder="parallel")
    assert tree_hash(prepared.work / "lines") == tree_hash(prepared.work / "parallel")


def test_stopped_at_any_rename_it_continues_to_the_same(
    prepare, make_lines, small_pieces, killed_at_rename, tree_hash
):
    made = files(make_lines, 2, documents=50)
    prepared = prepare({"en": made, "ru": [made[0]]}, [(A, B)], lines={})
    prepared.lines(folder="whole")
    whole = tree_hash(prepared.work / "whole")
    number = 0
    while True:
        number += 1
        folder = f"killed{number}"
        if not killed_at_rename(lambda folder=folder: prepared.lines(folder=folder), number):
            break
        prepared.lines(folder=folder)
        assert tree_hash(prepared.work / folder) == whole, number
    assert number > 15


def test_another_setting_starts_again_and_leaves_nothing_behind(prepare, make_lines, texts_of):
    made = files(make_lines, 3)
    prepared = prepare({"en": made}, lines={})
    prepared.lines()
    (prepared.work / "lines/.left.json.7.tmp").write_bytes(b"half")
    other = prepare({"en": made}, name="other", lines={"max_documents": 3})
    before = other.lines()
    prepared.config = other.config
    prepared.plan, prepared.reports, prepared.cleaned = other.plan, other.reports, other.cleaned
    after = prepared.lines()
    assert texts_of(*after) == texts_of(*before)
    names = {path.name for path in (prepared.work / "lines").iterdir()}
    assert len(names) == 2 * len(after[0].groups[0].units) + 1  # and that the group is done


def test_a_finished_stage_is_only_read(prepare, make_lines, monkeypatch):
    prepared = prepare({"en": files(make_lines, 4)}, lines={})
    first = prepared.lines()
    monkeypatch.setattr("megaxlm_data.stages.lines.write_sorted", None)
    monkeypatch.setattr("megaxlm_data.stages.lines.CleanedWriter", None)
    assert prepared.lines() == first
    assert np.all([report.kept for report in first[1].values()])
