"""What the tests of share groups have in common: a consumer that is nothing but its requests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from zmqbroker.errors import CoordinatorNotAvailableError, InvalidRecordStateError, NotCoordinatorError
from zmqbroker.transport.config_messages import GROUP_RESOURCE, AlterConfigsRequest, ResourceChange
from zmqbroker.transport.group_messages import SHARE_COORDINATOR, FindCoordinatorRequest
from zmqbroker.transport.share_messages import (
    Acknowledgement,
    DescribeShareGroupsRequest,
    PartitionAcknowledgements,
    ShareAcknowledgeRequest,
    ShareFetchRequest,
    ShareStatesRequest,
)

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE_S = 20.0


class Got(NamedTuple):
    """One record as a consumer gets it."""

    partition: int
    offset: int
    value: bytes | None
    deliveries: int


class ShareWorker:
    """A consumer of a share group with nothing around it."""

    def __init__(self, client: Any, records: Callable[[bytes], list[Any]], member: str = "w", group: str = "g") -> None:
        self.client = client
        self.member = member
        self.group = group
        self._records = records
        client.call(FindCoordinatorRequest([group], SHARE_COORDINATOR))

    def call(self, request: Any) -> Any:
        """Ask until the coordinator is there."""
        return self.typed(self.ask(request), request)

    def typed(self, reply: Any, request: Any) -> Any:
        return self.client.body_of(reply, request)

    def ask(self, request: Any) -> Any:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            reply = self.client.ask(request)
            if reply.error_code not in (CoordinatorNotAvailableError.code, NotCoordinatorError.code):
                return reply
            assert time.monotonic() < deadline, reply

    def request(self, *topics: str, wait_ms: int = 10_000, most: int = 500, acks: Any = ()) -> ShareFetchRequest:
        return ShareFetchRequest(self.group, self.member, wait_ms, most, 1 << 20, list(topics), list(acks))

    def fetch(self, *topics: str, **options: Any) -> list[Got]:
        request = self.request(*topics, **options)
        reply = self.ask(request)
        return self.read(reply, self.typed(reply, request))

    def read(self, reply: Any, body: Any) -> list[Got]:
        assert len(body.partitions) == len(reply.frames)
        found = []
        for entry, frame in zip(body.partitions, reply.frames, strict=True):
            assert entry.error_code == 0, entry
            by_offset = {record.offset: record for record in self._records(frame)}
            for acquired in entry.acquired:
                for offset in range(acquired.first_offset, acquired.last_offset + 1):
                    value = by_offset[offset].value
                    found.append(Got(entry.partition, offset, value, acquired.delivery_count))
        return found

    def ack(self, topic: str, *ranges: tuple[Any, ...], partition: int = 0, leave: bool = False) -> None:
        """Acknowledge (first, last, kind, delay, reason) and raise what the broker says of it."""
        entries = (
            [PartitionAcknowledgements(topic, partition, [Acknowledgement(*entry) for entry in ranges])]
            if ranges
            else []
        )
        body = self.call(ShareAcknowledgeRequest(self.group, self.member, entries, leave))
        for entry in body.acknowledged:
            if entry.error_code:
                assert entry.error_code == InvalidRecordStateError.code, entry
                raise InvalidRecordStateError(entry.error_message)

    def states(self, topic: str, partition: int = 0) -> Any:
        return self.call(ShareStatesRequest(self.group, topic, partition))

    def describe(self) -> Any:
        (group,) = self.call(DescribeShareGroupsRequest([self.group])).groups
        return group


def wait_until(condition: Callable[[], Any]) -> Any:
    """What a condition returns as soon as that is true."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about in time"
    return found


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Any]:
    """Wait for a condition."""
    return wait_until


@pytest.fixture
def make_worker(records: Any) -> Callable[..., ShareWorker]:
    """Make consumers, from a client and perhaps a name and a group."""

    def make(client: Any, member: str = "w", group: str = "g") -> ShareWorker:
        return ShareWorker(client, records, member, group)

    return make


@pytest.fixture
def worker(client: Any, make_worker: Any) -> ShareWorker:
    """Worker w of group g."""
    found: ShareWorker = make_worker(client)
    return found


@pytest.fixture
def settings(client: Any) -> Callable[..., None]:
    """Change settings of group g; names have underscores for dots."""

    def change(**given: Any) -> None:
        changes: list[tuple[str, str | None]] = [(name.replace("_", "."), str(value)) for name, value in given.items()]
        body = client.call(AlterConfigsRequest([ResourceChange(GROUP_RESOURCE, "g", changes)]))
        assert body.resources[0].error_code == 0, body

    return change
