"""One run of the simulator: a phase with faults, in which nothing may go wrong, and one in which all must go on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ..groups.partitioning import group_partition
from ..transport.group_messages import TRANSACTION_COORDINATOR
from ..transport.internal_topics import OFFSETS_TOPIC, SHARE_STATE_TOPIC, TRANSACTION_STATE_TOPIC
from ..transport.messages import READ_COMMITTED, READ_UNCOMMITTED, CreateTopicsRequest, NewTopic
from . import probe
from .administration import MetadataWorkload
from .client import SimClient
from .cluster import Cluster, LogCapture
from .cluster_invariants import Commitment, InSyncMembers, Memberships, OneLeader
from .faults import SHARE_DELIVERIES, Faults, draw
from .group_history import GroupHistory
from .group_workload import GroupMember
from .history import Fate, History
from .invariants import Acked, Epochs, HighWatermarks, Recovery, Sequences
from .moving import MovingWorkload
from .network import SimNetwork
from .probe import Eyes
from .producing import ProducerWorkload
from .quorum_invariants import QuorumCommitment, QuorumEpochs
from .share_history import ShareHistory
from .share_workload import ShareConsumer
from .transaction_history import Outcome as End
from .transaction_invariants import Markers, open_transactions
from .transaction_workload import TransactionalProducer
from .truth import Truth
from .workloads import ConsumerWorkload, FinalReader, Workload
from .world import ViolationError, World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..quorum.image import MetadataImage
    from .client import Outcome
    from .cluster import SimNode
    from .faults import Plan
    from .history import Partition
    from .invariants import Invariant
    from .node_life import NodeLife

_SETUP_MS = 30_000.0
_LIVENESS_MS = 60_000.0
_SETTLE_MS = 2_000.0
"""With acks=1 a record is acked before it is flushed, and read only after that."""
_TOPIC = "data"

INVARIANTS: Sequence[type[Invariant]] = (
    HighWatermarks,
    OneLeader,
    InSyncMembers,
    Commitment,
    Memberships,
    Epochs,
    QuorumEpochs,
    QuorumCommitment,
    Recovery,
    Sequences,
    Acked,
    Markers,
)
"""What every run is held against."""


class Result(NamedTuple):
    """What came of a run."""

    plan: Plan
    violation: ViolationError | None
    trace_hash: str
    counts: Counts


@dataclass
class Counts:
    """How much a run has tried: one that did next to nothing shows nothing."""

    events: int = 0
    messages: int = 0
    faults: int = 0
    lives: int = 0
    acked: int = 0
    failed: int = 0
    unknown: int = 0
    reads: int = 0
    operations: int = 0
    transactions: int = 0
    """That were committed."""

    def add(self, other: Counts) -> None:
        """Add another run's."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def __str__(self) -> str:
        return ", ".join(f"{value} {name}" for name, value in vars(self).items())


def run(plan: Plan, on_trace: Callable[[str], None] | None = None) -> Result:
    """Run a plan to its end, or to its first violation."""
    simulation = Simulation(plan, on_trace)
    violation: ViolationError | None = None
    try:
        simulation.run()
    except ViolationError as error:
        violation = error
    except Exception as error:  # noqa: BLE001 - whatever it is, nobody expected it, and the seed leads there again
        what = f"{type(error).__name__}: {error}"
        violation = ViolationError("exception", what, simulation.world.now_ms)
        violation.__cause__ = error
    return Result(plan, violation, simulation.world.trace_hash(), simulation.counts())


def _unchecked(workload: Workload, seen: Sequence[bool]) -> str:
    """What a workload waits for in its last look at everything."""
    return "" if seen else f"{workload.name} checks: {workload.busy}"


