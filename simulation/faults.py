"""What goes wrong in a run: each seed draws a swarm of faults and settings, and how often each of them strikes.

A swarm leaves most faults out, so that the others come in combinations that all of them together would hide.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from . import probe
from .conditions import NetworkConditions
from .traps import Traps

if TYPE_CHECKING:
    from collections.abc import Callable

    from .cluster import Cluster, SimNode
    from .truth import Truth
    from .world import World

NODES_MAX = 5
_SIZES = (1, 3, 3, 3, 3, 3, 3, 2, 4, 5)
"""How many nodes: five cost as much as four times three, and find little that three do not. Of two and of four nodes
not all vote."""
SHARE_DELIVERIES = 3
"""How often a share group delivers a record."""

KINDS = (
    "kill",
    "power",
    "pause",
    "stop",
    "partition",
    "one-way",
    "break",
    "slow-network",
    "slow-flush",
    "failed-flush",
    "full-disk",
    "clock",
    "kill-leader",
    "loss",
    "power-all",
    "flip",
    "stale",
    "lonely",
    "late-batch",
    "late-answer",
    "mute",
)
_LATER_KINDS = KINDS[-5:]
"""Came later than the others, and are drawn after all else, so that nothing else is another than it was."""
AIMED_KINDS = KINDS[-3:]
"""Strike only if they are asked for: each aims at one moment, to make sure that a rule is missed if it is gone."""

_ON_SHARE = 0.35
_ON_SHARES = {"kill": 0.5, "power": 0.5, "loss": 0.6, "power-all": 0.15, "flip": 0.15}
"""What loses memory or bytes finds the most."""
_CUT_OFF_SHARE = 0.4
_AMBUSH_MS = 1.5
_AMBUSH_TRIES = 200
_FRESH_MS = 100.0
_LOSS_TRIES = 50
_LOSS_RETRY_MS = 20.0
_GUARDED_FROM = 16
"""From its version on, whatever becomes of a batch is noticed by whoever reads it."""


@dataclass(frozen=True)
class Plan:
    """One run: its seed, and what of it is left out to make it smaller."""

    seed: int
    without: frozenset[str] = frozenset()
    """Kinds of faults, and workloads, that are left out."""
    only: frozenset[str] = frozenset()
    """The kinds of faults that strike, often; none: as the seed says."""
    nodes_max: int = NODES_MAX
    nodes_min: int = 1
    clients_max: int = 8
    length: float = 1.0
    """How much of the safety phase is run."""

    def __str__(self) -> str:
        """Say it as the command line does."""
        parts = [f"--seed {self.seed}", f"--nodes {self.nodes_max}"]
        if self.nodes_min != Plan.nodes_min:
            parts.append(f"--nodes-min {self.nodes_min}")
        if self.clients_max != Plan.clients_max:
            parts.append(f"--clients {self.clients_max}")
        if self.length != 1.0:
            parts.append(f"--length {self.length:g}")
        if self.only:
            parts.append(f"--only {','.join(sorted(self.only))}")
        if self.without:
            parts.append(f"--without {','.join(sorted(self.without))}")
        return " ".join(parts)


@dataclass
class Swarm:
    """What a seed draws."""

    nodes: int = 1
    every_ms: dict[str, float] = field(default_factory=dict)
    """The faults that are on, and how often each strikes, on average."""
    settings: dict[str, Any] = field(default_factory=dict)
    topic_settings: dict[str, str] = field(default_factory=dict)
    network: NetworkConditions = field(default_factory=NetworkConditions)
    partitions: int = 2
    producers: int = 2
    consumers: int = 1
    administrators: int = 1
    members: int = 0
    """Of a consumer group."""
    sharers: int = 0
    """Consumers of a share group."""
    movers: int = 0
    """Administrators that move partitions and drain nodes."""
    transactors: int = 0
    """Producers with transactional ids."""
    lease_ms: int = 1_000
    flush: str = "ack"
    safety_ms: float = 10_000.0


def draw(plan: Plan) -> Swarm:
    """The swarm of a plan. What is left out changes nothing of the rest."""
    random = Random(f"{plan.seed}/swarm")  # noqa: S311 - to be repeated, not secret
    swarm = Swarm()
    swarm.nodes = min(max(random.choice(_SIZES), plan.nodes_min), plan.nodes_max)
    swarm.flush = random.choice(("ack", "ack", "ack", "ack", "ack", "ack", "interval", "os"))
    if "loss" in plan.only:
        swarm.flush = "os"
    _draw_faults(swarm, random, plan)
    swarm.network = NetworkConditions(
        latency_ms=random.choice((0.05, 0.2, 2.0)),
        jitter_ms=random.choice((0.05, 0.5, 5.0)),
        heartbeat_timeout_ms=random.choice((400.0, 1_000.0, 3_000.0)),
        connect_timeout_ms=random.choice((200.0, 1_000.0)),
        queue_messages=random.choice((5, 30, 200)),
    )
    swarm.partitions = random.randint(1, 3)
    swarm.producers = min(random.randint(1, 3), plan.clients_max)
    swarm.consumers = min(random.randint(0, 2), plan.clients_max)
    swarm.administrators = min(random.randint(0, 1), plan.clients_max)
    swarm.safety_ms = random.choice((1_500.0, 3_000.0, 6_000.0)) * plan.length
    swarm.settings = {
        "log_flush_offset_checkpoint_interval_ms": random.choice((100, 500, 5_000)),
        "log_retention_check_interval_ms": random.choice((300, 2_000)),
        "graceful_shutdown_timeout_ms": random.choice((200, 2_000)),
        "broker_heartbeat_interval_ms": random.choice((100, 300)),
        "broker_session_timeout_ms": random.choice((600, 2_000)),
        "controller_quorum_election_timeout_ms": random.choice((200, 500)),
        "controller_quorum_fetch_timeout_ms": random.choice((400, 1_000)),
        "replica_lag_time_max_ms": random.choice((500, 2_000)),
        "replica_fetch_wait_max_ms": random.choice((50, 200)),
        "replica_fetch_backoff_ms": random.choice((20, 100)),
        "replica_fetch_max_bytes": random.choice((1_000, 1 << 20)),
        "leader_imbalance_check_interval_ms": random.choice((500, 3_000)),
        "metadata_log_max_record_bytes_between_snapshots": random.choice((500, 20_000, 1 << 24)),
    }
    min_isr = random.choice(("1", "2", "2", "2"))
    if swarm.nodes < 3:  # noqa: PLR2004 - two in sync are then all, or more than there are
        min_isr = "1"
    if {"loss", "flip"} & swarm.every_ms.keys():  # one node may lose what it has: another one has to have it
        min_isr = "2"
    swarm.topic_settings = {
        "min.insync.replicas": min_isr,
        "flush": swarm.flush,
        "flush.ms": str(random.choice((20, 300))),
        "segment.bytes": str(random.choice((6_000, 30_000, 1 << 20))),
        "index.interval.bytes": str(random.choice((1, 200, 4096))),
        "retention.ms": "-1",
    }
    _draw_groups(swarm, random, plan)
    _draw_transactions(swarm, plan)
    return swarm


def _draw_faults(swarm: Swarm, random: Random, plan: Plan) -> None:
    """Which faults there are, without those that together could cost what nobody has promised to keep."""
    for kind in KINDS:
        if kind in _LATER_KINDS:
            continue
        on, every_ms = random.random() < _ON_SHARES.get(kind, _ON_SHARE), random.choice((600.0, 1_500.0, 4_000.0))
        if plan.only:
            on, every_ms = kind in plan.only, every_ms / 2
        # Only what is flushed before it counts can be expected to outlive the power of its machine.
        lossy = kind in ("power", "power-all", "failed-flush") and swarm.flush != "ack"
        lossy = lossy or (kind == "loss" and (swarm.nodes == 1 or swarm.flush == "ack"))
        lossy = lossy or (kind == "flip" and swarm.nodes < 3)  # noqa: PLR2004 - two others have what one has lost
        if on and not lossy and kind not in plan.without:
            swarm.every_ms[kind] = every_ms
    if "flip" in swarm.every_ms:
        # Nobody knows that the disk of one node has rotten until somebody reads there: the others must keep theirs.
        for kind in ("kill", "kill-leader", "power", "power-all", "failed-flush", "full-disk", "loss"):
            swarm.every_ms.pop(kind, None)
    if "loss" in swarm.every_ms:
        # What is not flushed may be lost by one node at a time, if the others have it. Who does not stop cleanly counts
        # as one that has lost something (KIP-966), be it so or not: nothing else may end a process then.
        # Nor may it stop: if it does so before it hears of its registration, the next one cannot say that it was clean.
        for kind in ("kill", "kill-leader", "full-disk", *(() if plan.only else ("stop",))):
            swarm.every_ms.pop(kind, None)


def _draw_groups(swarm: Swarm, random: Random, plan: Plan) -> None:
    """Groups and moves of partitions: each in some of the seeds."""
    swarm.members = min(random.choice((0, 0, 2, 3)), plan.clients_max)
    swarm.sharers = min(random.choice((0, 0, 1, 3)), plan.clients_max)
    swarm.movers = random.choice((0, 1))
    swarm.lease_ms = random.choice((200, 1_000, 5_000))
    if swarm.nodes < 3 or {"loss", "flip"} & swarm.every_ms.keys():  # noqa: PLR2004 - a move may leave one replica
        swarm.movers = 0
    swarm.settings |= {
        "offsets_topic_num_partitions": 2,
        "share_coordinator_state_topic_num_partitions": 2,
        "share_coordinator_snapshot_update_records_per_snapshot": random.choice((5, 500)),
        "group_min_session_timeout_ms": 100,
        "group_initial_rebalance_delay_ms": random.choice((0, 100)),
        "group_share_record_lock_duration_ms": swarm.lease_ms,
        "group_share_delivery_count_limit": SHARE_DELIVERIES,
        "group_share_retry_backoff_ms": random.choice((0, 100)),
    }


def _draw_transactions(swarm: Swarm, plan: Plan) -> None:
    """What came later than all else that is drawn, and changes nothing of that."""
    random = Random(f"{plan.seed}/transactions")  # noqa: S311 - to be repeated, not secret
    swarm.transactors = min(random.choice((0, 1, 1, 2)), plan.clients_max)
    swarm.settings["transaction_state_log_num_partitions"] = 2
    kills = not {"loss", "flip"} & swarm.every_ms.keys()  # see _draw_faults
    for kind in _LATER_KINDS:
        on, every_ms = random.random() < _ON_SHARE, random.choice((100.0, 400.0, 1_500.0))
        if plan.only or kind in AIMED_KINDS:
            on, every_ms = kind in plan.only, every_ms / 2
        if on and kind not in plan.without and (kills or kind != "lonely"):
            swarm.every_ms[kind] = every_ms


class Faults:
    """Lets the faults of a swarm strike until it is told to end."""

    def __init__(self, world: World, cluster: Cluster, swarm: Swarm, truth: Truth, topic: str) -> None:
        self._world = world
        self._topic = topic
        self._truth = truth
        self._cluster = cluster
        self._swarm = swarm
        self._over = False
        self._rotten: SimNode | None = None
        """The one node on whose disk bits flip."""
        self.struck = 0
        self._traps = Traps(world, cluster, self._undo_later)
        self._strikes: dict[str, Callable[[Random], object]] = {
            "kill": self._kill,
            "power": self._cut_power,
            "pause": self._pause,
            "stop": lambda random: self._node(random).stop(),
            "partition": partial(self._partition, both=True),
            "one-way": partial(self._partition, both=False),
            "break": self._break,
            "slow-network": self._slow_network,
            "slow-flush": self._slow_flush,
            "failed-flush": lambda random: self._node(random).fail_flush(),
            "full-disk": self._fill_disk,
            "clock": self._jump_clock,
            "kill-leader": self._kill_leader,
            "loss": self._lose,
            "power-all": self._cut_all_power,
            "flip": self._flip_bit,
            "stale": self._traps.stale,
            "lonely": self._traps.lonely,
            "late-batch": self._traps.late_batch,
            "late-answer": self._traps.unheard_answer,
            "mute": self._traps.mute,
        }
        assert tuple(self._strikes) == KINDS

    def start(self) -> None:
        """Begin."""
        for kind in self._swarm.every_ms:
            self._later(kind)

    def end(self) -> None:
        """Strike no more, and make good what was done."""
        self._over = True
        self._swarm.network.slow_share = 0.0
        self._traps.end()
        self._cluster.heal()

    def _later(self, kind: str) -> None:
        random = self._world.stream(f"fault {kind}")
        delay_ms = random.expovariate(1.0) * self._swarm.every_ms[kind]
        self._world.later(delay_ms, f"fault {kind}", partial(self._strike, kind, random))

    def _strike(self, kind: str, random: Random) -> None:
        if not self._over:
            self.struck += 1
            self._strikes[kind](random)
            self._later(kind)

    def _undo_later(self, what: str, delay_ms: float, undo: Callable[[], object]) -> None:
        self._world.later(delay_ms, f"end of {what}", lambda: None if self._over else undo())

    def _node(self, random: Random) -> SimNode:
        return random.choice(self._cluster.nodes)

    def _trace(self, text: str) -> None:
        self._world.trace("fault", text)

    # ---- nodes

    def _kill(self, random: Random) -> None:
        self._node(random).kill(random.choice((0.0, 100.0, 1_000.0)))

    def _cut_power(self, random: Random) -> None:
        """Half of the time while something is being flushed, when there is most to lose."""
        self._ambush(self._node(random), _AMBUSH_TRIES if random.choice((True, False)) else 0)

    def _cut_all_power(self, random: Random) -> None:
        """The power of all machines at once."""
        del random
        for node in self._cluster:
            node.cut_power()

    def _ambush(self, node: SimNode, tries: int) -> None:
        if self._over or node.life is None:
            return
        if tries == 0:
            node.cut_power()
        elif node.life.flusher.busy:
            wait_ms = self._world.stream("ambush").uniform(0.0, _AMBUSH_MS)
            self._world.later(wait_ms, "ambush", partial(self._ambush, node, 0))
        else:
            self._world.later(_AMBUSH_MS, "ambush", partial(self._ambush, node, tries - 1))

    def _kill_leader(self, random: Random) -> None:
        """Somebody who leads: the quorum, or a partition; often one that has just begun to."""
        leaders = self._truth.leaders(since_ms=random.choice((0.0, self._world.now_ms - _FRESH_MS)))
        if leaders:
            random.choice(leaders).kill(random.choice((0.0, 100.0, 1_000.0)))

    def _lose(self, random: Random) -> None:
        """A machine loses its power, and what was not flushed, while all others have all that is committed."""
        self._lose_when_all_have_it(self._node(random), self._node(random), _LOSS_TRIES)

    def _lose_when_all_have_it(self, node: SimNode, other: SimNode, tries: int) -> None:
        """Another one may be silent for a while then, so that the one that comes back might be elected."""
        if self._over or tries == 0:
            return
        if not (all(each.ready for each in self._cluster) and self._truth.all_in_sync()):
            again = partial(self._lose_when_all_have_it, node, other, tries - 1)
            self._world.later(_LOSS_RETRY_MS, "loss", again)
            return
        random = self._world.stream("loss")
        node.cut_power()
        if other is not node:
            self._undo_later("loss", random.choice((0.0, 5.0, 100.0)), other.pause)
            self._undo_later("pause", random.choice((1_000.0, 3_000.0)), other.resume)

    def _pause(self, random: Random) -> None:
        node = self._node(random)
        node.pause()
        self._undo_later("pause", random.choice((20.0, 500.0, 3_000.0)), node.resume)

    def _jump_clock(self, random: Random) -> None:
        node = self._node(random)
        node.clock.skew_ms += random.uniform(-5_000.0, 5_000.0)
        self._trace(f"the wall clock of {node.name} jumps")

    # ---- disks

    def _slow_flush(self, random: Random) -> None:
        node = self._node(random)
        node.flushing.slow_share = random.choice((0.05, 0.5))
        self._trace(f"the disk of {node.name} is slow")
        undo = partial(setattr, node.flushing, "slow_share", 0.0)
        self._undo_later("slow disk", random.uniform(100.0, 3_000.0), undo)

    def _flip_bit(self, random: Random) -> None:
        """In a batch that is committed and flushed, on the one node that has a bad disk."""
        node = self._rotten = self._rotten or self._node(random)
        if not (all(each.ready for each in self._cluster) and self._truth.all_in_sync()):
            return
        places = [
            place
            for replica in probe.replicas(node)
            if replica.key.topic == self._topic
            for place in probe.old_batches(replica.log, min(replica.high_watermark, replica.flushed_offset))
        ]
        if places:
            path, position, size = random.choice(places)
            node.disk.flip_bit(path, position + random.randrange(_GUARDED_FROM, size), random.randint(0, 7))
            node.has_rotten = True
            self._trace(f"a bit of {path} on {node.name} flips, in the batch at {position}")

    def _fill_disk(self, random: Random) -> None:
        node = self._node(random)
        total, free = node.disk.space("")
        node.disk.capacity_bytes = total - free + random.choice((0, 100, 5_000))
        self._trace(f"the disk of {node.name} is full")
        undo = partial(setattr, node.disk, "capacity_bytes", None)
        self._undo_later("full disk", random.uniform(100.0, 2_000.0), undo)

    # ---- network

    def _partition(self, random: Random, *, both: bool) -> None:
        network = self._cluster.network
        hosts = network.hosts()
        cut_off = [host for host in hosts if random.random() < _CUT_OFF_SHARE] or [random.choice(hosts)]
        pairs = [(one, other) for one in cut_off for other in hosts if other not in cut_off]
        if not both and random.choice((True, False)):
            pairs = [(other, one) for one, other in pairs]
        if both:
            pairs += [(other, one) for one, other in pairs]
        self._trace(f"{'nothing passes between' if both else 'one way is cut between'} {cut_off} and the others")
        for pair in pairs:
            network.block(*pair)

        def undo() -> None:
            self._trace(f"{cut_off} can be reached again")
            for pair in pairs:
                network.unblock(*pair)

        self._undo_later("partition", random.choice((100.0, 1_000.0, 4_000.0)), undo)

    def _break(self, random: Random) -> None:
        connections = self._cluster.network.connections()
        if connections:
            connection = random.choice(connections)
            self._trace(f"{connection!r} breaks")
            connection.break_both()

    def _slow_network(self, random: Random) -> None:
        conditions = self._swarm.network
        conditions.slow_share = random.choice((0.01, 0.2))
        conditions.slow_ms = random.choice((50.0, 1_000.0))
        self._trace("the network is slow")
        undo = partial(setattr, conditions, "slow_share", 0.0)
        self._undo_later("slow network", random.uniform(200.0, 3_000.0), undo)
