"""A node in a thread, open to white-box tests; a client that speaks to it by raw envelopes; a disk with faults."""

from __future__ import annotations

import errno
import itertools
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import zmq
from zmqbroker.actors import node as node_module
from zmqbroker.actors.actor import ReactorActor
from zmqbroker.actors.context import partition_address
from zmqbroker.actors.node import Node, NodeAddress
from zmqbroker.errors import error_for
from zmqbroker.log.batch import read_header
from zmqbroker.log.plain_records import decode_batch, encode_batch
from zmqbroker.log.real_disk import RealDisk, RealFile
from zmqbroker.settings import broker_config
from zmqbroker.transport.envelope import convert_body, encode_request, split_reply
from zmqbroker.transport.messages import (
    CreateTopicsRequest,
    FetchRequest,
    ListOffsetsRequest,
    NewTopic,
    NodeStatusRequest,
    PartitionData,
    PartitionFetch,
    PartitionTimestamp,
    ProduceRequest,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

DEADLINE_S = 20.0
"""How long anything may take before a test fails; nothing normally takes a hundredth of it."""


class Reply(NamedTuple):
    """One message of the broker; the body is not yet converted."""

    correlation_id: int
    error_code: int
    error_message: str | None
    throttle_time_ms: int
    body: Any
    frames: list[bytes]


class Client:
    """A DEALER with nothing around it. Correlation ids count up from 1."""

    def __init__(self, context: zmq.Context, address: NodeAddress, options: dict[str, int]) -> None:
        self.socket = context.socket(zmq.DEALER)
        for name, value in options.items():
            self.socket.setsockopt(getattr(zmq, name), value)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDHWM, 0)
        self.socket.connect(f"tcp://{address.host}:{address.port}")
        self._numbers = itertools.count(1)
        self._early: dict[int, Reply] = {}

    def send(self, request: Any, *batches: bytes) -> int:
        """Send a request without waiting; returns its correlation id."""
        number = next(self._numbers)
        self.socket.send_multipart([encode_request(request, number), *batches])
        return number

    def receive(self, seconds: float = DEADLINE_S) -> Reply:
        """The next message of the broker, whatever it answers."""
        if not self.socket.poll(seconds * 1000):
            pytest.fail(f"the broker sent nothing within {seconds} s")
        envelope, *frames = self.socket.recv_multipart()
        raw = split_reply(envelope)
        return Reply(raw.correlation_id, raw.error_code, raw.error_message, raw.throttle_time_ms, raw.body, frames)

    def reply_to(self, number: int, seconds: float = DEADLINE_S) -> Reply:
        """The reply to one request; others that come before it are kept."""
        while number not in self._early:
            reply = self.receive(seconds)
            assert reply.correlation_id not in self._early, f"request {reply.correlation_id} was answered twice"
            self._early[reply.correlation_id] = reply
        return self._early.pop(number)

    def ask(self, request: Any, *batches: bytes) -> Reply:
        """Send a request and wait for its reply."""
        return self.reply_to(self.send(request, *batches))

    def call(self, request: Any, *batches: bytes) -> Any:
        """The typed body of the reply; raises the error that the broker answered with."""
        return self.body_of(self.ask(request, *batches), request)

    @staticmethod
    def body_of(reply: Reply, request: Any) -> Any:
        if reply.error_code:
            raise error_for(reply.error_code, reply.error_message)
        return convert_body(reply.body, request.REPLY)

    def hears_nothing(self) -> bool:
        """Whether all that the broker has sent so far is read: a round trip brings its own reply and no other."""
        number = self.send(NodeStatusRequest())
        return self.receive().correlation_id == number

    # ---- shorthands

    def create(self, topic: str, partitions: int = 1, **configs: Any) -> Any:
        """Create a topic; settings have underscores for dots."""
        pairs = [(key.replace("_", "."), str(value)) for key, value in configs.items()]
        request = CreateTopicsRequest([NewTopic(topic, partitions, configs=pairs)], 10_000)
        (result,) = self.call(request).topics
        assert result.error_code == 0, result
        return result

    def send_produce(self, topic: str, *values: bytes, partition: int = 0, acks: int = -1, **options: Any) -> int:
        """Send one batch without waiting."""
        epoch = options.pop("leader_epoch", -1)
        request = ProduceRequest(acks, 30_000, [PartitionData(topic, partition, epoch)])
        return self.send(request, batch_of(*values, **options))

    def produce(self, topic: str, *values: bytes, **options: Any) -> Any:
        """Produce one batch; returns what became of it."""
        reply = self.reply_to(self.send_produce(topic, *values, **options))
        return self.body_of(reply, ProduceRequest).partitions[0]

    def fetch(self, topic: str, offset: int = 0, *, partition: int = 0, wait_ms: int = 0, **options: Any) -> Any:
        """Fetch one partition; returns its state and its records from the offset on."""
        reply = self.reply_to(self.send_fetch(topic, offset, partition=partition, wait_ms=wait_ms, **options))
        (state,) = self.body_of(reply, FetchRequest).partitions
        return state, [record for record in records_of(reply.frames[0]) if record.offset >= offset]

    def send_fetch(self, topic: str, offset: int = 0, *, partition: int = 0, wait_ms: int = 0, **options: Any) -> int:
        """Send a fetch of one partition without waiting."""
        min_bytes, max_bytes = options.pop("min_bytes", 1), options.pop("max_bytes", 1 << 20)
        entry = PartitionFetch(topic, partition, offset, options.pop("partition_bytes", 1 << 20), **options)
        return self.send(FetchRequest(wait_ms, min_bytes, max_bytes, [entry]))

    def values(self, topic: str, offset: int = 0, partition: int = 0) -> list[bytes | None]:
        """All values of a partition from an offset on."""
        found: list[bytes | None] = []
        while True:
            state, records = self.fetch(topic, offset, partition=partition)
            assert state.error_code == 0, state
            if not records:
                return found
            found += [record.value for record in records]
            offset = records[-1].offset + 1

    def end_offset(self, topic: str, partition: int = 0, timestamp: int = -1) -> int:
        """The end of a partition, or the offset for another time."""
        request = ListOffsetsRequest([PartitionTimestamp(topic, partition, timestamp)])
        (found,) = self.call(request).partitions
        assert found.error_code == 0, found
        return found.offset

    def counters(self) -> dict[str, int]:
        """The node's counters."""
        return dict(self.call(NodeStatusRequest()).counters)