class Simulation:
    """One run."""

    def __init__(self, plan: Plan, on_trace: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.swarm = swarm = draw(plan)
        self.world = World(plan.seed, on_trace)
        self.network = SimNetwork(self.world, swarm.network)
        self.cluster = Cluster(self.world, self.network, swarm.nodes, swarm.settings)
        self.history = History(self.world)
        self.truth = Truth(self.world, self.cluster, self.history)
        self.faults = Faults(self.world, self.cluster, swarm, self.truth, _TOPIC)
        self.partitions: list[Partition] = [(_TOPIC, index) for index in range(swarm.partitions)]
        self.workloads: list[Workload] = []
        # Without flush=ack the fewest records survive a power cut; faults that lose them are then off.
        may_lose = swarm.nodes > 1 or not swarm.every_ms.keys().isdisjoint({"power", "power-all", "failed-flush"})
        safe_acks = (-1,) if may_lose else (-1, 1)
        self.invariants = [cls(self.world, self.cluster, self.history, self.truth) for cls in INVARIANTS]
        for invariant in self.invariants:
            if isinstance(invariant, Acked):
                invariant.acks = safe_acks
        self._shown: dict[str, tuple[bool, MetadataImage | None]] = {}
        self._nodes = {node.name: node for node in self.cluster}
        self._eyes: dict[str, tuple[NodeLife, Eyes]] = {}
        for node in self.cluster:
            node.on_death.append(self._before_death)
        self.world.after_event.append(self._check)

    def _look(self, node: SimNode) -> Eyes | None:
        life = node.life
        if life is None:
            return None
        known = self._eyes.get(node.name)
        if known is None or known[0] is not life:
            known = self._eyes[node.name] = (life, Eyes(life, node.node_id))
        return known[1]

    def _check(self) -> None:
        node = self._nodes.get(self.world.ran)
        eyes = None if node is None else self._look(node)
        if node is None or eyes is None:
            return
        replicas, quorum = eyes.changed(), eyes.quorum()
        for key, high_watermark in eyes.departed():
            self.truth.departed(key, high_watermark)
        if eyes.damaged and not node.has_rotten:
            self.world.violated("21 recovery", f"{node.name} finds {eyes.damaged[0]} damaged, and its disk is good")
        if not replicas and quorum is None and not self._is_new(node):
            return
        self.truth.after_pass(node, replicas, quorum)
        for invariant in self.invariants:
            if quorum is not None:
                invariant.quorum_changed(node, quorum)
            invariant.after_pass(node, replicas)

    def _is_new(self, node: SimNode) -> bool:
        """Whether the node has become ready, or has another image; what is seen only then is looked at."""
        shown = (node.ready, probe.image(node))
        known, self._shown[node.name] = self._shown.get(node.name), shown
        return known is None or known[0] != shown[0] or known[1] is not shown[1]

    def _before_death(self, node: SimNode) -> None:
        eyes = self._look(node)
        if eyes is not None:
            self.truth.before_death(node, eyes.changed(), eyes.quorum())

    def run(self) -> None:
        """Both phases. Raises ViolationError."""
        with LogCapture(self.world, self.cluster):
            self.world.trace("seed", f"{self.plan}: {self.swarm.nodes} nodes, faults {self.swarm.every_ms}")
            self.cluster.start()
            self._set_up()
            self._make_workloads()
            for workload in self.workloads:
                workload.start()
            self.faults.start()
            self.world.run_until(self.world.now_ms + self.swarm.safety_ms)
            self._heal()
            for invariant in self.invariants:
                invariant.at_end()
            self.world.check()

    def _client(self, name: str) -> SimClient:
        return SimClient(self.world, self.network, name, self.cluster.addresses)

    # ---- the phase before

    def _set_up(self) -> None:
        """Create the topic that is written to, before anything goes wrong."""
        client = self._client("setup")
        configs = sorted(self.swarm.topic_settings.items())
        replicas = min(3, self.swarm.nodes)
        request = CreateTopicsRequest([NewTopic(_TOPIC, self.swarm.partitions, replicas, configs)], 5_000)
        done: list[bool] = []

        def created(outcome: Outcome) -> None:
            codes = [result.error_code for result in outcome.body.topics] if outcome.body else [-1]
            if codes in ([0], [36]):
                done.append(True)
            else:
                self.world.later(200.0, "setup again", ask)

        def ask() -> None:
            client.ask(client.any_address(), request, created, (), 6_000.0)

        ask()
        self._wait("setup", lambda: "" if done else "the topic is not there", _SETUP_MS)

    def _make_workloads(self) -> None:
        swarm, history = self.swarm, self.history
        all_acks = self.world.stream("acks").random() < 0.7  # noqa: PLR2004 - most runs look at what must not be lost
        for number in range(swarm.producers):
            client = self._client(f"producer{number}")
            self._add("producers", ProducerWorkload(client, history, self.partitions, all_acks=all_acks))
        for number in range(swarm.consumers):
            racks = [node.name for node in self.cluster]
            consumer = ConsumerWorkload(self._client(f"consumer{number}"), history, self.partitions, racks)
            self._add("consumers", consumer)
        for number in range(swarm.administrators):
            client = self._client(f"admin{number}")
            self._add("administrators", MetadataWorkload(client, history, replicas=min(3, swarm.nodes)))
        for number in range(swarm.movers):
            mover = MovingWorkload(self._client(f"mover{number}"), history, self.partitions, swarm.nodes)
            self._add("movers", mover)
        self._make_groups()
        self._make_transactional()

    def _make_groups(self) -> None:
        swarm, world, history = self.swarm, self.world, self.history
        group = GroupHistory(world, history, "group", partial(self._is_coordinator, OFFSETS_TOPIC, "group"))
        for number in range(swarm.members):
            self._add("members", GroupMember(self._client(f"member{number}"), group, self.partitions))
        queue = ShareHistory(
            world,
            history,
            "queue",
            SHARE_DELIVERIES,
            self._share_coordinator,
            is_coordinator=partial(self._is_coordinator, SHARE_STATE_TOPIC, "queue"),
        )
        queue.letters_stay = not {"power", "power-all", "loss", "failed-flush", "flip"} & swarm.every_ms.keys()
        for number in range(swarm.sharers):
            self._add("sharers", ShareConsumer(self._client(f"sharer{number}"), queue, _TOPIC))

    def _make_transactional(self) -> None:
        """Producers that write to all partitions in transactions, and one who reads what they commit."""
        swarm = self.swarm

        def is_coordinator(key_type: int, key: str, address: str) -> bool:
            topic = TRANSACTION_STATE_TOPIC if key_type == TRANSACTION_COORDINATOR else OFFSETS_TOPIC
            return self._is_coordinator(topic, key, address)

        for number in range(swarm.transactors):
            name = f"transactor{number}"
            clients = (self._client(f"{name}a"), self._client(f"{name}b"))
            producer = TransactionalProducer(name, clients, self.history, self.partitions, is_coordinator)
            self._add("transactors", producer)
        if swarm.transactors:
            racks = [node.name for node in self.cluster]
            auditor = self._client("auditor")
            self._add("transactors", ConsumerWorkload(auditor, self.history, self.partitions, racks, READ_COMMITTED))

    def _is_coordinator(self, topic: str, group: str, address: str) -> bool:
        """Whether a group's coordinator lives at an address, by the newest metadata."""
        image = self.truth.image
        known = image.topics.get(topic)
        if known is None:
            return False
        node = image.nodes.get(known.partitions[group_partition(group, len(known.partitions))].leader)
        return node is not None and address == f"tcp://{node.host}:{node.port}"

    def _share_coordinator(self) -> tuple[int, ...]:
        """The epochs of the share groups' states, and how often their coordinators have read them.

        Leases end with their coordinator, and when it reads its log again since it could not write to it.
        """
        topic = self.truth.image.topics.get(SHARE_STATE_TOPIC)
        if topic is None:
            return ()
        loads = [
            probe.loads(node, SHARE_STATE_TOPIC, index)
            for node in self.cluster
            for index in range(len(topic.partitions))
        ]
        return (*(state.leader_epoch for state in topic.partitions), *loads)

    def _add(self, kind: str, workload: Workload) -> None:
        if kind not in self.plan.without:
            self.workloads.append(workload)

    # ---- the phase after

    def _heal(self) -> None:
        """All faults end, and in bounded time everything is answered and in sync again (invariant 22)."""
        self.world.trace("heal", "all faults end")
        self.faults.end()
        for workload in self.workloads:
            workload.quiesce()
        self._wait("22 liveness", self._unfinished, _LIVENESS_MS)
        self._wait("29 open transactions", partial(open_transactions, self.cluster), _LIVENESS_MS)
        self.world.run_until(self.world.now_ms + _SETTLE_MS)
        self._read_all("reader", READ_UNCOMMITTED)
        self.history.transactions.check_final(self._read_all("committed reader", READ_COMMITTED))
        for workload in self.workloads:
            if isinstance(workload, MetadataWorkload | GroupMember | ShareConsumer | TransactionalProducer):
                seen: list[bool] = []
                workload.check_all(lambda seen=seen: seen.append(True))  # type: ignore[misc]
                self._wait("22 liveness", partial(_unchecked, workload, seen), _LIVENESS_MS)

    def _read_all(self, name: str, isolation: int) -> dict[Partition, list[bytes]]:
        reader = FinalReader(self._client(name), self.history, self.partitions, isolation)
        reader.start()
        self._wait("22 liveness", lambda: reader.busy, _LIVENESS_MS)
        return reader.found

    def _unfinished(self) -> str:
        for workload in self.workloads:
            if workload.busy:
                return f"{workload.name} waits for {workload.busy}"
        return self._out_of_sync()

    def _out_of_sync(self) -> str:
        for node in self.cluster:
            image = probe.image(node) if node.ready else None
            if image is None:
                return f"{node.name} is not ready"
            for topic in image.topics.values():
                for index, state in enumerate(topic.partitions):
                    if state.adding or state.removing:
                        return f"{topic.name}-{index} still moves: {state}"
                    if state.leader < 0 or set(state.isr) != set(state.replicas):
                        return f"{topic.name}-{index} has leader {state.leader} and ISR {state.isr} of {state.replicas}"
        return ""

    def _wait(self, invariant: str, unfinished: Callable[[], str], limit_ms: float) -> None:
        if not self.world.run_while(lambda: bool(unfinished()), limit_ms):
            self.world.violated(invariant, f"{limit_ms / 1000:.0f} s after the last fault: {unfinished()}")
            self.world.check()

    def counts(self) -> Counts:
        """How much was tried."""
        fates: Sequence[Fate] = list(self.history.fates.values())
        return Counts(
            events=self.world.events,
            messages=self.network.messages,
            faults=self.faults.struck,
            lives=sum(node.lives for node in self.cluster),
            acked=fates.count(Fate.ACKED),
            failed=fates.count(Fate.FAILED),
            unknown=fates.count(Fate.UNKNOWN),
            reads=self.history.reads,
            operations=self.history.operations,
            transactions=self.history.transactions.count(End.COMMITTED),
        )
