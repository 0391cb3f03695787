"""The producer against a scripted broker: results, order, and every way a request can fail."""

import json
import threading
import time

import pytest
from zmqbroker import Producer, TopicPartition, errors
from zmqbroker.log.batch import read_header
from zmqbroker.transport import messages as m

PRODUCE = m.ProduceRequest.API
METADATA = m.MetadataRequest.API
INIT = m.InitProducerIdRequest.API
DROP = "drop"
FAST = {"retry_backoff_ms": 5, "reconnect_backoff_ms": 5, "reconnect_backoff_max_ms": 20}


def make(server, **settings) -> Producer:
    return Producer(bootstrap_servers=server.servers, **{**FAST, **settings})


def failing(code, name="t"):
    """A rule that refuses every batch of a request with a code."""
    return lambda heard: m.ProduceReply(
        [
            m.PartitionProduced(entry.topic, entry.partition, code, f"{name} says {code}")
            for entry in heard.body.partitions
        ]
    )


def lost(server):
    """A rule that stores the batches and loses the answer with the connection."""

    def rule(heard):
        server.append(heard)
        return [b"\xc1"]  # not msgpack: the client gives the connection up

    return rule


def test_a_record_is_stored_and_its_future_says_where(server):
    with make(server) as producer:
        first = producer.send("t", b"one").get(5)
        second = producer.send("t", b"two", key=b"k", headers=[("h", b"1")], timestamp_ms=123).get(5)
    assert (first.topic, first.partition, first.offset) == ("t", 0, 0)
    assert (second.offset, second.timestamp) == (1, 123)
    assert second.topic_partition == TopicPartition("t", 0)
    assert server.values("t") == [b"one", b"two"]


def test_many_records_keep_their_order_and_their_offsets(server):
    with make(server) as producer:
        futures = [producer.send("t", b"%d" % number) for number in range(20_000)]
        producer.flush(20)
        assert [future.get(0).offset for future in futures] == list(range(20_000))
    assert server.values("t") == [b"%d" % number for number in range(20_000)]
    assert len(server.requests(PRODUCE)) < 2_000, "records were not gathered into batches"


def test_send_many_tells_the_ranges(server):
    with make(server, batch_size=1_000) as producer:
        ranges = producer.send_many("t", [b"x%d" % number for number in range(1_000)]).get(10)
        single = producer.send_many("t", [b"last", None], key=b"k").get(10)
    assert sum(item.count for item in ranges) == 1_000
    assert [item.base_offset for item in ranges] == [sum(i.count for i in ranges[:n]) for n in range(len(ranges))]
    assert single[0].base_offset == 1_000
    assert server.values("t") == [*(b"x%d" % number for number in range(1_000)), b"last", None]


def test_send_many_with_keys_goes_where_each_key_goes(server):
    server.default_partitions = 4
    keys = [b"key-%d" % (number % 16) for number in range(200)]
    with make(server) as producer:
        producer.send_many("t", keys, keys=keys).get(10)
        where = {key: producer.send("t", key, key).get(5).partition for key in set(keys)}
    for key, partition in where.items():
        assert server.values("t", partition).count(key) == keys.count(key) + 1


def test_serializers_and_compression(server):
    for compression in ("gzip", "snappy", "lz4", "zstd"):
        with make(server, compression_type=compression, value_serializer=lambda v: json.dumps(v).encode()) as producer:
            producer.send(compression, {"a": "b" * 500}).get(5)
        assert json.loads(server.values(compression)[0]) == {"a": "b" * 500}


def test_what_is_no_bytes_is_refused(server):
    with make(server) as producer:
        with pytest.raises(TypeError, match="value_serializer"):
            producer.send("t", "text")
        with pytest.raises(TypeError, match="headers"):
            producer.send("t", b"x", headers=[b"h"])
        with pytest.raises(ValueError, match="timestamp_ms"):
            producer.send("t", b"x", timestamp_ms=-1)
        with pytest.raises(ValueError, match="timestamp_ms"):
            producer.send_many("t", [b"x"], timestamp_ms=1.5)
        with pytest.raises(ValueError, match="no partition 7"):
            producer.send("t", b"x", partition=7)
        assert producer.send("t", bytearray(b"ok")).get(5).offset == 0


@pytest.mark.parametrize("code", [3, 5, 6, 7, 19, 20, 56, 74, 75])
def test_a_retriable_error_is_retried_and_stored_once(server, code):
    server.once(PRODUCE, failing(code), failing(code))
    with make(server) as producer:
        assert producer.send("t", b"x").get(10).offset == 0
        assert producer.metrics()["retries"] == 2
    assert server.values("t") == [b"x"]


