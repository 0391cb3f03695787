"""MetadataKeeper: holds the committed metadata image for the node, and starts and stops its partitions' actors by it.

Nothing starts before this process is registered: what an older process of this node led or followed, it led or followed
with a log that may have lost its end since.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from ..quorum.image import METADATA_TOPIC, MetadataImage
from ..transport.config_messages import TOPIC_RESOURCE
from ..transport.internal_topics import INTERNAL_TOPICS
from .actor import ReactorActor
from .commands import AllStarted, ImageCommitted, Reconfigure, Retire, Retired, TopicGone
from .context import (
    CONTROLLER,
    MEMBERSHIP,
    METADATA_KEEPER,
    PEERS,
    coordinator_address,
    partition_address,
)
from .group_coordinator import GroupCoordinator
from .log_care import remove_later
from .partition import Partition
from .peer_commands import ImageApplied, KnownNodes, NodeActive
from .share_coordinator import ShareCoordinator
from .transaction_coordinator import TransactionCoordinator

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..quorum.image import NodeImage, PartitionImage, TopicImage
    from .context import NodeContext
    from .coordinator import Coordinator

logger = logging.getLogger(__name__)


_COORDINATORS: dict[str, type[Coordinator]] = {
    GroupCoordinator.TOPIC: GroupCoordinator,
    ShareCoordinator.TOPIC: ShareCoordinator,
    TransactionCoordinator.TOPIC: TransactionCoordinator,
}
assert _COORDINATORS.keys() == INTERNAL_TOPICS


def _may_be_in_sync(node: NodeImage) -> bool:
    return not (node.fenced or node.stopping)


class _LastToStart(ReactorActor):
    """Spawned behind the partitions' actors, it has its first turn when each of them has had its own."""

    def on_start(self) -> None:
        """Say so."""
        self.reactor.tell(METADATA_KEEPER, AllStarted())
        self.stop()


