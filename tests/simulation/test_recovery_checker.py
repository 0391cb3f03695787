"""What the checkers of recovery, and of what had failed, notice, and what they let pass."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest
from zmqbroker.log.batch import read_header
from zmqbroker.simulation import probe
from zmqbroker.simulation.client import SimClient
from zmqbroker.simulation.cluster import Cluster
from zmqbroker.simulation.conditions import NetworkConditions
from zmqbroker.simulation.history import Fate, History, Sent
from zmqbroker.simulation.invariants import Recovery
from zmqbroker.simulation.log_model import make_batch
from zmqbroker.simulation.network import SimNetwork
from zmqbroker.simulation.probe import METADATA_KEY, Eyes
from zmqbroker.simulation.truth import Truth
from zmqbroker.simulation.world import ViolationError, World
from zmqbroker.transport.messages import CreateTopicsRequest, NewTopic, PartitionData, ProduceRequest

if TYPE_CHECKING:
    from zmqbroker.log.partition_log import PartitionLog
    from zmqbroker.transport.message_base import Request

LIMIT_MS = 30_000.0


@pytest.mark.parametrize("fate", [Fate.FAILED, Fate.UNKNOWN, Fate.ACKED])
def test_what_was_read_before_it_is_settled_did_not_fail(fate: Fate) -> None:
    world = World(0)
    history = History(world)
    history.send(b"a", Sent("producer", 0, ("data", 0), -1))
    history.note_read(("data", 0), 0, b"a")
    history.settle(b"a", fate)
    with pytest.raises(ViolationError, match="H12") if fate is Fate.FAILED else nullcontext():
        world.check()


class OneNode:
    """A node with one partition, of which nothing is flushed, and the checker of its recovery."""

    def __init__(self) -> None:
        self.world = World(7)
        network = SimNetwork(self.world, NetworkConditions())
        self.cluster = Cluster(self.world, network, 1, {})
        (self.node,) = self.cluster
        self.client = SimClient(self.world, network, "client", self.cluster.addresses)
        history = History(self.world)
        self.recovery = Recovery(self.world, self.cluster, history, Truth(self.world, self.cluster, history))
        self.node.start()
        self.run_until_ready()
        self.ask(CreateTopicsRequest([NewTopic("data", 1, 1, [("flush", "os")])], 5_000))
        self.run_until_ready("data")
        for number in range(4):
            self.ask(ProduceRequest(-1, 5_000, [PartitionData("data", 0)]), make_batch([number], value_bytes=10)[1])
        self.look()

    def run_until_ready(self, topic: str = "") -> None:
        def ready() -> bool:
            return self.node.ready and (not topic or bool(probe.replicas(self.node)))

        assert self.world.run_while(lambda: not ready(), LIMIT_MS)

    def ask(self, request: Request, *batches: bytes) -> None:
        outcomes: list[object] = []
        self.client.ask(self.node.address, request, outcomes.append, batches)
        assert self.world.run_while(lambda: not outcomes, LIMIT_MS)

    @property
    def eyes(self) -> Eyes:
        assert self.node.life is not None
        return Eyes(self.node.life, self.node.node_id)

    def look(self) -> None:
        quorum = self.eyes.quorum()
        assert quorum is not None
        self.recovery.quorum_changed(self.node, quorum)
        self.recovery.after_pass(self.node, probe.replicas(self.node))

    def log(self, name: str) -> PartitionLog:
        if name == "data":
            return probe.replicas(self.node)[0].log
        quorum = self.eyes.quorum()
        assert quorum is not None
        return quorum.log

    def end(self, how: str) -> None:
        """End the process, and start it again."""
        if how == "kill":
            self.node.kill(0.0)
        elif how == "power":
            self.node.cut_power()
        else:
            self.node.stop()
            assert self.world.run_while(lambda: self.node.life is not None, LIMIT_MS)
        self.run_until_ready("data")


def lose_from(log: PartitionLog, offset: int) -> None:
    """Lose the batch that holds an offset, and what is behind it, as far as the checker can see."""
    batches = probe.batches(log, log.log_start_offset)
    log.log_end_offset = max(
        [
            log.log_start_offset,
            *(read_header(batch).base_offset for batch in batches if read_header(batch).base_offset <= offset),
        ]
    )
    log._flushed_end = min(log._flushed_end, log.log_end_offset)


@pytest.fixture
def one() -> OneNode:
    return OneNode()


@pytest.mark.parametrize("lost", ["", "data", METADATA_KEY.topic])
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_nothing_that_was_written_is_lost_while_the_power_is_on(one: OneNode, how: str, lost: str) -> None:
    last = one.log(lost).log_end_offset - 1 if lost else -1
    one.end(how)
    if lost:
        lose_from(one.log(lost), last)
    one.look()
    with pytest.raises(ViolationError, match="21 recovery") if lost else nullcontext():
        one.world.check()


@pytest.mark.parametrize(("first", "second", "invariant"), [("power", "kill", "was never off"), ("kill", "power", "")])
def test_a_power_cut_excuses_what_is_lost_in_it_alone(one: OneNode, first: str, second: str, invariant: str) -> None:
    one.end(first)
    one.look()
    one.world.check()
    for number in range(4):
        one.ask(ProduceRequest(-1, 5_000, [PartitionData("data", 0)]), make_batch([number], value_bytes=10)[1])
    last = one.log("data").log_end_offset - 1
    one.end(second)
    lose_from(one.log("data"), last)
    one.look()
    with pytest.raises(ViolationError, match=invariant) if invariant else nullcontext():
        one.world.check()


def test_a_clean_stop_keeps_all_through_a_power_cut(one: OneNode) -> None:
    one.node.stop()
    assert one.world.run_while(lambda: one.node.life is not None, LIMIT_MS)
    one.node.cut_power()
    one.run_until_ready("data")
    one.look()
    one.world.check()
    assert one.log("data").log_end_offset == 4
