"""The actors of one node, put together, started and stopped in good order: the same for real and simulated nodes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..errors import ConfigError
from .acceptor import Acceptor
from .commands import Drain
from .context import CONTROLLER, LOG_KEEPER, MEMBERSHIP, METADATA_KEEPER, PEERS, QUORUM, NodeContext
from .controller import Controller
from .elsewhere import ELSEWHERE, Elsewhere
from .log_keeper import LogKeeper
from .membership import Membership, NodeStart
from .metadata_keeper import MetadataKeeper
from .peer_commands import KnownNodes, NodeActive, ShutDown
from .peers import Peers
from .quorum_member import QuorumMember

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..errors import BrokerError, ZmqBrokerError

logger = logging.getLogger(__name__)

_STOP_CHECK_MS = 2.0
_WILDCARDS = ("0.0.0.0", "[::]", "*")  # noqa: S104 - refused, not listened on


class NodeAddress(NamedTuple):
    """Where clients reach a node."""

    host: str
    port: int
    node_id: int
    kafka_host: str = ""
    kafka_port: int = 0
    """Where Kafka's clients do; port 0: nowhere."""


class Gateway(Protocol):
    """A second way in, for clients of another protocol; it listens from its making on, and hears nobody yet."""

    @property
    def listen_address(self) -> str:
        """Where it listens, as ``tcp://HOST:PORT`` with the real port."""
        ...

    def open(self) -> None:
        """Begin to hear clients."""
        ...

    def close(self) -> None:
        """Hear no more; answers still leave."""
        ...

    @property
    def is_sending(self) -> bool:
        """Whether answers are on their way to clients."""
        ...

    def tell_connections(self, message: Any) -> None:
        """Tell every connection's actor."""
        ...

    def shut_down(self) -> None:
        """Give the address back."""
        ...


