"""A single node that dies at any disk operation of its start comes back with all that was acked, and leads again."""

from __future__ import annotations

from errno import EIO
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from zmqbroker.log.batch import computed_crc, read_header
from zmqbroker.simulation import probe
from zmqbroker.simulation.client import Outcome, SimClient
from zmqbroker.simulation.cluster import Cluster, LogCapture
from zmqbroker.simulation.conditions import NetworkConditions
from zmqbroker.simulation.log_model import make_batch
from zmqbroker.simulation.network import SimNetwork
from zmqbroker.simulation.world import World
from zmqbroker.transport.messages import CreateTopicsRequest, NewTopic, PartitionData, ProduceRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zmqbroker.transport.message_base import Request

LIMIT_MS = 60_000.0
AFTER_READY_MS = 20.0
"""What a start begins it may end a little later."""
OPERATIONS_MIN = 20
OPERATIONS_MAX = 400
VALUE_BYTES = 100
SETTINGS = {
    "log_flush_offset_checkpoint_interval_ms": 300,
    "log_retention_check_interval_ms": 300,
}
TOPIC = {"flush": "ack", "segment.bytes": "1000", "index.interval.bytes": "200", "retention.ms": "-1"}


class _DeadError(BaseException):
    """The machine stops in the middle of an operation; nothing may handle that."""


class _Forgetful(Random):
    """Of what was not synced a crash keeps nothing."""

    def choice(self, seq: Sequence[Any]) -> Any:
        return seq[0]


class Machine:
    """One node, and a client that writes to it."""

    def __init__(self, seed: int, bytes_between_snapshots: int) -> None:
        settings = {**SETTINGS, "metadata_log_max_record_bytes_between_snapshots": bytes_between_snapshots}
        self.world = World(seed)
        network = SimNetwork(self.world, NetworkConditions())
        self.cluster = Cluster(self.world, network, 1, settings)
        (self.node,) = self.cluster.nodes
        self.client = SimClient(self.world, network, "client", self.cluster.addresses)
        self.acked: list[bytes] = []
        self.operations = 0
        self.dies_at: int | None = None
        self.fails_at: int | None = None
        self._dead = False
        self._failed_path = ""
        self._ended = self.node._ended
        self.node._ended = self._on_end  # type: ignore[method-assign]
        meet = self.node.disk.meet_fault

        def count(operation: str, path: str) -> None:
            if self._dead or self.operations == self.dies_at:
                self._dead = True
                raise _DeadError
            if self.operations == self.fails_at:
                self.fails_at = None
                self._fail(operation, path)
            self.operations += 1
            meet(operation, path)

        self.node.disk.meet_fault = count  # type: ignore[method-assign]

    def _fail(self, operation: str, path: str) -> None:
        """The process may end of it, but not go on to flush that file."""
        self.node.disk.capacity_bytes = 1 << 40  # a sick disk excuses what a full one does
        self._failed_path = path if operation == "flush" else f"not {path}"
        self._tell_flusher()
        raise OSError(EIO, "injected fault", path)

    def _tell_flusher(self) -> None:
        """A life in its very beginning, which may flush at once, cannot be told before it has begun."""
        if self.node.life is not None and self._failed_path:
            self.node.life.flusher.failed_path, self._failed_path = self._failed_path, ""

    def _on_end(self, error: BaseException | None) -> None:
        self._tell_flusher()
        if not self._dead:
            self._ended(error)

    def run_until(self, condition: Callable[[], bool], what: str) -> None:
        """Let time pass until something holds, or the node dies."""
        try:
            assert self.world.run_while(lambda: not (self._dead or condition()), LIMIT_MS), f"never: {what}"
        except _DeadError:
            assert self._dead

    def run_for(self, duration_ms: float) -> None:
        end_ms = self.world.now_ms + duration_ms
        self.world.at(end_ms, "wait", lambda: None)
        self.run_until(lambda: self.world.now_ms >= end_ms, "time goes on")

    def ask(self, request: Request, batches: Sequence[bytes] = ()) -> Outcome:
        outcomes: list[Outcome] = []
        self.client.ask(self.node.address, request, outcomes.append, batches)
        self.run_until(lambda: bool(outcomes), f"an answer to {request}")
        return outcomes[0]

    def set_up(self) -> None:
        """Start for the first time, and write what has to stay."""
        self.cluster.start()
        assert self.start(None)
        self.create_topic()
        self.produce(12)
        self.run_for(50.0)
        self.produce(7)

    def create_topic(self) -> None:
        reply = self.ask(CreateTopicsRequest([NewTopic("data", 1, 1, sorted(TOPIC.items()))], 5_000)).body
        assert [topic.error_code for topic in reply.topics] == [0]
        self.run_until(lambda: self.replica() is not None, "the partition is open")

    def produce(self, count: int) -> None:
        for _ in range(count):
            _, batch = make_batch([len(self.acked)], value_bytes=VALUE_BYTES)
            reply = self.ask(ProduceRequest(-1, 5_000, [PartitionData("data", 0)]), [batch]).body
            (result,) = reply.partitions
            assert (result.error_code, result.base_offset) == (0, len(self.acked)), result
            self.acked.append(batch[61:])

    def replica(self) -> probe.Replica | None:
        return next((replica for replica in probe.replicas(self.node) if replica.key.topic == "data"), None)

    def send_unanswered(self) -> None:
        """Let a batch be on its way to the disk."""
        batches = [make_batch([0], value_bytes=VALUE_BYTES)[1]]
        request = ProduceRequest(-1, 5_000, [PartitionData("data", 0)])
        self.client.ask(self.node.address, request, lambda _: None, batches)
        before = self.log_end()
        self.run_until(lambda: self.log_end() > before, "the batch is written")

    def log_end(self) -> int:
        replica = self.replica()
        assert replica is not None
        return replica.log.log_end_offset

    # ---- how a process ends, and the next one begins

    def end(self, how: str) -> None:
        if how == "failed flush":
            self.node.fail_flush()
            life = self.node.life
            self.send_unanswered()
            self.run_until(lambda: self.node.life is not life, "the node dies of a failed flush")
        elif how == "stop":
            self.node.stop()
            self.run_until(lambda: self.node.life is None, "the node stops")
        else:
            self.die(how)

    def die(self, how: str) -> None:
        node = self.node
        self._dead, self.dies_at = False, None
        if how == "kill":
            node.kill(0.0)
        else:
            node.cut_power()
        node.disk.locked.clear()
        node.host.listeners.clear()
        node.start_later(1.0)

    def start(self, dies_at: int | None) -> bool:
        """Run until the node is ready and a little more; whether it got there before it died."""
        self.operations, self.dies_at = 0, dies_at
        self.client.disconnect()
        self.run_until(lambda: self.node.ready, "the node is ready")
        if not self._dead:
            self.run_for(AFTER_READY_MS)
        self.dies_at = None
        return not self._dead

    def check(self) -> None:
        """All that was acked is there, and the node leads what it led."""
        self.run_until(self._leads, "the partition is led, and all can be read")
        replica = self.replica()
        assert replica is not None
        assert replica.log.damage is None
        found = probe.batches(replica.log, 0)
        assert [batch[61:] for batch in found[: len(self.acked)]] == self.acked
        for offset, batch in enumerate(found):
            header = read_header(batch)
            assert (header.base_offset, header.crc) == (offset, computed_crc(batch))
        self.acked += [batch[61:] for batch in found[len(self.acked) :]]  # once it could be read it has to stay

    def check_all(self) -> None:
        """It goes on from here as if nothing had been, through a power cut too."""
        self.check()
        self.produce(2)
        self.send_unanswered()
        self.node._random = _Forgetful()
        self.die("power")
        assert self.start(None)
        assert self.node.life is not None
        assert not self.node.life.folder.was_clean
        self.check()
        self.produce(1)
        self.world.check()

    def _leads(self) -> bool:
        replica = self.replica()
        if replica is None or not replica.leads:
            return False
        return (replica.state.leader, replica.state.isr) == (1, (1,)) and replica.high_watermark >= len(self.acked)


