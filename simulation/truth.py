"""What is true in a run, whatever a node believes: committed records and metadata, and what each node's disk holds.

A record is committed once some leader's high watermark has passed it; metadata once some node has heard so. From then
on they have to stay: every replica that counts them as committed has the same (invariants 5 and 6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..log.batch import MAX_SEQUENCE, read_header
from ..quorum.image import MetadataImage
from . import probe
from .probe import METADATA_KEY, Key, QuorumView, Replica

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..log.partition_log import PartitionLog
    from ..quorum.image import PartitionImage
    from .cluster import Cluster, SimNode
    from .history import History, Partition
    from .world import World


class Held(NamedTuple):
    """What a node has of a log, as it was seen last."""

    life: int
    end_offset: int
    flushed_offset: int
    log: PartitionLog


class Committed:
    """The committed batches of one partition."""

    def __init__(self) -> None:
        self.high_watermark = 0
        self.batches: dict[int, bytes] = {}
        """By base offset."""
        self.seen_end = 0
        """What is below was seen on some replica; the high watermark alone may be heard of before."""
        self._sequences: dict[int, tuple[int, int]] = {}

    def add(self, batch: bytes) -> str:
        """One more; what is wrong with its sequence (invariant 15), or nothing."""
        header = read_header(batch)
        self.batches[header.base_offset] = batch
        self.seen_end = header.next_offset
        self.high_watermark = max(self.high_watermark, header.next_offset)
        if not header.has_producer_id:
            return ""
        epoch, sequence = self._sequences.get(header.producer_id, (-1, -1))
        if header.is_control:  # has no sequence, and ends all epochs before its own
            kept = sequence if header.producer_epoch == epoch else -1
            self._sequences[header.producer_id] = (header.producer_epoch, kept)
            return "" if header.producer_epoch >= epoch else f"{header} stands behind producer epoch {epoch}"
        expected = 0 if header.producer_epoch > epoch else (sequence + 1) & MAX_SEQUENCE
        self._sequences[header.producer_id] = (header.producer_epoch, header.last_sequence)
        if header.producer_epoch < epoch or header.base_sequence != expected:
            return f"{header} stands behind sequence {sequence} of producer epoch {epoch}"
        return ""


class _Verified(NamedTuple):
    """Up to where a replica's log was compared."""

    log: PartitionLog
    end_offset: int


