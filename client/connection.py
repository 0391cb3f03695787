"""One connection to one broker: handshake, requests in flight, credit, throttling, time-outs and back-off.

    IDLE --submit--> CONNECTING --handshake--> GREETING --ApiVersions--> READY
      ^                  |                        |                        |
      |                  `---------- failure -----+------------------------'
      `-- back-off over and nothing to send -- WAITING (back-off)

A failure fails every request that was under way or queued, at once: whether to try again is for the callers to say.
A request that is submitted during the back-off waits for the next attempt. All methods are called under the client's
lock.
"""

from __future__ import annotations

import random
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..errors import (
    BrokerError,
    InconsistentClusterIdError,
    MessageTooLargeError,
    NetworkError,
    RequestTimedOutError,
    ZmqBrokerError,
    error_for,
)
from ..transport.dealer import Dealer, DealerError, DealerLimits, DealerState, shared_context
from ..transport.envelope import convert_body, encode_request, split_reply
from ..transport.message_base import Body, Request
from ..transport.messages import ApiVersionsReply, ApiVersionsRequest, CloseRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .options import CommonOptions

_random = random.Random()  # noqa: S311 - no secret; its own, so that a program's seed is left alone

SOFTWARE = "zmqbroker-python"
FOREVER = float("inf")
_GOODBYE_LINGER_MS = 250
_UNLIMITED = 2**62
_CALL_BYTES = 64
"""What a request counts beside its batches."""
_CHECK_S = 0.0005
"""How often the monitor of a connection that stands is looked at, in passes that come thick and fast."""


class NoAnswerError(RequestTimedOutError):
    """The client's own time-out. A broker's has the same code, and says what was missing; this one cannot."""


class Answer(NamedTuple):
    """A broker's reply to one request, and the batches that came with it."""

    body: Body
    batches: list[bytes]


class Call:
    """A request on its way; `done` hears of its end exactly once, under the client's lock."""

    __slots__ = ("awaits_reply", "batches", "deadline", "done", "request", "size")

    def __init__(
        self,
        request: Request,
        done: Callable[[Answer | ZmqBrokerError], None],
        deadline: float,
        batches: Sequence[bytes] = (),
        *,
        awaits_reply: bool = True,
    ) -> None:
        self.request = request
        self.done = done
        self.deadline = deadline
        self.batches = batches
        self.awaits_reply = awaits_reply
        self.size = _CALL_BYTES + sum(map(len, batches))


class State(Enum):
    """How far a connection is."""

    IDLE = "idle"
    CONNECTING = "connecting"
    GREETING = "greeting"
    READY = "ready"
    WAITING = "waiting"


class ConnectionOwner(Protocol):
    """What a connection needs of the client that it belongs to."""

    options: CommonOptions
    cluster_id: str | None
    """The cluster that the client is bound to; a connection's first greeting finds it out."""
    submitted: bool
    """Set by connections: a request was submitted since the sockets were last read."""

    def now(self) -> float:
        """The time, on the clock of all deadlines."""
        ...

    def watch_fds(self, fds: tuple[int, int]) -> None:
        """Poll a dealer's descriptors from now on."""
        ...

    def forget_fds(self, fds: tuple[int, int]) -> None:
        """Poll them no more."""
        ...

    def connection_failed(self, connection: Connection) -> None:
        """Hear that a connection broke."""
        ...


