"""A metadata quorum in memory: its machines with logs and disks that crash, and a network whose messages are lists."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest
from zmqbroker.errors import SnapshotNotFoundError
from zmqbroker.quorum import kraft_types as k
from zmqbroker.quorum.kraft import KraftMachine
from zmqbroker.transport import quorum_messages as m

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIG = k.KraftConfig(snapshot_bytes=60)
HANDLERS = {
    m.VoteRequest: "handle_vote",
    m.BeginQuorumEpochRequest: "handle_begin_epoch",
    m.EndQuorumEpochRequest: "handle_end_epoch",
    m.QuorumFetchRequest: "handle_fetch",
    m.FetchSnapshotRequest: "handle_fetch_snapshot",
}


class Entry(NamedTuple):
    """A record: a value, or voters."""

    epoch: int
    value: str = ""
    voters: tuple[tuple[int, str], ...] | None = None


def decode_entries(data: bytes) -> list[Entry]:
    return [
        Entry(epoch, value, None if voters is None else tuple((node, directory) for node, directory in voters))
        for epoch, value, voters in json.loads(data)
    ]


class MemoryLog:
    """A LogView. What a snapshot has replaced stays in `entries`, for whoever wants to compare."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.start_offset = 0
        self.true_flushed = 0
        self.snapshot: k.SnapshotId | None = None

    @property
    def end_offset(self) -> int:
        return len(self.entries)

    @property
    def flushed_offset(self) -> int:
        return self.true_flushed

    @property
    def last_epoch(self) -> int:
        return self.entries[-1].epoch if self.entries else 0

    def epoch_end(self, epoch: int) -> tuple[int, int]:
        for offset in range(self.end_offset, self.start_offset, -1):
            if self.entries[offset - 1].epoch <= epoch:
                return self.entries[offset - 1].epoch, offset
        if self.snapshot and self.start_offset == self.end_offset and self.snapshot.epoch <= epoch:
            return self.snapshot.epoch, self.end_offset
        return -1, -1

    def truncate(self, offset: int) -> None:
        assert offset >= self.start_offset
        del self.entries[offset:]
        self.true_flushed = min(self.true_flushed, offset)

    def flush(self) -> None:
        self.true_flushed = self.end_offset

    def voters(self) -> list[tuple[int, list[m.Voter]]]:
        return [(offset, as_voters(entry)) for offset, entry in enumerate(self.entries) if entry.voters is not None]


def as_voters(entry: Entry) -> list[m.Voter]:
    return [m.Voter(*voter) for voter in entry.voters or ()]


class Call:
    """A request as its sender knows it."""

    def __init__(self, src: int, dst: int, request: Any, deadline_ms: float) -> None:
        self.src, self.dst, self.request, self.deadline_ms = src, dst, request, deadline_ms


class Packet:
    """A request under way, or its answer."""

    def __init__(self, src: int, dst: int, call: Call, answer: Any = None, data: bytes = b"") -> None:
        self.src, self.dst, self.call = src, dst, call
        self.answer, self.data = answer, data


