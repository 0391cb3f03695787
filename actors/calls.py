"""Calls: a request that a session works on, from its start to its one reply.

A call sends commands to other actors, collects their answers by index, and finishes through its session. Whatever
happens, it finishes once: with the last answer, at its deadline, or when the node stops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ..errors import (
    BrokerError,
    LeaderNotAvailableError,
    NotLeaderOrFollowerError,
    RequestTimedOutError,
    UnknownTopicOrPartitionError,
)
from .commands import Answer, Command, ControllerCall, Refusal
from .context import CONTROLLER, partition_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..transport.message_base import Body, Request
    from .actor import Home
    from .commands import Ref
    from .context import NodeContext
    from .quotas import Direction

DEFAULT_TIMEOUT_MS = 30_000.0
"""For requests that name no time-out of their own."""

_TOO_LATE = "it was not completed within the request's time-out; whether it took effect is unknown"


class CallOwner(Protocol):
    """What a call needs of the session that works on it."""

    context: NodeContext
    client_id: str

    @property
    def reactor(self) -> Home:
        """Where the other actors are found."""
        ...

    @property
    def actor_ref(self) -> Ref:
        """Where answers go."""
        ...

    def finish(self, call: Call, body: Body | None, data: list[bytes], error: BrokerError | None = None) -> None:
        """Close a call and send its reply: a body with data frames, an error, or nothing at all."""
        ...


class Call:
    """One request being worked on."""

    quota: Direction | None = None
    may_be_emptied = False
    """Whether the reply's data may be left out: the client asks for them again."""

    def __init__(self, session: CallOwner, request: Request, correlation_id: int, size: int) -> None:
        self.session = session
        self.api = request.API
        self.correlation_id = correlation_id
        self.size = size
        self.closed = False
        self.deadline_ms = session.context.clock.monotonic_ms() + self.timeout_ms(request)

    def timeout_ms(self, request: Request) -> float:
        """How long the client gives the broker."""
        return float(getattr(request, "timeout_ms", DEFAULT_TIMEOUT_MS))

    def start(self) -> None:
        """Send the first commands; the call may finish here already."""
        raise NotImplementedError

    def on_answer(self, answer: Answer) -> None:
        """Take the answer to one command."""
        raise NotImplementedError

    def on_refusal(self, refusal: Refusal) -> None:
        """Take the error that came instead of an answer: it fails the whole request, unless it has entries."""
        self.fail(refusal.error)

    def on_readable(self, index: int) -> None:
        """Take the news that a partition has more; only fetches ask for it."""
        del index

    def on_deadline(self) -> None:
        """Finish with what there is."""
        self.fail(RequestTimedOutError(_TOO_LATE))

    def drain(self) -> None:
        """Finish now if the call waits for something that may never come; the node stops."""

    def abandon(self) -> None:
        """Clean up after the session has closed; no reply can be sent any more."""

    def reply(self, body: Body, data: list[bytes] | None = None) -> None:
        """Finish with a reply."""
        self.session.finish(self, body, data or [])

    def fail(self, error: BrokerError) -> None:
        """Finish with an error for the whole request."""
        self.session.finish(self, None, [], error)


class GatherCall(Call):
    """A request with entries, each answered by one actor; the reply has one result for each entry, in order."""

    results: list[Any]
    remaining: int

    def expect(self, count: int) -> None:
        """Begin to wait for this many answers."""
        self.results = [None] * count
        self.remaining = count

    def on_answer(self, answer: Answer) -> None:
        """Put a result in its place; the last one completes the call."""
        assert self.results[answer.index] is None, f"entry {answer.index} of {self!r} is answered twice"
        self.results[answer.index] = answer.body
        self.remaining -= 1
        if self.remaining == 0:
            self.complete()

    def complete(self) -> None:
        """Reply with the results."""
        raise NotImplementedError


class PartitionsCall(GatherCall):
    """A gather over partitions: a command to the leader of each entry's partition, an error where none lives here."""

    entries: Sequence[Any]
    """The request's entries; each has a topic and a partition."""

    def address(self, entry: Any) -> str:
        """Where the command for one entry goes."""
        return partition_address(entry.topic, entry.partition)

    def command(self, entry: Any, index: int) -> Command:
        """Build the command for one entry, or raise a BrokerError that answers it."""
        raise NotImplementedError

    def error(self, entry: Any, error: BrokerError) -> Body:
        """Build the result of one entry that failed."""
        raise NotImplementedError

    def start(self) -> None:
        """Ask every leader."""
        self.expect(len(self.entries))
        if not self.entries:
            self.complete()
            return
        lookup = self.session.reactor.lookup
        for index, entry in enumerate(self.entries):
            leader = lookup(self.address(entry))
            if leader is None:
                error = not_here(self.session.context, entry.topic, entry.partition)
                self.on_answer(Answer(self, index, self.error(entry, error)))
                continue
            try:
                command = self.command(entry, index)
            except BrokerError as refused:
                self.on_answer(Answer(self, index, self.error(entry, refused)))
                continue
            leader.tell(command)

    def on_refusal(self, refusal: Refusal) -> None:
        """Take the error as the answer to its entry."""
        body = self.error(self.entries[refusal.index], refusal.error)
        self.on_answer(Answer(self, refusal.index, body))

    def on_deadline(self) -> None:
        """Say of the entries that were not answered that their time is up, and reply."""
        for index, entry in enumerate(self.entries):
            if self.results[index] is None:
                self.results[index] = self.error(entry, RequestTimedOutError(_TOO_LATE))
        self.complete()


class ControllerRequestCall(Call):
    """A request that the controller decides."""

    def __init__(self, session: CallOwner, request: Request, correlation_id: int, size: int) -> None:
        super().__init__(session, request, correlation_id, size)
        self._request = request

    def start(self) -> None:
        """Pass it on."""
        ask_controller(self.session, self, self._request)

    def on_answer(self, answer: Answer) -> None:
        """Reply with the controller's answer."""
        self.reply(answer.body)


def ask_controller(session: CallOwner, call: Call, request: Request) -> None:
    """Send a request to the controller of this node."""
    controller = session.reactor.lookup(CONTROLLER)
    assert controller is not None, "a node without a controller takes no clients"
    controller.tell(ControllerCall(session.actor_ref, call, 0, request))


def not_here(context: NodeContext, topic: str, partition: int) -> BrokerError:
    """Say why a partition has no leader on this node."""
    known = context.image.topics.get(topic)
    if known is None:
        message = f"there is no topic {topic[:249]!r}"
        return UnknownTopicOrPartitionError(message)
    count = len(known.partitions)
    if partition >= count:
        message = f"the topic {topic} has {count} partitions, 0 to {count - 1}, and no partition {partition}"
        return UnknownTopicOrPartitionError(message)
    leader = known.partitions[partition].leader
    if leader == -1:
        message = f"{topic}-{partition} has no leader: none of its replicas in sync is there"
        return LeaderNotAvailableError(message)
    if leader == context.config.node_id:
        message = f"the leader of {topic}-{partition} is starting again after a failure"
        return LeaderNotAvailableError(message)
    message = f"node {context.config.node_id} does not lead {topic}-{partition}; node {leader} does"
    return NotLeaderOrFollowerError(message)
