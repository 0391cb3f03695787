"""Requests about groups: each goes to the coordinator that holds its group.

A group's coordinator is an actor of the node that leads the group's partition of an internal topic. FindCoordinator
names that node, and makes the internal topic when it is asked for the first time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import structs

from ..errors import (
    BrokerError,
    CoordinatorNotAvailableError,
    InvalidGroupIdError,
    InvalidRequestError,
    NotCoordinatorError,
    RequestTimedOutError,
)
from ..groups.partitioning import group_partition
from ..quorum.internal_topics import internal_topic
from ..transport import group_messages as g
from ..transport import share_messages as s
from ..transport.internal_topics import OFFSETS_TOPIC, SHARE_STATE_TOPIC, TRANSACTION_STATE_TOPIC
from ..transport.messages import CreateTopicsRequest, TopicsReply
from .calls import DEFAULT_TIMEOUT_MS, Call, GatherCall, ask_controller
from .commands import Answer, CoordinatorCall, EndWait, Refusal, SharedAnswer
from .context import coordinator_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..transport.message_base import Body, Request
    from .calls import CallOwner
    from .commands import Ref

_TOPIC_OF = {
    g.GROUP_COORDINATOR: OFFSETS_TOPIC,
    g.TRANSACTION_COORDINATOR: TRANSACTION_STATE_TOPIC,
    g.SHARE_COORDINATOR: SHARE_STATE_TOPIC,
}
_GRACE_MS = 5000.0
"""What a coordinator gets beyond the time that a request may wait in it; it is the one to answer."""


def coordinator_of(session: CallOwner, topic: str, group_id: str) -> Ref:
    """The actor that coordinates a group, or a transactional id. Raises the error that says why it is not here."""
    if not group_id:
        message = "the group id is empty; a group needs a name"
        raise InvalidGroupIdError(message)
    context = session.context
    known = context.image.topics.get(topic)
    what = "transactional id" if topic == TRANSACTION_STATE_TOPIC else "group"
    if known is None:
        message = f"no {what} has a coordinator yet: {topic} does not exist; ask FindCoordinator first"
        raise NotCoordinatorError(message)
    partition = group_partition(group_id, len(known.partitions))
    ref = session.reactor.lookup(coordinator_address(topic, partition))
    if ref is not None:
        return ref
    leader = known.partitions[partition].leader
    if leader == context.config.node_id:
        message = f"the coordinator of {what} {group_id!r} ({topic}-{partition}) is starting"
        raise CoordinatorNotAvailableError(message)
    message = f"node {leader} leads {topic}-{partition} and so coordinates {what} {group_id!r}"
    raise NotCoordinatorError(message)


class FindCoordinatorCall(Call):
    """Say which node coordinates groups, once the internal topic exists."""

    def __init__(self, session: CallOwner, request: g.FindCoordinatorRequest, correlation_id: int, size: int) -> None:
        super().__init__(session, request, correlation_id, size)
        topic = _TOPIC_OF.get(request.key_type)
        if topic is None:
            message = (
                f"key_type is {request.key_type}; it is 0 for consumer groups, 1 for transactional ids and 2 for share"
                " groups"
            )
            raise InvalidRequestError(message)
        self._topic = topic
        self._keys = request.keys
        self._why = "it has no leader yet"

    def start(self) -> None:
        """Create the internal topic, or answer at once."""
        context = self.session.context
        if self._topic in context.image.topics:
            self._describe()
            return
        wanted = CreateTopicsRequest([internal_topic(self._topic, context.config)], int(DEFAULT_TIMEOUT_MS))
        ask_controller(self.session, self, wanted)

    def on_answer(self, answer: Answer) -> None:
        """Answer, now that the topic is there, whoever made it."""
        assert isinstance(answer.body, TopicsReply)
        self._why = answer.body.topics[0].error_message or self._why
        self._describe()

    def on_refusal(self, refusal: Refusal) -> None:
        """Answer that the topic could not be made."""
        self._why = refusal.error.message
        self._describe()

    def _describe(self) -> None:
        self.reply(g.FindCoordinatorReply([self._find(key) for key in self._keys]))

    def _find(self, key: str) -> g.CoordinatorInfo:
        if not key:
            code, why = InvalidGroupIdError.code, "the group id is empty; a group needs a name"
            if self._topic == TRANSACTION_STATE_TOPIC:
                code, why = InvalidRequestError.code, "the transactional id is empty; it needs a name"
            return g.CoordinatorInfo(key, error_code=code, error_message=why)
        image = self.session.context.image
        topic = image.topics.get(self._topic)
        if topic is not None:
            leader = topic.partitions[group_partition(key, len(topic.partitions))].leader
            node = image.nodes.get(leader)
            if node is not None:
                return g.CoordinatorInfo(key, node.node_id, node.host, node.port)
        code, why = CoordinatorNotAvailableError.code, f"{key!r} has no coordinator: {self._topic}: {self._why}"
        return g.CoordinatorInfo(key, error_code=code, error_message=why)


class GroupCall(Call):
    """A request of one group, answered by its coordinator."""

    topic = OFFSETS_TOPIC

    def __init__(self, session: CallOwner, request: Any, correlation_id: int, size: int) -> None:
        super().__init__(session, request, correlation_id, size)
        self.request = request
        self._coordinator: Ref | None = None

    def timeout_ms(self, request: Request) -> float:
        """As long as the coordinator may hold the request back, and some more."""
        waits = getattr(request, "rebalance_timeout_ms", 0) + getattr(request, "wait_ms", 0)
        if isinstance(request, g.SyncGroupRequest):
            waits = self.session.context.config.group_max_session_timeout_ms
        return DEFAULT_TIMEOUT_MS + float(waits)

    def coordinator(self) -> Ref:
        """The coordinator's actor. Raises the error that says why it is not here."""
        return coordinator_of(self.session, self.topic, self.request.group_id)

    def start(self) -> None:
        """Pass it on."""
        try:
            self._coordinator = self.coordinator()
        except BrokerError as error:
            self.fail(error)
            return
        client_id = self.session.client_id
        self._coordinator.tell(CoordinatorCall(self.session.actor_ref, self, 0, self.request, client_id))

    def on_answer(self, answer: Answer) -> None:
        """Reply with the coordinator's answer."""
        self.reply(answer.body, answer.frames if isinstance(answer, SharedAnswer) else None)

    def drain(self) -> None:
        """The node stops, or the client leaves: whoever waits for others waits no longer."""
        self.end_wait()

    def abandon(self) -> None:
        """Nobody hears the answer: what is held back for this client may go to others."""
        self.end_wait()

    def end_wait(self) -> None:
        """Ask the coordinator to answer now."""
        if self._coordinator is not None and self._coordinator.is_alive():
            self._coordinator.tell(EndWait(self))