class Node:
    """A machine and what it stands on."""

    def __init__(self, quorum: Quorum, node_id: int, directory_id: str) -> None:
        self.quorum = quorum
        self.me = m.Voter(node_id, directory_id)
        self.log = quorum.make_log()
        self.saved = k.QuorumState().encode()
        self.machine: KraftMachine | None = None
        self.life = 0
        self.calls: list[Call] = []
        self.snapshot_data = b""
        self.received = b""
        self.download = b""
        self.installing: k.SnapshotId | None = None
        self.auto_flush = True
        self.answered: Call | None = None
        self.rejects = False

    @property
    def id(self) -> int:
        return self.me.node_id

    def start(self) -> None:
        assert self.machine is None
        self.life += 1
        self.log.flush()
        state = k.QuorumState.decode(self.saved)
        random = self.quorum.random_for(self.id)
        self.machine = self.quorum.machine_class(
            self.me, state, self.log, self.log.voters(), self.quorum.config, random
        )
        self.tell("start")
        self.tell("peers_changed", [node_id for node_id in self.quorum.nodes if node_id != self.id])

    def crash(self, kept: int = 0) -> None:
        """Lose what is not flushed, but for so many records."""
        self.machine = None
        self.calls.clear()
        self.installing = None
        self.log.truncate(min(self.log.end_offset, self.log.true_flushed + kept))

    def tell(self, method: str, *args: Any) -> None:
        """Give the machine an input, and do what it says."""
        machine = self.machine
        assert machine is not None
        inputs: list[tuple[str, tuple[Any, ...]]] = [(method, args)]
        while inputs:
            name, given = inputs.pop(0)
            for effect in getattr(machine, name)(*given, self.quorum.now_ms):
                self.carry_out(machine, effect)
                inputs += self.follow_up(effect)
        self.quorum.check(self)

    def follow_up(self, effect: Any) -> list[tuple[str, tuple[Any, ...]]]:
        """What the machine has to hear of after an effect."""
        if isinstance(effect, k.InstallSnapshot):
            if self.quorum.takes_time():
                self.installing = effect.snapshot
                return []
            return [("snapshot_installed", (effect.snapshot, self.install(effect.snapshot)))]
        if not isinstance(effect, k.AppendLeaderChange | k.AppendVoters | k.AppendFetched | k.TruncateTo):
            return []
        if self.rejects and isinstance(effect, k.AppendFetched):
            assert self.answered is not None
            return [("request_failed", (self.answered.dst, self.answered.request))]
        if not self.auto_flush:
            return [("log_appended", ())]
        self.log.flush()
        return [("log_appended", ()), ("log_flushed", ())]

    def carry_out(self, machine: KraftMachine, effect: Any) -> None:
        quorum, log = self.quorum, self.log
        match effect:
            case k.SaveState(state):
                self.saved = quorum.save(state)
            case k.Send(node_id, request, timeout_ms):
                call = Call(self.id, node_id, request, quorum.now_ms + timeout_ms)
                self.calls.append(call)
                quorum.network.append(Packet(self.id, node_id, call))
            case k.Reply(token, reply, data):
                self.answer(token, reply, b"" if data is None else self.read(data))
            case k.Refuse(token, error):
                self.answer(token, error)
            case k.ReadSnapshot(token, request):
                self.read_snapshot(machine.epoch, token, request)
            case k.AppendLeaderChange(epoch, leader_id):
                self.append(Entry(epoch, f"leader {leader_id}"))
            case k.AppendVoters(epoch, voters):
                self.append(Entry(epoch, voters=tuple((voter.node_id, voter.directory_id) for voter in voters)))
            case k.AppendFetched(epoch, offset):
                assert offset == log.end_offset
                for entry in [] if self.rejects else decode_entries(self.received):
                    assert log.last_epoch <= entry.epoch <= epoch
                    self.append(entry)
            case k.TruncateTo(offset):
                log.truncate(offset)
            case k.WriteSnapshot(_, position):
                self.download = self.download[:position] + self.received
        quorum.note(self, effect)

    def append(self, entry: Entry) -> None:
        self.log.entries.append(entry)
        if entry.voters is not None:
            assert self.machine is not None
            self.machine.voters_appended(self.log.end_offset - 1, as_voters(entry))

    def decide(self, value: str) -> None:
        """Append a record, as the controller does."""
        assert self.machine is not None
        self.append(Entry(self.machine.epoch, value))
        self.tell("log_appended")
        if self.auto_flush:
            self.flush()

    def flush(self) -> None:
        """What has been begun is on the disk."""
        self.log.flush()
        self.tell("log_flushed")
        snapshot, self.installing = self.installing, None
        if snapshot is not None and self.quorum.fails():
            self.tell("snapshot_failed")
        elif snapshot is not None:
            self.tell("snapshot_installed", snapshot, self.install(snapshot))

    def read(self, data: k.LogRange) -> bytes:
        assert data.offset >= self.log.start_offset
        end = min(data.end_offset, data.offset + self.quorum.records_max())
        return json.dumps(self.log.entries[data.offset : end]).encode()

    def read_snapshot(self, epoch: int, token: Any, request: m.FetchSnapshotRequest) -> None:
        position, size = request.position, len(self.snapshot_data)
        if self.log.snapshot != (request.snapshot_offset, request.snapshot_epoch):
            self.answer(token, SnapshotNotFoundError("no such snapshot"))
            return
        part = self.snapshot_data[position : position + request.max_bytes]
        self.answer(token, m.FetchSnapshotReply(epoch, self.id, size, position), part)

    def install(self, snapshot: k.SnapshotId) -> tuple[int, list[m.Voter]]:
        log = self.log
        log.entries = decode_entries(self.download)
        assert (len(log.entries), log.last_epoch) == snapshot
        log.start_offset = log.end_offset
        log.flush()
        log.snapshot, self.snapshot_data = snapshot, self.download
        return log.voters()[-1]

    def take_snapshot(self) -> None:
        """Write a snapshot of all that is committed, and remove that from the log."""
        machine, log = self.machine, self.log
        assert machine is not None
        offset = min(machine.high_watermark, log.true_flushed)
        if offset > log.start_offset:
            log.snapshot = k.SnapshotId(offset, log.entries[offset - 1].epoch)
            log.start_offset = offset
            self.snapshot_data = json.dumps(log.entries[:offset]).encode()
            machine.snapshot_written(log.snapshot)

    def answer(self, token: Any, answer: Any, data: bytes = b"") -> None:
        if isinstance(token, Call):
            self.quorum.network.append(Packet(self.id, token.src, token, answer, data))

    def receive(self, packet: Packet) -> None:
        call = packet.call
        if packet.answer is None:
            request = msgspec.msgpack.decode(msgspec.msgpack.encode(call.request), type=type(call.request))
            self.tell(HANDLERS[type(request)], request, call)
        elif call in self.calls:  # else it came too late
            self.calls.remove(call)
            if isinstance(packet.answer, Exception):
                self.tell("request_failed", call.dst, call.request)
                return
            self.received, self.answered, self.rejects = packet.data, call, self.quorum.fails()
            self.tell("handle_reply", call.dst, call.request, packet.answer, len(packet.data))

    def fail_calls(self, to: int | None = None) -> None:
        """Tell of requests that were not answered in time, or of all to a node."""
        for call in list(self.calls):
            if call in self.calls and (call.deadline_ms <= self.quorum.now_ms if to is None else call.dst == to):
                self.calls.remove(call)
                self.tell("request_failed", call.dst, call.request)


