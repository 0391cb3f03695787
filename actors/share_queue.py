"""One partition of a share group as the coordinator works with it: the state machine, and the reads that feed it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from ..errors import BrokerError, LeaderNotAvailableError, OffsetOutOfRangeError, error_for
from ..groups.share_batches import Chunk, due_runs
from ..groups.share_partition import SharePartition
from ..transport.config_messages import TOPIC_RESOURCE
from ..transport.messages import EARLIEST, LATEST, PartitionEpochEnd, PartitionFetched, PartitionOffset
from ..transport.share_messages import AcquiredRecords
from .commands import Answer, FindEpochEnd, FindOffset, Read, Readable, Refusal, Watch
from .context import partition_address
from .share_alarms import Alarmed

if TYPE_CHECKING:
    from ..groups.share_batches import StoredBatch
    from ..groups.share_ranges import Range
    from ..groups.share_records import PartitionKey
    from .share_coordinator import Reply
    from .share_fetch import ShareFetch
    from .share_group import ShareGroup

logger = logging.getLogger(__name__)

READ_BYTES: Final = 1024 * 1024
_CHUNKS_MAX: Final = 2
"""One where records are delivered for the first time, one where they are delivered again."""
_RETRY_MS: Final = 500.0
_DELAY_CHECK_MS: Final = 10_000
"""The wall clock may be set: delays are looked at that often at least."""


class ShareQueue(Alarmed):
    """A share partition. ``machine`` is None until it is known where it begins."""

    def __init__(self, group: ShareGroup, key: PartitionKey, machine: SharePartition | None) -> None:
        self.group = group
        self.key = key
        self.machine = machine
        self.chunks: list[Chunk] = []
        self.reading = False
        self.watching = False
        self.end = -1
        """The high watermark when it was last heard of; -1: it is not known, or there is more."""
        self.error: BrokerError | None = None
        """Why the partition cannot be read at the moment."""
        self.dead_lettered = 0
        self.start_at = EARLIEST
        self.is_gone = False
        """The topic was deleted, or the group begins elsewhere: what is still under way for it counts for nothing."""
        self._retry_ms = 0.0
        self._checked_epoch = -1
        """The partition's leader epoch when it was last seen that the log has what the state speaks of."""

    @property
    def address(self) -> str:
        """Where its leader lives."""
        return partition_address(self.key.topic, self.key.partition)

    # ---- delivery

    def deliver(self, fetch: ShareFetch) -> bool:
        """Give a fetch what there is; whether there may be more than it wants."""
        if self.is_gone:
            return False
        group = self.group
        machine = self.machine
        if machine is None:
            self._find_start()
            return False
        if not self.is_end_checked():
            return False
        rules = group.rules
        wall_ms = group.wall_ms
        changed = False
        more = True
        while more:
            room = min(fetch.room, rules.locks_max - machine.leased)
            if room <= 0:
                break
            found = machine.next_available(wall_ms, rules)
            offset = machine.next_offset if found is None else found.first
            chunk = self.chunk_at(offset)
            if chunk is None:
                self._want(offset)
                more = False
                break
            changed = True
            batch = chunk.find(offset)
            if found is None:
                if not self._deliver_fresh(fetch, chunk, batch, room):
                    break
            else:
                self._deliver_again(fetch, found, chunk, batch, room)
        if changed or machine.has_changes:
            self.changed()
        return more

    def _deliver_fresh(self, fetch: ShareFetch, chunk: Chunk, batch: StoredBatch, room: int) -> bool:
        """Lease what comes next; False if it is better left to another fetch."""
        machine = self.machine
        assert machine is not None, "a queue that does not know its start delivers nothing"
        offset = machine.next_offset
        machine.leader_epoch = max(machine.leader_epoch, batch.header.leader_epoch)
        if batch.first > offset:
            machine.add_gap(batch.first - 1)
            return True
        if batch.is_empty:
            machine.add_gap(batch.last)
            return True
        delays = chunk.delays(batch)
        if delays is not None:
            for run in due_runs(delays, offset, batch.last, self.group.wall_ms):
                machine.add_fresh(run.last, run.not_before)
            return True
        last = batch.last
        if last - offset >= room:
            if fetch.is_half_full:
                return False
            last = offset + room - 1
        machine.add_fresh(last)
        count = machine.acquire(fetch.member_id, offset, last, self.group.now_ms, self.group.rules, lease=fetch.lease)
        fetch.take(self, chunk, batch, AcquiredRecords(offset, last, count))
        return True

    def _deliver_again(self, fetch: ShareFetch, found: Range, chunk: Chunk, batch: StoredBatch, room: int) -> None:
        """Lease what was read before and is available, as far as the batch goes."""
        machine = self.machine
        assert machine is not None, "a queue that does not know its start delivers nothing"
        if batch.first > found.first or batch.is_empty:
            gap = batch.first - 1 if batch.first > found.first else batch.last
            machine.archive(found.first, min(found.last, gap))
            return
        last = min(found.last, batch.last)
        if found.is_unseen:
            for run in due_runs(chunk.delays(batch), found.first, last, self.group.wall_ms):
                machine.settle(run.first, run.last, run.not_before)
            return
        last = min(last, found.first + room - 1)
        count = machine.acquire(
            fetch.member_id, found.first, last, self.group.now_ms, self.group.rules, lease=fetch.lease
        )
        fetch.take(self, chunk, batch, AcquiredRecords(found.first, last, count))

    def changed(self) -> None:
        """The machine has changed: its update is due at the end of the turn, and its times may be others."""
        self.group.coordinator.queue_changed(self)
        self._set_alarm()

    def _set_alarm(self) -> None:
        machine = self.machine
        assert machine is not None, "no machine has no times"
        group = self.group
        lease_end = machine.next_lease_end()
        if lease_end is not None:
            group.coordinator.set_alarm(self, lease_end)
        delay_end = machine.next_delay_end()
        if delay_end is not None:
            left_ms = min(max(delay_end - group.wall_ms, 1), _DELAY_CHECK_MS)
            group.coordinator.set_alarm(self, group.now_ms + left_ms)

    def on_alarm(self, now_ms: float) -> None:
        """A lease or a delay has ended, or a read may be tried again."""
        if self.machine is not None:
            self.machine.expire(now_ms, self.group.rules)
            self.machine.next_available(self.group.wall_ms, self.group.rules)  # takes note of the delays that are over
            self.changed()
        self.group.pump(self)

    # ---- reads

    def chunk_at(self, offset: int) -> Chunk | None:
        """What was read that covers an offset."""
        for chunk in self.chunks:
            if chunk.covers(offset):
                return chunk
        return None

    def _want(self, offset: int) -> None:
        """Read from an offset on, or watch for more, unless that is under way."""
        if 0 <= self.end <= offset:
            self._watch()
            return
        if self._may_ask():
            self.reading = True
            self.group.coordinator.ask(
                self.address,
                lambda me, call: Read(me, call, 0, offset, READ_BYTES, -1),
                lambda m: self._read(offset, m),
            )

    def _may_ask(self) -> bool:
        if self._retry_ms > self.group.now_ms:
            self.group.coordinator.set_alarm(self, self._retry_ms)
            return False
        return not self.reading

    def _read(self, offset: int, answer: Reply) -> None:
        """Take what was read, and go on with whoever waits for it."""
        self.reading = False
        if self.is_gone:
            self.group.finish_all()
            return
        machine = self.machine
        assert machine is not None, "a queue that does not know its start read something"
        try:
            body = _body(answer)
            assert isinstance(body, PartitionFetched), f"a read was answered with {body!r}"
            if body.error_code == OffsetOutOfRangeError.code and body.log_start_offset > offset:
                machine.skip_to(body.log_start_offset)
                self.changed()
            elif body.error_code == OffsetOutOfRangeError.code and 0 <= body.high_watermark < offset:
                self._log_was_cut(machine, body.high_watermark)
            elif body.error_code:
                self._fail(error_for(body.error_code, body.error_message))
            else:
                assert isinstance(answer, Answer), "a read has data"
                self.error = None
                self.end = body.high_watermark
                if answer.data:
                    self._keep(self.chunk_of(offset, answer.data))
        except BrokerError as error:
            self._fail(error)
        self.group.pump(self)

    def _log_was_cut(self, machine: SharePartition, end: int) -> None:
        """The log has lost its end, as after a power cut: what stands there from now on was never delivered."""
        logger.warning(
            "%s-%d has lost what stood from offset %d on, and share group %s was at %d already: it goes back",
            self.key.topic,
            self.key.partition,
            end,
            self.key.group,
            machine.next_offset,
        )
        for chunk in list(self.chunks):
            self.drop(chunk)
        self.begin(machine.cut_to(end))

    def is_end_checked(self) -> bool:
        """Whether the log still has what the state speaks of: its leader is asked after each new epoch (KIP-101)."""
        machine = self.machine
        topic = self.group.coordinator.context.image.topics.get(self.key.topic)
        if machine is None or machine.leader_epoch < 0 or topic is None:
            return True
        epoch = topic.partitions[self.key.partition].leader_epoch
        if epoch <= max(machine.leader_epoch, self._checked_epoch):
            return True
        if self._may_ask():
            self.reading = True
            kept = machine.leader_epoch
            self.group.coordinator.ask(
                self.address,
                lambda me, call: FindEpochEnd(me, call, 0, kept, -1),
                lambda answer: self._epoch_end(epoch, answer),
            )
        return False

    def _epoch_end(self, epoch: int, answer: Reply) -> None:
        """The state holds as far as the epoch goes of what was read last; what follows is of another history."""
        self.reading = False
        if self.is_gone:
            self.group.finish_all()
            return
        machine = self.machine
        assert machine is not None, "a queue loses no machine"
        try:
            body = _body(answer)
            if isinstance(body, PartitionEpochEnd | PartitionOffset) and body.error_code:
                raise error_for(body.error_code, body.error_message)
        except LeaderNotAvailableError:
            self._retry()  # it starts
        except BrokerError as error:
            self._fail(error)
        else:
            if isinstance(body, PartitionEpochEnd) and body.leader_epoch < 0:  # nothing that old is left
                self.reading = True
                self.group.coordinator.ask(
                    self.address,
                    lambda me, call: FindOffset(me, call, 0, EARLIEST, -1),
                    lambda found: self._epoch_end(epoch, found),
                )
                return
            assert isinstance(body, PartitionEpochEnd | PartitionOffset), f"a look-up was answered with {body!r}"
            end = body.offset if isinstance(body, PartitionOffset) else body.end_offset
            self.error = None
            self._checked_epoch = epoch
            if end < machine.next_offset:
                self._log_was_cut(machine, end)
        self.group.coordinator.group_changed(self.group)
        self.group.pump(self)

    def chunk_of(self, offset: int, data: bytes) -> Chunk:
        """What a read has brought. Raises CorruptMessageError."""
        context = self.group.coordinator.context
        overrides = context.image.config_of(TOPIC_RESOURCE, self.key.topic)
        return Chunk(offset, data, context.config.topic_config(overrides).max_decompressed_bytes)

    def _keep(self, chunk: Chunk) -> None:
        self.chunks.insert(0, chunk)
        self.group.coordinator.chunks.keep(self, chunk)
        for old in self.chunks[_CHUNKS_MAX:]:
            self.drop(old)

    def drop(self, chunk: Chunk) -> None:
        """Forget what was read."""
        self.chunks.remove(chunk)
        self.group.coordinator.chunks.dropped(chunk)

    def _fail(self, error: BrokerError) -> None:
        self.error = error
        self._retry()

    def _retry(self) -> None:
        self._retry_ms = self.group.now_ms + _RETRY_MS
        self.group.coordinator.set_alarm(self, self._retry_ms)

    def _watch(self) -> None:
        if self.watching:
            return
        self.watching = True
        end = self.end
        coordinator = self.group.coordinator
        coordinator.ask(self.address, lambda me, call: Watch(me, call, 0, end), self._readable)

    def _readable(self, answer: Reply) -> None:
        self.watching = False
        if self.is_gone:
            return
        self.end = -1
        if isinstance(answer, Refusal):
            self._fail(answer.error)
        else:
            assert isinstance(answer, Readable), f"a watch was answered with {answer!r}"
        self.group.pump(self)

    # ---- the first time

    def _find_start(self) -> None:
        if self._may_ask():
            self.reading = True
            coordinator = self.group.coordinator
            start_at = self.start_at
            coordinator.ask(self.address, lambda me, call: FindOffset(me, call, 0, start_at, -1), self._found)

    def _found(self, answer: Reply) -> None:
        self.reading = False
        if self.is_gone:
            self.group.finish_all()
            return
        try:
            body = _body(answer)
            assert isinstance(body, PartitionOffset), f"a look-up was answered with {body!r}"
            if body.error_code:
                raise error_for(body.error_code, body.error_message)
        except BrokerError as error:
            self._fail(error)
        else:
            self.error = None
            if self.machine is None:
                self.begin(SharePartition(body.offset))
        self.group.pump(self)

    def begin(self, machine: SharePartition) -> None:
        """Begin with this state, which is written down at once."""
        self.machine = machine
        self.group.coordinator.write_snapshot(self)


def start_for(reset: str, *, topic_is_known: bool) -> int:
    """Where a group begins in a partition; one that was added to a topic that the group reads has nothing but news."""
    return LATEST if reset == "latest" and not topic_is_known else EARLIEST


def _body(answer: Reply) -> object:
    if isinstance(answer, Refusal):
        raise answer.error
    if isinstance(answer, Readable):
        message = "a watch ended where a read was asked for"
        raise LeaderNotAvailableError(message)
    return answer.body
