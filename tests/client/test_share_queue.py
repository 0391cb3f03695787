"""Queues: share consumers, synchronous and asyncio, with a broker inside of this process."""

import asyncio
import inspect
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from zmqbroker import (
    AsyncProducer,
    AsyncShareConsumer,
    Consumer,
    Producer,
    ShareConsumer,
    TopicPartition,
    errors,
)
from zmqbroker.testing import Broker

LEASE_MS = 1_000
FAST = {"retry_backoff_ms": 10, "reconnect_backoff_ms": 5, "reconnect_backoff_max_ms": 50}


@pytest.fixture(scope="module")
def broker():
    settings = {
        "group_share_record_lock_duration_ms": LEASE_MS,
        "group_share_retry_backoff_ms": 20,
        "group_share_delivery_count_limit": 3,
    }
    with Broker(**settings) as running:
        yield running


@pytest.fixture
def topic(request):
    """A topic of the test's own."""
    return request.node.name.replace("[", "-").replace("]", "")[:100]


def consumer_of(broker, topic, **more):
    settings = {"group_id": f"g-{topic}", "bootstrap_servers": broker.bootstrap_servers, **FAST}
    return ShareConsumer(topic, **{"consumer_timeout_ms": 10_000, **settings, **more})


def explicit(broker, topic, **more):
    return consumer_of(broker, topic, acknowledgement_mode="explicit", **more)


def send(broker, topic, count, **more):
    with Producer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for number in range(count):
            producer.send(topic, b"%d" % number, **more)
        producer.flush()


def dead_letters(broker, topic, count):
    settings = {"auto_offset_reset": "earliest", "consumer_timeout_ms": 10_000}
    with Consumer(f"dlq.g-{topic}", bootstrap_servers=broker.bootstrap_servers, **settings) as consumer:
        return list(islice(consumer, count))


def test_every_record_once_in_order(broker, topic):
    send(broker, topic, 5_000)
    with consumer_of(broker, topic) as consumer:
        seen = list(islice(consumer, 5_000))
        assert [int(record.value) for record in seen] == list(range(5_000))
        assert {record.delivery_count for record in seen} == {1}
        assert sum(consumer.commit().values()) == 4_999
        assert consumer.metrics()["acknowledgements_refused"] == 0


def test_several_consumers_share_a_partition(broker, topic):
    send(broker, topic, 2_000)
    seen = Counter()
    by_worker = Counter()
    lock = threading.Lock()
    all_here = threading.Barrier(4)

    def work(name):
        with consumer_of(broker, topic, consumer_timeout_ms=500) as consumer:
            for record in consumer:
                if not by_worker[name]:
                    all_here.wait(10)  # a worker that holds its first record gets no others meanwhile
                with lock:
                    seen[int(record.value)] += 1
                    by_worker[name] += 1
            consumer.commit()

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen == Counter(range(2_000))
    assert len(by_worker) == 4


def test_slow_workers_get_no_more_than_they_can_do(broker, topic):
    send(broker, topic, 40)
    gate = threading.Event()
    with consumer_of(broker, topic) as slow, consumer_of(broker, topic, consumer_timeout_ms=300) as fast:
        stuck = next(slow)
        assert not gate.wait(0.05)  # this is its work
        taken = [record.offset for record in fast]
        assert sorted([stuck.offset, *taken]) == list(range(40))


def test_a_released_record_comes_after_its_delay(broker, topic):
    send(broker, topic, 1)
    with explicit(broker, topic) as consumer:
        (record,) = consumer.poll(5_000)
        before = time.monotonic()
        consumer.release(record, delay_ms=300)
        (again,) = consumer.poll(5_000)
        assert time.monotonic() - before >= 0.29
        assert (again.offset, again.delivery_count) == (0, 2)
        with pytest.raises(errors.InvalidRecordStateError):
            consumer.acknowledge(record)
        consumer.acknowledge(again)
        assert sum(consumer.commit().values()) >= 1


def test_a_rejected_record_goes_to_the_dead_letter_topic(broker, topic):
    send(broker, topic, 1, key=b"k", headers=[("mine", b"1")])
    with explicit(broker, topic) as consumer:
        consumer.reject(consumer.poll(5_000), "not a number")
        consumer.commit()
        (letter,) = dead_letters(broker, topic, 1)
        assert consumer.poll(0) == []
    headers = dict(letter.headers)
    assert (letter.key, letter.value, headers["mine"]) == (b"k", b"0", b"1")
    assert headers["__dlq.errors.topic"] == topic.encode()
    assert headers["__dlq.errors.partition"] == headers["__dlq.errors.offset"] == b"0"
    assert headers["__dlq.errors.group"] == f"g-{topic}".encode()
    assert headers["__dlq.errors.delivery.count"] == b"1"
    assert b"not a number" in headers["__dlq.errors.message"]


