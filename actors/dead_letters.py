"""Dead letters of one share group: what is given up goes to the dead-letter topic, and only then is it archived.

One batch of records at a time is read, written with acks=all, and archived when that is committed. A failure is tried
again, later and later: the record stays as it is until it stands in the topic. If it is the records that fail and not
the topic, the others go on. A letter that is too large for the topic is compressed, then goes without its value.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NamedTuple

from ..errors import (
    BrokerError,
    CorruptMessageError,
    InvalidRecordError,
    LeaderNotAvailableError,
    MessageTooLargeError,
    OffsetOutOfRangeError,
    TopicExistsError,
    error_for,
)
from ..groups.dead_letter import WHOLE, Origin, dead_letter, letter_size, smaller_form
from ..groups.share_ranges import ARCHIVING
from ..log import compression, records
from ..log.batch import HEADER_SIZE
from ..log.plain_records import decode_batch, encode_batch
from ..transport.config_messages import TOPIC_RESOURCE
from ..transport.messages import (
    ACKS_ALL,
    CreateTopicsRequest,
    NewTopic,
    PartitionFetched,
    PartitionProduced,
    TopicsReply,
)
from .commands import Answer, Append, ControllerCall, Read, Refusal
from .context import CONTROLLER, partition_address
from .share_alarms import Alarmed

if TYPE_CHECKING:
    from ..groups.share_batches import Chunk
    from ..groups.share_partition import SharePartition
    from ..groups.share_ranges import Range
    from ..log.record import NewRecord, Record
    from .share_coordinator import Reply
    from .share_group import ShareGroup
    from .share_queue import ShareQueue

logger = logging.getLogger(__name__)

_BATCH_BYTES: Final = 512 * 1024
_BATCH_RECORDS: Final = 500
_RETRY_MS: Final = 200.0
_RETRY_MAX_MS: Final = 30_000.0
_CREATE_TIMEOUT_MS: Final = 30_000
_HEADERS_BYTES: Final = 64 * 1024
"""What the headers may add to the largest record of a topic."""
_MESSAGE_BYTES_MAX: Final = 2**31 - 1
_TOO_LARGE: Final = (MessageTooLargeError.code, CorruptMessageError.code)
"""The second: it is more than the topic allows a batch to decompress to."""
_REFUSED_RECORDS: Final = (*_TOO_LARGE, InvalidRecordError.code)


class _Letter(NamedTuple):
    """One record on its way."""

    offset: int
    record: Record | None
    reason: str
    deliveries: int
    form: int = WHOLE


class _Held(NamedTuple):
    """Records that failed, and not the topic: they are tried again then."""

    last: int
    failures: int
    until_ms: float


class DeadLetters(Alarmed):
    """The way to the dead-letter topic."""

    def __init__(self, group: ShareGroup) -> None:
        self._group = group
        self._busy = False
        self._failures = 0
        self._paused_until_ms = 0.0
        self._held: dict[ShareQueue, dict[int, _Held]] = {}
        """What waits by itself, by its first offset."""
        self._queue: ShareQueue | None = None
        self._machine: SharePartition | None = None
        self._first = self._last = -1

    def kick(self) -> None:
        """Go on, if there is anything to do."""
        while not self._busy:
            now_ms = self._group.now_ms
            if now_ms < self._paused_until_ms:
                self._group.coordinator.set_alarm(self, self._paused_until_ms)
                return
            found = self._next(now_ms)
            if found is None:
                times = [entry.until_ms for held in self._held.values() for entry in held.values()]
                later = [time for time in times if time > now_ms]
                if later:
                    self._group.coordinator.set_alarm(self, min(later))
                return
            self._begin(*found)

    def on_alarm(self, now_ms: float) -> None:
        """Try again, at the end of this turn."""
        del now_ms
        self._group.coordinator.group_changed(self._group)

    def _next(self, now_ms: float) -> tuple[ShareQueue, Range] | None:
        """The next records that have to go and need not wait."""
        for queue in [queue for queue in self._held if queue.is_gone]:
            del self._held[queue]
        for queue in self._group.queues.values():
            if queue.machine is None or not queue.is_end_checked():
                continue
            found = queue.machine.next_archiving()
            if found is None:
                self._held.pop(queue, None)
            elif queue in self._held:
                found = self._next_beside(queue, queue.machine, now_ms)
            if found is not None:
                return queue, found
        return None

    def _next_beside(self, queue: ShareQueue, machine: SharePartition, now_ms: float) -> Range | None:
        waiting = sorted((first, held.last) for first, held in self._held[queue].items() if held.until_ms > now_ms)
        for found in machine.ranges:
            if found.state != ARCHIVING:
                continue
            offset = found.first
            for first, last in waiting:
                if first <= offset <= last:
                    offset = last + 1
            if offset <= found.last:
                return found._replace(first=offset)
        self._held[queue] = {first: held for first, held in self._held[queue].items() if held.until_ms > now_ms}
        if not self._held[queue]:
            del self._held[queue]
        return None

    def _begin(self, queue: ShareQueue, found: Range) -> None:
        group = self._group
        topic = group.config.dead_letter_topic(group.group_id)
        self._queue, self._machine = queue, queue.machine
        self._busy = True
        self._first, self._last = found.first, found.last
        if topic is None:
            self._archive(found.first, found.last)
            return
        if topic not in group.coordinator.context.image.topics:
            self._create(topic, queue)
            return
        chunk = queue.chunk_at(found.first)
        if chunk is not None:
            self._write(chunk, found)
            return
        first = found.first
        group.coordinator.ask(queue.address, lambda me, call: Read(me, call, 0, first, 1, -1), self._read)

    # ---- the topic

    def _create(self, topic: str, queue: ShareQueue) -> None:
        context = self._group.coordinator.context
        source = context.config.topic_config(context.image.config_of(TOPIC_RESOURCE, queue.key.topic))
        size = min(source.max_message_bytes + _HEADERS_BYTES, _MESSAGE_BYTES_MAX)
        unfolded = min(source.max_decompressed_bytes + _HEADERS_BYTES, _MESSAGE_BYTES_MAX)
        room = [("max.message.bytes", str(size)), ("max.decompressed.bytes", str(unfolded))]
        request = CreateTopicsRequest([NewTopic(topic, 1, configs=room)], _CREATE_TIMEOUT_MS)
        self._group.coordinator.ask(CONTROLLER, lambda me, call: ControllerCall(me, call, 0, request), self._created)

    def _created(self, answer: Reply) -> None:
        if isinstance(answer, Refusal):
            self._fail(answer.error)
            return
        assert isinstance(answer, Answer), f"the controller answered {answer!r}"
        assert isinstance(answer.body, TopicsReply), f"the controller answered {answer!r}"
        (result,) = answer.body.topics
        if result.error_code not in (0, TopicExistsError.code):
            self._fail(error_for(result.error_code, result.error_message))
            return
        self._done()

    # ---- the records

    def _read(self, answer: Reply) -> None:
        """The batch of the first record that has to go."""
        queue, found = self._queue, self._still_archiving()
        if queue is None or found is None:
            self._done()
            return
        if not isinstance(answer, Answer):
            error = answer.error if isinstance(answer, Refusal) else LeaderNotAvailableError("the read was given up")
            self._hold(error)
            return
        assert isinstance(answer.body, PartitionFetched), f"a read was answered with {answer.body!r}"
        body = answer.body
        if body.error_code == OffsetOutOfRangeError.code and body.log_start_offset > self._first:
            self._archive(self._first, min(self._last, body.log_start_offset - 1))  # deleted by the topic's retention
            return
        if body.error_code == CorruptMessageError.code:
            self._append_unreadable(found, self._first, f"it cannot be read: {body.error_message}")
            return
        if body.error_code or not answer.data:
            self._hold(error_for(body.error_code, body.error_message or "the read brought nothing"))
            return
        try:
            chunk = queue.chunk_of(self._first, answer.data)
        except BrokerError as error:
            self._append_unreadable(found, self._first, f"it cannot be read: {error.message}")
            return
        self._write(chunk, found)

    def _still_archiving(self) -> Range | None:
        """What is still to go, from the first offset on; None: it has changed while the read was under way."""
        machine = self._machine
        if machine is None or not self._is_current() or not machine.start_offset <= self._first < machine.next_offset:
            return None
        found = machine.ranges.at(self._first)
        return found._replace(first=self._first) if found.state == ARCHIVING else None

    def _write(self, chunk: Chunk, found: Range) -> None:
        """Write the letters of one batch, as many as one batch of letters takes."""
        batch = chunk.find(found.first)
        if batch.first > found.first:
            self._archive(found.first, min(found.last, batch.first - 1))  # compaction took them
            return
        last = min(found.last, batch.last, found.first + _BATCH_RECORDS - 1)
        try:
            found_records: dict[int, Record] = {
                record.offset: record
                for record in decode_batch(chunk.bytes_of(batch), max_decompressed_bytes=chunk.decompressed_max)
            }
        except BrokerError as error:
            self._append_unreadable(found, last, f"its batch cannot be decoded: {error.message}")
            return
        letters = [
            _Letter(offset, found_records[offset], found.reason, found.deliveries)
            for offset in range(found.first, last + 1)
            if offset in found_records
        ]
        self._append(letters, last)

    def _append_unreadable(self, found: Range, last: int, why: str) -> None:
        reason = f"{found.reason}; {why}" if found.reason else why
        offsets = range(found.first, last + 1)
        self._append([_Letter(offset, None, reason, found.deliveries) for offset in offsets], last)

    def _encoded(self, letter: _Letter) -> NewRecord:
        queue = self._queue
        assert queue is not None, "a letter comes from no queue"
        key = queue.key
        origin = Origin(key.group, key.topic, key.partition, letter.offset, letter.deliveries, letter.reason)
        return dead_letter(letter.record, origin, self._group.wall_ms, letter.form)

    def _append(self, letters: list[_Letter], last: int) -> None:
        """Write letters, or as many of them as one batch takes; the records up to the last are archived with them."""
        group = self._group
        topic = group.config.dead_letter_topic(group.group_id)
        if topic is None or not letters:
            self._last = last
            self._archive(self._first, last)
            return
        context = group.coordinator.context
        limit = context.config.topic_config(context.image.config_of(TOPIC_RESOURCE, topic)).max_message_bytes
        room = min(_BATCH_BYTES, limit) - HEADER_SIZE
        encoded: list[NewRecord] = []
        for letter in letters:
            new = self._encoded(letter)
            room -= letter_size(new)
            if encoded and room < 0:
                last = letter.offset - 1
                break
            encoded.append(new)
        letters = letters[: len(encoded)]
        data = encode_batch(encoded)
        if len(data) > limit:
            data = records.encode_batch(encoded, compression=compression.ZSTD)
        self._last = last
        group.coordinator.ask(
            partition_address(topic, 0),
            lambda me, call: Append(me, call, 0, data, ACKS_ALL, -1),
            lambda answer: self._appended(answer, letters),
        )

    def _appended(self, answer: Reply, letters: list[_Letter]) -> None:
        if not isinstance(answer, Answer):
            self._fail(answer.error if isinstance(answer, Refusal) else LeaderNotAvailableError("nothing was written"))
            return
        body = answer.body
        assert isinstance(body, PartitionProduced), f"an append was answered with {body!r}"
        if body.error_code in _REFUSED_RECORDS:
            self._refused(letters, error_for(body.error_code, body.error_message))
            return
        if body.error_code:
            self._fail(error_for(body.error_code, body.error_message))
            return
        self._group.coordinator.context.counters["share-dead-letters"] += len(letters)
        self._archive(self._first, self._last)

    def _refused(self, letters: list[_Letter], error: BrokerError) -> None:
        """It is these letters that the topic does not take: less of them, then less of one."""
        if len(letters) > 1:
            half = len(letters) // 2
            self._append(letters[:half], letters[half].offset - 1)
            return
        (letter,) = letters
        form = smaller_form(letter.record, letter.form) if error.code in _TOO_LARGE else None
        if form is None:
            self._hold(error)
        else:
            self._append([letter._replace(form=form)], self._last)

    # ---- the end of it

    def _is_current(self) -> bool:
        queue = self._queue
        return (
            queue is not None
            and queue.machine is self._machine
            and self._group.queues.get((queue.key.topic, queue.key.partition)) is queue
        )

    def _archive(self, first: int, last: int) -> None:
        queue, machine = self._queue, self._machine
        if self._is_current() and queue is not None and machine is not None:
            machine.archive(first, last)
            queue.dead_lettered += last - first + 1
            self._group.coordinator.context.counters["share-records-given-up"] += last - first + 1
            queue.changed()
        if queue in self._held:
            held = self._held[queue]
            for done in [offset for offset in held if first <= offset <= last]:
                del held[done]
            if not held:
                del self._held[queue]
        self._failures = 0
        self._done()

    def _done(self) -> None:
        """Ready for the next; the end of the turn looks whether there is one."""
        self._busy = False
        self._group.coordinator.group_changed(self._group)

    def _hold(self, error: BrokerError) -> None:
        """These records cannot go at the moment; others can."""
        queue = self._queue
        assert queue is not None, "records of no queue have to wait"
        held = self._held.setdefault(queue, {})
        old = held.get(self._first)
        failures = 1 if old is None else old.failures + 1
        if failures == 1:
            where = f"{queue.key.topic}-{queue.key.partition}-{self._first}"
            logger.warning(
                "the dead letter of %s of share group %s has to wait, and is tried again: %s: %s",
                where,
                self._group.group_id,
                error.name,
                error.message,
            )
        held[self._first] = _Held(self._last, failures, self._group.now_ms + _wait_ms(failures))
        self._done()

    def _fail(self, error: BrokerError) -> None:
        """Nothing can go at the moment: try again later; the log hears of it once."""
        if self._failures == 0:
            logger.warning(
                "dead letters of share group %s have to wait, and are tried again: %s: %s",
                self._group.group_id,
                error.name,
                error.message,
            )
        self._failures += 1
        self._paused_until_ms = self._group.now_ms + _wait_ms(self._failures)
        self._done()


def _wait_ms(failures: int) -> float:
    return min(_RETRY_MAX_MS, _RETRY_MS * (1 << min(failures - 1, 10)))