class Connection:
    """The connection to one address; it makes itself anew as long as somebody submits requests."""

    def __init__(self, io: ConnectionOwner, address: str) -> None:
        self.address = address
        self.state = State.IDLE
        self.node_id = -1
        self.last_error: ZmqBrokerError | None = None
        self.throttle_time_ms = 0
        """What the broker said last."""
        self._io = io
        self._dealer: Dealer | None = None
        self._queue: deque[Call] = deque()
        self._pending: dict[int, Call] = {}
        self._pending_bytes = 0
        self._next_id = 0
        self._credit_bytes = _UNLIMITED
        self._max_request_bytes = _UNLIMITED
        self._failures = 0
        self._deadline = FOREVER
        """When the present state has lasted too long: connecting, greeting and waiting end then."""
        self._throttled_until = 0.0
        self._next_check = 0.0
        self._earliest = FOREVER
        """No call expires before this moment: most passes need not look at each of them."""

    @property
    def in_flight(self) -> int:
        """Requests that await their answers."""
        return len(self._pending)

    @property
    def is_usable(self) -> bool:
        """Whether the broker answers; a connection in its back-off does not count."""
        return self.state is State.READY

    @property
    def is_backing_off(self) -> bool:
        """Whether the last attempt failed and the next is not yet due."""
        return self.state is State.WAITING

    @property
    def next_attempt(self) -> float:
        """When a connection in its back-off may be tried again."""
        return self._deadline if self.state is State.WAITING else 0.0

    @property
    def is_called(self) -> bool:
        """Whether a request waits for the connection to stand: what the broker takes is not yet known."""
        return self.state is not State.READY and bool(self._queue)

    @property
    def most_at_once(self) -> int:
        """The bytes of batches up to which it is wise to put several into one request."""
        if self.state is not State.READY:
            return 0
        return min(self._max_request_bytes, self._credit_bytes) - _CALL_BYTES

    def submit(self, call: Call, now: float) -> None:
        """Send a request as soon as the connection, the broker's credit and its throttling allow it."""
        self._queue.append(call)
        self._io.submitted = True
        self._earliest = min(self._earliest, call.deadline)
        if self.state is State.IDLE:
            self._connect(now)
        elif self.state is State.READY:
            self._flush(now)

    def pump(self, now: float) -> int:
        """Hear, send and expire what is due; returns how many messages came."""
        dealer = self._dealer
        received = 0
        if dealer is not None:
            if self.state is not State.READY or now >= self._next_check:
                self._next_check = now + _CHECK_S
                self._check(dealer, now)
            received = self._receive(now)
            if self._queue and self.state is State.READY:
                self._flush(now)
                received += self._receive(now)
        if now >= self._deadline:
            self._state_expired(now)
        if now >= self._earliest:
            self._expire(now)
        return received

    def next_deadline(self) -> float:
        """When `pump` must be called though nothing came."""
        deadline = min(self._deadline, self._earliest)
        if self._queue and self.state is State.READY and self._throttled_until:
            deadline = min(deadline, self._throttled_until)
        return deadline

    def close(self) -> None:
        """Say goodbye; whatever is still under way fails."""
        dealer, self._dealer = self._dealer, None
        if dealer is not None:
            self._io.forget_fds(dealer.fds)
            if self.state is State.READY:
                dealer.send([encode_request(CloseRequest(), self._take_id())])
            dealer.close(_GOODBYE_LINGER_MS if self.state is State.READY else 0)
        self._drop_calls(NetworkError(f"the connection to {self.address} was closed by this client"))
        self.state = State.IDLE
        self._deadline = FOREVER

    # ---- connecting

    def _connect(self, now: float) -> None:
        options = self._io.options
        self._deadline = now + options.connect_timeout_ms / 1000
        try:
            self._dealer = Dealer(shared_context(), self.address, DealerLimits())
        except DealerError as error:
            self._fail(NetworkError(str(error)), now)
            return
        self.state = State.CONNECTING
        self._io.watch_fds(self._dealer.fds)

    def _check(self, dealer: Dealer, now: float) -> None:
        state = dealer.check()
        if state is DealerState.BROKEN:
            while self._receive(now):
                pass  # answers that arrived before the end are answers
            if self._dealer is dealer:
                self._fail(NetworkError(f"{self.address}: {dealer.reason}"), now)
        elif state is DealerState.CONNECTED and self.state is State.CONNECTING:
            self._greet(dealer)

    def _greet(self, dealer: Dealer) -> None:
        self.state = State.GREETING
        greeting = ApiVersionsRequest(self._io.options.name[:1024], SOFTWARE, self._io.cluster_id)
        call = Call(greeting, self._greeted, FOREVER)  # the state's own deadline holds it
        self._transmit(dealer, call, encode_request(greeting, self._take_id(), greeting.MIN_VERSION))

    def _greeted(self, outcome: Answer | ZmqBrokerError) -> None:
        if isinstance(outcome, ZmqBrokerError):
            if self._dealer is not None:
                self._fail(outcome, self._io.now())
            return
        reply = outcome.body
        assert isinstance(reply, ApiVersionsReply)
        self.node_id = reply.node_id
        self._credit_bytes = max(1, reply.credit_bytes)
        self._max_request_bytes = max(1, reply.max_request_bytes)
        self._io.cluster_id = reply.cluster_id or None
        self._failures = 0
        self._deadline = FOREVER
        self._throttled_until = 0.0
        self.last_error = None
        self.state = State.READY

    def _state_expired(self, now: float) -> None:
        if self.state is State.WAITING:
            self.state = State.IDLE
            self._deadline = FOREVER
            if self._queue:
                self._connect(now)
        elif self._dealer is not None:
            what = "no connection" if self.state is State.CONNECTING else "no answer to the greeting"
            waited = self._io.options.connect_timeout_ms
            self._fail(NetworkError(f"{self.address}: {what} within connect_timeout_ms={waited}"), now)

    def _fail(self, error: ZmqBrokerError, now: float) -> None:
        dealer, self._dealer = self._dealer, None
        if dealer is not None:
            self._io.forget_fds(dealer.fds)
            dealer.close()
        options = self._io.options
        wait_ms = min(options.reconnect_backoff_ms * 2.0**self._failures, options.reconnect_backoff_max_ms)
        self._failures = min(self._failures + 1, 30)
        self._deadline = now + wait_ms / 1000 * _random.uniform(0.8, 1.2)
        self.state = State.WAITING
        self.last_error = error
        self._io.connection_failed(self)
        self._drop_calls(error)

    def _drop_calls(self, error: ZmqBrokerError) -> None:
        calls = [*self._pending.values(), *self._queue]
        self._pending.clear()
        self._queue.clear()
        self._pending_bytes = 0
        self._earliest = FOREVER
        for call in calls:
            call.done(error)

    # ---- requests

    def _take_id(self) -> int:
        self._next_id = (self._next_id + 1) & 0x7FFFFFFF
        return self._next_id

    def _flush(self, now: float) -> None:
        dealer = self._dealer
        assert dealer is not None
        if self._throttled_until > now:
            return
        self._throttled_until = 0.0
        queue = self._queue
        while queue:
            call = queue[0]
            if call.size > self._max_request_bytes:
                queue.popleft()
                message = f"the request is {call.size} bytes long and the broker takes {self._max_request_bytes}"
                call.done(MessageTooLargeError(f"{message} (its socket_request_max_bytes); send less at once"))
                continue
            if self._pending and self._pending_bytes + call.size > self._credit_bytes:
                return  # an answer gives credit back and comes by here again
            envelope = encode_request(call.request, self._take_id())
            if not self._transmit(dealer, call, envelope):
                # The queue of ZeroMQ is full, or the connection gone: the monitor says so if it is.
                self._earliest = min(self._earliest, now + 0.01)
                return
            queue.popleft()
            if not call.awaits_reply:
                call.done(Answer(Body(), []))

    def _transmit(self, dealer: Dealer, call: Call, envelope: bytes) -> bool:
        if not dealer.send([envelope, *call.batches]):
            return False
        if call.awaits_reply:
            self._pending[self._next_id] = call
            self._pending_bytes += call.size
        return True

    def _receive(self, now: float) -> int:
        count = 0
        while (dealer := self._dealer) is not None:
            frames = dealer.receive()
            if frames is None:
                break
            count += 1
            self._on_reply(frames, now)
        return count

    def _on_reply(self, frames: list[bytes], now: float) -> None:
        try:
            raw = split_reply(frames[0])
        except BrokerError as error:
            self._fail(NetworkError(f"{self.address} sent what is no reply: {error.message}"), now)
            return
        call = self._pending.pop(raw.correlation_id, None)
        if raw.throttle_time_ms > 0:
            self._throttle(raw.throttle_time_ms, now)
        if call is None:
            if raw.correlation_id < 0 and raw.error_code:
                # The broker could not even read our header: nothing that we sent can be trusted to be answered.
                self._fail(error_for(raw.error_code, raw.error_message), now)
            return
        self._pending_bytes -= call.size
        outcome: Answer | ZmqBrokerError
        if raw.error_code:
            outcome = error_for(raw.error_code, raw.error_message)
        else:
            try:
                outcome = Answer(convert_body(raw.body, call.request.REPLY), frames[1:])
            except BrokerError as error:
                outcome = error
        call.done(outcome)

    def _throttle(self, throttle_time_ms: int, now: float) -> None:
        self.throttle_time_ms = throttle_time_ms
        pause = throttle_time_ms / 1000
        self._throttled_until = max(self._throttled_until, now + pause)
        for call in self._queue:
            call.deadline += pause  # the wait is the broker's wish, not its failure

    def _expire(self, now: float) -> None:
        expired = [call for call in self._pending.values() if call.deadline <= now]
        if expired:
            # Late answers and lost credit cannot be told apart from a hung broker: begin anew.
            waited = self._io.options.request_timeout_ms
            name = type(expired[0].request).__name__
            self._fail(
                NoAnswerError(f"{self.address} did not answer {name} in time (request_timeout_ms={waited})"), now
            )
            return
        for call in [call for call in self._queue if call.deadline <= now]:
            self._queue.remove(call)
            call.done(self._queue_timeout(call))
        calls = [*self._pending.values(), *self._queue]
        self._earliest = min((call.deadline for call in calls), default=FOREVER)

    def _queue_timeout(self, call: Call) -> ZmqBrokerError:
        if isinstance(self.last_error, InconsistentClusterIdError):
            return self.last_error
        name = type(call.request).__name__
        if self.last_error is not None:
            return NetworkError(f"{self.last_error.message}; gave up on {name}")
        return NoAnswerError(f"{name} could not be sent to {self.address} in time")
