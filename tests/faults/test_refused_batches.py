"""A disk that refuses one write of an idempotent producer early on: nothing fails, is lost, repeated or reordered."""

import errno
import random
import threading

import pytest
from zmqbroker import Consumer, Producer
from zmqbroker.log.real_disk import RealFile
from zmqbroker.testing import Broker

RECORDS = 400


@pytest.mark.parametrize("seed", range(12))
def test_a_refused_write_costs_nothing(seed, monkeypatch):
    draw = random.Random(seed)
    refused_at = draw.choice([0, 0, 1, 2, 3, 7])
    sent_behind = draw.randrange(1, 12)
    writes = 0
    full, more_came = threading.Event(), threading.Event()
    append = RealFile.append

    def refuse_once(file, buffers):
        nonlocal writes
        if "/t-0/" in file.path and file.path.endswith(".log"):
            writes += 1
            if writes > refused_at and not full.is_set():
                full.set()
                assert more_came.wait(30)  # so that batches behind this one are on their way
                raise OSError(errno.ENOSPC, "no space left on device", file.path)
        return append(file, buffers)

    values = [b"%d" % number + b"x" * draw.randrange(60) for number in range(RECORDS)]
    with Broker(num_partitions=1) as broker:
        monkeypatch.setattr(RealFile, "append", refuse_once)
        # A batch of one record or two, five of them in flight.
        with Producer(bootstrap_servers=broker.bootstrap_servers, batch_size=150, retry_backoff_ms=5) as producer:
            futures = []
            for number, value in enumerate(values):
                futures.append(producer.send("t", value))
                if number < refused_at:
                    futures[-1].get(30)
                elif number == refused_at:
                    assert full.wait(30)
                elif number == refused_at + sent_behind:
                    more_came.set()
            producer.flush(30)
            offsets = [future.get(0).offset for future in futures]
        with Consumer(
            "t", bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest", consumer_timeout_ms=5_000
        ) as consumer:
            seen = []
            for record in consumer:
                seen.append((record.offset, record.value))
                if len(seen) == RECORDS and record.offset == RECORDS - 1:
                    break
            extra = consumer.poll(0)
            assert consumer.end_offsets(consumer.assignment()) == dict.fromkeys(consumer.assignment(), RECORDS)
    assert not extra
    assert seen == list(enumerate(values))
    assert offsets == list(range(RECORDS))
