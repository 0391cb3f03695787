"""Bad input at the Kafka listener: the node lives, others are unaffected, and a log line says what it was."""

from __future__ import annotations

import logging
import random
import socket
import struct
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import zmqbroker
from zmqbroker.gateway.protocol import (
    ADD_OFFSETS_TO_TXN,
    ADD_PARTITIONS_TO_TXN,
    API_VERSIONS,
    APIS,
    DESCRIBE_PRODUCERS,
    DESCRIBE_TRANSACTIONS,
    END_TXN,
    LIST_TRANSACTIONS,
    METADATA,
    PRODUCE,
    TXN_OFFSET_COMMIT,
)
from zmqbroker.testing import Broker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .kafka_clients import Client

MUTATIONS = 3_000
MAX_REQUEST = 1024 * 1024
OF_TRANSACTIONS = {
    *(ADD_PARTITIONS_TO_TXN, ADD_OFFSETS_TO_TXN, END_TXN, TXN_OFFSET_COMMIT),
    *(DESCRIBE_PRODUCERS, DESCRIBE_TRANSACTIONS, LIST_TRANSACTIONS),
}


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(log_level="INFO", socket_request_max_bytes=MAX_REQUEST) as found:
        yield found


@pytest.fixture
def connect(broker: Broker) -> Iterator[Callable[[], socket.socket]]:
    """Make bare connections to the Kafka listener."""
    host, _, port = broker.kafka_bootstrap.rpartition(":")
    made: list[socket.socket] = []

    def make() -> socket.socket:
        found = socket.create_connection((host, int(port)), timeout=20)
        made.append(found)
        return found

    yield make
    for each in made:
        each.close()


def frame(key: int, version: int, body: bytes, correlation_id: int = 7, client_id: bytes = b"me") -> bytes:
    header = struct.pack(">hhi", key, version, correlation_id) + struct.pack(">h", len(client_id)) + client_id
    return struct.pack(">i", len(header) + len(body)) + header + body


def receive(connection: socket.socket) -> bytes:
    """One whole response, without its length; b"" if the connection was closed instead."""
    data = b""
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
        more = connection.recv(65536)
        if not more:
            return b""
        data += more
    return data[4:]


