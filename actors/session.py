"""ClientSession: one connected client. It turns messages into requests, requests into calls on other actors, and
answers into replies; and it holds the client's credit, quota and idle time.

Back-pressure: a request holds its bytes until it is answered. A reply waits here until ZeroMQ has taken it; a client
that leaves more than its credit of them unread gets empty fetches, and never keeps the node from hearing the others.
A client that has more than its credit in open requests, or does not read its replies, or owes time to its quota, has
its further messages parked here, in order; they count towards the node's own limit, at which it stops hearing
(context.take).
"""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import (
    BrokerError,
    BrokerNotAvailableError,
    ClusterAuthorizationFailedError,
    ConcurrentTransactionsError,
    DuplicateBrokerRegistrationError,
    InconsistentClusterIdError,
    InvalidRequestError,
    UnknownServerError,
)
from ..transport.catalogue import REQUESTS
from ..transport.envelope import (
    MalformedEnvelopeError,
    decode_request,
    encode_error,
    encode_reply,
    readable_header,
    split_request,
)
from ..transport.message_base import Body, Request
from ..transport.messages import ApiRange, ApiVersionsReply, ApiVersionsRequest, CloseRequest
from ..transport.network import SendResult
from .actor import ReactorActor
from .commands import Answer, Drain, Frames, Readable, Refusal
from .context import PEERS, peer_address
from .open_calls import OpenCalls
from .peer_commands import NodeActive, NodeCalled, UnknownCaller
from .peer_requests import NODES_ONLY
from .requests import open_call
from .throttle import Throttle

if TYPE_CHECKING:
    from ..transport.message_base import Body, Request
    from ..transport.network import Listener, OnMessage
    from .calls import Call
    from .context import NodeContext
    from .timers import Timer

logger = logging.getLogger(__name__)

MAX_OPEN_CALLS = 1000
"""Requests of one client that are worked on at a time; more of them are parked."""

_RETRY_SEND_MS = 5.0
_PATIENCE_MS = 2_000.0
"""How long a request may wait for the node to become active."""


