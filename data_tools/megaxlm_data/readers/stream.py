"""Opens `.txt`, `.gz`, `.zst` and `.xz` as one kind of byte stream.

The extension says how a file is compressed, and its first bytes must agree: a gzip file named
`.txt` would otherwise reach the tokenizer as noise, and one that only claims to be compressed
would fail with a message about headers. Arrow's streams are used for gzip and zstd because they
refuse a truncated file, multi-member gzip and multi-frame zstd included (python-zstandard's
reader ends quietly on a truncated frame).
"""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import IO, Protocol

import pyarrow as pa

from megaxlm.errors import UserError

_CODECS = {".gz": "gzip", ".zst": "zstd", ".xz": "xz"}
_MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd", "xz": b"\xfd7zXZ\x00"}
_BLOCK = 256 << 10  # small, so that a truncated file is read almost to its end


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class TruncatedInputError(UserError):
    """A compressed input ends before its end or cannot be decompressed."""


def codec_of(path: Path) -> str | None:
    """Returns `gzip`, `zstd`, `xz` or None, by the extension."""
    return _CODECS.get(path.suffix.lower())


def check_readable(path: Path) -> int:
    """Checks that an input exists, can be opened and is what its extension says.

    Returns:
        The size of the file in bytes.

    Raises:
        UserError: It is missing, not a file, not readable, or compressed in another way.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(8)
        size = path.stat().st_size
    except FileNotFoundError:
        raise UserError(f"{path}: input file does not exist; correct its path") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; name files, or use a pattern: {path}/*") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read the input ({error.strerror})") from None
    if not head:
        return 0
    expected = codec_of(path)
    found = next((codec for codec, magic in _MAGIC.items() if head.startswith(magic)), None)
    if found != expected:
        raise UserError(
            f"{path}: the extension says {expected or 'plain text'}, the content is "
            f"{found or f'not {expected}'}; give the file the right extension "
            "(.txt, .gz, .zst or .xz)"
        )
    return size


class ByteStream:
    """The uncompressed bytes of a file, with the progress made in the file itself.

    Args:
        path: The file.
        start: Where to begin, in bytes; only uncompressed files can begin elsewhere than at 0.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        self.path = path
        self.offset = start  # of the next byte, uncompressed
        self._file: IO[bytes] = open(path, "rb")  # noqa: SIM115 (closed by __exit__)
        codec = codec_of(path)
        assert codec is None or start == 0
        self._file.seek(start)
        self._empty = codec is not None and path.stat().st_size == 0  # an empty file is no error
        self._stream: _Readable = self._file
        if codec == "xz":
            self._stream = lzma.LZMAFile(self._file)
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
