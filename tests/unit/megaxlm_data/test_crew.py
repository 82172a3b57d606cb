import errno
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from megaxlm_data import crew as module
from megaxlm_data.crew import Crew, FinishedError, deal
from megaxlm_data.progress import Progress

from megaxlm.errors import UserError


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 9))
def test_every_task_has_one_owner_and_none_much_more_than_the_others(sizes, hands):
    owners = deal(sizes, hands)
    assert len(owners) == len(sizes) and set(owners) <= set(range(hands))
    loads = [sum(s for s, o in zip(sizes, owners, strict=True) if o == h) for h in range(hands)]
    assert max(loads) - min(loads) <= max(sizes, default=0)


def a_crew(folder: Path, rank: int, size: int = 2, digest: str = "d", patience: float = 5) -> Crew:
    return Crew(rank, size, folder, digest, Progress(False), patience=patience)


def test_ranks_split_the_tasks(tmp_path):
    masks = [a_crew(tmp_path, rank, 3).mine([5, 1, 4, 4, 2]) for rank in range(3)]
    assert [sum(column) for column in zip(*masks, strict=True)] == [1] * 5
    assert a_crew(tmp_path, 0, 1).mine([5, 1]) == [True, True]


def test_one_waits_until_the_other_is_done(tmp_path):
    left = ["task"]
    with a_crew(tmp_path, 0) as first, a_crew(tmp_path, 1):
        threading.Timer(0.3, left.clear).start()
        first.wait("clean", lambda: left)
        assert left == []
    assert not a_crew(tmp_path, 1).leads and first.leads


def test_a_build_by_itself_waits_for_nothing_and_leaves_no_beat(tmp_path):
    with a_crew(tmp_path / "ranks", 0, 1) as alone:
        alone.wait("clean", lambda: ["never"])
    assert not (tmp_path / "ranks").exists()


def test_a_rank_that_fails_ends_the_waiting(tmp_path):
    def fail():
        with pytest.raises(ZeroDivisionError), a_crew(tmp_path, 1):
            raise ZeroDivisionError

    with a_crew(tmp_path, 0) as first:
        threading.Timer(0.2, fail).start()
        with pytest.raises(UserError, match="clean: rank 1 failed, its own output says why"):
            first.wait("clean", lambda: ["task"])


def test_what_a_rank_said_before_this_one_began_does_not_count(tmp_path):
    with pytest.raises(ZeroDivisionError), a_crew(tmp_path, 1):
        raise ZeroDivisionError
    left = ["task"]
    with a_crew(tmp_path, 0, patience=0.1) as first:
        threading.Timer(0.5, left.clear).start()
        first.wait("clean", lambda: left)  # rank 1 may stand in a queue, to be started again


def test_a_rank_that_vanishes_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 60)
    with a_crew(tmp_path, 0, patience=0.4) as first, a_crew(tmp_path, 1):
        with pytest.raises(UserError, match=r"encode: rank 1 on \S+ gave no sign for 0 s"):
            first.wait("encode", lambda: ["task"])


def test_beats_keep_a_slow_rank_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.05)
    left = ["task"]
    with a_crew(tmp_path, 0, patience=0.4) as first, a_crew(tmp_path, 1):
        threading.Timer(1.2, left.clear).start()
        first.wait("encode", lambda: left)


@pytest.mark.parametrize("other", [{"size": 3}, {"digest": "e"}])
def test_another_world_or_input_is_refused(tmp_path, other):
    with a_crew(tmp_path, 0) as first, a_crew(tmp_path, 1, **other):
        with pytest.raises(UserError, match="rank 1 builds another config, input or --world-size"):
            first.wait("clean", lambda: ["task"])


def test_another_config_is_refused_also_where_nothing_is_left_to_wait_for(tmp_path):
    with a_crew(tmp_path, 2, 3) as stray, a_crew(tmp_path, 0), a_crew(tmp_path, 1):
        with pytest.raises(UserError, match="rank 0 builds another config, input or --world-size"):
            stray.wait("sign", lambda: [])


def test_who_waits_names_the_ranks_that_have_not_begun(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "_TELL_SECONDS", 0.1)
    left = ["task", "task"]
    with Crew(1, 14, tmp_path, "d", Progress(True)) as one, a_crew(tmp_path, 3, 14):
        threading.Timer(0.5, left.clear).start()
        one.wait("clean", lambda: left)
    said = capsys.readouterr().err.splitlines()[0]
    assert said == (
        "clean: waits for 2 tasks of other ranks; not started yet, or not seen in this `output`: "
        "rank 0, 2, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more"
    )
    with Crew(1, 2, tmp_path, "d", Progress(True)) as one, a_crew(tmp_path, 0):
        left.append("task")
        threading.Timer(0.5, left.clear).start()
        one.wait("clean", lambda: left)
    assert capsys.readouterr().err.splitlines()[0] == "clean: waits for 1 tasks of other ranks"


def test_a_rank_on_a_full_disk_still_says_that_it_lives_and_that_it_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.05)
    whole = module.write_atomically

    def full(path, content):
        if path.name == "00001.json" and path.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(path, content)

    monkeypatch.setattr(module, "write_atomically", full)
    left = ["task"]
    with a_crew(tmp_path, 0, patience=0.4) as first:
        with pytest.raises(OSError), a_crew(tmp_path, 1):
            threading.Timer(1.2, left.clear).start()
            first.wait("encode", lambda: left)
            raise OSError(errno.ENOSPC, "full")
        with pytest.raises(UserError, match="encode: rank 1 failed, its own output says why"):
            first.wait("encode", lambda: ["task"])


def test_what_is_lost_after_all_others_are_done_is_not_waited_for_forever(tmp_path):
    with a_crew(tmp_path, 0, patience=0.2) as first:
        with a_crew(tmp_path, 1):
            pass
        with pytest.raises(UserError, match="encode: all other ranks are done, but what they made"):
            first.wait("encode", lambda: ["task"])


def test_a_rank_that_comes_when_all_is_finished_does_not_wait(tmp_path):
    finished = []
    late = Crew(1, 2, tmp_path, "d", Progress(False), lambda: bool(finished))
    with late:
        threading.Timer(0.2, finished.append, ("index",)).start()
        with pytest.raises(FinishedError):
            late.wait("select", lambda: ["task"])


def test_what_was_done_for_another_config_in_between_is_done_again(tmp_path):
    made = []
    with a_crew(tmp_path, 0, digest="a") as lead:
        lead.lead("select", lambda: made.append("a"))
    with a_crew(tmp_path, 0, digest="b") as lead:
        lead.lead("prepare", lambda: made.append("b"))
    with a_crew(tmp_path, 1, digest="a") as other, a_crew(tmp_path, 0, digest="a") as lead:
        threading.Timer(0.3, lead.lead, ("select", lambda: made.append("again"))).start()
        other.lead("select", lambda: made.append("found"))
    assert made == ["a", "b", "again", "found"]