def test_a_back_off_that_ends_between_two_looks_is_not_missed(server):
    with make(server) as producer:
        producer.send("t", b"0").get(5)
        look = producer._sender.next_deadline

        def late():
            producer.io.now = lambda: time.monotonic() + 0.05
            try:
                return look()
            finally:
                producer.io.now = time.monotonic

        producer._sender.next_deadline = late
        server.once(PRODUCE, failing(19))
        assert producer.send("t", b"1").get(5).offset == 1


def test_an_error_that_stays_is_raised_by_its_type_and_flush_tells(server):
    server.once(PRODUCE, failing(87))
    with make(server) as producer:
        future = producer.send("t", b"x")
        with pytest.raises(errors.InvalidRecordError, match="t says 87"):
            future.get(5)
        assert future.failed()
        assert isinstance(future.exception, errors.InvalidRecordError)
        with pytest.raises(errors.InvalidRecordError, match="1 records failed since the last flush"):
            producer.flush(5)
        producer.flush(5)
        assert producer.send("t", b"y").get(5).offset == 0, "the numbers of a refused batch are used again"


def test_a_lost_answer_is_no_second_record(server):
    with make(server) as producer:
        producer.send("t", b"0").get(5)
        server.once(PRODUCE, lost(server))
        assert producer.send("t", b"1").get(5).offset == 1
        assert producer.send("t", b"2").get(5).offset == 2
    assert server.values("t") == [b"0", b"1", b"2"]


def test_order_holds_when_an_early_batch_fails(server):
    server.once(PRODUCE, failing(6), lambda _: None, failing(19), lost(server))
    with make(server, batch_size=200) as producer:
        for number in range(300):
            producer.send("t", b"%d" % number)
        producer.flush(20)
    assert server.values("t") == [b"%d" % number for number in range(300)]


def test_a_broken_chain_is_numbered_anew(server):
    with make(server) as producer:
        producer.send("t", b"0").get(5)
        server.stored["t", 0].producers.clear()  # the broker forgot the producer
        assert producer.send("t", b"1").get(5).offset == 1
    assert server.values("t") == [b"0", b"1"]
    epochs = [read_header(request.batches[0]).producer_epoch for request in server.requests(PRODUCE)]
    assert epochs == [0, 0, 1]


def test_a_batch_that_expired_leaves_no_gap(server):
    with make(server, delivery_timeout_ms=300, request_timeout_ms=100) as producer:
        producer.send("t", b"0").get(5)
        server.once(PRODUCE, *[lambda _: DROP] * 50)
        with pytest.raises(errors.RequestTimedOutError, match="delivery_timeout_ms=300"):
            producer.send("t", b"lost").get(5)
        server.rules[PRODUCE].clear()
        assert producer.send("t", b"2").get(5).offset == 1
        with pytest.raises(errors.RequestTimedOutError):
            producer.flush(5)
    assert server.values("t") == [b"0", b"2"]


def test_a_batch_too_large_is_split(server):
    with make(server, linger_ms=50) as producer:
        producer.send("t", b"first").get(5)
        server.max_batch_bytes = 400
        futures = [producer.send("t", b"%03d" % number * 10) for number in range(40)]
        producer.flush(10)
        assert [future.get(0).offset for future in futures] == list(range(1, 41))
        with pytest.raises(errors.MessageTooLargeError, match="400"):
            producer.send("t", b"x" * 1000).get(5)
        with pytest.raises(errors.MessageTooLargeError, match="since the last flush"):
            producer.flush(5)
    assert server.values("t")[1:] == [b"%03d" % number * 10 for number in range(40)]


def test_a_record_too_large_for_the_settings_is_refused_at_once(server):
    with make(server, max_request_size=1000) as producer:
        with pytest.raises(errors.MessageTooLargeError, match=r"max_request_size=1000"):
            producer.send("t", b"x" * 1000)
        producer.send("t", b"x" * 800).get(5)


def test_acks_0_is_done_when_it_is_sent(server):
    with make(server, acks=0) as producer:
        assert producer.send("t", b"x").get(5).offset == -1
        server.wait_for(lambda: server.stored["t", 0].end == 1)
    assert read_header(server.requests(PRODUCE)[0].batches[0]).producer_id == -1


def test_a_restarted_broker_is_found_again(server):
    with make(server) as producer:
        futures = [producer.send("t", b"0")]
        futures[0].get(5)
        server.kill()
        futures += [producer.send("t", b"%d" % number) for number in range(1, 50)]
        assert not futures[-1].is_done()
        server.start()
        producer.flush(10)
        assert [future.get(0).offset for future in futures] == list(range(50))


