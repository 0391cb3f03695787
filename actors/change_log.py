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


def log_changes(before: MetadataImage, records: Sequence[MetadataRecord]) -> None:
    """Say what one decision changes in the image before it."""
    elected = leaderless = begun = ended = 0
    for record in records:
        match record:
            case SetPartition():
                old = _partition(before, record)
                if old is None:
                    continue
                elected += record.leader not in (old.leader, -1)
                leaderless += record.leader == -1 != old.leader
                moved, moving = bool(old.adding or old.removing), bool(record.adding or record.removing)
                begun += moving and not moved
                ended += moved and not moving
            case SetNodeState():
                _log_node(before, record)
            case RegisterNode():
                stop = "clean" if record.clean else "unclean"
                where = f"{record.host}:{record.port}"
                logger.info("node %d registers at %s after a %s stop, or new", record.node_id, where, stop)
            case RemoveNode(node_id):
                logger.info("node %d is removed from the cluster", node_id)
            case SetProtocolVersion(version):
                logger.info("the cluster's protocol version is %d", version)
            case _:
                pass
    if elected or leaderless:
        logger.info("elections: %d partitions have another leader, %d have none any more", elected, leaderless)
    if begun or ended:
        logger.info("reassignments: %d partitions begin to move, %d have ended", begun, ended)


def _partition(image: MetadataImage, record: SetPartition) -> PartitionImage | None:
    topic = image.topics.get(record.topic)
    if topic is None or record.partition >= len(topic.partitions):
        return None
    return topic.partitions[record.partition]


def _log_node(before: MetadataImage, record: SetNodeState) -> None:
    node = before.nodes.get(record.node_id)
    was_fenced = node is None or node.fenced
    if record.fenced != was_fenced:
        logger.info("node %d is %s", record.node_id, "fenced" if record.fenced else "unfenced")
    if record.stopping and (node is None or not node.stopping):
        logger.info("node %d is about to stop", record.node_id)
    if node is not None and record.draining != node.draining:
        logger.info("node %d %s", record.node_id, "is being emptied" if record.draining else "may host replicas again")
