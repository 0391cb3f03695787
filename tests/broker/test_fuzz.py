"""Ten thousand broken messages against one live broker: each is answered with a typed error, or dropped for a stated
reason, or was valid all the same; the broker lives, and its logs hold exactly what was accepted.

ZMQBROKER_FUZZ_SEED replays a run, ZMQBROKER_FUZZ_MUTATIONS makes it longer.
"""

from __future__ import annotations

import os
import random
import struct
import sys
from collections import Counter

import msgpack
import pytest
import zmq
from crc32c import crc32c
from zmqbroker.errors import BY_CODE
from zmqbroker.log.batch import HEADER, BatchHeader
from zmqbroker.log.records import decode_batch
from zmqbroker.transport.catalogue import REQUESTS
from zmqbroker.transport.config_messages import DescribeConfigsRequest, Resource
from zmqbroker.transport.envelope import convert_body, encode_request, split_reply
from zmqbroker.transport.messages import (
    ApiVersionsRequest,
    DescribeLogDirsRequest,
    FetchRequest,
    ListOffsetsRequest,
    MetadataRequest,
    NodeStatusRequest,
    OffsetForLeaderEpochRequest,
    PartitionData,
    PartitionEpoch,
    PartitionFetch,
    PartitionTimestamp,
    ProduceReply,
    ProduceRequest,
)

MUTATIONS = int(os.environ.get("ZMQBROKER_FUZZ_MUTATIONS", "10000"))
IN_FLIGHT_MAX = 200
TOPIC, PARTITIONS = "fuzz", 3
CLOSE_API = 1000
NUMBERS = (0, 1, -1, 127, 128, 255, 2**15, 2**31 - 1, 2**31, -(2**31), 2**63 - 1, 2**63, 2**64 - 1, -(2**63))
VALUES = (*NUMBERS, True, None, 1.5, float("nan"), "", "x" * 2000, b"bytes", [], {}, [[[[]]]], [0] * 100, {"a": 1})
EXTREMES = {
    "q": (0, -1, 1, 2**63 - 1, -(2**63)),
    "i": (0, -1, 1, 60, 2**31 - 1, -(2**31)),
    "b": (0, 1, -1, 127),
    "I": (0, 2**32 - 1),
    "H": (1, 2, 3, 4, 5, 7, 8, 16, 32, 64, 128, 65535),
    "h": (0, -1, 2**15 - 1),
}


