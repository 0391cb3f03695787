"""A broker made of a script: real sockets and envelopes, answers by rule, faults on demand."""

import threading
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import zmq
from zmqbroker.errors import BrokerError, UnsupportedVersionError
from zmqbroker.log.batch import read_header, stamp
from zmqbroker.transport import envelope as env
from zmqbroker.transport import messages as m

DROP = "drop"
"""A rule's answer: say nothing."""


@dataclass
class Heard:
    """One request as the server got it."""

    api: int
    correlation_id: int
    body: Any
    batches: list[bytes]
    identity: bytes


@dataclass
class StoredPartition:
    """One partition in memory."""

    batches: list[tuple[int, bytes]] = field(default_factory=list)
    end: int = 0
    producers: dict[int, list[tuple[int, int, int, int]]] = field(default_factory=dict)
    """For each producer id: epoch, first and last sequence and base offset of its last five batches."""


Rule = Callable[[Heard], Any]


class ScriptedServer:
    """One node in a thread. A rule hears each request first: it returns None (answer as usual), DROP, an error, a body,
    or frames to send as they are."""

    def __init__(self, partitions: int = 1) -> None:
        self.default_partitions = partitions
        self.heard: list[Heard] = []
        self.rules: dict[int, list[Rule]] = defaultdict(list)
        self.stored: dict[tuple[str, int], StoredPartition] = defaultdict(StoredPartition)
        self.topics: dict[str, int] = {}
        self.node_id = 1
        self.nodes: list[ScriptedServer] = [self]
        """The cluster, as it tells."""
        self.leaders: dict[tuple[str, int], tuple[int, int]] = {}
        """Leader and leader epoch of each partition, as they are; those missing are led by node 1 in epoch 0."""
        self.told: dict[tuple[str, int], tuple[int, int]] = self.leaders
        """The same, as it tells; another dictionary for a node that is behind."""
        self.throttle_ms = 0
        self.credit_bytes = 16 * 1024 * 1024
        self.max_request_bytes = 100 * 1024 * 1024
        self.max_batch_bytes = 1 << 30
        self.auto_create = True
        self.changed = threading.Condition()
        self.address = ""
        self._context = zmq.Context()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._waiting: list[Heard] = []
        self._next_producer_id = 100
        self.start()

    # ---- life

    def start(self) -> None:
        """Listen, at the same port as before."""
        up = threading.Event()
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(up,), daemon=True)
        self._thread.start()
        assert up.wait(5)

    def kill(self) -> None:
        """Vanish: connections break, what is not answered never is."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5)
            assert not self._thread.is_alive()
            self._thread = None
        self._waiting.clear()

    def close(self) -> None:
        """Vanish for good."""
        self.kill()
        self._context.destroy(0)

    @property
    def servers(self) -> str:
        return self.address.removeprefix("tcp://")

    # ---- scripts

    def once(self, api: int, *rules: Rule) -> None:
        """Use each rule for one request of this API, in turn."""
        self.rules[api].extend(rules)

    def wait_for(self, condition: Callable[[], Any], seconds: float = 10) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, seconds), "it did not happen in time"

    def requests(self, api: int) -> list[Heard]:
        return [heard for heard in self.heard if heard.api == api]

    def values(self, topic: str, partition: int = 0) -> list[bytes | None]:
        """What is stored, in order."""
        from zmqbroker.log.records import decode_batch

        stored = self.stored[topic, partition]
        return [
            record.value
            for _, batch in stored.batches
            for record in decode_batch(batch, max_decompressed_bytes=1 << 30)
        ]

    # ---- the thread

    def _run(self, up: threading.Event) -> None:
        router = self._context.socket(zmq.ROUTER)
        router.setsockopt(zmq.LINGER, 0)
        if self.address:
            while True:
                try:
                    router.bind(self.address)
                    break
                except zmq.ZMQError:  # the last socket's end takes its time
                    if self._stop.wait(0.01):
                        return
        else:
            router.bind("tcp://127.0.0.1:*")
            self.address = router.getsockopt_string(zmq.LAST_ENDPOINT)
        up.set()
        while not self._stop.is_set():
            if router.poll(5):
                identity, *frames = router.recv_multipart()
                self._hear(router, identity, frames)
            self._answer_waiting(router)
        router.close(0)

    def _hear(self, router: Any, identity: bytes, frames: list[bytes]) -> None:
        raw = env.split_request(frames[0])
        heard = Heard(raw.api, raw.correlation_id, env.decode_request(raw), frames[1:], identity)
        rules = self.rules[raw.api]
        with self.changed:
            self.heard.append(heard)
        outcome = rules.pop(0)(heard) if rules else None
        if outcome is None:
            outcome = self._usual(heard)
        self._send(router, heard, outcome)
        with self.changed:
            self.changed.notify_all()

    def _send(self, router: Any, heard: Heard, outcome: Any) -> None:
        if outcome == DROP:
            return
        if isinstance(outcome, BrokerError):
            frames = [env.encode_error(heard.api, heard.correlation_id, outcome, self.throttle_ms)]
        elif isinstance(outcome, list):
            frames = outcome
        elif isinstance(outcome, tuple):
            frames = [env.encode_reply(heard.api, heard.correlation_id, outcome[0], self.throttle_ms), *outcome[1]]
        else:
            frames = [env.encode_reply(heard.api, heard.correlation_id, outcome, self.throttle_ms)]
        router.send_multipart([heard.identity, *frames])

    def _answer_waiting(self, router: Any) -> None:
        for heard in list(self._waiting):
            body, frames = self._fetch(heard)
            if any(frames) or any(entry.error_code for entry in body.partitions):
                self._waiting.remove(heard)
                self._send(router, heard, (body, frames))

    # ---- usual answers

    def _usual(self, heard: Heard) -> Any:  # noqa: PLR0911 - one answer a request type
        body = heard.body
        if isinstance(body, m.ApiVersionsRequest):
            return m.ApiVersionsReply("scripted", 1, [], self.credit_bytes, self.max_request_bytes, "scripted")
        if isinstance(body, m.MetadataRequest):
            return self._metadata(body)
        if isinstance(body, m.InitProducerIdRequest):
            if body.producer_id >= 0:
                return m.InitProducerIdReply(body.producer_id, body.producer_epoch + 1)
            self._next_producer_id += 1
            return m.InitProducerIdReply(self._next_producer_id, 0)
        if isinstance(body, m.ProduceRequest):
            reply = self.append(heard)
            return reply if body.acks else DROP
        if isinstance(body, m.FetchRequest):
            reply, frames = self._fetch(heard)
            if any(frames) or any(entry.error_code for entry in reply.partitions):
                return reply, frames
            self._waiting.append(heard)
            return DROP
        if isinstance(body, m.ListOffsetsRequest):
            return m.ListOffsetsReply([self._offset(entry) for entry in body.partitions])
        if isinstance(body, m.CloseRequest):
            return DROP
        return UnsupportedVersionError(f"the script has no answer to API {heard.api}")

    def _metadata(self, request: m.MetadataRequest) -> m.MetadataReply:
        infos = []
        for name in self.topics if request.topics is None else request.topics:
            if name not in self.topics and self.auto_create and request.allow_auto_topic_creation:
                self.topics[name] = self.default_partitions
            if name not in self.topics:
                infos.append(m.TopicInfo(name, 3, f"there is no topic {name}"))
                continue
            partitions = [
                m.PartitionInfo(number, *self.told.get((name, number), (1, 0)), [1], [1])
                for number in range(self.topics[name])
            ]
            infos.append(m.TopicInfo(name, partitions=partitions, topic_id=name))
        ports = {node.node_id: int(node.address.rsplit(":", 1)[1]) for node in self.nodes}
        brokers = [m.BrokerInfo(node_id, "127.0.0.1", port) for node_id, port in ports.items()]
        return m.MetadataReply("scripted", 1, brokers, infos)

    def _refusal(self, topic: str, partition: int, epoch: int) -> int:
        """The error code of a node that does not lead, or not in this epoch."""
        leader, own = self.leaders.get((topic, partition), (1, 0))
        if leader != self.node_id:
            return 6
        return 0 if epoch in (-1, own) else 74 if epoch < own else 75

    def append(self, heard: Heard) -> m.ProduceReply:
        """Store batches as a broker does, producer sequences included."""
        entries = [
            self._append_one(entry.topic, entry.partition, batch, entry.leader_epoch)
            for entry, batch in zip(heard.body.partitions, heard.batches, strict=True)
        ]
        return m.ProduceReply(entries)

    def _append_one(self, topic: str, partition: int, batch: bytes, epoch: int = -1) -> m.PartitionProduced:
        if code := self._refusal(topic, partition, epoch):
            return m.PartitionProduced(topic, partition, code, f"node {self.node_id} does not lead in epoch {epoch}")
        stored = self.stored[topic, partition]
        header = read_header(batch)
        if len(batch) > self.max_batch_bytes:
            return m.PartitionProduced(topic, partition, 10, f"{len(batch)} bytes are more than {self.max_batch_bytes}")
        if header.producer_id >= 0:
            known = stored.producers.setdefault(header.producer_id, [])
            for known_epoch, first, last, offset in known:
                if (known_epoch, first, last) == (header.producer_epoch, header.base_sequence, header.last_sequence):
                    return m.PartitionProduced(topic, partition, base_offset=offset)
            expected = 0
            if known and known[-1][0] == header.producer_epoch:
                expected = known[-1][2] + 1
            if header.base_sequence != expected:
                message = f"sequence {header.base_sequence} came and {expected} is next"
                return m.PartitionProduced(topic, partition, 45, message)
            known.append((header.producer_epoch, header.base_sequence, header.last_sequence, stored.end))
            del known[:-5]
        base = stored.end
        copy = bytearray(batch)
        stamp(copy, base, 0)
        stored.batches.append((base, bytes(copy)))
        stored.end += header.records_count
        return m.PartitionProduced(topic, partition, base_offset=base)

    def _fetch(self, heard: Heard) -> tuple[m.FetchReply, list[bytes]]:
        entries = []
        frames = []
        for wanted in heard.body.partitions:
            stored = self.stored[wanted.topic, wanted.partition]
            code = self._refusal(wanted.topic, wanted.partition, wanted.leader_epoch)
            if not code and not 0 <= wanted.fetch_offset <= stored.end:
                code = 1
            data = []
            size = 0
            start = max(0, bisect_right(stored.batches, wanted.fetch_offset, key=lambda item: item[0]) - 1)
            if not code and wanted.fetch_offset < stored.end:
                for _, batch in stored.batches[start:]:
                    if data and size + len(batch) > wanted.max_bytes:
                        break
                    data.append(batch)
                    size += len(batch)
            text = f"the log ends at {stored.end}" if code else None
            entries.append(m.PartitionFetched(wanted.topic, wanted.partition, code, text, stored.end, stored.end, 0))
            frames.append(b"".join(data))
        return m.FetchReply(entries), frames

    def _offset(self, entry: m.PartitionTimestamp) -> m.PartitionOffset:
        end = self.stored[entry.topic, entry.partition].end
        offset = {m.LATEST: end, m.EARLIEST: 0}.get(entry.timestamp, -1)
        return m.PartitionOffset(entry.topic, entry.partition, offset=offset)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A scripted broker at a port of its own."""
    scripted = ScriptedServer()
    yield scripted
    scripted.close()


class ScriptedCluster:
    """Three nodes with one truth about leaders, and one store, as if everything were replicated at once."""

    def __init__(self) -> None:
        self.nodes = [ScriptedServer() for _ in range(3)]
        first = self.nodes[0]
        for node_id, node in enumerate(self.nodes, start=1):
            node.node_id = node_id
            node.nodes = self.nodes
            node.stored, node.topics, node.leaders, node.told = first.stored, first.topics, first.leaders, first.told

    def lead(self, node_id: int, epoch: int, topic: str = "t", partition: int = 0) -> None:
        """Make a node the leader; -1: nobody leads."""
        self.nodes[0].leaders[topic, partition] = (node_id, epoch)

    def close(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.close()


@pytest.fixture
def cluster() -> Iterator[ScriptedCluster]:
    """Three scripted nodes; the first leads everything."""
    scripted = ScriptedCluster()
    yield scripted
    scripted.close()