def test_without_a_broker_the_cause_is_named(server):
    server.kill()
    with (
        make(server, max_block_ms=200) as producer,
        pytest.raises(errors.NetworkError, match=r"max_block_ms=200: tcp://127.0.0.1:\d+: the connection was refused"),
    ):
        producer.send("t", b"x")


def test_a_topic_that_cannot_be_is_refused_without_waiting(server):
    server.once(
        METADATA, *[lambda _: m.MetadataReply("scripted", 1, [], [m.TopicInfo("..", 17, "'..' is no name")])] * 3
    )
    with make(server) as producer, pytest.raises(errors.InvalidTopicError, match="no name"):
        producer.send("..", b"x")


def test_a_full_buffer_blocks_then_raises(server):
    with make(server, buffer_memory=5_000, batch_size=500, max_block_ms=150) as producer:
        producer.send("t", b"0").get(5)
        server.once(PRODUCE, *[lambda _: DROP] * 100)
        with pytest.raises(errors.BufferTimeoutError, match="buffer_memory=5000"):  # noqa: PT012 - any of them
            for _ in range(200):
                producer.send("t", b"x" * 100)
        assert producer.metrics()["buffer_used_bytes"] < 6_000
        with pytest.raises(errors.ClosedError):
            producer.close(0.05)


@pytest.mark.parametrize("many", [False, True])
def test_open_batches_count_as_buffered_too(server, many):
    server.default_partitions = 50
    with make(server, buffer_memory=100_000, linger_ms=60_000, max_block_ms=200) as producer:
        producer.partitions_for("t")
        server.once(PRODUCE, *[lambda _: DROP] * 1000)
        accepted = 0

        def fill():
            nonlocal accepted
            for number in range(1_000):
                if many:
                    producer.send_many("t", [b"x" * 500] * 2, partition=number % 50)
                else:
                    producer.send("t", b"x" * 1_000, partition=number % 50)
                accepted += 1_000

        with pytest.raises(errors.BufferTimeoutError, match="buffer_memory=100000"):
            fill()
        assert 80_000 <= accepted <= 101_000
        assert producer.metrics()["buffer_used_bytes"] <= 101_500
        with pytest.raises(errors.ClosedError):
            producer.close(0.05)


