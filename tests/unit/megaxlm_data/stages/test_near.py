"""Near duplicates go, whatever the order of work, its pieces and its interruptions."""

import json
import random
from collections import Counter

import numpy as np
import pytest
from megaxlm_data.dedup import records as sorted_records
from megaxlm_data.dedup.shingles import shingle_hashes
from megaxlm_data.stages import chunks
from megaxlm_data.stages import near as stage
from megaxlm_data.stages.near_samples import write_report
from megaxlm_data.writers import cleaned as writer

ZH = [chr(0x4E00 + number) for number in range(0, 6000, 3)]


def words(rng, count):
    return [
        "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 8)))
        for _ in range(count)
    ]


def edited(rng, tokens, share, fresh):
    """Replaces a share of the tokens, one here and one there."""
    return [fresh(rng) if rng.random() < share else token for token in tokens]


def corpus(kind, documents, seed=0):
    """Returns documents and copies with more and more edits, shuffled; which of which."""
    rng = random.Random(seed)
    if kind == "words":
        lexicon = words(rng, 3000)
        join, length, most = " ".join, (60, 220), 0.08
    else:
        lexicon, join, length, most = ZH, "".join, (150, 500), 0.04
    texts, origin = [], []
    for number in range(documents):
        tokens = rng.choices(lexicon, k=rng.randint(*length))
        texts.append(join(tokens))
        share = rng.random() * most
        texts.append(join(edited(rng, tokens, share, lambda r: r.choice(lexicon))))
        origin += [number, number]
    order = list(range(len(texts)))
    rng.shuffle(order)
    return [texts[i] for i in order], [origin[i] for i in order]


def jaccard(texts):
    """Returns a function of two places that gives the similarity of their sets of shingles."""
    raw = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, raw)])
    hashes, owners = shingle_hashes(np.frombuffer(b"".join(raw), np.uint8), offsets, 5, 10)
    sets = [set(hashes[owners == number].tolist()) for number in range(len(raw))]
    return lambda a, b: len(sets[a] & sets[b]) / len(sets[a] | sets[b])


@pytest.mark.parametrize("kind", ["words", "characters"])
def test_recall_and_precision_over_similarity(prepare, kind):
    texts, origin = corpus(kind, 400)
    prepared = prepare({"en": [texts]}, near={"threshold": 0.8})
    kept = prepared.kept(prepared.near())
    similarity = jaccard(texts)
    found = {"same": [], "above": [], "near": [], "below": []}
    for number in range(400):
        first, second = (place for place, which in enumerate(origin) if which == number)
        true = similarity(first, second)
        gone = not (kept[first] and kept[second])
        assert kept[first]  # the first of the two stays
        kind_of = "same" if true > 0.92 else "above" if true > 0.84 else "near"
        found["below" if true < 0.7 else kind_of].append(gone)
    assert all(len(each) > 20 for each in found.values())
    assert np.mean(found["same"]) == 1
    assert np.mean(found["above"]) > 0.9
    assert np.mean(found["below"]) < 0.03


def test_unrelated_documents_stay(prepare):
    rng = random.Random(1)
    lexicon = words(rng, 400)
    texts = [" ".join(rng.choices(lexicon, k=60)) for _ in range(600)]
    prepared = prepare({"en": [texts]}, near={})
    assert all(prepared.kept(prepared.near()))


def test_translations_and_pairs_are_left_alone(prepare):
    text = " ".join(words(random.Random(2), 80))
    near = text.replace("a", "A", 3) + " end"
    pairs = [(text, text[::-1]), (near, near[::-1])]
    prepared = prepare({"en": [[text, near]], "ru": [[text]]}, pairs, near={})
    exact, result = prepared.exact(), prepared.near()
    assert prepared.kept(result, "en") == [True, False]
    assert prepared.kept(result, "ru") == [True]  # the very text, in another language
    assert prepared.kept(result, "en-ru") == [True, True]
    assert result["en-ru"] == exact["en-ru"]
    assert (result["en"].duplicates, result["en"].near_duplicates) == (0, 1)


