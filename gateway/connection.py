"""KafkaConnection: one Kafka client. Its requests are worked on side by side, and answered in the order they came.

It turns each request into native ones, which the very calls of native clients serve (actors/calls.py): quotas and
deadlines are theirs too. A client whose requests cannot be read is disconnected, as Kafka does it, after a line in the
log that says why.

Back-pressure: requests wait here, in order, while the client has more than its credit in requests and responses, or
owes time to its quota; meanwhile its socket is not read, so that TCP slows it down. What waits counts towards the limit
of the node, at which it hears nobody (context.take).
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from ..actors.actor import ReactorActor
from ..actors.commands import Answer, Drain, Message, Readable, Refusal, tell_back
from ..actors.open_calls import OpenCalls
from ..actors.requests import open_call
from ..actors.throttle import Throttle
from ..errors import BrokerError, InvalidRequestError, UnknownServerError
from ..transport.envelope import checked
from .decoding import Cursor
from .exchange import Exchange, Outcome
from .fetch_session import FetchSession
from .handlers import HANDLERS
from .protocol import API_VERSIONS, APIS, RequestHeader, UnknownApiError, codec, read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Buffer

    from ..actors.calls import Call
    from ..actors.commands import Ref
    from ..actors.context import NodeContext
    from ..actors.timers import Timer
    from ..transport.message_base import Body, Request
    from ..transport.tcp import Frame, TcpConnection

logger = logging.getLogger(__name__)

MAX_OPEN_EXCHANGES = 1000
"""Requests of one client that are worked on at a time; more of them wait, and no further ones are read."""
_BEGUN_A_TURN = 64
"""Requests that are begun before others get their turn."""


class KafkaFrames(Message):
    """Requests, as they came off the wire."""

    frames: list[Any]


class Closed(Message):
    """The connection is over."""

    why: str


class Drained(Message):
    """All responses have left."""


class GoOn(Message):
    """There are requests that have come, and were left for another turn."""


class KafkaConnection(ReactorActor):
    """One connection, known by its peer's address."""

    def __init__(self, context: NodeContext, wire: TcpConnection) -> None:
        super().__init__()
        self.context = context
        self.client_id = ""
        self.fetch_session = FetchSession(1 + context.random.getrandbits(30))
        self._wire = wire
        self._calls = OpenCalls(self.reactor, context.clock)
        self._throttle = Throttle(context)
        self._unread: deque[Frame] = deque()
        """Requests that have come and are not begun."""
        self._going_on = False
        self._exchanges: deque[Exchange] = deque()
        self._open_bytes = 0
        """What the requests hold that are begun and not answered."""
        self._ready_bytes = 0
        """What responses hold that wait for one before them."""
        self._unsent_counted = 0
        self._thens: dict[Call, tuple[Exchange, Callable[[Outcome], object]]] = {}
        self._muted_until_ms = 0.0
        self._over = False
        self._idle_timer: Timer | None = None
        self._last_heard_ms = context.clock.monotonic_ms()

    def on_start(self) -> None:
        """Begin to watch for silence."""
        self._idle_timer = self.reactor.call_later(self.context.config.connections_max_idle_ms, self._check_idle)

    def on_receive(self, message: Any) -> None:
        """Handle requests of the client, or an answer of another actor."""
        match message:
            case Answer() | Refusal() | Readable():
                if not message.call.closed:
                    _tell(message.call, message)
            case KafkaFrames():
                self._last_heard_ms = self.context.clock.monotonic_ms()
                self._hear(message.frames)
            case GoOn():
                self._going_on = False
                self._begin_unread()
            case Drain():
                self._calls.drain()
            case Drained():
                self._count_unsent()
                self._begin_unread()
            case Closed():
                while self._unread and self._may_begin() and not self._over:
                    self._begin(self._unread.popleft())  # what had come before the end is carried out
                self._close(message.why)
            case _:
                assert False, f"a Kafka connection got {message!r}"  # noqa: B011, PT015 - nobody sends it anything else

    # ---- requests

    def _hear(self, frames: list[Frame]) -> None:
        if self._over:
            return
        self.context.open_requests += len(frames)
        self.context.take(sum(map(len, frames)))
        self._unread.extend(frames)
        self._begin_unread()

    def _may_begin(self) -> bool:
        """Whether the client is within its credit, reads its responses, and owes its quota no time."""
        return (
            len(self._exchanges) < MAX_OPEN_EXCHANGES
            and self._open_bytes < self.context.config.session_credit_bytes
            and self._ready_bytes + self._wire.unsent_bytes < self.context.config.session_credit_bytes
            and (self._muted_until_ms == 0.0 or self.context.clock.monotonic_ms() >= self._muted_until_ms)
        )

    def _begin_unread(self) -> None:
        """Begin some of the requests that wait, so far as that is allowed; the others later, or in another turn."""
        for _ in range(_BEGUN_A_TURN):
            if not (self._unread and self._may_begin()) or self._over:
                break
            self._begin(self._unread.popleft())
        if self._over:
            return
        if self._may_begin():
            self._go_on_later()
        if self._unread:
            self._wire.pause()
        else:
            self._wire.resume()

    def _go_on_later(self) -> None:
        """Begin requests that wait in another turn."""
        if self._unread and not self._going_on:
            self._going_on = True
            tell_back(self.actor_ref, GoOn())

    def _begin(self, frame: Frame) -> None:
        self.context.counters["kafka-requests"] += 1
        try:
            header = read_header(frame)
            request = codec(header.api.key, header.version).read(Cursor(frame, header.body_at))
        except UnknownApiError as error:
            if error.key != API_VERSIONS:
                self._put_back(len(frame))
                self.disconnect(error)
                return
            # The answer to a version that is not known is one that every client can read (KIP-35, KIP-511).
            header = RequestHeader(APIS[API_VERSIONS], 0, error.correlation_id, None, 0)
            request = codec(API_VERSIONS, 0).read(Cursor(b""))
        except InvalidRequestError as error:
            self._put_back(len(frame))
            self.disconnect(error)
            return
        if header.client_id is not None and header.client_id != self.client_id:
            self.client_id = header.client_id
            self._throttle.rename(header.client_id)
        exchange = Exchange(self, header, request, len(frame))
        self._exchanges.append(exchange)
        self._open_bytes += exchange.size
        try:
            HANDLERS[header.api.key](exchange)
        except BrokerError as error:  # the request contradicts itself, where its response has no place to say so
            self.disconnect(error)

    def _put_back(self, size: int) -> None:
        """A request holds nothing any more."""
        self.context.open_requests -= 1
        self.context.give_back(size)

    def disconnect(self, error: BrokerError) -> None:
        """End the connection for what the client has sent, and log why."""
        self.context.counters["kafka-requests-refused"] += 1
        logger.warning("closed the Kafka connection from %s: %s", self._wire.peer, error.message)
        self._close(error.message)

    # ---- native calls

    def ask(
        self, exchange: Exchange, request: Request, then: Callable[[Outcome], object], frames: Sequence[bytes] = ()
    ) -> None:
        """Make a native request for an exchange."""
        try:
            call = open_call(self, checked(request), 0, exchange.size if frames else 0, [b"", *frames])
        except BrokerError as error:
            then(Outcome(None, [], error))
            return
        self._thens[call] = (exchange, then)
        self._calls.start(call)

    def finish(self, call: Call, body: Body | None, data: list[bytes], error: BrokerError | None = None) -> None:
        """Take what came of a native request: a body with data, an error, or nothing at all."""
        self._calls.end(call)
        exchange, then = self._thens.pop(call)
        credit = self.context.config.session_credit_bytes
        if call.may_be_emptied and self._ready_bytes + self._wire.unsent_bytes > credit:
            data = [b""] * len(data)  # who reads slowly gets no more to read: an empty fetch is asked again
        if body is not None and call.quota is not None:
            self._charge(exchange, call, data)
        then(Outcome(body, data, error))

    def _charge(self, exchange: Exchange, call: Call, data: list[bytes]) -> None:
        wait_ms = self._throttle.charge(call, sum(map(len, data)))
        if wait_ms > exchange.throttle_ms:
            exchange.throttle_ms = wait_ms
            until_ms = self.context.clock.monotonic_ms() + wait_ms
            self._muted_until_ms = max(self._muted_until_ms, until_ms)  # another request may have set a later one
            self.reactor.call_later(wait_ms, self._begin_unread)

    # ---- responses

    def answered(self, exchange: Exchange) -> None:
        """Send what is answered up to the first request that is not."""
        if self._over:
            return
        self._ready_bytes += exchange.response_bytes
        exchanges = self._exchanges
        buffers: list[Buffer] = []
        while exchanges and exchanges[0].done:
            first = exchanges.popleft()
            buffers += first.buffers
            self._ready_bytes -= first.response_bytes
            self._open_bytes -= first.size
            self._put_back(first.size)
        if buffers:
            self._wire.send(buffers)
        self._count_unsent()
        self._go_on_later()

    def _count_unsent(self) -> None:
        """Put what this client leaves unread into the node's account."""
        unsent = 0 if self._over else self._ready_bytes + self._wire.unsent_bytes
        self.context.unsent_bytes += unsent - self._unsent_counted
        self._unsent_counted = unsent

    # ---- the end

    def _check_idle(self) -> None:
        if self._over:
            return
        idle_ms = self.context.clock.monotonic_ms() - self._last_heard_ms
        left_ms = self.context.config.connections_max_idle_ms - idle_ms
        if left_ms <= 0 and not (self._exchanges or self._unread):
            self._close(f"nothing was heard for {idle_ms / 1000:.0f} s")
        else:
            self._idle_timer = self.reactor.call_later(max(left_ms, 1000.0), self._check_idle)

    def _close(self, why: str) -> None:
        if self._over:
            return
        logger.debug("the Kafka connection from %s ends: %s", self._wire.peer, why)
        self._let_go(why)
        self.stop()

    def on_stop(self) -> None:
        """Give back all that is held."""
        self._let_go("the node stops")

    def on_crash(self, error: BaseException | None) -> None:
        """Disconnect: the client asks again."""
        failure = UnknownServerError(f"the connection failed while it worked on a request: {error!r}")
        self._let_go(failure.message)

    def _let_go(self, why: str) -> None:
        if self._over:
            return
        self._over = True
        self.context.counters["kafka-connections-closed"] += 1
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        self._calls.abandon()
        self._thens.clear()
        for exchange in self._exchanges:
            self._put_back(exchange.size)
        for frame in self._unread:
            self._put_back(len(frame))
        self._exchanges.clear()
        self._unread.clear()
        self._count_unsent()
        self._throttle.forget()
        self._wire.close(why)


def _tell(call: Call, message: Answer | Refusal | Readable) -> None:
    """Tell a call what another actor has said of it."""
    if isinstance(message, Answer):
        call.on_answer(message)
    elif isinstance(message, Refusal):
        call.on_refusal(message)
    else:
        call.on_readable(message.index)


class Wire:
    """What hears a connection's socket, and brings it to the connection's actor."""

    def __init__(self, actor: Ref) -> None:
        self._actor = actor

    def on_frames(self, frames: list[Frame]) -> None:
        """Requests have come."""
        tell_back(self._actor, KafkaFrames(frames))

    def on_drained(self) -> None:
        """All responses have left."""
        tell_back(self._actor, Drained())

    def on_closed(self, why: str) -> None:
        """The connection is over."""
        tell_back(self._actor, Closed(why))