class NodeActors:
    """One node on a reactor that somebody else runs.

    on_ready is called once, when the node serves clients. on_refused is called at most once, with the reason why this
    process cannot be a node of the cluster (any more); the reactor is to be stopped then.
    """

    def __init__(
        self,
        context: NodeContext,
        on_ready: Callable[[NodeAddress], object],
        on_refused: Callable[[ZmqBrokerError], object],
        gateway: Gateway | None = None,
    ) -> None:
        self.context = context
        self._on_ready = on_ready
        self._on_refused = on_refused
        self._stop_asked = False
        self._stop_deadline_ms = 0.0
        self._started = False
        self._unfenced = False
        self._acceptor = Acceptor(context, context.network)
        self._gateway = gateway

    @property
    def address(self) -> NodeAddress:
        """Where the node listens."""
        host, port = self._acceptor.host_and_port
        address = NodeAddress(host, port, self.context.config.node_id)
        if self._gateway is None:
            return address
        kafka_host, kafka_port = _host_and_port(self._gateway.listen_address)
        return address._replace(kafka_host=kafka_host.strip("[]"), kafka_port=kafka_port or 0)

    def start(self, host_name: str, nodes: Mapping[int, tuple[str, int]]) -> None:
        """Spawn what a node is made of.

        host_name is the rack where no other is set; nodes are those that the cluster has said are in it, for a node
        that has just joined and knows nothing else. Raises a ZmqBrokerError if the metadata cannot be read or no
        address be advertised.
        """
        context, reactor = self.context, self.context.reactor
        config = context.config
        host, port = context.advertised = advertised(
            "advertised.address", config.advertised_address, self._acceptor.address
        )
        kafka_host, kafka_port = "", 0
        if self._gateway is not None:
            kafka_host, kafka_port = advertised(
                "kafka.advertised.address", config.kafka_advertised_address, self._gateway.listen_address
            )
        start = NodeStart(
            host,
            port,
            config.rack or host_name,
            context.folder.was_clean,
            context.folder.directory_id,
            context.incarnation,
            context.folder.clean_epoch,
            context.folder.clean_incarnations,
            kafka_host,
            kafka_port,
            context.folder.note_start(context.incarnation),
        )
        reactor.spawn(Peers, context, address=PEERS)
        reactor.spawn(Elsewhere, context, address=ELSEWHERE, supervised=True)
        reactor.spawn(MetadataKeeper, context, self._all_started, address=METADATA_KEEPER)
        reactor.spawn(Controller, context, address=CONTROLLER)
        reactor.spawn(QuorumMember, context, address=QUORUM)
        reactor.spawn(Membership, context, start, self._active, self._refused, address=MEMBERSHIP)
        reactor.spawn(LogKeeper, context, address=LOG_KEEPER, supervised=True)
        if nodes:
            self.hint(nodes)
        self._acceptor.open()

    def hint(self, nodes: Mapping[int, tuple[str, int]]) -> None:
        """Say where other nodes may be by now, until the node knows it from the metadata of its own registration."""
        self.context.reactor.tell(PEERS, KnownNodes(dict(nodes), are_hints=True))

    def _all_started(self) -> None:
        self._started = True
        self._serve()

    def _active(self) -> None:
        self._unfenced = True
        self._serve()

    def _serve(self) -> None:
        """Take clients, now that every partition is open and the controller knows this node."""
        context = self.context
        if not (self._started and self._unfenced) or self._stop_asked:
            return
        context.started_ms = context.clock.monotonic_ms()
        context.active = True
        context.reactor.tell(METADATA_KEEPER, NodeActive())
        self._acceptor.tell_sessions(NodeActive())
        if self._gateway is not None:
            self._gateway.open()
        self._on_ready(self.address)

    def _refused(self, error: BrokerError) -> None:
        self._on_refused(error)

    # ---- the end

    def begin_stop(self, *, hand_over: bool = True, siblings: Sequence[int] = ()) -> None:
        """Let others lead what this node leads (unless not hand_over), answer what waits, and stop the reactor.

        siblings: nodes that stop at the same time, and cannot take anything over.
        """
        if self._stop_asked:
            return
        context = self.context
        self._stop_asked = True
        self._stop_deadline_ms = context.clock.monotonic_ms() + context.config.graceful_shutdown_timeout_ms
        if hand_over and context.config.controlled_shutdown_enable and context.active:
            context.reactor.tell(MEMBERSHIP, ShutDown(self._stop_deadline_ms, self._drain, siblings))
        else:
            self._drain()

    def _drain(self) -> None:
        context = self.context
        context.stopping = True
        self._acceptor.close()
        if not context.active:
            context.active = True  # what was parked until the node is active is answered with what there is
            self._acceptor.tell_sessions(NodeActive())
        self._acceptor.tell_sessions(Drain())
        if self._gateway is not None:
            self._gateway.close()
            if context.open_requests:
                self._gateway.tell_connections(Drain())
        context.reactor.tell(QUORUM, Drain())
        self._stop_when_idle()

    def _stop_when_idle(self) -> None:
        """Wait until no client waits for an answer, or the time is up."""
        context = self.context
        left = context.open_requests
        is_sending = self._gateway is not None and self._gateway.is_sending
        if (left or is_sending) and context.clock.monotonic_ms() < self._stop_deadline_ms:
            context.reactor.call_later(_STOP_CHECK_MS, self._stop_when_idle)
            return
        if left:
            logger.warning("stopping with %d requests unanswered: graceful.shutdown.timeout.ms is over", left)
        context.reactor.stop()

    def shut_down(self, linger_ms: int) -> None:
        """Give the address back, after the reactor has ended; what is queued has this long to leave."""
        if self._gateway is not None:
            self._gateway.shut_down()
        self._acceptor.shut_down(linger_ms)


def advertised(setting: str, wanted: str, listened_on: str) -> tuple[str, int]:
    """Where clients are told to go: what the setting says, or else where the node listens. Raises ConfigError."""
    address = wanted or listened_on
    host, port = _host_and_port(address)
    if not host or port is None:
        message = f"{setting}={address!r} is no address: it has to look like tcp://HOST:PORT"
        raise ConfigError(message)
    if host in _WILDCARDS:
        message = (
            f"the node listens on every interface ({address}), which is no address to give to clients: set"
            f" {setting}=tcp://HOST:{port} to what they can reach"
        )
        raise ConfigError(message)
    return host.strip("[]"), port


def _host_and_port(address: str) -> tuple[str, int | None]:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host, int(port) if port.isascii() and port.isdigit() else None
