"""What the controller writes into the node's log about its decisions: nodes one by one, partitions in numbers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..quorum.records import RegisterNode, RemoveNode, SetNodeState, SetPartition, SetProtocolVersion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..quorum.image import MetadataImage, PartitionImage
    from ..quorum.records import MetadataRecord

logger = logging.getLogger(__name__)

_NAMED = 10
"""So many partitions are named, of those that have lost something."""


def log_changes(before: MetadataImage, records: Sequence[MetadataRecord]) -> None:
    """Say what one decision changes in the image before it."""
    partitions = _PartitionChanges()
    for record in records:
        match record:
            case SetPartition():
                old = _partition(before, record)
                if old is not None:
                    partitions.add(old, record)
            case SetNodeState():
                _log_node(before, record)
            case RegisterNode():
                _log_registration(before, record)
            case RemoveNode(node_id):
                logger.info("node %d is removed from the cluster", node_id)
            case SetProtocolVersion(version):
                logger.info("the cluster's protocol version is %d", version)
            case _:
                pass
    partitions.log()


class _PartitionChanges:
    """What becomes of partitions, counted."""

    def __init__(self) -> None:
        self._elected = self._leaderless = self._begun = self._ended = 0
        self._lost: list[str] = []
        self._unclean: list[str] = []

    def add(self, old: PartitionImage, new: SetPartition) -> None:
        name = f"{new.topic}-{new.partition}"
        self._elected += new.leader not in (old.leader, -1)
        self._leaderless += new.leader == -1 != old.leader
        if new.leader not in (-1, *old.isr, *old.elr):
            self._unclean.append(f"{name} (node {new.leader})")
        if old.isr and not new.isr:
            self._lost.append(name)
        moved, moving = bool(old.adding or old.removing), bool(new.adding or new.removing)
        self._begun += moving and not moved
        self._ended += moved and not moving

    def log(self) -> None:
        if self._lost:
            logger.warning(
                "no replica of %s is known to hold all that was committed: nobody leads there unless an unclean"
                " election is asked for, and what its winner lacks is lost",
                _some(self._lost),
            )
        if self._unclean:
            names = _some(self._unclean)
            logger.warning("unclean elections: what the new leaders lack of what was committed is lost: %s", names)
        if self._elected or self._leaderless:
            counts = (self._elected, self._leaderless)
            logger.info("elections: %d partitions have another leader, %d have none any more", *counts)
        if self._begun or self._ended:
            logger.info("reassignments: %d partitions begin to move, %d have ended", self._begun, self._ended)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _partition(image: MetadataImage, record: SetPartition) -> PartitionImage | None:
    topic = image.topics.get(record.topic)
    if topic is None or record.partition >= len(topic.partitions):
        return None
    return topic.partitions[record.partition]


def _log_registration(before: MetadataImage, record: RegisterNode) -> None:
    stop = "clean" if record.clean else "unclean"
    where = f"{record.host}:{record.port}"
    logger.info("node %d registers at %s after a %s stop, or new", record.node_id, where, stop)
    node = before.nodes.get(record.node_id)
    if node is not None and node.directory_id not in ("", record.directory_id):
        logger.warning(
            "node %d has come back with another data folder, %s instead of %s: what it held is to be replicated anew",
            record.node_id,
            record.directory_id,
            node.directory_id,
        )


def _log_node(before: MetadataImage, record: SetNodeState) -> None:
    node = before.nodes.get(record.node_id)
    was_fenced = node is None or node.fenced
    if record.fenced != was_fenced:
        logger.info("node %d is %s", record.node_id, "fenced" if record.fenced else "unfenced")
    if record.stopping and (node is None or not node.stopping):
        logger.info("node %d is about to stop", record.node_id)
    if node is not None and record.draining != node.draining:
        logger.info("node %d %s", record.node_id, "is being emptied" if record.draining else "may host replicas again")
