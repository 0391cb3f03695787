"""What must always hold, by the numbers of the project's list: S after each event, E at the end, H by what clients saw.

A checker that looks into nodes looks only at the one whose reactor has just run, and only at what has changed.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from ..log.batch import MAX_SEQUENCE, read_header
from ..log.data_folder import CLEAN_NAME
from . import probe
from .history import Fate
from .log_model import LogModel
from .probe import METADATA_KEY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..log.partition_log import PartitionLog
    from ..quorum.image import MetadataImage
    from .cluster import Cluster, SimNode
    from .history import History, Partition
    from .probe import Key, QuorumView, Replica
    from .truth import Truth
    from .world import World


class Invariant:
    """Something that must hold in a run. Tell ``world.violated`` when it does not."""

    NAME = ""

    def __init__(self, world: World, cluster: Cluster, history: History, truth: Truth) -> None:
        self.world = world
        self.cluster = cluster
        self.history = history
        self.truth = truth
        self._init()

    def _init(self) -> None:
        """Prepare."""

    def after_pass(self, node: SimNode, replicas: Sequence[Replica]) -> None:
        """The node's reactor has run a pass; these are its open partitions that have changed."""

    def quorum_changed(self, node: SimNode, quorum: QuorumView) -> None:
        """In this pass, before ``after_pass``, the node's member of the quorum has changed."""

    def at_end(self) -> None:
        """All is healed, and everything has been read."""

    def violated(self, text: str) -> None:
        """It does not hold."""
        self.world.violated(self.NAME, text)


class HighWatermarks(Invariant):
    """6 and 7, as far as one node shows them: a high watermark does not go back, a leader's covers what is flushed."""

    NAME = "6 high watermark"

    def _init(self) -> None:
        self._seen: dict[tuple[str, int, str], tuple[PartitionLog, int]] = {}

    def after_pass(self, node: SimNode, replicas: Sequence[Replica]) -> None:
        """Look at each partition's."""
        for replica in replicas:
            key = (node.name, node.lives, replica.name)
            mark = replica.high_watermark
            log, before = self._seen.get(key, (replica.log, -1))
            if log is not replica.log or node.has_rotten:
                before = -1  # the replica was moved away and has come back, with nothing; or it was cut at its damage
            elif before == mark:
                continue
            self._seen[key] = (replica.log, mark)
            where = f"{replica.name} on {node.name}"
            if mark < before:
                self.violated(f"{where} went back from {before} to {mark}")
            if not replica.log.log_start_offset <= mark <= replica.log.log_end_offset:
                self.violated(f"{where} is {mark}, the log {replica.log.log_start_offset} to its end")
            flushed = max(replica.log.flushed_offset, replica.log.log_start_offset)
            if replica.leads and replica.flush == "ack" and mark > flushed:
                self.violated(f"{where} is {mark}, and only what is below {flushed} is flushed")


class Epochs(Invariant):
    """2: epochs of leaders, partitions and nodes never go back, and a restarted node still knows them."""

    NAME = "2 epochs"

    def _init(self) -> None:
        self._images: dict[str, MetadataImage] = {}
        self._highest: dict[tuple[str, str], int] = {}

    def after_pass(self, node: SimNode, replicas: Sequence[Replica]) -> None:  # noqa: ARG002 - the image says it
        """Look at the image, if it is another than before."""
        image = probe.image(node)
        if image is None or self._images.get(node.name) is image or not node.ready:
            return
        self._images[node.name] = image
        self._note(node, "metadata", image.end_offset)
        for broker in image.nodes.values():
            self._note(node, f"epoch of node {broker.node_id}", broker.epoch)
        for topic in image.topics.values():
            for index, state in enumerate(topic.partitions):
                self._note(node, f"leader epoch of {topic.topic_id}-{index}", state.leader_epoch)
                self._note(node, f"partition epoch of {topic.topic_id}-{index}", state.partition_epoch)

    def _note(self, node: SimNode, what: str, value: int) -> None:
        key = (node.name, what)
        before = self._highest.get(key, -1)
        if value < before:
            self.violated(f"{what} on {node.name} went back from {before} to {value}")
        self._highest[key] = value


