import gzip
import lzma

import pytest
import zstandard
from megaxlm_data.readers.stream import ByteStream, TruncatedInputError, check_readable

from megaxlm.errors import UserError

COMPRESS = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress}
TEXT = b"".join(b"line %d\n" % i for i in range(100_000))


def read_all(path):
    with ByteStream(path) as stream:
        return b"".join(iter(stream.read, b""))


@pytest.mark.parametrize("suffix", COMPRESS)
def test_several_compressed_parts_are_read_as_one(tmp_path, suffix):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(COMPRESS[suffix](TEXT) + COMPRESS[suffix](b"tail"))
    assert read_all(path) == TEXT + b"tail"


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_truncated_files_are_refused(tmp_path, suffix, share):
    path = tmp_path / f"a.txt{suffix}"
    content = COMPRESS[suffix](TEXT)
    path.write_bytes(content[: max(12, int(share * len(content)))])
    with pytest.raises(TruncatedInputError, match=f"a.txt{suffix}: .*truncated or damaged"):
        read_all(path)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_an_empty_file_is_empty_text_whatever_its_extension(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.touch()
    assert check_readable(path) == 0
    assert read_all(path) == b""


def test_extension_and_content_must_agree(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(gzip.compress(b"text"))
    with pytest.raises(UserError, match="a.txt: the extension says plain text, .* gzip"):
        check_readable(path)
    path = tmp_path / "b.txt.gz"
    path.write_bytes(b"plain text")
    with pytest.raises(UserError, match="b.txt.gz: the extension says gzip, .* not gzip"):
        check_readable(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.zip", b"PK\x03\x04rest", "is a zip archive; unpack it"),
        ("a.txt", "text".encode("utf-16"), "is UTF-16, not UTF-8; convert it: iconv"),
        ("a.tar.gz", gzip.compress(b"text"), "is a tar archive; unpack it"),
        ("a.tgz", gzip.compress(b"text"), "is a tar archive; unpack it"),
    ],
)
def test_what_is_no_text_says_what_it_is(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: {said}"):
        check_readable(tmp_path / name)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="nothing.txt: input file does not exist"):
        check_readable(tmp_path / "nothing.txt")
    with pytest.raises(UserError, match="is a folder"):
        check_readable(tmp_path)