class Mutator:
    """Makes broken messages from valid ones; all chance comes from one seed."""

    def __init__(self, seed, make_batch):
        self.random = random.Random(seed)
        self._make_batch = make_batch

    def next_message(self, number):
        """(kind, frames); the correlation id is put in where the envelope is still one."""
        kind = self.random.choice(("envelope bytes", "envelope values", "batch bytes", "batch header", "frames"))
        if kind.startswith("envelope"):
            request, batches = self.a_request()
            envelope = encode_request(request, number)
            broken = self.bytes_of(envelope) if kind.endswith("bytes") else self.values_of(envelope)
            return kind, [broken, *batches]
        acks = self.random.choice((-1, -1, 1, 1, 0))
        request = ProduceRequest(acks, 20_000, [PartitionData(TOPIC, self.random.randrange(PARTITIONS))])
        if kind == "frames":
            return kind, self.frames_of([encode_request(request, number), self.a_batch()])
        batch = self.a_batch()
        broken = self.bytes_of(batch) if kind == "batch bytes" else self.header_of(batch)
        if self.random.random() < 0.7 and len(broken) > 21:
            broken = broken[:17] + struct.pack(">I", crc32c(broken[21:])) + broken[21:]
        return kind, [encode_request(request, number), broken]

    def a_request(self):
        """A valid request that changes nothing, or a produce."""
        partition = self.random.randrange(PARTITIONS)
        produce = ProduceRequest(-1, 20_000, [PartitionData(TOPIC, partition)])
        requests = (
            produce,
            FetchRequest(0, 0, 10_000, [PartitionFetch(TOPIC, partition, 0, 1000)]),
            ListOffsetsRequest([PartitionTimestamp(TOPIC, partition, -1)]),
            MetadataRequest([TOPIC]),
            ApiVersionsRequest("fuzzer", "test"),
            DescribeConfigsRequest([Resource(2, TOPIC)]),
            OffsetForLeaderEpochRequest([PartitionEpoch(TOPIC, partition, 0)]),
            NodeStatusRequest(),
        )
        request = self.random.choice(requests)
        return request, [self.a_batch()] if request is produce else []

    def a_batch(self):
        values = [self.random.randbytes(self.random.randrange(30)) for _ in range(self.random.randint(1, 12))]
        idempotent = {"producer_id": self.random.randrange(5), "producer_epoch": 0, "base_sequence": 0}
        return self._make_batch(*values, **(idempotent if self.random.random() < 0.2 else {}))

    def bytes_of(self, data):
        """Flip, cut, insert, repeat."""
        broken = bytearray(data)
        for _ in range(self.random.choice((1, 1, 2, 5))):
            at = self.random.randrange(len(broken)) if broken else 0
            match self.random.randrange(5):
                case 0 if broken:
                    broken[at] ^= 1 << self.random.randrange(8)
                case 1:
                    del broken[at:]
                case 2:
                    broken[at:at] = self.random.randbytes(self.random.randint(1, 8))
                case 3 if broken:
                    broken[at] = self.random.choice((0, 0x7F, 0x80, 0xFF, 0x90, 0xC0, 0xDC, 0xDD))
                case _:
                    broken += broken[at : at + 20]
        return bytes(broken)

    def values_of(self, envelope):
        """Put something else somewhere into the array, leave something out, add something."""
        found = msgpack.unpackb(envelope)
        here = found
        while self.random.random() < 0.6:
            inner = [item for item in here if isinstance(item, list) and item]
            if not inner:
                break
            here = self.random.choice(inner)
        at = self.random.randrange(len(here))
        if here is found and at == 2:
            at = 3  # the correlation id stays, so that the answer can be found
        match self.random.randrange(4):
            case 0:
                here.append(self.random.choice(VALUES))
            case 1:
                del here[at:]
            case _:
                here[at] = self.random.choice(VALUES)
        return msgpack.packb(found)

    def header_of(self, batch):
        """Set fields of the header to extremes."""
        fields = list(HEADER.unpack_from(batch))
        for _ in range(self.random.choice((1, 1, 2))):
            at = self.random.randrange(len(fields))
            fields[at] = self.random.choice(EXTREMES[HEADER.format[at + 1]])
        return HEADER.pack(*fields) + batch[HEADER.size :]

    def frames_of(self, frames):
        """Frames too few, too many, empty, in the wrong order."""
        envelope, batch = frames
        choices = ([], [b""], [batch, batch], [batch, b""], [b"", batch], [batch[:-1]], [batch] * 50, [envelope])
        extra = self.random.choice(choices)
        return self.random.choice(([envelope, *extra], [b"", envelope, batch], [batch, envelope], [b""]))


def expects_no_reply(frames):
    """Whether the message, however it came about, is a valid one that has no reply: acks=0, or a goodbye."""
    try:
        api, version, _, body = msgpack.unpackb(frames[0], strict_map_key=False)
        if type(api) is not int or type(version) is not int or version != 0 or api not in (0, CLOSE_API):
            return False
        request = convert_body(body, REQUESTS[api])
    except (ValueError, TypeError, zmq.ZMQError, Exception):  # noqa: BLE001 - whatever it is, it is no valid message
        return False
    if api == CLOSE_API:
        return len(frames) == 1
    return request.acks == 0 and len(frames) - 1 == len(request.partitions)


