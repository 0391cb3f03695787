"""Share groups on a node, by raw requests: leases, acknowledgements, expiry, restart, wrong requests."""

from __future__ import annotations

import time
from typing import Any

import pytest
from zmqbroker.errors import (
    BrokerError,
    GroupIdNotFoundError,
    InvalidRecordStateError,
    NonEmptyGroupError,
    UnknownTopicOrPartitionError,
)
from zmqbroker.log.plain_records import encode_batch
from zmqbroker.transport.messages import DeleteTopicsRequest, PartitionData, ProduceRequest
from zmqbroker.transport.share_messages import (
    ACK_ACCEPT,
    ACK_REJECT,
    ACK_RELEASE,
    ACK_RENEW,
    ACK_RETURN,
    AlterShareOffsetsRequest,
    DeleteShareGroupRequest,
    ShareFetchRequest,
    ShareOffset,
    ShareStatesRequest,
)

DEADLINE_S = 20.0


def values(got: list[Any]) -> list[bytes | None]:
    return [record.value for record in got]


def test_records_are_leased_once_and_acknowledged(worker: Any, client: Any) -> None:
    client.create("t")
    client.produce("t", b"a", b"b", b"c")
    assert worker.fetch("t") == [(0, 0, b"a", 1), (0, 1, b"b", 1), (0, 2, b"c", 1)]
    assert worker.fetch("t", wait_ms=0) == []
    worker.ack("t", (0, 1, ACK_ACCEPT))
    states = worker.states("t")
    assert (states.start_offset, states.next_offset) == (2, 3)
    assert [(state.first_offset, state.last_offset, state.state) for state in states.states] == [(2, 2, "acquired")]
    worker.ack("t", (2, 2, ACK_ACCEPT))
    assert worker.states("t").start_offset == 3


def test_a_fetch_waits_for_a_record(worker: Any, client: Any, node: Any) -> None:
    client.create("t")
    number = client.send(worker.request("t"))
    assert client.hears_nothing()
    node.client().produce("t", b"a")
    reply = client.reply_to(number)
    assert values(worker.read(reply, client.body_of(reply, ShareFetchRequest))) == [b"a"]


def test_a_fetch_ends_empty_at_its_time(worker: Any, client: Any) -> None:
    client.create("t")
    assert worker.fetch("t", wait_ms=50) == []


def test_two_workers_share_and_nothing_comes_twice(worker: Any, client: Any, node: Any, make_worker: Any) -> None:
    client.create("t", 2)
    for number in range(20):
        for partition in range(2):
            client.produce("t", *[b"%d-%d" % (number, index) for index in range(10)], partition=partition)
    workers = [worker, make_worker(node.client(), "v")]
    seen: list[tuple[int, int]] = []
    while len(seen) < 400:
        for one in workers:
            got = one.fetch("t", most=15)
            assert 0 < len(got) <= 20
            seen += [(record.partition, record.offset) for record in got]
            for partition in range(2):
                acks = [(r.offset, r.offset, ACK_ACCEPT) for r in got if r.partition == partition]
                if acks:
                    one.ack("t", *acks, partition=partition)
    assert sorted(seen) == [(partition, offset) for partition in range(2) for offset in range(200)]
    assert [info.lag for info in worker.describe().partitions] == [0, 0]


def test_a_lease_ends_and_the_record_comes_back(
    worker: Any, client: Any, settings: Any, node: Any, make_worker: Any
) -> None:
    settings(share_record_lock_duration_ms=150)
    client.create("t")
    client.produce("t", b"a", b"b")
    assert len(worker.fetch("t")) == 2
    worker.ack("t", (0, 0, ACK_ACCEPT))
    other = make_worker(node.client(), "v")
    assert other.fetch("t") == [(0, 1, b"b", 2)]
    with pytest.raises(InvalidRecordStateError, match=r"offset 1 is leased to member 'v'"):
        worker.ack("t", (1, 1, ACK_ACCEPT))
    other.ack("t", (1, 1, ACK_ACCEPT))
    with pytest.raises(InvalidRecordStateError, match=r"offset 1 is finished: everything below 2 is"):
        other.ack("t", (1, 1, ACK_ACCEPT))


