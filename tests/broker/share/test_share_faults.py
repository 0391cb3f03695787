"""Share groups when something fails: disks, topics, clients that go, batches that nobody can read."""

from __future__ import annotations

from typing import Any

import pytest
from zmqbroker.actors.context import coordinator_address
from zmqbroker.errors import (
    BrokerError,
    CoordinatorNotAvailableError,
    InconsistentGroupProtocolError,
    StorageError,
)
from zmqbroker.groups.partitioning import group_partition
from zmqbroker.log.batch import make_batch
from zmqbroker.transport.group_messages import FindCoordinatorRequest, JoinGroupRequest
from zmqbroker.transport.messages import (
    CloseRequest,
    CreateTopicsRequest,
    DeleteRecordsRequest,
    NewTopic,
    PartitionDeletion,
)
from zmqbroker.transport.share_messages import (
    ACK_ACCEPT,
    ACK_REJECT,
    Acknowledgement,
    PartitionAcknowledgements,
    ShareAcknowledgeRequest,
    ShareFetchRequest,
)

DEADLINE_S = 20.0
STATE_TOPIC = "__share_group_state"


def values(got: list[Any]) -> list[bytes | None]:
    return [record.value for record in got]


def coordinator(node: Any, group: str = "g") -> Any:
    return node.actor(coordinator_address(STATE_TOPIC, group_partition(group, 16)))


def test_an_acknowledgement_that_is_not_written_does_not_hold(faults: Any, worker: Any, client: Any, node: Any) -> None:
    client.create("t")
    client.produce("t", b"a", b"b")
    worker.fetch("t")
    worker.states("t")
    faults.full_for = STATE_TOPIC
    request = ShareAcknowledgeRequest(
        "g", "w", [PartitionAcknowledgements("t", 0, [Acknowledgement(0, 0, ACK_ACCEPT)])]
    )
    reply = client.ask(request)
    assert reply.error_code == CoordinatorNotAvailableError.code
    assert client.counters()["coordinator-reloads"] >= 1
    faults.full_for = ""
    assert worker.fetch("t") == [(0, 0, b"a", 2), (0, 1, b"b", 2)]
    worker.ack("t", (0, 1, ACK_ACCEPT))
    assert node.error is None


def test_a_coordinator_that_crashes_answers_and_comes_back(worker: Any, client: Any, node: Any, until: Any) -> None:
    client.create("t")
    client.produce("t", b"a")
    worker.fetch("t")
    worker.ack("t", (0, 0, ACK_ACCEPT))
    number = client.send(worker.request("t"))
    until(lambda: node.on_reactor(lambda: coordinator(node).waiting()))

    def crash() -> None:
        actor = coordinator(node)
        actor.notice = None  # the next message that is no command cannot be handled
        actor.actor_ref.tell("a message")

    node.on_reactor(crash)
    reply = client.reply_to(number)
    assert reply.error_code == CoordinatorNotAvailableError.code
    client.produce("t", b"b")
    assert values(worker.fetch("t")) == [b"b"]


def test_dead_letters_wait_for_their_topic(
    make_node: Any, faults: Any, caplog: pytest.LogCaptureFixture, make_worker: Any, until: Any
) -> None:
    node = make_node()
    client = node.client()
    worker = make_worker(client)
    client.create("t")
    client.create("dlq.g")
    client.produce("t", b"a", b"b")
    worker.fetch("t")
    faults.full_for = "dlq.g"
    worker.ack("t", (0, 0, ACK_REJECT), (1, 1, ACK_ACCEPT))
    until(lambda: "dead letters of share group g have to wait" in caplog.text)
    assert [state.state for state in worker.states("t").states] == ["archiving", "acknowledged"]
    faults.full_for = ""
    until(lambda: worker.states("t").start_offset == 2)
    assert client.values("dlq.g") == [b"a"]
    assert caplog.text.count("have to wait, and are tried again") == 1


def test_dead_letters_survive_a_restart(make_node: Any, faults: Any, make_worker: Any, until: Any) -> None:
    node = make_node()
    client = node.client()
    worker = make_worker(client)
    client.create("t")
    client.create("dlq.g")
    client.produce("t", b"a")
    worker.fetch("t")
    faults.full_for = "dlq.g"
    worker.ack("t", (0, 0, ACK_REJECT, -1, "why"))
    assert worker.states("t").states[0].state == "archiving"
    node.stop()
    faults.full_for = ""
    node.start()
    client = node.client()
    worker = make_worker(client)
    until(lambda: worker.states("t").start_offset == 1)
    _, (letter,) = client.fetch("dlq.g")
    assert dict(letter.headers)["__dlq.errors.message"] == b"why"


