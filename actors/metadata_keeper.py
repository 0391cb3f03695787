"""MetadataKeeper: holds the committed metadata image for the node, and starts and stops partition leaders by it."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from ..quorum.image import METADATA_TOPIC
from ..transport.config_messages import TOPIC_RESOURCE
from ..transport.internal_topics import INTERNAL_TOPICS
from .actor import ReactorActor
from .commands import AllStarted, ImageCommitted, Reconfigure, Retire, Retired, TopicGone
from .context import METADATA_KEEPER, coordinator_address, partition_address
from .group_coordinator import GroupCoordinator
from .log_care import remove_later
from .partition_leader import PartitionLeader
from .share_coordinator import ShareCoordinator

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..quorum.image import MetadataImage, TopicImage
    from .context import NodeContext
    from .coordinator import Coordinator

logger = logging.getLogger(__name__)


_COORDINATORS: dict[str, type[Coordinator]] = {
    GroupCoordinator.TOPIC: GroupCoordinator,
    ShareCoordinator.TOPIC: ShareCoordinator,
}
assert _COORDINATORS.keys() == INTERNAL_TOPICS


class _LastToStart(ReactorActor):
    """Spawned behind the partitions' actors, it has its first turn when each of them has had its own."""

    def on_start(self) -> None:
        """Say so."""
        self.reactor.tell(METADATA_KEEPER, AllStarted())
        self.stop()


class MetadataKeeper(ReactorActor):
    """Makes this node's partition actors agree with the image.

    Images are taken one after the other: while actors of deleted partitions are still ending, the next ones wait, so
    that a topic that is created again finds its addresses and folders free.
    """

    def __init__(self, context: NodeContext, on_started: Callable[[], None]) -> None:
        super().__init__()
        self.context = context
        self._on_started = on_started
        self._images: deque[MetadataImage] = deque()
        self._ending: set[str] = set()

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
            case _:
                assert False, f"the metadata keeper got {message!r}"  # noqa: B011, PT015 - nobody sends it anything else
        while self._images and not self._ending:
            self._take(self._images.popleft())

    def _take(self, new: MetadataImage) -> None:
        old = self.context.image
        assert new.end_offset >= old.end_offset, f"the metadata go back from {old.end_offset} to {new.end_offset}"
        recreated = False
        for name, before in old.topics.items():
            after = new.topics.get(name)
            if after is None or after.topic_id != before.topic_id:
                self._end_topic(before)
                recreated = recreated or after is not None
        if recreated and self._ending:
            # Deleted and created anew between two images: without the topic first, then with it.
            gone = {name: topic for name, topic in new.topics.items() if self._survives(topic, old)}
            self._images.appendleft(new)
            new = type(new)(new.end_offset, new.nodes, gone, new.configs, new.next_producer_id)
        if not old.nodes:
            self._set_strays_aside(new)
        self.context.image = new
        for name, topic in new.topics.items():
            known = old.topics.get(name)
            if known is not None and known.topic_id != topic.topic_id:
                known = None
            self._change_topic(topic, known, old, new)
        if not old.nodes:
            self.reactor.spawn(_LastToStart, address=f"{METADATA_KEEPER}/last-to-start")

    def _set_strays_aside(self, image: MetadataImage) -> None:
        """Rename folders of no partition, at the start: a deletion that a crash cut short left them, or somebody.

        They must not be taken for a topic that gets the same name, and are not ours to delete.
        """
        known = {f"{topic.name}-{index}" for topic in image.topics.values() for index in range(len(topic.partitions))}
        for name in self.context.folder.partition_folders():
            if name not in known and name != f"{METADATA_TOPIC}-0":
                aside = self.context.folder.set_aside(name)
                logger.warning("%s belongs to no partition of this cluster; it is now named %s", name, aside)

    def _forget_ended(self) -> None:
        """Write down that deleted logs have no recovery point any more, before new ones may have their names."""
        try:
            self.context.folder.write_checkpoints()
        except OSError as error:
            logger.warning("the recovery points could not be written down: %s", error)

    def _survives(self, topic: TopicImage, old: MetadataImage) -> bool:
        before = old.topics.get(topic.name)
        return before is None or before.topic_id == topic.topic_id

    def _change_topic(
        self, topic: TopicImage, before: TopicImage | None, old: MetadataImage, new: MetadataImage
    ) -> None:
        overrides = new.config_of(TOPIC_RESOURCE, topic.name)
        if topic is before and overrides is old.config_of(TOPIC_RESOURCE, topic.name):
            return
        config = self.context.config.topic_config(overrides)
        existing = 0 if before is None else len(before.partitions)
        for partition, state in enumerate(topic.partitions):
            if state.leader != self.context.config.node_id:
                continue
            address = partition_address(topic.name, partition)
            if partition < existing:
                # An actor that waits to be restarted does not hear this; it reads the image when it starts.
                self.reactor.tell(address, Reconfigure(state, config))
            else:
                self.reactor.spawn(
                    PartitionLeader, self.context, topic.name, partition, address=address, supervised=True
                )
                self._start_coordinator(topic.name, partition)

    def _start_coordinator(self, topic: str, partition: int) -> None:
        """Start the actor whose state an internal topic's partition holds, behind the partition's leader."""
        coordinator = _COORDINATORS.get(topic)
        if coordinator is not None:
            address = coordinator_address(topic, partition)
            self.reactor.spawn(coordinator, self.context, partition, address=address, supervised=True)

    def _tell_coordinators(self, message: TopicGone) -> None:
        for name in INTERNAL_TOPICS & self.context.image.topics.keys():
            for partition in range(len(self.context.image.topics[name].partitions)):
                self.reactor.tell(coordinator_address(name, partition), message)

    def _end_topic(self, topic: TopicImage) -> None:
        for partition in range(len(topic.partitions)):
            address = partition_address(topic.name, partition)
            if self.reactor.tell(address, Retire(self.actor_ref)):
                self._ending.add(address)
            else:
                self.reactor.stop_actor(address)  # it waits for its restart, which now must not come
                remove_later(self.context, f"{topic.name}-{partition}")
        self._tell_coordinators(TopicGone(topic.name, topic.topic_id))
        logger.info("topic %s with %d partitions is deleted", topic.name, len(topic.partitions))
