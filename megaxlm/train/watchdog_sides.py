"""What a rank's watchdog does at each tick: alone, or as one that reports to rank 0."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from megaxlm.config.pretrain import FaultsConfig
from megaxlm.errors import EXIT_FOUND_WRONG, UserError
from megaxlm.train import watchdog_report as report
from megaxlm.train.watchdog_report import Member, Verdict
from megaxlm.train.watchdog_wire import Frame, Kind, MalformedError, Wire

CONNECT_SECONDS = 30.0  # for a rank to reach rank 0 and be answered
# A process that fails takes others with it, whose own messages and exit codes come first.
GRACE_SECONDS = 10.0
SPEAK_SECONDS = 1.0  # where all are ended at once, nobody has to say so


@dataclass(frozen=True)
class Limits:
    """Times in seconds."""

    interval: float  # between two beats of a rank
    silence: float  # without a beat: the rank is given up
    stall: float  # without progress anywhere: so is the run

    @classmethod
    def of(cls, faults: FaultsConfig) -> Limits:
        """Derives them from the config."""
        interval = min(max(faults.heartbeat_seconds / 30, 0.5), 5.0)
        return cls(interval, faults.heartbeat_seconds, faults.stall_seconds)

    @property
    def tick(self) -> float:
        """How long the watchdog's thread sleeps at most."""
        return self.interval / 2

    @property
    def pause(self) -> float:
        """If the thread sleeps for longer, its process was stopped meanwhile."""
        return self.tick + max(self.silence / 4, 2 * self.interval)


class OwnTime:
    """Seconds in which this process ran; to be asked at every tick.

    A process that was stopped, with its whole job or alone, finds the beats of others late that it
    has had no chance to hear. That time does not count.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._previous, self._stopped = clock(), 0.0

    def __call__(self) -> float:
        """Returns the time now."""
        now = self._clock()
        slept, self._previous = now - self._previous, now
        if slept > self._limits.pause:
            self._stopped += slept - self._limits.tick
        return now - self._stopped


@dataclass(frozen=True)
class Progress:
    """How far the main thread has come; replaced as a whole, so that no lock is needed."""

    count: int = 0
    phase: str = ""


@dataclass(frozen=True)
class Offer:
    """Where rank 0 listens, as it tells the others through the process group."""

    hosts: tuple[str, ...]
    port: int
    token: str
    run_id: str
    member: Member


class Side(Protocol):
    """One rank's part in the watch; every method but `close` is called by its thread alone."""

    def tick(self, now: float, progress: Progress) -> Verdict | None:
        """Hears, beats and judges; a verdict ends the run."""

    def leave(self, failed: bool) -> bool:
        """Says that the main thread is at its end; whether the thread may end as well."""

    def speak(self, verdict: Verdict) -> None:
        """Prints the line, if that falls to this rank."""

    def part(self, seconds: float) -> None:
        """After the stacks are written: waits until the other ranks have theirs."""

    def close(self) -> None:
        """Closes every connection."""


class Loss:
    """A process that is gone: named soon, and the run ended if it does not end by itself."""

    def __init__(self, verdict: Verdict, now: float, failed: bool) -> None:
        self.verdict, self.since, self.failed = verdict, now, failed
        self._spoken = False

    def due(self, side: Side, now: float) -> Verdict | None:
        """Returns the verdict once the grace is over."""
        if now - self.since >= SPEAK_SECONDS:
            self.speak(side)
        if now - self.since < GRACE_SECONDS:
            return None
        return replace(self.verdict, spoken=self._spoken)

    def speak(self, side: Side) -> threading.Thread | None:
        """Names it, once, without waiting for the terminal or the file system.

        One that failed has spoken itself, and is named to those alone that have waited for it.
        """
        if self._spoken or self.failed:
            return None
        self._spoken = True
        thread = threading.Thread(target=side.speak, args=(self.verdict,), daemon=True)
        thread.start()
        return thread


class Solo:
    """A run of one process, which can only stall."""

    def __init__(self, limits: Limits, run_id: str, stacks: Path) -> None:
        self._limits, self._run_id, self._stacks = limits, run_id, stacks
        self._count, self._moved = -1, 0.0

    def tick(self, now: float, progress: Progress) -> Verdict | None:
        """Judges by the main thread's progress."""
        if progress.count != self._count:
            self._count, self._moved = progress.count, now
        if now - self._moved < self._limits.stall:
            return None
        line = report.stalled_line({0: progress.phase}, now - self._moved, self._stacks)
        return Verdict(line, run_id=self._run_id)

    def leave(self, failed: bool) -> bool:
        """Nobody has to be told."""
        return True

    def speak(self, verdict: Verdict) -> None:
        """Prints the line and keeps it."""
        report.say(verdict.line)
        report.claim(self._stacks, verdict)

    def part(self, seconds: float) -> None:
        """Nobody has to be waited for."""

    def close(self) -> None:
        """Nothing is open."""