def run(end: str, *deaths: tuple[str, int]) -> bool:
    """Let starts die, each of a cause and at an operation; whether the first was over before it came so far."""
    # A snapshot lets the log be cut, and before that all small files are synced: not in every run.
    machine = Machine(sum(number for _, number in deaths), 1 << 20 if end == "stop" else 300)
    results = []
    with LogCapture(machine.world, machine.cluster):
        machine.set_up()
        machine.end(end)
        for death, dies_at in deaths:
            results.append(machine.start(dies_at))
            machine.die(death)
        assert machine.start(None)
        machine.check_all()
    return results[0]


@pytest.mark.parametrize("death", ["power", "kill"])
@pytest.mark.parametrize("end", ["power", "kill", "stop", "failed flush"])
def test_a_node_that_dies_in_its_start_comes_back_with_all_that_was_acked(end: str, death: str) -> None:
    operation = next((number for number in range(OPERATIONS_MAX) if run(end, (death, number))), None)
    assert operation is not None
    assert operation > OPERATIONS_MIN


@pytest.mark.parametrize("end", ["power", "kill", "stop", "failed flush"])
def test_several_starts_in_a_row_may_die(end: str) -> None:
    for seed in range(25):
        random = Random(seed)
        deaths = [(random.choice(("power", "kill")), random.randrange(60)) for _ in range(random.randint(2, 4))]
        run(end, *deaths)


@pytest.mark.parametrize("end", ["power", "kill", "stop"])
def test_a_node_comes_back_after_any_disk_operation_of_its_start_has_failed(end: str) -> None:
    for number in range(OPERATIONS_MAX):
        machine = Machine(number, 300)
        with LogCapture(machine.world, machine.cluster):
            machine.set_up()
            machine.end(end)
            machine.fails_at = number
            assert machine.start(None)
            over = machine.fails_at is not None
            machine.fails_at = None
            machine.check_all()
        if over:
            assert number > OPERATIONS_MIN
            return
    pytest.fail("the start does not end")
