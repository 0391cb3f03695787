"""What the actors of one node share: its settings, reactor, network, data folder, metadata image, and accounts.

All of it belongs to the reactor's thread. The image is immutable and replaced as a whole by the MetadataKeeper.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ..quorum.image import MetadataImage
from .quotas import Quotas

if TYPE_CHECKING:
    from random import Random

    from ..clock import Clock
    from ..log.data_folder import DataFolder
    from ..log.disk import Disk
    from ..settings import BrokerConfig
    from ..transport.network import Network
    from .flush_pool import Flusher
    from .reactor import Reactor


class Hearing(Protocol):
    """Something that hears clients."""

    def pause(self) -> None:
        """Stop hearing."""
        ...

    def resume(self) -> None:
        """Hear again."""
        ...


@dataclass
class NodeContext:
    """One node, as its actors see it."""

    config: BrokerConfig
    reactor: Reactor
    clock: Clock
    disk: Disk
    folder: DataFolder
    flusher: Flusher
    cluster_id: str
    pid: int
    network: Network
    random: Random
    """For jitter and for ids that have to be different; seeded by who runs the node."""
    image: MetadataImage = field(default_factory=MetadataImage)
    counters: Counter[str] = field(default_factory=Counter)
    quotas: Quotas = field(default_factory=Quotas)
    listeners: list[Hearing] = field(default_factory=list)
    """What brings clients' requests; all of it pauses while too much is queued."""
    open_requests: int = 0
    """Requests that a client waits for; a stopping node waits until there are none."""
    queued_bytes: int = 0
    """Bytes of requests not yet answered."""
    unsent_bytes: int = 0
    """Bytes of replies that clients leave unread; bounded for each client, so they do not count against the others."""

    advertised: tuple[str, int] = ("", 0)
    """Where this node is reached."""
    incarnation: str = ""
    """Different for each start of this node's process."""
    controller_id: int = -1
    """The node that leads the metadata quorum, as far as this one knows; -1: nobody."""
    active: bool = False
    """Whether this node is registered, knows the metadata and has opened its partitions, so that clients are served."""
    led: dict[str, int] = field(default_factory=dict)
    """The leader epoch in which this process has led each partition last, by the partition's name."""
    was_member: bool = False
    """Whether the metadata log of this node's folder has it as a node of the cluster."""
    node_epoch: int = -1
    """The metadata offset of this process's registration; -1: not registered yet."""
    started_ms: float = 0.0
    """When the node began to take clients, by the monotonic clock."""
    stopping: bool = False
    """A stopping node never hears clients again, however little it holds for them."""

    def take(self, size: int) -> None:
        """Count bytes that the node now holds for a client; above queued.max.request.bytes it stops hearing."""
        self.queued_bytes += size
        if self.queued_bytes > self.config.queued_max_request_bytes:
            for listener in self.listeners:
                listener.pause()

    def give_back(self, size: int) -> None:
        """Count bytes that left the node; it hears again once half of the limit is free."""
        self.queued_bytes -= size
        assert self.queued_bytes >= 0, f"more bytes were given back than taken: {self.queued_bytes}"
        if self.queued_bytes * 2 <= self.config.queued_max_request_bytes and not self.stopping:
            for listener in self.listeners:
                listener.resume()

    def kafka_brokers(self) -> list[tuple[int, str, int, str]]:
        """The living nodes that Kafka's clients can reach: node id, host, port and rack of each."""
        return [
            (node.node_id, node.kafka_host, node.kafka_port, node.rack)
            for node in self.image.nodes.values()
            if node.kafka_port and not node.fenced
        ]

    def kafka_address_of(self, node_id: int) -> tuple[str, int]:
        """Where Kafka's clients reach a node; an empty host and port -1: nowhere."""
        node = self.image.nodes.get(node_id)
        return (node.kafka_host, node.kafka_port) if node is not None and node.kafka_port else ("", -1)


def partition_address(topic: str, partition: int) -> str:
    """Where the leader of a partition lives, if this node has it."""
    return f"partition/{topic}/{partition}"


def coordinator_address(topic: str, partition: int) -> str:
    """Where the coordinator of an internal topic's partition lives, if this node leads it."""
    return f"coordinator/{topic}/{partition}"


def peer_address(node_id: int) -> str:
    """Where the link to another node lives, if there is one."""
    return f"peer/{node_id}"


def fetcher_address(node_id: int) -> str:
    """Where the fetcher of the partitions that another node leads lives, if there are any."""
    return f"fetcher/{node_id}"


def replica_server_address(node_id: int) -> str:
    """Where another node's fetches are served, if there were any."""
    return f"replica-server/{node_id}"


CONTROLLER = "controller"
QUORUM = "quorum"
PEERS = "peers"
MEMBERSHIP = "membership"
METADATA_KEEPER = "metadata-keeper"
LOG_KEEPER = "log-keeper"
