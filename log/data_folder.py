"""A node's data folder: whose it is, who holds it, how far each log in it was flushed, and whether it was left cleanly.

Files, in Kafka's formats: ``.lock`` (held by the process that uses the folder), ``meta.properties`` (cluster, node, and
an id of the folder's own, by which the cluster notices that a node has come back with another disk),
``recovery-point-offset-checkpoint``, ``log-start-offset-checkpoint`` and ``cleaner-offset-checkpoint`` (one line a
partition), and ``.kafka_cleanshutdown``, there only while no process uses the folder and the last one closed
everything: it holds the node epoch of that process, by which the cluster tells an old copy of the folder (KIP-966).
``node.address`` is our own: where the node was last, so that a copy of the folder can ask whether the node lives.
"""

from __future__ import annotations

import logging
import re
from threading import Lock
from typing import TYPE_CHECKING

from ..errors import StorageError, ZmqBrokerError
from .checkpoints import CheckpointFormatError, decode_offsets, encode_offsets
from .partition_log import PartitionLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..settings import TopicConfig
    from .disk import Disk, FolderLock

logger = logging.getLogger(__name__)

META_NAME = "meta.properties"
ADDRESS_NAME = "node.address"
CLEAN_NAME = ".kafka_cleanshutdown"
RECOVERY_POINTS_NAME = "recovery-point-offset-checkpoint"
LOG_STARTS_NAME = "log-start-offset-checkpoint"
FIRST_DIRTY_NAME = "cleaner-offset-checkpoint"
"""Up to where each compacted log is compacted; an entry that is missing costs a pass over the whole log."""
INCARNATIONS_NAME = "incarnations"
"""The last processes that had the folder, one a line, the newest last."""
META_VERSION = "1"
_JOINED = "joined=true"
_REGISTERED = "registered=true"
TOPIC_ID_NAME = "partition.metadata"
"""In each log's folder: whose it is, in Kafka's format."""

_PARTITION = re.compile(r"[A-Za-z0-9._-]{1,249}-(0|[1-9][0-9]*)")
_TOPIC_ID = re.compile(rb"version: 0\ntopic_id: \S+\n")
_DELETED = re.compile(r".*\.[0-9]+-delete")
_CLEAN = re.compile(
    rb'\{"version":0,"brokerEpoch":(-1|[0-9]{1,18})(?:,"incarnations":"([A-Za-z0-9_-]+(?: [A-Za-z0-9_-]+)*)")?\}'
)
FORMER_MAX = 16
"""Processes of the past whose requests may still be under way."""
_INCARNATION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_INCARNATIONS = 100
"""In the marker; with the oldest one dropped a start may count as unclean, and never the other way round."""


class DataFolderError(ZmqBrokerError):
    """The data folder cannot be used by this node."""


def split_folder_name(name: str) -> tuple[str, int] | None:
    """(topic, partition) of a log's folder, None if it is none; a topic may hold dashes, so the last one counts."""
    if not _PARTITION.fullmatch(name):
        return None
    topic, _, partition = name.rpartition("-")
    return topic, int(partition)


def _nothing() -> None:
    """No work."""