def test_exact_copies_are_not_counted_as_near(prepare):
    base = words(random.Random(3), 100)
    text, near = " ".join(base), " ".join([*base, "more"])
    prepared = prepare({"en": [[text, near], [text, near]]}, near={})
    result = prepared.near()
    assert prepared.kept(result) == [True, False, False, False]
    assert (result["en"].duplicates, result["en"].near_duplicates) == (2, 1)
    without = prepare({"en": [[text, text]]}, name="off", near={}, documents=False)
    result = without.near()
    assert without.kept(result) == [True, False]
    assert (result["en"].duplicates, result["en"].near_duplicates) == (0, 1)


def test_case_and_digits_make_no_difference_and_a_chain_goes_whole(prepare):
    base = words(random.Random(4), 200)
    steps = [base[:]]
    for place in range(0, 40, 8):  # each is like the one before, the last is not like the first
        step = steps[-1][:]
        step[place * 4] = "changed"
        step[place * 4 + 9] = "twice"
        steps.append(step)
    texts = [" ".join(step) for step in steps]
    similarity = jaccard(texts)
    assert similarity(0, 1) > 0.88 > 0.8 > similarity(0, 5)
    upper = " ".join(base).upper().replace(" ", ",  ")
    prepared = prepare({"en": [[*texts, upper]]}, near={})
    assert prepared.kept(prepared.near()) == [True] + [False] * 6


@pytest.fixture
def small_pieces(monkeypatch):
    """Several blocks, chunks and buckets of what is a hundred kilobytes."""
    monkeypatch.setattr(writer, "BLOCK_BYTES", 4_000)
    monkeypatch.setattr(chunks, "SIZES", (3, 40))
    monkeypatch.setattr(sorted_records, "BUCKET_RECORDS", 500)


