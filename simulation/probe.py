"""What the checkers read of the nodes' inner state: all of it here, so that the actors may change without them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..actors.context import QUORUM, coordinator_address, partition_address
from ..actors.leading import Leading
from ..errors import CorruptMessageError
from ..groups.group_table import GroupTable
from ..groups.transaction_table import TransactionTable
from ..log.batch import HEADER_SIZE, read_header
from ..log.partition_log import PartitionLog
from ..quorum.elections import min_insync_replicas
from ..quorum.image import METADATA_TOPIC

if TYPE_CHECKING:
    from ..quorum.image import MetadataImage, PartitionImage
    from ..quorum.kraft_types import QuorumState, SnapshotId
    from ..settings import TopicConfig
    from ..transport.quorum_messages import Voter
    from .cluster import SimNode
    from .node_life import NodeLife


_LOADS_MAX = 1_000_000
"""In one life of a node."""


class Key(NamedTuple):
    """A partition of one topic; another topic of its name is another one."""

    topic: str
    partition: int
    topic_id: str

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


METADATA_KEY = Key(METADATA_TOPIC, 0, "")


class Replica(NamedTuple):
    """One partition on one node, as it is in memory."""

    key: Key
    log: PartitionLog
    high_watermark: int
    state: PartitionImage
    """As far as this node knows."""
    leads: bool
    """Whether it serves as the leader."""
    config: TopicConfig
    end_offset: int
    flushed_offset: int

    @property
    def name(self) -> str:
        """The partition's name."""
        return str(self.key)

    @property
    def leader_epoch(self) -> int:
        """The epoch that it leads or follows in."""
        return self.state.leader_epoch

    @property
    def flush(self) -> str:
        """The topic's flush setting."""
        return self.config.flush

    @property
    def min_isr(self) -> int:
        """How many have to be in sync for anything to be committed."""
        return min_insync_replicas(self.config.min_insync_replicas, self.state)


class Departed(NamedTuple):
    """A partition whose actor is gone since the last look, as it ended."""

    key: Key
    high_watermark: int


class QuorumView(NamedTuple):
    """A node's member of the metadata quorum, as it is in memory."""

    me: Voter
    state: QuorumState
    leads: bool
    high_watermark: int
    log: PartitionLog
    image: MetadataImage
    """Of what is committed."""
    end_offset: int
    start_offset: int
    flushed_offset: int
    snapshot: SnapshotId | None
    actor: Any

    @property
    def voters(self) -> list[Voter]:
        """Who votes, by this node's log."""
        return list(self.actor.machine.voters)

    def load_snapshot(self) -> MetadataImage:
        """The newest snapshot, read from the disk. CorruptMessageError or OSError if it is not as it should be."""
        loaded: MetadataImage = self.actor._log._snapshots.load(self.snapshot)  # noqa: SLF001 - see above
        return loaded


class Eyes:
    """Looks into one life of a node after each of its passes, and shows what differs from the last time."""

    def __init__(self, life: NodeLife, node_id: int) -> None:
        self._life = life
        self._node_id = node_id
        self._image: MetadataImage | None = None
        self._addresses: list[tuple[str, Key]] = []
        self._seen: dict[Key, Replica] = {}
        self.damaged: list[Key] = []
        """Partitions whose logs are found to be damaged; they are not looked into."""
        self._leaders: dict[Key, Any] = {}
        """Actors that led when they were seen last."""
        self._quorum: QuorumView | None = None

    def changed(self) -> list[Replica]:
        """The open partitions that have changed."""
        found = []
        for replica in self._replicas():
            if self._seen.get(replica.key) != replica:
                self._seen[replica.key] = replica
                found.append(replica)
                if replica.leads:
                    self._leaders[replica.key] = self._actor(replica.key)
                else:
                    self._leaders.pop(replica.key, None)
        return found

    def departed(self) -> list[Departed]:
        """Leaders that are gone, or whose logs are found to be damaged and looked into no more.

        One that advances and is stopped, or finds damage, within one pass is never seen with its last mark.
        """
        gone = [key for key, actor in self._leaders.items() if self._actor(key) is not actor]
        found = [Departed(key, self._leaders.pop(key).high_watermark) for key in gone]
        damaged = [(key, self._leaders.get(key)) for key in self.damaged]
        return found + [Departed(key, actor.high_watermark) for key, actor in damaged if actor is not None]

    def _actor(self, key: Key) -> Any:
        actors = self._life.runner.reactor._actors  # noqa: SLF001 - the one place that looks inside
        return actors.get(partition_address(key.topic, key.partition))

    def replicas(self) -> list[Replica]:
        """All open partitions."""
        return list(self._replicas())

    def _replicas(self) -> list[Replica]:
        life, found, self.damaged = self._life, [], []
        actors = life.runner.reactor._actors  # noqa: SLF001 - the one place that looks inside
        image = life.context.image
        if image is not self._image:
            self._image = image
            self._addresses = [
                (partition_address(topic.name, index), Key(topic.name, index, topic.topic_id))
                for topic in image.topics.values()
                for index, state in enumerate(topic.partitions)
                if self._node_id in state.replicas
            ]
        for address, key in self._addresses:
            actor: Any = actors.get(address)
            if actor is None:
                continue
            log = actor.log
            if isinstance(log, PartitionLog) and log.damage is not None:
                self.damaged.append(key)
            elif isinstance(log, PartitionLog):
                leads = isinstance(actor._role, Leading)  # noqa: SLF001 - see above
                mark, state, config = actor.high_watermark, actor.state, actor.config
                found.append(Replica(key, log, mark, state, leads, config, log.log_end_offset, log.flushed_offset))
        return found

    def quorum(self) -> QuorumView | None:
        """The quorum's member, if it has changed."""
        view = self._view()
        if view is None or view == self._quorum:
            return None
        self._quorum = view
        return view

    def _view(self) -> QuorumView | None:
        actor: Any = self._life.runner.reactor._actors.get(QUORUM)  # noqa: SLF001 - see above
        if actor is None:
            return None
        machine, log = actor.machine, actor._log  # noqa: SLF001 - see above
        return QuorumView(
            actor._files.me,  # noqa: SLF001 - see above
            machine.state,
            machine.is_leader,
            machine.high_watermark,
            log._log,  # noqa: SLF001 - see above
            log.committed,
            log.end_offset,
            log.start_offset,
            log.flushed_offset,
            log.snapshot,
            actor,
        )