class ShareCall(GroupCall):
    """A request of one share group."""

    topic = SHARE_STATE_TOPIC


class ShareFetchCall(ShareCall):
    """A long poll: its coordinator ends it, so that no record is leased to an answer that nobody waits for."""

    quota = "consume"

    def timeout_ms(self, request: Request) -> float:
        """The client's wait; the coordinator is asked to end it then."""
        assert isinstance(request, s.ShareFetchRequest)
        return float(min(request.max_wait_ms, self.session.context.config.max_fetch_wait_ms)) + _GRACE_MS

    def on_deadline(self) -> None:
        """Have the wait ended, and wait for the answer: what is leased with it must reach the client."""
        if self._coordinator is None or not self._coordinator.is_alive():
            self.fail(CoordinatorNotAvailableError("the coordinator of the group has stopped: try again"))
            return
        self.deadline_ms = self.session.context.clock.monotonic_ms() + _GRACE_MS
        self.end_wait()


class ManyGroupsCall(GatherCall):
    """A request of several groups: one command, and one entry of the reply, for each."""

    def __init__(self, session: CallOwner, request: Any, correlation_id: int, size: int) -> None:
        super().__init__(session, request, correlation_id, size)
        self._request = request
        self._topic = SHARE_STATE_TOPIC if isinstance(request, s.DescribeShareGroupsRequest) else OFFSETS_TOPIC

    def start(self) -> None:
        """Ask each group's coordinator."""
        groups: list[str] = self._request.groups
        self.expect(len(groups))
        if not groups:
            self.complete()
        for index, group_id in enumerate(groups):
            try:
                coordinator = coordinator_of(self.session, self._topic, group_id)
            except BrokerError as error:
                self.on_refusal(Refusal(self, index, error))
                continue
            request = structs.replace(self._request, groups=[group_id])
            client_id = self.session.client_id
            coordinator.tell(CoordinatorCall(self.session.actor_ref, self, index, request, client_id))

    def on_answer(self, answer: Answer) -> None:
        """Take the one entry of a coordinator's answer."""
        body: Any = answer.body
        if isinstance(body, type(self._request).REPLY):
            body = getattr(body, "groups")[0]  # noqa: B009 - each of the replies has them
        super().on_answer(Answer(self, answer.index, body))

    def on_refusal(self, refusal: Refusal) -> None:
        """Say of one group why it has no answer."""
        entry = _ENTRY[type(self._request)]
        error = refusal.error
        body = entry(self._request.groups[refusal.index], error_code=error.code, error_message=error.message)
        super().on_answer(Answer(self, refusal.index, body))

    def on_deadline(self) -> None:
        """Say of the groups without answer that their time is up."""
        for index, result in enumerate(self.results):
            if result is None:
                self.on_refusal(Refusal(self, index, RequestTimedOutError("its coordinator did not answer in time")))

    def complete(self) -> None:
        """Reply with the entries."""
        self.reply(type(self._request).REPLY(self.results))


