import pytest
from megaxlm_data.readers.locations import find_by_language, find_files

from megaxlm.errors import UserError


def languages(pattern):
    return [(lang, path.rsplit("raw/", 1)[1]) for lang, path in find_by_language([pattern], "key")]


@pytest.fixture
def raw(tmp_path):
    names = [
        "en/a.txt",
        "zh-Hant/a.txt",
        "zho_Hans/b/c.txt",
        "mono.sw.txt",
        "mono.en.txt",
        "en.txt",
    ]
    for name in names:
        path = tmp_path / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return f"{tmp_path}/raw"


def test_a_language_may_stand_anywhere_in_a_path(raw):
    assert languages(f"{raw}/{{lang}}/*.txt") == [("en", "en/a.txt"), ("zh-Hant", "zh-Hant/a.txt")]
    assert languages(f"{raw}/{{lang}}/**/?.txt") == [
        ("en", "en/a.txt"),
        ("zh-Hant", "zh-Hant/a.txt"),
        ("zho_Hans", "zho_Hans/b/c.txt"),
    ]
    assert languages(f"{raw}/mono.{{lang}}.txt") == [
        ("en", "mono.en.txt"),
        ("sw", "mono.sw.txt"),
    ]
    assert languages(f"{raw}/{{lang}}/[!b].txt") == languages(f"{raw}/{{lang}}/*.txt")


def test_a_language_that_stands_twice_must_be_the_same(raw, tmp_path):
    (tmp_path / "raw" / "en" / "en.txt").touch()
    assert languages(f"{raw}/{{lang}}/e[n].txt") == [("en", "en/en.txt")]
    with pytest.raises(UserError, match="cannot see which part of .*en/a.txt is `{lang}`"):
        languages(f"{raw}/{{lang}}/{{lang}}.txt")


def test_a_part_of_a_name_that_is_no_code_is_said(raw):
    with pytest.raises(UserError, match="cannot see which part of .*mono.en.txt is `{lang}`"):
        languages(f"{raw}/{{lang}}.txt")


def test_patterns_home_and_names_with_wildcards(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("b.txt", "a.txt", "odd[1].txt"):
        (tmp_path / name).touch()
    assert list(find_files(["~/?.txt", "~/odd[1].txt"], "key")) == [
        f"{tmp_path}/a.txt",
        f"{tmp_path}/b.txt",
        f"{tmp_path}/odd[1].txt",
    ]
    assert list(find_files([f"file://{tmp_path}/a.txt"], "key")) == [f"{tmp_path}/a.txt"]
    with pytest.raises(UserError, match="key: no file matches .*/x\\*.txt; correct the pattern"):
        list(find_files([f"{tmp_path}/x*.txt"], "key"))
