"""One life of a simulated node: the broker's very actors on virtual time, disk and network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ..actors.assembly import NodeActors
from ..actors.context import NodeContext
from ..log.data_folder import DataFolder
from .flusher import SimFlusher
from .network import NodeNetwork
from .reactors import ReactorRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..errors import ZmqBrokerError
    from ..settings import BrokerConfig
    from .disk import MemoryDisk
    from .flusher import FlushConditions
    from .network import Host, SimNetwork
    from .reactors import SimClock
    from .world import World


@dataclass(frozen=True)
class Machine:
    """What outlives a node's process."""

    world: World
    name: str
    disk: MemoryDisk
    clock: SimClock
    host: Host
    network: SimNetwork
    flushing: FlushConditions


class Joined(NamedTuple):
    """What a cluster has told a node that joins it."""

    cluster_id: str
    nodes: Mapping[int, tuple[str, int]]


class NodeLife:
    """A node's process from its start to its end. A start that is refused raises a ZmqBrokerError.

    ``on_end`` hears of the end that comes from inside: None for an orderly one.
    """

    def __init__(
        self,
        machine: Machine,
        config: BrokerConfig,
        number: int,
        *,
        joined: Joined | None,
        on_ready: Callable[[], None],
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        self._on_ready = on_ready
        self._on_end = on_end
        self._refusal: ZmqBrokerError | None = None
        self.ready = False
        world, name = machine.world, machine.name
        random = world.stream(f"{name}/life {number}")

        def make_id() -> str:
            return f"{random.getrandbits(128):032x}"

        self.folder = DataFolder.open(
            machine.disk,
            config.data_dir,
            node_id=config.node_id,
            make_id=make_id,
            join=None if joined is None else lambda node_id: (joined.cluster_id, node_id),
        )
        self.runner = ReactorRunner(world, name, machine.clock, self._ended)
        reactor = self.runner.reactor
        self.flusher = SimFlusher(world, name, machine.disk, reactor, machine.flushing)
        self._network = NodeNetwork(machine.network, machine.host, self.runner.poller)
        self.context = NodeContext(
            config,
            reactor,
            machine.clock,
            machine.disk,
            self.folder,
            self.flusher,
            self.folder.cluster_id,
            1000 + number,
            self._network,
            random,
            incarnation=make_id(),
        )
        self._actors = NodeActors(self.context, lambda _: self._started(), self._refuse)
        self._actors.start(name, {} if joined is None else joined.nodes)
        self.runner.start()

    def _started(self) -> None:
        self.ready = True
        self._on_ready()

    def _refuse(self, error: ZmqBrokerError) -> None:
        self._refusal = error
        self.runner.reactor.stop()

    def stop(self) -> None:
        """Begin to stop in good order."""
        self.runner.reactor.call_from_thread(self._actors.begin_stop)

    def _ended(self, error: BaseException | None) -> None:
        if error is None:
            self.flusher.close()
            self._actors.shut_down(0)
            self._network.close()
            try:
                context = self.context
                self.folder.close(self._refusal is None, context.node_epoch, context.incarnation)
            except OSError as failed:
                error = failed
        self._on_end(error or self._refusal)

    def die(self, *, power_cut: bool) -> None:
        """End here and now: what was under way is cut short, and nothing is closed well."""
        self.runner.kill()
        self.flusher.kill()
        self._network.die(power_cut=power_cut)