def shuffled_copies(seed, documents=120):
    texts, _ = corpus("words", documents, seed)
    return [texts[: len(texts) // 2], texts[len(texts) // 2 :]]


def test_workers_chunks_and_buckets_change_nothing(prepare, small_pieces, monkeypatch):
    files = shuffled_copies(5)
    prepared = prepare({"en": files}, near={})
    sizes = []
    real = stage.candidate_pairs
    monkeypatch.setattr(
        stage, "candidate_pairs", lambda bucket: (sizes.append(len(bucket)), real(bucket))[1]
    )
    small = prepared.near()["en"]
    assert len(sizes) > 8
    assert max(sizes) < 2 * 500
    assert sum(sizes) == (240 - small.duplicates) * 20
    parallel = prepared.near(workers=3, folder="parallel")["en"]
    assert parallel.digest == small.digest
    assert np.array_equal(parallel.bits, small.bits)
    first, second = (prepared.work / f / f"{small.digest}.jsonl" for f in ("near", "parallel"))
    assert first.read_bytes() == second.read_bytes()
    monkeypatch.undo()
    whole = prepare({"en": files}, name="whole", near={})
    assert whole.kept(whole.near()) == prepared.kept({"en": small})
    assert 20 < small.near_duplicates < 80


def test_the_other_order_keeps_one_of_each_cluster_too(prepare):
    texts = [text for file in shuffled_copies(6) for text in file]
    forward, backward = (
        prepare({"en": [each]}, name=name, near={})
        for each, name in ((texts, "forward"), (texts[::-1], "backward"))
    )
    kept, reverse = forward.kept(forward.near()), backward.kept(backward.near())[::-1]
    assert sum(kept) == sum(reverse) < len(texts)
    assert kept != reverse


def test_stopped_at_any_rename_it_continues_to_the_same(prepare, small_pieces, killed_at_rename):
    files = shuffled_copies(7, documents=30)
    prepared = prepare({"en": files, "ru": [files[1]]}, near={"bands": 10})
    whole = prepared.near(folder="whole")
    number = 0
    while True:
        number += 1
        folder = f"killed{number}"
        if not killed_at_rename(lambda folder=folder: prepared.near(folder=folder), number):
            break
        again = prepared.near(folder=folder)
        for name in ("en", "ru"):
            assert np.array_equal(again[name].bits, whole[name].bits)
            samples = f"{whole[name].digest}.jsonl"
            first, second = (prepared.work / f / samples for f in ("whole", folder))
            assert first.read_bytes() == second.read_bytes()
        assert not [path for path in (prepared.work / folder).iterdir() if path.is_dir()]
        assert not list((prepared.work / folder).rglob("*.tmp"))
    assert number > 20


def test_finished_tasks_are_not_done_again(prepare, small_pieces, killed_at_rename, monkeypatch):
    prepared = prepare({"en": shuffled_copies(8, documents=30)}, near={"bands": 10})
    prepared.exact()
    done = Counter()
    for name in ("_sign", "_match", "_verify"):
        real = getattr(stage, name)
        monkeypatch.setattr(
            stage, name, lambda task, real=real, name=name: (done.update([name]), real(task))[1]
        )
    prepared.near(folder="whole")
    tasks = done.copy()
    assert tasks["_sign"] == tasks["_verify"] > 1
    assert tasks["_match"] > 1
    done.clear()
    assert killed_at_rename(prepared.near, 2 * tasks["_sign"] + 1)  # in the first match
    done.clear()
    prepared.near()
    assert done == {**tasks, "_sign": 0} or done == {
        "_match": tasks["_match"],
        "_verify": tasks["_verify"],
    }
    done.clear()
    prepared.near()
    assert not done


def test_leftovers_of_another_config_and_half_files_go(prepare):
    prepared = prepare({"en": shuffled_copies(9, documents=20)}, near={})
    folder = prepared.work / "near"
    (folder / "0123456789abcdef").mkdir(parents=True)
    (folder / "0123456789abcdef/000000.records").write_bytes(b"old")
    (folder / ".x.bits.12.tmp").write_bytes(b"half")
    prepared.near()
    assert {path.suffix for path in folder.iterdir()} == {".bits", ".json", ".jsonl"}


def test_the_report_shows_pairs_where_they_differ(prepare):
    rng = random.Random(10)
    base = words(rng, 150)
    changed = base[:]
    changed[100] = "HERE"
    prepared = prepare(
        {"en": [[" ".join(base), " ".join(changed)]], "ru": [[" ".join(words(rng, 50))]]},
        near={"samples": 5},
    )
    kept = prepared.near()
    write_report(prepared.plan, prepared.config, kept, prepared.work / "near")
    path = prepared.config.output / "reports/near_duplicates.jsonl"
    (line,) = path.read_text().splitlines()
    found = json.loads(line)
    assert found["lang"] == "en"
    assert 0.9 < found["similarity"] < 1
    assert "HERE" in found["dropped_text"]
    assert "HERE" not in found["kept_text"]
    assert base[100] in found["kept_text"]
    assert len(found["kept_text"]) == 200
    assert found["kept"] != found["dropped"]
    off = prepared.config.model_copy(
        update={"deduplication": prepared.config.deduplication.model_copy(update={"near": None})}
    )
    write_report(prepared.plan, off, kept, prepared.work / "near")
    assert not path.exists()


def test_samples_are_capped_and_a_fair_choice(prepare, texts_of):
    prepared = prepare({"en": shuffled_copies(11)}, near={"samples": 7})
    exact, result = prepared.exact()["en"], prepared.near()["en"]
    assert result.near_duplicates > 20
    lines = (prepared.work / f"near/{result.digest}.jsonl").read_text().splitlines()
    ids, _ = texts_of(prepared.plan, prepared.reports, prepared.cleaned)
    before, after = prepared.kept({"en": exact}), prepared.kept({"en": result})
    gone = sorted(i for i, b, a in zip(ids, before, after, strict=True) if b and not a)
    assert [int(json.loads(line)["dropped"], 16) for line in lines] == gone[:7]
    assert all(int(json.loads(line)["kept"], 16) in ids for line in lines)


def test_bands_that_miss_the_threshold_are_refused():
    from megaxlm.config.data_deduplication import DeduplicationConfig

    with pytest.raises(ValueError, match="2 bands of 20 rows find only 2% of pairs"):
        DeduplicationConfig(near={"bands": 2, "rows_per_band": 20})
    assert DeduplicationConfig().near is None
    assert DeduplicationConfig(near={}).near.recall(0.8) == pytest.approx(0.9977, abs=1e-4)
