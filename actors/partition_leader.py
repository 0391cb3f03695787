"""PartitionLeader: the one that appends to a partition, and answers reads of it below the high watermark.

All batches of a turn are written with one gathering write; then one flush covers everything that waits for the disk.
With flush=ack the high watermark follows the flushed end of the log, so that nobody ever reads a record which a power
cut could take back; otherwise it follows the log's end.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import (
    BrokerError,
    NotLeaderOrFollowerError,
    OffsetOutOfRangeError,
    StorageError,
    UnknownServerError,
)
from ..log.staging import Appended
from ..log.validation import check_batch
from ..transport.config_messages import TOPIC_RESOURCE
from ..transport.messages import (
    ACKS_ALL,
    PartitionDeleted,
    PartitionDirInfo,
    PartitionEpochEnd,
    PartitionFetched,
    PartitionOffset,
    PartitionProduced,
)
from .actor import ReactorActor
from .commands import (
    Answer,
    Append,
    Checkpoint,
    Command,
    DeleteBefore,
    DescribeDir,
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
    tell_back,
)
from .context import LOG_KEEPER
from .flush_pool import attempt
from .leader_checks import check_in_sync, check_leader_epoch, offset_for
from .leader_cleaner import Clean, Cleaned, CleanOn, LeaderCleaner
from .log_care import dir_info, remove_later, report_recovery

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..log.batch import BatchHeader
    from ..log.flush import FlushJob
    from ..log.partition_log import PartitionLog
    from ..quorum.image import PartitionImage
    from ..settings import TopicConfig
    from ..transport.message_base import Body
    from .commands import Ref
    from .context import NodeContext
    from .timers import Timer

logger = logging.getLogger(__name__)


class _Waiting(NamedTuple):
    """An acks=all append that is answered once the high watermark has passed it."""

    end_offset: int
    command: Append
    body: PartitionProduced


class PartitionLeader(ReactorActor):
    """The leader of one partition. It owns the partition's log."""

    def __init__(self, context: NodeContext, topic: str, partition: int) -> None:
        super().__init__()
        self.context = context
        self.topic = topic
        self.partition = partition
        self._state: PartitionImage = context.image.topics[topic].partitions[partition]
        self._config: TopicConfig = context.config.topic_config(context.image.config_of(TOPIC_RESOURCE, topic))
        self._retire_to: Ref | None = None
        self._log: PartitionLog | None = None
        self._offline = "its log is not open yet"
        self._high_watermark = 0
        self._handling: Any = None
        self._staged: deque[tuple[Append, BatchHeader]] = deque()
        self._waiting: deque[_Waiting] = deque()
        self._watches: dict[tuple[Any, int], Watch] = {}
        self._cleaner = LeaderCleaner(context, self.reactor, self.name, self.address)
        self._flush: FlushJob | None = None
        self._flush_wanted = False
        self._flush_timer: Timer | None = None
        self._handlers: dict[type[Any], Callable[[Any], Body | None]] = {
            FindOffset: self._find_offset,
            FindEpochEnd: self._find_epoch_end,
            DeleteBefore: self._delete_before,
            DescribeDir: self._describe,
        }

    @property
    def name(self) -> str:
        """The partition, as its folder is named."""
        return f"{self.topic}-{self.partition}"

    def on_start(self) -> None:
        """Open the log, which recovers it if the node had not stopped cleanly."""
        try:
            topic_id = self.context.image.topics[self.topic].topic_id
            self._log = self.context.folder.open_log(self.name, self._config, self.context.clock.wall_ms(), topic_id)
        except (OSError, BrokerError) as error:
            self._offline = f"its log cannot be opened: {error}"
            logger.error("partition %s is offline: %s", self.name, self._offline)  # noqa: TRY400 - one sentence is enough
            return
        report_recovery(self.name, self._log)
        if self._config.flush == "ack" and self._log.damage is None:
            # What recovery found past the recovery point may stand in the system's memory alone.
            self._high_watermark = max(self._log.flushed_offset, self._log.log_start_offset)
            if self.context.started_ms:
                self._want_flush()
            else:
                self._flush_here(self._log)
        else:
            self._high_watermark = self._log.log_end_offset

    def _flush_here(self, log: PartitionLog) -> None:
        """Flush while the node starts and serves nobody: then no client sees the high watermark behind where it was."""
        self._flush = log.start_flush()
        if self._flush is not None:
            self._flushed(attempt(self._flush.run))

    # ---- messages

    def on_receive(self, message: Any) -> None:
        """Handle one message; appends are gathered and written at the end of the turn."""
        self._handling = message
        kind = type(message)
        if kind is Append:
            self._stage(message)
        elif kind is Read:
            self._read(message)
        elif (handler := self._handlers.get(kind)) is not None:
            self._answer(message, handler)
        else:
            self._on_notice(message)
        self._handling = None

    def _on_notice(self, message: Any) -> None:
        match message:
            case Watch():
                self._watch(message)
            case StopWatching():
                self._watches.pop((message.call, message.index), None)
            case Reconfigure():
                self._reconfigure(message)
            case CleanOn():
                self._cleaner.go_on()
            case Clean():
                self._cleaner.begin(self._log, self._high_watermark)
            case Maintain():
                self._maintain()
            case Checkpoint() if self._log is None:
                self.on_start()  # the disk may have room again
            case Checkpoint():
                self._want_flush()
            case Retire():
                self._retire_to = message.reply_to
                self.stop()
            case _:
                assert False, f"{self.name} got {message!r}"  # noqa: B011, PT015 - nobody sends it anything else

    def _answer(self, command: Command, handler: Callable[[Any], Body | None]) -> None:
        body = handler(command)
        if body is not None:
            tell_back(command.reply_to, Answer(command.call, command.index, body))

    def _open_log(self) -> PartitionLog:
        if self._log is None:
            message = f"partition {self.name} is offline: {self._offline}"
            raise StorageError(message)
        return self._log

    def _check_epoch(self, epoch: int) -> None:
        """Refuse a client whose leader epoch is not this leader's."""
        check_leader_epoch(self.name, self._state.leader_epoch, epoch)

    # ---- append

    def _stage(self, command: Append) -> None:
        try:
            self._open_log()
            self._check_epoch(command.leader_epoch)
            if command.acks == ACKS_ALL:
                check_in_sync(self.name, len(self._state.isr), self._config.min_insync_replicas)
            header = check_batch(command.batch, self._config, now_ms=self.context.clock.wall_ms())
        except BrokerError as error:
            self._refuse(command, error)
            return
        self._staged.append((command, header))

    def _refuse(self, command: Append, error: BrokerError) -> None:
        self.context.counters["batches-refused"] += 1
        if command.acks == 0:
            logger.warning("a batch for %s with acks=0 was refused: %s: %s", self.name, error.name, error.message)
        body = PartitionProduced(self.topic, self.partition, error.code, error.message)
        tell_back(command.reply_to, Answer(command.call, command.index, body))

    def on_turn_end(self) -> None:
        """Write what the turn has gathered."""
        if self._staged:
            self._append_staged()

    def _append_staged(self) -> None:
        log = self._open_log()
        results = log.append(
            [(header, command.batch) for command, header in self._staged],
            leader_epoch=self._state.leader_epoch,
            now_ms=self.context.clock.wall_ms(),
        )
        assert len(results) == len(self._staged), f"{self.name}: {len(self._staged)} had {len(results)} results"
        appended = 0
        for result in results:
            command, header = self._staged[0]
            if isinstance(result, Appended):
                appended += not result.duplicate
                if not result.duplicate:
                    self.context.counters["records-appended"] += header.records_count
                self._appended(command, result, log)
            else:
                self._refuse(command, result)
            self._staged.popleft()
        if appended:
            self.context.counters["batches-appended"] += appended
            self._after_append(log)

    def _appended(self, command: Append, result: Appended, log: PartitionLog) -> None:
        body = PartitionProduced(
            self.topic,
            self.partition,
            base_offset=result.base_offset,
            log_append_time_ms=result.log_append_time_ms,
            log_start_offset=log.log_start_offset,
        )
        if command.acks == ACKS_ALL and result.last_offset >= self._high_watermark and self._config.flush == "ack":
            self._waiting.append(_Waiting(result.last_offset + 1, command, body))
        else:
            tell_back(command.reply_to, Answer(command.call, command.index, body))

    def _after_append(self, log: PartitionLog) -> None:
        if self._config.flush == "ack":
            self._want_flush()
            return
        self._advance(log.log_end_offset)
        if log.has_sealed_unflushed:
            self._want_flush()  # a segment that is full is flushed once, so that a recovery need not read it
        if self._config.flush == "interval" and self._flush_timer is None:
            self._flush_timer = self.reactor.call_later(self._config.flush_ms, self._flush_by_time)

    def _advance(self, high_watermark: int) -> None:
        """Move the high watermark; whoever waited for that hears of it."""
        if high_watermark <= self._high_watermark:
            return
        self._high_watermark = high_watermark
        while self._waiting and self._waiting[0].end_offset <= high_watermark:
            _, command, body = self._waiting.popleft()
            tell_back(command.reply_to, Answer(command.call, command.index, body))
        self._wake_watchers()

    def _wake_watchers(self) -> None:
        watches, self._watches = self._watches, {}
        for watch in watches.values():
            tell_back(watch.reply_to, Readable(watch.call, watch.index))

    # ---- flush

    def _flush_by_time(self) -> None:
        self._flush_timer = None
        self._want_flush()

    def _want_flush(self) -> None:
        """Flush now, or as soon as the flush that is under way has ended."""
        if self._flush is not None:
            self._flush_wanted = True
            return
        job = None if self._log is None else self._log.start_flush()
        if job is not None:
            self._flush = job
            self.context.flusher.submit(job.run, self._flushed)

    def _flushed(self, error: Exception | None) -> None:
        job, self._flush = self._flush, None
        assert job is not None, f"{self.name}: a flush ended that had not begun"
        log = self._log
        if log is None:
            return  # closed while the flush was under way, which may have found its file gone
        # What a failed fsync leaves on the disk is unknown, and a second one may report success for lost pages.
        assert error is None, f"flushing {self.name} failed: {error}; the node stops and recovers from its logs"
        log.finish_flush(job)
        if job.small_files_error is not None:
            logger.warning("indexes of %s have to wait for the disk: %s", self.name, job.small_files_error)
        self.context.counters["flushes"] += 1
        if self._config.flush == "ack":
            self._advance(log.flushed_offset)
        if self._flush_wanted:
            self._flush_wanted = False
            self._want_flush()

    # ---- read

    def _read(self, command: Read) -> None:
        try:
            data = self._read_data(command)
        except BrokerError as error:
            start = -1 if self._log is None else self._log.log_start_offset
            body = PartitionFetched(
                self.topic, self.partition, error.code, error.message, self._high_watermark, -1, start
            )
            tell_back(command.reply_to, Answer(command.call, command.index, body))
            return
        log = self._open_log()
        body = PartitionFetched(
            self.topic, self.partition, 0, None, self._high_watermark, self._high_watermark, log.log_start_offset
        )
        tell_back(command.reply_to, Answer(command.call, command.index, body, data))

    def _read_data(self, command: Read) -> bytes:
        log = self._open_log()
        self._check_epoch(command.leader_epoch)
        offset = command.offset
        if not log.log_start_offset <= offset <= log.log_end_offset:
            message = (
                f"{self.name} has offsets {log.log_start_offset} to {log.log_end_offset}; a read asked for {offset}"
            )
            raise OffsetOutOfRangeError(message)
        if offset >= self._high_watermark:
            return b""
        try:
            return log.read(offset, command.max_bytes, end_offset=self._high_watermark)
        except OSError as error:
            message = f"reading {self.name} at offset {offset} failed: {error}"
            logger.error(message)  # noqa: TRY400 - the sentence says all
            raise StorageError(message) from error

    def _watch(self, watch: Watch) -> None:
        if self._high_watermark > watch.high_watermark or self._log is None:
            tell_back(watch.reply_to, Readable(watch.call, watch.index))
        else:
            self._watches[watch.call, watch.index] = watch

    # ---- look-ups

    def _find_offset(self, command: FindOffset) -> PartitionOffset:
        try:
            log = self._open_log()
            self._check_epoch(command.leader_epoch)
            found = offset_for(log, self._high_watermark, self._state.leader_epoch, command.timestamp)
        except BrokerError as error:
            return PartitionOffset(self.topic, self.partition, error.code, error.message)
        offset, timestamp, epoch = found
        return PartitionOffset(self.topic, self.partition, 0, None, timestamp, offset, epoch)

    def _find_epoch_end(self, command: FindEpochEnd) -> PartitionEpochEnd:
        try:
            log = self._open_log()
            self._check_epoch(command.current_leader_epoch)
        except BrokerError as error:
            return PartitionEpochEnd(self.topic, self.partition, error.code, error.message)
        if command.leader_epoch == self._state.leader_epoch:
            found = (self._state.leader_epoch, log.log_end_offset)
        else:
            found = log.epoch_end_offset(command.leader_epoch)
        return PartitionEpochEnd(self.topic, self.partition, 0, None, *found)

    def _describe(self, _: DescribeDir) -> PartitionDirInfo:
        return dir_info(self.topic, self.partition, self._log, self._high_watermark, self._offline)

    # ---- upkeep

    def _delete_before(self, command: DeleteBefore) -> PartitionDeleted | None:
        try:
            log = self._open_log()
            offset = self._high_watermark if command.offset == -1 else command.offset
            if not 0 <= offset <= self._high_watermark:
                message = (
                    f"{self.name} can be deleted below offsets 0 to {self._high_watermark}, and {offset} was asked for"
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
        tell_back(command.reply_to, Answer(command.call, command.index, body))

    def _reconfigure(self, message: Reconfigure) -> None:
        assert message.partition.leader_epoch >= self._state.leader_epoch, f"{self.name}: the leader epoch goes back"
        self._state = message.partition
        self._config = message.config
        log = self._log
        if log is None:
            return
        log.reconfigure(message.config)
        if self._config.flush == "ack":
            self._want_flush()
        else:
            self._advance(log.log_end_offset)

    def _maintain(self) -> None:
        log = self._log
        if log is None:
            return
        now_ms = self.context.clock.wall_ms()
        try:
            log.roll_if_old(now_ms)
            deleted = log.apply_retention(now_ms, self._high_watermark)
            log.expire_producers(now_ms, self.context.config.producer_id_expiration_ms)
            log.checkpoint()
        except OSError as error:
            logger.warning("upkeep of %s has to wait: %s", self.name, error)
            return
        if deleted:
            self.context.counters["segments-deleted"] += deleted
        self._want_flush()

    # ---- the end

    def on_stop(self) -> None:
        """Close the log, flushed; or delete it, if the partition was."""
        self._give_up(NotLeaderOrFollowerError(f"this node has stopped to lead {self.name}"))
        log, self._log = self._log, None
        if self._retire_to is None:
            if log is not None:
                self._close_log()
            return
        remove_later(self.context, self.name)
        self._retire_to.tell(Retired(self.address))

    def _close_log(self) -> None:
        try:
            self.context.folder.close_log(self.name)
        except StorageError as error:
            logger.error("the node does not stop cleanly: %s", error.message)  # noqa: TRY400 - the sentence says all

    def on_crash(self, error: BaseException | None) -> None:
        """Tell everybody who waits; what was written is recovered when the actor starts again."""
        self._give_up(UnknownServerError(f"the leader of {self.name} failed and starts again: {error!r}"))
        self._log = None
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
        commands = [command for command, _ in self._staged] + [waiting.command for waiting in self._waiting]
        self._staged.clear()
        self._waiting.clear()
        for message in (*commands, self._handling, *self.actor_inbox.take_told()):
            if isinstance(message, Command):
                self.context.counters["batches-refused"] += isinstance(message, Append)
                tell_back(message.reply_to, Refusal(message.call, message.index, error))
            elif isinstance(message, Watch):
                tell_back(message.reply_to, Readable(message.call, message.index))
            elif isinstance(message, Clean):
                self.reactor.tell(LOG_KEEPER, Cleaned(self.address))
            elif isinstance(message, Retire):
                self._retire_to = message.reply_to
        self._handling = None
        self._wake_watchers()