def test_a_batch_that_nobody_can_read_does_not_stop_the_queue(worker: Any, client: Any, node: Any, until: Any) -> None:
    client.create("t")
    client.produce("t", b"a")
    bad = make_batch(
        b"no record at all", records_count=2, base_timestamp=1, max_timestamp=1, base_offset=1, leader_epoch=0
    )
    log = node.leader("t").log

    def append() -> None:
        log.append_as_follower(bad)
        node.leader("t").appended()

    node.on_reactor(append)
    client.produce("t", b"z")
    request = worker.request("t")
    body = worker.call(request)
    (entry,) = body.partitions
    assert [(found.first_offset, found.last_offset) for found in entry.acquired] == [(0, 3)]
    worker.ack("t", (0, 0, ACK_ACCEPT), (1, 2, ACK_REJECT, -1, "cannot read it"), (3, 3, ACK_ACCEPT))
    until(lambda: worker.states("t").start_offset == 4)
    _, letters = client.fetch("dlq.g")
    assert [letter.value for letter in letters] == [None, None]
    assert b"its batch cannot be decoded" in dict(letters[0].headers)["__dlq.errors.message"]


def test_records_that_are_deleted_are_no_longer_delivered(worker: Any, client: Any) -> None:
    client.create("t")
    client.produce("t", b"a")
    client.produce("t", b"b")
    client.produce("t", b"c")
    assert values(worker.fetch("t", most=1)) == [b"a"]
    worker.ack("t", leave=True)
    client.call(DeleteRecordsRequest([PartitionDeletion("t", 0, 2)], 1000))
    assert values(worker.fetch("t")) == [b"c"]
    assert worker.states("t").start_offset == 2


def test_nothing_is_leased_to_a_client_that_says_goodbye(
    worker: Any, client: Any, node: Any, make_worker: Any, until: Any
) -> None:
    client.create("t")
    gone = node.client()
    number = gone.send(worker.request("t", wait_ms=60_000))
    until(lambda: node.on_reactor(lambda: coordinator(node).group("g").waiting))
    gone.send(CloseRequest())
    reply = gone.reply_to(number)
    assert worker.read(reply, gone.body_of(reply, ShareFetchRequest)) == []
    client.produce("t", b"a")
    assert make_worker(node.client(), "v").fetch("t") == [(0, 0, b"a", 1)]


def test_the_id_of_a_consumer_group_is_refused(worker: Any, client: Any) -> None:
    client.create("t")
    client.call(FindCoordinatorRequest(["c"]))
    join = JoinGroupRequest("c", 30_000, 30_000, "", None, "consumer", [("range", b"")])
    assert worker.typed(worker.ask(join), join).error_code == 0
    with pytest.raises(InconsistentGroupProtocolError):
        worker.call(ShareFetchRequest("c", "m", 0, 1, 1, ["t"]))
    worker.fetch("t", wait_ms=0)
    with pytest.raises(InconsistentGroupProtocolError):
        worker.call(JoinGroupRequest("g", 30_000, 30_000, "", None, "consumer", [("range", b"")]))


def test_a_partition_that_cannot_be_read_stops_no_other(faults: Any, worker: Any, client: Any, node: Any) -> None:
    client.create("good")
    client.produce("good", b"a")
    faults.full_for = "bad-0"
    client.call(CreateTopicsRequest([NewTopic("bad", 1)], 1000))
    request = worker.request("bad", "good")
    body = worker.call(request)
    assert {entry.topic: entry.error_code for entry in body.partitions} == {"good": 0, "bad": StorageError.code}
    assert node.error is None


def test_members_that_fall_silent_are_forgotten(make_node: Any, make_worker: Any, until: Any) -> None:
    node = make_node(group_share_session_timeout_ms=100)
    worker = make_worker(node.client())
    node.client().create("t")
    worker.fetch("t", wait_ms=0)
    until(lambda: worker.describe().state == "Empty")


def test_a_request_for_no_group_is_refused(worker: Any) -> None:
    with pytest.raises(BrokerError, match="empty"):
        worker.call(ShareFetchRequest("", "m", 0, 1, 1, ["t"]))
