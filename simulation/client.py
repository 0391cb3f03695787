"""A simulated client: connections to the nodes that it talks to, requests with time-outs, what is known of each."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import BrokerError, error_for
from ..transport.envelope import convert_body, encode_request, split_reply
from ..transport.messages import ApiVersionsRequest, MetadataReply, MetadataRequest
from ..transport.network import SendResult
from .network import SimClientConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..transport.message_base import Request
    from .network import SimNetwork
    from .world import Event, World

_RETRY_SEND_MS = 5.0
REQUEST_TIMEOUT_MS = 2_000.0


class Outcome(NamedTuple):
    """What a client knows of a request."""

    body: Any
    """The reply's body, None if there was none."""
    frames: list[bytes]
    error: BrokerError | None
    """What the broker answered instead."""
    sent: bool
    """Whether it may have had any effect."""

    @property
    def answered(self) -> bool:
        """Whether the broker has answered at all."""
        return self.body is not None or self.error is not None


class _Ask:
    """A request under way."""

    def __init__(self, request: Request, batches: Sequence[bytes], on_outcome: Callable[[Outcome], object]) -> None:
        self.request = request
        self.batches = batches
        self.on_outcome = on_outcome
        self.sent = False
        self.timer: Event | None = None


class _Wire:
    """One connection and the requests on it; when it breaks, all of them end."""

    def __init__(self, client: SimClient, address: str) -> None:
        self._client = client
        self._address = address
        self._asks: dict[int, _Ask] = {}
        self._unsent: dict[int, None] = {}
        self._retry: Event | None = None
        self._connection = SimClientConnection(
            client.network,
            client.name,
            address,
            on_open=self._opened,
            on_message=self._heard,
            on_break=self.end,
        )

    def ask(self, number: int, ask: _Ask, timeout_ms: float) -> None:
        """Send a request, as soon as there is a connection."""
        self._asks[number] = ask
        self._unsent[number] = None
        label = f"{self._client.name} time-out"
        ask.timer = self._client.world.later(timeout_ms, label, self.end)
        if self._connection.is_open:
            self._send()

    def _opened(self) -> None:
        hello = ApiVersionsRequest(client_id=self._client.name, software="simulation")
        self._connection.send([encode_request(hello, 0)])
        self._send()

    def _send(self) -> None:
        for number in list(self._unsent):
            ask = self._asks[number]
            result = self._connection.send([encode_request(ask.request, number), *ask.batches])
            if result is not SendResult.SENT:
                if self._retry is None:
                    label = f"{self._client.name} send again"
                    self._retry = self._client.world.later(_RETRY_SEND_MS, label, self._send_again)
                return
            ask.sent = True
            del self._unsent[number]

    def _send_again(self) -> None:
        self._retry = None
        self._send()

    def _heard(self, frames: list[bytes]) -> None:
        raw = split_reply(frames[0])
        ask = self._asks.pop(raw.correlation_id, None)
        if ask is None:
            return
        assert ask.timer is not None
        ask.timer.cancel()
        if raw.error_code:
            ask.on_outcome(Outcome(None, [], error_for(raw.error_code, raw.error_message), sent=True))
        else:
            ask.on_outcome(Outcome(convert_body(raw.body, ask.request.REPLY), frames[1:], None, sent=True))

    def end(self) -> None:
        """The connection is gone, or is given up."""
        self._connection.close()
        if self._retry is not None:
            self._retry.cancel()
        self._client.forget(self._address, self)
        asks, self._asks = self._asks, {}
        self._unsent.clear()
        for ask in asks.values():
            assert ask.timer is not None
            ask.timer.cancel()
            ask.on_outcome(Outcome(None, [], None, sent=ask.sent))


class SimClient:
    """A client process on a machine of its own. It never gives up: whoever asks decides what to do with an outcome."""

    def __init__(self, world: World, network: SimNetwork, name: str, addresses: Sequence[str]) -> None:
        self.world = world
        self.network = network
        self.name = name
        self.random = world.stream(f"{name}/client")
        network.host(name)
        self._addresses = list(addresses)
        self._wires: dict[str, _Wire] = {}
        self._number = 0
        self._leaders: dict[tuple[str, int], tuple[str, int]] = {}
        self._nodes: dict[int, str] = {}

    def any_address(self) -> str:
        """Some node."""
        return self.random.choice(self._addresses)

    def ask(
        self,
        address: str,
        request: Request,
        on_outcome: Callable[[Outcome], object],
        batches: Sequence[bytes] = (),
        timeout_ms: float = REQUEST_TIMEOUT_MS,
    ) -> None:
        """Ask a node; on_outcome is called once."""
        wire = self._wires.get(address)
        if wire is None:
            wire = self._wires[address] = _Wire(self, address)
        self._number += 1
        wire.ask(self._number, _Ask(request, batches, on_outcome), timeout_ms)

    def forget(self, address: str, wire: _Wire) -> None:
        """A connection is gone."""
        if self._wires.get(address) is wire:
            del self._wires[address]

    def disconnect(self) -> None:
        """Give all connections up."""
        for wire in list(self._wires.values()):
            wire.end()

    # ---- who leads what

    def leader(self, topic: str, partition: int) -> tuple[str, int] | None:
        """Address of a partition's leader and its epoch, as far as this client knows."""
        return self._leaders.get((topic, partition))

    def address_of(self, node_id: int) -> str | None:
        """Where a node is, as far as this client knows."""
        return self._nodes.get(node_id)

    def refresh(self, done: Callable[[], object]) -> None:
        """Learn anew who leads what."""
        self.ask(self.any_address(), MetadataRequest(None), partial(self._refreshed, done))

    def _refreshed(self, done: Callable[[], object], outcome: Outcome) -> None:
        if isinstance(outcome.body, MetadataReply):
            self._learn(outcome.body)
        done()

    def _learn(self, reply: MetadataReply) -> None:
        addresses = self._nodes = {broker.node_id: f"tcp://{broker.host}:{broker.port}" for broker in reply.brokers}
        for topic in reply.topics:
            for entry in topic.partitions:
                key = (topic.topic, entry.partition)
                known = self._leaders.get(key)
                address = addresses.get(entry.leader)
                if address is None:
                    self._leaders.pop(key, None)
                elif known is None or entry.leader_epoch >= known[1]:
                    self._leaders[key] = (address, entry.leader_epoch)
