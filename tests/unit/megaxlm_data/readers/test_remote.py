"""Addresses: a file system that stumbles, one of memory, and a small web server on this machine."""

import functools
import gzip
import http.server
import lzma
import threading

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from megaxlm_data.readers import remote
from megaxlm_data.readers.columnar import ParquetReader, parquet_facts
from megaxlm_data.readers.lines import LineReader
from megaxlm_data.readers.locations import facts_of, find_by_language, find_files
from megaxlm_data.readers.records import FieldNames, Policies
from megaxlm_data.readers.remote import ATTEMPTS, RemoteFile, find_remote, is_remote, local_path
from megaxlm_data.readers.stream import ByteStream, TruncatedInputError, check_readable

from megaxlm.errors import UserError

LINES = [f"line {number} " + "x" * (number % 60) for number in range(20_000)]
TEXT = "\n".join(LINES).encode()


class Trouble:
    """What goes wrong next: so many times, with this error, after so many bytes of a read."""

    left = 0
    error: Exception = ConnectionResetError("the line is dead")
    reads = 0
    opened = 0
    most_bytes = None  # that one read gives

    @classmethod
    def strike(cls):
        if cls.left:
            cls.left -= 1
            raise cls.error


class FlakyFile:
    def __init__(self, file):
        self._file = file
        self.size = file.getbuffer().nbytes

    def read(self, size=-1):
        Trouble.reads += 1
        if Trouble.reads % 3 == 0:
            Trouble.strike()
        return self._file.read(Trouble.most_bytes or size)

    def seek(self, *place):
        return self._file.seek(*place)

    def seekable(self):
        return True

    def close(self):
        pass


class FlakyFileSystem(MemoryFileSystem):
    protocol = "flaky"
    store = {}
    pseudo_dirs = [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("flaky://", "memory://"))

    def open(self, path, mode="rb", **options):
        Trouble.opened += 1
        file = super().open(path, mode)
        file.seek(0)
        return FlakyFile(file) if mode == "rb" else file

    def info(self, path, **options):
        Trouble.strike()
        return super().info(path, **options)


class StrictFileSystem(FlakyFileSystem):
    """Takes settings of reads for each file, and none when it is made, as that of `s3://` does."""

    protocol = "strict"
    settings = []

    def __init__(self):
        super().__init__()

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("strict://", "flaky://"))

    def open(self, path, mode="rb", **options):
        self.settings.append(options)
        return super().open(path, mode)


@pytest.fixture(autouse=True)
def flaky(monkeypatch):
    """The files of `flaky://`; no test waits between its tries."""
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
    waits = []
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    monkeypatch.setattr(Trouble, "left", 0)
    monkeypatch.setattr(Trouble, "reads", 0)
    monkeypatch.setattr(Trouble, "opened", 0)
    monkeypatch.setattr(Trouble, "most_bytes", None)
    monkeypatch.setattr(Trouble, "error", ConnectionResetError("the line is dead"))
    monkeypatch.setattr(FlakyFileSystem, "store", {})
    monkeypatch.setattr(FlakyFileSystem, "pseudo_dirs", [""])
    return waits


def put(path, content):
    with fsspec.open(f"flaky://{path}", "wb") as file:
        file.write(content)
    return f"flaky://{path}"


def refused(act):
    with pytest.raises(UserError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_addresses_are_told_from_paths():
    for address in ("s3://b/k", "hf://datasets/x/y", "zip://a.txt::s3://b/z.zip", "https://h/x"):
        assert is_remote(address)
    for path in ("raw/a.txt", "/a/b", "./x:y", "~/a", "C_x/y"):
        assert not is_remote(path)
    assert local_path("file:///tmp/a.txt") == "/tmp/a.txt"


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.txt", bytes),
        ("a.gz", gzip.compress),
        ("a.xz", functools.partial(lzma.compress, preset=0)),
    ],
)
def test_reading_goes_on_where_the_line_broke(flaky, name, pack):
    url = put(f"/raw/{name}", pack(TEXT))
    Trouble.left, Trouble.most_bytes = ATTEMPTS - 1, 1000
    with LineReader(url, "fail", 1 << 20) as reader:
        lines = [line for block in reader for line in block.lines]
    assert lines == LINES
    assert Trouble.left == 0
    assert len(flaky) == ATTEMPTS - 1
    assert Trouble.opened > ATTEMPTS - 1


