"""The network of a simulation: hosts, partitions between them, and each node's Network on top of it.

A host whose process is gone refuses connections at once; one that is off, or behind a partition, says nothing.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import msgpack

from ..errors import ZmqBrokerError
from ..transport.network import LinkState, SendResult
from .conditions import NetworkConditions
from .connection import Connection, Endpoint, Frames, Machine, Side

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..transport.network import OnMessage, OnState
    from .reactors import SimPoller
    from .world import Event, World

_MESSAGES_A_CALL = 64
_RECONNECT_MS = (10.0, 500.0)


class SimListenError(ZmqBrokerError):
    """The address is in use."""


class Host:
    """A machine."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.up = True
        """It has power."""
        self.paused = False
        """Its process is stopped: it hears and says nothing."""
        self.listeners: dict[str, SimListener] = {}


class Sent(NamedTuple):
    """A message that was just sent."""

    connection: Connection
    side: Side
    api: int
    fields: list[Any]
    """Of its envelope; the last is the body."""


class SimNetwork:
    """All hosts and connections of a world."""

    def __init__(self, world: World, conditions: NetworkConditions | None = None) -> None:
        self.world = world
        self.conditions = conditions or NetworkConditions()
        self.random = world.stream("network")
        self.messages = 0
        self._hosts: dict[str, Host] = {}
        self._blocked: dict[tuple[str, str], None] = {}
        self._connections: dict[int, Connection] = {}
        self._made = 0
        self._awaited: dict[str, tuple[Callable[[Sent], bool], Callable[[Connection], object]]] = {}

    # ---- hosts and partitions

    def host(self, name: str) -> Host:
        """The machine of this name."""
        found = self._hosts.get(name)
        if found is None:
            found = self._hosts[name] = Host(name)
        return found

    def hosts(self) -> list[str]:
        """The names of all machines, the oldest first."""
        return list(self._hosts)

    def block(self, source: str, target: str) -> None:
        """Let nothing pass in this direction."""
        self._blocked[source, target] = None
        self._refresh()

    def unblock(self, source: str, target: str) -> None:
        """Let messages of this direction pass again."""
        self._blocked.pop((source, target), None)
        self._refresh()

    def heal(self) -> None:
        """End all partitions."""
        self._blocked.clear()
        self._refresh()

    def set_paused(self, host: Host, *, paused: bool) -> None:
        """Stop a host's process, or let it go on."""
        host.paused = paused
        self._refresh()

    def set_power(self, host: Host, *, up: bool) -> None:
        """Switch a host off, so that nothing answers, or on; then it resets the connections it does not know."""
        host.up = up
        for connection in self.connections():
            for side in Side:
                if connection.hosts[side] is not host or connection.is_open(side):
                    continue
                if up and connection.is_open(side.other):
                    wait_ms = self.random.uniform(1.0, self.conditions.heartbeat_timeout_ms / 3)
                    self.world.later(wait_ms, f"{connection!r} reset", partial(self._reset, connection, side.other))
        self._refresh()

    def _reset(self, connection: Connection, side: Side) -> None:
        if connection.is_open(side) and not self.is_blocked(connection.hosts[side.other], connection.hosts[side]):
            connection.lose(side)

    def is_blocked(self, source: Machine, target: Machine) -> bool:
        """Whether nothing passes in this direction."""
        return (source.name, target.name) in self._blocked or not target.up

    def _refresh(self) -> None:
        for connection in self.connections():
            connection.refresh()

    # ---- connections

    def connections(self) -> list[Connection]:
        """All that are not over, the oldest first."""
        return list(self._connections.values())

    def arrival_ms(self) -> float:
        """When a message arrives that is sent now."""
        conditions, random = self.conditions, self.random
        delay_ms = conditions.latency_ms + random.expovariate(1.0) * conditions.jitter_ms
        if conditions.slow_share and random.random() < conditions.slow_share:
            delay_ms += random.uniform(0.0, conditions.slow_ms)
        return self.world.now_ms + delay_ms

    def dial(
        self, source: Host, address: str, endpoint: Endpoint, on_result: Callable[[Connection | LinkState], object]
    ) -> Event:
        """Try to connect; the result is a connection, REFUSED, or after a while DOWN."""
        name = address.removeprefix("tcp://").rpartition(":")[0]
        wait_ms = 2 * (self.arrival_ms() - self.world.now_ms)
        label = f"{source.name}>{name} dial"
        return self.world.later(wait_ms, label, partial(self._answer, source, address, endpoint, on_result))

    def _answer(
        self, source: Host, address: str, endpoint: Endpoint, on_result: Callable[[Connection | LinkState], object]
    ) -> None:
        target = self.host(address.removeprefix("tcp://").rpartition(":")[0])
        cut = self.is_blocked(source, target) or self.is_blocked(target, source)
        listener = target.listeners.get(address)
        if cut or (listener is not None and target.paused):
            on_result(LinkState.DOWN)
        elif listener is None:
            on_result(LinkState.REFUSED)
        else:
            self._made += 1
            connection = Connection(self, self._made, (source, target), (endpoint, listener))
            self._connections[self._made] = connection
            listener.accept(connection)
            on_result(connection)

    def forget(self, connection: Connection) -> None:
        """A connection is over."""
        self._connections.pop(connection.number, None)

    def note_message(self, connection: Connection, side: Side, frames: Frames) -> None:
        """Put a message that arrives into the trace."""
        self.messages += 1
        number = 0
        for frame in frames:
            number = crc32(frame, number)
        self.world.note(f"{connection!r} {side} {number}")

    def lie_in_wait(self, name: str, wanted: Callable[[Sent], bool], then: Callable[[Connection], object]) -> None:
        """Call once, as soon as such a message is sent; instead of what had this name."""
        self._awaited[name] = (wanted, then)

    def lie_no_more(self) -> None:
        """Wait for no message any more."""
        self._awaited.clear()

    def note_sent(self, connection: Connection, side: Side, frames: Frames) -> None:
        """Look whether this is what is waited for."""
        if not self._awaited or not frames:
            return
        fields = msgpack.unpackb(frames[0])
        sent = Sent(connection, side, fields[0], fields)
        for name in [name for name, (wanted, _) in self._awaited.items() if wanted(sent)]:
            _, then = self._awaited.pop(name)
            then(connection)


