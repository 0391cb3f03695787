"""Following: what a replica does while another one leads: it takes over the leader's log, batch by batch.

What it fetched is flushed before it asks for more (with flush=ack), so that its fetch offset tells the leader what a
power cut here cannot take back. Where the logs have parted it truncates to the last common record, never to the high
watermark (KIP-101).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..errors import BrokerError, CorruptMessageError, FencedLeaderEpochError, OffsetOutOfRangeError, error_for
from ..log.batch import read_header
from ..transport.peer_messages import ReplicaPosition
from .context import fetcher_address
from .peer_commands import Follow, Replicated, Unfollow
from .replica_fetcher import ReplicaFetcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..log.partition_log import PartitionLog
    from ..transport.peer_messages import ReplicaState
    from .replica_log import ReplicaLog
    from .timers import Timer

logger = logging.getLogger(__name__)


_FIRST_PAUSE_MS = 10.0
"""After an election leader and follower hear of it one after the other: the first errors pass at once."""


class Following:
    """One time of following: one leader in one leader epoch."""

    def __init__(self, replica: ReplicaLog, log: PartitionLog) -> None:
        self._replica = replica
        self._log = log
        self._leader = replica.state.leader
        self._epoch = replica.state.leader_epoch
        self._asked = False
        """Whether the fetcher knows where to fetch from; else it waits for a flush, or for a time after an error."""
        self._position: ReplicaPosition | None = None
        """What the fetcher was told last."""
        self._timer: Timer | None = None
        self._pause_ms = _FIRST_PAUSE_MS
        self._repairing = False
        """Whether it was noticed that the log is damaged, and it is not cut yet."""
        self._ended = False

    def begin(self) -> None:
        """Begin to fetch, if there is a leader."""
        self._go_on()

    def reconfigured(self) -> None:
        """The partition's state or settings have changed, but not its leader."""
        self.damaged()

    def damaged(self) -> None:
        """The log may be damaged, or this replica be out of the ISR now for it."""
        is_counted_on = self._is_counted_on()
        if self._log.damage is not None and (not self._repairing or not is_counted_on) and self._timer is None:
            self._go_on()

    def _is_counted_on(self) -> bool:
        """Whether this replica may be elected."""
        state, me = self._replica.state, self._replica.context.config.node_id
        return me in state.isr or me in state.elr

    def _repair(self) -> bool:
        """Flushed records are not what was written. The leader has them: they are fetched again, from the damage on.

        First the leader is told how far this log is good, so that nobody elects this replica any more (KIP-966); only
        then is the damaged end cut off. Whether it is.
        """
        log, replica = self._log, self._replica
        assert log.damage is not None, f"{replica.name} is repaired, and not damaged"
        self._repairing = True
        if self._is_counted_on():
            self._say_position(log.damage.offset, -1, damaged=True)
            return False
        logger.error("%s fetches again what is damaged: %s", replica.name, log.damage)
        if not self._attempt(lambda: log.truncate_to(log.log_end_offset)):
            return False
        self._repairing = False
        replica.high_watermark = min(replica.high_watermark, log.log_end_offset)
        return True

    def local_moved(self) -> None:
        """More of the log is flushed, or need not be."""
        if not self._asked and self._timer is None:
            self._go_on()

    def _go_on(self) -> None:
        """Let the fetcher fetch from the log's end on, once all before it counts as being here."""
        if self._ended or self._leader == -1 or self._log.failure:
            return  # what a log that has failed has is known when it is opened again
        replica, log = self._replica, self._log
        if log.damage is not None and not self._repair():
            return
        if replica.acked_offset < log.log_end_offset:
            self._asked = False
            replica.want_flush()
            return
        self._say_position(log.log_end_offset, log.leader_epoch)

    def _say_position(self, offset: int, last_epoch: int, *, damaged: bool = False) -> None:
        """Fetch from an offset on, with all before it here and flushed; or, damaged, fetch nothing."""
        replica = self._replica
        self._asked = True
        position = ReplicaPosition(
            replica.topic,
            replica.partition,
            self._epoch,
            offset,
            last_epoch,
            replica.topic_id,
            self._log.log_start_offset,
            damaged,
        )
        self._position = position
        address = fetcher_address(self._leader)
        if not replica.reactor.tell(address, Follow(position)):
            # Not supervised: one that fails tells its followers, and the first of them makes the next one.
            fetcher = replica.reactor.spawn(ReplicaFetcher, replica.context, self._leader, address=address)
            fetcher.tell(Follow(position))

    def take(self, message: Replicated) -> None:
        """Take what the leader says; the answer is Follow, at once, after a flush, or after a while, or Unfollow."""
        if self._ended:
            return
        if message.is_news:
            if message.state.leader_epoch == self._epoch:
                start = self._log.log_start_offset
                if self._attempt(lambda: self._take_news(message.state)) and self._log.log_start_offset > start:
                    self._say_start()
            return
        if not self._asked or message.position != self._position:
            return
        self._asked = False
        if self._attempt(lambda: self._take(message)):
            self._pause_ms = _FIRST_PAUSE_MS
            self._go_on()

    def _say_start(self) -> None:
        """Let the leader know that the log begins later; while it waits for a flush, the next position says so."""
        if self._asked:
            self._go_on()

    def _attempt(self, work: Callable[[], object]) -> bool:
        """Do the work; after an error the partition is fetched no more, for a while."""
        try:
            work()
        except (BrokerError, OSError) as error:
            self._pause(error)
            return False
        return True

    def _pause(self, error: Exception) -> None:
        replica = self._replica
        replica.context.counters["replica-fetch-errors"] += 1
        logger.warning("%s does not follow node %d for a while: %s", replica.name, self._leader, error)
        self._asked = False
        replica.reactor.tell(fetcher_address(self._leader), Unfollow(replica.topic, replica.partition))
        self._timer = replica.reactor.call_later(self._pause_ms, self._again)
        self._pause_ms = min(2 * self._pause_ms, float(replica.context.config.replica_fetch_backoff_ms))

    def _again(self) -> None:
        self._timer = None
        self._go_on()

    def _take(self, news: Replicated) -> None:
        state, replica, log = news.state, self._replica, self._log
        if log.damage is not None:
            raise CorruptMessageError(str(log.damage))
        if state.error_code:
            error = error_for(state.error_code, state.error_message)
            if not isinstance(error, OffsetOutOfRangeError) or state.log_start_offset < 0:
                raise error
            self._start_at(state.log_start_offset)
            return
        if state.leader_epoch != self._epoch:
            message = f"node {self._leader} answers in epoch {state.leader_epoch}; it was asked in {self._epoch}"
            raise FencedLeaderEpochError(message)
        if state.diverging_end >= 0:
            self._truncate(state.diverging_epoch, state.diverging_end)
            return
        if news.data:
            self._check_epochs(news.data)
            log.append_as_follower(news.data)
            replica.context.counters["bytes-replicated"] += len(news.data)
        self._take_news(state)
        if news.data and replica.config.flush != "ack":
            replica.appended()

    def _take_news(self, state: ReplicaState) -> None:
        """Take over the high watermark and the log's start, as far as the log goes."""
        log = self._log
        self._replica.advance(min(state.high_watermark, log.log_end_offset))
        if log.log_start_offset < state.log_start_offset <= log.log_end_offset:
            log.delete_records_before(state.log_start_offset)

    def _check_epochs(self, data: bytes) -> None:
        """Refuse batches of a later leader than the one that was asked: what is before them may not be this log."""
        position = 0
        while position < len(data):
            header = read_header(data, position)
            if header.leader_epoch > self._epoch:
                message = (
                    f"node {self._leader} sent a batch of leader epoch {header.leader_epoch} for {self._replica.name},"
                    f" which it leads in epoch {self._epoch}"
                )
                raise CorruptMessageError(message)
            position += header.size

    def _truncate(self, epoch: int, end: int) -> None:
        """Cut off what the leader does not have: from the lower of both ends of the last common epoch on."""
        log, replica = self._log, self._replica
        own_epoch, own_end = log.epoch_end_offset(epoch) if epoch >= 0 else (-1, -1)
        # With no epoch the leader has nothing as old as all that is here: what it has begins at this end.
        target = end if epoch < 0 else min(end, own_end if own_epoch >= 0 else log.log_start_offset)
        logger.info(
            "%s is cut from offset %d to %d: it parted from node %d after epoch %d",
            *(replica.name, log.log_end_offset, target, self._leader, epoch),
        )
        if target < replica.high_watermark:
            replica.context.counters["truncated-below-high-watermark"] += 1
            logger.error(
                "%s loses committed records from offset %d on, up to %d: an unclean election or lost disks made a"
                " replica the leader that did not have them",
                *(replica.name, target, replica.high_watermark),
            )
        if own_epoch < 0 or target < log.log_start_offset:
            log.truncate_and_start_at(target)  # no record is common, and what is known of epochs is void as well
            replica.high_watermark = target
        else:
            log.truncate_to(target)
            replica.high_watermark = min(replica.high_watermark, log.log_end_offset)

    def _start_at(self, offset: int) -> None:
        """The leader's log begins later than this one ends, or before it begins: start anew where it begins."""
        log, replica = self._log, self._replica
        logger.info("%s begins anew at offset %d, where the leader's log begins", replica.name, offset)
        log.truncate_and_start_at(offset)
        replica.high_watermark = offset

    def end(self, error: BrokerError) -> None:
        """Follow this leader no more."""
        del error
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        replica = self._replica
        if self._leader != -1:
            replica.reactor.tell(fetcher_address(self._leader), Unfollow(replica.topic, replica.partition))