def test_a_record_that_nobody_can_do_is_given_up_at_the_delivery_limit(broker, topic):
    send(broker, topic, 1)
    counts = []
    with explicit(broker, topic) as consumer:
        while len(counts) < 3:
            (record,) = consumer.poll(5_000)
            counts.append(record.delivery_count)
            consumer.release(record)
        (letter,) = dead_letters(broker, topic, 1)
        assert consumer.poll(200) == []
    assert counts == [1, 2, 3]
    assert dict(letter.headers)["__dlq.errors.delivery.count"] == b"3"


def test_a_lease_ends_by_itself_and_what_comes_late_is_refused(broker, topic, eventually):
    send(broker, topic, 1)
    with explicit(broker, topic) as first, explicit(broker, topic) as second:
        (record,) = first.poll(5_000)
        (again,) = second.poll(5_000)
        assert again.delivery_count == 2
        eventually(lambda: time.monotonic() > record.lease_deadline, "it has ended by the consumer's clock too")
        with pytest.raises(errors.InvalidRecordStateError, match="ended"):
            first.acknowledge(record)
        record.lease_deadline += 60  # as if the clock of this consumer went wrong: the broker refuses it
        first.acknowledge(record)
        with pytest.raises(errors.InvalidRecordStateError):
            first.commit()
        second.acknowledge(again)
        assert second.commit() == {TopicPartition(topic, 0): 1}


def test_a_renewed_lease_lasts(broker, topic):
    send(broker, topic, 1)
    with explicit(broker, topic) as first, explicit(broker, topic) as second:
        (record,) = first.poll(5_000)
        end = time.monotonic() + 2 * LEASE_MS / 1000
        while time.monotonic() < end:
            deadline = record.lease_deadline
            first.renew(record)
            first.commit()
            assert record.lease_deadline > deadline
            assert second.poll(200) == []
        first.acknowledge(record)
        assert first.commit() == {TopicPartition(topic, 0): 1}


