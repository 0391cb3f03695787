"""Links to the other nodes: who there is, one link actor for each, and how anybody here asks a node something."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import (
    BrokerError,
    BrokerNotAvailableError,
    MessageTooLargeError,
    NetworkError,
    RequestTimedOutError,
    ZmqBrokerError,
    error_for,
)
from ..transport.envelope import common_version, convert_body, encode_request, split_reply
from ..transport.messages import ApiVersionsReply, ApiVersionsRequest
from ..transport.network import LINK_QUEUE_MESSAGES, LinkState, SendResult
from .actor import ReactorActor
from .commands import Message, Refusal, tell_back
from .context import CONTROLLER, PEERS, QUORUM, fetcher_address, peer_address
from .peer_commands import AskPeer, KnownNodes, NodeCalled, PeerAnswer, PeerChanged, UnknownCaller

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..transport.envelope import RawReply
    from ..transport.network import PeerLink
    from .actor import Home
    from .context import NodeContext
    from .timers import Timer

logger = logging.getLogger(__name__)

SOFTWARE = "zmqbroker-node"
MAX_OPEN_REQUESTS = LINK_QUEUE_MESSAGES
"""Requests to one node that may await their replies at a time; as many as a session works on."""
RETRY_MS = 500.0
"""After a node that did not answer the greeting, or not as a node does."""
RETRY_SLOWLY_MS = 5_000.0
"""After a node that is not the one that is meant: until somebody mends that, nothing will change."""
_RESPAWN_MS = 10.0
_CALLERS_MAX = 16
"""So many unknown nodes that have called are called back; the newest."""

Where = tuple[str, int]


def ask_peer(reactor: Home, node_id: int, ask: AskPeer) -> None:
    """Send a request to another node; refused at once if there is no link to it."""
    if not reactor.tell(peer_address(node_id), ask):
        error = NetworkError(f"there is no link to node {node_id}: it is not known here, or its link starts again")
        tell_back(ask.reply_to, Refusal(ask.call, ask.index, error))


class Peers(ReactorActor):
    """Sees to it that there is a link to each other node of the cluster.

    Hints count until the metadata hold the registration of this very start of the node. While a node that has just
    joined reads the metadata from their beginning, they speak of the past, and may know neither the node that it reads
    them from, nor its present address.
    """

    def __init__(self, context: NodeContext) -> None:
        super().__init__()
        self._context = context
        self._hints: dict[int, Where] = {}
        self._callers: dict[int, Where] = {}
        """Nodes that have called and are not known otherwise."""
        self._known: dict[int, Where] = {}
        self._linked: dict[int, Where] = {}
        """Where each link leads; a link actor looks here whenever it starts."""

    def on_receive(self, message: Any) -> None:
        """Learn of nodes."""
        match message:
            case KnownNodes(nodes, are_hints=True):
                self._hints = dict(nodes)
            case KnownNodes(nodes):
                self._known = dict(nodes)
                self._callers = {node_id: where for node_id, where in self._callers.items() if node_id not in nodes}
                if self._knows_itself():
                    self._hints.clear()
            case UnknownCaller(node_id, host, port):
                self._callers.pop(node_id, None)
                self._callers[node_id] = (host, port)
                if len(self._callers) > _CALLERS_MAX:
                    del self._callers[next(iter(self._callers))]
            case _Respawn():
                pass
            case _:
                assert False, f"the links' keeper got {message!r}"  # noqa: B011, PT015 - nobody sends it anything else
        self._link()

    def _knows_itself(self) -> bool:
        own = self._context.image.nodes.get(self._context.config.node_id)
        return own is not None and own.incarnation == self._context.incarnation

    def _link(self) -> None:
        """Make, move and end links."""
        wanted = {**self._callers, **self._known, **self._hints}
        wanted.pop(self._context.config.node_id, None)
        for node_id in [node_id for node_id in self._linked if node_id not in wanted]:
            del self._linked[node_id]
            self.reactor.stop_actor(peer_address(node_id))
        for node_id, where in wanted.items():
            before = self._linked.get(node_id)
            if before is None:
                self._make(node_id, where)
            elif before != where:
                self._linked[node_id] = where
                self.reactor.tell(peer_address(node_id), _Moved())

    def _make(self, node_id: int, where: Where) -> None:
        address = peer_address(node_id)
        if self.reactor.lookup(address) is not None:  # of a node that was removed a moment ago, and is there again
            self.reactor.call_later(_RESPAWN_MS, partial(self.reactor.tell, PEERS, _Respawn()))
            return
        self._linked[node_id] = where
        self.reactor.spawn(
            PeerLinkActor, self._context, node_id, partial(self._where, node_id), address=address, supervised=True
        )

    def _where(self, node_id: int) -> Where | None:
        return self._linked.get(node_id)


class _Respawn(Message):
    """A link that had to end first may be gone by now."""


class _Moved(Message):
    """The node is reached at another address now."""


class _Reopen(Message):
    """The time has come to try again after a greeting that failed."""

    connection: int


class _Expire(Message):
    """The deadline of a request, or of the greeting, is over."""


class _Heard(Message):
    """Frames or a new state of one connection."""

    connection: int
    news: list[bytes] | LinkState


class _Open(NamedTuple):
    """A request that awaits its reply."""

    ask: AskPeer
    deadline_ms: float


class PeerLinkActor(ReactorActor):
    """The link to one node.

    UP, for the other actors, begins when the node has answered the greeting as the one that is meant, and every request
    under way ends with the connection. Connections are numbered: what comes of one that is gone by the time that it is
    looked at is no greeting of the present one.
    """

    def __init__(self, context: NodeContext, node_id: int, where: Callable[[], Where | None]) -> None:
        super().__init__()
        self._context = context
        self._node_id = node_id
        self._where = where
        self._called_from: Where | None = None
        """Where the node has said that it is, since the metadata said where: it has moved."""
        self._address = ""
        self._link: PeerLink | None = None
        self._connection = 0
        """The number of changes of the link's state so far: the present connection, if it stands."""
        self._opened_at = 0
        """What it was when the present link was made."""
        self._greeted = -1
        """The connection on which the node has said who it is."""
        self._state = LinkState.DOWN
        """As it was told."""
        self._versions: dict[int, tuple[int, int]] = {}
        self._max_request_bytes = 0
        self._greeting_id = -1
        self._greeting_deadline_ms = 0.0
        self._next_id = 0
        self._open: dict[int, _Open] = {}
        self._timer: Timer | None = None
        self._timer_ms = 0.0
        self._complaint = ""

    def on_start(self) -> None:
        """Begin to connect."""
        self._open_link()

    def on_receive(self, message: Any) -> None:
        """Ask the node, or hear of it."""
        match message:
            case AskPeer():
                self._ask(message)
            case _Heard(connection, list() as frames):
                self._on_frames(frames, connection)
            case _Heard(connection, LinkState() as state):
                self._on_state(state, connection)
            case _Expire():
                self._timer = None
                self._expire()
            case _Reopen(connection):
                if self._link is None and connection == self._connection:
                    self._open_link()
            case NodeCalled(host, port):
                self._on_call((host, port))
            case _Moved():
                self._called_from = None
                self._close_link()
                self._open_link()
            case _:
                assert False, f"a link got {message!r}"  # noqa: B011, PT015 - nobody sends it anything else

    def on_stop(self) -> None:
        """End with the node's removal, or with this node."""
        self._close_link()

    def on_crash(self, error: BaseException | None) -> None:
        """Leave nobody without an answer."""
        del error
        self._close_link()

    # ---- the connection

    def _on_call(self, where: Where) -> None:
        """Go where the node says it is now, unless it is where it was: the caller may be a copy of it."""
        if self._state is not LinkState.UP and where not in (self._called_from, self._where()):
            logger.info("%s calls, and is reached at %s:%d now", self, *where)
            self._called_from = where
            self._close_link()
            self._open_link()

    def _open_link(self) -> None:
        where = self._where()
        if where is None:
            return  # about to be stopped
        host, port = self._called_from or where
        self._address = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
        self._opened_at = self._connection
        self._link = self._context.network.link(self._address, self._note_frames, self._note_state)

    def _note_frames(self, frames: list[bytes]) -> None:
        self.reactor.tell(self.address, _Heard(self._connection, frames))

    def _note_state(self, state: LinkState) -> None:
        self._connection += 1  # at once, so that nothing goes out by a connection that the mailbox has not come to
        self.reactor.tell(self.address, _Heard(self._connection, state))

    def _close_link(self, state: LinkState = LinkState.DOWN) -> None:
        link, self._link = self._link, None
        self._connection += 1
        if link is not None:
            link.close()
        self._lost(state)

    def _lost(self, state: LinkState) -> None:
        """The connection does not stand, or not any more: nothing that was asked by it will be answered."""
        self._greeting_id = -1
        lost, self._open = self._open, {}
        for entry in lost.values():
            why = "whether the request took effect is unknown"
            self._refuse(entry.ask, NetworkError(f"the link to {self} broke before the answer came: {why}"))
        self._tell(state)

    def _on_state(self, state: LinkState, connection: int) -> None:
        if self._link is None or connection <= self._opened_at:
            return  # of a link that was closed since, perhaps to another address
        if state is not LinkState.UP:
            self._lost(state)
            return
        self._lost(LinkState.DOWN)  # somebody is there, but who is not known yet
        if connection == self._connection:
            self._greet()

    def _greet(self) -> None:
        assert self._link is not None, "there is nobody to greet"
        context = self._context
        greeting = ApiVersionsRequest(
            f"node-{context.config.node_id}",
            SOFTWARE,
            context.cluster_id,
            context.config.node_id,
            *context.advertised,
        )
        self._greeting_id = self._take_id()
        self._greeting_deadline_ms = context.clock.monotonic_ms() + context.config.handshake_ivl_ms
        if self._link.send([encode_request(greeting, self._greeting_id, greeting.MIN_VERSION)]) is SendResult.SENT:
            self._set_timer(self._greeting_deadline_ms)
        # Else the connection is gone again, and that news is under way.

    def _on_greeting(self, raw: RawReply, connection: int) -> None:
        if connection != self._connection:
            return
        self._greeting_id = -1
        try:
            if raw.error_code:
                raise error_for(raw.error_code, raw.error_message)
            reply = convert_body(raw.body, ApiVersionsReply)
        except BrokerError as error:
            why = f"it refuses this node's greeting: {error.name}: {error.message}"
            self._give_up(why, RETRY_MS if error.retriable else RETRY_SLOWLY_MS)
            return
        cluster_id = self._context.cluster_id
        if reply.cluster_id != cluster_id:
            self._give_up(f"it belongs to cluster {reply.cluster_id}, this node to {cluster_id}", RETRY_SLOWLY_MS)
        elif reply.node_id != self._node_id:
            self._give_up(f"it is node {reply.node_id}, not node {self._node_id}", RETRY_SLOWLY_MS)
        else:
            self._versions = {api.api: (api.min_version, api.max_version) for api in reply.apis}
            self._max_request_bytes = reply.max_request_bytes
            self._greeted = connection
            self._complaint = ""
            self._tell(LinkState.UP)

    def _give_up(self, why: str, retry_ms: float) -> None:
        """Close a connection to who is not the node that is meant, or no node at all, and try again later."""
        complaint = f"the process at {self._address} is not used as node {self._node_id}: {why}"
        if complaint != self._complaint:
            self._complaint = complaint
            logger.error("%s", complaint)
        self._close_link()
        self.reactor.call_later(retry_ms, partial(self.reactor.tell, self.address, _Reopen(self._connection)))

    def _tell(self, state: LinkState) -> None:
        if state is self._state:
            return
        self._state = state
        logger.info("the link to %s is %s", self, state.value)
        for address in (CONTROLLER, QUORUM, fetcher_address(self._node_id)):
            self.reactor.tell(address, PeerChanged(self._node_id, state))

    # ---- requests

    def _ask(self, ask: AskPeer) -> None:
        try:
            self._send(ask)
        except BrokerError as error:
            self._refuse(ask, error)

    def _send(self, ask: AskPeer) -> None:
        """Send a request by the present connection, or raise why not."""
        link = self._link
        if link is None or self._state is not LinkState.UP or self._greeted != self._connection:
            hint = ": nobody listens there" if self._state is LinkState.REFUSED else ""
            message = f"the link to {self} is down{hint}"
            raise NetworkError(message)
        if len(self._open) >= MAX_OPEN_REQUESTS:
            message = f"{self} has not answered {len(self._open)} requests yet, and {MAX_OPEN_REQUESTS} is the limit"
            raise BrokerNotAvailableError(message)
        number = self._take_id()
        version = common_version(type(ask.request), self._versions, str(self))
        frames = [encode_request(ask.request, number, version), *ask.frames]
        longest = max(map(len, frames))
        if longest > self._max_request_bytes:
            message = f"{self} takes {self._max_request_bytes} bytes (socket.request.max.bytes), not {longest}"
            raise MessageTooLargeError(message)
        result = link.send(frames)
        if result is SendResult.GONE:
            message = f"the link to {self} is down"
            raise NetworkError(message)
        if result is SendResult.FULL:
            message = f"{self} does not read: its queue of {LINK_QUEUE_MESSAGES} messages is full"
            raise BrokerNotAvailableError(message)
        deadline_ms = self._context.clock.monotonic_ms() + ask.timeout_ms
        self._open[number] = _Open(ask, deadline_ms)
        self._set_timer(deadline_ms)

    def _on_frames(self, frames: list[bytes], connection: int) -> None:
        try:
            raw = split_reply(frames[0])
        except ZmqBrokerError as error:
            if connection == self._connection:
                self._give_up(f"it does not answer as a node does: {error.message}", RETRY_MS)
            return
        if raw.correlation_id == self._greeting_id:
            self._on_greeting(raw, connection)
            return
        entry = self._open.pop(raw.correlation_id, None)
        if entry is None:
            self._context.counters["peer-replies-late"] += 1
            return
        ask = entry.ask
        if raw.error_code:
            self._refuse(ask, error_for(raw.error_code, raw.error_message))
            return
        try:
            body = convert_body(raw.body, ask.request.REPLY)
        except BrokerError as error:
            self._refuse(ask, error)
            return
        tell_back(ask.reply_to, PeerAnswer(ask.call, ask.index, body, frames=frames[1:]))

    def _refuse(self, ask: AskPeer, error: BrokerError) -> None:
        tell_back(ask.reply_to, Refusal(ask.call, ask.index, error))

    def _take_id(self) -> int:
        self._next_id += 1
        return self._next_id

    # ---- deadlines

    def _set_timer(self, when_ms: float) -> None:
        """Wake up at this moment, unless it is to be earlier already."""
        if self._timer is not None and self._timer_ms <= when_ms:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ms = when_ms
        delay_ms = when_ms - self._context.clock.monotonic_ms()
        self._timer = self.reactor.call_later(delay_ms, partial(self.reactor.tell, self.address, _Expire()))

    def _expire(self) -> None:
        now_ms = self._context.clock.monotonic_ms()
        if self._greeting_id != -1 and now_ms >= self._greeting_deadline_ms:
            waited = self._context.config.handshake_ivl_ms
            self._give_up(f"it did not answer this node's greeting in {waited} ms", RETRY_MS)
        for number in [number for number, entry in self._open.items() if now_ms >= entry.deadline_ms]:
            ask = self._open.pop(number).ask
            what = f"{self} did not answer {type(ask.request).__name__} in {ask.timeout_ms:g} ms"
            self._refuse(ask, RequestTimedOutError(f"{what}; whether it took effect is unknown"))
        waiting = [entry.deadline_ms for entry in self._open.values()]
        if self._greeting_id != -1:
            waiting.append(self._greeting_deadline_ms)
        if waiting:
            self._set_timer(min(waiting))

    def __str__(self) -> str:
        """How log lines and errors name the node."""
        return f"node {self._node_id} at {self._address}"
