"""Transactions against an embedded broker: all or nothing, for readers and producers, and whoever fails in between."""

import random
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from zmqbroker import Producer, TopicPartition, errors
from zmqbroker.errors import TransactionAbortedError
from zmqbroker.testing import Broker

sys.path.insert(0, str(Path(__file__).parent))
try:
    from transaction_clients import COMMITTED, UNCOMMITTED, Clients
finally:
    sys.path.pop(0)


@pytest.fixture(scope="module")
def shared_broker():
    with Broker(num_partitions=4, group_initial_rebalance_delay_ms=0) as broker:
        yield broker


@pytest.fixture
def client(shared_broker, zmqbroker_topic):
    with ExitStack() as closing:
        yield Clients(shared_broker, zmqbroker_topic, closing)


def send(producer, topic, *values, partition=None):
    return [producer.send(topic, value, partition=partition) for value in values]


# ---- what readers see


def test_what_is_committed_is_read(client):
    producer = client.producer()
    with producer.transaction():
        futures = send(producer, client.topic, b"a", b"b", partition=0)
        send(producer, client.topic, b"c", partition=3)
    assert [future.get(0).offset for future in futures] == [0, 1]
    for isolation_level in (COMMITTED, UNCOMMITTED):
        assert client.read(isolation_level) == {0: [b"a", b"b"], 1: [], 2: [], 3: [b"c"]}


def test_what_is_aborted_is_not_read(client):
    producer = client.producer()
    with producer.transaction():
        send(producer, client.topic, b"a", partition=0)
    producer.begin_transaction()
    for future in send(producer, client.topic, b"b", b"c", partition=0):
        future.get(10)
    producer.abort_transaction()
    with producer.transaction():
        send(producer, client.topic, b"d", partition=0)
    assert client.read()[0] == [b"a", b"d"]
    assert client.read(UNCOMMITTED)[0] == [b"a", b"b", b"c", b"d"]


def test_the_position_moves_past_what_is_aborted(client, eventually):
    producer = client.producer()
    producer.begin_transaction()
    send(producer, client.topic, b"a", b"b", partition=0)
    producer.flush()
    producer.abort_transaction()
    consumer = client.consumer()
    partition = TopicPartition(client.topic, 0)
    consumer.assign([partition])
    client.settle()
    assert consumer.end_offsets([partition]) == {partition: 3}, "two records and a marker"
    assert eventually(lambda: consumer.poll(10) == {} and consumer.position(partition) == 3, "nothing is read")


def test_an_open_transaction_is_not_read_and_holds_up_what_comes_behind_it(client, eventually):
    open_one, other = client.producer(), client.plain_producer()
    partition = TopicPartition(client.topic, 0)
    other.send(client.topic, b"before", partition=0).get(10)
    open_one.begin_transaction()
    open_one.send(client.topic, b"open", partition=0).get(10)
    other.send(client.topic, b"behind", partition=0).get(10)
    consumers = {level: client.consumer(isolation_level=level) for level in (COMMITTED, UNCOMMITTED)}
    assert consumers[COMMITTED].end_offsets([partition]) == {partition: 1}, "the last stable offset"
    assert consumers[UNCOMMITTED].end_offsets([partition]) == {partition: 3}
    assert client.read(settled=False)[0] == [b"before"]
    assert client.read(UNCOMMITTED, settled=False)[0] == [b"before", b"open", b"behind"]
    consumer = consumers[COMMITTED]
    consumer.assign([partition])
    seen = []

    def read(count):
        for records in consumer.poll(50).values():
            seen.extend(record.value for record in records)
        return len(seen) >= count

    eventually(lambda: read(1), "the first is read")
    assert not read(2)
    open_one.commit_transaction()
    eventually(lambda: read(3), "the end of the transaction is read")
    assert seen == [b"before", b"open", b"behind"]


