"""Leading: what a replica does while it leads: appends, followers' progress, the high watermark, and who is in sync.

All batches of a turn are written with one gathering write. The rules of in-sync replicas and of the high watermark are
quorum/in_sync.py's; here they meet the log, the followers' fetches and the controller.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from ..errors import (
    BrokerError,
    CorruptMessageError,
    NotLeaderOrFollowerError,
    OffsetNotAvailableError,
    OffsetOutOfRangeError,
)
from ..log.batch import read_header
from ..log.staging import Appended
from ..log.validation import check_batch
from ..quorum.elections import min_insync_replicas
from ..quorum.in_sync import RETRY_MS, InSync
from ..transport.messages import ACKS_ALL, LATEST, PartitionProduced
from ..transport.peer_messages import (
    AlterPartitionRequest,
    PartitionChange,
    ReplicaState,
)
from .commands import Answer, Append, ControllerCall, Refusal, tell_back
from .context import CONTROLLER
from .leader_checks import check_in_sync, isr_result, nearer_replica
from .peer_commands import FollowerAt, FollowerData, FollowerNews, FollowerRead, FollowerReady
from .transaction_markers import marker_append
from .verification import VERIFY, Verification

if TYPE_CHECKING:
    from ..log.batch import BatchHeader
    from ..log.partition_log import PartitionLog
    from ..transport.messages import PartitionDeleted
    from .commands import DeleteBefore, Read, Ref, WriteMarker
    from .replica_log import ReplicaLog
    from .timers import Timer

logger = logging.getLogger(__name__)


_LOOKS = 20
"""Moments in half of replica.lag.time.max.ms at which leaders look for followers that lag."""


class _Waiting(NamedTuple):
    """An acks=all append that is answered once the high watermark has passed it."""

    end_offset: int
    command: Append
    body: PartitionProduced


class _Deletion(NamedTuple):
    """Records that were deleted here; answered once those who may lead next have deleted them too."""

    command: DeleteBefore
    body: PartitionDeleted


class _Follower:
    """Where a follower's fetch stands."""

    __slots__ = ("log_start", "offset", "ready_said", "server")

    def __init__(self, server: Ref, offset: int, log_start: int) -> None:
        self.server = server
        self.offset = offset
        self.log_start = log_start
        """-1: it does not say."""
        self.ready_said = False