def test_release_return_and_renew(worker: Any, client: Any, settings: Any) -> None:
    settings(share_retry_backoff_ms=0)
    client.create("t")
    client.produce("t", b"a", b"b", b"c")
    worker.fetch("t")
    worker.ack("t", (0, 0, ACK_RELEASE), (1, 1, ACK_RETURN), (2, 2, ACK_RENEW))
    assert worker.fetch("t") == [(0, 0, b"a", 2), (0, 1, b"b", 1)]
    worker.ack("t", (0, 0, ACK_RELEASE, 60_000), leave=True)
    assert worker.fetch("t") == [(0, 1, b"b", 2), (0, 2, b"c", 2)]
    states = worker.states("t").states
    assert [(state.state, state.delivery_count) for state in states] == [("delayed", 2), ("acquired", 2)]


def test_a_released_record_waits_for_its_delay(worker: Any, client: Any) -> None:
    client.create("t")
    client.produce("t", b"a")
    worker.fetch("t")
    before = time.monotonic()
    worker.ack("t", (0, 0, ACK_RELEASE, 200))
    assert worker.fetch("t") == [(0, 0, b"a", 2)]
    assert time.monotonic() - before >= 0.19


def test_rejected_and_worn_out_records_become_dead_letters(worker: Any, client: Any, settings: Any, until: Any) -> None:
    settings(share_retry_backoff_ms=0, share_delivery_count_limit=2)
    client.create("t")
    batch = encode_batch([(5, b"k", b"bad", [("own", b"1")]), (5, None, b"poor", ())])
    client.call(ProduceRequest(-1, 1000, [PartitionData("t", 0)]), batch)
    worker.fetch("t")
    worker.ack("t", (0, 0, ACK_REJECT, -1, "no such user"), (1, 1, ACK_RELEASE))
    assert worker.fetch("t") == [(0, 1, b"poor", 2)]
    worker.ack("t", (1, 1, ACK_RELEASE, -1, "down"))
    until(lambda: worker.states("t").start_offset == 2)
    _, letters = client.fetch("dlq.g")
    first, second = letters
    headers = dict(first.headers)
    assert (first.key, first.value, headers["own"]) == (b"k", b"bad", b"1")
    assert headers["__dlq.errors.message"] == b"no such user"
    assert headers["__dlq.errors.topic"] == b"t"
    assert headers["__dlq.errors.offset"] == b"0"
    assert dict(second.headers)["__dlq.errors.delivery.count"] == b"2"
    assert b"delivered 2 times, which is the limit of 2: down" in dict(second.headers)["__dlq.errors.message"]
    (info,) = worker.describe().partitions
    assert (info.dead_lettered, info.lag) == (2, 0)


def test_without_a_dead_letter_topic_records_are_dropped(worker: Any, client: Any, settings: Any) -> None:
    settings(errors_deadletterqueue_topic_name="none")
    client.create("t")
    client.produce("t", b"a", b"b")
    worker.fetch("t")
    worker.ack("t", (0, 1, ACK_REJECT))
    assert worker.states("t").start_offset == 2


def test_delayed_records_come_in_their_time(worker: Any, client: Any) -> None:
    client.create("t")
    now = time.time_ns() // 1_000_000
    late = [("__deliver_at", str(now + 1_500).encode())]
    later = [("__deliver_at", str(now + 600_000).encode())]
    batch = encode_batch(
        [(now, None, b"a", ()), (now, None, b"b", late), (now, None, b"c", later), (now, None, b"d", ())]
    )
    client.call(ProduceRequest(-1, 1000, [PartitionData("t", 0)]), batch)
    client.produce("t", b"e")
    assert values(worker.fetch("t")) == [b"a", b"d", b"e"]
    got = worker.fetch("t")
    assert values(got) == [b"b"]
    assert time.time_ns() // 1_000_000 >= now + 1_500
    states = worker.states("t").states
    assert [(state.first_offset, state.state) for state in states][2] == (2, "delayed")
    assert states[2].until_ms == now + 600_000


