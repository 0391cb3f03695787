"""The consumer against a scripted broker: what is handed out, from where, and across every kind of failure."""

import threading
import time

import pytest
from zmqbroker import Consumer, TopicPartition, errors
from zmqbroker.log.records import encode_batch
from zmqbroker.transport import messages as m

FETCH = m.FetchRequest.API
OFFSETS = m.ListOffsetsRequest.API
DROP = "drop"
FAST = {"retry_backoff_ms": 5, "reconnect_backoff_ms": 5, "reconnect_backoff_max_ms": 20}
T0 = TopicPartition("t", 0)


def make(server, *topics, **settings) -> Consumer:
    return Consumer(*topics, bootstrap_servers=server.servers, **{"auto_offset_reset": "earliest", **FAST, **settings})


def fill(server, values, topic="t", *, partition=0, compression=0, batch=10):
    """Store values at the server, some to a batch."""
    server.topics[topic] = max(server.topics.get(topic, 0), partition + 1)
    for start in range(0, len(values), batch):
        records = [
            (1_000 + start + n, b"k", value, [("h", b"1")]) for n, value in enumerate(values[start : start + batch])
        ]
        encoded = encode_batch(records, compression=compression)
        server._append_one(topic, partition, encoded)


def numbers(count, first=0):
    return [b"%d" % number for number in range(first, first + count)]


def drain(consumer, count, seconds=10):
    """Poll until so many records came."""
    records = []
    deadline = time.monotonic() + seconds
    while len(records) < count:
        assert time.monotonic() < deadline, f"{len(records)} of {count} records came"
        for batch in consumer.poll(200).values():
            records += batch
    return records


def test_iteration_hands_out_everything_in_order(server):
    fill(server, numbers(95))
    with make(server, "t", consumer_timeout_ms=100) as consumer:
        records = list(consumer)
    assert [record.value for record in records] == numbers(95)
    assert [record.offset for record in records] == list(range(95))
    record = records[7]
    assert (record.topic, record.partition, record.timestamp, record.timestamp_type) == ("t", 0, 1_007, 0)
    assert (record.key, list(record.headers), record.checksum) == (b"k", [("h", b"1")], None)
    assert (record.serialized_key_size, record.serialized_value_size) == (1, 1)


@pytest.mark.parametrize("compression", [0, 1, 2, 3, 4])
def test_every_compression_is_read(server, compression):
    fill(server, [b"x" * 300] * 50, compression=compression)
    with make(server, "t") as consumer:
        assert [record.value for record in drain(consumer, 50)] == [b"x" * 300] * 50


def test_polls_are_bounded_and_positions_follow(server):
    fill(server, numbers(50))
    with make(server, "t") as consumer:
        first = consumer.poll(5_000, max_records=7)[T0]
        assert [record.offset for record in first] == list(range(7))
        assert consumer.position(T0) == 7
        assert next(consumer).offset == 7
        assert consumer.position(T0) == 8
        assert [record.offset for record in consumer.poll(5_000, max_records=2)[T0]] == [8, 9]
        for record in consumer:
            if record.offset == 20:
                break
        assert consumer.position(T0) == 21
        assert [record.offset for record in drain(consumer, 29)] == list(range(21, 50))
        assert consumer.poll(0) == {}
        with pytest.raises(errors.ConfigError):
            consumer.poll(0, max_records=0)


def test_seeks(server):
    fill(server, numbers(100))
    with make(server, "t") as consumer:
        drain(consumer, 1)
        consumer.seek(T0, 42)
        assert next(consumer).offset == 42
        consumer.seek_to_beginning()
        assert next(consumer).offset == 0
        for record in consumer:
            if record.offset == 5:
                consumer.seek(T0, 90)  # in the middle of an iteration
            if record.offset > 5:
                assert record.offset == 90
                break
        consumer.seek_to_end(T0)
        assert consumer.position(T0) == 100
        fill(server, [b"new"])
        assert next(consumer).value == b"new"
        server.once(OFFSETS, lambda _: m.ListOffsetsReply([m.PartitionOffset("t", 0, timestamp=1_050, offset=50)]))
        consumer.seek_to_time(1_050)
        assert next(consumer).offset == 50
        assert consumer.beginning_offsets([T0]) == {T0: 0}
        assert consumer.end_offsets([T0]) == {T0: 101}
        assert consumer.offsets_for_times({T0: 9_999_999}) == {T0: None}
        with pytest.raises(ValueError, match="not assigned"):
            consumer.seek(TopicPartition("t", 9), 0)
        with pytest.raises(ValueError, match="0 or more"):
            consumer.seek(T0, -1)


