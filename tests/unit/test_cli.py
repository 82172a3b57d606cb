"""What a user sees: one line and an exit code, whatever is wrong; finished work stays."""

import errno
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from megaxlm import cli
from megaxlm.errors import UserError

Run = Callable[..., tuple[int, str]]
TEXT = {
    "en": "A cat sleeps under the old tree near the river.",
    "fr": "Un chat dort sous le vieil arbre, près de la rivière.",
}


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in this process; returns its exit code and its error lines."""
    monkeypatch.setenv("RANK", "0")

    def call(*arguments: object) -> tuple[int, str]:
        code = cli.main([str(argument) for argument in arguments])
        said = capfd.readouterr().err
        assert "Traceback" not in said
        lines = [line for line in said.splitlines() if line.startswith("megaxlm: error: ")]
        if code:
            assert lines, said
        return code, "\n".join(lines).replace("megaxlm: error: ", "")

    return call


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A recipe over two small languages; returns its path."""
    for lang, text in TEXT.items():
        documents = [f"{text} {number} {text[::-1]}" for number in range(80)]
        (tmp_path / f"{lang}.txt").write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"""\
output: {tmp_path / "data"}
corpora:
  - {{lang: en, paths: [{tmp_path / "en.txt"}]}}
  - {{lang: fr, paths: [{tmp_path / "fr.txt"}]}}
tokenizer: {{vocab_size: 340}}
validation_fraction: 0.1
workers: 1
"""
    )
    return recipe