def replicas(node: SimNode) -> list[Replica]:
    """The open partitions of a running node."""
    return [] if node.life is None else Eyes(node.life, node.node_id).replicas()


def loads(node: SimNode, topic: str, partition: int) -> int:
    """Which reading of its log a node's coordinator of this partition goes by, over all lives; 0: it has none."""
    life = node.life
    actor: Any = None if life is None else life.runner.reactor._actors.get(coordinator_address(topic, partition))  # noqa: SLF001 - see above
    return 0 if actor is None else node.lives * _LOADS_MAX + actor._load_id + 1  # noqa: SLF001 - see above


def stable_offset(log: PartitionLog, high_watermark: int) -> int:
    """The last stable offset of a replica, by what it knows; asking it for that would let it forget some of this."""
    transactions = log.producers.transactions
    ended = [each.first_offset for each in transactions.ended if each.last_offset >= high_watermark]
    return max(log.log_start_offset, min([high_watermark, *ended, *transactions._open.values()]))  # noqa: SLF001 - see above


def unfinished(node: SimNode) -> str:
    """A transaction that a coordinator on this node has not brought to its end, or offsets that wait for one."""
    actors = {} if node.life is None else node.life.runner.reactor._actors  # noqa: SLF001 - see above
    for address, actor in actors.items():
        table: Any = getattr(actor, "_table", None)
        if isinstance(table, TransactionTable):
            for found in table.transactions.values():
                if not found.is_idle:
                    return f"the transaction of {found.transactional_id} on {node.name} is {found.state}"
        elif isinstance(table, GroupTable) and len(table.pending):
            return f"offsets of transactions are pending in {address} on {node.name}"
    return ""


def image(node: SimNode) -> MetadataImage | None:
    """The committed metadata of a running node."""
    return None if node.life is None else node.life.context.image


def old_batches(log: PartitionLog, end_offset: int) -> list[tuple[str, int, int]]:
    """(path, position, size) of batches below an offset that were not written just now, those before any damage."""
    found: list[tuple[str, int, int]] = []
    for segment in log._segments:  # noqa: SLF001 - see above
        file, position = segment.file, 0
        while position < segment.size:
            try:
                header = read_header(file.read(position, HEADER_SIZE))
            except CorruptMessageError:
                break
            if header.next_offset > end_offset:
                break
            is_old = segment.sealed or header.next_offset <= log._found_end  # noqa: SLF001 - see above
            if is_old and header.base_offset >= log.log_start_offset:
                found.append((file.path, position, header.size))
            position += header.size
    return found


def batches(log: PartitionLog, offset: int, end_offset: int | None = None) -> list[bytes]:
    """All batches of a log from an offset on, up to the first that is damaged."""
    found: list[bytes] = []
    end_offset = log.log_end_offset if end_offset is None else end_offset
    while offset < end_offset:
        try:
            data = log.read(offset, 1 << 20, end_offset=end_offset)
        except CorruptMessageError:
            log.damage = None  # it is for the node to find it
            break
        if not data:
            break  # the end is within a batch
        position = 0
        while position < len(data):
            header = read_header(data, position)
            found.append(data[position : position + header.size])
            position += header.size
            offset = header.next_offset
    return found
