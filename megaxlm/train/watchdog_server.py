"""Rank 0's part in the watch: hears every rank, is heard by them, and judges for all.

One thread serves all connections, a few times a second, so that a thousand ranks cost the training
thread no more than a few milliseconds each time.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from megaxlm.train import watchdog_report as report
from megaxlm.train.watchdog_report import Member, Verdict
from megaxlm.train.watchdog_sides import SPEAK_SECONDS, Limits, Loss, Offer, Progress, inherit_not
from megaxlm.train.watchdog_wire import Frame, Kind, MalformedError, Wire

HELLO_SECONDS = 10.0  # for a connection to say who it is
MAX_STRANGERS = 4096  # connections that have not; the kernel queues no more either
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass
class Peer:
    """Another rank, as rank 0 knows it."""

    wire: Wire
    member: Member
    heard: float
    progress: Progress = Progress()
    done: bool = False  # its stacks are written
    given_up: bool = False  # it does not answer


class Server:
    """Listens for the other ranks; `offer` is to be handed to them.

    Args:
        address: The name under which the other ranks know this host (MASTER_ADDR).
        member: This process.
        world_size: Ranks, this one in.
        limits: When a rank or the run is given up.
        run_id: Names this start of the run.
        stacks: Folder for the stacks.

    Raises:
        OSError: No port can be had.
    """

    def __init__(
        self,
        address: str,
        member: Member,
        world_size: int,
        limits: Limits,
        run_id: str,
        stacks: Path,
    ) -> None:
        self._listener = _listen(address)
        inherit_not(self._listener)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._world_size, self._limits, self._stacks = world_size, limits, stacks
        hosts = tuple(dict.fromkeys((address, member.host)))
        port = int(self._listener.getsockname()[1])
        self.offer = Offer(hosts, port, secrets.token_hex(16), run_id, member)
        self._strangers: dict[Wire, float] = {}  # by the time at which they came
        self._peers: dict[int, Peer] = {}
        self._ranks: dict[Wire, int] = {}
        self._mine = Progress()
        self._phase_sent = ""
        self._moved = self._next_beat = time.monotonic()
        self._loss: Loss | None = None

    def tick(self, now: float, progress: Progress) -> Verdict | None:
        """Hears every rank, tells them that this one is alive, and judges."""
        if progress.count != self._mine.count:
            self._moved = now
        self._mine = progress
        self._hear(now)
        if now >= self._next_beat:
            self._beat()
            self._next_beat = now + self._limits.interval
        verdict = self._judge(now)
        if verdict is not None:
            text = verdict.to_json()
            for peer in self._peers.values():
                peer.wire.send(Kind.END, 0, text)
        return verdict

    def leave(self, failed: bool) -> bool:
        """Stays until the others have left: they are watched to the last."""
        if self._loss is not None:
            thread = self._loss.speak(self)
            if thread is not None:
                thread.join(SPEAK_SECONDS)
        elif failed and self._peers:
            line = report.ended_line(self.offer.member, self._mine.phase, True, self._stacks)
            verdict = Verdict(line, run_id=self.offer.run_id)
            self._loss = Loss(verdict, time.monotonic(), failed=True)
        return not self._peers

    def speak(self, verdict: Verdict) -> None:
        """Prints the line and keeps it."""
        report.say(verdict.line)  # first: the file system may be what hangs
        report.claim(self._stacks, verdict)

    def part(self, seconds: float) -> None:
        """Waits until every rank that answers has written its stacks."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._hear(time.monotonic())
            if all(peer.done or peer.given_up for peer in self._peers.values()):
                return
            time.sleep(0.02)

    def close(self) -> None:
        """Closes every connection and the port."""
        for wire in [*self._strangers, *self._ranks]:
            wire.close()
        self._selector.close()
        self._listener.close()

    def _hear(self, now: float) -> None:
        for key, _ in self._selector.select(0):
            if key.fileobj is self._listener:
                self._accept(now)
                continue
            wire: Wire = key.data
            try:
                frames = wire.receive()
            except MalformedError:
                frames = []
                wire.lost = True
            if wire in self._ranks:
                self._take(self._peers[self._ranks[wire]], frames, now)
            else:
                self._admit(wire, frames, now)
        for peer in list(self._peers.values()):
            peer.wire.flush()
            if peer.wire.lost:
                self._lose(peer, now)
        for wire, since in list(self._strangers.items()):
            if wire.lost or now - since > HELLO_SECONDS:
                self._dismiss(wire)

    def _accept(self, now: float) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # gone again, or no descriptor is free
                return
            if len(self._strangers) >= MAX_STRANGERS:
                connection.close()
                continue
            inherit_not(connection)
            wire = Wire(connection)
            self._strangers[wire] = now
            self._selector.register(connection, selectors.EVENT_READ, wire)

    def _admit(self, wire: Wire, frames: list[Frame], now: float) -> None:
        if not frames:
            return
        member = self._identify(frames[0])
        if member is None:
            self._dismiss(wire)
            return
        del self._strangers[wire]
        peer = Peer(wire, member, now)
        self._ranks[wire], self._peers[member.rank] = member.rank, peer
        self._moved = now  # a rank that is there has got on
        wire.send(Kind.WELCOME)
        self._take(peer, frames[1:], now)

    def _identify(self, frame: Frame) -> Member | None:
        """Returns the rank that a first frame proves, None for a stranger's."""
        if frame.kind != Kind.HELLO:
            return None
        try:
            content = json.loads(frame.text)
            token = str(content["token"]).encode()
            if not hmac.compare_digest(token, self.offer.token.encode()):
                return None
            member = Member(**content["member"])
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        known = 0 < member.rank < self._world_size and member.rank not in self._peers
        return member if known else None

    def _take(self, peer: Peer, frames: list[Frame], now: float) -> None:
        for kind, number, text in frames:
            peer.heard = now
            if kind == Kind.BEAT:
                if number != peer.progress.count:
                    self._moved = now
                peer.progress = Progress(number, text or peer.progress.phase)
            elif kind == Kind.DONE:
                peer.done = True
            elif kind == Kind.LEFT:
                self._moved = now
                self._forget(peer)
                return
            elif kind == Kind.FAILED:
                self._lose(peer, now, failed=True)
                return

    def _lose(self, peer: Peer, now: float, failed: bool = False) -> None:
        self._forget(peer)
        # A rank that fails because another has died may be heard first.
        if self._loss is None or (self._loss.failed and not failed):
            line = report.ended_line(peer.member, peer.progress.phase, failed, self._stacks)
            self._loss = Loss(Verdict(line, run_id=self.offer.run_id), now, failed)

    def _forget(self, peer: Peer) -> None:
        del self._peers[peer.member.rank], self._ranks[peer.wire]
        self._close(peer.wire)

    def _dismiss(self, wire: Wire) -> None:
        del self._strangers[wire]
        self._close(wire)

    def _close(self, wire: Wire) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(wire.connection)
        wire.close()

    def _beat(self) -> None:
        text = "" if self._mine.phase == self._phase_sent else self._mine.phase
        self._phase_sent = self._mine.phase
        for peer in self._peers.values():
            # What a stopped rank has not taken yet need not be followed by more.
            if peer.wire.idle or text:
                peer.wire.send(Kind.BEAT, self._mine.count, text)

    def _judge(self, now: float) -> Verdict | None:
        if self._loss is not None:
            return self._loss.due(self, now)
        limits, run_id = self._limits, self.offer.run_id
        silent = [peer for peer in self._peers.values() if now - peer.heard > limits.silence]
        # One interval more, so that all ranks of a host that stopped are named together.
        if any(now - peer.heard > limits.silence + limits.interval for peer in silent):
            for peer in silent:
                peer.given_up = True
            members = tuple(sorted((peer.member for peer in silent), key=lambda m: m.rank))
            phases = {peer.member.rank: peer.progress.phase for peer in silent}
            seconds = max(now - peer.heard for peer in silent)
            line = report.silent_line(members, seconds, phases, self._stacks)
            return Verdict(line, members, run_id)
        if now - self._moved < limits.stall:
            return None
        phases = {rank: peer.progress.phase for rank, peer in self._peers.items()}
        phases[0] = self._mine.phase
        return Verdict(report.stalled_line(phases, now - self._moved, self._stacks), run_id=run_id)


def _listen(address: str) -> socket.socket:
    """Listens on a free port; on the loopback alone where the run stays on this host."""
    if address in LOOPBACK:
        listener = socket.create_server(("127.0.0.1", 0), backlog=MAX_STRANGERS)
    elif socket.has_dualstack_ipv6():
        listener = socket.create_server(
            ("", 0), family=socket.AF_INET6, backlog=MAX_STRANGERS, dualstack_ipv6=True
        )
    else:
        listener = socket.create_server(("", 0), backlog=MAX_STRANGERS)
    listener.setblocking(False)
    return listener


def new_run_id(clock: Callable[[], float] = time.time) -> str:
    """Returns a name for one start of a run, in order of time."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(clock())) + f"-{secrets.token_hex(2)}"