def test_state_survives_a_restart(node: Any, make_worker: Any) -> None:
    client = node.client()
    worker = make_worker(client)
    client.create("t")
    client.produce("t", b"a", b"b", b"c")
    client.produce("t", b"d")
    worker.fetch("t")
    worker.ack("t", (0, 0, ACK_ACCEPT), (2, 2, ACK_ACCEPT))
    node.restart()
    worker = make_worker(node.client())
    assert worker.fetch("t") == [(0, 1, b"b", 2), (0, 3, b"d", 2)]


def test_administration(worker: Any, client: Any, node: Any) -> None:
    client.create("t")
    client.produce("t", b"a", b"b")
    worker.fetch("t")
    group = worker.describe()
    assert (group.state, group.dead_letter_topic, len(group.members)) == ("Stable", "dlq.g", 1)
    assert (group.members[0].leased, group.members[0].topics) == (2, ["t"])
    with pytest.raises(NonEmptyGroupError, match="has 1 members"):
        worker.call(DeleteShareGroupRequest("g"))
    with pytest.raises(NonEmptyGroupError):
        worker.call(AlterShareOffsetsRequest("g", [ShareOffset("t", 0, 1)]))
    worker.ack("t", leave=True)
    assert worker.describe().state == "Empty"
    body = worker.call(AlterShareOffsetsRequest("g", [ShareOffset("t", 0, 1), ShareOffset("t", 5, 1)]))
    assert [entry.error_code for entry in body.partitions] == [0, UnknownTopicOrPartitionError.code]
    assert worker.fetch("t") == [(0, 1, b"b", 1)]
    worker.ack("t", leave=True)
    worker.call(DeleteShareGroupRequest("g"))
    for request in (DeleteShareGroupRequest("g"), ShareStatesRequest("g", "t", 0)):
        with pytest.raises(GroupIdNotFoundError):
            worker.call(request)
    assert [record.offset for record in worker.fetch("t")] == [0, 1]
    node.restart()


def test_a_deleted_topic_takes_its_state_along(worker: Any, client: Any) -> None:
    client.create("t")
    client.produce("t", b"a", b"b")
    worker.fetch("t")
    client.call(DeleteTopicsRequest(["t"], 1000))
    body = worker.call(worker.request("t"))
    assert [entry.error_code for entry in body.partitions] == [UnknownTopicOrPartitionError.code]
    client.create("t")
    client.produce("t", b"new")
    assert values(worker.fetch("t")) == [b"new"]


def test_acknowledgements_of_an_unknown_group_change_nothing(worker: Any) -> None:
    with pytest.raises(InvalidRecordStateError, match="nothing of it is leased"):
        worker.ack("t", (0, 0, ACK_ACCEPT))


def test_latest_begins_with_what_comes(worker: Any, client: Any, settings: Any) -> None:
    settings(share_auto_offset_reset="latest")
    client.create("t")
    client.produce("t", b"old")
    assert worker.fetch("t", wait_ms=0) == []
    client.produce("t", b"new")
    assert values(worker.fetch("t")) == [b"new"]


def test_the_log_is_kept_short(make_node: Any, make_worker: Any, until: Any) -> None:
    node = make_node(
        share_coordinator_state_topic_num_partitions=1, share_coordinator_snapshot_update_records_per_snapshot=10
    )
    client = node.client()
    worker = make_worker(client)
    idle = make_worker(client, group="idle")
    client.create("t")
    client.produce("t", *[b"%d" % number for number in range(200)])
    idle.fetch("t", most=1)
    for number in range(100):
        assert [record.offset for record in worker.fetch("t", most=1)] == [number]
        worker.ack("t", (number, number, ACK_ACCEPT))
    start = until(lambda: client.end_offset("__share_group_state", timestamp=-2))
    assert start > 30
    node.restart()
    worker = make_worker(node.client())
    assert [record.offset for record in worker.fetch("t", most=1)] == [100]
    idle = make_worker(node.client(), group="idle")
    assert [record.offset for record in idle.fetch("t", most=1)] == [0]


def test_an_error_of_a_request_says_what_to_do(worker: Any) -> None:
    with pytest.raises(BrokerError, match="there is no share group 'other'"):
        worker.call(DeleteShareGroupRequest("other"))
