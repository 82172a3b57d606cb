"""Files that lie elsewhere: any address fsspec knows, read as a stream, with another try.

A network that stumbles is no reason to lose an hour of work: an error that may pass is tried again
after 1, 2, 4, 8 and 16 seconds, and reading goes on at the byte where it broke off. What will not
pass (no such file, no permission, no driver) is said at once. Credentials come from where each
driver looks for them, the environment first; `FSSPEC_S3_ANON=true` reads public buckets.
"""

from __future__ import annotations

import glob
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from fsspec.core import url_to_fs

from megaxlm.errors import EXIT_FOUND_WRONG, UserError

T = TypeVar("T")

ATTEMPTS = 6
FIRST_WAIT_SECONDS = 1.0  # doubled after every try
_BLOCK_BYTES = 4 << 20  # fetched at once
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*(://|::)")
_EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "http": "http",
    "https": "http",
    "hf": "hf",
}
# What the drivers call the version of a file; any of them tells a changed file from the old one.
_VERSION_KEYS = (
    "ETag",
    "etag",
    "md5Hash",
    "Content-MD5",
    "Digest",
    "content_md5",
    "checksum",
    "crc32c",
    "generation",
    "VersionId",
    "blob_id",
    "xet_hash",
    "LastModified",
    "last_modified",
    "Last-Modified",
    "updated",
    "mtime",
    "created",
)
_MAY_PASS = {408, 425, 429}  # of HTTP: time out, too early, too many requests


def is_remote(path: str) -> bool:
    """Returns whether a path is an address such as `s3://bucket/file` and no local path."""
    return _ADDRESS.match(path) is not None


def local_path(path: str) -> str:
    """Returns a local path as it is, and a `file://` address as the path it stands for."""
    return path.removeprefix("file://") if path.startswith("file:///") else path


def find_remote(pattern: str) -> list[str] | None:
    """Returns the addresses that match a pattern, sorted; None if it holds no wildcard.

    Raises:
        UserError: The place cannot be reached, or its driver is not installed.
    """
    is_http = pattern.startswith(("http://", "https://"))
    if not (glob.has_magic(pattern.replace("?", "")) if is_http else glob.has_magic(pattern)):
        return None

    def search() -> list[str]:
        system, path = url_to_fs(pattern)
        system.invalidate_cache()
        found: dict[str, dict[str, Any]] = system.glob(path, detail=True)
        files = [name for name, facts in found.items() if facts.get("type") != "directory"]
        return sorted(str(system.unstrip_protocol(name)) for name in files)

    return retrying(pattern, search)


def remote_facts(url: str) -> tuple[int | None, list[tuple[str, str]]]:
    """Returns the size of a file, None if its server does not say, and what tells its version.

    Raises:
        UserError: There is no such file, or it cannot be reached.
    """

    def ask() -> dict[str, Any]:
        system, path = url_to_fs(url)
        system.invalidate_cache()
        facts: dict[str, Any] = system.info(path)
        if facts.get("type") == "directory":
            raise IsADirectoryError(url)
        return facts

    facts = retrying(url, ask)
    size = facts.get("size")
    version = [(key, str(facts[key])) for key in _VERSION_KEYS if facts.get(key) is not None]
    return (None if size is None else int(size)), version