def test_latest_reads_what_comes_after(server):
    fill(server, numbers(10))
    with make(server, "t", auto_offset_reset="latest") as consumer:
        assert consumer.poll(20) == {}
        assert consumer.position(T0) == 10
        fill(server, [b"new"])
        assert next(consumer).value == b"new"


def test_a_topic_that_comes_later_is_read_from_its_beginning(server):
    server.auto_create = False
    with make(server, "t", auto_offset_reset="latest") as consumer:
        assert consumer.poll(30) == {}
        fill(server, numbers(3))
        assert [record.value for record in drain(consumer, 3)] == numbers(3)


def test_partitions_that_come_later_are_read_from_their_beginning(server):
    fill(server, numbers(2))
    with make(server, "t", auto_offset_reset="latest", metadata_max_age_ms=30) as consumer:
        assert consumer.poll(20) == {}
        assert consumer.position(T0) == 2
        fill(server, numbers(5), partition=1)
        assert [record.partition for record in drain(consumer, 5)] == [1] * 5
        assert consumer.assignment() == {T0, TopicPartition("t", 1)}


def test_assign_pause_and_resume(server):
    for partition in range(3):
        fill(server, numbers(20), partition=partition)
    parts = [TopicPartition("t", number) for number in range(3)]
    with make(server, max_poll_records=5) as consumer:
        consumer.assign(parts[:2])
        assert consumer.subscription() is None
        assert {record.partition for record in drain(consumer, 10)} <= {0, 1}
        consumer.pause(parts[0])
        assert consumer.paused() == {parts[0]}
        left = 20 - consumer.position(parts[1])
        assert {record.partition for record in drain(consumer, left)} <= {1}
        assert consumer.poll(20) == {}
        consumer.resume(parts[0])
        drain(consumer, 20 - consumer.position(parts[0]))
        consumer.assign(parts)
        assert {record.partition for record in drain(consumer, 20)} == {2}
        consumer.unsubscribe()
        assert consumer.assignment() == set()
        consumer.subscribe(["t"])
        assert len(drain(consumer, 60)) == 60


def test_deserializers_and_one_that_raises(server):
    fill(server, [b"1", b"2", b"bad", b"4"])
    with make(server, "t", value_deserializer=int, key_deserializer=bytes.decode) as consumer:
        assert [(record.key, record.value) for record in drain(consumer, 2)] == [("k", 1), ("k", 2)]
        for _ in range(2):
            with pytest.raises(ValueError, match="invalid literal"):
                consumer.poll(5_000)
            assert consumer.position(T0) == 2
        consumer.seek(T0, 3)
        record = next(consumer)
        assert (record.value, record.serialized_value_size) == (4, 1)


def test_a_damaged_batch_is_named_and_the_position_stays(server):
    fill(server, numbers(30))
    stored = server.stored["t", 0]
    base, whole = stored.batches[1]
    stored.batches[1] = (base, whole[:-1] + bytes([whole[-1] ^ 1]))
    with make(server, "t") as consumer:
        assert [record.offset for record in drain(consumer, 10)] == list(range(10))
        for _ in range(2):
            with pytest.raises(errors.CorruptMessageError, match="t-0 at offset 10"):
                consumer.poll(5_000)
            assert consumer.position(T0) == 10
        stored.batches[1] = (base, whole)
        assert [record.offset for record in drain(consumer, 20)] == list(range(10, 30))


def test_what_is_no_batch_is_an_error(server):
    fill(server, numbers(3))
    reply = m.FetchReply([m.PartitionFetched("t", 0, high_watermark=3)])
    server.once(FETCH, lambda _: (reply, [b"garbage"]), lambda _: (reply, [b"\0" * 100]))
    with make(server, "t") as consumer:
        for _ in range(2):
            with pytest.raises(errors.CorruptMessageError, match="no whole batch"):
                consumer.poll(5_000)
        assert len(drain(consumer, 3)) == 3


@pytest.mark.parametrize("code", [3, 5, 6, 56, 74, 75])
def test_retriable_errors_are_retried(server, code):
    fill(server, numbers(3))
    server.once(FETCH, lambda _: m.FetchReply([m.PartitionFetched("t", 0, code, "later")]))
    server.once(OFFSETS, lambda _: m.ListOffsetsReply([m.PartitionOffset("t", 0, code, "later")]))
    with make(server, "t") as consumer:
        assert len(drain(consumer, 3)) == 3