class _Before(NamedTuple):
    """What a log was when the life that had it ended."""

    batches: list[bytes]
    flushed_offset: int
    start_offset: int
    stopped: bool
    """In good order: all of it is flushed."""
    power_cuts: int
    """How often the machine had lost power until then."""


class Recovery(Invariant):
    """21: what is recovered is an exact beginning of what was written, with all that was flushed in it, and all that is
    derived from it equals what a full scan finds. The metadata log is one of the logs; snapshots may move its start.
    """

    NAME = "21 recovery"

    def _init(self) -> None:
        self._before: dict[tuple[str, Key], _Before] = {}
        self._opened: dict[tuple[str, Key], tuple[PartitionLog, int]] = {}
        """The log that was seen last, and in which life."""
        for node in self.cluster:
            node.on_death.append(self._note)
            node.on_stop.append(self._note_stopped)

    def _note(self, node: SimNode) -> None:
        logs = [(replica.key, replica.log) for replica in probe.replicas(node) if not node.has_rotten]
        quorum = None if node.life is None else probe.Eyes(node.life, node.node_id).quorum()
        if quorum is not None:
            logs.append((METADATA_KEY, quorum.log))
        for key, log in logs:
            self._note_log(node, key, log, stopped=False)

    def _note_stopped(self, node: SimNode) -> None:
        """What a closed log has can still be read, unless it was deleted; if the stop is clean, it is all there."""
        clean = node.life is not None and node.disk.exists(f"{node.life.folder.path}/{CLEAN_NAME}")
        for (name, key), (log, life) in self._opened.items():
            whole = log.damage is None and not log.failure and node.disk.exists(log.folder)
            if (name, life) == (node.name, node.lives) and whole and not node.has_rotten:
                self._note_log(node, key, log, stopped=clean)

    def _note_log(self, node: SimNode, key: Key, log: PartitionLog, *, stopped: bool) -> None:
        start = log.log_start_offset
        flushed = log.log_end_offset if stopped else log.flushed_offset
        self._before[node.name, key] = _Before(probe.batches(log, start), flushed, start, stopped, node.power_cuts)

    def quorum_changed(self, node: SimNode, quorum: QuorumView) -> None:
        """Look at the metadata log, if it was just opened."""
        self._look(node, METADATA_KEY, quorum.log)

    def after_pass(self, node: SimNode, replicas: Sequence[Replica]) -> None:
        """Look at each log that was just opened."""
        if self.truth.image is not self.truth.old_image:
            self._forget_moved()
        for replica in replicas:
            self._look(node, replica.key, replica.log)

    def _look(self, node: SimNode, key: Key, log: PartitionLog) -> None:
        if self._opened.get((node.name, key), (None, 0))[0] is log:
            return
        self._opened[node.name, key] = (log, node.lives)
        where = f"{key} on {node.name}"
        if (before := self._before.pop((node.name, key), None)) is not None:
            self._compare(where, log, before, power_cuts=node.power_cuts, is_metadata=key == METADATA_KEY)
        if not node.has_rotten:
            self.check_derived(where, log)

    def _forget_moved(self) -> None:
        """A replica that a node has no more is deleted there; if it comes back, then with nothing."""
        for name, key in list(self._before):
            state, node = self.truth.state(key), self.cluster.node_at(name)
            if state is not None and node is not None and node.node_id not in state.replicas:
                del self._before[name, key]

    def _compare(self, where: str, log: PartitionLog, before: _Before, *, power_cuts: int, is_metadata: bool) -> None:
        start = before.start_offset
        if log.log_start_offset > start:
            if not is_metadata:
                self.violated(f"{where} began at {start} and begins at {log.log_start_offset}")
            start = log.log_start_offset
        written = [batch for batch in before.batches if read_header(batch).next_offset > start]
        found, end = probe.batches(log, start), log.log_end_offset
        if is_metadata:  # who is alone leads at once, and has appended in its new epoch before this can be looked at
            last_epoch = read_header(written[-1]).leader_epoch if written else -1
            found = [batch for batch in found if read_header(batch).leader_epoch <= last_epoch]
            end = read_header(found[-1]).next_offset if found else start
        for old, new in zip(written, found, strict=False):
            if old != new:
                self.violated(f"{where} has {read_header(new)} instead of {read_header(old)}")
        if end < before.flushed_offset:
            self.violated(f"{where} was flushed up to {before.flushed_offset} and ends at {end}")
        if len(found) < len(written) and (before.stopped or power_cuts == before.power_cuts):
            how = "it had stopped cleanly" if before.stopped else "the machine was never off"
            self.violated(f"{where} had {len(written)} batches and has {len(found)}, though {how}")

    def check_derived(self, where: str, log: PartitionLog) -> None:
        """Hold epochs and producers against a full scan."""
        model = LogModel()
        model.batches = probe.batches(log, log.log_start_offset)
        known, scanned = log.epochs.entries(), model.epochs()
        # Epochs go with their segments, and the one that holds the log start keeps its true start.
        first = scanned[0][1] if scanned else log.log_end_offset
        at = bisect_right([start for _, start in known], first) - 1
        if at >= 0 and first > 0:
            known = [(known[at][0], first), *known[at + 1 :]] if scanned else known[at + 1 :]
        if known != scanned:
            self.violated(f"{where} knows the epochs {log.epochs.entries()}, and a scan finds {scanned}")
        if log.log_start_offset == 0 and log.producers.entries() != model.producers():
            self.violated(f"{where} knows the producers {log.producers.entries()}, a scan finds {model.producers()}")

    def at_end(self) -> None:
        """Look at all once more."""
        for node in self.cluster:
            for replica in () if node.has_rotten else probe.replicas(node):
                self.check_derived(f"{replica.name} on {node.name}", replica.log)