def lives(broker: Broker, connect: Callable[[], socket.socket]) -> bool:
    """Whether the node still answers."""
    connection = connect()
    connection.sendall(frame(API_VERSIONS, 0, b""))
    return broker.is_running and receive(connection)[:6] == struct.pack(">ih", 7, 0)


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", "HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS"),
        (b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f", "ZeroMQ"),
        (b"\x7f\xff\xff\xff" + bytes(12), "a length of 2147483647 bytes"),
        (b"\x80\x00\x00\x00", "a length of -2147483648 bytes"),
        (b"\x00\x00\x00\x00", "a length of 0 bytes"),
        (b"\x00\x00\x00\x03abc", "a request has 3 bytes"),
        (frame(999, 0, b""), "API 999 is none"),
        (frame(METADATA, 99, b""), "version 99 of Metadata is not served: versions 0 to 12 are"),
        (frame(METADATA, 4, b"\x7f\xff\xff\xff"), "MetadataRequest.topics"),
        (frame(METADATA, 4, b"", client_id=b"\xff" * 2000), "the client id is 2000 bytes long, and 1024 are allowed"),
        (frame(PRODUCE, 3, b"\x00\x05ab"), "ProduceRequest.transactional_id: it takes 5 bytes"),
    ],
)
def test_what_is_no_request_is_disconnected_and_named(
    sent: bytes, why: str, broker: Broker, connect: Callable[[], socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        connection = connect()
        connection.sendall(sent)
        assert receive(connection) == b""
        assert lives(broker, connect)
    assert any(why in record.getMessage() and record.levelno >= logging.WARNING for record in caplog.records)


def test_a_version_of_api_versions_that_is_not_known_is_answered_with_what_is(
    connect: Callable[[], socket.socket],
) -> None:
    connection = connect()
    connection.sendall(frame(API_VERSIONS, 77, b"whatever"))
    answer = receive(connection)
    correlation_id, code, count = struct.unpack_from(">ihi", answer)
    assert (correlation_id, code, count) == (7, 35, len(APIS))
    connection.sendall(frame(API_VERSIONS, 0, b"", correlation_id=8))
    assert struct.unpack_from(">ih", receive(connection)) == (8, 0)


def test_requests_of_one_connection_are_answered_in_order(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    waits = struct.pack(">iiiib", -1, 300, 1, 1 << 20, 0) + struct.pack(">i", 0)  # a fetch of nothing, with a wait
    requests = [frame(1, 4, waits, correlation_id=1)]
    requests += [frame(API_VERSIONS, 0, b"", correlation_id=number) for number in range(2, 6)]
    connection.sendall(b"".join(requests))
    data = b""
    seen = []
    while len(seen) < 5:
        data += connection.recv(65536)
        while len(data) >= 4 and len(data) >= 4 + (size := int.from_bytes(data[:4], "big")):
            seen.append(int.from_bytes(data[4:8], "big"))
            data = data[4 + size :]
    assert seen == [1, 2, 3, 4, 5]


def test_a_stalled_client_holds_nobody_up(
    broker: Broker, connect: Callable[[], socket.socket], client_of: Callable[[str], Client], topic: str
) -> None:
    stalled = [connect() for _ in range(20)]
    for connection in stalled:
        connection.sendall(struct.pack(">i", MAX_REQUEST) + b"the beginning of a request")
    client = client_of("confluent-kafka")
    client.produce(topic, [b"a", b"b"])
    assert len(client.consume(topic, 2, topic)) == 2
    assert lives(broker, connect)


def test_thousands_of_mutated_frames_harm_nobody(
    broker: Broker, connect: Callable[[], socket.socket], frames: list[bytes]
) -> None:
    """Real frames of a client, bytes of which are changed, cut out, or doubled."""
    chance = random.Random(11)
    connection = connect()
    connection.settimeout(0.0)
    for _ in range(MUTATIONS):
        data = bytearray(chance.choice(frames))
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(4, len(data))
            kind = chance.random()
            if kind < 0.6:
                data[at] = chance.randrange(256)
            elif kind < 0.8:
                del data[at : at + chance.randint(1, 8)]
            else:
                data[at:at] = data[at : at + chance.randint(1, 8)]
            if len(data) <= 5:
                break
        data[:4] = struct.pack(">i", len(data) - 4)
        try:
            connection.send(data)
            connection.recv(1 << 20)
        except BlockingIOError:
            continue
        except OSError:
            pass
        connection.close()
        connection = connect()
        connection.settimeout(0.0)
    assert lives(broker, connect)


@pytest.fixture(scope="module")
def frames() -> list[bytes]:
    """The requests of real clients, as they came off the wire."""
    from kafka import KafkaAdminClient, TopicPartition
    from zmqbroker.gateway import connection as module

    from .kafka_clients import CLIENTS
    from .kafka_members import MEMBERS, read, unclosed_sockets
    from .kafka_transactions import PRODUCERS

    heard: list[bytes] = []
    original = module.KafkaConnection._begin

    def begin(self: Any, data: Any) -> None:
        heard.append(struct.pack(">i", len(data)) + bytes(data))
        original(self, data)

    with pytest.MonkeyPatch.context() as patch, Broker() as other:
        patch.setattr(module.KafkaConnection, "_begin", begin)
        for name in ("kafka-python", "confluent-kafka"):
            client = CLIENTS[name](other.kafka_bootstrap)
            client.produce("t", [b"a", b"b"])
            client.consume("t", 2, name)
            with closing(PRODUCERS[name](other.kafka_bootstrap, name)) as producer:
                member = MEMBERS[name](other.kafka_bootstrap, "t", f"{name}-2", isolation="read_committed")
                with closing(member):
                    read(member, 2)
                    producer.begin()
                    producer.send("t", [b"c"])
                    producer.send_offsets("t", {0: 1}, member.group())
                    producer.commit()
        with unclosed_sockets(), closing(KafkaAdminClient(bootstrap_servers=other.kafka_bootstrap)) as admin:
            admin.list_transactions()
            admin.describe_transactions(["kafka-python"])
            admin.describe_producers([TopicPartition("t", 0)])
    kinds = {int.from_bytes(each[4:6], "big") for each in heard}
    assert kinds >= OF_TRANSACTIONS, "those of transactions are among them"
    assert len(kinds) > 8 + len(OF_TRANSACTIONS), "many kinds of requests"
    return heard


def test_a_producer_that_wants_no_answers_is_disconnected_if_it_is_refused(
    broker: Broker, connect: Callable[[], socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    body = struct.pack(">hhii", -1, 0, 1000, 1) + b"\x00\x04nope" + struct.pack(">iii", 1, 0, 4) + b"junk"
    connection = connect()
    connection.sendall(frame(PRODUCE, 3, body))
    assert receive(connection) == b""
    assert lives(broker, connect)
    assert "there is no topic 'nope'" in caplog.text


def test_a_flood_of_small_requests_leaves_others_their_turn(
    broker: Broker, connect: Callable[[], socket.socket]
) -> None:
    count = 20_000
    flood = connect()
    flood.settimeout(0.0)
    data = memoryview(b"".join(frame(API_VERSIONS, 0, b"", correlation_id=number) for number in range(count)))
    sent, read = 0, bytearray()
    while sent < len(data):
        try:
            sent += flood.send(data[sent:])
        except BlockingIOError:
            break  # it is left unread, as its responses are
    began = time.monotonic()
    assert lives(broker, connect)
    assert time.monotonic() - began < 5, "the flood is worked on in turns"
    flood.settimeout(20.0)
    size = 4 + int.from_bytes(flood.recv(4, socket.MSG_PEEK | socket.MSG_WAITALL), "big")
    while len(read) < size * 100:
        read += flood.recv(1 << 20)
    numbers = [int.from_bytes(read[at + 4 : at + 8], "big") for at in range(0, size * 100, size)]
    assert numbers == list(range(100))


def test_who_does_not_read_its_responses_gets_no_more_of_them(
    broker: Broker,
    connect: Callable[[], socket.socket],
    client_of: Callable[[str], Client],
    topic: str,
    eventually: Callable[..., Any],
) -> None:
    """Each fetch brings what there is; a hundred of them, unread, do not make the node hold a hundred times as much."""
    client = client_of("confluent-kafka")
    client.produce(topic, [bytes(100_000) for _ in range(20)])
    name = topic.encode()
    partition = struct.pack(">iqi", 0, 0, 1 << 30)
    body = struct.pack(">iiiibi", -1, 0, 0, 1 << 30, 0, 1) + struct.pack(">h", len(name)) + name
    body += struct.pack(">i", 2) + partition + struct.pack(">iqi", 1, 0, 1 << 30)
    slow = connect()
    slow.sendall(b"".join(frame(1, 4, body, correlation_id=number) for number in range(200)))
    with zmqbroker.Admin(bootstrap_servers=broker.bootstrap_servers) as admin:
        eventually(lambda: admin.node_status().counters["bytes-unsent"], "responses wait to be read")
        held = [admin.node_status().counters["bytes-unsent"] for _ in range(50)]
    assert max(held) < 64 * 1024 * 1024
    assert lives(broker, connect)