class Client:
    """A rank other than 0: beats, hears rank 0 beat, and obeys its verdict.

    If rank 0 itself falls silent or dies, each of these finds so alone, and the one that makes the
    file that tells of it speaks.
    """

    def __init__(self, wire: Wire, offer: Offer, limits: Limits, stacks: Path) -> None:
        self._wire, self._offer, self._limits, self._stacks = wire, offer, limits, stacks
        self._heard = self._next_beat = time.monotonic()
        self._phase_sent = self._phase_of_0 = ""
        self._loss: Loss | None = None

    @classmethod
    def connect(cls, offer: Offer, member: Member, limits: Limits, stacks: Path) -> Client:
        """Reaches rank 0 and is let in.

        Raises:
            UserError: It cannot be reached, or something else answers there.
        """
        failure: OSError | None = None
        for host in offer.hosts:
            try:
                connection = socket.create_connection((host, offer.port), CONNECT_SECONDS)
            except OSError as error:
                failure = failure or error
                continue
            inherit_not(connection)
            wire = Wire(connection)
            content = {"token": offer.token, "member": asdict(member)}
            wire.send(Kind.HELLO, member.rank, json.dumps(content))
            if _welcomed(wire):
                return cls(wire, offer, limits, stacks)
            wire.close()
        reason = "it does not answer" if failure is None else failure.strerror or str(failure)
        raise UserError(
            f"{member} cannot reach the watchdog of rank 0 at {offer.hosts[0]}:{offer.port} "
            f"({reason}); ranks need free TCP ports between their hosts: check MASTER_ADDR and "
            "the firewall",
            exit_code=EXIT_FOUND_WRONG,
            known_to="rank",
        )

    def tick(self, now: float, progress: Progress) -> Verdict | None:
        """Hears rank 0, tells of this rank, and judges rank 0 alone."""
        for kind, _, text in self._receive():
            self._heard = now
            if kind == Kind.BEAT and text:
                self._phase_of_0 = text
            elif kind == Kind.END:
                return Verdict.from_json(text)
        if not self._wire.lost and now >= self._next_beat and self._wire.idle:
            text = "" if progress.phase == self._phase_sent else progress.phase
            self._wire.send(Kind.BEAT, progress.count, text)
            self._phase_sent = progress.phase
            self._next_beat = now + self._limits.interval
        self._wire.flush()
        self._note_loss(now)
        if self._loss is not None:
            return self._loss.due(self, now)
        # Later than rank 0 judges: if the network is cut in two, its word comes first.
        if now - self._heard < self._limits.silence + 2 * self._limits.interval:
            return None
        members = (self._offer.member,)
        line = report.silent_line(members, now - self._heard, {0: self._phase_of_0}, self._stacks)
        return Verdict(line, members, self._offer.run_id)

    def leave(self, failed: bool) -> bool:
        """Tells rank 0, or, where that is gone, the user."""
        deadline = time.monotonic() + (SPEAK_SECONDS if failed else 0.0)
        while self._loss is None and time.monotonic() < deadline:
            # It may have failed because rank 0 is dead, and be here before that shows.
            time.sleep(0.02)
            self._receive()
            self._note_loss(time.monotonic())
        if self._loss is None:
            self._wire.send(Kind.FAILED if failed else Kind.LEFT)
            deadline = time.monotonic() + SPEAK_SECONDS
            while not self._wire.idle and not self._wire.lost and time.monotonic() < deadline:
                time.sleep(0.01)
                self._wire.flush()
        else:
            thread = self._loss.speak(self)
            if thread is not None:
                thread.join(SPEAK_SECONDS)
        return True

    def speak(self, verdict: Verdict) -> None:
        """Prints the line if no other rank has."""
        if report.claim(self._stacks, verdict):
            report.say(verdict.line)

    def part(self, seconds: float) -> None:
        """Waits until rank 0 closes the connection: then every rank has written its stacks."""
        self._wire.send(Kind.DONE)
        deadline = time.monotonic() + seconds
        while not self._wire.lost and time.monotonic() < deadline:
            time.sleep(0.02)
            self._wire.flush()
            self._receive()

    def close(self) -> None:
        """Closes the connection."""
        self._wire.close()

    def _note_loss(self, now: float) -> None:
        if self._wire.lost and self._loss is None:
            line = report.ended_line(self._offer.member, self._phase_of_0, False, self._stacks)
            self._loss = Loss(Verdict(line, run_id=self._offer.run_id), now, failed=False)

    def _receive(self) -> list[Frame]:
        try:
            return self._wire.receive()
        except MalformedError:
            self._wire.close()
            return []


def _welcomed(wire: Wire) -> bool:
    deadline = time.monotonic() + CONNECT_SECONDS
    while not wire.lost and time.monotonic() < deadline:
        wire.flush()
        try:
            if any(frame.kind == Kind.WELCOME for frame in wire.receive()):
                return True
        except MalformedError:
            return False
        time.sleep(0.02)
    return False


_sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def inherit_not(connection: socket.socket) -> None:
    """Closes a socket in processes forked from this one.

    A child that keeps it open would hide the death of its parent.
    """
    _sockets.add(connection)


def _close_in_child() -> None:
    for connection in list(_sockets):
        connection.close()


os.register_at_fork(after_in_child=_close_in_child)