def test_end_offsets_and_latest_are_those_of_the_isolation_level(client):
    producer = client.producer()
    with producer.transaction():
        send(producer, client.topic, b"a", partition=0)
    client.settle()
    producer.begin_transaction()
    producer.send(client.topic, b"b", partition=0).get(10)
    partition = TopicPartition(client.topic, 0)
    consumer = client.consumer(auto_offset_reset="latest")
    consumer.assign([partition])
    assert consumer.position(partition) == 2, "the last stable offset: behind the marker of the first"
    producer.commit_transaction()
    assert [record.value for record in consumer.poll(10_000)[partition]] == [b"b"]


def test_readers_agree_with_what_was_committed(client):
    """Several producers at once, with commits, aborts and records outside of transactions, in batches of any size."""
    rng = random.Random(7)
    producers = [
        client.producer(f"{client.topic} {number}", batch_size=rng.choice((1, 300, 10**6))) for number in "abc"
    ]
    other = client.plain_producer(compression_type="lz4")
    pending = {producer: [] for producer in producers}
    expected = {0: [], 1: []}
    for step in range(300):
        producer = rng.choice(producers)
        mine = pending[producer]
        choice = rng.random()
        if not mine and choice < 0.2:
            partition = rng.randrange(2)
            record = other.send(client.topic, b"other %d" % step, partition=partition).get(10)
            expected[partition].append((record.offset, b"other %d" % step))
        elif not mine:
            producer.begin_transaction()
            mine.append(None)
        elif choice < 0.6:
            for number in range(rng.randrange(1, 8)):
                value, partition = b"%d %d" % (step, number), rng.randrange(2)
                mine.append((producer.send(client.topic, value, partition=partition), value))
        else:
            committed = choice < 0.8
            if rng.random() < 0.5:
                producer.flush(10)
            producer.commit_transaction() if committed else producer.abort_transaction()
            for future, value in mine[1:] if committed else ():
                expected[future.get(0).partition].append((future.get(0).offset, value))
            mine.clear()
    for producer, mine in pending.items():
        if mine:
            producer.abort_transaction()
    read = client.read()
    for partition, records in expected.items():
        assert read[partition] == [value for _, value in sorted(records)]
    for start in (0, 3, 50):  # from anywhere, also from within a transaction
        with client.consumer(consumer_timeout_ms=500, max_partition_fetch_bytes=400) as consumer:
            consumer.assign([TopicPartition(client.topic, 0)])
            consumer.seek(TopicPartition(client.topic, 0), start)
            assert [record.value for record in consumer] == [v for offset, v in sorted(expected[0]) if offset >= start]


def test_large_transactions_over_many_batches(client):
    producer = client.producer(batch_size=2_000, compression_type="zstd")
    values = [b"%06d" % number for number in range(20_000)]
    producer.begin_transaction()
    producer.send_many(client.topic, values)
    producer.flush()
    assert client.read_all(settled=False) == []
    producer.abort_transaction()
    with producer.transaction():
        ranges = producer.send_many(client.topic, values).get(30)
    assert sum(one.count for one in ranges) == len(values)
    assert sorted(client.read_all()) == values
    assert sorted(client.read_all(UNCOMMITTED)) == sorted(values * 2)


# ---- producers


def test_many_transactions_one_after_the_other(client):
    producer = client.producer()
    for number in range(40):
        producer.begin_transaction()
        send(producer, client.topic, b"%02d" % number)
        producer.abort_transaction() if number % 4 == 3 else producer.commit_transaction()
    assert sorted(client.read_all()) == [b"%02d" % number for number in range(40) if number % 4 != 3]


def test_an_empty_transaction_leaves_no_trace(client):
    producer = client.producer()
    with producer.transaction():
        pass
    producer.begin_transaction()
    producer.abort_transaction()
    with producer.transaction():
        future = producer.send(client.topic, b"a", partition=0)
    assert future.get(0).offset == 0
    client.settle()
    with client.consumer() as consumer:
        partition = TopicPartition(client.topic, 0)
        assert consumer.end_offsets([partition]) == {partition: 2}