class MetadataKeeper(ReactorActor):
    """Makes this node's partition actors agree with the image.

    Images are taken one after the other: while actors of partitions that left this node are still ending, the next ones
    wait, so that one that comes again finds its addresses and folders free.
    """

    def __init__(self, context: NodeContext, on_started: Callable[[], None]) -> None:
        super().__init__()
        self.context = context
        self._on_started = on_started
        self._images: deque[MetadataImage] = deque()
        self._ending: set[str] = set()
        self._registered = False
        self._ended_for: MetadataImage | None = None
        """The image for which all that does not stay has been told to end."""

    def on_receive(self, message: Any) -> None:
        """Take the next image, or the end of an actor that an image no longer has."""
        match message:
            case ImageCommitted():
                self._images.append(message.image)
            case Retired():
                self._ending.remove(message.address)
                if not self._ending:
                    self._forget_ended()
            case AllStarted():
                self._on_started()
            case NodeActive():
                self._set_strays_aside()
            case _:
                assert False, f"the metadata keeper got {message!r}"  # noqa: B011, PT015 - nobody sends it anything else
        while self._images and not self._ending:
            self._take(self._images.popleft())

    def _take(self, new: MetadataImage) -> None:
        old = self.context.image
        assert new.end_offset >= old.end_offset, f"the metadata go back from {old.end_offset} to {new.end_offset}"
        first = not self._registered
        if first:
            own = new.nodes.get(self.context.config.node_id)
            if own is None or own.incarnation != self.context.incarnation:
                self._publish(old, new)
                return
            self._registered = True
            self.context.node_epoch = own.epoch
        before = MetadataImage() if first else old
        if self._ended_for is not new:
            self._ended_for = new
            self._end_what_goes(before, new)
            if self._ending:
                self._images.appendleft(new)  # what begins may need the addresses and folders of what ends
                return
        self._publish(old, new)
        for topic in new.topics.values():
            known = before.topics.get(topic.name)
            if known is not None and known.topic_id != topic.topic_id:
                known = None
            self._change_topic(topic, known, before)
        self._tell_leaders_who_is_back(before, new)
        if first:
            self.reactor.spawn(_LastToStart, address=f"{METADATA_KEEPER}/last-to-start")

    def _publish(self, old: MetadataImage, new: MetadataImage) -> None:
        """Let the node's other actors see the new image."""
        self.context.image = new
        if new.nodes is not old.nodes:
            nodes = {node.node_id: (node.host, node.port) for node in new.nodes.values()}
            self.reactor.tell(PEERS, KnownNodes(nodes))
        for address in (CONTROLLER, MEMBERSHIP):
            self.reactor.tell(address, ImageApplied(new.end_offset))

    def _set_strays_aside(self) -> None:
        """Rename folders of no partition, once all is known: a deletion that a crash cut short left them, or somebody.

        They must not be taken for a topic that gets the same name, and are not ours to delete.
        """
        known = {
            f"{topic.name}-{index}"
            for topic in self.context.image.topics.values()
            for index in range(len(topic.partitions))
            if self._hosts(topic.partitions[index])
        }
        for name in self.context.folder.partition_folders():
            if name not in known and name != f"{METADATA_TOPIC}-0" and not self.context.folder.is_open(name):
                try:
                    aside = self.context.folder.set_aside(name)
                except OSError as error:
                    logger.warning("%s belongs to no partition of this node, and cannot be set aside: %s", name, error)
                else:
                    logger.warning("%s belongs to no partition of this node; it is now named %s", name, aside)

    def _forget_ended(self) -> None:
        """Write down that deleted logs have no recovery point any more, before new ones may have their names."""
        try:
            self.context.folder.write_checkpoints()
        except OSError as error:
            logger.warning("the recovery points could not be written down: %s", error)

    def _hosts(self, partition: PartitionImage) -> bool:
        return self.context.config.node_id in partition.replicas

    def _leads(self, partition: PartitionImage) -> bool:
        return partition.leader == self.context.config.node_id

    # ---- what goes

    def _end_what_goes(self, old: MetadataImage, new: MetadataImage) -> None:
        for before in old.topics.values():
            after = new.topics.get(before.name)
            if after is before:
                continue
            gone = after is None or after.topic_id != before.topic_id
            for partition, state in enumerate(before.partitions):
                now = None if gone or after is None else after.partitions[partition]
                if self._leads(state) and (now is None or not self._leads(now)):
                    self._end_coordinator(before.name, partition)
                if self._hosts(state) and (now is None or not self._hosts(now)):
                    self._end_partition(before.name, partition)
            if gone:
                self._tell_coordinators(TopicGone(before.name, before.topic_id))
                logger.info("topic %s with %d partitions is deleted", before.name, len(before.partitions))

    def _end_partition(self, topic: str, partition: int) -> None:
        address = partition_address(topic, partition)
        logger.info("%s-%d leaves this node", topic, partition)
        if self.reactor.tell(address, Retire(self.actor_ref)):
            self._ending.add(address)
        else:
            self.reactor.stop_actor(address)  # it waits for its restart, which now must not come
            remove_later(self.context, f"{topic}-{partition}")

    def _end_coordinator(self, topic: str, partition: int) -> None:
        if topic not in _COORDINATORS:
            return
        address = coordinator_address(topic, partition)
        if self.reactor.tell(address, Retire(self.actor_ref)):
            self._ending.add(address)
        else:
            self.reactor.stop_actor(address)

    def _tell_coordinators(self, message: TopicGone) -> None:
        for name in sorted(INTERNAL_TOPICS & self.context.image.topics.keys()):
            for partition in range(len(self.context.image.topics[name].partitions)):
                self.reactor.tell(coordinator_address(name, partition), message)

    # ---- what comes, and what changes

    def _change_topic(self, topic: TopicImage, before: TopicImage | None, old: MetadataImage) -> None:
        overrides = self.context.image.config_of(TOPIC_RESOURCE, topic.name)
        same_config = overrides is old.config_of(TOPIC_RESOURCE, topic.name)
        if topic is before and same_config:
            return
        config = self.context.config.topic_config(overrides)
        existing = () if before is None else before.partitions
        for partition, state in enumerate(topic.partitions):
            known = existing[partition] if partition < len(existing) else None
            if not self._hosts(state) or (state is known and same_config):
                continue
            if known is not None and self._hosts(known):
                # An actor that waits to be restarted does not hear this; it reads the image when it starts.
                self.reactor.tell(partition_address(topic.name, partition), Reconfigure(state, config))
            else:
                address = partition_address(topic.name, partition)
                self.reactor.spawn(Partition, self.context, topic.name, partition, address=address, supervised=True)
            if self._leads(state) and (known is None or not self._leads(known)):
                self._start_coordinator(topic.name, partition)

    def _tell_leaders_who_is_back(self, old: MetadataImage, new: MetadataImage) -> None:
        """Let leaders look at their ISRs: a node that has caught up before it might be in one says nothing again."""
        if new.nodes is old.nodes:
            return
        back = {node.node_id for node in new.nodes.values() if _may_be_in_sync(node)}
        back -= {node.node_id for node in old.nodes.values() if _may_be_in_sync(node)}
        for topic in new.topics.values() if back else ():
            config = None
            for partition, state in enumerate(topic.partitions):
                if self._leads(state) and not back.isdisjoint(set(state.replicas).difference(state.isr)):
                    if config is None:
                        config = self.context.config.topic_config(new.config_of(TOPIC_RESOURCE, topic.name))
                    self.reactor.tell(partition_address(topic.name, partition), Reconfigure(state, config))

    def _start_coordinator(self, topic: str, partition: int) -> None:
        """Start the actor whose state an internal topic's partition holds, behind the partition's leader."""
        coordinator = _COORDINATORS.get(topic)
        if coordinator is not None:
            address = coordinator_address(topic, partition)
            self.reactor.spawn(coordinator, self.context, partition, address=address, supervised=True)
