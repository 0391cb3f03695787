"""A broker that is killed or hangs mid-stream: every acknowledged record is read once, at its offset, in order."""

import os
import random
import signal
import threading
import time

import pytest
from zmqbroker import Admin, Consumer, Producer, TopicPartition
from zmqbroker.testing.process import BrokerProcess

RECORDS_BETWEEN_FAULTS = 2_000
DEADLINE_S = 60.0


class Stream:
    """A producer on a thread of its own, which goes on until it is told to stop."""

    def __init__(self, servers):
        self.producer = Producer(bootstrap_servers=servers, batch_size=2_000)
        self.futures = []
        self.error = None
        self.enough = threading.Event()
        self.progress = threading.Condition()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            while not self.enough.is_set():
                future = self.producer.send("t", b"%d" % len(self.futures))
                with self.progress:
                    self.futures.append(future)
                    self.progress.notify_all()
                if len(self.futures) % 100 == 0:
                    future.get(DEADLINE_S)
        except Exception as error:  # noqa: BLE001 - raised again by the test's own thread
            self.error = error
            with self.progress:
                self.progress.notify_all()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.enough.set()
        self._thread.join(DEADLINE_S)

    def wait_for(self, count):
        with self.progress:
            assert self.progress.wait_for(lambda: len(self.futures) >= count or self.error, DEADLINE_S)
        assert self.error is None, self.error


def kill_all(broker):
    broker.kill()
    broker.start()


def kill_node(broker):
    broker.kill_node()
    broker.wait_ready()


def hang(broker):
    os.kill(broker.ready.node_pid, signal.SIGSTOP)
    threading.Timer(0.7, os.kill, (broker.ready.node_pid, signal.SIGCONT)).start()


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_acknowledged_is_lost_repeated_or_reordered(seed):
    draw = random.Random(seed)
    faults = draw.sample([kill_all, kill_node, hang, kill_all, kill_node], 5)
    seen = []
    with BrokerProcess(flags=["--set", "log.segment.bytes=65536"]) as broker:
        consumer = Consumer(
            "t",
            bootstrap_servers=broker.bootstrap_servers,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=20_000,
        )
        with Stream(broker.bootstrap_servers) as stream:
            for fault in faults:
                stream.wait_for(len(stream.futures) + draw.randrange(RECORDS_BETWEEN_FAULTS))
                fault(broker)
                seen += poll(consumer)
            stream.wait_for(len(stream.futures) + 500)
        stream.producer.flush(DEADLINE_S)
        acked = [future.get(0).offset for future in stream.futures]
        deadline = time.monotonic() + DEADLINE_S
        while len(seen) < len(acked) and time.monotonic() < deadline:
            seen += poll(consumer)
        consumer.close()
        stream.producer.close()
    assert len(acked) > 500, "too few records to mean anything"
    assert [offset for offset, _ in seen] == list(range(len(seen))), "a poll skipped or went back"
    assert [value for _, value in seen] == [b"%d" % number for number in range(len(acked))]
    # -1: stored, but too long ago for the broker to know where.
    assert all(offset in (-1, number) for number, offset in enumerate(acked))


def test_deleted_records_stay_deleted():
    with BrokerProcess() as broker:
        servers = broker.bootstrap_servers
        with Producer(bootstrap_servers=servers) as producer:
            producer.send_many("t", [b"x"] * 100)
        partition = TopicPartition("t", 0)
        with Admin(bootstrap_servers=servers) as admin:
            admin.delete_records({partition: 60})
        broker.kill()
        broker.start()
        with Consumer(bootstrap_servers=servers) as consumer:
            assert consumer.beginning_offsets([partition]) == {partition: 60}


def poll(consumer):
    return [(record.offset, record.value) for records in consumer.poll(100).values() for record in records]