class Sequences(Invariant):
    """15: in a log, the sequences of a producer's epoch follow one another, and its epochs never go back."""

    NAME = "15 sequences"

    def at_end(self) -> None:
        """Look through every log."""
        for node in self.cluster:
            for replica in probe.replicas(node):
                log = replica.log
                self._check(f"{replica.name} on {node.name}", probe.batches(log, log.log_start_offset))

    def _check(self, where: str, batches: Sequence[bytes]) -> None:
        last: dict[int, tuple[int, int]] = {}
        for batch in batches:
            header = read_header(batch)
            if not header.has_producer_id:
                continue
            epoch, sequence = last.get(header.producer_id, (-1, -1))
            if header.is_control:  # has no sequence, and ends all epochs before its own
                last[header.producer_id] = (header.producer_epoch, sequence if header.producer_epoch == epoch else -1)
                continue
            expected = 0 if header.producer_epoch > epoch else (sequence + 1) & MAX_SEQUENCE
            if header.producer_epoch < epoch or header.base_sequence != expected:
                self.violated(f"{where} has {header}, and the sequence before it is {sequence} of epoch {epoch}")
            last[header.producer_id] = (header.producer_epoch, header.last_sequence)


class Acked(Invariant):
    """H11 and H13: after healing everything acked is read, where it was acked; one producer's records do not swap."""

    NAME = "H11 acked"
    acks: Sequence[int] = (-1,)
    """With which acks a record is safe from the faults of this run."""

    def at_end(self) -> None:
        """Compare what was sent with what was read."""
        history = self.history
        places = {value: place for place, value in self._read_in_order()}
        for value, fate in history.fates.items():
            if fate is not Fate.ACKED or history.sent[value].acks not in self.acks:
                continue
            place = places.get(value)
            if place is None:
                offset = history.offsets.get(value)
                self.violated(f"{value!r} was acked at offset {offset} of {history.sent[value].partition} and is lost")
            elif place[1] != history.offsets.get(value, place[1]):
                self.violated(f"{value!r} was acked at offset {history.offsets[value]} and stands at {place}")

    def _read_in_order(self) -> list[tuple[tuple[Partition, int], bytes]]:
        found = []
        for partition, values in self.history.read.items():
            numbers: dict[str, int] = {}
            for offset, value in sorted(values.items()):
                found.append(((partition, offset), value))
                sent = self.history.sent.get(value)
                if sent is None:
                    continue  # noted when it was read
                if sent.number <= numbers.get(sent.producer, -1):
                    before = numbers[sent.producer]
                    self.violated(f"H13: record {sent.number} of {sent.producer} stands behind {before} in {partition}")
                numbers[sent.producer] = sent.number
        return found