def test_a_connection_that_ends_early_without_a_word_is_no_end_of_the_file(monkeypatch):
    url = put("/a.txt", TEXT)
    real, ended = FlakyFile.read, []

    def read(self, size=-1):
        if self._file.tell() > 100_000 and not ended:
            ended.append(True)
            return b""
        return real(self, size)

    monkeypatch.setattr(FlakyFile, "read", read)
    with LineReader(url, "fail", 1 << 20) as reader:
        assert [line for block in reader for line in block.lines] == LINES
    assert ended


def test_the_waits_grow_and_then_it_is_one_line(flaky):
    url = put("/a.txt", TEXT)
    Trouble.left = 1000
    assert refused(lambda: facts_of(url)) == (
        f"flaky:///a.txt: cannot read the input after {ATTEMPTS} attempts (the line is dead); look "
        "at the network and the server, then run the same command again"
    )
    assert flaky == [1, 2, 4, 8, 16]


def test_an_error_of_the_network_inside_a_compressed_stream_keeps_its_name():
    url = put("/a.txt.gz", gzip.compress(TEXT, 0))
    with ByteStream(url) as stream:
        stream.read()
        Trouble.left = 1000
        FlakyFile.read, real = lambda self, size=-1: Trouble.strike(), FlakyFile.read
        try:
            message = refused(lambda: [stream.read() for _ in range(100)])
        finally:
            FlakyFile.read = real
    assert "cannot read the input after" in message


def test_what_will_not_pass_is_not_tried_again(flaky):
    put("/raw/a.txt", b"x")
    for error, words in (
        (FileNotFoundError("gone"), "input file does not exist; correct its path"),
        (PermissionError("Forbidden"), "no permission to read the input (Forbidden); give this"),
        (type("NoCredentialsError", (Exception,), {})("none found"), "(none found); give this"),
    ):
        Trouble.left, Trouble.error = 1, error
        assert words in refused(lambda: facts_of("flaky:///raw/a.txt"))
    assert "flaky:///raw: is a folder; name files, or use a pattern: flaky:///raw/*" in refused(
        lambda: facts_of("flaky:///raw")
    )
    assert "no.txt: input file does not exist" in refused(lambda: facts_of("flaky:///raw/no.txt"))
    assert flaky == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://bucket/a.txt", "the driver for s3:// is not installed; install it: pip install "
         "'megaxlm[s3]'"),
        ("gs://bucket/*.txt", "the driver for gs:// is not installed; install it: pip install "
         "'megaxlm[gcs]'"),
        ("nosuch://a", "no driver knows addresses that begin with nosuch://; correct the path"),
    ],
)  # fmt: skip
def test_a_missing_driver_says_what_to_install(monkeypatch, url, words):
    def none(address):
        raise ImportError("Install s3fs to access S3")

    if not url.startswith("nosuch"):  # the driver may be here
        monkeypatch.setattr(remote, "url_to_fs", none)
    assert refused(lambda: [facts_of(path) for path in find_files([url], "x")]) == f"{url}: {words}"


def test_patterns_give_addresses_in_order_and_files_alone(monkeypatch):
    for name in ("raw/en/b.txt", "raw/en/a.txt", "raw/zh_TW/a.txt", "raw/en/deep/c.txt", "raw/x"):
        put(f"/{name}", b"x")
    assert list(find_files(["flaky://raw/*/*.txt"], "x")) == [
        "flaky:///raw/en/a.txt",
        "flaky:///raw/en/b.txt",
        "flaky:///raw/zh_TW/a.txt",
    ]
    assert list(find_by_language(["flaky://raw/{lang}/**/*.txt"], "x"))[-1] == (
        "zh_TW",
        "flaky:///raw/zh_TW/a.txt",
    )
    assert find_remote("flaky://raw/en/a.txt") is None
    assert refused(lambda: list(find_files(["flaky://raw/*.gz"], "corpora.0.paths"))) == (
        "corpora.0.paths: no file matches flaky://raw/*.gz; correct the pattern"
    )
    # a driver that puts a revision into the name
    monkeypatch.setattr(
        FlakyFileSystem, "unstrip_protocol", lambda self, name: f"flaky://set@main{name[4:]}"
    )
    assert list(find_by_language(["flaky://raw/{lang}/*.txt"], "x")) == [
        ("en", "flaky://set@main/en/a.txt"),
        ("en", "flaky://set@main/en/b.txt"),
        ("zh_TW", "flaky://set@main/zh_TW/a.txt"),
    ]


def test_a_changed_file_is_another_one():
    url = put("/a.txt", b"one")
    first = facts_of(url)
    assert first == facts_of(url)
    put("/a.txt", b"two")
    assert facts_of(url).identity != first.identity
    assert (first.size, first.head) == (3, b"one")


