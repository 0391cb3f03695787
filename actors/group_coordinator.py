"""GroupCoordinator: the consumer groups of one partition of ``__consumer_offsets``, as an actor.

The rules are groups/group_table.py's. This is where they meet time, the log, and those who wait for answers.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import BrokerError, CoordinatorNotAvailableError, NotEnoughReplicasError
from ..groups.effects import Now
from ..groups.group_table import GroupTable
from ..transport import group_messages as g
from ..transport import transaction_messages as t
from ..transport.internal_topics import OFFSETS_TOPIC
from ..transport.message_base import Body
from ..transport.peer_messages import MarkerWritten
from .commands import (
    Answer,
    ClaimGroup,
    Command,
    CoordinatorCall,
    EndWait,
    Refusal,
    ReleaseGroup,
    TopicGone,
    WriteMarker,
)
from .coordinator import Coordinator
from .verification import VERIFY, Producer, Verifier

if TYPE_CHECKING:
    from .context import NodeContext

_CLIENT_ID_LENGTH = 256
"""Of a client id, as a part of its member ids."""
_MEMBER_ID_BYTES = 16


class GroupCoordinator(Coordinator):
    """Coordinates the groups whose ids fall to this partition."""

    TOPIC: ClassVar[str] = OFFSETS_TOPIC

    def __init__(self, context: NodeContext, partition: int) -> None:
        super().__init__(context, partition)
        self._table = GroupTable(context.config)
        self._held: dict[tuple[Any, int], CoordinatorCall] = {}
        """Requests that have no answer yet."""
        self._members_named = 0
        self._verifier = Verifier(context, self, OFFSETS_TOPIC, partition)

    def _now(self) -> Now:
        clock = self.context.clock
        return Now(clock.monotonic_ms(), clock.wall_ms())

    # ---- the log

    def forget(self) -> None:
        """Forget everything; whoever waits has to ask again."""
        held, self._held = self._held, {}
        for call in held.values():
            why = f"the coordinator of group {getattr(call.request, 'group_id', '')!r} reads its log again: try again"
            self.refuse(call, CoordinatorNotAvailableError(why))
        self._table = GroupTable(self.context.config)
        self._verifier.forget()

    def replay(self, key: bytes, value: bytes | None, offset: int) -> None:
        """Take one record of the log."""
        del offset
        self._table.replay(key, value)

    def loaded(self) -> None:
        """Every member has a fresh session time."""
        if self._table.unknown_records:
            self.context.counters["coordinator-unknown-records"] += self._table.unknown_records
        self._table.loaded(self._now(), lambda topic: topic in self.context.image.topics)
        self._carry_out()

    def _carry_out(self) -> None:
        """Do what the table wants done: records first, for the answers say what they say."""
        records, answers = self._table.effects.take()
        for key, value in records:
            self.append(key, value)
        for call, answer in answers:
            assert isinstance(call, CoordinatorCall)
            del self._held[call.call, call.index]
            if isinstance(answer, Body):
                self.answer(call, answer)
            else:
                self.refuse(call, answer)
        self.wake_at(self._table.deadline_ms())

    # ---- messages

    def handle(self, command: Command) -> None:
        """Handle a request, or what a share group's coordinator says of a group id."""
        if isinstance(command, CoordinatorCall):
            self._handle_call(command)
        elif isinstance(command, ClaimGroup):
            self._table.claim(command.group_id, self._now())
            self._carry_out()
            self.answer(command, Body())
        elif isinstance(command, WriteMarker):
            self._verifier.marked(command.producer_id)
            ended = (command.producer_id, command.transaction, self._now())
            self._table.end_transaction(*ended, committed=command.committed)
            self._carry_out()
            self.answer(command, MarkerWritten(self.TOPIC, self.partition))
        else:
            assert isinstance(command, ReleaseGroup), command
            self._table.release(command.group_id)
            self._carry_out()
            self.answer(command, Body())

    def notice(self, message: Any) -> None:
        """End a wait, or forget a topic."""
        if isinstance(message, EndWait):
            call = self._held.get((message.call, 0))
            if call is not None:
                self._table.end_wait(call, getattr(call.request, "group_id", ""), self._now())
        elif isinstance(message, TopicGone):
            self._table.topic_gone(message.topic, self._now())
        elif isinstance(message, Answer | Refusal) and message.call[0] == VERIFY:
            self._verifier.answered(message)
        else:
            super().notice(message)
        self._carry_out()

    def tick(self, now_ms: float) -> None:
        """Do what is due."""
        del now_ms
        self._table.tick(self._now())
        self._carry_out()

    def on_stop(self) -> None:
        """Tell everybody who waits, and ask nobody any more."""
        super().on_stop()
        self._verifier.forget()

    def on_crash(self, error: BaseException | None) -> None:
        """Tell everybody who waits, and ask nobody any more."""
        super().on_crash(error)
        self._verifier.forget()

    def waiting(self) -> list[Command]:
        """Requests that are held back."""
        return list(self._held.values())

    # ---- requests

    def _handle_call(self, call: CoordinatorCall) -> None:
        key = (call.call, call.index)
        self._held[key] = call
        try:
            body = self._ask(call)
        except BrokerError as error:
            self._table.effects.answer(call, error)
        else:
            if body is not None:
                self._table.effects.answer(call, body)
        self._carry_out()

    def _ask(self, call: CoordinatorCall) -> Body | None:  # noqa: C901, PLR0911, PLR0912 - one row for each request
        """The answer; None: the table answers, perhaps later."""
        table, now, request = self._table, self._now(), call.request
        match request:
            case g.HeartbeatRequest():
                table.heartbeat(call, request, now)
            case g.OffsetCommitRequest():
                return table.commit(request, self._exists, now)
            case t.TxnOffsetCommitRequest():
                producer = Producer(request.transactional_id, request.producer_id, request.producer_epoch)
                self._verifier.ask(producer, lambda outcome: self._commit_in_transaction(call, request, outcome))
            case g.OffsetFetchRequest():
                return table.fetch_offsets(request)
            case g.JoinGroupRequest():
                table.join(call, request, call.client_id, lambda: self._new_member_id(call.client_id), now)
            case g.SyncGroupRequest():
                table.sync(call, request, now)
            case g.LeaveGroupRequest():
                return table.leave(request, now)
            case g.DescribeGroupsRequest():
                return g.DescribeGroupsReply([self._describe(group_id) for group_id in request.groups])
            case g.DeleteGroupsRequest():
                return g.DeleteGroupsReply([self._delete(group_id, now) for group_id in request.groups])
            case g.ListGroupsRequest():
                return table.list(request)
            case g.OffsetDeleteRequest():
                return table.delete_offsets(request, now)
            case g.GroupEventsRequest():
                return table.events(request)
            case _:
                assert False, f"{request!r} is not for a group coordinator"  # noqa: B011, PT015 - nobody routes it here
        return None

    def _commit_in_transaction(
        self, call: CoordinatorCall, request: t.TxnOffsetCommitRequest, outcome: int | BrokerError
    ) -> None:
        """Go on with a TxnOffsetCommit: outcome is the number of the transaction, or why there is none."""
        answer: Body | BrokerError
        try:
            if isinstance(outcome, BrokerError):
                raise outcome
            answer = self._table.commit_in_transaction(request, outcome, self._exists, self._now())
        except NotEnoughReplicasError as error:
            answer = CoordinatorNotAvailableError(error.message)
        except BrokerError as error:
            answer = error
        self._table.effects.answer(call, answer)
        self._carry_out()

    def _describe(self, group_id: str) -> g.GroupDescription:
        try:
            return self._table.describe(group_id, self.context.config.node_id)
        except BrokerError as error:
            return g.GroupDescription(group_id, error.code, error.message, state="Dead")

    def _delete(self, group_id: str, now: Now) -> g.DeletedGroup:
        try:
            self._table.delete(group_id, now)
        except BrokerError as error:
            return g.DeletedGroup(group_id, error.code, error.message)
        return g.DeletedGroup(group_id)

    def _exists(self, topic: str, partition: int) -> bool:
        known = self.context.image.topics.get(topic)
        return known is not None and partition < len(known.partitions)

    def _new_member_id(self, client_id: str) -> str:
        """An id that nobody ever had: no two processes share the figures that it is made of."""
        self._members_named += 1
        context = self.context
        figures = (context.cluster_id, self.partition, self._load_id, self._members_named, context.clock.wall_ms())
        digest = blake2b(repr(figures).encode(), digest_size=_MEMBER_ID_BYTES).hexdigest()
        return f"{client_id[:_CLIENT_ID_LENGTH]}-{digest}"