def test_an_offset_that_is_gone_follows_the_reset_rule(server):
    fill(server, numbers(3))
    with make(server) as consumer:
        consumer.assign([T0])
        consumer.seek(T0, 77)
        assert next(consumer).offset == 0
    with make(server, auto_offset_reset="none") as consumer:
        consumer.assign([T0])
        with pytest.raises(errors.OffsetOutOfRangeError, match="no position"):
            consumer.poll(5_000)
        consumer.seek(T0, 77)
        with pytest.raises(errors.OffsetOutOfRangeError, match="77"):
            consumer.poll(5_000)
        consumer.seek(T0, 1)
        assert next(consumer).offset == 1


def test_a_restarted_broker_costs_no_record(server):
    fill(server, numbers(20), batch=1)
    seen = []
    with make(server, "t", max_partition_fetch_bytes=200) as consumer:
        for round_ in range(4):
            seen += drain(consumer, 5)
            server.kill()
            seen += [record for batch in consumer.poll(5).values() for record in batch]
            server.start()
            fill(server, numbers(5, 20 + 5 * round_), batch=1)
        seen += drain(consumer, 40 - len(seen))
    assert [record.offset for record in seen] == list(range(40))


def test_a_lost_answer_is_fetched_again(server):
    fill(server, numbers(30), batch=1)
    server.once(FETCH, lambda _: DROP, lambda _: None, lambda _: [b"\xc1"], lambda _: errors.StorageError("disk"))
    with make(server, "t", request_timeout_ms=50, fetch_max_wait_ms=50, max_partition_fetch_bytes=300) as consumer:
        assert [record.offset for record in drain(consumer, 30)] == list(range(30))


def test_records_are_fetched_ahead_within_bounds(server):
    fill(server, [b"x" * 1_000] * 400, batch=10)
    with make(server, "t", max_partition_fetch_bytes=50_000, fetch_max_bytes=120_000) as consumer:
        drain(consumer, 1)
        server.wait_for(lambda: len(server.requests(FETCH)) >= 2)
        assert consumer.metrics()["buffered_bytes"] <= 120_000
        assert len(drain(consumer, 100)) >= 100


def test_a_record_wakes_a_waiting_consumer_at_once(server):
    fill(server, numbers(1))
    with make(server, "t") as consumer:
        drain(consumer, 1)
        timer = threading.Timer(0.05, fill, (server, [b"late"]))
        timer.start()
        began = time.monotonic()
        assert next(consumer).value == b"late"
        assert time.monotonic() - began < 2
        timer.join()


def test_partitions_take_turns(server):
    for partition in range(3):
        fill(server, numbers(1_000), partition=partition, batch=100)
    with make(server, "t", max_poll_records=500) as consumer:
        records = drain(consumer, 3_000)
    first = [record.partition for record in records[:1_600]]
    assert set(first) == {0, 1, 2}
    for partition in range(3):
        assert [r.value for r in records if r.partition == partition] == numbers(1_000)


def test_questions_about_the_cluster(server):
    fill(server, numbers(1))
    fill(server, numbers(1), topic="u", partition=2)
    with make(server) as consumer:
        assert consumer.topics() == {"t", "u"}
        assert consumer.partitions_for_topic("u") == {0, 1, 2}
        assert consumer.partitions_for_topic("none") is None
        assert "none" not in server.topics


def test_a_topic_that_cannot_be_is_an_error(server):
    reply = m.MetadataReply("scripted", 1, [], [m.TopicInfo("..", 17, "'..' is no name")])
    server.once(m.MetadataRequest.API, lambda _: reply)
    with make(server, "..") as consumer, pytest.raises(errors.InvalidTopicError, match="no name"):
        consumer.poll(5_000)


def test_after_close_nothing_is_read(server):
    consumer = make(server, "t")
    consumer.close()
    consumer.close()
    with pytest.raises(errors.ClosedError):
        consumer.poll(0)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"group_id": ""}, "group_id"),
        ({"group_instance_id": "i"}, "without a group_id"),
        ({"group_id": "g", "heartbeat_interval_ms": 45_000}, "not below session_timeout_ms=45000"),
        ({"group_id": "g", "partition_assignment_strategy": ["best"]}, "range, roundrobin"),
        ({"group_id": "g", "enable_auto_commit": 1}, "True or False"),
        ({"auto_offset_rest": "earliest"}, "did you mean auto_offset_reset"),
        ({"auto_offset_reset": "first"}, "auto_offset_reset"),
        ({"max_poll_records": 0}, "max_poll_records"),
        ({"check_crcs": 1}, "True or False"),
    ],
)
def test_settings_are_checked(settings, text):
    with pytest.raises(errors.ConfigError, match=text):
        Consumer("t", **settings)