def test_a_full_buffer_ends_the_linger(server):
    with make(server, buffer_memory=50_000, batch_size=20_000, linger_ms=60_000, max_block_ms=5_000) as producer:
        threads = [
            threading.Thread(target=lambda: [producer.send("t", b"x" * 1_000) for _ in range(200)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        producer.flush(10)
        assert producer.metrics()["buffer_used_bytes"] == 0
    assert server.stored["t", 0].end == 800


def test_requests_are_as_large_as_the_broker_takes(server):
    server.default_partitions = 6
    server.max_request_bytes = 6_000
    server.credit_bytes = 50_000
    with make(server, linger_ms=20) as producer:
        producer.partitions_for("t")
        server.kill()
        server.start()  # what it takes is to be learnt again, with batches waiting
        futures = [producer.send("t", b"x" * 2_000, partition=number % 6) for number in range(12)]
        assert all(future.get(10).offset >= 0 for future in futures)
        assert producer.metrics()["splits"] <= 6
    sizes = [sum(map(len, heard.batches)) for heard in server.requests(PRODUCE)]
    assert max(sizes) <= 6_000


def test_one_time_out_holds_for_all_batches_of_a_future(server):
    with make(server, batch_size=500, max_in_flight_requests_per_connection=1) as producer:
        producer.send("t", b"0").get(5)

        def slow(_):
            threading.Event().wait(0.15)  # a slow broker

        server.once(PRODUCE, *[slow] * 10)
        future = producer.send_many("t", [b"x" * 400] * 10)
        began = time.monotonic()
        with pytest.raises(TimeoutError, match=r"within 0.25 s"):
            future.get(0.25)
        assert time.monotonic() - began < 1.4, "all ten take 1.5 s"
        producer.flush(10)
        assert sum(item.count for item in future.get(0)) == 10


def test_a_future_waits_for_the_parts_of_its_batch(server):
    with make(server, linger_ms=20) as producer:
        producer.send("t", b"first").get(5)
        server.max_batch_bytes = 400
        futures = [producer.send("t", b"%03d" % number * 10) for number in range(40)]
        assert futures[39].get(5).offset == 40
        assert futures[0].get(5).offset == 1


def test_room_in_the_buffer_lets_a_blocked_sender_go_on(server):
    with make(server, buffer_memory=2_000, batch_size=500) as producer:
        for number in range(500):
            producer.send("t", b"%0100d" % number)
        producer.flush(10)
    assert server.values("t") == [b"%0100d" % number for number in range(500)]


def test_callbacks_are_called_and_may_use_the_producer(server):
    heard = []
    done = threading.Event()
    with make(server) as producer:

        def on_first(metadata):
            heard.append(metadata.offset)
            producer.send("t", b"2").add_callback(lambda second: (heard.append(second.offset), done.set()))

        producer.send("t", b"1").add_callback(on_first)
        assert done.wait(5)
        server.once(PRODUCE, failing(87))
        failed = threading.Event()
        future = producer.send("t", b"3").add_errback(lambda error: (heard.append(type(error)), failed.set()))
        assert failed.wait(5)
        future.add_errback(lambda error: heard.append(str(error)))
        with pytest.raises(errors.InvalidRecordError):
            producer.flush()
    assert heard == [0, 1, errors.InvalidRecordError, "t says 87"]


def test_a_throttled_producer_waits(server):
    with make(server) as producer:
        producer.send("t", b"0").get(5)
        server.throttle_ms = 200
        producer.send("t", b"1").get(5)
        server.throttle_ms = 0
        began = time.monotonic()
        producer.send("t", b"2").get(5)
        assert time.monotonic() - began >= 0.15
        assert producer.metrics()["throttle_time_ms"] == 200


def test_the_credit_of_the_broker_is_kept(server):
    server.credit_bytes = 3_000
    release = []
    server.default_partitions = 8
    server.once(PRODUCE, *[lambda heard: release.append(heard) or DROP] * 3)
    with make(server, max_request_size=1_500, request_timeout_ms=300) as producer:
        for partition in range(8):
            producer.send("t", b"x" * 1_000, partition=partition)
        producer.flush(10)
    sizes = [sum(map(len, heard.batches)) for heard in release]
    assert sum(sizes[:2]) <= 3_000
    assert sum(len(server.values("t", partition)) for partition in range(8)) == 8


def test_a_hung_broker_costs_the_request_time_out_only(server):
    with make(server, request_timeout_ms=100) as producer:
        producer.send("t", b"0").get(5)
        server.once(PRODUCE, lambda _: DROP)
        assert producer.send("t", b"1").get(5).offset == 1


def test_a_producer_id_is_asked_for_again(server):
    server.once(INIT, lambda _: errors.NotControllerError("later"), lambda _: errors.LeaderNotAvailableError("later"))
    with make(server) as producer:
        assert producer.send("t", b"x").get(5).offset == 0


def test_threads_share_a_producer(server):
    with make(server, batch_size=2_000) as producer:

        def work(name):
            for number in range(2_000):
                producer.send("t", b"%d:%d" % (name, number))

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        producer.flush(20)
    values = server.values("t")
    assert len(values) == 8_000
    for name in range(4):
        mine = [value for value in values if value.startswith(b"%d:" % name)]
        assert mine == [b"%d:%d" % (name, number) for number in range(2_000)]


def test_linger_gathers_and_ends(server):
    with make(server, linger_ms=30) as producer:
        futures = [producer.send("t", b"%d" % number) for number in range(5)]
        assert not futures[0].is_done()
        assert [future.get(5).offset for future in futures] == list(range(5))
    assert len(server.requests(PRODUCE)) == 1


def test_after_close_nothing_is_taken(server):
    producer = make(server)
    future = producer.send("t", b"x")
    producer.close(5)
    assert future.succeeded()
    with pytest.raises(errors.ClosedError):
        producer.send("t", b"y")
    producer.close()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"batchsize": 1}, "batch_size"),
        ({"linger_ms": -1}, "linger_ms"),
        ({"acks": 2}, "acks"),
        ({"acks": True}, "acks"),
        ({"compression_type": "zip"}, "compression_type"),
        ({"bootstrap_servers": "host:notaport"}, "host:port"),
        ({"bootstrap_servers": []}, "bootstrap_servers"),
        ({"max_in_flight_requests_per_connection": 6}, "at most 5"),
        ({"enable_idempotence": "yes"}, "True or False"),
        ({"partitioner": 1}, "partitioner"),
        ({"buffer_memory": "lots"}, "a number"),
    ],
)
def test_settings_are_checked(settings, text):
    with pytest.raises(errors.ConfigError, match=text):
        Producer(**settings)
