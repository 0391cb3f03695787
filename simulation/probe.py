"""What the checkers read of the nodes' inner state: all of it here, so that the actors may change without them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..log.batch import read_header
from ..log.partition_log import PartitionLog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..quorum.image import MetadataImage
    from .cluster import SimNode

_PARTITION_PREFIX = "partition/"


class Replica(NamedTuple):
    """One partition on one node, as it is in memory."""

    name: str
    log: PartitionLog
    high_watermark: int
    leader_epoch: int
    leads: bool
    """As far as this node knows."""
    flush: str


def replicas(node: SimNode) -> Iterator[Replica]:
    """The open partitions of a running node."""
    if node.life is None:
        return
    for address, actor in node.life.runner.reactor._actors.items():  # noqa: SLF001 - the one place that looks inside
        if address.startswith(_PARTITION_PREFIX):
            found = _replica(actor, node.node_id)
            if found is not None:
                yield found


def _replica(actor: Any, node_id: int) -> Replica | None:
    log = actor.log
    if not isinstance(log, PartitionLog):
        return None
    state = actor.state
    leads = state.leader == node_id
    return Replica(actor.name, log, actor.high_watermark, state.leader_epoch, leads, actor.config.flush)


def image(node: SimNode) -> MetadataImage | None:
    """The committed metadata of a running node."""
    return None if node.life is None else node.life.context.image


def batches(log: PartitionLog, offset: int) -> list[bytes]:
    """All batches of a log from an offset on."""
    found: list[bytes] = []
    while offset < log.log_end_offset:
        data = log.read(offset, 1 << 20)
        position = 0
        while position < len(data):
            header = read_header(data, position)
            found.append(data[position : position + header.size])
            position += header.size
            offset = header.next_offset
    return found
