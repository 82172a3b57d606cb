"""Finding and reading sentence pairs, and what is said where they are wrong."""

import gzip
from pathlib import Path

import pytest

from megaxlm.errors import CorruptDataError, UserError
from megaxlm.evaluation.tatoeba import TatoebaPair, find_tatoeba_pairs, read_sentences


def _write(folder: Path, name: str, content: bytes = b"a\nb\n") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def _fails(folder: Path, pairs: list[str] | None = None) -> str:
    with pytest.raises(UserError) as error:
        find_tatoeba_pairs(folder, pairs)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_all_forms_of_name(tmp_path: Path) -> None:
    for name in (
        "tatoeba.deu-eng.deu",
        "tatoeba.deu-eng.eng",
        "fra-eng.fra.gz",
        "fra-eng.eng",
        "tatoeba.cmn-eng.cmn.gz",
        "tatoeba.cmn-eng.eng.gz",
        "README.md",
        "notes",
    ):
        _write(tmp_path, name)
    found = find_tatoeba_pairs(tmp_path)
    assert [pair.name for pair in found] == ["cmn-eng", "deu-eng", "fra-eng"]
    assert found[1] == TatoebaPair(
        "deu-eng",
        "deu",
        "eng",
        tmp_path / "tatoeba.deu-eng.deu",
        tmp_path / "tatoeba.deu-eng.eng",
    )
    assert found[2].source_file.name == "fra-eng.fra.gz"


@pytest.mark.parametrize(
    ("source", "target"),
    [("en", "zh-Hant"), ("zh-Hant", "en"), ("sr-Latn", "zh-Hant"), ("zh-Hant", "zh"), ("zh", "z")],
)
def test_codes_with_hyphens(tmp_path: Path, source: str, target: str) -> None:
    _write(tmp_path, f"{source}-{target}.{source}")
    _write(tmp_path, f"{source}-{target}.{target}")
    (pair,) = find_tatoeba_pairs(tmp_path)
    assert (pair.source_lang, pair.target_lang) == (source, target)
    assert pair.source_file.name.endswith(f".{source}")


def test_requested_order_is_kept_and_repeats_dropped(tmp_path: Path) -> None:
    for lang in ("deu", "fra", "spa"):
        _write(tmp_path, f"{lang}-eng.{lang}")
        _write(tmp_path, f"{lang}-eng.eng")
    found = find_tatoeba_pairs(tmp_path, ["spa-eng", "deu-eng", "spa-eng"])
    assert [pair.name for pair in found] == ["spa-eng", "deu-eng"]


def test_unknown_pair_names_the_nearest(tmp_path: Path) -> None:
    for lang in ("deu", "fra"):
        _write(tmp_path, f"{lang}-eng.{lang}")
        _write(tmp_path, f"{lang}-eng.eng")
    assert "no pair fre-eng; the nearest of the 2 there is fra-eng" in _fails(tmp_path, ["fre-eng"])
    assert "the nearest of the 2 there is deu-eng" in _fails(tmp_path, ["eng-deu"])


def test_missing_side_names_the_file_expected(tmp_path: Path) -> None:
    _write(tmp_path, "deu-eng.deu")
    _write(tmp_path, "fra-eng.fra")
    _write(tmp_path, "fra-eng.eng")
    assert str(tmp_path / "deu-eng.eng") in _fails(tmp_path)
    assert str(tmp_path / "deu-eng.eng") in _fails(tmp_path, ["fra-eng", "deu-eng"])
    assert [pair.name for pair in find_tatoeba_pairs(tmp_path, ["fra-eng"])] == ["fra-eng"]


def test_no_folder_no_pairs_and_doubled_side(tmp_path: Path) -> None:
    assert "no such folder" in _fails(tmp_path / "absent")
    assert "no sentence pairs here" in _fails(tmp_path)
    _write(tmp_path, "deu-eng.deu")
    _write(tmp_path, "deu-eng.deu.gz")
    message = _fails(tmp_path)
    assert "deu-eng.deu.gz" in message and "remove one" in message


def _pair(folder: Path, source: bytes, target: bytes, suffix: str = "") -> TatoebaPair:
    _write(folder, f"deu-eng.deu{suffix}", source)
    _write(folder, f"deu-eng.eng{suffix}", target)
    return find_tatoeba_pairs(folder)[0]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_lines_are_read_whatever_their_ends(tmp_path: Path, suffix: str) -> None:
    source = "\ufeffeins\r\nzwei\u2028halb \r\n\r\nvier".encode()
    pair = _pair(tmp_path, source, b"one\ntwo\n\nfour\n", suffix)
    assert read_sentences(pair) == (
        ["eins", "zwei\u2028halb", "", "vier"],
        ["one", "two", "", "four"],
    )
    assert read_sentences(pair, limit=2)[1] == ["one", "two"]


def test_different_line_counts_name_both_files(tmp_path: Path) -> None:
    pair = _pair(tmp_path, b"a\nb\nc\n", b"a\nb\n")
    with pytest.raises(UserError) as error:
        read_sentences(pair, limit=1)
    message = str(error.value)
    assert f"{pair.source_file}: 3 lines" in message and f"{pair.target_file} has 2" in message


def test_empty_invalid_and_truncated_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="empty file"):
        read_sentences(_pair(tmp_path, b"", b""))
    with pytest.raises(UserError, match=r"deu-eng\.eng: line 2: invalid UTF-8 at byte 1"):
        read_sentences(_pair(tmp_path, b"a\nb\n", b"a\nb\xff\n"))
    (tmp_path / "deu-eng.deu").unlink()
    packed = gzip.compress(b"ein langer Satz, der nicht ankommt\n" * 50)
    (tmp_path / "deu-eng.deu.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(CorruptDataError, match=r"deu-eng\.deu\.gz: truncated or damaged gzip"):
        read_sentences(find_tatoeba_pairs(tmp_path)[0])