def test_an_archive_cut_in_half_and_an_empty_file():
    url = put("/a.txt.gz", gzip.compress(TEXT)[:5000])
    with pytest.raises(
        TruncatedInputError, match="flaky:///a.txt.gz: compressed data is truncated"
    ):
        with ByteStream(url) as stream:
            while stream.read():
                pass
    assert check_readable(put("/b.txt.gz", b"")) == 0
    with ByteStream("flaky:///b.txt.gz") as stream:
        assert stream.read() == b""


def test_row_groups_of_a_remote_parquet_file(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": range(20_000), "text": LINES}), path, row_group_size=5_000)
    url = put("/a.parquet", path.read_bytes())
    assert len(parquet_facts(url).part_bytes) == 4
    Trouble.left = 1
    with ParquetReader(url, FieldNames(("text",), 1, ("text_field",)), Policies(), 1, 3) as reader:
        assert [row[0] for row in reader] == LINES[5_000:15_000]
    assert Trouble.left == 0
    url = put("/b.parquet", path.read_bytes()[:-100])
    assert "is no Parquet file, or is damaged or cut off" in refused(lambda: parquet_facts(url))


class Handler(http.server.SimpleHTTPRequestHandler):
    """Gives whole files alone, as many web servers do; every second answer breaks off."""

    answers = 0

    def log_message(self, *words):
        pass

    def copyfile(self, source, target):
        Handler.answers += 1
        content = source.read()
        if Handler.answers % 2 == 0 and len(content) > 5000:
            content = content[: len(content) // 3]
        try:
            target.write(content)
        except ConnectionError:
            pass


def test_a_web_server_that_breaks_off(tmp_path):
    pytest.importorskip("aiohttp")
    (tmp_path / "a.txt").write_bytes(TEXT)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(TEXT))
    handler = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            base = f"http://127.0.0.1:{server.server_port}"
            for name in ("a.txt", "b.txt.gz?download=1"):
                facts = facts_of(f"{base}/{name}")
                assert facts.size == (tmp_path / name.split("?")[0]).stat().st_size
                assert any(key == "Last-Modified" for key, _ in facts.identity[2])
                with LineReader(f"{base}/{name}", "fail", 1 << 20) as reader:
                    lines = [line for block in reader for line in block.lines]
                assert lines == LINES
            assert refused(lambda: facts_of(f"{base}/no.txt")) == (
                f"{base}/no.txt: input file does not exist; correct its path"
            )
            assert list(find_files([f"{base}/*.txt"], "x")) == [f"{base}/a.txt"]
        finally:
            server.shutdown()
            thread.join()


class Overloaded(http.server.BaseHTTPRequestHandler):
    """Says that it has too much to do, and what it is told to say later."""

    answers = [503, 503, 503, 403]

    def do_GET(self):
        self.send_error(Overloaded.answers.pop(0) if len(self.answers) > 1 else self.answers[0])

    do_HEAD = do_GET

    def log_message(self, *words):
        pass


def test_a_server_that_is_overloaded_or_not_there_is_no_missing_file(flaky):
    pytest.importorskip("aiohttp")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Overloaded) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/a.txt"
        try:
            message = refused(lambda: facts_of(url))
        finally:
            server.shutdown()
            thread.join()
    assert flaky  # it was tried again until the answer was another one
    assert message.startswith(f"{url}: the server refuses to give the input (403, ")
    flaky.clear()
    assert refused(lambda: facts_of(url)).startswith(
        f"{url}: cannot read the input after {ATTEMPTS} attempts (Cannot connect to host 127.0.0.1"
    )
    assert flaky == [1, 2, 4, 8, 16]


def test_seeking_in_a_file_whose_size_is_not_known(monkeypatch):
    url = put("/a.txt", TEXT)
    monkeypatch.setattr(remote, "_can_seek", lambda file: False)
    with RemoteFile(url) as file:
        assert file.read(10) == TEXT[:10]
        file.seek(1000)
        assert file.read(10) == TEXT[1000:1010]
        file.seek(5)
        assert file.read(5) == TEXT[5:10]
        assert file.tell() == 10


def test_how_much_is_fetched_is_said_when_a_file_is_opened():
    fsspec.register_implementation("strict", StrictFileSystem, clobber=True)
    put("a.txt", b"one\ntwo\n")
    with remote.RemoteFile("strict://a.txt", block_bytes=1 << 20) as file:
        assert file.read() == b"one\ntwo\n"
    assert StrictFileSystem.settings == [{"block_size": 1 << 20, "cache_type": "readahead"}]