def test_build_inspect_verify_and_a_damaged_shard(run: Run, corpus: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert run("data", "build", corpus)[0] == 0
    report = tmp_path / "report.json"
    assert (
        run("data", "inspect", data, "--alpha", "0.5", "--tokens", "1e6", "--json", report)[0] == 0
    )
    written = json.loads(report.read_text())
    assert {subset["name"] for subset in written["subsets"]} == {"en", "fr"}
    assert run("data", "verify", data)[0] == 0

    shard = next((data / "train" / "fr").glob("*.arrow"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    code, said = run("data", "verify", data)
    assert code == 1 and f"fr/{shard.name}" in said and "train/en" not in said
    shard.write_bytes(content[:-100])
    code, said = run("data", "verify", data)
    assert code == 1 and f"fr/{shard.name}" in said


@pytest.mark.parametrize(
    ("spoil", "said_words"),
    [
        (lambda folder: (folder / "fr.txt").unlink(), ["fr.txt"]),
        (lambda folder: (folder / "fr.txt").write_bytes(b""), ["fr"]),
        (lambda folder: (folder / "fr.txt").write_bytes(b"bon\n\xff\xfe\n"), ["fr.txt", "2"]),
    ],
    ids=["missing", "empty", "invalid UTF-8"],
)
def test_a_bad_text_file_is_named(
    run: Run, corpus: Path, tmp_path: Path, spoil: Callable[[Path], None], said_words: list[str]
) -> None:
    spoil(tmp_path)
    code, said = run("data", "build", corpus)
    assert code == 2 and len(said.splitlines()) == 1
    assert all(word in said for word in said_words), said
    assert not (tmp_path / "data" / "dataset.json").exists()


def test_a_truncated_archive_is_named(run: Run, corpus: Path, tmp_path: Path) -> None:
    whole = gzip.compress((tmp_path / "fr.txt").read_bytes())
    (tmp_path / "fr.txt.gz").write_bytes(whole[: len(whole) // 2])
    recipe = corpus.read_text().replace("fr.txt]", "fr.txt.gz]")
    corpus.write_text(recipe)
    code, said = run("data", "build", corpus)
    assert code == 2 and "fr.txt.gz" in said and len(said.splitlines()) == 1


def test_crlf_gives_the_same_tokens_as_lf(run: Run, corpus: Path, tmp_path: Path) -> None:
    assert run("data", "build", corpus)[0] == 0
    before = json.loads((tmp_path / "data" / "dataset.json").read_text())["subsets"]
    for lang in TEXT:
        path = tmp_path / f"{lang}.txt"
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert run("data", "build", corpus, "--set", f"output={tmp_path / 'crlf'}")[0] == 0
    assert json.loads((tmp_path / "crlf" / "dataset.json").read_text())["subsets"] == before


def test_bitext_sides_of_different_length_are_named(run: Run, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "a.en").write_text("one two three\nfour five six\n")
    (tmp_path / "a.fr").write_text("un deux trois\n")
    with corpus.open("a") as recipe:
        recipe.write(
            f"bitext:\n  - {{langs: [en, fr], source: [{tmp_path / 'a.en'}], "
            f"target: [{tmp_path / 'a.fr'}]}}\n"
        )
    code, said = run("data", "build", corpus)
    assert code == 2 and len(said.splitlines()) == 1
    assert all(word in said for word in ("a.en", "a.fr", "2", "1")), said


def test_a_misspelt_key_is_answered_with_the_right_one(run: Run, corpus: Path) -> None:
    code, said = run("data", "build", corpus, "--set", "tokenizer.vocabsize=300")
    assert code == 2 and "vocab_size" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "inspect", "/nowhere"],
        ["data", "verify", "/nowhere"],
        ["data", "build", "/nowhere.yaml"],
        ["pretrain", "/nowhere.yaml"],
        ["evaluate", "/nowhere", "--task", "perplexity"],
        ["export", "/nowhere", "/tmp/never-written"],
        ["import", "/nowhere", "/tmp/never-written"],
        ["import", "/nowhere", "/tmp/never-written", "--tokenizer", "/nowhere"],
        ["data", "sample", "/tmp/never-written", "--languages", "en,xx"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_what_is_not_there_is_named_with_exit_code_2(run: Run, arguments: list[str]) -> None:
    code, said = run(*arguments)
    assert code == 2 and len(said.splitlines()) == 1
    assert "nowhere" in said or "xx" in said
    assert not Path("/tmp/never-written").exists()


def test_a_full_disk_is_one_line(run: Run, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import megaxlm_data.pipeline

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/data/x")

    monkeypatch.setattr(megaxlm_data.pipeline, "build", full)
    code, said = run("data", "build", corpus)
    assert code == 1
    assert said.startswith("/data/x: no space left") and "same command again" in said


def test_a_defect_of_ours_is_one_line_and_debug_shows_the_traceback(
    run: Run, corpus: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import megaxlm_data.pipeline

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(megaxlm_data.pipeline, "build", broken)
    code, said = run("data", "build", corpus)
    assert code == 1 and said == (
        "internal error: ZeroDivisionError: a defect; run it again with --debug for the traceback"
    )
    assert cli.main(["data", "build", str(corpus), "--debug"]) == 1
    assert "Traceback" in capfd.readouterr().err


def test_exit_codes_of_errors() -> None:
    assert UserError("x").exit_code == 2


def test_usage_errors_exit_with_2() -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["no-such-command"])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("error", "rank", "local_rank", "said"),
    [
        (UserError("x", known_to="run"), 0, 0, "x"),
        (UserError("x", known_to="run"), 8, 0, None),
        (UserError("x"), 0, 0, "x"),
        (UserError("x"), 1, 1, None),
        (UserError("x"), 8, 0, "rank 8: x"),  # a config that the second node does not see
        (UserError("x", known_to="rank"), 3, 3, "rank 3: x"),
        (ZeroDivisionError("x"), 3, 3, "rank 3: internal error: ZeroDivisionError: x"),
        (RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer"), 1, 1, None),
        (RuntimeError("gloo/transport: x"), 0, 0, "another rank has ended"),
    ],
)
def test_of_many_ranks_the_one_that_knows_speaks(
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: Exception,
    rank: int,
    local_rank: int,
    said: str | None,
) -> None:
    import megaxlm_data.pipeline

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(megaxlm_data.pipeline, "build", fail)
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    assert cli.main(["data", "build", str(corpus)]) == (2 if isinstance(error, UserError) else 1)
    heard = capfd.readouterr().err
    assert heard.startswith(f"megaxlm: error: {said}") if said else heard == ""


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--rows", "0"),
        ("--seq-len", "4"),
        ("--limit", "-1"),
        ("--rows", "inf"),
        ("--rows", "2.5"),
        ("--limit", "nan"),
    ],
)
def test_a_number_out_of_range_is_a_usage_error(
    option: str, value: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["evaluate", "x", "--task", "perplexity", option, value])
    assert caught.value.code == 2 and option in capfd.readouterr().err