class Run:
    """Sends mutations, each to be answered once, and keeps account of what the broker says it did."""

    def __init__(self, node, mutator):
        self.node = node
        self.mutator = mutator
        self.client = node.client()
        self.outcomes = Counter()
        self.refusals = Counter()
        self.accepted = Counter()  # (partition, base offset) -> times
        self.open = 0
        self.silent = []

    def go(self):
        for number in range(1, MUTATIONS + 1):
            kind, frames = self.mutator.next_message(number)
            if frames == [b""]:
                frames = [b"", b""]
            if expects_no_reply(frames):
                self.silent.append((kind, frames))
                self.outcomes["no reply by request"] += 1
            else:
                self.open += 1
            self.client.socket.send_multipart(frames)
            while self.open > IN_FLIGHT_MAX or (self.open and self.client.socket.poll(0)):
                self.take_reply()
        while self.open:
            self.take_reply()

    def take_reply(self):
        if not self.client.socket.poll(10_000):
            pytest.fail(f"{self.open} messages were not answered; {self.outcomes}")
        envelope, *frames = self.client.socket.recv_multipart()
        reply = split_reply(envelope)
        self.open -= 1
        assert self.open >= 0, f"more replies than requests: {reply}"
        if reply.error_code:
            assert reply.error_code in BY_CODE, reply
            assert reply.error_message
            assert not frames
            self.outcomes["refused"] += 1
            self.refusals[BY_CODE[reply.error_code].name] += 1
        elif reply.api == ProduceRequest.API:
            self.take_produced(convert_body(reply.body, ProduceReply))
        else:
            convert_body(reply.body, REQUESTS[reply.api].REPLY)
            self.outcomes["valid all the same"] += 1

    def take_produced(self, body):
        codes = {entry.error_code for entry in body.partitions}
        for entry in body.partitions:
            if entry.error_code:
                assert entry.error_code in BY_CODE, entry
                assert entry.error_message
                self.refusals[BY_CODE[entry.error_code].name] += 1
            else:
                assert entry.base_offset >= 0
                self.accepted[entry.partition, entry.base_offset] += 1
        self.outcomes["refused in part" if any(codes) else "valid all the same"] += 1


def all_flushed(client):
    found = client.call(DescribeLogDirsRequest()).partitions
    return all(entry.high_watermark == entry.log_end_offset for entry in found)


def stored_batches(client, partition):
    """(base offset, number of records) of all batches of a partition, each decoded."""
    found, offset = [], 0
    while True:
        number = client.send_fetch(TOPIC, offset, partition=partition)
        reply = client.reply_to(number)
        (state,) = client.body_of(reply, FetchRequest).partitions
        assert state.error_code == 0, state
        data = reply.frames[0]
        if not data:
            assert offset == state.high_watermark
            return found
        position = 0
        while position < len(data):
            header = BatchHeader._make(HEADER.unpack_from(data, position))
            batch = decode_batch(data[position : position + header.size], max_decompressed_bytes=2**26)
            assert [record.offset for record in batch] == list(range(header.base_offset, header.next_offset))
            assert header.base_offset == offset
            found.append((header.base_offset, len(batch)))
            position += header.size
            offset = header.next_offset


@pytest.fixture
def say(capsys):
    """Print a line that is seen whether the test fails or not: a run can be told again by its seed alone."""

    def line(text):
        with capsys.disabled():
            sys.stdout.write(f"\nfuzz: {text}\n")

    return line


def test_ten_thousand_broken_messages(make_node, batch, eventually, say):
    seed = int(os.environ.get("ZMQBROKER_FUZZ_SEED", str(random.SystemRandom().randrange(2**32))))
    say(f"ZMQBROKER_FUZZ_SEED={seed}, {MUTATIONS} mutations")
    node = make_node(log_level="ERROR", auto_create_topics_enable=False)
    control = node.client()
    control.create(TOPIC, PARTITIONS)
    configs = DescribeConfigsRequest([Resource(2, TOPIC)])
    before = (control.ask(MetadataRequest()).body, control.ask(configs).body)
    run = Run(node, Mutator(seed, batch))
    run.go()
    eventually(lambda: node.on_reactor(lambda: node.context.open_requests) == 0, "nothing is open")
    eventually(lambda: all_flushed(control), "what acks=1 appended is flushed, and so can be read")
    assert run.client.hears_nothing(), "a message was answered twice"
    assert (control.ask(MetadataRequest()).body, control.ask(configs).body) == before
    assert node.on_reactor(lambda: node.context.queued_bytes) == 0
    stored = {
        (partition, base): count
        for partition in range(PARTITIONS)
        for base, count in stored_batches(control, partition)
    }
    counters = control.counters()
    assert set(run.accepted) <= set(stored), "an accepted batch is not in the log"
    unasked = set(stored) - set(run.accepted)
    assert len(unasked) <= sum(len(frames) - 1 for _, frames in run.silent), "the log has batches that nobody sent"
    assert counters["batches-appended"] == len(stored)
    assert counters["records-appended"] == sum(stored.values())
    say(f"{dict(run.outcomes.most_common())}; {dict(run.refusals.most_common())}; {len(stored)} batches stored")
    assert sum(run.outcomes.values()) == MUTATIONS
    assert control.produce(TOPIC, b"alive").error_code == 0
