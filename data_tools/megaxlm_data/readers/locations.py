"""Where inputs lie: local paths, patterns, folders of Arrow files, and addresses.

Everything here is asked before the build begins, so that a missing or unreadable file shows then.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from megaxlm.errors import UserError
from megaxlm_data.readers.remote import (
    RemoteFile,
    find_remote,
    is_remote,
    local_path,
    remote_facts,
)

LANGUAGE = "{lang}"
_HEAD_BYTES = 1 << 10


@dataclass(frozen=True)
class FileFacts:
    """What is known of an input before it is read."""

    path: str
    size: int | None  # bytes, as it lies there; None if its server does not say
    identity: tuple[Any, ...]  # changes when the file does, JSON-able
    head: bytes  # the first kilobyte, as it lies there


def open_binary(path: str | Path, start: int = 0) -> IO[bytes]:
    """Opens a local or remote file to read from a byte on."""
    file: Any = RemoteFile(str(path)) if is_remote(str(path)) else open(path, "rb")
    if start:
        file.seek(start)
    opened: IO[bytes] = file
    return opened


def facts_of(path: str) -> FileFacts:
    """Opens an input and looks at its beginning.

    Raises:
        UserError: It is missing, not a file or not readable.
    """
    if is_remote(path):
        size, version = remote_facts(path)
        with RemoteFile(path, block_bytes=1 << 16) as remote:
            head = remote.read(_HEAD_BYTES)
        return FileFacts(path, size, (path, size, version), head)
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
        stat = os.stat(path)
    except FileNotFoundError:
        raise UserError(f"{path}: input file does not exist; correct its path") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; name files, or use a pattern: {path}/*") from None
    except PermissionError:
        raise UserError(
            f"{path}: no permission to read the input; give this user access to it"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot read the input ({error.strerror})") from None
    identity = (str(Path(path).absolute()), stat.st_size, stat.st_mtime_ns)
    return FileFacts(path, stat.st_size, identity, head)


def find_files(patterns: list[str], where: str) -> Iterator[str]:
    """Yields the files that paths and patterns name, pattern by pattern, sorted within each.

    Args:
        patterns: Paths, addresses, wildcards, or folders that Hugging Face datasets wrote.
        where: The key of the config, for a message.

    Raises:
        UserError: A pattern matches nothing, or a folder holds no Arrow file.
    """
    for given in patterns:
        pattern = os.path.expanduser(local_path(given))
        if is_remote(pattern):
            found = find_remote(pattern)
            if found is None:
                yield pattern
                continue
        elif os.path.isdir(pattern):
            yield from _arrow_files(pattern)
            continue
        elif not glob.has_magic(pattern) or os.path.exists(pattern):
            yield pattern
            continue
        else:
            found = sorted(filter(os.path.isfile, glob.glob(pattern, recursive=True)))
        if not found:
            _check_folder(pattern, where)
            raise UserError(f"{where}: no file matches {pattern}; correct the pattern")
        yield from found


def _check_folder(pattern: str, where: str) -> None:
    """Tells a folder that may not be looked into, which matches nothing, from an empty one."""
    if is_remote(pattern):
        return
    folder = Path(pattern)
    while glob.has_magic(str(folder)) or not folder.exists():
        folder = folder.parent
    try:
        os.scandir(folder).close()
    except PermissionError:
        raise UserError(
            f"{where}: {folder}: no permission to look into the folder; give this user access to it"
        ) from None
    except OSError:
        return  # no folder


def find_by_language(patterns: list[str], where: str) -> Iterator[tuple[str, str]]:
    """Yields (language as it stands in the path, file) for patterns that hold `{lang}`.

    Raises:
        UserError: A pattern matches nothing.
    """
    for given in patterns:
        pattern = os.path.expanduser(local_path(given))
        expressions = _expressions(pattern)
        for path in find_files([pattern.replace(LANGUAGE, "*")], where):
            match = next(filter(None, (each.search(path) for each in expressions)), None)
            if match is None:
                raise UserError(f"{where}: cannot see which part of {path} is `{{lang}}`")
            yield match["lang"], path


def _expressions(pattern: str) -> list[re.Pattern[str]]:
    """Returns what matches the paths of a pattern and finds its language, the best one first.

    Some drivers spell the beginning of an address in another way than the user, with a revision or
    without: then what follows the first wildcard or `{lang}` must do.
    """
    if not is_remote(pattern):
        return [_expression(pattern, r"\A")]
    tail = pattern.partition("://")[2] or pattern
    names = tail.split("/")
    first = next(place for place, name in enumerate(names) if re.search(r"[{*?\[]", name))
    return [_expression(tail, ""), _expression("/".join(names[first:]), r"(?:\A|/)")]


def _expression(pattern: str, beginning: str) -> re.Pattern[str]:
    parts = re.split(r"(\{lang\}|\*\*/?|\*|\?|\[[^\]]*\])", pattern)
    known = {"*": "[^/]*", "?": "[^/]", "**/": "(?:.*/)?", "**": ".*"}
    out, seen = beginning, False
    for part in parts:
        if part == LANGUAGE:
            out += "(?P=lang)" if seen else "(?P<lang>[A-Za-z][A-Za-z0-9_-]*)"
            seen = True
        elif part in known:
            out += known[part]
        elif part.startswith("["):
            out += part.replace("[!", "[^")
        else:
            out += re.escape(part)
    return re.compile(out + r"\Z")


def _arrow_files(folder: str) -> list[str]:
    """Returns the shards of a data set that Hugging Face datasets saved."""
    found = sorted(glob.glob(os.path.join(glob.escape(folder), "*.arrow")))
    if found:
        return found
    if os.path.exists(os.path.join(folder, "dataset_dict.json")):
        splits = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        raise UserError(
            f"{folder}: holds several splits ({', '.join(splits)}); name one: "
            f"{os.path.join(folder, 'train')}"
        )
    raise UserError(f"{folder}: is a folder; name files, or use a pattern: {folder}/*")