class Leading:
    """One leadership: from the election of this replica in one leader epoch to its end."""

    def __init__(self, replica: ReplicaLog, log: PartitionLog) -> None:
        self._replica = replica
        self._log = log
        self._epoch = replica.state.leader_epoch
        self._epoch_start = log.log_end_offset
        self._staged: deque[tuple[Append, BatchHeader]] = deque()
        self.verification = Verification(replica, log, self._stage)
        self._waiting: deque[_Waiting] = deque()
        self._deletions: list[_Deletion] = []
        self._followers: dict[int, _Follower] = {}
        self._timer: Timer | None = None
        self._asking = False
        self._leaving = False
        """Whether it was noticed that the log is damaged."""
        self._acked = replica.acked_offset
        context = replica.context
        self._in_sync = InSync(
            context.config.node_id,
            replica.state,
            min_insync_replicas=self._min_isr,
            log_end=log.log_end_offset,
            acked_offset=replica.acked_offset,
            high_watermark=replica.high_watermark,
            lag_max_ms=context.config.replica_lag_time_max_ms,
            now_ms=context.clock.monotonic_ms(),
            led_before=context.led.get(replica.name) == self._epoch,
        )
        context.led[replica.name] = self._epoch

    @property
    def _min_isr(self) -> int:
        return min_insync_replicas(self._replica.config.min_insync_replicas, self._replica.state)

    def begin(self) -> None:
        """Take up the lead."""
        self.damaged()
        self.local_moved()
        self._watch_lag()

    def reconfigured(self) -> None:
        """The partition's state or settings have changed, and this replica leads on in the same epoch."""
        self._in_sync.configured(self._min_isr)
        self._in_sync.committed(self._replica.state, self._now_ms())
        self._advance()
        self._answer_deletions()
        self._check_isr()
        self._watch_lag()

    # ---- append

    def stage(self, command: Append) -> None:
        """Check a batch, to be written at the end of the turn."""
        replica = self._replica
        try:
            if command.acks == ACKS_ALL:
                check_in_sync(replica.name, len(replica.state.isr), self._min_isr)
            header = check_batch(command.batch, replica.config, now_ms=replica.context.clock.wall_ms())
            if header.is_transactional:
                self.verification.take(command, header)
                return
        except BrokerError as error:
            replica.refuse_append(command, error)
            return
        self._staged.append((command, header))

    def _stage(self, command: Append, header: BatchHeader) -> None:
        self._staged.append((command, header))

    def stage_marker(self, command: WriteMarker) -> None:
        """End a transaction here, at the end of the turn."""
        replica = self._replica
        self.verification.marked(command.producer_id)
        append = marker_append(command, self._epoch, replica.context.clock.wall_ms())
        try:
            check_in_sync(replica.name, len(replica.state.isr), self._min_isr)
        except BrokerError as error:
            replica.refuse_append(append, error)
            return
        self._staged.append((append, read_header(append.batch)))

    def append_staged(self) -> None:
        """Write what the turn has gathered."""
        if not self._staged:
            return
        replica, log = self._replica, self._log
        results = log.append(
            [(header, command.batch) for command, header in self._staged],
            leader_epoch=self._epoch,
            now_ms=replica.context.clock.wall_ms(),
        )
        self.verification.written()
        assert len(results) == len(self._staged), f"{replica.name}: {len(self._staged)} had {len(results)} results"
        counters = replica.context.counters
        appended = 0
        for result in results:
            command, header = self._staged[0]
            if isinstance(result, Appended):
                if not result.duplicate:
                    appended += 1
                    counters["records-appended"] += header.records_count
                self._appended(command, result)
            else:
                replica.refuse_append(command, result)
            self._staged.popleft()  # answered: not before, as whoever is in here is answered if this fails
        if appended:
            counters["batches-appended"] += appended
            # Not yet flushed, maybe; but a follower may have it before that.
            self._in_sync.local(self._acked, log.log_end_offset, self._now_ms())
            self._say_ready()
            replica.appended()

    def _appended(self, command: Append, result: Appended) -> None:
        replica = self._replica
        body = PartitionProduced(
            replica.topic,
            replica.partition,
            base_offset=result.base_offset,
            log_append_time_ms=result.log_append_time_ms,
            log_start_offset=self._log.log_start_offset,
        )
        if command.acks == ACKS_ALL and result.last_offset >= replica.high_watermark:
            command.batch = b""  # it is in the log; whoever waits here may wait for long
            self._waiting.append(_Waiting(result.last_offset + 1, command, body))
        else:
            tell_back(command.reply_to, Answer(command.call, command.index, body))

    # ---- the high watermark

    def local_moved(self) -> None:
        """More of the own log counts as replicated: it was flushed, or nobody waits for that."""
        # What counted once counts on, should the topic's flush setting have changed.
        self._acked = max(self._acked, self._replica.acked_offset)
        self._in_sync.local(self._acked, self._log.log_end_offset, self._now_ms())
        self._advance()

    def _now_ms(self) -> float:
        return self._replica.context.clock.monotonic_ms()

    def _advance(self) -> None:
        high_watermark = self._in_sync.high_watermark
        if high_watermark <= self._replica.high_watermark:
            return
        self._replica.advance(high_watermark)
        waiting = self._waiting
        while waiting and waiting[0].end_offset <= high_watermark:
            _, command, body = waiting.popleft()
            tell_back(command.reply_to, Answer(command.call, command.index, body))
        self.tell_news()

    def check_knows_the_end(self, timestamp: int) -> None:
        """Refuse to say where the partition ends before this leader knows what is committed (KIP-207)."""
        if timestamp == LATEST and self._replica.high_watermark < min(self._epoch_start, self._log.log_end_offset):
            message = (
                f"the new leader of {self._replica.name} does not know yet whether what is before offset"
                f" {self._epoch_start} is committed: try again"
            )
            raise OffsetNotAvailableError(message)

    # ---- followers

    def follower_at(self, message: FollowerAt) -> None:
        """Take in a follower's progress, and tell it if its log has parted from this one (KIP-101, KIP-595)."""
        replica, log = self._replica, self._log
        if message.node_id not in replica.state.replicas:
            text = f"node {message.node_id} hosts no replica of {replica.name}, as far as its leader knows"
            self.refuse_follower(replica, message, NotLeaderOrFollowerError(text))
            return
        if message.damaged:
            self._in_sync.lost(message.node_id)
            self._check_isr()
            return  # it asks anew as soon as nobody counts on it
        if message.fetch_offset < log.log_start_offset:
            text = f"{replica.name} begins at offset {log.log_start_offset}, and a follower asks for an earlier one"
            self.refuse_follower(replica, message, OffsetOutOfRangeError(text))
            return
        if log.damage is not None:
            self.refuse_follower(replica, message, CorruptMessageError(str(log.damage)))
            return
        parted = self._parted(message)
        if parted is not None:
            state = self._state(diverging=parted)
            tell_back(message.reply_to, FollowerData(state, b""))
            return
        known = self._followers.get(message.node_id)
        follower = self._followers[message.node_id] = _Follower(
            message.reply_to, message.fetch_offset, message.log_start
        )
        if known is None or known.server != message.reply_to:
            tell_back(message.reply_to, self._news())  # what was said before it was heard of
        self._in_sync.fetched(message.node_id, message.node_epoch, message.fetch_offset, self._now_ms())
        self._advance()
        self._answer_deletions()
        self._check_isr()
        if follower.offset < log.log_end_offset:
            self._say(follower)

    def _parted(self, message: FollowerAt) -> tuple[int, int] | None:
        """Where the follower has to look for its last common record: (epoch, end); None if it has this log so far."""
        log = self._log
        if message.last_fetched_epoch == -1 and message.fetch_offset == log.log_start_offset:
            return None
        if message.last_fetched_epoch == self._epoch:
            epoch, end = self._epoch, log.log_end_offset
        else:
            epoch, end = log.epoch_end_offset(message.last_fetched_epoch)
        if epoch < message.last_fetched_epoch or end < message.fetch_offset:
            return (epoch, end) if epoch >= 0 else (-1, log.log_start_offset)
        return None

    def _state(self, diverging: tuple[int, int] = (-1, -1)) -> ReplicaState:
        replica = self._replica
        return ReplicaState(
            replica.topic,
            replica.partition,
            0,
            None,
            self._epoch,
            replica.high_watermark,
            self._log.log_start_offset,
            *diverging,
        )

    @staticmethod
    def refuse_follower(replica: ReplicaLog, message: FollowerAt, error: BrokerError) -> None:
        """Answer a follower's position with an error."""
        start = -1 if replica.log is None else replica.log.log_start_offset
        state = ReplicaState(
            replica.topic, replica.partition, error.code, error.message, replica.state.leader_epoch, -1, start
        )
        tell_back(message.reply_to, FollowerData(state, b""))

    def _say(self, follower: _Follower) -> None:
        if not follower.ready_said:
            follower.ready_said = True
            tell_back(follower.server, FollowerReady(self._replica.topic, self._replica.partition))

    def _say_ready(self) -> None:
        for follower in self._followers.values():
            self._say(follower)

    def follower_read(self, message: FollowerRead) -> None:
        """Read for a follower from where it is, past the high watermark too."""
        follower = self._followers.get(message.node_id)
        if follower is None:
            return
        try:
            data = self._log.read(follower.offset, message.max_bytes)
        except BrokerError as error:
            logger.error("%s cannot be read for node %d: %s", self._replica.name, message.node_id, error.message)  # noqa: TRY400
            state = self._state()
            state.error_code, state.error_message = error.code, error.message
            tell_back(message.reply_to, FollowerData(state, b""))
            return
        tell_back(message.reply_to, FollowerData(self._state(), data))

    def follower_gone(self, node_id: int) -> None:
        """A follower does not ask any more."""
        self._followers.pop(node_id, None)
        self._in_sync.gone(node_id, self._now_ms())

    def tell_news(self) -> None:
        """Let the followers' servers know the high watermark and the log's start."""
        if self._followers:
            news = self._news()
            for follower in self._followers.values():
                tell_back(follower.server, news)

    def _news(self) -> FollowerNews:
        replica = self._replica
        return FollowerNews(
            replica.topic, replica.partition, self._epoch, replica.high_watermark, self._log.log_start_offset
        )

    def deleted(self, command: DeleteBefore, body: PartitionDeleted) -> None:
        """Records are deleted here: answer once they are on all in sync, as whoever leads next would serve them again.

        Whoever waits has a time-out of its own.
        """
        self._deletions.append(_Deletion(command, body))
        self.tell_news()
        self._answer_deletions()

    def _answer_deletions(self) -> None:
        if not self._deletions:
            return
        others = self._in_sync.maximal_isr - {self._replica.context.config.node_id}
        waiting: list[_Deletion] = []
        for deletion in self._deletions:
            command, body = deletion
            if all(self._begins_at(node_id, body.low_watermark) for node_id in others):
                tell_back(command.reply_to, Answer(command.call, command.index, body))
            else:
                waiting.append(deletion)
        self._deletions = waiting

    def _begins_at(self, node_id: int, offset: int) -> bool:
        follower = self._followers.get(node_id)
        return follower is not None and (follower.log_start == -1 or follower.log_start >= offset)

    def nearer_replica(self, command: Read) -> int:
        """A follower in sync in the client's rack that has what it wants to read; -1: none, or this one is as near."""
        replica = self._replica
        offsets = {node_id: follower.offset for node_id, follower in self._followers.items()}
        return nearer_replica(replica.context, replica.state.isr, offsets, command)

    # ---- the ISR

    def _check_isr(self) -> None:
        """Ask the controller for another ISR, if another is due."""
        if self._asking:
            return
        if self._log.damage is not None:
            self._hand_over()
            return
        nodes = self._replica.context.image.nodes
        replicas = [nodes[node_id] for node_id in self._replica.state.replicas if node_id in nodes]
        epochs = {node.node_id: node.epoch for node in replicas}
        # Whoever joins may lead next, and must not serve what was deleted before.
        start = self._log.log_start_offset
        eligible = [
            node.node_id
            for node in replicas
            if not node.fenced and not node.stopping and self._begins_at(node.node_id, start)
        ]
        wanted = self._in_sync.wanted_isr(self._now_ms(), epochs, eligible)
        if wanted is not None:
            self._in_sync.proposed(wanted)
            self._ask_for_isr(list(wanted.isr), list(wanted.lost))

    def _ask_for_isr(self, isr: list[tuple[int, int]], lost: list[int]) -> None:
        replica = self._replica
        state, context = replica.state, replica.context
        change = PartitionChange(
            replica.topic, replica.partition, self._epoch, state.partition_epoch, isr, replica.topic_id, lost
        )
        request = AlterPartitionRequest(context.config.node_id, context.node_epoch, [change])
        self._asking = True
        call = ("isr", self._epoch, state.partition_epoch)
        told = replica.reactor.tell(CONTROLLER, ControllerCall(replica.actor_ref, call, 0, request))
        assert told, "a node without a controller has no partitions"

    def damaged(self) -> None:
        """The log may be damaged: another replica shall lead then, if any has what this one has lost."""
        if self._log.damage is not None and not self._leaving:
            self._leaving = True
            self._check_isr()

    def _hand_over(self) -> None:
        """Leave the ISR, and so the lead; until somebody else can lead, ask again, and serve what is before the damage.

        The others are proposed as they are: they cannot fetch from a damaged log, and are not to blame for their lag.
        """
        state, nodes = self._replica.state, self._replica.context.image.nodes
        me = self._replica.context.config.node_id
        lost = {me, *self._in_sync.known_lost}
        others = [node_id for node_id in state.isr if node_id in nodes and node_id not in lost]
        if any(node_id in nodes and not nodes[node_id].fenced for node_id in {*others, *state.elr} - lost):
            self._ask_for_isr([(node_id, nodes[node_id].epoch) for node_id in others], sorted(lost))

    def answered(self, message: Answer | Refusal) -> None:
        """Take a coordinator's answer, or the controller's; what that changed has come with the metadata already."""
        if message.call[0] == VERIFY:
            self.verification.answered(message)
            return
        _, epoch, partition_epoch = message.call
        if epoch != self._epoch:
            return
        self._asking = False
        result = isr_result(message)
        if isinstance(result, BrokerError):
            name = self._replica.name
            logger.info("the ISR of %s is not changed: %s: %s", name, result.name, result.message)
        self._in_sync.proposal_failed(partition_epoch, self._now_ms())
        self._later(RETRY_MS)

    def _watch_lag(self) -> None:
        """Look at the followers now and then: one that has stopped to fetch does not say so."""
        if self._timer is None and len(self._replica.state.replicas) > 1:
            interval_ms, now_ms = self._replica.context.config.replica_lag_time_max_ms / 2, self._now_ms()
            # Many partitions wake the reactor together, but not all of them at once.
            together_ms = interval_ms / _LOOKS
            self._later(math.ceil((now_ms + interval_ms) / together_ms) * together_ms - now_ms)

    def _later(self, delay_ms: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._replica.reactor.call_later(delay_ms, self._look)

    def _look(self) -> None:
        self._timer = None
        self._check_isr()
        self._watch_lag()

    # ---- the end

    def end(self, error: BrokerError) -> None:
        """Lead no more: everybody who waits is told, followers too."""
        if self._timer is not None:
            self._timer.cancel()
        replica = self._replica
        staged = [*(command for command, _ in self._staged), *self.verification.end()]
        for command in [*staged, *(waiting.command for waiting in self._waiting)]:
            replica.context.counters["batches-refused"] += 1
            tell_back(command.reply_to, Refusal(command.call, command.index, error))
        for deletion in self._deletions:
            tell_back(deletion.command.reply_to, Refusal(deletion.command.call, deletion.command.index, error))
        self._deletions.clear()
        self._staged.clear()
        self._waiting.clear()
        state = self._state()
        state.error_code, state.error_message = error.code, error.message
        for follower in self._followers.values():
            tell_back(follower.server, FollowerData(state, b""))
        self._followers.clear()
