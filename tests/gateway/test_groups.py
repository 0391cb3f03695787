"""Consumer groups of Kafka's clients: two members share partitions, and rebalance when one comes or goes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from .kafka_members import DEADLINE_S, MEMBERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zmqbroker.testing import Broker

    from .kafka_clients import Client
    from .kafka_members import Member

PARTITIONS = {0, 1}
"""Of each topic, as the broker's settings say."""


def work_until(members: list[Member], done: Callable[[], bool], seen: list[bytes]) -> None:
    """Let members work in turns until a condition holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline, [member.owned() for member in members]
        for member in members:
            seen += [record.value or b"" for record in member.poll()]


@pytest.fixture
def members() -> Iterator[list[Member]]:
    """Those that are to leave when the test is over, however it ends."""
    here: list[Member] = []
    yield here
    for member in here:
        member.close()


@pytest.mark.parametrize("name", MEMBERS)
def test_two_members_share_and_one_takes_over(
    name: str, broker: Broker, client_of: Callable[[str], Client], topic: str, members: list[Member]
) -> None:
    producer = client_of("confluent-kafka")
    producer.produce(topic, [b"first-%d" % number for number in range(50)])
    seen: list[bytes] = []
    first = MEMBERS[name](broker.kafka_bootstrap, topic, topic)
    members.append(first)
    work_until(members, lambda: first.owned() == PARTITIONS and len(set(seen)) == 50, seen)
    second = MEMBERS[name](broker.kafka_bootstrap, topic, topic)
    members.append(second)
    work_until(members, lambda: sorted(len(member.owned()) for member in members) == [1, 1], seen)
    assert first.owned() | second.owned() == PARTITIONS
    producer.produce(topic, [b"second-%d" % number for number in range(50)])
    work_until(members, lambda: len(set(seen)) == 100, seen)
    members.remove(first)
    first.close()
    work_until(members, lambda: second.owned() == PARTITIONS, seen)
    producer.produce(topic, [b"third-%d" % number for number in range(50)])
    work_until(members, lambda: len(set(seen)) == 150, seen)
