"""Consume, transform, produce: each record of one topic is in the other once, whatever happens to who does it."""

import asyncio
import sys
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from zmqbroker import AsyncConsumer, AsyncProducer, TopicPartition, errors
from zmqbroker.client.types import OffsetAndMetadata
from zmqbroker.testing import Broker

sys.path.insert(0, str(Path(__file__).parent))
try:
    from transaction_clients import COMMITTED, UNCOMMITTED, Clients
finally:
    sys.path.pop(0)

COUNT = 400
COOPERATIVE = ["cooperative-sticky"]


@pytest.fixture(scope="module")
def shared_broker():
    settings = {"num_partitions": 4, "group_initial_rebalance_delay_ms": 0, "group_min_session_timeout_ms": 100}
    with Broker(**settings) as broker:
        yield broker


@pytest.fixture
def clients(shared_broker, zmqbroker_topic):
    with ExitStack() as closing:
        yield Clients(shared_broker, zmqbroker_topic, closing)


@pytest.fixture
def source(clients):
    """A topic with records, and beside it what was never committed."""
    topic = f"{clients.topic}-in"
    producer = clients.producer(f"source of {topic}")
    for first in range(0, COUNT, 50):
        with producer.transaction():
            for number in range(first, first + 50):
                producer.send(topic, b"%d" % number, partition=number % 4)
        producer.begin_transaction()
        producer.send(topic, b"aborted", partition=first % 4)
        producer.flush()
        producer.abort_transaction()
    producer.close()
    return topic


def positions(records):
    """The offsets to commit once these records are done with."""
    return {partition: found[-1].offset + 1 for partition, found in records.items()}


class Worker:
    """Reads one topic as a member of a group, and writes another."""

    def __init__(self, clients, source, name, **settings):
        self.clients = clients
        self.producer = clients.producer(f"worker {name} of {clients.topic}")
        self.consumer = clients.consumer(source, group_id=clients.topic, max_poll_records=20, **settings)
        self.refused = 0

    def work_once(self, *, committed=True):
        """One transaction, if there is something to do; whether there was."""
        records = self.consumer.poll(50)
        if not records:
            return False
        try:
            with self.producer.transaction():
                for partition, found in records.items():
                    for record in found:
                        self.producer.send(self.clients.topic, record.value, partition=partition.partition)
                self.producer.send_offsets_to_transaction(positions(records), self.consumer)
                if not committed:
                    self.producer.abort_transaction()
        except errors.CommitFailedError:
            self.refused += 1
            committed = False
        if not committed:
            for partition in records.keys() & self.consumer.assignment():
                self.consumer.seek(partition, records[partition][0].offset)
        return True

    def crash(self):
        """Vanish without a word."""
        self.producer.shut()
        self.consumer.shut()

    def close(self):
        self.producer.close()
        self.consumer.close()


def is_done(clients):
    return len(clients.read_all(settled=False)) >= COUNT


def assert_each_once(clients):
    """All that was committed to the source is there once, in order; nothing else is."""
    read = clients.read()
    for partition, values in read.items():
        numbers = [int(value) for value in values]
        assert numbers == list(range(partition, COUNT, 4)), Counter(numbers).most_common(3)


def test_each_record_counts_once_also_if_some_transactions_are_aborted(clients, source, eventually):
    worker = Worker(clients, source, "A")
    turns = iter(range(10_000))
    eventually(lambda: not worker.work_once(committed=next(turns) % 3 != 1) and is_done(clients), "all is done")
    assert_each_once(clients)
    done = worker.consumer.committed([TopicPartition(source, number) for number in range(4)])
    ends = worker.consumer.end_offsets(done)
    assert all(done[partition] is not None and done[partition] <= ends[partition] for partition in done)


@pytest.mark.parametrize("crash_at", ["begun", "sent", "offsets"])
def test_a_worker_that_crashes_and_comes_back(clients, source, eventually, crash_at):
    settings = {"group_instance_id": "A", "session_timeout_ms": 10_000}
    worker = Worker(clients, source, "A", **settings)
    for _ in range(3):
        eventually(worker.work_once, "there is work")
    for _ in range(3):
        records = eventually(lambda worker=worker: worker.consumer.poll(50), "there is more work")
        worker.producer.begin_transaction()
        if crash_at != "begun":
            for partition, found in records.items():
                worker.producer.send_many(clients.topic, [b"crashed"] * len(found), partition=partition.partition)
            worker.producer.flush()
        if crash_at == "offsets":
            worker.producer.send_offsets_to_transaction(positions(records), worker.consumer)
        worker.crash()
        worker = Worker(clients, source, "A", **settings)
    eventually(lambda: not worker.work_once() and is_done(clients), "all is done")
    assert_each_once(clients)


@pytest.mark.parametrize("strategy", [["range"], COOPERATIVE])
def test_workers_that_come_and_go(clients, source, eventually, strategy):
    settings = {"partition_assignment_strategy": strategy, "heartbeat_interval_ms": 100, "session_timeout_ms": 5_000}
    stopped = threading.Event()
    faults = []

    def run(worker, turns):
        try:
            while turns and not stopped.is_set():
                turns -= worker.work_once()
            worker.close()
        except Exception as error:  # noqa: BLE001 - the test raises it
            faults.append(error)

    def start(name, turns):
        worker = Worker(clients, source, name, **settings)
        thread = threading.Thread(target=run, args=(worker, turns))
        thread.start()
        return thread

    threads = [start("A", 3), start("B", 6)]
    threads[0].join(60)
    threads += [start("C", 4), start("D", 10_000)]
    try:
        eventually(lambda: faults or is_done(clients), "all is done", 60)
    finally:
        stopped.set()
        for thread in threads:
            thread.join(30)
    assert faults == []
    assert_each_once(clients)


