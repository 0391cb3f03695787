"""Share groups after what must not go wrong did: waits that end each other, half-done deletions, lost ends of logs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from zmqbroker.actors.commands import CoordinatorCall, EndWait, Refusal
from zmqbroker.actors.context import coordinator_address
from zmqbroker.errors import GroupIdNotFoundError, InconsistentGroupProtocolError
from zmqbroker.groups.partitioning import group_partition
from zmqbroker.log.batch import read_header
from zmqbroker.transport.group_messages import FindCoordinatorRequest, JoinGroupRequest
from zmqbroker.transport.share_messages import (
    ACK_ACCEPT,
    ACK_REJECT,
    ACK_RELEASE,
    AcquiredRecords,
    DeleteShareGroupRequest,
    ShareAcknowledgeRequest,
    ShareFetchRequest,
)


def coordinator(node: Any, group: str = "g") -> Any:
    return node.actor(coordinator_address("__share_group_state", group_partition(group, 16)))


def values(got: list[Any]) -> list[bytes | None]:
    return [record.value for record in got]


def waiting(node: Any) -> Any:
    """The fetches that wait in group g."""
    return node.on_reactor(lambda: list(coordinator(node).group("g").waiting))


def hold_a_record(node: Any) -> None:
    """The first fetch that waits gets the record at offset 0, and waits for a read before it is answered."""
    group = coordinator(node).groups["g"]
    first, *_ = group.waiting
    (queue,) = first.queues
    queue.machine.release_all("v", group.rules)
    queue.machine.acquire("w", 0, 0, group.now_ms, group.rules)
    chunk = queue.chunk_at(0)
    first.take(queue, chunk, chunk.find(0), AcquiredRecords(0, 0, 2))


def test_a_member_leaves_with_several_fetches_that_wait(
    worker: Any, client: Any, node: Any, make_worker: Any, until: Any
) -> None:
    client.create("t")
    client.produce("t", b"a")
    other = make_worker(node.client(), "v")
    assert values(other.fetch("t")) == [b"a"]
    numbers = [client.send(worker.request("t", most=10, wait_ms=60_000)) for _ in range(3)]
    until(lambda: len(waiting(node)) == 3)

    def hold_and_leave() -> None:
        hold_a_record(node)
        actor = coordinator(node)
        leave = ShareAcknowledgeRequest("g", "w", [], leave=True)
        first = next(iter(actor.groups["g"].waiting))
        actor.actor_ref.tell(CoordinatorCall(first.command.reply_to, object(), 0, leave, "c"))

    node.on_reactor(hold_and_leave)
    for number in numbers:
        reply = client.reply_to(number)
        assert worker.read(reply, client.body_of(reply, ShareFetchRequest)) == []
    assert values(make_worker(node.client(), "u").fetch("t")) == [b"a"]


def test_a_wait_may_be_over_when_it_is_ended(worker: Any, client: Any, node: Any, until: Any) -> None:
    client.create("t")
    number = client.send(worker.request("t", wait_ms=60_000))
    until(lambda: waiting(node))

    def end_twice() -> None:
        group = coordinator(node).groups["g"]
        (fetch,) = group.waiting
        group.end_wait(fetch)
        group.end_wait(fetch)

    node.on_reactor(end_twice)
    reply = client.reply_to(number)
    assert worker.read(reply, client.body_of(reply, ShareFetchRequest)) == []


@pytest.mark.parametrize("state", ["waiting", "parked", "loading"])
def test_a_fetch_that_is_ended_is_always_answered(worker: Any, client: Any, node: Any, until: Any, state: str) -> None:
    """Whether it waits for records, for the group's id or for the log."""
    client.create("t")
    number = client.send(worker.request("t", wait_ms=60_000))
    until(lambda: waiting(node))

    def end() -> None:
        actor = coordinator(node)
        group = actor.groups["g"]
        (fetch,) = group.waiting
        if state != "waiting":
            group.waiting.pop(fetch)
            (group.parked if state == "parked" else actor._parked).append(fetch.command)
            actor._loading = state == "loading"
        actor.actor_ref.tell(EndWait(fetch.command.call))

    node.on_reactor(end)
    reply = client.reply_to(number)
    assert bool(reply.error_code) == (state != "waiting")