def test_a_delayed_record_is_delivered_at_its_time(broker, topic):
    with Producer(bootstrap_servers=broker.bootstrap_servers) as producer:
        producer.send(topic, b"now")
        when = datetime.now(UTC) + timedelta(milliseconds=2_500)
        producer.send(topic, b"later", deliver_at=when)
        producer.send(topic, b"past", deliver_at=1)
        producer.flush()
    with consumer_of(broker, topic) as consumer:
        assert [next(consumer).value for _ in range(2)] == [b"now", b"past"]
        assert datetime.now(UTC) < when
        assert next(consumer).value == b"later"
        assert datetime.now(UTC) >= when
    with Consumer(topic, bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest") as consumer:
        headers = [next(iter(consumer)).headers for _ in range(3)]
    assert list(headers[1]) == [("__deliver_at", b"%d" % round(when.timestamp() * 1000))]


def test_a_time_that_is_none_is_refused(broker, topic):
    with Producer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for wrong, error in (("soon", TypeError), (1.5, TypeError), (True, TypeError), (-1, ValueError)):
            with pytest.raises(error, match="deliver_at="):
                producer.send(topic, b"x", deliver_at=wrong)
        with pytest.raises(ValueError, match="no time zone"):
            producer.send(topic, b"x", deliver_at=datetime(2030, 1, 1))  # noqa: DTZ001 - that it has none
        with pytest.raises(ValueError, match="one of them is enough"):
            producer.send(topic, b"x", headers=[("__deliver_at", b"1")], deliver_at=1)


def test_closing_gives_back_the_rest_at_once(broker, topic):
    send(broker, topic, 100)
    with consumer_of(broker, topic) as first:
        taken = [next(first).offset for _ in range(10)]
    assert taken == list(range(10))
    with consumer_of(broker, topic) as second:
        rest = [next(second) for _ in range(91)]
    # A lease that had to end by its time would count as a delivery.
    assert {record.offset: record.delivery_count for record in rest} == {n: 2 if n == 9 else 1 for n in range(9, 100)}


def test_a_group_of_the_other_kind(broker, topic):
    send(broker, topic, 1)
    with consumer_of(broker, topic) as consumer:
        next(consumer)
        settings = {"group_id": f"g-{topic}", "bootstrap_servers": broker.bootstrap_servers, **FAST}
        with (
            Consumer(topic, **settings) as other,
            pytest.raises(errors.InconsistentGroupProtocolError, match="share group"),
        ):
            other.poll(5_000)


def test_a_topic_that_comes_later(broker, topic):
    with explicit(broker, topic) as consumer:
        assert consumer.poll(50) == []
        send(broker, topic, 1)
        assert len(consumer.poll(5_000)) == 1


def test_a_restarted_broker(tmp_path):
    refused = []
    with Broker(data_dir=str(tmp_path)) as broker:
        send(broker, "t", 1_000)
        more = {"consumer_timeout_ms": 1_000, "on_acknowledge_error": lambda *said: refused.extend(said[2])}
        with consumer_of(broker, "t", **more) as consumer:
            seen = Counter()
            for record in consumer:
                seen[int(record.value)] += 1
                if seen.total() in (200, 600):
                    broker.restart()
            assert set(seen) == set(range(1_000))
            again = {number for number, count in seen.items() if count > 1}
            assert again <= {offset for first, last in refused for offset in range(first, last + 1)}
        broker.restart()
        with consumer_of(broker, "t", consumer_timeout_ms=300) as consumer:
            assert list(consumer) == []


# ---- asyncio


def test_asyncio(broker, topic):
    settings = {"bootstrap_servers": broker.bootstrap_servers, **FAST}

    async def main():
        async with AsyncProducer(**settings) as producer:
            for number in range(500):
                await producer.send(topic, b"%d" % number)
            await producer.send(topic, b"later", deliver_at=datetime.now(UTC) + timedelta(milliseconds=200))
        more = {**settings, "group_id": f"g-{topic}", "consumer_timeout_ms": 10_000}
        async with AsyncShareConsumer(topic, **more) as consumer:
            assert consumer.subscription() == {topic}
            seen = []
            async for record in consumer:
                seen.append(record.value)
                if record.value == b"later":
                    break
            assert seen == [*(b"%d" % number for number in range(500)), b"later"]
            consumer.release(record, delay_ms=0)
            assert sum((await consumer.commit()).values()) == 501
        async with AsyncShareConsumer(topic, acknowledgement_mode="explicit", **more) as consumer:
            (again,) = await consumer.poll(5_000)
            assert again.delivery_count == 2
            consumer.renew(again)
            await consumer.flush()
            consumer.acknowledge(again)
            with pytest.raises(errors.InvalidRecordStateError):
                consumer.reject(again)
            consumer.commit_async()
            assert await consumer.commit() == {TopicPartition(topic, 0): 1}
            assert consumer.bootstrap_connected()
            assert consumer.metrics()["records_held"] == 0
            assert await consumer.poll(10) == []
            consumer.unsubscribe()
            consumer.subscribe([topic])
        with pytest.raises(errors.ClosedError):
            await consumer.poll(0)

    asyncio.run(main())


def test_asyncio_workers_side_by_side(broker, topic):
    send(broker, topic, 300)
    seen = Counter()

    async def work(consumer):
        while records := await consumer.poll(500, 10):
            await asyncio.sleep(0)
            seen.update(int(record.value) for record in records)
            consumer.acknowledge(records)

    async def main():
        more = {"acknowledgement_mode": "explicit", "bootstrap_servers": broker.bootstrap_servers}
        consumers = [AsyncShareConsumer(topic, group_id=f"g-{topic}", **more) for _ in range(3)]
        await asyncio.gather(*(work(consumer) for consumer in consumers))
        await asyncio.gather(*(consumer.close() for consumer in consumers))

    asyncio.run(main())
    assert seen == Counter(range(300))


FLOWS = "accept committed finish_given leaving more_came polled shut take_one without_thread"
"""What the class has only for its twin's use."""


def test_the_twin_has_the_methods_of_its_class():
    names = [name for name, _ in inspect.getmembers(ShareConsumer, inspect.isfunction) if not name.startswith("_")]
    for name in set(names) - set(FLOWS.split()):
        assert hasattr(AsyncShareConsumer, name), f"AsyncShareConsumer has no {name}"
        assert signature(getattr(AsyncShareConsumer, name)) == signature(getattr(ShareConsumer, name)), name
        assert inspect.getdoc(getattr(AsyncShareConsumer, name)), name
    assert signature(AsyncShareConsumer) == signature(ShareConsumer)


def signature(function):
    return [(one.name, one.kind, one.default) for one in inspect.signature(function).parameters.values()]
