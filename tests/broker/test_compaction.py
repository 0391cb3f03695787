"""Compacted topics in a running node: read while they are compacted, restarted, on a full disk, and damaged."""

from __future__ import annotations

import pathlib
from itertools import count

import pytest
from zmqbroker import Consumer
from zmqbroker.log.batch import read_header
from zmqbroker.log.plain_records import decode_batch
from zmqbroker.log.records import encode_batch
from zmqbroker.simulation.log_model import split_batches
from zmqbroker.transport.messages import DescribeLogDirsRequest, PartitionData, ProduceRequest

KEYS = 40
SETTINGS = {"log_cleaner_backoff_ms": 10, "log_flush_offset_checkpoint_interval_ms": 10}
TOPIC = {"cleanup_policy": "compact", "segment_bytes": 4000, "min_cleanable_dirty_ratio": 0.01}


def fill(client, first, end, compression=0):
    """Append numbered records of a few keys, seven in a batch."""
    for start in range(first, end, 7):
        rows = [(1_000_000 + n, b"key-%d" % (n % KEYS), b"value-%d" % n, ()) for n in range(start, min(start + 7, end))]
        request = ProduceRequest(-1, 30_000, [PartitionData("a", 0, -1)])
        (result,) = client.body_of(client.ask(request, encode_batch(rows, compression=compression)), request).partitions
        assert result.error_code == 0, result


def info_of(client):
    """What the node says of the only topic."""
    (info,) = [found for found in client.call(DescribeLogDirsRequest()).partitions if found.topic == "a"]
    return info


def stored(client):
    """The records of the topic, by offset."""
    found, offset, end = {}, 0, client.end_offset("a")
    while offset < end:
        data = client.reply_to(client.send_fetch("a", offset)).frames[0]
        assert data, offset
        for batch in split_batches(data):
            found.update({record.offset: (record.key, record.value) for record in decode_batch(batch)})
        offset = read_header(batch).next_offset
    return found


def check(found, end):
    """Each record stands where it was written, and the last of each key is there."""
    assert all(pair == (b"key-%d" % (n % KEYS), b"value-%d" % n) for n, pair in found.items())
    assert found.keys() >= set(range(end - KEYS, end))


@pytest.mark.parametrize("compression", [0, 1, 4])
def test_a_consumer_reads_a_topic_while_it_is_compacted(make_node, eventually, compression):
    node = make_node(**SETTINGS)
    client = node.client()
    client.create("a", **TOPIC)
    servers = f"{node.address.host}:{node.address.port}"
    seen = {}
    with Consumer("a", bootstrap_servers=servers, auto_offset_reset="earliest") as consumer:

        def read():
            for records in consumer.poll(timeout_ms=100).values():
                seen.update({record.offset: (record.key, record.value) for record in records})

        for first in range(0, 1500, 300):
            fill(client, first, first + 300, compression)
            read()
        eventually(lambda: client.counters().get("logs-compacted"), "a compaction")
        eventually(lambda: read() or max(seen) == 1499, "the last record")
    check(seen, 1500)
    before = stored(client)
    check(before, 1500)
    assert len(before) < 1400
    node.restart()
    client = node.client()
    check(stored(client), 1500)
    assert client.end_offset("a") == 1500
    fill(client, 1500, 2000)
    eventually(lambda: client.counters().get("logs-compacted"), "a compaction after the restart")
    found = stored(client)
    check(found, 2000)
    assert len(found) < 1000
    node.crash()
    node.start()
    check(stored(node.client()), 2000)


def test_a_full_disk_only_puts_compaction_off(make_node, faults, eventually, caplog):
    client = make_node(**SETTINGS).client()
    client.create("a", **TOPIC)
    faults.full_for = ".cleaned"
    fill(client, 0, 1000)
    eventually(lambda: "compaction of a-0 was broken off" in caplog.text, "a log line")
    assert stored(client).keys() == set(range(1000))
    faults.full_for = ""
    eventually(lambda: client.counters().get("logs-compacted"), "a compaction")
    check(stored(client), 1000)


def test_damage_is_reported_and_nothing_is_cleaned_away(make_node, eventually):
    node = make_node(log_cleaner_enable="false")
    client = node.client()
    client.create("a", **TOPIC)
    fill(client, 0, 1000)
    node.stop()
    files = sorted(pathlib.Path(node.folder, "a-0").glob("*.log"))
    data = bytearray(files[1].read_bytes())
    data[-3] ^= 0x10
    files[1].write_bytes(data)
    contents = {path: path.read_bytes() for path in files}
    node.settings.update(SETTINGS, log_cleaner_enable="true")
    node.start()
    client = node.client()
    eventually(lambda: "CRC" in (info_of(client).error_message or ""), "the damage")
    assert {path: path.read_bytes() for path in files} == contents
    assert client.counters().get("logs-compacted") is None


def test_compact_and_delete_do_both(make_node, eventually):
    client = make_node(**SETTINGS, log_retention_check_interval_ms=20).client()
    client.create("a", **{**TOPIC, "cleanup_policy": "compact,delete", "retention_bytes": 3000, "retention_ms": -1})
    starts = count(0, 500)

    def deleted_after_more():
        """Compaction may be the faster one, and leave less than is to be deleted."""
        start = next(starts)
        fill(client, start, start + 500)
        return client.counters().get("segments-deleted")

    eventually(deleted_after_more, "a deletion")
    eventually(lambda: client.counters().get("logs-compacted"), "a compaction")
    assert info_of(client).log_start_offset > 0
