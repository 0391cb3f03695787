"""What a node keeps of the metadata quorum: the metadata log, and the file ``quorum-state`` with what it has promised.

The file has one line of JSON, the state (KIP-595), and one with the CRC-32C of the first. It is on the medium before
anything that depends on it leaves the node. One that cannot be read never counts as none: this node may have voted, and
a second vote in the same epoch could make a second leader.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from crc32c import crc32c

from ..errors import ConfigError, CorruptMessageError, StorageError, ZmqBrokerError
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


class NotYetJoinedError(ConfigError):
    """The node needs an address to join at: nobody else can tell it where its cluster is."""


class QuorumFiles:
    """A node's memory of the quorum, as it was when the node started; the log goes on."""

    def __init__(self, disk: Disk, folder: DataFolder, *, joins: bool, now_ms: int) -> None:
        """Open them. With joins, an empty folder waits for a cluster to fill it; else it founds one.

        Raises NotYetJoinedError if that is for a cluster to do, MetadataDamagedError or QuorumStateError if they are
        not what they were, StorageError if the disk refuses.
        """
        self._disk = disk
        self._path = f"{folder.path}/{METADATA_PARTITION}/{QUORUM_STATE_NAME}"
        self.joined = folder.joined
        self.me = Voter(folder.node_id, folder.directory_id)
        self.log = MetadataLog(disk, folder, now_ms)
        try:
            self._sync()
            self.state = self._load()
            if folder.joined and not joins and self.log.end_offset == 0:
                message = (
                    f"{folder.path} belongs to a node that has joined cluster {folder.cluster_id} and knows nothing of"
                    " it yet: start it with --join and the address of a node of that cluster"
                )
                raise NotYetJoinedError(message)
        except ZmqBrokerError:
            folder.abandon_log(METADATA_PARTITION)
            raise
        self.voters = list(self.log.voters) or self._founders(joins=joins or folder.joined)
        """Who voted when, by the log; or this node alone, if it founds the quorum."""

    def _sync(self) -> None:
        """What is found here holds from now on: also what a process that was killed had renamed, and not synced yet."""
        path = self._path.rpartition("/")[0]
        try:
            self._disk.sync_folder(path)
        except OSError as error:
            message = f"could not sync {path}: {error.strerror or error}"
            raise StorageError(message) from error

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
            f"{self._path} cannot be used ({reason}): without it this node might vote twice; remove it from its cluster"
            " and let it join again with an empty folder: only a cluster of one node may put it back from a copy"
        )

    def _founders(self, *, joins: bool) -> list[VoterSet]:
        """This node, if it founds the quorum or has begun to: then it knows of nobody else."""
        known = {self.state.leader_id, NOBODY if self.state.voted_for is None else self.state.voted_for.node_id}
        if not known <= {NOBODY, self.me.node_id}:
            return []
        is_old = self.log.end_offset > 0 and self.log.last_epoch == 0 and not self.joined
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