def test_who_lost_its_partitions_cannot_commit_their_offsets(clients, source, eventually):
    slow = Worker(clients, source, "slow", max_poll_interval_ms=300)
    records = eventually(lambda: slow.consumer.poll(50), "there is work")
    who = slow.consumer.group_metadata(records)
    other = Worker(clients, source, "other")
    eventually(lambda: other.work_once() and len(other.consumer.assignment()) == 4, "the other has all of it")
    for group in (slow.consumer, who):
        slow.producer.begin_transaction()
        for partition in records:
            slow.producer.send(clients.topic, b"too late", partition=partition.partition)
        with pytest.raises(errors.CommitFailedError, match="poll"):
            slow.producer.send_offsets_to_transaction(positions(records), group)
        slow.producer.abort_transaction()
    eventually(lambda: not other.work_once() and is_done(clients), "all is done")
    assert_each_once(clients)


def test_offsets_count_when_they_are_committed(clients, source):
    partition = TopicPartition(source, 0)
    producer = clients.producer()
    readers = {level: clients.consumer(group_id="g", isolation_level=level) for level in (COMMITTED, UNCOMMITTED)}
    with producer.transaction():
        producer.send_offsets_to_transaction({partition: OffsetAndMetadata(5, "five")}, "g")
    assert readers[COMMITTED].committed(partition, metadata=True) == (5, "five", -1)
    producer.begin_transaction()
    producer.send_offsets_to_transaction({partition: 7}, "g")
    assert readers[UNCOMMITTED].committed(partition) == 5
    found = []
    asking = threading.Thread(target=lambda: found.append(readers[COMMITTED].committed(partition)))
    asking.start()
    asking.join(0.2)
    assert asking.is_alive(), "the offset is not stable: whoever reads what is committed waits for it"
    producer.commit_transaction()
    asking.join(10)
    assert found == [7]
    producer.begin_transaction()
    producer.send_offsets_to_transaction({partition: 9}, "g")
    producer.abort_transaction()
    assert readers[COMMITTED].committed(partition) == 7


def test_a_consumer_starts_where_the_open_transaction_ends(clients, source):
    partition = TopicPartition(source, 0)
    producer = clients.producer()
    producer.begin_transaction()
    producer.send_offsets_to_transaction({partition: 10}, "g2")
    consumer = clients.consumer(group_id="g2")
    consumer.assign([partition])
    assert consumer.poll(300) == {}
    producer.commit_transaction()
    assert consumer.poll(10_000)[partition][0].offset >= 10
    assert consumer.committed(partition) == 10


def test_the_asyncio_twins(clients, source):
    async def main():
        settings = {"bootstrap_servers": clients.server}
        producer = AsyncProducer(transactional_id=f"aio {clients.topic}", **settings)
        reader = {"isolation_level": COMMITTED, "auto_offset_reset": "earliest", "enable_auto_commit": False}
        async with producer, AsyncConsumer(source, group_id="aio", **reader, **settings) as consumer:
            with pytest.raises(errors.IllegalStateError, match="init_transactions first"):
                await producer.begin_transaction()
            with pytest.raises(errors.IllegalStateError, match="init_transactions first"):
                await producer.send(clients.topic, b"x")
            await producer.init_transactions()
            done = turn = 0
            while done < COUNT:
                records = await consumer.poll(1_000, 50)
                turn += 1
                if turn % 3 == 1:
                    with pytest.raises(ZeroDivisionError):
                        await transform(producer, consumer, records, fails=True)
                    for partition, found in records.items():
                        consumer.seek(partition, found[0].offset)
                else:
                    await transform(producer, consumer, records, fails=False)
                    done += sum(map(len, records.values()))
            await producer.begin_transaction()
            await (await producer.send(clients.topic, b"open", partition=0))
            await producer.abort_transaction()

    async def transform(producer, consumer, records, *, fails):
        async with producer.transaction():
            for partition, found in records.items():
                await producer.send_many(
                    clients.topic, [record.value for record in found], partition=partition.partition
                )
            await producer.send_offsets_to_transaction(positions(records), consumer)
            if fails:
                await producer.flush()
                raise ZeroDivisionError

    asyncio.run(main())
    assert_each_once(clients)


def test_a_task_that_is_cancelled_aborts_its_transaction(clients):
    async def main():
        async with AsyncProducer(bootstrap_servers=clients.server, transactional_id=f"aio {clients.topic}") as producer:
            await producer.init_transactions()
            sent = asyncio.Event()

            async def work():
                async with producer.transaction():
                    await producer.send_and_wait(clients.topic, b"cancelled", partition=0)
                    sent.set()
                    await asyncio.Event().wait()

            task = asyncio.create_task(work())
            await sent.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with producer.transaction():
                await producer.send(clients.topic, b"committed", partition=0)

    asyncio.run(main())
    assert clients.read_all() == [b"committed"]
