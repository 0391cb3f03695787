"""Metadata quorums under random schedules: lost, late, doubled and reordered messages, crashes, changes of the voters.

What must hold is looked at after each step; that it would be noticed is shown by machines with one rule taken away.
KRAFT_SCHEDULES=5000 in the environment runs so many schedules, instead of a few.
"""

from __future__ import annotations

import os
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from zmqbroker.quorum import kraft_core, kraft_leader
from zmqbroker.quorum import kraft_types as k
from zmqbroker.quorum.kraft import KraftMachine
from zmqbroker.transport import quorum_messages as m

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCHEDULES = int(os.environ.get("KRAFT_SCHEDULES", "40"))
STEPS = 700


class Checks:
    """The observer of a quorum that knows everything: what was committed, who has led."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = Random(seed)
        self.committed: list[Any] = []
        self.leaders: dict[int, int] = {}
        self.led: dict[int, int] = {}
        """Node -> the epoch that it leads now."""
        self.marks: dict[tuple[int, int], int] = {}
        self.epochs: dict[int, int] = {}
        self.appended = 0
        self.last_saved = 1
        """The node whose vote or epoch changed last."""

    def random_for(self, _node_id: int) -> Callable[[], float]:
        return self.random.random

    def records_max(self) -> int:
        return self.random.choice([1, 1, 1000])

    def takes_time(self) -> bool:
        return self.random.random() < 0.7

    def fails(self) -> bool:
        return self.random.random() < 0.03

    # ---- what must hold

    def note(self, node: Any, effect: Any) -> None:
        match effect:
            case k.StartedLeading(epoch):
                first = self.leaders.setdefault(epoch, node.id)
                assert first == node.id, f"nodes {first} and {node.id} lead epoch {epoch}"
                self.led[node.id] = epoch
                self.check_leader(node)
            case k.SaveState():
                self.last_saved = node.id
            case k.StoppedLeading():
                self.led.pop(node.id, None)
            case k.HighWatermark(offset):
                self.check_committed(node, offset)

    def check_committed(self, node: Any, offset: int) -> None:
        key = (node.id, node.life)
        assert offset > self.marks.get(key, -1), f"the high watermark of node {node.id} went back to {offset}"
        self.marks[key] = offset
        entries = node.log.entries[:offset]
        common = min(offset, len(self.committed))
        assert entries[:common] == self.committed[:common], f"node {node.id} has committed something else"
        if offset > len(self.committed):
            self.committed = entries
            self.check_majority(node, offset)
            newest = max(self.led, key=lambda leader: self.led[leader], default=None)
            if newest is not None:
                self.check_leader(self.nodes[newest])  # type: ignore[attr-defined]

    def check_majority(self, node: Any, offset: int) -> None:
        """On the disks of a majority of the voters, as whoever commits knows them."""
        voters = node.machine.voters
        nodes = [self.nodes[voter.node_id] for voter in voters]  # type: ignore[attr-defined]
        having = [
            each
            for voter, each in zip(voters, nodes, strict=True)
            if each.me == voter and each.log.entries[: min(offset, each.log.true_flushed)] == self.committed
        ]
        assert len(having) * 2 > len(voters), f"{offset} is on {[each.id for each in having]} of {voters} only"

    def check_leader(self, node: Any) -> None:
        """The latest leader has everything that was committed."""
        if self.led[node.id] < max(self.led.values()):
            return
        assert node.log.entries[: len(self.committed)] == self.committed, f"leader {node.id} lacks committed records"

    def check(self, node: Any) -> None:
        epoch = k.QuorumState.decode(node.saved).epoch
        assert epoch >= self.epochs.get(node.id, 0), f"the epoch of node {node.id} went back to {epoch}"
        self.epochs[node.id] = epoch
        for other in self.nodes.values():  # type: ignore[attr-defined]
            check_matching(node.log.entries, other.log.entries)


def check_matching(one: list[Any], other: list[Any]) -> None:
    """Logs that have a record of one offset and epoch in common are the same up to there."""
    for offset in range(min(len(one), len(other)) - 1, -1, -1):
        if one[offset].epoch == other[offset].epoch:
            assert one[: offset + 1] == other[: offset + 1], f"logs that match at {offset} differ before it"
            return


class Schedule:
    """One run: a cluster, what happens to it, and whether it comes back in the end."""

    def __init__(self, quorum: Any, random: Random) -> None:
        self.quorum, self.random = quorum, random
        stormy = random.random() < 0.4
        """Whether leaders come and go faster than messages."""
        if stormy:
            quorum.config = k.KraftConfig(
                election_timeout_ms=50, fetch_timeout_ms=100, backoff_ms=1, backoff_max_ms=20, snapshot_bytes=60
            )
        size = random.choice([1, 3, 3, 3, 5])
        voters = list(range(1, size + 1))
        for node_id in voters:
            quorum.add(node_id, voters)
        for node_id in range(size + 1, size + 1 + random.randrange(3)):
            quorum.add(node_id)
        for node in quorum.nodes.values():
            node.auto_flush = random.random() < 0.3
            node.start()
        self.loss = random.choice([0.0, 0.02, 0.2])
        self.cuts: dict[tuple[int, int], None] = {}
        self.steps = [
            (self.deliver, 60),
            (self.flush, 15),
            (self.append, 8),
            (self.wait, 12),
            (self.double, 2),
            (self.crash, random.choice([0, 1, 2])),
            (self.bounce, random.choice([0, 2, 10]) if stormy else 0),
            (self.upset, random.choice([2, 5, 12]) if stormy else 0),
            (self.restart, 3),
            (self.cut, random.choice([0, 1, 2])),
            (self.heal, 1),
            (self.change_voters, random.choice([0, 1])),
            (self.snapshot, random.choice([0, 1])),
            (self.resign, random.choice([0, 0.3])),
            (self.wipe, random.choice([0, 0, 0.1])),
            (self.link_refused, random.choice([0, 1])),
        ]

    def run(self, steps: int) -> None:
        actions = [step for step, _ in self.steps]
        weights = [weight for _, weight in self.steps]
        for action in self.random.choices(actions, weights, k=steps):
            action()

    def node(self) -> Any:
        return self.random.choice(list(self.quorum.nodes.values()))

    def leader(self) -> Any:
        return next((node for node in self.quorum.alive if node.machine.is_leader), None)

    def deliver(self) -> None:
        network = self.quorum.network
        if not network:
            return
        packet = network[0] if self.random.random() < 0.7 else self.random.choice(network)
        if self.random.random() < self.loss or (packet.src, packet.dst) in self.cuts:
            network.remove(packet)
        else:
            self.quorum.deliver(packet)

    def double(self) -> None:
        requests = [packet for packet in self.quorum.network if packet.answer is None]
        if requests:
            packet = self.random.choice(requests)
            self.quorum.network.append(type(packet)(packet.src, packet.dst, packet.call))

    def flush(self) -> None:
        node = self.node()
        if node.machine is not None:
            node.flush()

    def append(self) -> None:
        leader = self.leader()
        if leader is not None:
            self.quorum.appended += 1
            leader.decide(f"v{self.quorum.appended}")

    def wait(self) -> None:
        quorum = self.quorum
        quorum.now_ms += self.random.choice([1, 5, 20, 100])
        if self.random.random() < 0.1:
            quorum.now_ms = max(quorum.now_ms, min(quorum.next_ms(), quorum.now_ms + 3000))
        quorum.tick_due()

    def crash(self) -> None:
        node = self.node()
        if node.machine is not None:
            self.quorum.led.pop(node.id, None)
            node.crash(self.random.randrange(3))

    def bounce(self) -> None:
        """Restart a node, with preference the one that has just promised something."""
        node = self.random.choice([self.node(), self.quorum.nodes[self.quorum.last_saved]])
        if node.machine is not None:
            self.quorum.led.pop(node.id, None)
            node.crash()
            node.start()

    def upset(self) -> None:
        """Most nodes believe for a moment that the leader is gone."""
        for node in self.quorum.alive:
            leader_id = node.machine.leader_id
            if leader_id not in (k.NOBODY, node.id) and self.random.random() < 0.8:
                node.tell("peer_gone", leader_id)
                node.tell("peer_up", leader_id)
        self.quorum.now_ms += 2
        self.quorum.tick_due()

    def restart(self) -> None:
        dead = [node for node in self.quorum.nodes.values() if node.machine is None]
        if dead:
            self.random.choice(dead).start()

    def cut(self) -> None:
        self.cuts[self.node().id, self.node().id] = None

    def heal(self) -> None:
        self.cuts.clear()

    def change_voters(self) -> None:
        leader = self.leader()
        if leader is None:
            return
        voter = self.node().me
        if voter in leader.machine.voters:
            leader.tell("remove_voter", m.RemoveVoterRequest(voter.node_id, voter.directory_id), "remove")
        else:
            leader.tell("add_voter", m.AddVoterRequest(voter.node_id, voter.directory_id), "add")

    def snapshot(self) -> None:
        node = self.node()
        if node.machine is not None:
            node.take_snapshot()

    def resign(self) -> None:
        leader = self.leader()
        if leader is not None:
            leader.tell("resign")
            self.quorum.led.pop(leader.id, None)
            leader.crash()

    def wipe(self) -> None:
        """A minority at most may lose its disk: what was committed is gone otherwise, whatever the protocol."""
        node = self.node()
        voters = [voter for each in self.quorum.nodes.values() for _, voters in each.log.voters() for voter in voters]
        if node.machine is None and node.me not in voters:
            self.quorum.add(node.id, directory_id=f"d{node.id}-{self.random.random()}")
            self.quorum.epochs.pop(node.id, None)
            self.quorum.nodes[node.id].life = node.life

    def link_refused(self) -> None:
        node = self.node()
        if node.machine is None:
            for other in self.quorum.alive:
                other.fail_calls(node.id)
                other.tell("peer_gone", node.id)

    def come_back(self) -> None:
        """Everybody is well again: a leader has to be found, and everything committed everywhere, in bounded time."""
        quorum = self.quorum
        self.cuts.clear()
        self.loss = 0.0
        for node in quorum.nodes.values():
            node.auto_flush = True
            if node.machine is None:
                node.start()
            node.flush()
            for other in quorum.nodes:
                node.tell("peer_up", other)
        self.append()
        deadline = quorum.now_ms + 60_000
        while quorum.now_ms < deadline:
            while quorum.network:
                quorum.deliver(quorum.network[0])
            leader = self.leader()
            if leader is not None and all(
                node.machine.high_watermark == leader.log.end_offset for node in quorum.nodes.values()
            ):
                return
            quorum.now_ms = max(quorum.now_ms + 1, min(quorum.next_ms(), deadline))
            quorum.tick_due()
            for node in quorum.nodes.values():
                node.flush()
        states = {
            node.id: (node.machine.role, node.machine.epoch, node.machine.high_watermark, node.log.end_offset)
            for node in quorum.nodes.values()
        }
        pytest.fail(f"no quorum within a minute: {states}")


@pytest.fixture
def run_schedule(quorum_class: type) -> Callable[..., Any]:
    """Run the schedule of a seed."""
    checked = type("CheckedQuorum", (Checks, quorum_class), {})

    def run(
        seed: int, machine: type[KraftMachine] = KraftMachine, log: Any = None, steps: int = STEPS, save: Any = None
    ) -> Any:
        quorum = checked(seed)
        quorum.machine_class = machine
        quorum.make_log = log or quorum.make_log
        quorum.save = save or quorum.save
        schedule = Schedule(quorum, quorum.random)
        schedule.run(steps)
        schedule.come_back()
        return quorum

    return run


def test_random_schedules_break_no_rule(run_schedule: Callable[..., Any]) -> None:
    committed = leaders = 0
    for seed in range(SCHEDULES):
        try:
            quorum = run_schedule(seed)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        committed += len(quorum.committed)
        leaders += len(quorum.leaders)
    assert committed > 20 * SCHEDULES, "too little was committed for this to mean anything"
    assert leaders > 2 * SCHEDULES, "too few elections for this to mean anything"


# ---- the observer is observed: with one rule less, something is noticed


def flushed_before_it_is(make_log: Any) -> Any:
    """Logs that say that all is flushed."""
    return type("HastyLog", (make_log,), {"flushed_offset": property(lambda self: self.end_offset)})


def noticed(run: Callable[[int], Any], seeds: int) -> str:
    for seed in range(seeds):
        try:
            run(seed)
        except (AssertionError, pytest.fail.Exception) as violation:
            return str(violation)
    return ""


def test_a_vote_that_is_forgotten_is_noticed(run_schedule: Callable[..., Any]) -> None:
    assert noticed(lambda seed: run_schedule(seed, save=lambda state: k.QuorumState(state.epoch).encode()), 200)


def test_counting_before_the_flush_is_noticed(run_schedule: Callable[..., Any], quorum_class: Any) -> None:
    log = flushed_before_it_is(quorum_class().make_log)
    assert noticed(lambda seed: run_schedule(seed, log=log), 300)


def test_half_instead_of_a_majority_is_noticed(
    run_schedule: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kraft_core, "majority", lambda voters: (voters + 1) // 2)
    assert noticed(run_schedule, 300)


def test_an_offset_that_half_has_reached_is_noticed(
    run_schedule: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached_by_some(values: Iterator[float]) -> float:
        ordered = sorted(values, reverse=True)
        return ordered[max(0, len(ordered) // 2 - 1)]

    monkeypatch.setattr(kraft_leader, "reached_by_majority", reached_by_some)
    assert noticed(run_schedule, 300)
