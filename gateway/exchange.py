"""Exchange: one request of a Kafka client, from its decoding to the response, and the native calls made for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .protocol import begin_response, codec, end_response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from typing_extensions import Buffer

    from ..actors.context import NodeContext
    from ..errors import BrokerError
    from ..transport.message_base import Request
    from .decoding import Message
    from .fetch_session import FetchSession
    from .protocol import RequestHeader


class Outcome(NamedTuple):
    """What came of a native request: a body with data frames, or an error."""

    body: Any
    data: list[bytes]
    error: BrokerError | None


class Connection(Protocol):
    """What an exchange needs of the connection that it is one of."""

    context: NodeContext
    fetch_session: FetchSession

    def ask(
        self, exchange: Exchange, request: Request, then: Callable[[Outcome], object], frames: Sequence[bytes] = ()
    ) -> None:
        """Make a native request for an exchange."""
        ...

    def answered(self, exchange: Exchange) -> None:
        """Send what is answered up to the first request that is not."""
        ...

    def disconnect(self, error: BrokerError) -> None:
        """End the connection for what the client has sent, and log why."""
        ...


class Exchange:
    """One request. Its response leaves in the order of the requests, once it is there."""

    __slots__ = ("buffers", "connection", "done", "header", "request", "response_bytes", "size", "throttle_ms")

    def __init__(self, connection: Connection, header: RequestHeader, request: Message, size: int) -> None:
        self.connection = connection
        self.header = header
        self.request = request
        self.size = size
        self.throttle_ms = 0
        self.done = False
        self.buffers: Sequence[Buffer] = ()
        """The response."""
        self.response_bytes = 0

    @property
    def version(self) -> int:
        """Of the API."""
        return self.header.version

    @property
    def context(self) -> NodeContext:
        """Of the node."""
        return self.connection.context

    def ask(self, request: Request, then: Callable[[Outcome], object], frames: Sequence[bytes] = ()) -> None:
        """Make a native request, by the very code that serves native clients, and go on with what comes of it."""
        self.connection.ask(self, request, then, frames)

    def ask_all(self, requests: Sequence[Request], then: Callable[[list[Outcome]], object]) -> None:
        """Make several native requests at once, and go on when all are answered."""
        if not requests:
            then([])
            return
        outcomes: dict[int, Outcome] = {}

        def take(index: int, outcome: Outcome) -> None:
            outcomes[index] = outcome
            if len(outcomes) == len(requests):
                then([outcomes[position] for position in range(len(requests))])

        for index, request in enumerate(requests):
            self.ask(request, lambda outcome, index=index: take(index, outcome))  # type: ignore[misc]

    def reply(self, fields: Mapping[str, Any]) -> None:
        """Answer, by the schema of the request's own version."""
        out = begin_response(self.header)
        if self.throttle_ms:
            fields = {**fields, "throttle_time_ms": self.throttle_ms}
        codec(self.header.api.key, self.version).write(out, fields)
        self.finish([end_response(out)])

    def finish(self, buffers: Sequence[Buffer]) -> None:
        """Answer with these bytes; with none there is no answer."""
        assert not self.done, f"{self.header} is answered twice"
        self.done = True
        self.buffers = buffers
        self.response_bytes = sum(memoryview(buffer).nbytes for buffer in buffers)
        self.connection.answered(self)