class Truth:
    """Asked by the invariants; told after each pass of a node, before them."""

    def __init__(self, world: World, cluster: Cluster, history: History) -> None:
        self._world = world
        self._history = history
        self.nodes = {node.node_id: node for node in cluster}
        self.image = MetadataImage()
        """The newest committed metadata that any node has."""
        self.old_image = self.image
        """The image before this pass."""
        self.partitions: dict[Key, Committed] = {}
        self.advanced: dict[Key, int] = {}
        """High watermarks that have moved in this pass, and from where."""
        self._held: dict[tuple[int, Key], Held] = {}
        self._verified: dict[tuple[int, Key], _Verified] = {}
        self._leaders: dict[tuple[Key, int], tuple[SimNode, int]] = {}
        self._began_ms: dict[tuple[Key, int], float] = {}
        self._epochs: dict[tuple[int, Key], int] = {}
        """In which epoch each replica was seen last."""
        self.on_committed: list[Callable[[Key, bytes], object]] = []
        """Hear of each batch, as it is known to be committed, in the order of its partition."""
        history.on_acked.append(self._check_acked)
        history.on_read.append(self._check_read)

    # ---- questions

    def high_watermark(self, key: Key) -> int:
        """The true one: the highest that any leader has had."""
        found = self.partitions.get(key)
        return 0 if found is None else found.high_watermark

    def held(self, node_id: int, key: Key) -> Held | None:
        """What a node has of a log, running or not; None if it never had any."""
        return self._held.get((node_id, key))

    def runs(self, node_id: int, held: Held) -> bool:
        """Whether the process that was seen with this still runs."""
        node = self.nodes.get(node_id)
        return node is not None and node.life is not None and node.lives == held.life

    def state(self, key: Key) -> PartitionImage | None:
        """A partition's committed state."""
        topic = self.image.topics.get(key.topic)
        if topic is None or topic.topic_id != key.topic_id or key.partition >= len(topic.partitions):
            return None
        return topic.partitions[key.partition]

    def leaders(self, since_ms: float) -> list[SimNode]:
        """Running nodes that lead the quorum, or a partition, and began to after a time."""
        found = dict.fromkeys(
            node.node_id
            for (node, life), began_ms in zip(self._leaders.values(), self._began_ms.values(), strict=True)
            if began_ms >= since_ms and node.life is not None and node.lives == life
        )
        return [self.nodes[node_id] for node_id in found]

    def all_in_sync(self) -> bool:
        """Whether every replica of every partition is in sync, by the metadata and in truth."""
        for topic in self.image.topics.values():
            for index, state in enumerate(topic.partitions):
                key = Key(topic.name, index, topic.topic_id)
                held = [self.held(node_id, key) for node_id in state.replicas]
                mark = self.high_watermark(key)
                if len(state.isr) < len(state.replicas) or state.leader == -1:
                    return False
                if not all(each and each.end_offset >= mark for each in held):
                    return False
        return True

    # ---- what is seen

    def after_pass(self, node: SimNode, replicas: list[Replica], quorum: QuorumView | None) -> None:
        """A node's reactor has run: take in what has changed there."""
        self.old_image = self.image
        self.advanced.clear()
        if quorum is not None:
            self._hold(node, METADATA_KEY, quorum.log)
            self._lead(node, METADATA_KEY, quorum.state.epoch, leads=quorum.leads)
            may_commit = self._may_commit(node, METADATA_KEY, quorum.state.epoch)
            self._compare(node, METADATA_KEY, quorum.log, quorum.high_watermark, may_commit=may_commit)
            if quorum.image.end_offset > self.image.end_offset:
                self.image = quorum.image
        for replica in replicas:
            self._hold(node, replica.key, replica.log)
            key, epoch = replica.key, replica.leader_epoch
            self._lead(node, key, epoch, leads=replica.leads)
            may_commit = self._may_commit(node, key, epoch)
            self._compare(node, key, replica.log, replica.high_watermark, may_commit=may_commit)

    def departed(self, key: Key, high_watermark: int) -> None:
        """A leader has ended with this high watermark; what is below it is seen on the replicas that stay."""
        committed = self.partitions.setdefault(key, Committed())
        committed.high_watermark = max(committed.high_watermark, high_watermark)

    def before_death(self, node: SimNode, replicas: list[Replica], quorum: QuorumView | None) -> None:
        """A node's last pass ended badly; what it has flushed in it, it has."""
        if quorum is not None:
            self._hold(node, METADATA_KEY, quorum.log)
        for replica in replicas:
            self._hold(node, replica.key, replica.log)

    def _hold(self, node: SimNode, key: Key, log: PartitionLog) -> None:
        """What an earlier life has flushed is on the disk, whether or not a recovery trusts that."""
        before = self._held.get((node.node_id, key))
        flushed = log.flushed_offset
        if before is not None and (before.log is log or before.life != node.lives):
            flushed = max(flushed, min(before.flushed_offset, log.log_end_offset))
        self._held[node.node_id, key] = Held(node.lives, log.log_end_offset, flushed, log)

    def _lead(self, node: SimNode, key: Key, epoch: int, *, leads: bool) -> None:
        if leads and (key, epoch) not in self._leaders:
            self._leaders[key, epoch] = (node, node.lives)
            self._began_ms[key, epoch] = self._world.now_ms

    def _may_commit(self, node: SimNode, key: Key, epoch: int) -> bool:
        """Whether it leads, or did when this pass began; or its leader has ended before it could be looked into."""
        before = self._epochs.get((node.node_id, key), epoch)
        self._epochs[node.node_id, key] = epoch
        leaders = (self._leaders.get((key, each)) for each in (before, epoch))
        return any(
            leader is None or leader[0] is node or leader[0].life is None or leader[0].lives != leader[1]
            for leader in leaders
        )

    def _compare(self, node: SimNode, key: Key, log: PartitionLog, mark: int, *, may_commit: bool) -> None:
        """Hold what a replica counts as committed against what is."""
        committed = self.partitions.get(key)
        if committed is None:
            committed = self.partitions[key] = Committed()
        before = self._verified.get((node.node_id, key))
        start = log.log_start_offset
        if before is not None and before.log is log:
            start = max(start, min(before.end_offset, log.log_end_offset))
        end = min(mark, log.log_end_offset)
        if mark > committed.high_watermark:
            if not may_commit:
                text = f"{key} on {node.name} is {mark}, and no leader was ever past {committed.high_watermark}"
                self._world.violated("6 high watermark", text)
                return
            self.advanced[key] = committed.high_watermark
        if end > start:
            self.check(node, key, log, start, end)
            start = end
        committed.high_watermark = max(committed.high_watermark, mark)
        self._verified[node.node_id, key] = _Verified(log, start)

    def check(self, node: SimNode, key: Key, log: PartitionLog, start: int, end: int) -> None:
        """Compare a part of a log with what is committed; what was not committed before is from now on."""
        committed = self.partitions[key]
        for batch in probe.batches(log, start, end):
            base = read_header(batch).base_offset
            if base >= committed.seen_end:
                wrong = committed.add(batch)
                if wrong:
                    self._world.violated("15 sequences", f"{key} on {node.name}: {wrong}")
                for tell in self.on_committed:
                    tell(key, batch)
            elif (known := committed.batches.get(base)) is not None and known != batch:
                text = f"{key} on {node.name} has {read_header(batch)}, and {read_header(known)} is committed there"
                self._world.violated("5 identical replicas", text)

    def check_whole(self, node: SimNode, key: Key, log: PartitionLog) -> bool:
        """Compare all that is committed and was not compared yet; False if the log does not even reach so far."""
        end = self.high_watermark(key)
        if log.log_end_offset < end:
            return False
        before = self._verified.get((node.node_id, key))
        start = before.end_offset if before is not None and before.log is log else 0
        start = max(start, log.log_start_offset)
        if end > start:
            self.check(node, key, log, start, end)
            self._verified[node.node_id, key] = _Verified(log, end)
        return True

    # ---- what clients see

    def _key(self, partition: Partition) -> Key | None:
        topic, index = partition
        found = self.image.topics.get(topic)
        return None if found is None else Key(topic, index, found.topic_id)

    def _check_acked(self, value: bytes, partition: Partition, offset: int) -> None:
        """3: what is acked by all is committed, where the producer was told."""
        key = self._key(partition)
        committed = None if key is None else self.partitions.get(key)
        if committed is None or offset >= committed.high_watermark:
            mark = "nothing" if committed is None else committed.high_watermark
            text = f"{value!r} is acked at {offset} of {partition}, and what is below {mark} is committed"
            self._world.violated("3 acked is committed", text)

    def _check_read(self, partition: Partition, offset: int) -> None:
        """10: nobody reads at or above the true high watermark."""
        key = self._key(partition)
        mark = 0 if key is None else self.high_watermark(key)
        if offset >= mark:
            self._world.violated("H10", f"offset {offset} of {partition} was read, and {mark} is its high watermark")