def batch_of(*values: bytes, timestamp: int | None = None, timestamps: Sequence[int] = (), **options: Any) -> bytes:
    """Values as one batch; options are those of encode_batch."""
    now = timestamp if timestamp is not None else time.time_ns() // 1_000_000
    times = timestamps or [now] * len(values)
    return encode_batch([(at, None, value, ()) for at, value in zip(times, values, strict=True)], **options)


def records_of(data: bytes) -> list[Any]:
    """The records of whole batches, one after the other."""
    found: list[Any] = []
    position = 0
    while position < len(data):
        size = read_header(data, position).size
        found += decode_batch(data[position : position + size])
        position += size
    return found


class Faults:
    """What is wrong with the disks of a test; all of it can be changed while the node runs."""

    def __init__(self) -> None:
        self.full_for = ""
        """Writes to paths that hold this text fail with ENOSPC; empty: none."""
        self.flush_error_for = ""
        """Flushes of paths that hold this text fail with EIO."""
        self.held_for = ""
        """Flushes of paths that hold this text wait until `release`."""
        self.flushes_failed = 0
        self.waiting = 0
        self._gate = threading.Event()

    def hold_flushes(self, path: str) -> None:
        self._gate.clear()
        self.held_for = path

    def release(self) -> None:
        self.held_for = ""
        self._gate.set()

    def check_write(self, path: str) -> None:
        if self.full_for and self.full_for in path:
            raise OSError(errno.ENOSPC, "No space left on device", path)

    def check_flush(self, path: str) -> None:
        if self.held_for and self.held_for in path:
            self.waiting += 1
            assert self._gate.wait(DEADLINE_S)
            self.waiting -= 1
        if self.flush_error_for and self.flush_error_for in path:
            self.flushes_failed += 1
            raise OSError(errno.EIO, "Input/output error", path)


class FaultyFile(RealFile):
    """A file on a disk with faults."""

    __slots__ = ()
    faults: Faults

    def append(self, buffers: Sequence[Any]) -> int:
        self.faults.check_write(self.path)
        return super().append(buffers)

    def flush(self) -> None:
        self.faults.check_flush(self.path)
        super().flush()


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """Give every node of the test a disk with faults, of which there are none at first."""
    found = Faults()

    class File(FaultyFile):
        __slots__ = ()
        faults = found

    class Disk(RealDisk):
        def open(self, path: str, *, create: bool = False) -> RealFile:
            if create:
                found.check_write(path)
            file = super().open(path, create=create)
            file.__class__ = File
            return file

        def replace_file(self, path: str, data: bytes, *, durable: bool = True) -> None:
            found.check_write(path)
            super().replace_file(path, data, durable=durable)

    monkeypatch.setattr(node_module, "RealDisk", Disk)
    yield found
    found.release()


