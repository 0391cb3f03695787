"""What a node keeps of the metadata quorum: the metadata log, and the file ``quorum-state`` with what it has promised.

The file has one line of JSON, the state (KIP-595), and one with the CRC-32C of the first. It is on the medium before
anything that depends on it leaves the node. One that cannot be read never counts as none: this node may have voted, and
a second vote in the same epoch could make a second leader.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from crc32c import crc32c

from ..errors import CorruptMessageError, StorageError, ZmqBrokerError
from ..quorum.kraft_types import NOBODY, QuorumState
from ..transport.quorum_messages import Voter
from .metadata_log import METADATA_PARTITION, MetadataLog, VoterSet

if TYPE_CHECKING:
    from ..log.data_folder import DataFolder
    from ..log.disk import Disk

logger = logging.getLogger(__name__)

QUORUM_STATE_NAME = "quorum-state"
_FOUNDED = -1
"""The offset of the voters that stand in no record yet."""


class QuorumStateError(ZmqBrokerError):
    """The file cannot be read, or does not fit to the metadata log."""


class QuorumFiles:
    """A node's memory of the quorum, as it was when the node started; the log goes on."""

    def __init__(self, disk: Disk, folder: DataFolder, *, joins: bool, now_ms: int) -> None:
        """Open them. With joins, an empty folder waits for a cluster to fill it; else it founds one.

        Raises MetadataDamagedError or QuorumStateError if they are not what they were, StorageError if the disk
        refuses.
        """
        self._disk = disk
        self._path = f"{folder.path}/{METADATA_PARTITION}/{QUORUM_STATE_NAME}"
        self.me = Voter(folder.node_id, folder.directory_id)
        self.log = MetadataLog(disk, folder, now_ms)
        try:
            self.state = self._load()
        except QuorumStateError:
            folder.abandon_log(METADATA_PARTITION)
            raise
        self.voters = list(self.log.voters) or self._founders(joins=joins)
        """Who voted when, by the log; or this node alone, if it founds the quorum."""

    def _load(self) -> QuorumState:
        log = self.log
        try:
            content = self._disk.read_file(self._path)
        except FileNotFoundError:
            if log.voters or log.last_epoch > 0:
                reason = f"it is missing, and the metadata log has records of epoch {log.last_epoch}"
                raise self._unusable(reason) from None
            return QuorumState()
        except OSError as error:
            raise self._unusable(str(error)) from error
        try:
            state = decode(content)
        except CorruptMessageError as error:
            raise self._unusable(error.message) from error
        if state.epoch < log.last_epoch:
            reason = f"it says epoch {state.epoch}, and the metadata log has records of epoch {log.last_epoch}"
            raise self._unusable(reason)
        return state

    def _unusable(self, reason: str) -> QuorumStateError:
        return QuorumStateError(
            f"{self._path} cannot be used ({reason}): without it this node might vote twice; put it back, or remove the"
            " node from its cluster and let it join again with an empty folder"
        )

    def _founders(self, *, joins: bool) -> list[VoterSet]:
        """This node, if it founds the quorum or has begun to: then it knows of nobody else."""
        known = {self.state.leader_id, NOBODY if self.state.voted_for is None else self.state.voted_for.node_id}
        if not known <= {NOBODY, self.me.node_id}:
            return []
        is_old = self.log.end_offset > 0 and self.log.last_epoch == 0
        if joins and not is_old and self.me.node_id not in known:
            return []
        if is_old:
            logger.info("the metadata log was written without a quorum: this node is its one voter now")
        return [VoterSet(_FOUNDED, [self.me])]

    def save(self, state: QuorumState) -> None:
        """Put the state on the medium. StorageError if the disk refuses: nothing that depends on it may leave then."""
        try:
            self._disk.replace_file(self._path, encode(state))
        except OSError as error:
            message = f"could not write {self._path}: {error.strerror or error}"
            raise StorageError(message) from error


def encode(state: QuorumState) -> bytes:
    """The content of the file."""
    line = state.encode()
    return line + b"%08x\n" % crc32c(line)


def decode(content: bytes) -> QuorumState:
    """Read it; CorruptMessageError, with the reason, if it is not exactly what was written."""
    line, end, checksum = content.partition(b"\n")
    line += end
    if checksum != b"%08x\n" % crc32c(line):
        message = "its checksum is wrong"
        raise CorruptMessageError(message)
    return QuorumState.decode(line)