class DataFolder:
    """Made by ``open``; belongs to this process until ``close``."""

    def __init__(self, disk: Disk, path: str, lock: FolderLock) -> None:
        self._disk = disk
        self.path = path
        self._lock = lock
        self.cluster_id = ""
        self.node_id = -1
        self.directory_id = ""
        """This folder's own id, for as long as it lives; a copy of the folder has the same."""
        self.joined = False
        """Whether it was made by joining a cluster; then it never founds one. Older folders do not say so."""
        self.registered = False
        """Whether its node was ever one of the cluster; if it is none now, it was removed."""
        self.was_clean = False
        """Whether the last process closed everything: logs are then opened without a scan."""
        self.clean_epoch = -1
        """The node epoch of the process that did so; -1: it had none, or did not say."""
        self.clean_incarnations: tuple[str, ...] = ()
        """The processes that used the folder since that epoch and closed everything, and were told no epoch."""
        self.warnings: list[str] = []
        """One sentence for each thing that was wrong and could be made good."""
        self._recovery_points: dict[str, int] = {}
        self._log_starts: dict[str, int] = {}
        self._first_dirty: dict[str, int] = {}
        self._has_first_dirty = False
        self._logs: dict[str, PartitionLog] = {}
        self._lost: set[str] = set()
        """Logs whose recovery point is not known, until they are opened."""
        self._unrecovered: set[str] = set()
        """Logs that a process left in the middle, and that this one has not looked through yet."""
        self._abandoned: set[str] = set()
        """Logs that this process gave up: the clean shutdown before it says nothing of them any more."""
        self._deletions = 0
        self._checkpoint_lock = Lock()
        self._checkpoints_taken = 0
        self._checkpoints_written = 0
        self._closed = False

    @classmethod
    def open(
        cls,
        disk: Disk,
        path: str,
        *,
        node_id: int,
        cluster_id: str | None = None,
        make_id: Callable[[], str],
        join: Callable[[int], tuple[str, int]] | None = None,
    ) -> DataFolder:
        """Take the folder, create it if it is missing.

        A new folder's cluster and node come from ``join``, which is given the node id, or without it from the
        arguments; a cluster id of None is then made. ``make_id`` makes random ids. A node id of -1 means the one that
        the folder has. ``join`` is called with the folder held, so that no second process joins with it.

        Raises DataFolderError if another process holds it, or if it is another cluster's or node's, or if its
        meta.properties is missing or unreadable while there are logs: what is in it is never taken for nothing.
        Whatever ``join`` raises leaves the folder as it was.
        """
        disk.make_folder(path)
        try:
            lock = disk.lock(path)
        except BlockingIOError as error:
            message = f"the data folder {path} is in use by another process; stop it, or choose another data_dir"
            raise DataFolderError(message) from error
        folder = cls(disk, path, lock)
        try:
            folder._identify(node_id, cluster_id, make_id, join)
            folder._start()
        except BaseException:
            lock.release()
            raise
        return folder

    def _warn(self, sentence: str) -> None:
        self.warnings.append(sentence)
        logger.warning("%s", sentence)

    def _file(self, name: str) -> str:
        return f"{self.path}/{name}"

    def _identify(
        self,
        node_id: int,
        cluster_id: str | None,
        make_id: Callable[[], str],
        join: Callable[[int], tuple[str, int]] | None,
    ) -> None:
        """Check meta.properties, or write it into an empty folder."""
        meta = self._file(META_NAME)
        if not self._disk.exists(meta):
            if self.partition_folders():
                message = (
                    f"{meta} is missing although {self.path} holds logs; put it back (version=1, cluster.id=..., "
                    f"node.id=..., directory.id=...) or choose another data_dir"
                )
                raise DataFolderError(message)
            if join is not None:
                cluster_id, node_id = join(node_id)
                self.joined = True
            self._found(node_id, cluster_id or make_id(), make_id())
            return
        found_cluster, found_node, directory_id = self._read_meta(meta)
        if cluster_id is not None and found_cluster != cluster_id:
            message = f"{self.path} belongs to cluster {found_cluster}, and this node to cluster {cluster_id}"
            raise DataFolderError(message)
        if node_id not in (-1, found_node):
            message = f"{self.path} belongs to node {found_node}, and this is node {node_id}"
            raise DataFolderError(message)
        if directory_id is None:  # written before folders had one
            directory_id = make_id()
            self._add_to_meta(f"directory.id={directory_id}")
        self.cluster_id, self.node_id, self.directory_id = found_cluster, found_node, directory_id

    def _add_to_meta(self, line: str) -> None:
        meta = self._file(META_NAME)
        text = self._disk.read_file(meta).decode().rstrip()
        self._disk.replace_file(meta, f"{text}\n{line}\n".encode())

    def note_registered(self) -> None:
        """Write down that the node is one of its cluster; if the disk refuses, the next process tries again."""
        if not self.registered:
            self.registered = True
            try:
                self._add_to_meta(_REGISTERED)
            except OSError as error:
                self._warn(f"{self._file(META_NAME)} could not be written: {error.strerror or error}")

    def _found(self, node_id: int, cluster_id: str, directory_id: str) -> None:
        """Make an empty folder this node's."""
        if node_id < 0:
            message = f"{self.path} is empty and the node has no id: set node.id, or let it join a cluster"
            raise DataFolderError(message)
        self.cluster_id, self.node_id, self.directory_id = cluster_id, node_id, directory_id
        text = f"version={META_VERSION}\ncluster.id={cluster_id}\nnode.id={node_id}\ndirectory.id={directory_id}\n"
        text += f"{_JOINED}\n" * self.joined
        # The checkpoints first: from then on one that is missing was lost.
        for name in (LOG_STARTS_NAME, RECOVERY_POINTS_NAME):
            self._disk.replace_file(self._file(name), encode_offsets({}))
        self._disk.replace_file(self._file(META_NAME), text.encode())

    def _read_meta(self, meta: str) -> tuple[str, int, str | None]:
        """Cluster, node, and the folder's own id, None if it has none."""
        try:
            lines = self._disk.read_file(meta).decode().splitlines()
            self.joined, self.registered = _JOINED in lines, _REGISTERED in lines
            pairs = {
                key.strip(): value.strip()
                for key, value in (line.split("=", 1) for line in lines if line.strip() and not line.startswith("#"))
            }
            version, cluster, node = pairs["version"], pairs["cluster.id"], int(pairs["node.id"])
        except (ValueError, KeyError) as error:
            message = f"{meta} cannot be read ({error}); put it back or choose another data_dir"
            raise DataFolderError(message) from error
        if version != META_VERSION or not cluster:
            message = f"{meta} has version {version!r} and cluster.id {cluster!r}; only version {META_VERSION} is known"
            raise DataFolderError(message)
        directory_id = pairs.get("directory.id")
        if node < 0 or directory_id == "":
            message = (
                f"{meta} has node.id {node} and directory.id {directory_id!r}; put it back or choose another data_dir"
            )
            raise DataFolderError(message)
        return cluster, node, directory_id

    def _start(self) -> None:
        """Read the checkpoints, take the clean-shutdown marker away, remove left-overs."""
        clean = self._file(CLEAN_NAME)
        points = self._read_checkpoint(RECOVERY_POINTS_NAME)
        if points is None:
            self._lost = set(self.partition_folders())
        self._recovery_points = points or {}
        self._log_starts = self._read_checkpoint(LOG_STARTS_NAME) or {}
        self._has_first_dirty = self._disk.exists(self._file(FIRST_DIRTY_NAME))
        if self._has_first_dirty:
            self._first_dirty = self._read_checkpoint(FIRST_DIRTY_NAME) or {}
        if self._disk.exists(clean):
            self.was_clean = True
            found = _CLEAN.fullmatch(self._disk.read_file(clean))
            self.clean_epoch = int(found[1]) if found else -1
            self.clean_incarnations = tuple(found[2].decode().split()) if found and found[2] else ()
            self._disk.remove(clean)
        else:
            self._unrecovered = set(self.partition_folders())
        # Also what the last process had renamed or removed here, if it was killed before it could sync that: what is
        # found now is what counts, and must not change any more.
        self._disk.sync_folder(self.path)
        for name in self._disk.list(self.path):
            if name.endswith(".tmp"):
                self._disk.remove(self._file(name))
            elif _DELETED.fullmatch(name):
                self._disk.remove_tree(self._file(name))

    def _read_checkpoint(self, name: str) -> dict[str, int] | None:
        """Offsets by log name; None if the file is lost although there are logs."""
        path = self._file(name)
        try:
            return decode_offsets(self._disk.read_file(path))
        except FileNotFoundError:
            if not self.partition_folders():
                return {}
            reason = "it is missing"
        except CheckpointFormatError as error:
            reason = str(error)
        self._warn(f"{path} is lost ({reason}): the logs are looked through instead")
        return None

    @property
    def address(self) -> str:
        """Where the node that has this folder was reached last, as ``HOST:PORT``; empty: not known."""
        path = self._file(ADDRESS_NAME)
        try:
            return self._disk.read_file(path).decode().strip()
        except (FileNotFoundError, UnicodeDecodeError):
            return ""

    def note_address(self, host: str, port: int) -> None:
        """Write down where the node is reached now; if the disk refuses, it is only not known next time."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if address != self.address:
            try:
                self._disk.replace_file(self._file(ADDRESS_NAME), f"{address}\n".encode(), durable=False)
            except OSError as error:
                self._warn(f"{self._file(ADDRESS_NAME)} could not be written: {error.strerror or error}")

    def note_start(self, incarnation: str) -> tuple[str, ...]:
        """Write down durably that this process has the folder; the last that had it before, the newest last."""
        path = self._file(INCARNATIONS_NAME)
        found = self._disk.read_file(path).decode(errors="replace").split() if self._disk.exists(path) else []
        former = tuple(word for word in found if _INCARNATION.fullmatch(word))[-FORMER_MAX:]
        try:
            self._disk.replace_file(path, "".join(f"{each}\n" for each in (*former, incarnation)).encode())
        except OSError as error:
            self._warn(f"{path} could not be written: {error.strerror or error}")
        return former

    def partition_folders(self) -> list[str]:
        """The names of all logs' folders, sorted."""
        return [name for name in self._disk.list(self.path) if split_folder_name(name)]

    def is_open(self, name: str) -> bool:
        """Whether the log of this name is open."""
        return name in self._logs

    def open_log(self, name: str, config: TopicConfig, now_ms: int, topic_id: str = "") -> PartitionLog:
        """Open or create the log of a folder name (``topic-partition``). StorageError if the disk refuses.

        With a topic id, a folder that says it belongs to another topic of that name, which was deleted, is set aside.
        """
        assert not self._closed
        assert split_folder_name(name), name
        assert name not in self._logs, name
        try:
            if topic_id:
                self._claim(name, topic_id)
            log = PartitionLog.open(
                self._disk,
                self._file(name),
                config,
                now_ms=now_ms,
                recovery_point=None if name in self._lost else self._recovery_points.get(name, 0),
                log_start_offset=self._log_starts.get(name, 0),
                clean=self.was_clean and name not in self._abandoned,
            )
        except OSError as error:
            message = f"could not open the log in {self._file(name)}: {error.strerror or error}"
            raise StorageError(message) from error
        log.first_dirty_offset = min(self._first_dirty.get(name, 0), log.recovery_point)
        log.before_cut = self.write_checkpoints
        self._logs[name] = log
        self._forget_doubts(name)
        return log

    def _claim(self, name: str, topic_id: str) -> None:
        """See to it that a log's folder is this topic's. One that does not say whose it is, is taken as it is."""
        path = self._file(f"{name}/{TOPIC_ID_NAME}")
        content = f"version: 0\ntopic_id: {topic_id}\n".encode()
        if self._disk.exists(path):
            found = self._disk.read_file(path)
            if found == content:
                return
            if _TOPIC_ID.fullmatch(found):
                self._warn(f"{name} was left by a deleted topic; it is now named {self.set_aside(name)}")
        self._disk.make_folder(self._file(name))
        self._disk.replace_file(path, content, durable=False)  # lost, it only says nothing

    def delete_log(self, name: str) -> Callable[[], None]:
        """Close a log if it is open and rename its folder, so that no log of that name finds it.

        The work returned removes what was renamed, in any thread. Before a log of the same name is opened call
        ``write_checkpoints``: a recovery point of the old one must not be taken for the new one's.
        """
        assert not self._closed
        log = self._logs.pop(name, None)
        if log is not None:
            log.abandon()
        for offsets in (self._log_starts, self._recovery_points, self._first_dirty):
            offsets.pop(name, None)
        self._forget_doubts(name)
        if not self._disk.exists(self._file(name)):
            return _nothing
        while self._disk.exists(doomed := self._file(f"{name}.{self._deletions}-delete")):
            self._deletions += 1
        self._disk.rename(self._file(name), doomed)
        return lambda: self._disk.remove_tree(doomed)

    def set_aside(self, name: str) -> str:
        """Rename the folder of a log that is not open, so that no log of that name finds it; returns its new name.

        Its recovery point is forgotten first, durably: it must not be taken for that of a new log of this name.
        """
        assert name not in self._logs, name
        number = 0
        while self._disk.exists(self._file(aside := f"{name}.{number}-stray")):
            number += 1
        for offsets in (self._log_starts, self._recovery_points, self._first_dirty):
            offsets.pop(name, None)
        self._forget_doubts(name)
        self.write_checkpoints()
        self._disk.rename(self._file(name), self._file(aside))
        self._disk.sync_folder(self.path)
        return aside

    def _forget_doubts(self, name: str) -> None:
        """The log is looked through, or gone."""
        self._lost.discard(name)
        self._unrecovered.discard(name)

    def close_log(self, name: str) -> None:
        """Close one log cleanly; StorageError if that failed."""
        log = self._logs[name]
        log.close()
        self._note(name, log)
        del self._logs[name]

    def _note(self, name: str, log: PartitionLog) -> None:
        self._recovery_points[name] = log.recovery_point
        self._log_starts[name] = log.log_start_offset
        if log.first_dirty_offset or name in self._first_dirty:
            self._first_dirty[name] = log.first_dirty_offset

    def abandon_log(self, name: str) -> None:
        """Close one log as a crash would, so that it can be opened again; nothing if it is not open."""
        log = self._logs.pop(name, None)
        if log is not None:
            self._note(name, log)
            self._abandoned.add(name)
            self._unrecovered.add(name)
            log.abandon()

    def write_checkpoints(self) -> None:
        """Save how far each log is flushed and where it starts, durably. OSError if the disk refuses."""
        self.checkpoint_work()()

    def checkpoint_work(self) -> Callable[[], None]:
        """The same in two parts: what to write is taken down now, and written by the work, in any thread.

        Work that comes to be done after newer work is not done at all: a recovery point never goes back up.

        While the recovery points of logs that are not open yet are lost, that file stays as it is: an entry that is not
        in it would count as 0, and then a damaged log could be taken for a torn one.
        """
        for name, log in self._logs.items():
            self._note(name, log)
        # The starts first: a recovery point below a log's start is harmless, a start that a crash takes back is too.
        files = [(LOG_STARTS_NAME, encode_offsets(self._log_starts))]
        if not self._lost:
            files.append((RECOVERY_POINTS_NAME, encode_offsets(self._recovery_points)))
        if self._first_dirty or self._has_first_dirty:
            self._has_first_dirty = True
            files.append((FIRST_DIRTY_NAME, encode_offsets(self._first_dirty)))
        self._checkpoints_taken += 1
        number = self._checkpoints_taken

        def write() -> None:
            with self._checkpoint_lock:
                if number < self._checkpoints_written:
                    return
                self._checkpoints_written = number
                for name, content in files:
                    self._disk.replace_file(self._file(name), content)

        return write

    def _marker(self, epoch: int, incarnation: str) -> bytes:
        """What the clean-shutdown marker says of this process."""
        incarnations = ""
        if epoch <= self.clean_epoch or epoch < 0:
            epoch = self.clean_epoch
            unheard = [*self.clean_incarnations, *([incarnation] if incarnation else [])]
            incarnations = " ".join(unheard[-_MAX_INCARNATIONS:])
        if incarnations:
            return b'{"version":0,"brokerEpoch":%d,"incarnations":"%s"}' % (epoch, incarnations.encode())
        return b'{"version":0,"brokerEpoch":%d}' % epoch if epoch >= 0 else b""

    def close(self, clean: bool, epoch: int = -1, incarnation: str = "") -> None:  # noqa: FBT001  every caller says it
        """Give the folder back. Only with clean, and if all logs closed well, does the next start trust it.

        A process that ends before it has opened what an unclean end left behind leaves that as it was: not clean.

        epoch is the node epoch that this process had: the cluster trusts it only if no other has come after it. A
        process that was told none may be registered all the same: the marker then has its incarnation too, after
        those of processes before it that ended like that, and the epoch that was there, if the start was clean.
        """
        if self._closed:
            return
        try:
            for name in list(self._logs):
                if clean and not self._logs[name].refusal():
                    try:
                        self.close_log(name)
                        continue
                    except StorageError as error:
                        self._warn(error.message)
                clean = False
                self._logs[name].abandon()
            self.write_checkpoints()
            if clean and not (self._lost or self._unrecovered):
                self._disk.replace_file(self._file(CLEAN_NAME), self._marker(epoch, incarnation))
        finally:
            self._closed = True
            self._lock.release()
