"""What killed builds left half written is removed."""

from pathlib import Path

from megaxlm_data.stages.chunks import remove_temporary


def test_temporary_files_go_and_others_stay(tmp_path, monkeypatch):
    (tmp_path / "a.work").mkdir()
    for name in (".one.1.tmp", "a.work/.two.1.tmp", "a.work/000000.records", ".other"):
        (tmp_path / name).touch()
    find = Path.rglob

    def last_moment(self, pattern):
        for path in list(find(self, pattern)):
            if path.name == ".one.1.tmp":
                path.unlink()  # a worker that outlives its build for a moment ends it
            yield path

    monkeypatch.setattr(Path, "rglob", last_moment)
    remove_temporary(tmp_path)
    left = {path.name for path in find(tmp_path, "*") if path.is_file()}
    assert left == {"000000.records", ".other"}
