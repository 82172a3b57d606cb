"""Who is accused and who is not, by clocks of the test's own; strangers; hundreds of ranks."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from megaxlm.config.pretrain import FaultsConfig
from megaxlm.errors import UserError
from megaxlm.train import watchdog_report as report
from megaxlm.train.watchdog_report import Member, Verdict
from megaxlm.train.watchdog_server import Server
from megaxlm.train.watchdog_sides import (
    GRACE_SECONDS,
    SPEAK_SECONDS,
    Client,
    Limits,
    Offer,
    OwnTime,
    Progress,
    Solo,
)
from megaxlm.train.watchdog_wire import MAX_TEXT, Kind, MalformedError, Wire

LIMITS = Limits.of(FaultsConfig(heartbeat_seconds=60, stall_seconds=600))


def member_of(rank: int) -> Member:
    return replace(Member.here(rank, -1), host=f"node{rank}", machine="elsewhere", pid=1000 + rank)


@contextmanager
def watch(tmp_path: Path, ranks: Sequence[int]) -> Iterator[tuple[Server, dict[int, Client]]]:
    """A server and clients that it has let in."""
    size = max(ranks) + 1
    server = Server("127.0.0.1", member_of(0), size, LIMITS, "run", tmp_path / "stacks")
    clients: dict[int, Client] = {}
    over = threading.Event()

    def serve() -> None:
        while not over.wait(0.001):
            server.tick(time.monotonic(), Progress())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        for rank in ranks:
            clients[rank] = Client.connect(
                server.offer, member_of(rank), LIMITS, tmp_path / "stacks"
            )
    finally:
        over.set()
        thread.join()
    try:
        yield server, clients
    finally:
        for client in clients.values():
            client.close()
        server.close()


def hear(server: Server, now: float, phase: str = "step 7") -> Verdict | None:
    """Ticks until what was sent over the loopback has come."""
    verdict = None
    for _ in range(5):
        verdict = verdict or server.tick(now, Progress(1, phase))
        time.sleep(0.005)
    return verdict


def test_silent_ranks_are_named_together_with_host_pid_and_phase(tmp_path: Path) -> None:
    with watch(tmp_path, [1, 2, 3]) as (server, clients):
        now = time.monotonic()
        for rank, client in clients.items():
            client.tick(now + 1, Progress(1, f"step {rank}"))
        assert hear(server, now + 1) is None
        clients[2].tick(now + 40, Progress(2, "step 8"))
        assert hear(server, now + 40) is None
        assert hear(server, now + 61.5) is None  # one interval more, for companions
        verdict = hear(server, now + 64)
        assert verdict is not None and not verdict.spoken
        assert [member.rank for member in verdict.silent] == [1, 3]
        assert "rank 1 (node1, pid 1001), rank 3 (node3, pid 1003) have not" in verdict.line
        assert "rank 1 in step 1, rank 3 in step 3" in verdict.line
        told = clients[2].tick(now + 64, Progress(2, "step 8"))
        assert told is not None and told.spoken  # rank 0 speaks
        assert (told.line, told.silent) == (verdict.line, verdict.silent)


def test_time_in_which_a_process_was_stopped_does_not_count() -> None:
    moments = [0.0]
    own_time = OwnTime(LIMITS, lambda: moments[-1])
    for pause, expected in ((1, 1), (16, 17), (3600, 18), (1, 19), (20, 20)):
        moments.append(moments[-1] + pause)
        assert own_time() == expected


def test_a_silent_rank_0_is_judged_by_each_other_rank_and_named_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with watch(tmp_path, [1, 2]) as (server, clients):
        now = time.monotonic()
        hear(server, now + 3, phase="saving step 9")
        for client in clients.values():
            assert client.tick(now + 1, Progress()) is None
            assert client.tick(now + 62, Progress()) is None  # rank 0 judges before
            verdict = client.tick(now + 66, Progress())
            assert verdict is not None and [m.rank for m in verdict.silent] == [0]
            assert "rank 0 (node0, pid 1000) has not answered for 65 s" in verdict.line
            assert "last in saving step 9" in verdict.line
            client.speak(verdict)
    assert capfd.readouterr().err.count("rank 0 (node0") == 1


@pytest.mark.parametrize("failed", [False, True])
def test_a_lost_rank_ends_the_others_after_a_grace(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], failed: bool
) -> None:
    with watch(tmp_path, [1, 2]) as (server, clients):
        now = time.monotonic()
        clients[1].tick(now, Progress(5, "step 5"))
        hear(server, now)
        if failed:
            clients[1].leave(failed=True)
        clients[1].close()
        assert hear(server, now + 1) is None
        assert hear(server, now + 1 + SPEAK_SECONDS) is None
        time.sleep(0.1)  # it is said in a thread
        said = capfd.readouterr().err
        assert said.count("rank 1 (node1, pid 1001) died, last in step 5") == (0 if failed else 1)
        assert hear(server, now + GRACE_SECONDS) is None
        verdict = hear(server, now + 1.1 + GRACE_SECONDS)
        assert verdict is not None and verdict.spoken == (not failed)
        assert ("failed, last in step 5" if failed else "died, last in step 5") in verdict.line
        assert clients[2].tick(now + 12, Progress()) is not None


def test_a_death_is_named_before_the_failures_that_it_causes(tmp_path: Path) -> None:
    with watch(tmp_path, [1, 2]) as (server, clients):
        now = time.monotonic()
        clients[2].leave(failed=True)
        hear(server, now)
        clients[1].close()
        hear(server, now)
        verdict = hear(server, now + GRACE_SECONDS + 1)
        assert verdict is not None and "rank 1 (node1, pid 1001) died" in verdict.line


def test_rank_0_leaves_last_and_a_clean_end_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with watch(tmp_path, [1, 2]) as (server, clients):
        now = time.monotonic()
        assert not server.leave(failed=False)
        for client in clients.values():
            assert client.leave(failed=False)
            client.close()
        assert hear(server, now + 1) is None
        assert server.leave(failed=False)
        assert hear(server, now + 100) is None
    assert capfd.readouterr().err == ""


def test_a_stall_is_judged_by_progress_anywhere(tmp_path: Path) -> None:
    with watch(tmp_path, [1, 2]) as (server, clients):
        now = time.monotonic()
        for at in range(0, 700, 50):
            for rank, client in clients.items():
                moved = Progress(at // 50 if rank == 2 and at < 300 else 1, "step 5")
                client.tick(now + at, moved)
            assert hear(server, now + at) is None
        for at in (750, 800, 850, 900):
            for client in clients.values():
                client.tick(now + at, Progress(1, "step 5"))
            verdict = hear(server, now + at)
        assert verdict is not None and not verdict.silent
        assert "nothing has moved for 600 s: rank 0 in step 7, ranks 1-2 in step 5" in verdict.line
    alone = Solo(LIMITS, "run", tmp_path)
    assert alone.tick(0.0, Progress(1, "step 1")) is None
    assert alone.tick(599.0, Progress(1, "step 1")) is None
    verdict = alone.tick(600.0, Progress(1, "step 1"))
    assert verdict is not None and "nothing has moved for 600 s: step 1;" in verdict.line


def test_strangers_and_other_runs_are_shut_out(tmp_path: Path) -> None:
    with watch(tmp_path, [1]) as (server, clients):
        now = time.monotonic()
        offer = server.offer
        hello = {"token": offer.token, "member": member_of(2).__dict__}
        wrong = [
            b"GET / HTTP/1.1\r\n\r\n",
            b"\xff" * 100_000,
            b"\x03" + bytes(10),  # a beat before a hello
            _hello(json.dumps({**hello, "token": "0" * 32})),
            _hello(json.dumps({**hello, "token": None})),
            _hello(json.dumps({**hello, "member": {"rank": 1}})),
            _hello(json.dumps({**hello, "member": member_of(5).__dict__})),  # no such rank
            _hello(json.dumps({**hello, "member": member_of(1).__dict__})),  # is here already
            _hello(json.dumps([])),
            _hello("[" * 10_000),
        ]
        connections = [_send(offer, content) for content in wrong]
        silent = _send(offer, b"")
        assert hear(server, now) is None
        for connection in connections:
            assert connection.recv(1) == b""
        clients[1].tick(now, Progress())
        assert hear(server, now + 11) is None
        assert silent.recv(1) == b""
        for connection in (*connections, silent):
            connection.close()
    other = replace(offer, token="another run's")
    with watch(tmp_path, [1]) as (server, _):
        over = threading.Event()

        def serve() -> None:
            while not over.wait(0.01):
                server.tick(now, Progress())

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with pytest.raises(UserError, match="rank 1 .* cannot reach the watchdog of rank 0"):
                mixed = replace(other, port=server.offer.port)
                Client.connect(mixed, member_of(1), LIMITS, tmp_path)
        finally:
            over.set()
            thread.join()


def _hello(text: str) -> bytes:
    near, far = socket.socketpair()
    Wire(near).send(Kind.HELLO, 2, text)
    content = far.recv(1 << 20)
    near.close()
    far.close()
    return content


def _send(offer: Offer, content: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", offer.port), 10)
    connection.sendall(content)
    return connection


def test_frames_arrive_whole_in_whatever_pieces(tmp_path: Path) -> None:
    near, far = socket.socketpair()
    wire = Wire(far)
    content = _hello("é" * 40) + _hello("")
    for byte in content[:-1]:
        near.send(bytes([byte]))
        wire.receive()
    near.send(content[-1:])
    assert [frame.kind for frame in wire.receive()] == [Kind.HELLO]
    near.send(bytes([9]) + bytes(10))
    with pytest.raises(MalformedError):
        wire.receive()
    near.close()
    wire.close()


def test_a_peer_that_takes_nothing_does_not_stop_the_sender() -> None:
    near, far = socket.socketpair()
    wire = Wire(near)
    for _ in range(1000):
        wire.send(Kind.BEAT, 1, "x" * 1000)
    assert not wire.idle and not wire.lost
    far.setblocking(False)
    received = 0
    while not wire.idle:
        received += len(far.recv(1 << 20))
        wire.flush()
    far.close()
    wire.send(Kind.BEAT)
    assert wire.lost
    wire.close()


def test_hundreds_of_ranks_are_watched_by_one_thread(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        count = min(200, hard // 2 - 100)
        with watch(tmp_path, range(1, count + 1)) as (server, clients):
            now = time.monotonic()
            for at in (10.0, 40.0, 70.0):
                for rank, client in clients.items():
                    if rank % 50 or at < 20:
                        client.tick(now + at, Progress(int(at), f"step {at}"))
                verdict = hear(server, now + at)
            verdict = verdict or hear(server, now + 75)
            assert verdict is not None
            assert [m.rank for m in verdict.silent] == list(range(50, count + 1, 50))
            assert len(verdict.line) < 1000
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_verdict_on_many_fits_a_frame_and_says_how_many() -> None:
    members = tuple(member_of(rank) for rank in range(1, 2000))
    phases = {rank: f"step {rank % 3}" for rank in range(2000)}
    line = report.silent_line(members, 60, phases, Path("run/stacks"))
    assert "rank 8 (node8, pid 1008) and 1991 more have not answered" in line
    text = Verdict(line, members, "run").to_json()
    assert len(text.encode()) < MAX_TEXT
    assert Verdict.from_json(text).silent[0] == members[0]


def test_only_the_very_process_is_killed() -> None:
    victim = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    here = Member.here(1, -1)
    fields = Path(f"/proc/{victim.pid}/stat").read_text().rpartition(")")[2].split()
    member = replace(here, pid=victim.pid, started=int(fields[19]))
    try:
        replace(member, started=member.started + 1).kill()  # the id was used again
        replace(member, machine="elsewhere").kill()
        replace(member, machine="").kill()
        time.sleep(0.2)
        assert victim.poll() is None
        victim.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 30
        while member.state() != "T" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "(the process is stopped" in report.silent_line([member], 60, {}, Path("x"))
        member.kill()
        assert victim.wait(30) == -signal.SIGKILL
        member.kill()  # gone: nothing happens
    finally:
        victim.kill()
        victim.wait()
        assert victim.stdin is not None
        victim.stdin.close()


def test_a_forked_child_does_not_hide_a_death(tmp_path: Path) -> None:
    with watch(tmp_path, [1]) as (server, clients):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        try:
            now = time.monotonic()
            time.sleep(0.2)
            clients[1].close()
            hear(server, now)
            assert hear(server, now + GRACE_SECONDS + 1) is not None
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_stacks_go_to_a_file_or_else_to_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report.write_stacks(tmp_path / "stacks", 3, "step 5", "rank 1 is silent")
    text = report.stacks_path(tmp_path / "stacks", 3).read_text()
    assert "rank 3 on" in text and "in step 5\nrank 1 is silent\n" in text
    assert "test_stacks_go_to_a_file" in text
    (tmp_path / "file").write_text("")
    verdict = Verdict("rank 1 is silent", run_id="a")
    report.write_stacks(tmp_path / "file", 3, "step 5", verdict.line)
    assert "test_stacks_go_to_a_file" in capfd.readouterr().err
    assert report.claim(tmp_path / "stacks", verdict)
    assert not report.claim(tmp_path / "stacks", verdict)
    assert report.claim(tmp_path / "file", verdict)  # cannot be agreed: each speaks
