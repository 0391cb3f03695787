"""Dead letters that are large, of groups with odd names, or beside others that cannot be written."""

from __future__ import annotations

from typing import Any

import pytest
from zmqbroker.errors import InvalidConfigError
from zmqbroker.log import compression
from zmqbroker.log.records import encode_batch
from zmqbroker.transport.config_messages import GROUP_RESOURCE, TOPIC_RESOURCE, AlterConfigsRequest, ResourceChange
from zmqbroker.transport.messages import CreateTopicsRequest, NewTopic, PartitionData, ProduceRequest
from zmqbroker.transport.share_messages import ACK_ACCEPT, ACK_REJECT

MIB = 1 << 20


def noise(size: int) -> bytes:
    """Bytes that do not compress well, the same in each run."""
    found, word = bytearray(), 1
    while len(found) < size:
        word = word * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
        found += (word >> 16).to_bytes(6, "big")
    return bytes(found[:size])


def produce(client: Any, *records: tuple[bytes | None, bytes | None, list[Any]], codec: int = compression.NONE) -> None:
    rows = [(1_700_000_000_000, key, value, headers) for key, value, headers in records]
    entries = [PartitionData("t", 0)]
    body = client.call(ProduceRequest(-1, 10_000, entries), encode_batch(rows, compression=codec))
    assert body.partitions[0].error_code == 0, body


def letters_of(client: Any, topic: str = "dlq.g") -> list[Any]:
    found: list[Any] = []
    while True:
        state, records = client.fetch(topic, len(found))
        assert state.error_code == 0, state
        if not records:
            return found
        found += records


def message_of(letter: Any) -> str:
    text: bytes = dict(letter.headers)["__dlq.errors.message"]
    return text.decode()


def test_a_record_that_came_compressed_fits(worker: Any, client: Any, until: Any) -> None:
    client.create("t")
    produce(client, (b"k", bytes(3 * MIB), [("own", b"1")]), codec=compression.GZIP)
    client.produce("t", b"small")
    assert len(worker.fetch("t")) == 2
    worker.ack("t", (0, 1, ACK_REJECT))
    until(lambda: worker.states("t").start_offset == 2)
    large, small = letters_of(client)
    assert (large.key, large.value, dict(large.headers)["own"]) == (b"k", bytes(3 * MIB), b"1")
    assert small.value == b"small"


def test_headers_count(worker: Any, client: Any, until: Any) -> None:
    client.create("t")
    header = [("h", bytes(10_000))]
    produce(client, *[(None, b"%d" % index, header) for index in range(300)], codec=compression.ZSTD)
    assert len(worker.fetch("t")) == 300
    worker.ack("t", (0, 299, ACK_REJECT))
    until(lambda: worker.states("t").start_offset == 300)
    assert [letter.value for letter in letters_of(client)] == [b"%d" % index for index in range(300)]


def test_a_value_that_does_not_fit_is_left_out(worker: Any, client: Any, until: Any) -> None:
    client.create("t")
    body = client.call(CreateTopicsRequest([NewTopic("dlq.g", 1, configs=[("max.message.bytes", "2000")])], 1000))
    assert body.topics[0].error_code == 0
    produce(client, (b"k", noise(5000), [("own", b"1")]), (noise(4000), noise(5000), []), (None, b"small", []))
    assert len(worker.fetch("t")) == 3
    worker.ack("t", (0, 2, ACK_REJECT, -1, "bad"))
    until(lambda: worker.states("t").start_offset == 3)
    large, larger, small = letters_of(client)
    assert (large.key, large.value, dict(large.headers)["own"]) == (b"k", None, b"1")
    assert (
        message_of(large) == "bad; its value of 5000 bytes did not fit into the dead-letter topic and stands at t-0-0"
    )
    assert (larger.key, larger.value) == (None, None)
    assert "key of 4000 bytes, value of 5000 bytes and 0 headers" in message_of(larger)
    assert (small.value, message_of(small)) == (b"small", "bad")


def test_letters_that_cannot_be_written_stop_no_others(
    worker: Any, client: Any, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client.create("t")
    body = client.call(CreateTopicsRequest([NewTopic("dlq.g", 1, configs=[("max.message.bytes", "600")])], 1000))
    assert body.topics[0].error_code == 0
    client.produce("t", b"a", b"b", b"c", b"d")
    assert len(worker.fetch("t")) == 4
    worker.ack("t", (0, 0, ACK_REJECT, -1, "no"), (1, 1, ACK_REJECT, -1, noise(700).hex()))
    worker.ack("t", (2, 2, ACK_REJECT, -1, "no"), (3, 3, ACK_ACCEPT))
    until(lambda: len(letters_of(client)) == 2)
    until(lambda: [state.state for state in worker.states("t").states] == ["archiving", "archived", "acknowledged"])
    assert "the dead letter of t-0-1 of share group g has to wait" in caplog.text
    change = ResourceChange(TOPIC_RESOURCE, "dlq.g", [("max.message.bytes", "100000")])
    assert client.call(AlterConfigsRequest([change])).resources[0].error_code == 0
    until(lambda: worker.states("t").start_offset == 4)
    assert [letter.value for letter in letters_of(client)] == [b"a", b"c", b"b"]


@pytest.mark.parametrize("group", ["orders/eu", "o" * 300, "größe"])
def test_a_group_whose_id_is_no_topic_name(client: Any, make_worker: Any, until: Any, group: str) -> None:
    worker = make_worker(client, group=group)
    client.create("t")
    client.produce("t", b"a")
    worker.fetch("t")
    worker.ack("t", (0, 0, ACK_REJECT))
    until(lambda: worker.states("t").start_offset == 1)
    assert client.values(worker.describe().dead_letter_topic) == [b"a"]


@pytest.mark.parametrize("name", ["a/b", "x" * 250, "..", "__consumer_offsets", "__share_group_state"])
def test_a_dead_letter_topic_that_cannot_be_is_refused(client: Any, name: str) -> None:
    setting = "errors.deadletterqueue.topic.name"
    body = client.call(AlterConfigsRequest([ResourceChange(GROUP_RESOURCE, "g", [(setting, name)])]))
    assert body.resources[0].error_code == InvalidConfigError.code
    assert setting in body.resources[0].error_message


@pytest.mark.parametrize("name", ["", "none", "letters"])
def test_a_dead_letter_topic_may_be_named(settings: Any, name: str) -> None:
    settings(errors_deadletterqueue_topic_name=name)
