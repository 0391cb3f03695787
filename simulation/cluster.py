"""The cluster of a simulation: machines, and the lives of the nodes on them, restarted as a supervisor does."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Self

from ..actors.metadata_log import has_metadata
from ..actors.reactor import NodeFatalError
from ..errors import StorageError, ZmqBrokerError
from ..settings import broker_config
from ..transport.peer_messages import JoinClusterReply, JoinClusterRequest
from .client import SimClient
from .disk import MemoryDisk
from .flusher import FlushConditions
from .node_life import Joined, Machine, NodeLife
from .reactors import SimClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .client import Outcome
    from .network import SimNetwork
    from .world import Event, World

logger = logging.getLogger("zmqbroker")

PORT = 9292
_FOLDER = "/data"
_JOIN_RETRY_MS = 200.0
_BACKOFF_MS = (100.0, 10_000.0)
_STEADY_AFTER_MS = 60_000.0
_BOOT_MS = (100.0, 1_500.0)
_DRIFT = 1e-4
_SKEW_MS = 200.0


class SimNode:
    """One machine and the node on it, through all its lives."""

    def __init__(
        self, world: World, network: SimNetwork, node_id: int, settings: Mapping[str, Any], join: Sequence[str] = ()
    ) -> None:
        self.node_id = node_id
        self.name = f"node{node_id}"
        self.address = f"tcp://{self.name}:{PORT}"
        self.disk = MemoryDisk()
        self.host = network.host(self.name)
        self.flushing = FlushConditions()
        self.life: NodeLife | None = None
        self.lives = 0
        self.paused = False
        self.has_rotten = False
        """Bits on its disk have flipped: what it finds damaged is."""
        self.power_cuts = 0
        """How often the machine has lost power."""
        self.on_start: list[Callable[[SimNode], None]] = []
        """Called when a life takes clients."""
        self.on_death: list[Callable[[SimNode], None]] = []
        """Called before a life that does not end in good order is gone, while it can still be looked into."""
        self.on_stop: list[Callable[[SimNode], None]] = []
        """Called when a life has ended in good order, and all its logs are closed."""
        self._world = world
        self._network = network
        self._random = world.stream(f"{self.name}/machine")
        rate = 1.0 + self._random.uniform(-_DRIFT, _DRIFT)
        self.clock = SimClock(world, rate=rate, skew_ms=self._random.uniform(-_SKEW_MS, _SKEW_MS))
        addresses = ",".join(address.removeprefix("tcp://") for address in join)
        place: dict[str, Any] = {"node_id": node_id, "listen": self.address, "data_dir": _FOLDER, "join": addresses}
        self._config = broker_config({**settings, **place})
        self._machine = Machine(world, self.name, self.disk, self.clock, self.host, network, self.flushing)
        self._joiner = SimClient(world, network, self.name, join) if join else None
        self._joining = False
        self._start_event: Event | None = None
        self._started_ms = 0.0
        self._backoff_ms = 0.0

    # ---- lives

    @property
    def ready(self) -> bool:
        """Whether it takes clients."""
        return self.life is not None and self.life.ready and not self.paused

    def start(self) -> None:
        """Start the process, if it does not run."""
        if self._start_event is not None:
            self._start_event.cancel()
            self._start_event = None
        if self.life is not None or self._joining:
            return
        if not self.host.up:
            self._network.set_power(self.host, up=True)
        if self._joiner is not None and not has_metadata(self.disk, _FOLDER):
            self._joining = True
            self._join()
        else:
            self._begin(None)

    def _join(self) -> None:
        """Ask the cluster what a new node has to know, as the process does before its reactor runs."""
        assert self._joiner is not None
        self._joiner.ask(self._joiner.any_address(), JoinClusterRequest(self.node_id), self._joined)

    def _joined(self, outcome: Outcome) -> None:
        if not self._joining:
            return
        if not isinstance(outcome.body, JoinClusterReply):
            self._world.later(_JOIN_RETRY_MS, f"{self.name} join", self._join)
            return
        self._joining = False
        nodes = {node_id: (host, port) for node_id, host, port in outcome.body.nodes}
        self._begin(Joined(outcome.body.cluster_id, nodes))

    def _begin(self, joined: Joined | None) -> None:
        self.lives += 1
        self._started_ms = self._world.now_ms
        self._trace(f"starts, life {self.lives}")
        self._world.active = self.name
        try:
            self.life = NodeLife(
                self._machine, self._config, self.lives, joined=joined, on_ready=self._ready, on_end=self._ended
            )
        except (ZmqBrokerError, OSError) as error:
            self._refused(error)
        finally:
            self._world.active = ""

    def _refused(self, error: BaseException) -> None:
        """Without room on the disk a node may refuse to start; nothing else that it has lived through excuses it."""
        if self.disk.capacity_bytes is None:
            self._world.violated("restart", f"{self.name} refused to start after what it had survived: {error!r}")
        self._trace(f"does not start: {error}")
        self.host.listeners.clear()
        self.disk.locked.clear()
        self._restart_later()

    def _ready(self) -> None:
        self._trace("is ready")
        for tell in self.on_start:
            tell(self)

    def _ended(self, error: BaseException | None) -> None:
        life = self.life
        assert life is not None, "a life ended that had not begun"
        failed_fsync = bool(life.flusher.failed_path)
        if error is None:
            self._trace("has stopped")
            for tell in self.on_stop:
                tell(self)
        elif isinstance(error, NodeFatalError) and failed_fsync:
            self._trace("dies of the failed flush")
        elif self.disk.capacity_bytes is not None and _is_refusal(error):
            self._trace(f"ends: {error}")
        else:
            cause = error.__cause__ or error
            self._world.violated("node", f"{self.name} ended by itself: {cause!r}")
        if error is not None:
            self._die()
            life.die(power_cut=False)
        self.life = None
        self.disk.locked.clear()
        self._restart_later()

    def _restart_later(self) -> None:
        """As the supervisor does."""
        least_ms, most_ms = _BACKOFF_MS
        steady = self._world.now_ms - self._started_ms >= _STEADY_AFTER_MS
        self._backoff_ms = least_ms if steady or not self._backoff_ms else min(self._backoff_ms * 2, most_ms)
        self.start_later(self._backoff_ms)

    def start_later(self, delay_ms: float) -> None:
        """Start the process in a while."""
        if self._start_event is not None:
            self._start_event.cancel()
        self._start_event = self._world.later(delay_ms, f"{self.name} start", self.start)

    # ---- faults

    def _die(self) -> None:
        for tell in self.on_death:
            tell(self)
        self.resume()

    def kill(self, restart_ms: float) -> None:
        """Kill -9: the process is gone, what it wrote stays with the system."""
        if self.life is not None:
            self._trace("is killed")
            self._die()
            self.life.die(power_cut=False)
            self.life = None
            self.disk.locked.clear()
            self.start_later(restart_ms)

    def cut_power(self) -> None:
        """The machine loses power, and boots again a while later."""
        self._trace("loses power")
        self._joining = False
        if self.life is not None:
            self._die()
            self.life.die(power_cut=True)
            self.life = None
        self._network.set_power(self.host, up=False)
        self.disk.crash(self._random)
        self.power_cuts += 1
        self.start_later(self._random.uniform(*_BOOT_MS))

    def stop(self) -> None:
        """Stop in good order; it is started again soon."""
        if self.life is not None:
            self._trace("is told to stop")
            self.life.stop()

    def fail_flush(self) -> None:
        """Let the next flush of a file fail."""
        if self.life is not None:
            self.life.flusher.fail_next()

    def pause(self) -> None:
        """Stop the process as SIGSTOP does."""
        if self.life is not None and not self.paused:
            self._trace("is paused")
            self.paused = True
            self.life.runner.pause()
            self._network.set_paused(self.host, paused=True)

    def resume(self) -> None:
        """Let a stopped process go on."""
        if self.paused:
            self._trace("goes on")
            self.paused = False
            self._network.set_paused(self.host, paused=False)
            if self.life is not None and not self.life.runner.over:
                self.life.runner.resume()

    def heal(self) -> None:
        """End all that ails it."""
        self.flushing.slow_share = 0.0
        self.disk.capacity_bytes = None
        self.resume()
        if self.life is None:
            self.start()

    def _trace(self, text: str) -> None:
        self._world.trace(self.name, text)


def _is_refusal(error: BaseException) -> bool:
    """Whether a node ended since its disk took nothing more, and not by a broken invariant."""
    return not isinstance(error, NodeFatalError) or isinstance(error.__cause__, StorageError)


class Cluster:
    """All nodes."""

    def __init__(self, world: World, network: SimNetwork, count: int, settings: Mapping[str, Any]) -> None:
        self.world = world
        self.network = network
        self.nodes: list[SimNode] = []
        for node_id in range(1, count + 1):
            self.nodes.append(SimNode(world, network, node_id, settings, join=self.addresses))

    def __iter__(self) -> Iterator[SimNode]:
        return iter(self.nodes)

    @property
    def addresses(self) -> list[str]:
        """Where all nodes listen."""
        return [node.address for node in self.nodes]

    def node_at(self, name: str) -> SimNode | None:
        """The node of a name."""
        return next((node for node in self.nodes if node.name == name), None)

    def start(self) -> None:
        """Start every node."""
        for node in self.nodes:
            node.start()

    def heal(self) -> None:
        """End all faults."""
        self.network.heal()
        for node in self.nodes:
            node.heal()


class LogCapture(logging.Handler):
    """Brings the nodes' log lines into the trace; an exception that nobody expected is a violation."""

    def __init__(self, world: World, cluster: Cluster) -> None:
        super().__init__(logging.INFO if world.traced else logging.WARNING)
        self._world = world
        self._cluster = cluster
        self._loggers = [logging.getLogger(name) for name in ("zmqbroker", "pykka")]
        self._before: list[tuple[int, bool]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line in."""
        text = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and record.levelno >= logging.ERROR and not self._excused(error):
            self._world.violated("exception", f"{self._world.active}: {text}: {error!r}")
        self._world.show(self._world.active, f"{record.levelname}: {text}")

    def _excused(self, error: BaseException) -> bool:
        """A node whose disk is full ends if it has to promise something to the quorum."""
        node = self._cluster.node_at(self._world.active)
        return isinstance(error, StorageError) and node is not None and node.disk.capacity_bytes is not None

    def __enter__(self) -> Self:
        for source in self._loggers:
            self._before.append((source.level, source.propagate))
            source.setLevel(self.level)
            source.propagate = False
            source.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        for source, (level, propagate) in zip(self._loggers, self._before, strict=True):
            source.removeHandler(self)
            source.setLevel(level)
            source.propagate = propagate
