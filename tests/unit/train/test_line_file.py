"""Lines that outlive a kill, a full disk and a file system that was away."""

import errno
import io
import json
from pathlib import Path
from typing import Any

import pytest

from megaxlm.train import line_file
from megaxlm.train.line_file import LineFile, keep_until, last_step, read_lines


def steps_in(path: Path) -> list[int]:
    return [line["step"] for line in map(json.loads, path.read_text().splitlines())]


class FullDisk:
    """Opens files that take `room` more bytes; beyond that a write is cut short or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int, mends_itself: bool) -> None:
        self.room, self.mends_itself = room, mends_itself
        monkeypatch.setattr(line_file, "open", self.open, raising=False)

    def open(self, path: Path, mode: str, buffering: int = -1) -> Any:
        disk = self

        class File(io.FileIO):
            def write(self, content: Any) -> int:
                if disk.room <= 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                written = super().write(bytes(content)[: disk.room]) or 0
                disk.room -= written
                return written

            def truncate(self, size: int | None = None) -> int:
                if not disk.mends_itself:
                    raise OSError(errno.EIO, "Input/output error")
                return super().truncate(size)

        assert buffering == 0
        return File(path, mode)


def test_lines_past_a_step_and_a_torn_one_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    whole = [json.dumps({"step": step, "of": "été"}, ensure_ascii=False) for step in (1, 2, 3)]
    torn = whole[2].encode()[: whole[2].encode().index("é".encode()) + 1]  # half a character
    path.write_bytes("\n".join(whole).encode() + b"\n" + torn)
    assert last_step(path) == 3
    keep_until(path, 2)
    assert path.read_bytes() == ("\n".join(whole[:2]) + "\n").encode()
    path.write_bytes(b'[1]\n"step"\n{"loss": 1}\n{"step": null}\n' + whole[0].encode())
    keep_until(path, 2)  # what is not ours goes; a whole line without its end stays
    assert path.read_bytes() == whole[0].encode() + b"\n"
    assert read_lines(path) == [{"step": 1, "of": "été"}]
    keep_until(tmp_path / "none.jsonl", 2)
    assert last_step(tmp_path / "none.jsonl") == 0 and not (tmp_path / "none.jsonl").exists()
    assert read_lines(tmp_path / "none.jsonl") == []


def test_numbers_that_json_does_not_have_are_null(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "lines.jsonl", sync=True)
    assert file.append({"step": 1, "loss": float("nan"), "in": {"a": float("inf"), "b": 2.5}})
    assert read_lines(file.path) == [{"step": 1, "loss": None, "in": {"a": None, "b": 2.5}}]


@pytest.mark.parametrize("mends_itself", [True, False])
def test_a_full_disk_costs_no_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mends_itself: bool,
) -> None:
    file = LineFile(tmp_path / "lines.jsonl")
    disk = FullDisk(monkeypatch, 30, mends_itself)  # two lines and a half
    written = [file.append({"step": step}) for step in (1, 2, 3, 4)]
    assert written == [True, True, False, False]
    disk.room = 10_000
    assert file.append({"step": 5})
    assert file.append({"step": 6})
    assert [line["step"] for line in read_lines(file.path)] == [1, 2, 3, 4, 5, 6]
    torn = [line for line in file.path.read_text().splitlines() if not line.endswith("}")]
    assert torn == ([] if mends_itself else ['{"step'])  # no other line is spoilt by it
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "lines.jsonl: cannot be written now (No space left on device)" in said[0]
    assert "is written again" in said[1] and "lost" not in said[1]


def test_memory_is_bounded_and_what_is_lost_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(line_file, "MAX_PENDING", 3)
    file = LineFile(tmp_path / "away" / "lines.jsonl")  # no such folder now
    assert not any(file.append({"step": step}) for step in range(1, 8))
    (tmp_path / "away").mkdir()
    assert file.flush()
    assert steps_in(file.path) == [5, 6, 7]
    assert "the oldest 4 lines are lost" in capsys.readouterr().err


def test_lines_are_taken_back_on_the_disk_and_in_memory_even_if_later(tmp_path: Path) -> None:
    folder, hidden = tmp_path / "run", tmp_path / "hidden"
    folder.mkdir()
    file = LineFile(folder / "lines.jsonl")
    for step in (1, 2, 3):
        file.append({"step": step})
    folder.rename(hidden)
    assert not file.append({"step": 4})
    assert not file.keep_until(2)
    assert not file.append({"step": 3, "again": True})
    hidden.rename(folder)
    assert file.append({"step": 4, "again": True})
    assert read_lines(file.path) == [
        {"step": 1},
        {"step": 2},
        {"step": 3, "again": True},
        {"step": 4, "again": True},
    ]
