"""A node that coordinates transactions, and producers and readers that speak to it by raw envelopes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from zmqbroker.actors.context import coordinator_address
from zmqbroker.errors import BrokerError
from zmqbroker.groups.partitioning import group_partition
from zmqbroker.log.batch import read_header
from zmqbroker.log.plain_records import decode_batch, encode_batch
from zmqbroker.log.transactions import read_marker
from zmqbroker.transport import group_messages as g
from zmqbroker.transport import transaction_messages as t
from zmqbroker.transport.internal_topics import TRANSACTION_STATE_TOPIC
from zmqbroker.transport.messages import (
    READ_COMMITTED,
    FetchRequest,
    InitProducerIdRequest,
    ListOffsetsRequest,
    PartitionData,
    PartitionFetch,
    PartitionTimestamp,
    ProduceRequest,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PARTITIONS = 4


class TransactionalProducer:
    """One producer with a transactional id, that does nothing by itself."""

    def __init__(self, client: Any, name: str, eventually: Callable[..., Any]) -> None:
        self.client = client
        self.name = name
        self.who = (-1, -1)
        self.number = -1
        self.sequences: dict[Any, int] = {}
        self._eventually = eventually

    def init(self, asked: Any = (-1, -1), timeout_ms: int = 60_000) -> TransactionalProducer:
        """Become the producer, as soon as the last transaction has ended."""
        request = InitProducerIdRequest(*asked, self.name, timeout_ms)
        reply = self.patiently(request)
        self.who = (reply.producer_id, reply.producer_epoch)
        self.sequences.clear()
        return self

    def patiently(self, request: Any) -> Any:
        """Ask until the last transaction has ended."""

        def ask() -> Any:
            reply = self.client.ask(request)
            return None if reply.error_code in (14, 15, 16, 51) else reply

        return self.client.body_of(self._eventually(ask, f"an answer to {request}"), request)

    def add(self, *places: Any) -> int:
        """Take partitions into the transaction."""
        entries = [g.TopicPartitionEntry(*place) for place in places]
        reply = self.patiently(t.AddPartitionsToTxnRequest(self.name, *self.who, entries))
        assert [entry.error_code for entry in reply.partitions] == [0] * len(places), reply
        self.number = reply.transaction
        return self.number

    def send_batch(self, topic: str, *values: bytes, partition: int = 0, **options: Any) -> int:
        """Send a batch without waiting; returns the request's number."""
        place = (topic, partition)
        sequence = options.pop("sequence", self.sequences.get(place, 0))
        self.sequences[place] = sequence + len(values)
        name = options.pop("name", self.name)
        rows = [(time.time_ns() // 1_000_000, b"k", value, ()) for value in values]
        ids = dict(zip(("producer_id", "producer_epoch"), options.pop("who", self.who), strict=True))
        batch = encode_batch(rows, **ids, base_sequence=sequence, transactional=True, **options)
        return self.client.send(ProduceRequest(-1, 30_000, [PartitionData(topic, partition)], name), batch)

    def produced(self, number: int) -> Any:
        """What became of a batch."""
        return self.client.body_of(self.client.reply_to(number), ProduceRequest).partitions[0]

    def send(self, topic: str, *values: bytes, **options: Any) -> int:
        """Produce a batch to a partition of the transaction; returns its offset."""
        found = self.produced(self.send_batch(topic, *values, **options))
        assert found.error_code == 0, found
        return found.base_offset

    def add_offsets(self, group: str = "g") -> int:
        """Take a group's offsets into the transaction."""
        self.number = self.patiently(t.AddOffsetsToTxnRequest(self.name, *self.who, group)).transaction
        return self.number

    def commit_offset(self, offset: int, group: str = "g", topic: str = "a", **options: Any) -> int:
        """Commit an offset as part of the transaction; returns the error code."""
        entry = g.OffsetToCommit(topic, 0, offset)
        request = t.TxnOffsetCommitRequest(self.name, *self.who, group, [entry], **options)
        return self.client.call(request).partitions[0].error_code

    def end(self, *, committed: bool = True) -> None:
        """Decide; the markers are written later."""
        self.client.call(t.EndTxnRequest(self.name, *self.who, committed, self.number))

    def describe(self) -> Any:
        """What the coordinator says of the transactional id."""
        return self.client.call(t.DescribeTransactionsRequest([self.name])).transactions[0]

    def is_in(self, state: str) -> None:
        """Wait until the transaction is in a state."""
        self._eventually(lambda: self.describe().state == state, f"{self.name} is in {state}")

    def error_of(self, what: Callable[..., Any], *arguments: Any) -> str:
        """The name of the error that a request is refused with."""
        with pytest.raises(BrokerError) as caught:
            what(*arguments)
        assert len(caught.value.message) > 20
        return caught.value.name


class Reader:
    """Reads committed records as a consumer does, and looks at what it is told besides."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def fetch(self, topic: str, offset: int = 0, partition: int = 0, *, wait_ms: int = 0) -> Any:
        """The state of a partition, and its batches."""
        number = self.send_fetch(topic, offset, partition, wait_ms=wait_ms)
        return self.fetched(number)

    def send_fetch(self, topic: str, offset: int = 0, partition: int = 0, *, wait_ms: int = 0) -> int:
        entry = PartitionFetch(topic, partition, offset, 1 << 20)
        return self.client.send(FetchRequest(wait_ms, 1, 1 << 20, [entry], isolation=READ_COMMITTED))

    def fetched(self, number: int) -> Any:
        reply = self.client.reply_to(number)
        (state,) = self.client.body_of(reply, FetchRequest).partitions
        assert state.error_code == 0, state
        batches, data, position = [], reply.frames[0], 0
        while position < len(data):
            header = read_header(data, position)
            batches.append((header, data[position : position + header.size]))
            position += header.size
        return state, batches

    def values(self, topic: str, partition: int = 0, offset: int = 0) -> list[bytes]:
        """What is committed, by the rule for readers (KIP-98)."""
        state, batches = self.fetch(topic, offset, partition)
        firsts = [(entry.first_offset, entry.producer_id) for entry in state.aborted]
        assert firsts == sorted(firsts)
        leave_out: set[int] = set()
        found = []
        for header, batch in batches:
            while firsts and firsts[0][0] <= header.last_offset:
                leave_out.add(firsts.pop(0)[1])
            if header.is_control:
                if not read_marker(batch).committed:
                    leave_out.discard(header.producer_id)
            elif not header.is_transactional or header.producer_id not in leave_out:
                found += [record.value for record in decode_batch(batch)]
        return found

    def markers(self, topic: str, partition: int = 0) -> list[Any]:
        """(offset, producer id, epoch, marker) of each marker in a partition, aborted or not."""
        entry = PartitionFetch(topic, partition, 0, 1 << 20)
        reply = self.client.ask(FetchRequest(0, 0, 1 << 20, [entry]))
        data, position, found = reply.frames[0], 0, []
        while position < len(data):
            header = read_header(data, position)
            if header.is_control:
                marker = read_marker(data[position : position + header.size])
                found.append((header.base_offset, header.producer_id, header.producer_epoch, marker))
            position += header.size
        return found

    def end(self, topic: str, partition: int = 0, timestamp: int = -1) -> int:
        """The end of what is committed, or the offset for another time."""
        request = ListOffsetsRequest([PartitionTimestamp(topic, partition, timestamp)], isolation=READ_COMMITTED)
        (found,) = self.client.call(request).partitions
        assert found.error_code == 0, found
        return found.offset

    def committed(self, group: str = "g", *, stable: bool = True) -> list[Any]:
        """(offset or -1, error code) of a group for a-0."""
        request = g.OffsetFetchRequest(group, [g.TopicPartitionEntry("a", 0)], stable)
        return [(entry.offset, entry.error_code) for entry in self.client.call(request).partitions]


@pytest.fixture
def settings() -> dict[str, Any]:
    """Of a node: few partitions of internal topics, which are fast to make."""
    return {"transaction_state_log_num_partitions": PARTITIONS, "offsets_topic_num_partitions": PARTITIONS}


@pytest.fixture
def node(faults: Any, make_node: Callable[..., Any], settings: dict[str, Any]) -> Any:
    assert not faults.full_for, "its disk has faults only later"
    return make_node(**settings)


def find(client: Any, *names: str) -> None:
    """Have the internal topics made."""
    for key_type, keys in ((g.TRANSACTION_COORDINATOR, list(names)), (g.GROUP_COORDINATOR, ["g"])):
        for found in client.call(g.FindCoordinatorRequest(keys, key_type)).coordinators:
            assert found.error_code == 0, found


@pytest.fixture
def client(node: Any) -> Any:
    """A client of a node with topics a and b, of two partitions."""
    client = node.client()
    client.create("a", 2)
    client.create("b", 2)
    find(client, "tx")
    return client


@pytest.fixture
def make_producer(client: Any, eventually: Callable[..., Any]) -> Callable[..., TransactionalProducer]:
    """Make a producer, of another client if need be."""

    def make(name: str = "tx", its_client: Any = None) -> TransactionalProducer:
        return TransactionalProducer(its_client or client, name, eventually)

    return make


@pytest.fixture
def producer(make_producer: Callable[..., TransactionalProducer]) -> TransactionalProducer:
    return make_producer().init()


@pytest.fixture
def reader(client: Any) -> Reader:
    return Reader(client)


@pytest.fixture
def make_reader() -> type[Reader]:
    return Reader


@pytest.fixture
def coordinator_of(node: Any) -> Callable[..., Any]:
    """The coordinator's actor of a transactional id; to be touched on the reactor's thread only."""

    def of(name: str = "tx") -> Any:
        return node.actor(coordinator_address(TRANSACTION_STATE_TOPIC, group_partition(name, PARTITIONS)))

    return of
