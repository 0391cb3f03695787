"""Row: how long a consumer group of a hundred members takes to rebalance, when one comes and when one leaves.

The members speak the native protocol directly, so that the figure is the coordinator's and not that of a hundred
clients on two cores. They share the partitions by range, and hear of a rebalance by the answer to a heartbeat.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import zmq
from zmqbroker.errors import RebalanceInProgressError, error_for
from zmqbroker.groups.assignors import RANGE
from zmqbroker.groups.consumer_protocol import (
    PROTOCOL_TYPE,
    Assignment,
    Subscription,
    decode_subscription,
    encode_assignment,
    encode_subscription,
)
from zmqbroker.transport.envelope import convert_body, encode_request, split_reply
from zmqbroker.transport.group_messages import (
    FindCoordinatorRequest,
    HeartbeatRequest,
    JoinGroupReply,
    JoinGroupRequest,
    LeaveGroupRequest,
    LeavingMember,
    OffsetFetchRequest,
    SyncGroupReply,
    SyncGroupRequest,
)

from .basics import Figure, wait_for
from .row import Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from zmqbroker.transport.message_base import Request

    from .row import Bench, Measured

MEMBERS = 100
PARTITIONS = 200
TOPIC = "rebalanced"
TIMEOUT_SECONDS = 60.0
TIMEOUT_MS = 30_000
HELD_BACK_MS = 5_000
"""How long a heartbeat is held back."""


class Member:
    """One member: what it was asked last, and the generation whose assignment it has."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, group: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(address)
        self.group = group
        self.assigned = -1
        """The generation whose assignment it has."""
        self._member_id = ""
        self._generation = -1
        self._last_id = 0
        self._waiting: dict[int, Callable[[Any], None]] = {}

    def join(self) -> None:
        """Join, or join again."""
        self.assigned = -1
        metadata = encode_subscription(Subscription((TOPIC,)))
        request = JoinGroupRequest(
            *(self.group, TIMEOUT_MS, TIMEOUT_MS, self._member_id, None, PROTOCOL_TYPE, [(RANGE.name, metadata)])
        )
        self._ask(request, self._joined)

    def leave(self) -> None:
        """Leave the group."""
        self._waiting.clear()
        self._ask(LeaveGroupRequest(self.group, [LeavingMember(self._member_id)]), lambda _reply: None)

    def receive(self) -> None:
        """Take one answer. Raises what the coordinator refuses, but that the group rebalances."""
        raw = split_reply(self.socket.recv_multipart()[0])
        request = self._waiting.pop(raw.correlation_id, None)
        if request is None:
            return
        if raw.error_code == RebalanceInProgressError.code:
            self.join()
        elif raw.error_code:
            raise error_for(raw.error_code, raw.error_message)
        else:
            request(raw.body)

    def _ask(self, request: Request, answered: Callable[[Any], None]) -> None:
        self._last_id += 1
        self._waiting[self._last_id] = answered
        self.socket.send(encode_request(request, self._last_id))

    def _joined(self, body: Any) -> None:
        reply = convert_body(body, JoinGroupReply)
        if reply.error_code:
            raise error_for(reply.error_code, reply.error_message)
        self._member_id, self._generation = reply.member_id, reply.generation_id
        assignments = []
        if reply.leader == reply.member_id:
            members = {member.member_id: decode_subscription(member.metadata) for member in reply.members}
            shares = RANGE.assign(members, {TOPIC: PARTITIONS})
            assignments = [(name, encode_assignment(Assignment(tuple(share)))) for name, share in shares.items()]
        request = SyncGroupRequest(
            *(self.group, self._generation, self._member_id, None, PROTOCOL_TYPE, RANGE.name, assignments)
        )
        self._ask(request, self._synced)

    def _synced(self, body: Any) -> None:
        assert convert_body(body, SyncGroupReply).assignment
        self.assigned = self._generation
        self._heartbeat(None)

    def _heartbeat(self, _body: Any) -> None:
        request = HeartbeatRequest(self.group, self._generation, self._member_id, None, HELD_BACK_MS)
        self._ask(request, self._heartbeat)


def drive(members: list[Member], poller: zmq.Poller, after: int) -> int:
    """Let members act until all have the assignment of one generation that is a later one; which."""
    by_socket = {member.socket: member for member in members}
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        for socket, _ in poller.poll(1_000):
            member = by_socket.get(socket)
            if member is not None:
                member.receive()
        generations = {member.assigned for member in members}
        if len(generations) == 1 and (generation := generations.pop()) > after:
            return generation
    message = f"{len(members)} members were not assigned within {TIMEOUT_SECONDS:.0f} s"
    raise TimeoutError(message)


def rebalance(bench: Bench) -> Measured:
    """Ninety-nine are settled when the last one comes; then the first one leaves."""
    broker = bench.shared_broker
    group = f"rebalance-{time.monotonic_ns()}"
    wait_for(lambda: has_coordinator(broker.client, group), "the group's coordinator")
    context = zmq.Context()
    try:
        members = [Member(context, broker.address, group) for _ in range(MEMBERS)]
        poller = zmq.Poller()
        for member in members:
            poller.register(member.socket, zmq.POLLIN)
        for member in members[:-1]:
            member.join()
        generation = drive(members[:-1], poller, -1)
        begun = time.perf_counter()
        members[-1].join()
        generation = drive(members, poller, generation)
        came = time.perf_counter()
        members[0].leave()
        drive(members[1:], poller, generation)
        left = time.perf_counter()
        for member in members[1:]:
            member.leave()
            member.socket.poll(TIMEOUT_MS)
    finally:
        context.destroy(linger=0)
    return {"one more comes": (came - begun) * 1e3, "one leaves": (left - came) * 1e3}


def has_coordinator(client: Any, group: str) -> bool:
    """Whether the group's coordinator answers; asking makes the topic that it keeps its state in."""
    try:
        client.call(FindCoordinatorRequest([group]), FindCoordinatorRequest.REPLY)
        client.call(OffsetFetchRequest(group), OffsetFetchRequest.REPLY)
    except RuntimeError:
        return False
    return True


ROWS = (
    Row(
        f"rebalance, {MEMBERS} members",
        f"{PARTITIONS} partitions, range; until all are assigned; offsets topic flushed",
        (Figure("one more comes", "ms"), Figure("one leaves", "ms")),
        rebalance,
    ),
)