class SimListener:
    """A ROUTER of a process: all its connections' messages in the order of their arrival."""

    def __init__(self, host: Host, poller: SimPoller, address: str, on_message: OnMessage) -> None:
        self._host = host
        self._poller = poller
        self._address = address
        self._on_message = on_message
        self._inbox: deque[tuple[Connection, Frames]] = deque()
        self._connections: dict[bytes, Connection] = {}
        self._listening = True
        self._scheduled = False

    @property
    def address(self) -> str:
        """What clients connect to."""
        return self._address

    def accept(self, connection: Connection) -> None:
        """Take a new connection."""
        self._connections[connection.routing_id] = connection

    def hear(self, connection: Connection, frames: Frames) -> None:
        """Queue a message until the process reads it."""
        self._inbox.append((connection, frames))
        self._wake()

    def broken(self, connection: Connection) -> None:
        """Forget a connection; what it brought before is still read."""
        self._connections.pop(connection.routing_id, None)

    def _wake(self) -> None:
        if self._inbox and self._listening and not self._scheduled:
            self._scheduled = True
            self._poller.add(self._receive)

    def _receive(self) -> None:
        self._scheduled = False
        for _ in range(_MESSAGES_A_CALL):
            if not self._inbox or not self._listening:
                break
            connection, frames = self._inbox.popleft()
            connection.taken(Side.SERVER)
            self._on_message(connection.routing_id, frames)
        self._wake()

    def send(self, routing_id: bytes, frames: Frames) -> SendResult:
        """Queue one message for a client."""
        connection = self._connections.get(routing_id)
        return SendResult.GONE if connection is None else connection.send(Side.SERVER, list(frames))

    def pause(self) -> None:
        """Stop hearing."""
        self._listening = False

    def resume(self) -> None:
        """Hear again."""
        self._listening = True
        self._wake()

    def close(self, linger_ms: int = 0) -> None:  # noqa: ARG002 - what is queued leaves in any case
        """Stop listening."""
        self.pause()
        self._host.listeners.pop(self._address, None)
        for connection in list(self._connections.values()):
            connection.close(Side.SERVER)
        self._connections.clear()

    def die(self, end: Callable[[Connection, Side], None]) -> None:
        """The process is gone."""
        self.pause()
        self._host.listeners.pop(self._address, None)
        for connection in list(self._connections.values()):
            end(connection, Side.SERVER)