class Quorum:
    """Nodes, the messages between them, and the time."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}
        self.network: list[Packet] = []
        self.now_ms = 0.0
        self.machine_class = KraftMachine
        self.make_log = MemoryLog
        self.config = CONFIG

    def random_for(self, node_id: int) -> Callable[[], float]:
        """Each node has its own fixed number, in the order of their ids."""
        return lambda: node_id / 10

    def save(self, state: k.QuorumState) -> bytes:
        return state.encode()

    def records_max(self) -> int:
        """How many records a fetch is answered with."""
        return 1000

    def takes_time(self) -> bool:
        """Whether a snapshot is installed with the next flush only."""
        return False

    def fails(self) -> bool:
        """Whether something that came cannot be used."""
        return False

    def note(self, node: Node, effect: Any) -> None:
        """Called for each effect that was carried out."""

    def check(self, node: Node) -> None:
        """Called after each input."""

    def add(self, node_id: int, voters: list[int] | None = None, directory_id: str = "") -> Node:
        """A node whose log says who votes, or says nothing."""
        node = self.nodes[node_id] = Node(self, node_id, directory_id or f"d{node_id}")
        if voters:
            node.log.entries.append(Entry(0, voters=tuple((voter, f"d{voter}") for voter in voters)))
        return node

    @property
    def alive(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.machine is not None]

    def tick_due(self) -> None:
        """Let everything happen that is due by now."""
        for node in self.alive:
            node.fail_calls()
            assert node.machine is not None
            if node.machine.next_deadline() <= self.now_ms:
                node.tell("tick")

    def next_ms(self) -> float:
        """When something is due again."""
        due = [node.machine.next_deadline() for node in self.alive if node.machine]
        due += [call.deadline_ms for node in self.alive for call in node.calls]
        return min(due, default=k.NEVER)

    def deliver(self, packet: Packet) -> None:
        """A message arrives, if there is somebody; the link tells the sender if there is nobody."""
        self.network.remove(packet)
        target = self.nodes.get(packet.dst)
        if target is not None and target.machine is not None:
            target.receive(packet)
        elif packet.answer is None:
            sender = self.nodes[packet.src]
            if packet.call in sender.calls:
                sender.calls.remove(packet.call)
                sender.tell("request_failed", packet.dst, packet.call.request)


@pytest.fixture
def quorum_class() -> type[Quorum]:
    """An in-memory quorum, to inherit from."""
    return Quorum
