"""Opens plain, `.gz`, `.zst`, `.xz` and `.bz2` files as one kind of byte stream.

The extension says how a file is compressed, and its first bytes must agree: a gzip file named
`.txt` would otherwise reach the tokenizer as noise, and one that only claims to be compressed
would fail with a message about headers. Arrow's streams are used for gzip and zstd because they
refuse a truncated file, multi-member gzip and multi-frame zstd included (python-zstandard's
reader ends quietly on a truncated frame).
"""

from __future__ import annotations

import bz2
import lzma
from pathlib import Path, PurePosixPath
from typing import IO, Protocol
from urllib.parse import urlsplit

import pyarrow as pa

from megaxlm.errors import UserError
from megaxlm_data.readers.locations import FileFacts, facts_of, open_binary
from megaxlm_data.readers.remote import is_remote

_CODECS = {".gz": "gzip", ".zst": "zstd", ".xz": "xz", ".bz2": "bzip2"}
_MAGIC = {
    "gzip": b"\x1f\x8b",
    "zstd": b"\x28\xb5\x2f\xfd",
    "xz": b"\xfd7zXZ\x00",
    "bzip2": b"BZh",
}
_UNPACK = "unpack it and name the files in it"
_CONVERT = "convert it: iconv -f UTF-16 -t UTF-8"
_UNREADABLE = {
    b"PK\x03\x04": ("a zip archive", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    b"\xff\xfe": ("UTF-16, not UTF-8", _CONVERT),
    b"\xfe\xff": ("UTF-16, not UTF-8", _CONVERT),
}
_BLOCK = 256 << 10  # small, so that a truncated file is read almost to its end


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class TruncatedInputError(UserError):
    """A compressed input ends before its end or cannot be decompressed."""


def name_of(path: str | Path) -> PurePosixPath:
    """Returns the name that extensions are looked for in: of an address, the part before `?`."""
    text = str(path)
    return PurePosixPath(urlsplit(text.split("::")[0]).path if is_remote(text) else text)


def codec_of(path: str | Path) -> str | None:
    """Returns `gzip`, `zstd`, `xz`, `bzip2` or None, by the extension."""
    return _CODECS.get(name_of(path).suffix.lower())


def bare_name(path: str | Path) -> PurePosixPath:
    """Returns the name without the extension of a compression."""
    name = name_of(path)
    return name.with_suffix("") if name.suffix.lower() in _CODECS else name


def check_readable(path: str | Path) -> int:
    """Checks that an input exists, can be opened and is what its extension says.

    Returns:
        The size of the file in bytes.

    Raises:
        UserError: It is missing, not a file, not readable, or compressed in another way.
    """
    facts = facts_of(str(path))
    check_codec(facts)
    return facts.size or 0


def check_codec(facts: FileFacts) -> None:
    """Checks that a file is compressed as its extension says.

    Raises:
        UserError: It is compressed in another way, an archive of files, or no UTF-8.
    """
    if not facts.head:
        return
    name = name_of(facts.path)
    if name.suffix.lower() == ".tgz" or bare_name(facts.path).suffix.lower() == ".tar":
        raise UserError(f"{facts.path}: is a tar archive; {_UNPACK}")
    for magic, (kind, advice) in _UNREADABLE.items():
        if facts.head.startswith(magic):
            raise UserError(f"{facts.path}: is {kind}; {advice}")
    expected = codec_of(facts.path)
    found = next((codec for codec, magic in _MAGIC.items() if facts.head.startswith(magic)), None)
    if found == "bzip2" and expected is None and facts.head[4:10] != b"1AY&SY":
        found = None  # a text may begin with BZh
    if found != expected:
        raise UserError(
            f"{facts.path}: the extension says {expected or 'plain text'}, the content is "
            f"{found or f'not {expected}'}; give the file the right extension "
            "(.txt, .gz, .zst, .xz or .bz2)"
        )


class ByteStream:
    """The uncompressed bytes of a file, with the progress made in the file itself.

    Args:
        path: The file, a local path or an address.
        start: Where to begin, in bytes; only uncompressed files can begin elsewhere than at 0.
    """

    def __init__(self, path: str | Path, start: int = 0) -> None:
        self.path = path
        self.offset = start  # of the next byte, uncompressed
        codec = codec_of(path)
        assert codec is None or start == 0
        self._file: IO[bytes] = open_binary(path, start)
        self._empty = False  # an empty file is no error
        if codec is not None:
            self._empty = not self._file.read(1)
            self._file.seek(0)
        self._stream: _Readable = self._file
        if codec == "xz":
            self._stream = lzma.LZMAFile(self._file)
        elif codec == "bzip2":
            self._stream = bz2.BZ2File(self._file)
        elif codec is not None:
            self._stream = pa.CompressedInputStream(pa.PythonFile(self._file, mode="r"), codec)

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    @property
    def position(self) -> int:
        """Bytes of the file itself (compressed, if it is) read until now."""
        return self._file.tell()

    def read(self) -> bytes:
        """Returns the next block, empty at the end.

        Raises:
            TruncatedInputError: The compressed data breaks off or is damaged.
        """
        if self._empty:
            return b""
        try:
            block = self._stream.read(_BLOCK)
        except (EOFError, lzma.LZMAError) as error:
            raise TruncatedInputError(self._damage(str(error))) from None
        except OSError as error:
            if error.errno is not None:  # the disk's error, not the codec's
                raise UserError(f"{self.path}: cannot read the input ({error.strerror})") from None
            raise TruncatedInputError(self._damage(str(error))) from None
        self.offset += len(block)
        return block

    def _damage(self, reason: str) -> str:
        return (
            f"{self.path}: compressed data is truncated or damaged after {self.offset:,} bytes of "
            f"text ({reason}); fetch the file again"
        )
