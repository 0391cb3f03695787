"""A queue with workers that lose, release and reject records, and a broker that dies in between: nothing is lost.

Each record is acknowledged once or in the dead-letter topic, and never delivered after its acknowledgement.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any

import pytest
from zmqbroker.errors import InvalidRecordStateError
from zmqbroker.transport.share_messages import ACK_ACCEPT, ACK_REJECT, ACK_RELEASE, ACK_RETURN

RECORDS = 600
PARTITIONS = 3
DEADLINE_S = 40.0


class Chaos:
    """What the workers do, and what they have seen."""

    def __init__(self, seed: int, topic: str = "t") -> None:
        self.random = random.Random(seed)
        self.topic = topic
        self.accepted: set[tuple[int, int]] = set()
        self.rejected: set[tuple[int, int]] = set()
        self.deliveries: Counter[tuple[int, int]] = Counter()

    def work(self, worker: Any) -> None:
        """Fetch, and decide about each record."""
        got = worker.fetch(self.topic, wait_ms=50, most=self.random.randint(1, 60))
        decided: dict[int, list[tuple[int, int, int, int]]] = {}
        for record in got:
            where = (record.partition, record.offset)
            assert where not in self.accepted, f"{where} was delivered after its acknowledgement"
            assert where not in self.rejected, f"{where} was delivered after it was rejected"
            self.deliveries[where] += 1
            assert record.deliveries <= 4
            kinds = [ACK_ACCEPT] * 12 + [ACK_RELEASE, ACK_RETURN, ACK_REJECT, None]
            kind = self.random.choice(kinds)
            if kind is not None:
                decided.setdefault(record.partition, []).append((record.offset, record.offset, kind, 0))
        for partition, acks in decided.items():
            acks.sort()
            try:
                worker.ack(self.topic, *acks, partition=partition)
            except InvalidRecordStateError:
                continue  # a lease has ended
            for offset, _, kind, _ in acks:
                if kind == ACK_ACCEPT:
                    self.accepted.add((partition, offset))
                elif kind == ACK_REJECT:
                    self.rejected.add((partition, offset))


@pytest.mark.parametrize("seed", range(3))
def test_every_record_is_acknowledged_or_a_dead_letter(make_node: Any, make_worker: Any, seed: int) -> None:
    node = make_node(
        share_coordinator_snapshot_update_records_per_snapshot=20,
        group_share_record_lock_duration_ms=150,
        group_share_delivery_count_limit=4,
    )
    client = node.client()
    client.create("t", PARTITIONS)
    for number in range(RECORDS // 10):
        values = [b"%d" % (number * 10 + index) for index in range(10)]
        client.produce("t", *values, partition=number % PARTITIONS)
    chaos = Chaos(seed)
    deadline = time.monotonic() + DEADLINE_S
    turns, crashes = 0, 0
    workers = [make_worker(node.client(), name) for name in "abc"]
    while sum(info.lag for info in workers[0].describe().partitions) or len(chaos.deliveries) < RECORDS:
        assert time.monotonic() < deadline, workers[0].describe()
        turns += 1
        if turns % 15 == 0 and crashes < 3:
            crashes += 1
            if chaos.random.random() < 0.5:
                node.crash()
                node.start()
            else:
                node.restart()
            workers = [make_worker(node.client(), name) for name in "abc"]
            workers[0].fetch("t", wait_ms=0, most=1)
        chaos.work(chaos.random.choice(workers))
    letters = {
        (int(headers["__dlq.errors.partition"]), int(headers["__dlq.errors.offset"]))
        for headers in (dict(letter.headers) for letter in dead_letters(node.client()))
    }
    everything = {(partition, offset) for partition in range(PARTITIONS) for offset in range(RECORDS // PARTITIONS)}
    assert chaos.accepted | letters == everything
    assert not chaos.accepted & letters
    assert chaos.rejected <= letters
    assert crashes


def dead_letters(client: Any) -> list[Any]:
    """All of the group's dead letters."""
    found: list[Any] = []
    while True:
        _, records = client.fetch("dlq.g", found[-1].offset + 1 if found else 0)
        if not records:
            return found
        found += records
