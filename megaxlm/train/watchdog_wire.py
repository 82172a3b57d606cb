"""The watchdog's messages: short frames over one TCP connection a rank, never waited for.

A frame is a kind (1 byte), a number (8 bytes), the length of a text (2 bytes) and the text in
UTF-8. Sockets are non-blocking: a peer that is stopped must not stop the one that watches it.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from enum import IntEnum
from typing import NamedTuple

HEADER = struct.Struct("!BQH")
MAX_TEXT = 16_384  # bytes; a verdict that names many ranks is the longest
RECEIVE_BYTES = 65_536
MAX_RECEIVES = 4  # at a time: one that sends without end must not keep the others waiting


class Kind(IntEnum):
    """What a frame says."""

    HELLO = 1  # first of a rank: the token and who it is
    WELCOME = 2  # the answer to it
    BEAT = 3  # alive; the number counts the main thread's progress, a text names a new phase
    LEFT = 4  # the main thread has come to its end
    FAILED = 5  # so it has, by an error
    END = 6  # rank 0's verdict: the run ends now
    DONE = 7  # a rank has written its stacks and is about to exit


KNOWN = frozenset(int(kind) for kind in Kind)


class Frame(NamedTuple):
    """One message."""

    kind: Kind
    number: int = 0
    text: str = ""


class MalformedError(Exception):
    """Bytes that are no frame: whoever sent them is no rank of ours."""


class Wire:
    """One connection; frames that do not fit into the socket's buffer wait here.

    Args:
        connection: Connected; becomes non-blocking.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self.lost = False  # the other process is gone, or the connection to it
        self._inbox, self._outbox = bytearray(), bytearray()

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._outbox

    def send(self, kind: Kind, number: int = 0, text: str = "") -> None:
        """Sends a frame, or keeps it for the next `flush` where the socket takes no more."""
        content = text.encode()[:MAX_TEXT]
        self._outbox += HEADER.pack(kind, number, len(content)) + content
        self.flush()

    def flush(self) -> None:
        """Sends what still waits."""
        while self._outbox and not self.lost:
            try:
                sent = self.connection.send(self._outbox)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self.lost = True
            else:
                del self._outbox[:sent]

    def receive(self) -> list[Frame]:
        """Returns the frames that have come; an ended connection sets `lost`.

        Raises:
            MalformedError: The other side speaks another language.
        """
        for _ in range(MAX_RECEIVES):
            if self.lost:
                break
            try:
                content = self.connection.recv(RECEIVE_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self.lost = True
                break
            self.lost = not content
            self._inbox += content
            if len(content) < RECEIVE_BYTES:
                break
        return self._frames() if self._inbox else []

    def close(self) -> None:
        """Closes the connection."""
        self.lost = True
        self.connection.close()

    def _frames(self) -> list[Frame]:
        frames, start = [], 0
        while len(self._inbox) - start >= HEADER.size:
            kind, number, length = HEADER.unpack_from(self._inbox, start)
            end = start + HEADER.size + length
            if length > MAX_TEXT or kind not in KNOWN:
                raise MalformedError
            if end > len(self._inbox):
                break
            text = self._inbox[start + HEADER.size : end].decode(errors="replace")
            frames.append(Frame(Kind(kind), number, text))
            start = end
        del self._inbox[:start]
        return frames
