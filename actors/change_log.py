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
    elected = leaderless = begun = ended = 0
    lost: list[str] = []
    for record in records:
        match record:
            case SetPartition():
                old = _partition(before, record)
                if old is None:
                    continue
                elected += record.leader not in (old.leader, -1)
                leaderless += record.leader == -1 != old.leader
                if old.isr and not record.isr:
                    lost.append(f"{record.topic}-{record.partition}")
                moved, moving = bool(old.adding or old.removing), bool(record.adding or record.removing)
                begun += moving and not moved
                ended += moved and not moving
            case SetNodeState():
                _log_node(before, record)
            case RegisterNode():
                stop = "clean" if record.clean else "unclean"
                where = f"{record.host}:{record.port}"
                logger.info("node %d registers at %s after a %s stop, or new", record.node_id, where, stop)
                _log_folder(before, record)
            case RemoveNode(node_id):
                logger.info("node %d is removed from the cluster", node_id)
            case SetProtocolVersion(version):
                logger.info("the cluster's protocol version is %d", version)
            case _:
                pass
    if lost:
        logger.warning(
            "no replica of %s is known to hold all that was committed: nobody leads there unless an unclean election is"
            " asked for, and what its winner lacks is lost",
            ", ".join(lost[:_NAMED]) + (f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""),
        )
    if elected or leaderless:
        logger.info("elections: %d partitions have another leader, %d have none any more", elected, leaderless)
    if begun or ended:
        logger.info("reassignments: %d partitions begin to move, %d have ended", begun, ended)


def _partition(image: MetadataImage, record: SetPartition) -> PartitionImage | None:
    topic = image.topics.get(record.topic)
    if topic is None or record.partition >= len(topic.partitions):
        return None
    return topic.partitions[record.partition]


def _log_folder(before: MetadataImage, record: RegisterNode) -> None:
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