class Time:
    """A clock, and a poller where nothing ever happens."""

    def __init__(self) -> None:
        self.now_ms = 1000.0

    def wall_ms(self) -> int:
        return int(self.now_ms)

    def monotonic_ms(self) -> float:
        return self.now_ms

    def wait(self, timeout_ms: float | None) -> None:
        self.now_ms += timeout_ms or 0.0

    def wake(self) -> None:
        pass


class Heard(ReactorActor):
    """Notes what it is told."""

    def __init__(self, heard: list[Any]) -> None:
        super().__init__()
        self.heard = heard

    def on_receive(self, message: Any) -> None:
        self.heard.append(message)


class RunningNode:
    """A node in a thread, on a folder of its own."""

    def __init__(self, context: zmq.Context, folder: str, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.settings = {"listen": "tcp://127.0.0.1:0", **settings, "data_dir": folder}
        self.node: Node
        self.address: NodeAddress
        self.error: BaseException | None = None
        self._zmq = context
        self._clients: list[Client] = []
        self._thread: threading.Thread | None = None

    def start(self) -> RunningNode:
        """Start on the same folder and return when the node takes clients. Raises what it refused to start for."""
        assert self._thread is None
        settled = threading.Event()

        def on_ready(address: NodeAddress) -> None:
            self.address = address
            settled.set()

        def run() -> None:
            try:
                self.node.run()
            except BaseException as error:  # noqa: BLE001 - the test looks at it
                self.error = error
            finally:
                settled.set()

        self.error = None
        self.node = Node(broker_config(self.settings), on_ready=on_ready)
        self._thread = threading.Thread(target=run, name="node", daemon=True)
        self._thread.start()
        assert settled.wait(DEADLINE_S), "the node neither took clients nor refused to start"
        if self.error is not None:
            self.wait()
            raise self.error
        return self

    def wait(self) -> BaseException | None:
        """Wait for the node's end; returns the error that ended it."""
        if self._thread is not None:
            self._thread.join(DEADLINE_S)
            assert not self._thread.is_alive(), "the node has not ended"
            self._thread = None
        for client in self._clients:
            client.socket.close(0)
        self._clients.clear()
        return self.error

    def stop(self) -> None:
        """Stop in good order."""
        if self._thread is not None:
            self.node.stop()
            error = self.wait()
            assert error is None, error

    def crash(self) -> None:
        """End the node as a failed invariant does: nothing is flushed or closed well."""

        def fail() -> None:
            message = "the test ends this node"
            raise AssertionError(message)

        self.node._reactor.call_from_thread(fail)
        assert "the test ends this node" in str(self.wait())

    def restart(self) -> RunningNode:
        self.stop()
        return self.start()

    def client(self, **options: int) -> Client:
        """A new connection; options are the socket's."""
        client = Client(self._zmq, self.address, options)
        self._clients.append(client)
        return client

    @property
    def context(self) -> Any:
        return self.node._actors.context

    def on_reactor(self, function: Callable[[], Any]) -> Any:
        """What a function returns or raises on the reactor's thread."""
        done = threading.Event()
        outcome: deque[Any] = deque()

        def run() -> None:
            try:
                outcome.append((function(), None))
            except Exception as error:  # noqa: BLE001 - raised again below
                outcome.append((None, error))
            done.set()

        assert self.node._reactor.call_from_thread(run), self.error
        assert done.wait(DEADLINE_S)
        value, error = outcome[0]
        if error is not None:
            raise error
        return value

    def actor(self, address: str) -> Any:
        """The actor behind an address; to be touched by `on_reactor` only."""
        return self.node._reactor._actors[address]

    def leader(self, topic: str, partition: int = 0) -> Any:
        return self.actor(partition_address(topic, partition))


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., RunningNode]]:
    """Start nodes with settings; each on a folder of its own, unless told which."""
    context = zmq.Context()
    nodes: list[RunningNode] = []

    def make(folder: str | None = None, **settings: Any) -> RunningNode:
        node = RunningNode(context, folder or str(tmp_path / f"data-{len(nodes)}"), settings)
        nodes.append(node)
        return node.start()

    yield make
    for node in nodes:
        if node._thread is not None:
            node.node.stop()
        node.wait()
    context.destroy(0)


@pytest.fixture
def node(make_node: Callable[..., RunningNode]) -> RunningNode:
    return make_node()


@pytest.fixture
def client(node: RunningNode) -> Client:
    return node.client()


@pytest.fixture
def batch() -> Callable[..., bytes]:
    """Make a batch of values."""
    return batch_of


@pytest.fixture
def records() -> Callable[[bytes], list[Any]]:
    """Decode the records of a fetched frame."""
    return records_of


@pytest.fixture(scope="session")
def time_class() -> type[Time]:
    """A clock that only tests move."""
    return Time


@pytest.fixture(scope="session")
def heard_class() -> type[Heard]:
    """An actor that is told things."""
    return Heard
