"""The TCP listener: frames however they are cut, replies however slowly they are read, ends, and floods."""

from __future__ import annotations

import os
import random
import socket
import struct
import time
from contextlib import suppress
from typing import Any

import pytest
from zmqbroker.transport.listener import ListenError
from zmqbroker.transport.poller import ZmqPoller
from zmqbroker.transport.tcp import TcpListener

MAX_FRAME = 8 * 1024 * 1024
DEADLINE_S = 20.0


class Loop:
    """Runs what is due as soon as it is asked."""

    def __init__(self) -> None:
        self.due: list[Any] = []

    def call_later(self, delay_ms: float, callback: Any) -> Any:
        del delay_ms
        self.due.append(callback)
        return None

    def call_from_thread(self, callback: Any) -> bool:
        callback()
        return True


class Heard:
    """What one connection has brought."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.frames: list[bytes] = []
        self.calls = 0
        self.drained = 0
        self.end = ""

    def on_frames(self, frames: list[Any]) -> None:
        assert not self.end
        self.calls += 1
        self.frames += map(bytes, frames)

    def on_drained(self) -> None:
        self.drained += 1

    def on_closed(self, why: str) -> None:
        assert not self.end, "it ends once"
        self.end = why


class Server:
    """A listener, polled by hand."""

    def __init__(self) -> None:
        self.poller = ZmqPoller()
        self.loop = Loop()
        self.heard: list[Heard] = []
        self.listener = TcpListener(
            self.poller,
            self.loop,
            "tcp://127.0.0.1:0",
            max_frame_bytes=MAX_FRAME,
            on_connection=self._accept,
            explain=lambda begun, length: f"{begun[:4]!r} says {length}",
        )
        self.listener.resume()

    def _accept(self, connection: Any) -> Heard:
        self.heard.append(Heard(connection))
        return self.heard[-1]

    def poll_until(self, condition: Any) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline
            self.poller.wait(10)

    def connect(self) -> tuple[socket.socket, Heard]:
        client = socket.create_connection(("127.0.0.1", self.listener.port), timeout=DEADLINE_S)
        count = len(self.heard)
        self.poll_until(lambda: len(self.heard) > count)
        return client, self.heard[-1]


@pytest.fixture
def server() -> Any:
    found = Server()
    yield found
    found.listener.close()
    found.poller.close()


def framed(*bodies: bytes) -> bytes:
    return b"".join(struct.pack(">i", len(body)) + body for body in bodies)


def test_frames_come_whole_however_they_are_cut(server: Server) -> None:
    chance = random.Random(3)
    client, heard = server.connect()
    bodies = [os.urandom(chance.choice((1, 3, 100, 65_536, 65_537, 300_000, 3_000_000))) for _ in range(30)]
    data = memoryview(framed(*bodies))
    client.settimeout(0.0)
    sent = 0
    deadline = time.monotonic() + DEADLINE_S
    while len(heard.frames) < len(bodies):
        assert time.monotonic() < deadline
        if sent < len(data):
            with suppress(BlockingIOError):
                sent += client.send(data[sent : sent + chance.choice((1, 2, 5, 1000, 70_000, 400_000))])
        server.poller.wait(1)
    assert heard.frames == bodies
    client.close()


def test_many_small_frames_come_in_few_calls(server: Server) -> None:
    client, heard = server.connect()
    client.sendall(framed(*[b"x"] * 10_000))
    server.poll_until(lambda: len(heard.frames) == 10_000)
    assert heard.calls < 100
    client.close()


def test_what_came_before_the_end_is_heard_before_it(server: Server) -> None:
    client, heard = server.connect()
    client.sendall(framed(b"a", b"b" * 200_000) + b"\x00\x00")
    client.close()
    server.poll_until(lambda: heard.end)
    assert [len(frame) for frame in heard.frames] == [1, 200_000]
    assert heard.end == "the client has closed it"


@pytest.mark.parametrize("length", [0, -1, MAX_FRAME + 1, 2**31 - 1])
def test_a_length_that_is_none_ends_the_connection(server: Server, length: int) -> None:
    client, heard = server.connect()
    client.sendall(framed(b"good") + struct.pack(">i", length))
    server.poll_until(lambda: heard.end)
    assert heard.frames == [b"good"]
    assert heard.end.endswith(f"says {length}")
    assert client.recv(1) == b""
    client.close()


def test_who_only_says_that_much_will_come_costs_little(server: Server) -> None:
    client, heard = server.connect()
    client.sendall(struct.pack(">i", MAX_FRAME) + b"x" * 100)
    server.poll_until(lambda: heard.connection._frame is not None)
    assert len(heard.connection._frame) <= 1024 * 1024
    client.close()


def test_replies_leave_whole_and_in_order_however_slowly_they_are_read(server: Server) -> None:
    client, heard = server.connect()
    parts = [os.urandom(1 + index % 7000) for index in range(3000)]
    heard.connection.send(parts)
    assert heard.connection.unsent_bytes > 0
    assert server.listener.unsent_bytes == heard.connection.unsent_bytes
    expected = b"".join(parts)
    read = bytearray()
    client.settimeout(0.0)
    deadline = time.monotonic() + DEADLINE_S
    while len(read) < len(expected):
        assert time.monotonic() < deadline
        try:
            read += client.recv(100_000)
        except BlockingIOError:
            server.poller.wait(1)
    assert read == expected
    server.poll_until(lambda: heard.drained)
    assert (heard.connection.unsent_bytes, heard.drained) == (0, 1)
    client.close()


def test_a_paused_connection_brings_nothing_and_the_others_go_on(server: Server) -> None:
    first, paused = server.connect()
    second, other = server.connect()
    paused.connection.pause()
    first.sendall(framed(b"a"))
    second.sendall(framed(b"b"))
    server.poll_until(lambda: other.frames)
    server.poller.wait(0)
    assert paused.frames == []
    paused.connection.resume()
    server.poll_until(lambda: paused.frames == [b"a"])
    first.close()
    second.close()


def test_a_paused_listener_hears_nobody_and_still_sends(server: Server) -> None:
    client, heard = server.connect()
    server.listener.pause()
    client.sendall(framed(b"a"))
    late = socket.create_connection(("127.0.0.1", server.listener.port), timeout=DEADLINE_S)
    heard.connection.send([b"still here"])
    assert client.recv(100) == b"still here"
    server.poller.wait(0)
    assert (heard.frames, len(server.heard)) == ([], 1)
    server.listener.resume()
    server.poll_until(lambda: heard.frames == [b"a"] and len(server.heard) == 2)
    client.close()
    late.close()


def test_a_port_in_use_is_refused_by_name(server: Server) -> None:
    address = f"tcp://127.0.0.1:{server.listener.port}"
    with pytest.raises(ListenError, match=f"{address} is in use by another process"):
        TcpListener(
            server.poller,
            server.loop,
            address,
            max_frame_bytes=1,
            on_connection=lambda _: None,  # type: ignore[arg-type, return-value]
            explain=lambda _, __: "",
        )