class RemoteFile:
    """A remote file to read, which opens itself again where it was when the network fails.

    Args:
        url: The address.
        block_bytes: How much is fetched at once.
    """

    def __init__(self, url: str, block_bytes: int = _BLOCK_BYTES) -> None:
        self._url, self._block_bytes = url, block_bytes
        self._position = 0
        self._file: Any = None
        self.closed = False
        retrying(url, self._opened)

    def __enter__(self) -> RemoteFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def readable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True: where a server cannot seek, a new read passes over what comes before."""
        return True

    def writable(self) -> bool:
        """Returns False."""
        return False

    def tell(self) -> int:
        """Returns the place of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        """Goes to a place, counted from the start (0), from here (1) or from the end (2)."""
        if whence == 2:
            size = getattr(retrying(self._url, self._opened), "size", None)
            if size is None:
                raise UserError(
                    f"{self._url}: its server does not tell its size, which this format needs; "
                    "copy the file to a disk and read it there"
                )
            offset += int(size)
        elif whence == 1:
            offset += self._position
        if offset != self._position:
            if self._file is not None and not _can_seek(self._file):
                self._drop()
            elif self._file is not None:
                self._file.seek(offset)
            self._position = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        """Returns the next bytes, empty at the end.

        Raises:
            UserError: The file cannot be read, and trying again did not help.
        """

        def fetch() -> bytes:
            file = self._opened()
            data = bytes(file.read(size))
            if not data and size and self._position < (getattr(file, "size", None) or 0):
                raise ConnectionError("the connection ended before the file did")
            return data

        data = retrying(self._url, fetch, self._drop)
        self._position += len(data)
        return data

    def flush(self) -> None:
        """Does nothing; Arrow asks for it."""

    def close(self) -> None:
        """Closes the file."""
        self._drop()
        self.closed = True

    def _opened(self) -> Any:
        if self._file is None:
            system, path = url_to_fs(self._url)
            # Asked for a file: to a file system some drivers (s3fs) do not take these.
            file = system.open(path, "rb", block_size=self._block_bytes, cache_type="readahead")
            try:
                if self._position:
                    _go_to(file, self._position)
            except BaseException:
                file.close()
                raise
            self._file = file
        return self._file

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except Exception:  # noqa: S110 (what is thrown away may be broken)
                pass


def _can_seek(file: Any) -> bool:
    return getattr(file, "size", None) is not None and bool(file.seekable())


def _go_to(file: Any, position: int) -> None:
    if _can_seek(file):
        file.seek(position)
        return
    while position > 0:
        data = file.read(min(position, _BLOCK_BYTES))
        if not data:
            raise ConnectionError("the file is shorter than before")
        position -= len(data)


def retrying(url: str, act: Callable[[], T], between: Callable[[], None] = lambda: None) -> T:
    """Does something over the network, again after an error that may pass.

    Args:
        url: What it is about, for the message.
        act: What to do.
        between: Called before each new try.

    Raises:
        UserError: The error is of the kind that stays, or it came `ATTEMPTS` times.
    """
    wait = FIRST_WAIT_SECONDS
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return act()
        except UserError:
            raise
        except Exception as caught:
            error = _root(caught)
            if (message := _lasting(url, error)) is not None:
                raise UserError(f"{url}: {message}") from None
            if attempt == ATTEMPTS:
                raise UserError(
                    f"{url}: cannot read the input after {ATTEMPTS} attempts ({_line(error)}); "
                    "look at the network and the server, then run the same command again",
                    EXIT_FOUND_WRONG,
                ) from None
        between()
        time.sleep(wait)
        wait *= 2
    raise AssertionError("unreachable")


def _root(error: Exception) -> Exception:
    """Returns the real error where fsspec calls it a missing file, as it does for all of HTTP."""
    if isinstance(error, FileNotFoundError):
        cause = error.__cause__ or error.__context__
        status = getattr(cause, "status", None)
        of_server = isinstance(status, int) and status not in (404, 410)
        of_network = isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
        if isinstance(cause, Exception) and (of_server or of_network):
            return cause
    return error


def _lasting(url: str, error: Exception) -> str | None:
    """Returns what to say of an error that another try will not mend, or None."""
    protocol = re.split("://|::", url)[0].lower()
    if isinstance(error, FileNotFoundError):
        return "input file does not exist; correct its path"
    if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        return f"no permission to read the input ({_line(error)}); give this user access"
    if isinstance(error, IsADirectoryError):
        return f"is a folder; name files, or use a pattern: {url.rstrip('/')}/*"
    if isinstance(error, ImportError):
        extra = _EXTRAS.get(protocol)
        what = f"pip install 'megaxlm[{extra}]'" if extra else f"{_line(error)}"
        return f"the driver for {protocol}:// is not installed; install it: {what}"
    if isinstance(error, ValueError) and "rotocol not known" in str(error):
        return f"no driver knows addresses that begin with {protocol}://; correct the path"
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500 and status not in _MAY_PASS:
        return f"the server refuses to give the input ({_line(error)}); correct its path or access"
    return None


def _line(error: BaseException) -> str:
    """Returns an error as one line."""
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__
