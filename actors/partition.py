"""Partition: one replica of a partition. It owns the partition's log for life; it leads or follows as metadata say.

The log, its flush and its watchers are replica_log.py's; what a leader does more is in leading.py, what a follower does
in following.py. Here is who may ask what of this replica in its role.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ..errors import (
    BrokerError,
    InconsistentTopicIdError,
    LeaderNotAvailableError,
    NotLeaderOrFollowerError,
    OffsetNotAvailableError,
    OffsetOutOfRangeError,
    StorageError,
    UnknownServerError,
)
from ..log.batch import end_of
from ..transport.messages import (
    READ_COMMITTED,
    AbortedTransaction,
    PartitionDeleted,
    PartitionEpochEnd,
    PartitionFetched,
    PartitionOffset,
)
from ..transport.transaction_messages import PartitionProducers
from .commands import (
    Answer,
    Append,
    Checkpoint,
    Command,
    DeleteBefore,
    DescribeDir,
    DescribeProducers,
    FindEpochEnd,
    FindOffset,
    Maintain,
    Read,
    Readable,
    Reconfigure,
    Refusal,
    Retire,
    Retired,
    StopWatching,
    Watch,
    WriteMarker,
    tell_back,
)
from .context import LOG_KEEPER
from .following import Following
from .leader_checks import check_followed_epoch, check_leader_epoch, offset_for
from .leader_cleaner import Clean, Cleaned, CleanOn, LeaderCleaner
from .leading import Leading
from .log_care import described_producers, dir_info, maintain, remove_later
from .peer_commands import FollowerAt, FollowerGone, FollowerRead, Replicated
from .replica_log import ReplicaLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..transport.message_base import Body
    from ..transport.messages import PartitionDirInfo
    from .commands import Ref
    from .context import NodeContext

logger = logging.getLogger(__name__)


class Partition(ReplicaLog):
    """One replica of one partition."""

    def __init__(self, context: NodeContext, topic: str, partition: int) -> None:
        super().__init__(context, topic, partition)
        self._role: Leading | Following | None = None
        self._retire_to: Ref | None = None
        self._handling: Any = None
        self._cleaner = LeaderCleaner(context, self.reactor, self.name, self.address)
        self._handlers: dict[type[Any], Callable[[Any], Body | None]] = {
            FindOffset: self._find_offset,
            FindEpochEnd: self._find_epoch_end,
            DeleteBefore: self._delete_before,
            DescribeDir: self._describe,
            DescribeProducers: self._describe_producers,
            WriteMarker: self._write_marker,
        }

    def on_start(self) -> None:
        """Open the log, and lead or follow."""
        if self.open():
            self._take_role()

    # ---- messages

    def on_receive(self, message: Any) -> None:
        """Handle one message; appends are gathered and written at the end of the turn."""
        self._handling = message
        kind = type(message)
        if kind is Append:
            self._append(message)
        elif kind is Read:
            self._read(message)
        elif kind is FollowerAt:
            self._follower_at(message)
        elif kind is FollowerRead:
            self._leader_or_none("answer a follower's read", lambda leading: leading.follower_read(message))
        elif kind is Replicated:
            if isinstance(self._role, Following):
                self._role.take(message)
        elif (handler := self._handlers.get(kind)) is not None:
            self._answer(message, handler)
        else:
            self._on_notice(message)
        self._handling = None

    def _on_notice(self, message: Any) -> None:
        match message:
            case Watch():
                self.watch(message)
            case StopWatching():
                self._watches.pop((message.call, message.index), None)
            case Reconfigure():
                self._reconfigure(message)
            case FollowerGone():
                self._leader_or_none("", lambda leading: leading.follower_gone(message.node_id))
            case Answer() | Refusal():
                self._leader_or_none("", lambda leading: leading.answered(message))
            case CleanOn():
                self._cleaner.go_on()
            case Clean():
                self._cleaner.begin(self.log, self.high_watermark)
            case Maintain():
                self._maintain()
            case Checkpoint() if self.log is None or (self.log.failure and self._flush is None):
                self._open_again()
            case Checkpoint():
                self.want_flush()
            case Retire():
                self._retire_to = message.reply_to
                self.stop()
            case _:
                assert False, f"{self.name} got {message!r}"  # noqa: B011, PT015 - nobody sends it anything else

    def _open_again(self) -> None:
        """The disk may have room again, or take what it has refused."""
        if self.log is not None:
            self._end_role(StorageError(f"{self.name} is opened again: {self.log.failure}"))
            self.log = None
            self.context.folder.abandon_log(self.name)
        self.on_start()

    def _leader_or_none(self, what: str, do: Callable[[Leading], object]) -> None:
        """What only a leader has to do; one that has ceased to lead has told everybody."""
        if isinstance(self._role, Leading):
            do(self._role)
        elif what:
            logger.debug("%s leads no more and does not %s", self.name, what)

    def _answer(self, command: Command, handler: Callable[[Any], Body | None]) -> None:
        body = handler(command)
        if body is not None:
            tell_back(command.reply_to, Answer(command.call, command.index, body))

    def _check_leads(self, epoch: int) -> Leading:
        """Refuse a client that means another leader, or another epoch of this one."""
        self.open_log()
        if not isinstance(self._role, Leading):
            me, leader = self.context.config.node_id, self.state.leader
            if leader in (-1, me):
                message = f"{self.name} has no leader at the moment"
                raise LeaderNotAvailableError(message)
            message = f"node {me} does not lead {self.name}; node {leader} does"
            raise NotLeaderOrFollowerError(message)
        check_leader_epoch(self.name, self.state.leader_epoch, epoch)
        return self._role

    # ---- roles

    def _take_role(self) -> None:
        """Lead or follow, as the metadata say; the role before has ended."""
        assert self._role is None
        assert self.log is not None
        if self.state.leader == self.context.config.node_id:
            self._role = Leading(self, self.log)
        else:
            self._role = Following(self, self.log)
        self._role.begin()

    def _reconfigure(self, message: Reconfigure) -> None:
        old, self.state = self.state, message.partition
        self.config = message.config
        assert self.state.leader_epoch >= old.leader_epoch, f"{self.name}: the leader epoch goes back"
        if self.log is None:
            return
        self.log.reconfigure(self.config)
        changed = (old.leader, old.leader_epoch) != (self.state.leader, self.state.leader_epoch)
        if changed or self._role is None:
            self._end_role(NotLeaderOrFollowerError(f"this node has stopped to lead {self.name}: refresh the metadata"))
            self._take_role()
        else:
            self._role.reconfigured()
        if self.config.flush == "ack":
            self.want_flush()
        else:
            self.local_moved()

    def local_moved(self) -> None:
        """More of the log counts as being on this replica: whoever leads or follows here hears of it."""
        if self._role is not None:
            self._role.local_moved()

    def _end_role(self, error: BrokerError) -> None:
        role, self._role = self._role, None
        if role is not None:
            role.end(error)

    # ---- append

    def _append(self, command: Append) -> None:
        try:
            leading = self._check_leads(command.leader_epoch)
        except BrokerError as error:
            self.refuse_append(command, error)
            return
        leading.stage(command)

    def on_turn_end(self) -> None:
        """Write what the turn has gathered, and see whether it has found damage."""
        if isinstance(self._role, Leading):
            self._role.append_staged()
        if self.log is not None and self.log.damage is not None and self._role is not None:
            self._role.damaged()

    # ---- read

    def _read(self, command: Read) -> None:
        data = b""
        mark = self.high_watermark
        start = -1 if self.log is None else self.log.log_start_offset
        stable = mark if self.log is None else self.log.stable_offset(mark)
        body = PartitionFetched(self.topic, self.partition, 0, None, mark, stable, start)
        try:
            body.preferred_read_replica = self._check_may_read(command)
            if body.preferred_read_replica == -1:
                data = self._read_data(command, stable if command.isolation == READ_COMMITTED else mark)
            if data and command.isolation == READ_COMMITTED:
                body.aborted = self._aborted(command.offset, data)
        except BrokerError as error:
            body.error_code, body.error_message = error.code, error.message
        tell_back(command.reply_to, Answer(command.call, command.index, body, data))

    def _check_may_read(self, command: Read) -> int:
        """Refuse a read that is not for this replica; the node that it had better go to, or -1 (KIP-392)."""
        if isinstance(self._role, Following) and command.rack:
            self.open_log()
            check_leader_epoch(self.name, self.state.leader_epoch, command.leader_epoch)
            return -1
        leading = self._check_leads(command.leader_epoch)
        return leading.nearer_replica(command) if command.rack else -1

    def _aborted(self, start: int, data: bytes) -> list[AbortedTransaction]:
        """The aborted transactions with records in what was read."""
        aborted = self.open_log().aborted_between(start, end_of(data))
        return [AbortedTransaction(each.producer_id, each.first_offset) for each in aborted]

    def _read_data(self, command: Read, end: int) -> bytes:
        log = self.open_log()
        offset = command.offset
        if not log.log_start_offset <= offset <= log.log_end_offset:
            message = (
                f"{self.name} has offsets {log.log_start_offset} to {log.log_end_offset}; a read asked for {offset}"
            )
            if offset > log.log_end_offset and not isinstance(self._role, Leading):
                raise OffsetNotAvailableError(message + " of a follower: ask the leader")
            raise OffsetOutOfRangeError(message)
        if offset >= end:
            return b""
        try:
            return log.read(offset, command.max_bytes, end_offset=end)
        except OSError as error:
            message = f"reading {self.name} at offset {offset} failed: {error}"
            logger.error(message)  # noqa: TRY400 - the sentence says all
            raise StorageError(message) from error

    # ---- look-ups

    def _find_offset(self, command: FindOffset) -> PartitionOffset:
        try:
            leading = self._check_leads(command.leader_epoch)
            leading.check_knows_the_end(command.timestamp)
            log, end = self.open_log(), self.high_watermark
            if command.isolation == READ_COMMITTED:
                end = log.stable_offset(end)
            found = offset_for(log, end, self.state.leader_epoch, command.timestamp)
        except BrokerError as error:
            return PartitionOffset(self.topic, self.partition, error.code, error.message)
        offset, timestamp, epoch = found
        return PartitionOffset(self.topic, self.partition, 0, None, timestamp, offset, epoch)

    def _find_epoch_end(self, command: FindEpochEnd) -> PartitionEpochEnd:
        try:
            self._check_leads(command.current_leader_epoch)
        except BrokerError as error:
            return PartitionEpochEnd(self.topic, self.partition, error.code, error.message)
        log = self.open_log()
        if command.leader_epoch == self.state.leader_epoch:
            found = (self.state.leader_epoch, log.log_end_offset)
        else:
            found = log.epoch_end_offset(command.leader_epoch)
        return PartitionEpochEnd(self.topic, self.partition, 0, None, *found)

    def _describe(self, _: DescribeDir) -> PartitionDirInfo:
        return dir_info(self.topic, self.partition, self.log, self.high_watermark, self._offline)

    def _describe_producers(self, _: DescribeProducers) -> PartitionProducers:
        try:
            self._check_leads(-1)
            producers = described_producers(self.open_log())
        except BrokerError as error:
            return PartitionProducers(self.topic, self.partition, error.code, error.message)
        return PartitionProducers(self.topic, self.partition, 0, None, producers)

    def _write_marker(self, command: WriteMarker) -> None:
        try:
            leading = self._check_leads(-1)
        except BrokerError as error:
            tell_back(command.reply_to, Refusal(command.call, command.index, error))
            return
        leading.stage_marker(command)

    def _follower_at(self, message: FollowerAt) -> None:
        try:
            if message.topic_id not in ("", self.topic_id):
                text = f"the topic {self.topic} has the id {self.topic_id} here, and {message.topic_id} at the follower"
                raise InconsistentTopicIdError(text)
            leading = self._check_leads(-1)
            check_followed_epoch(self.name, self.state.leader_epoch, message.leader_epoch)
        except BrokerError as error:
            Leading.refuse_follower(self, message, error)
            return
        leading.follower_at(message)

    # ---- upkeep

    def _delete_before(self, command: DeleteBefore) -> PartitionDeleted | None:
        try:
            self._check_leads(-1)
            log = self.open_log()
            offset = self.high_watermark if command.offset == -1 else command.offset
            if not 0 <= offset <= self.high_watermark:
                message = (
                    f"{self.name} can be deleted below offsets 0 to {self.high_watermark}, and {offset} was asked for"
                )
                raise OffsetOutOfRangeError(message)
            log.delete_records_before(offset)
        except BrokerError as error:
            return PartitionDeleted(self.topic, self.partition, error.code, error.message)
        except OSError as error:
            return PartitionDeleted(self.topic, self.partition, StorageError.code, str(error))
        body = PartitionDeleted(self.topic, self.partition, low_watermark=log.log_start_offset)
        # Answered once the new start is written down: what was deleted shall not come back with a crash.
        self.context.flusher.submit(
            self.context.folder.checkpoint_work(), lambda error: self._deleted(command, body, error)
        )
        return None

    def _deleted(self, command: DeleteBefore, body: PartitionDeleted, error: Exception | None) -> None:
        if error is not None:
            body = PartitionDeleted(self.topic, self.partition, StorageError.code, f"not written down: {error}")
        elif isinstance(self._role, Leading):
            self._role.deleted(command, body)
            return
        else:
            message = f"this node has stopped to lead {self.name}: refresh the metadata"
            body = PartitionDeleted(self.topic, self.partition, NotLeaderOrFollowerError.code, message)
        tell_back(command.reply_to, Answer(command.call, command.index, body))

    def _maintain(self) -> None:
        if self.log is None:
            return
        start = self.log.log_start_offset
        if maintain(self.context, self.name, self.log, self.high_watermark, leads=isinstance(self._role, Leading)):
            self.want_flush()
        if self.log.log_start_offset > start and isinstance(self._role, Leading):
            self._role.tell_news()

    # ---- the end

    def on_stop(self) -> None:
        """Close the log, flushed; or delete it, if the partition was deleted or moved away."""
        self._give_up(NotLeaderOrFollowerError(f"this node has stopped to serve {self.name}"))
        log, self.log = self.log, None
        if self._retire_to is None:
            if log is not None:
                self.close_log()
            return
        remove_later(self.context, self.name)
        self._retire_to.tell(Retired(self.address))

    def on_crash(self, error: BaseException | None) -> None:
        """Tell everybody who waits; what was written is recovered when the actor starts again."""
        self._give_up(UnknownServerError(f"the replica of {self.name} failed and starts again: {error!r}"))
        self.log = None
        if self._retire_to is not None:
            self.reactor.stop_actor(self.address)  # it was to end anyway, and shall not be made again
            remove_later(self.context, self.name)
            self._retire_to.tell(Retired(self.address))
            return
        self.context.folder.abandon_log(self.name)

    def _give_up(self, error: BrokerError) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        self._cleaner.end()
        self._end_role(error)
        for message in (self._handling, *self.actor_inbox.take_told()):
            if isinstance(message, Command):
                self.context.counters["batches-refused"] += isinstance(message, Append)
                tell_back(message.reply_to, Refusal(message.call, message.index, error))
            elif isinstance(message, FollowerAt):
                Leading.refuse_follower(self, message, error)
            elif isinstance(message, Watch):
                tell_back(message.reply_to, Readable(message.call, message.index))
            elif isinstance(message, Clean):
                self.reactor.tell(LOG_KEEPER, Cleaned(self.address))
            elif isinstance(message, Retire):
                self._retire_to = message.reply_to
        self._handling = None
        self.wake_watchers()