def test_a_deletion_that_was_cut_short_can_be_done_again(worker: Any, client: Any, node: Any) -> None:
    client.create("t")
    worker.fetch("t", wait_ms=0)
    worker.ack("t", leave=True)

    def lose() -> None:
        """As after a crash between the tombstones and the release of the id."""
        actor = coordinator(node)
        actor.remove_group(actor.groups["g"])
        actor.on_turn_end()

    node.on_reactor(lose)
    client.call(FindCoordinatorRequest(["g"]))
    join = JoinGroupRequest("g", 30_000, 30_000, "", None, "consumer", [("range", b"")])
    with pytest.raises(InconsistentGroupProtocolError):
        worker.call(join)
    with pytest.raises(GroupIdNotFoundError):
        worker.call(DeleteShareGroupRequest("g"))
    assert worker.call(join).member_id


def test_a_release_that_is_refused_can_be_asked_for_again(worker: Any, client: Any, node: Any) -> None:
    client.create("t")
    worker.fetch("t", wait_ms=0)
    worker.ack("t", leave=True)

    def refuse_next() -> None:
        actor = coordinator(node)
        ask = actor.ask_once_committed

        def refused(address: str, question: Any, then: Any) -> None:
            del address, question
            actor.ask_once_committed = ask
            then(Refusal(None, 0, InconsistentGroupProtocolError("not now")))

        actor.ask_once_committed = refused

    node.on_reactor(refuse_next)
    with pytest.raises(InconsistentGroupProtocolError):
        worker.call(DeleteShareGroupRequest("g"))
    with pytest.raises(GroupIdNotFoundError):
        worker.call(DeleteShareGroupRequest("g"))
    client.call(FindCoordinatorRequest(["g"]))
    join = JoinGroupRequest("g", 30_000, 30_000, "", None, "consumer", [("range", b"")])
    assert worker.call(join).member_id


def test_what_a_description_gives_up_is_written_down(
    worker: Any, client: Any, node: Any, settings: Any, until: Any
) -> None:
    client.create("t")
    client.produce("t", b"a")
    worker.fetch("t")
    worker.ack("t", (0, 0, ACK_RELEASE, 0))
    worker.fetch("t", wait_ms=0)
    worker.ack("t", (0, 0, ACK_RELEASE, 0))
    settings(share_delivery_count_limit=1)
    worker.describe()
    until(lambda: worker.states("t").start_offset == 1)
    assert not node.on_reactor(
        lambda: any(q.machine.has_changes for q in coordinator(node).groups["g"].queues.values())
    )
    assert client.values("dlq.g") == [b"a"]


def cut_log(node: Any, batches: int) -> None:
    """The log of t-0 loses what stands after its first batches, as with a power cut."""
    (path,) = Path(node.folder).glob("**/t-0/*.log")
    data = path.read_bytes()
    size = 0
    for _ in range(batches):
        size += read_header(data, size).size
    os.truncate(path, size)


@pytest.mark.parametrize("left", [0, 1])
def test_records_in_the_place_of_lost_ones_are_delivered(
    node: Any, client: Any, worker: Any, make_worker: Any, left: int
) -> None:
    client.create("t", flush="os")
    client.produce("t", b"a", b"b", b"c")
    client.produce("t", b"d", b"e", b"f")
    assert len(worker.fetch("t", most=6)) == 6
    worker.ack("t", (0, 5, ACK_ACCEPT))
    node.crash()
    cut_log(node, left)
    node.start()
    client = node.client()
    new = [b"new%d" % index for index in range(8)]
    client.produce("t", *new)
    worker = make_worker(client)
    assert values(worker.fetch("t")) == new
    worker.ack("t", (3 * left, 3 * left + 7, ACK_ACCEPT))
    assert worker.fetch("t", wait_ms=0) == []
    node.crash()
    node.start()
    client = node.client()
    worker = make_worker(client)
    client.produce("t", b"z")
    assert values(worker.fetch("t")) == [b"z"]


def test_no_record_in_the_place_of_a_lost_one_is_a_dead_letter(
    make_node: Any, faults: Any, make_worker: Any, until: Any
) -> None:
    node = make_node()
    client = node.client()
    worker = make_worker(client)
    client.create("t", flush="os")
    client.create("dlq.g")
    client.produce("t", b"a")
    client.produce("t", b"b")
    assert worker.fetch("t", most=2)
    faults.full_for = "dlq.g"
    worker.ack("t", (0, 1, ACK_REJECT))
    node.crash()
    cut_log(node, 1)
    faults.full_for = ""
    node.start()
    client = node.client()
    client.produce("t", b"new")
    worker = make_worker(client)
    assert values(worker.fetch("t")) == [b"new"]
    until(lambda: client.values("dlq.g") == [b"a"])
