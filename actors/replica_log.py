"""ReplicaLog: the log of one replica of a partition: opened, flushed, watched and closed; the high watermark with it.

With flush=ack only what is flushed counts as being on this replica, so that nobody ever reads a record which a power
cut of one node could take back; otherwise all that is in the log does.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ..errors import BrokerError, StorageError
from ..transport.config_messages import TOPIC_RESOURCE
from ..transport.messages import PartitionProduced
from .actor import ReactorActor
from .commands import Answer, Append, Readable, Watch, tell_back
from .flush_pool import attempt
from .log_care import report_recovery

if TYPE_CHECKING:
    from ..log.flush import FlushJob
    from ..log.partition_log import PartitionLog
    from ..quorum.image import PartitionImage
    from ..settings import TopicConfig
    from .context import NodeContext
    from .timers import Timer

logger = logging.getLogger(__name__)


class ReplicaLog(ReactorActor):
    """The part of ``Partition`` that knows nothing of leaders and followers."""

    def __init__(self, context: NodeContext, topic: str, partition: int) -> None:
        super().__init__()
        self.context = context
        self.topic = topic
        self.topic_id = context.image.topics[topic].topic_id
        self.partition = partition
        self.state: PartitionImage = context.image.topics[topic].partitions[partition]
        self.config: TopicConfig = context.config.topic_config(context.image.config_of(TOPIC_RESOURCE, topic))
        self.log: PartitionLog | None = None
        self.high_watermark = 0
        self._offline = "its log is not open yet"
        self._watches: dict[tuple[Any, int], Watch] = {}
        self._flush: FlushJob | None = None
        self._flush_wanted = False
        self._flush_timer: Timer | None = None

    def local_moved(self) -> None:
        """More of the log counts as being on this replica."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The partition, as its folder is named."""
        return f"{self.topic}-{self.partition}"

    @property
    def acked_offset(self) -> int:
        """The end of what counts as being on this replica: with flush=ack what is flushed."""
        assert self.log is not None
        return self.log.flushed_offset if self.config.flush == "ack" else self.log.log_end_offset

    def open(self) -> bool:
        """Open the log, which recovers it if the node had not stopped cleanly; False if that cannot be."""
        try:
            now_ms = self.context.clock.wall_ms()
            self.log = self.context.folder.open_log(self.name, self.config, now_ms, self.topic_id)
        except (OSError, BrokerError) as error:
            self._offline = f"its log cannot be opened: {error}"
            logger.error("partition %s is offline: %s", self.name, self._offline)  # noqa: TRY400 - one sentence is enough
            return False
        report_recovery(self.name, self.log)
        self.high_watermark = self.log.log_start_offset
        if self.config.flush == "ack" and self.log.damage is None:
            # What recovery found past the recovery point may stand in the system's memory alone.
            if self.context.started_ms:
                self.want_flush()
            else:
                self._flush_here(self.log)
        return True

    def _flush_here(self, log: PartitionLog) -> None:
        """Flush while the node starts and serves nobody: then no client sees the high watermark behind where it was."""
        self._flush = log.start_flush()
        if self._flush is not None:
            self._flushed(attempt(self._flush.run))

    def open_log(self) -> PartitionLog:
        """The log. Raises StorageError if it could not be opened."""
        if self.log is None:
            message = f"partition {self.name} is offline: {self._offline}"
            raise StorageError(message)
        return self.log

    # ---- growing

    def appended(self) -> None:
        """The log has grown: flush it as the topic's setting says, and count it where no flush is waited for."""
        log = self.open_log()
        if self.config.flush == "ack":
            self.want_flush()
            return
        self.local_moved()
        if log.has_sealed_unflushed:
            self.want_flush()  # a segment that is full is flushed once, so that a recovery need not read it
        if self.config.flush == "interval" and self._flush_timer is None:
            self._flush_timer = self.reactor.call_later(self.config.flush_ms, self._flush_by_time)

    def refuse_append(self, command: Append, error: BrokerError) -> None:
        """Answer an append with the error that it met."""
        self.context.counters["batches-refused"] += 1
        if command.acks == 0:
            logger.warning("a batch for %s with acks=0 was refused: %s: %s", self.name, error.name, error.message)
        body = PartitionProduced(self.topic, self.partition, error.code, error.message)
        tell_back(command.reply_to, Answer(command.call, command.index, body))

    def advance(self, high_watermark: int) -> None:
        """Move the high watermark; whoever watches hears of it."""
        if high_watermark <= self.high_watermark:
            return
        log = self.open_log()
        assert high_watermark <= log.log_end_offset, f"{self.name}: high watermark past the log's end"
        self.high_watermark = high_watermark
        log.settle_transactions(high_watermark)
        self.wake_watchers()

    def wake_watchers(self) -> None:
        """Let those who wait for more read again."""
        watches, self._watches = self._watches, {}
        for watch in watches.values():
            tell_back(watch.reply_to, Readable(watch.call, watch.index))

    # ---- flush

    def _flush_by_time(self) -> None:
        self._flush_timer = None
        self.want_flush()

    def want_flush(self) -> None:
        """Flush now, or as soon as the flush that is under way has ended."""
        if self._flush is not None:
            self._flush_wanted = True
            return
        job = None if self.log is None else self.log.start_flush()
        if job is not None:
            self._flush = job
            self.context.flusher.submit(job.run, self._flushed)

    def _flushed(self, error: Exception | None) -> None:
        job, self._flush = self._flush, None
        assert job is not None, f"{self.name}: a flush ended that had not begun"
        log = self.log
        if log is None:
            return  # closed while the flush was under way, which may have found its file gone
        # What a failed fsync leaves on the disk is unknown, and a second one may report success for lost pages.
        assert error is None, f"flushing {self.name} failed: {error}; the node stops and recovers from its logs"
        if log.refusal() and log.failure:
            return  # it has failed meanwhile, and says so to whoever appends
        log.finish_flush(job)
        if job.small_files_error is not None:
            logger.warning("indexes of %s have to wait for the disk: %s", self.name, job.small_files_error)
        self.context.counters["flushes"] += 1
        if self.config.flush == "ack":
            self.local_moved()
        if self._flush_wanted:
            self._flush_wanted = False
            self.want_flush()

    # ---- watching

    def watch(self, watch: Watch) -> None:
        """Say Readable once the high watermark is above that of the watch."""
        if self.high_watermark > watch.high_watermark or self.log is None:
            tell_back(watch.reply_to, Readable(watch.call, watch.index))
        else:
            self._watches[watch.call, watch.index] = watch

    # ---- the end

    def close_log(self) -> None:
        """Flush and close the log; the node does not stop cleanly if that fails."""
        try:
            self.context.folder.close_log(self.name)
        except StorageError as error:
            logger.error("the node does not stop cleanly: %s", error.message)  # noqa: TRY400 - the sentence says all
