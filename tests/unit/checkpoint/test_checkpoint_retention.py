import os

import pytest

from megaxlm.checkpoint.catalog import find_latest, list_checkpoints
from megaxlm.checkpoint.reader import CheckpointReader
from megaxlm.checkpoint.retention import apply_retention, select_resume
from megaxlm.errors import CorruptDataError, UserError


def steps(run_dir):
    return [folder.step for folder in list_checkpoints(run_dir) if folder.complete]


def damage(path, name="rank-00000.safetensors"):
    content = bytearray((path / name).read_bytes())
    content[-1] ^= 4
    (path / name).write_bytes(content)


def test_the_newest_and_the_milestones_stay(save_two, tmp_path):
    for step in range(100, 1000, 100):
        path = save_two(tmp_path, step)
        removed = apply_retention(tmp_path, keep_last=2, keep_every_steps=400, saved_step=step)
        assert all(not gone.exists() for gone in removed)
        assert find_latest(tmp_path) == path
    assert steps(tmp_path) == [400, 800, 900]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == [
        "saved.json",
        "step-00000400",
        "step-00000800",
        "step-00000900",
    ]
    for folder in list_checkpoints(tmp_path):
        CheckpointReader(folder.path)


def test_keep_last_one_keeps_one(save_two, tmp_path):
    for step in (1, 2, 3):
        save_two(tmp_path, step)
        apply_retention(tmp_path, keep_last=1)
    assert steps(tmp_path) == [3]
    with pytest.raises(ValueError, match="at least one"):
        apply_retention(tmp_path, keep_last=0)


def test_incomplete_folders_neither_count_nor_vanish(save_two, tmp_path):
    for step in (1, 2, 3, 4):
        save_two(tmp_path, step)
    (tmp_path / "checkpoints" / "step-00000004" / "COMPLETE").unlink()
    assert apply_retention(tmp_path, keep_last=1, saved_step=4) == []
    removed = apply_retention(tmp_path, keep_last=1)
    assert [path.name for path in removed] == ["step-00000001", "step-00000002"]
    assert [folder.step for folder in list_checkpoints(tmp_path)] == [3, 4]


def test_a_refused_later_checkpoint_does_not_push_out_good_ones(save_two, tmp_path):
    save_two(tmp_path, 800)
    damage(save_two(tmp_path, 900))
    assert select_resume(tmp_path).path.name == "step-00000800"
    save_two(tmp_path, 850)
    apply_retention(tmp_path, keep_last=1, saved_step=850)
    assert steps(tmp_path) == [850, 900]
    assert select_resume(tmp_path).path.name == "step-00000850"


def test_a_removal_that_was_killed_is_not_seen_and_is_finished_later(save_two, tmp_path):
    first, second = save_two(tmp_path, 1), save_two(tmp_path, 2)
    doomed = first.with_name(first.name + ".deleting")
    os.rename(first, doomed)
    assert steps(tmp_path) == [2]
    save_two(tmp_path, 1)
    assert not doomed.exists() and steps(tmp_path) == [1, 2]
    assert second.exists()


def test_a_run_not_begun_has_nothing_to_resume(tmp_path):
    assert select_resume(tmp_path) is None
    assert find_latest(tmp_path) is None
    assert select_resume(tmp_path / "nowhere") is None
    (tmp_path / "checkpoints" / "step-00000010.staging").mkdir(parents=True)
    assert select_resume(tmp_path) is None  # killed in its first save: nothing was finished


def test_the_newest_whole_one_is_taken_without_notice(save_two, tmp_path):
    save_two(tmp_path, 1)
    path = save_two(tmp_path, 2)
    chosen = select_resume(tmp_path)
    assert chosen.path == path and chosen.notice is None


@pytest.mark.parametrize("name", ["rank-00001.safetensors", "shared.json", "manifest.json"])
def test_a_damaged_newest_one_is_passed_over_with_notice(save_two, tmp_path, name):
    good, bad = save_two(tmp_path, 1), save_two(tmp_path, 2)
    damage(bad, name)
    chosen = select_resume(tmp_path)
    assert chosen.path == good
    assert str(bad / name) in chosen.notice and "\n" not in chosen.notice


def test_a_missing_marker_or_a_missing_newest_is_noticed(save_two, tmp_path):
    good, bad = save_two(tmp_path, 1), save_two(tmp_path, 2)
    (bad / "COMPLETE").unlink()
    chosen = select_resume(tmp_path)
    assert chosen.path == good and "COMPLETE" in chosen.notice
    assert find_latest(tmp_path) == good
    os.rename(bad, tmp_path / "taken-away")
    assert "step 2 was finished and is gone" in select_resume(tmp_path).notice


def test_no_whole_checkpoint_is_an_error_not_a_restart(save_two, tmp_path):
    for step in (1, 2):
        damage(save_two(tmp_path, step))
    with pytest.raises(CorruptDataError, match="none of 2 checkpoints is whole") as caught:
        select_resume(tmp_path)
    assert "step-00000002/rank-00000.safetensors" in str(caught.value)


def test_removed_checkpoints_are_an_error_not_a_restart(save_two, tmp_path):
    path = save_two(tmp_path, 3)
    os.rename(path, tmp_path / "taken-away")
    with pytest.raises(CorruptDataError, match="step 3 was finished here and is gone"):
        select_resume(tmp_path)


def test_a_replaced_checkpoint_counts_until_its_successor_has_the_name(save_two, tmp_path):
    path = save_two(tmp_path, 3)
    replaced = path.with_name(path.name + ".replaced")
    os.rename(path, replaced)  # where a kill between the two renames leaves it
    assert find_latest(tmp_path) == replaced
    assert select_resume(tmp_path).path == replaced
    assert CheckpointReader(replaced).shared["position"] == 3
    save_two(tmp_path, 4)
    assert path.exists() and not replaced.exists()


def test_ranks_agree_on_what_to_resume(save_two, thread_ranks, tmp_path):
    good, bad = save_two(tmp_path, 1), save_two(tmp_path, 2)
    damage(bad)  # one of three ranks will find it
    ranks = thread_ranks(3)
    chosen = ranks.run(lambda rank: select_resume(tmp_path, rank, 3, ranks.all_ok(rank)))
    assert [choice.path for choice in chosen] == [good] * 3
    assert all(str(bad) in choice.notice for choice in chosen)


def test_a_run_folder_that_only_some_ranks_see_is_an_error_on_all(save_two, thread_ranks, tmp_path):
    save_two(tmp_path, 1)
    ranks = thread_ranks(2)
    folders = [tmp_path, tmp_path / "another-disk"]
    errors = ranks.run(lambda rank: select_resume(folders[rank], rank, 2, ranks.all_ok(rank)))
    assert all(isinstance(error, UserError) for error in errors)
    assert "all nodes share" in str(errors[0])