_ENTRY: dict[type[Request], Callable[..., Body]] = {
    g.DescribeGroupsRequest: g.GroupDescription,
    g.DeleteGroupsRequest: g.DeletedGroup,
    s.DescribeShareGroupsRequest: s.ShareGroupDescription,
}


class ListGroupsCall(GatherCall):
    """The groups of all coordinators of this node."""

    def __init__(self, session: CallOwner, request: g.ListGroupsRequest, correlation_id: int, size: int) -> None:
        super().__init__(session, request, correlation_id, size)
        self._request = request

    def start(self) -> None:
        """Ask them all."""
        session = self.session
        topic = session.context.image.topics.get(OFFSETS_TOPIC)
        count = 0 if topic is None else len(topic.partitions)
        found = [session.reactor.lookup(coordinator_address(OFFSETS_TOPIC, index)) for index in range(count)]
        coordinators = [ref for ref in found if ref is not None]
        self.expect(len(coordinators))
        if not coordinators:
            self.complete()
        for index, ref in enumerate(coordinators):
            ref.tell(CoordinatorCall(session.actor_ref, self, index, self._request, session.client_id))

    def complete(self) -> None:
        """Reply with all that were listed."""
        groups = sorted((group for part in self.results for group in part.groups), key=lambda group: group.group_id)
        self.reply(g.ListGroupsReply(groups))


GROUP_CALLS: dict[type[Request], Callable[[CallOwner, Any, int, int], Call]] = {
    g.FindCoordinatorRequest: FindCoordinatorCall,
    g.JoinGroupRequest: GroupCall,
    g.SyncGroupRequest: GroupCall,
    g.HeartbeatRequest: GroupCall,
    g.LeaveGroupRequest: GroupCall,
    g.OffsetCommitRequest: GroupCall,
    g.OffsetFetchRequest: GroupCall,
    g.OffsetDeleteRequest: GroupCall,
    g.GroupEventsRequest: GroupCall,
    g.DescribeGroupsRequest: ManyGroupsCall,
    g.DeleteGroupsRequest: ManyGroupsCall,
    g.ListGroupsRequest: ListGroupsCall,
    s.ShareFetchRequest: ShareFetchCall,
    s.ShareAcknowledgeRequest: ShareCall,
    s.AlterShareOffsetsRequest: ShareCall,
    s.DeleteShareGroupRequest: ShareCall,
    s.ShareStatesRequest: ShareCall,
    s.DescribeShareGroupsRequest: ManyGroupsCall,
}
"""The call of each request about groups."""