class ClientSession(ReactorActor):
    """One connection, known by its routing id."""

    def __init__(self, context: NodeContext, listener: Listener, routing_id: bytes, reopen: OnMessage) -> None:
        super().__init__()
        self._reopen = reopen
        self.context = context
        self.client_id = ""
        self._listener = listener
        self._routing_id = routing_id
        self._calls = OpenCalls(self.reactor, context.clock)
        self._throttle = Throttle(context)
        self._parked: deque[list[bytes]] = deque()
        self._beginning = False
        self._outbox: deque[list[bytes]] = deque()
        self._outbox_bytes = 0
        self._outbox_timer: Timer | None = None
        self._muted_until_ms = 0.0
        self._leaving = False
        self._over = False
        self._late: list[list[bytes]] = []
        """What was in the mailbox already when the session ended: it is for the next one."""
        self._is_node = False
        self._patience_timer: Timer | None = None
        self._idle_timer: Timer | None = None
        self._last_heard_ms = context.clock.monotonic_ms()

    def on_start(self) -> None:
        """Begin to watch for silence."""
        self._idle_timer = self.reactor.call_later(self.context.config.connections_max_idle_ms, self._check_idle)

    def on_receive(self, message: Any) -> None:
        """Handle a message of the client or an answer of another actor."""
        match message:
            case Answer():
                call: Call = message.call
                if not call.closed:
                    call.on_answer(message)
            case Frames():
                self._last_heard_ms = self.context.clock.monotonic_ms()
                self._hear(message.frames)
            case Readable():
                if not message.call.closed:
                    message.call.on_readable(message.index)
            case Refusal():
                if not message.call.closed:
                    message.call.on_refusal(message)
            case NodeActive():
                self._begin_parked()
            case Drain():
                self._calls.drain()
            case _:
                assert False, f"a session got {message!r}"  # noqa: B011, PT015 - nobody sends it anything else

    # ---- requests

    def _hear(self, frames: list[bytes]) -> None:
        if self._over:
            self._late.append(frames)
            return
        self._leaving = False
        size = sum(map(len, frames))
        self.context.open_requests += 1
        self.context.take(size)
        if (self._parked or not self._may_begin()) and not self._greets(frames):
            self._parked.append(frames)
            self.context.counters["requests-parked"] += 1
            if not self.context.active and self._patience_timer is None:
                self._patience_timer = self.reactor.call_later(_PATIENCE_MS, self._refuse_parked)
            return
        self._begin(frames, size)

    def _may_begin(self) -> bool:
        """Whether the client is within its credit, reads its replies, and owes its quota no time.

        A node that is about to start hears other nodes only.
        """
        return (
            (self.context.active or self._is_node)
            and self._calls.bytes < self.context.config.session_credit_bytes
            and len(self._calls) < MAX_OPEN_CALLS
            and not self._outbox
            and (self._muted_until_ms == 0.0 or self.context.clock.monotonic_ms() >= self._muted_until_ms)
        )

    def _begin_parked(self) -> None:
        """Begin what may begin. A request that is answered at once comes back here, and begins no other inside."""
        if self._beginning:
            return
        self._beginning = True
        try:
            while self._parked and self._may_begin():
                frames = self._parked.popleft()
                self._begin(frames, sum(map(len, frames)))
        finally:
            self._beginning = False

    def _greets(self, frames: list[bytes]) -> bool:
        """Whether a node that is about to start hears who is calling."""
        return not self.context.active and bool(frames) and readable_header(frames[0])[0] == ApiVersionsRequest.API

    def _refuse_parked(self) -> None:
        """The node is not active yet, and may not be for long: say so, instead of nothing."""
        self._patience_timer = None
        if self.context.active:
            return
        while self._parked:  # none are left at once if a reply finds the connection gone
            frames = self._parked.popleft()
            api, correlation_id = readable_header(frames[0] if frames else b"")
            if api == CloseRequest.API:
                self._begin(frames, sum(map(len, frames)))
            else:
                error = BrokerNotAvailableError(_why_not_active(self.context))
                self.context.counters["requests-refused"] += 1
                self._refuse(api, correlation_id, sum(map(len, frames)), error)
        if self._leaving:
            self._leave_if_done()

    def _begin(self, frames: list[bytes], size: int) -> None:
        counters = self.context.counters
        counters["requests"] += 1
        try:
            raw = split_request(frames[0] if frames else b"")
        except BrokerError as error:
            counters["requests-malformed"] += 1
            if isinstance(error, MalformedEnvelopeError):
                api, correlation_id = error.api, error.correlation_id
            else:
                api, correlation_id = readable_header(frames[0])
            self._refuse(api, correlation_id, size, error)
            return
        try:
            request = decode_request(raw)
            if len(frames) > 1 and not request.BATCHES:
                message = f"{type(request).__name__} comes alone, and {len(frames) - 1} frames follow it"
                raise InvalidRequestError(message)
            self._dispatch(request, raw.correlation_id, size, frames)
        except BrokerError as error:
            counters["requests-refused"] += 1
            self._refuse(raw.api, raw.correlation_id, size, error)

    def _dispatch(self, request: Request, correlation_id: int, size: int, frames: list[bytes]) -> None:
        if isinstance(request, ApiVersionsRequest):
            envelope = encode_reply(request.API, correlation_id, self._welcome(request))
            self._finish_request(size)
            self._send([envelope])
        elif isinstance(request, CloseRequest):
            self._finish_request(size)
            self._leaving = True
            self._calls.drain()
            self._leave_if_done()
        elif type(request) in NODES_ONLY and not self._is_node:
            message = f"{type(request).__name__} is for nodes, and this client has not said that it is one"
            raise ClusterAuthorizationFailedError(message)
        else:
            self._calls.start(open_call(self, request, correlation_id, size, frames))

    def _welcome(self, request: ApiVersionsRequest) -> ApiVersionsReply:
        cluster_id = self.context.cluster_id
        if request.cluster_id is not None and request.cluster_id != cluster_id:
            message = f"this is a node of cluster {cluster_id}, and the client means cluster {request.cluster_id}"
            raise InconsistentClusterIdError(message)
        if request.node_id == self.context.config.node_id:
            message = (
                f"node {request.node_id} is called by another process with the same node id: change one of the two"
            )
            raise DuplicateBrokerRegistrationError(message)
        self.client_id = request.client_id
        self._is_node = request.node_id >= 0 and request.cluster_id is not None
        if self._is_node and request.host and request.port:
            where = request.host, request.port
            if not self.reactor.tell(peer_address(request.node_id), NodeCalled(*where)):
                self.reactor.tell(PEERS, UnknownCaller(request.node_id, *where))
        self._throttle.rename(request.client_id)
        return ApiVersionsReply(
            cluster_id=cluster_id,
            node_id=self.context.config.node_id,
            apis=[ApiRange(api, cls.MIN_VERSION, cls.MAX_VERSION) for api, cls in sorted(REQUESTS.items())],
            credit_bytes=self.context.config.session_credit_bytes,
            max_request_bytes=self.context.config.socket_request_max_bytes,
            software="zmqbroker",
        )

    def _refuse(self, api: int, correlation_id: int, size: int, error: BrokerError) -> None:
        # What a client meets in passing, and asks again a moment later, is nobody's news.
        level = logging.DEBUG if isinstance(error, ConcurrentTransactionsError) else logging.INFO
        logger.log(level, "%s of %s: %s", error.name, self, error.message)
        self._finish_request(size)
        self._send([encode_error(api, correlation_id, error)])

    # ---- replies

    def finish(self, call: Call, body: Body | None, data: list[bytes], error: BrokerError | None = None) -> None:
        """Close a call and send its reply: a body with data frames, an error, or nothing at all."""
        self._calls.end(call)
        if error is not None:
            self.context.counters["requests-refused"] += 1
            self._refuse(call.api, call.correlation_id, call.size, error)
        elif body is not None:
            if call.may_be_emptied and self._outbox_bytes > self.context.config.session_credit_bytes:
                data = [b""] * len(data)  # who reads slowly gets no more to read: an empty fetch is asked again
            envelope = encode_reply(call.api, call.correlation_id, body, self._mute(call, data))
            self._finish_request(call.size)
            self._send([envelope, *data])
        else:
            self._finish_request(call.size)
        if self._parked:
            self._begin_parked()
        if self._leaving:
            self._leave_if_done()

    def _finish_request(self, size: int) -> None:
        self.context.open_requests -= 1
        self.context.give_back(size)

    def _mute(self, call: Call, data: list[bytes]) -> int:
        """Charge what the call moved to the client's quota; ms for which the client is not heard."""
        wait_ms = self._throttle.charge(call, sum(map(len, data))) if call.quota is not None else 0
        if wait_ms > 0:
            until_ms = self.context.clock.monotonic_ms() + wait_ms
            self._muted_until_ms = max(self._muted_until_ms, until_ms)  # another call may have set a later one
            self.reactor.call_later(wait_ms, self._begin_parked)
        return wait_ms

    def _send(self, frames: list[bytes]) -> None:
        if self._outbox:
            self._put_aside(frames)
            return
        result = self._listener.send(self._routing_id, frames)
        if result is SendResult.FULL:
            self._put_aside(frames)
        elif result is SendResult.GONE:
            self._close("the connection is gone")

    def _put_aside(self, frames: list[bytes]) -> None:
        """Keep a reply that ZeroMQ has no room for, because the client reads slowly."""
        self._outbox.append(frames)
        self._count_unsent(sum(map(len, frames)))
        self.context.counters["replies-put-aside"] += 1
        if self._outbox_timer is None:
            self._outbox_timer = self.reactor.call_later(_RETRY_SEND_MS, self._send_outbox)

    def _count_unsent(self, size: int) -> None:
        self._outbox_bytes += size
        self.context.unsent_bytes += size

    def _send_outbox(self) -> None:
        self._outbox_timer = None
        while self._outbox and not self.actor_stopped.is_set():
            frames = self._outbox[0]
            result = self._listener.send(self._routing_id, frames)
            if result is SendResult.FULL:
                self._outbox_timer = self.reactor.call_later(_RETRY_SEND_MS, self._send_outbox)
                return
            if result is SendResult.GONE:
                self._close("the connection is gone")
                return
            self._outbox.popleft()
            self._count_unsent(-sum(map(len, frames)))
        self._begin_parked()

    # ---- time

    def _check_idle(self) -> None:
        if self.actor_stopped.is_set():
            return
        idle_ms = self.context.clock.monotonic_ms() - self._last_heard_ms
        left_ms = self.context.config.connections_max_idle_ms - idle_ms
        if left_ms <= 0 and not self._calls and not self._parked and not self._outbox:
            self._close(f"nothing was heard for {idle_ms / 1000:.0f} s")
        else:
            self._idle_timer = self.reactor.call_later(max(left_ms, 1000.0), self._check_idle)

    # ---- the end

    def _leave_if_done(self) -> None:
        """End after a goodbye, once everything that was asked before it is answered."""
        if self._leaving and not (self._calls or self._parked or self._outbox):
            self._close("the client said goodbye")

    def _close(self, why: str) -> None:
        if self._over:
            return
        self._over = True
        logger.debug("%s ends: %s", self, why)
        self.context.counters["sessions-closed"] += 1
        self.stop()
        self._let_go()

    def on_stop(self) -> None:
        """Give back all that is held; what came in after the session had begun to close is for the next one."""
        self._let_go()
        told = [message.frames for message in self.actor_inbox.take_told() if isinstance(message, Frames)]
        for frames in [*self._late, *told]:
            self.reactor.call_soon(partial(self._reopen, self._routing_id, frames))

    def on_crash(self, error: BaseException | None) -> None:
        """Answer what was open, so that no client waits for a session that broke."""
        answer = UnknownServerError(f"the session failed while it worked on this request: {error!r}")
        for call in self._calls:
            self._listener.send(self._routing_id, [encode_error(call.api, call.correlation_id, answer)])
        for frames in self._parked:
            self._listener.send(self._routing_id, [encode_error(*readable_header(frames[0]), answer)])
        self._let_go()

    def _let_go(self) -> None:
        for timer in (self._outbox_timer, self._idle_timer, self._patience_timer):
            if timer is not None:
                timer.cancel()
        self._outbox_timer = self._idle_timer = self._patience_timer = None
        for call in self._calls.abandon():
            self._finish_request(call.size)
        for frames in self._parked:
            self._finish_request(sum(map(len, frames)))
        self._parked.clear()
        self._outbox.clear()
        self._count_unsent(-self._outbox_bytes)
        self._throttle.forget()


def _why_not_active(context: NodeContext) -> str:
    """Say what a node that has started is waiting for."""
    voters = sorted(node_id for node_id, _ in context.image.voters)
    if context.controller_id == -1:
        among = f" of the voters {voters}" if voters else ""
        why = f"it knows of no controller; a majority{among} has to reach one another for that"
    elif context.node_epoch == -1:
        why = f"it is not registered with the controller, node {context.controller_id}, yet"
    else:
        why = "it is registered, and has yet to open its partitions and to catch up with the metadata"
    return f"node {context.config.node_id} does not serve clients yet: {why}"