class SimLink:
    """A DEALER of a process: connects to one other node again and again."""

    def __init__(
        self,
        network: SimNetwork,
        host: Host,
        poller: SimPoller,
        address: str,
        handlers: tuple[Callable[[Frames], None], OnState],
    ) -> None:
        self._network = network
        self._host = host
        self._poller = poller
        self._address = address
        self._on_message, self._on_state = handlers
        self._state = LinkState.DOWN
        self._connection: Connection | None = None
        self._event: Event | None = None
        self._backoff_ms = _RECONNECT_MS[0]
        self._closed = False
        self._dial()

    @property
    def state(self) -> LinkState:
        """How the connection is."""
        return self._state

    def _dial(self) -> None:
        self._event = self._network.dial(self._host, self._address, self, self._dialled)

    def _dialled(self, result: Connection | LinkState) -> None:
        self._event = None
        if isinstance(result, Connection):
            self._connection = result
            self._backoff_ms = _RECONNECT_MS[0]
            self._set(LinkState.UP)
            return
        self._set(result)
        self._dial_later(self._network.conditions.connect_timeout_ms if result is LinkState.DOWN else 0.0)

    def _dial_later(self, more_ms: float) -> None:
        wait_ms = more_ms + self._backoff_ms * self._network.random.uniform(0.5, 1.0)
        self._backoff_ms = min(self._backoff_ms * 2, _RECONNECT_MS[1])
        self._event = self._network.world.later(wait_ms, f"{self._host.name} reconnect", self._dial)

    def _set(self, state: LinkState) -> None:
        if state is not self._state:
            self._state = state
            self._poller.add(lambda: None if self._closed else self._on_state(state))

    def hear(self, connection: Connection, frames: Frames) -> None:
        """Bring a message to the process."""
        self._poller.add(partial(self._deliver, connection, frames))

    def _deliver(self, connection: Connection, frames: Frames) -> None:
        connection.taken(Side.CLIENT)
        if not self._closed:
            self._on_message(frames)

    def broken(self, connection: Connection) -> None:
        """Connect again."""
        assert connection is self._connection, (connection, self._connection)
        self._connection = None
        self._set(LinkState.DOWN)
        self._dial_later(0.0)

    def send(self, frames: Frames) -> SendResult:
        """Queue one message for the node."""
        return SendResult.GONE if self._connection is None else self._connection.send(Side.CLIENT, list(frames))

    def close(self) -> None:
        """Give the link up."""
        self.die(Connection.close)

    def die(self, end: Callable[[Connection, Side], None]) -> None:
        """End the connection in this way, and make no other."""
        self._closed = True
        if self._event is not None:
            self._event.cancel()
        if self._connection is not None:
            end(self._connection, Side.CLIENT)
            self._connection = None


class NodeNetwork:
    """The network as one life of a node has it."""

    def __init__(self, network: SimNetwork, host: Host, poller: SimPoller) -> None:
        self._network = network
        self._host = host
        self._poller = poller
        self._listeners: list[SimListener] = []
        self._links: list[SimLink] = []

    def listen(self, address: str, on_message: OnMessage) -> SimListener:
        """Listen at an address of this host."""
        if address in self._host.listeners:
            message = f"the address {address} is in use by another process"
            raise SimListenError(message)
        listener = SimListener(self._host, self._poller, address, on_message)
        self._host.listeners[address] = listener
        self._listeners.append(listener)
        return listener

    def link(self, address: str, on_message: Callable[[Frames], None], on_state: OnState) -> SimLink:
        """Connect to an address and stay connected."""
        link = SimLink(self._network, self._host, self._poller, address, (on_message, on_state))
        self._links.append(link)
        return link

    def close(self) -> None:
        """Close what is still open."""
        for link in self._links:
            link.close()
        for listener in self._listeners:
            listener.close()

    def die(self, *, power_cut: bool) -> None:
        """The process is gone; its machine's kernel says so to everybody, unless it is gone too."""
        how = Connection.vanish if power_cut else Connection.reset
        for link in self._links:
            link.die(how)
        for listener in self._listeners:
            listener.die(how)


class SimClientConnection:
    """A client's one connection; it does not come back by itself, like a client's dealer.

    ``on_open`` hears of the connection, ``on_break`` that it could not be made, or is gone; after that nothing comes.
    """

    def __init__(
        self,
        network: SimNetwork,
        host: str,
        address: str,
        *,
        on_open: Callable[[], Any],
        on_message: Callable[[Frames], Any],
        on_break: Callable[[], Any],
    ) -> None:
        self._network = network
        self._on_open = on_open
        self._on_message = on_message
        self._on_break = on_break
        self._connection: Connection | None = None
        self._event: Event | None = network.dial(network.host(host), address, self, self._dialled)

    def _dialled(self, result: Connection | LinkState) -> None:
        self._event = None
        if isinstance(result, Connection):
            self._connection = result
            self._on_open()
        elif result is LinkState.REFUSED:
            self._on_break()
        else:
            timeout_ms = self._network.conditions.connect_timeout_ms
            self._event = self._network.world.later(timeout_ms, "connect time-out", self._on_break)

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self._connection is not None

    def send(self, frames: Frames) -> SendResult:
        """Send one message."""
        return SendResult.GONE if self._connection is None else self._connection.send(Side.CLIENT, frames)

    def hear(self, connection: Connection, frames: Frames) -> None:
        """Bring a message to the client."""
        connection.taken(Side.CLIENT)
        self._on_message(frames)

    def broken(self, connection: Connection) -> None:  # noqa: ARG002 - there is but one
        """Tell the client."""
        self._connection = None
        self._on_break()

    def close(self) -> None:
        """Give the connection up: what was sent may still arrive, and nothing comes back."""
        if self._event is not None:
            self._event.cancel()
            self._event = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close(Side.CLIENT)