def test_a_record_that_is_refused_fails_all_of_its_transaction(client):
    producer = client.producer(max_request_size=4_000_000)
    producer.begin_transaction()
    producer.send(client.topic, b"small", partition=0).get(10)
    too_large = producer.send(client.topic, b"x" * 3_000_000, partition=0)
    with pytest.raises(errors.MessageTooLargeError, match="has to be aborted"):
        producer.commit_transaction()
    assert too_large.failed()
    with pytest.raises(errors.MessageTooLargeError):
        producer.send(client.topic, b"more", partition=0)
    producer.abort_transaction()
    with producer.transaction():
        producer.send(client.topic, b"again", partition=0)
    assert client.read_all() == [b"again"]


def test_records_that_are_not_sent_go_with_the_abort(client):
    producer = client.producer(linger_ms=60_000)
    producer.begin_transaction()
    future = producer.send(client.topic, b"a", partition=0)
    producer.abort_transaction()
    with pytest.raises(TransactionAbortedError):
        future.get(0)
    assert client.read_all(UNCOMMITTED) == []


def test_a_zombie_is_fenced(client):
    zombie = client.producer()
    zombie.begin_transaction()
    zombie.send(client.topic, b"zombie", partition=0).get(10)
    successor = client.producer()
    with successor.transaction():
        successor.send(client.topic, b"successor", partition=0)
    with pytest.raises(errors.ProducerFencedError):
        zombie.commit_transaction()
    for call in (zombie.begin_transaction, zombie.abort_transaction, lambda: zombie.send(client.topic, b"more")):
        with pytest.raises(errors.ProducerFencedError):
            call()
    assert client.read_all() == [b"successor"]


def test_a_zombie_that_sends_is_fenced(client):
    zombie = client.producer()
    zombie.begin_transaction()
    zombie.send(client.topic, b"zombie", partition=0).get(10)
    client.producer()
    late = zombie.send(client.topic, b"late", partition=0)
    with pytest.raises(errors.ProducerFencedError):
        late.get(10)
    with pytest.raises(errors.ProducerFencedError):
        zombie.commit_transaction()
    assert client.read_all() == []


def test_a_transaction_that_takes_too_long_is_aborted(client, eventually):
    producer = client.producer(transaction_timeout_ms=200)
    producer.begin_transaction()
    producer.send(client.topic, b"slow", partition=0).get(10)
    consumer = client.consumer()
    partition = TopicPartition(client.topic, 0)
    eventually(lambda: consumer.end_offsets([partition])[partition] == 2, "the transaction is aborted")
    with pytest.raises(errors.ProducerFencedError, match="transaction_timeout_ms=200"):
        producer.commit_transaction()
    assert client.read_all() == []
    with client.producer().transaction():
        pass


def test_a_time_out_above_what_the_broker_allows_is_refused(client):
    producer = client.plain_producer(transactional_id="tx", transaction_timeout_ms=2**31 - 1)
    with pytest.raises(errors.InvalidTransactionTimeoutError):
        producer.init_transactions()


def test_several_threads_send_in_one_transaction(client):
    producer = client.producer()
    with producer.transaction():
        threads = [
            threading.Thread(target=send, args=(producer, client.topic, *[b"%d" % number] * 200)) for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert sorted(client.read_all()) == sorted([b"%d" % number for number in range(4)] * 200)


def test_a_broker_that_restarts_in_between():
    with Broker(num_partitions=2) as broker, ExitStack() as closing:
        own = Clients(broker, "t", closing)
        producer = own.producer()
        producer.begin_transaction()
        producer.send("t", b"before", partition=0).get(10)
        broker.restart()
        producer.send("t", b"after", partition=1)
        producer.commit_transaction()
        producer.begin_transaction()
        producer.send("t", b"aborted", partition=0).get(10)
        broker.restart()
        producer.abort_transaction()
        with producer.transaction():
            producer.send("t", b"last", partition=0)
        assert own.read() == {0: [b"before", b"last"], 1: [b"after"]}


def test_a_plain_producer_is_not_slowed_down_by_transactions():
    producer = Producer()
    assert type(producer._sender).__name__ == "Sender"
    assert len(producer._io.drivers) == 2, "metadata and sender"
    producer.close()
