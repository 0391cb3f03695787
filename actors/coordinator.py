"""Coordinator: the base of actors whose state is what stands in one partition of an internal topic.

It is event-sourced (as Kafka's coordinator runtime, KIP-848). A subclass handles a command by changing its state and
appending the records that say so. What a turn has appended is one batch, which goes to the partition's leader with
acks=all. An answer leaves when everything that was appended before it is committed, so that nobody hears of what a
crash could take back. At start, and after an append that failed, the state is built anew from the log; commands that
come meanwhile wait.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from ..errors import (
    BrokerError,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    ZmqBrokerError,
    error_for,
)
from ..log.batch import read_header
from ..log.plain_records import decode_batch, encode_batch
from ..transport.messages import ACKS_ALL, PartitionDirInfo, PartitionFetched, PartitionProduced
from .actor import ReactorActor
from .commands import (
    Answer,
    Append,
    Command,
    DescribeDir,
    EndWait,
    Message,
    Read,
    Refusal,
    Retire,
    Retired,
    tell_back,
)
from .context import partition_address

if TYPE_CHECKING:
    from ..transport.message_base import Body
    from .commands import Ref
    from .context import NodeContext
    from .timers import Timer

logger = logging.getLogger(__name__)

_READ_BYTES = 1024 * 1024
_BATCH_BYTES = 1024 * 1024
"""Records of a turn go into batches of about this size."""
_RELOAD_MS = 200.0
"""How long a coordinator waits before it tries again to read its log."""


class Tick(Message):
    """An alarm that the coordinator has set for itself."""


class _Outgoing(NamedTuple):
    """An answer that leaves when the append of this number is committed."""

    append: int
    to: Ref
    message: Message


class Coordinator(ReactorActor):
    """One partition of an internal topic, as state.

    A subclass implements ``forget``, ``replay``, ``loaded``, ``handle`` and ``tick``, and calls ``append``, ``answer``,
    ``refuse`` and ``wake_at``.
    """

    TOPIC: ClassVar[str]

    def __init__(self, context: NodeContext, partition: int) -> None:
        super().__init__()
        self.context = context
        self.partition = partition
        self._load_id = 0
        self._loading = True
        self._load_end = -1
        self._load_offset = 0
        self._parked: deque[Command] = deque()
        self._noticed: deque[Any] = deque()
        self._staged: list[tuple[int, bytes | None, bytes | None, tuple[()]]] = []
        self._appends = 0
        self._committed = 0
        self._in_flight: deque[int] = deque()
        """Records of each batch that is not yet committed."""
        self._outgoing: deque[_Outgoing] = deque()
        self._timer: Timer | None = None
        self._leader_epoch = -1
        """The leader epoch in which the state was read: in a later one another node may have written to the log."""
        self._retire_to: Ref | None = None

    # ---- what a subclass implements

    def forget(self) -> None:
        """Forget everything: the log is about to be read from its start."""
        raise NotImplementedError

    def replay(self, key: bytes, value: bytes | None, offset: int) -> None:
        """Take one record of the log into the state; the order is that of the log."""
        raise NotImplementedError

    def loaded(self) -> None:
        """The state is complete: set timers. May append."""

    def handle(self, command: Command) -> None:
        """Handle a command: change the state, append, answer. A BrokerError that it raises is its refusal."""
        raise NotImplementedError

    def notice(self, message: Any) -> None:
        """Take a message that needs no answer; those that come while the log is read are kept until it is."""
        assert False, f"{self} got {message!r}"  # noqa: B011, PT015 - nobody sends it anything else

    def tick(self, now_ms: float) -> None:
        """An alarm went off (monotonic ms)."""

    def committed(self, base_offset: int, last_offset: int) -> None:
        """A batch of this coordinator's records is committed, at these offsets."""

    # ---- what a subclass uses

    @property
    def name(self) -> str:
        """The partition, as its folder is named."""
        return f"{self.TOPIC}-{self.partition}"

    @property
    def is_loaded(self) -> bool:
        """Whether the state is complete."""
        return not self._loading

    def append(self, key: bytes, value: bytes | None) -> None:
        """Append a record at the end of this turn; None is a tombstone. The state has changed accordingly already."""
        assert not self._loading, f"{self.name} appends before it is loaded"
        self._staged.append((self.context.clock.wall_ms(), key, value, ()))

    def answer(self, command: Command, body: Body) -> None:
        """Answer a command, as soon as everything appended so far is committed."""
        self.send(command.reply_to, Answer(command.call, command.index, body))

    def refuse(self, command: Command, error: BrokerError) -> None:
        """Refuse a command, as soon as everything appended so far is committed."""
        self.send(command.reply_to, Refusal(command.call, command.index, error))

    def send(self, to: Ref, message: Message) -> None:
        """Tell an actor something, as soon as everything appended so far is committed."""
        number = self._appends + bool(self._staged)
        if number <= self._committed:
            tell_back(to, message)
        else:
            self._outgoing.append(_Outgoing(number, to, message))

    def wake_at(self, when_ms: float) -> None:
        """Call ``tick`` at this time (monotonic ms), or earlier; only the earliest alarm is kept."""
        timer = self._timer
        if timer is not None and timer.when_ms <= when_ms:
            return
        if timer is not None:
            timer.cancel()
        delay_ms = max(0.0, when_ms - self.context.clock.monotonic_ms())
        self._timer = self.reactor.call_later(delay_ms, self._alarm)

    def _alarm(self) -> None:
        self._timer = None
        self.reactor.tell(self.address, Tick())

    # ---- messages

    def on_start(self) -> None:
        """Read the log."""
        self._load()

    def on_receive(self, message: Any) -> None:
        """Handle a command, or an answer of the partition's leader."""
        match message:
            case Answer() | Refusal() if isinstance(message.call, tuple) and message.call[0] in ("load", "append"):
                self._of_log(message)
            case Tick():
                if not self._loading:
                    self.tick(self.context.clock.monotonic_ms())
            case Command():
                if self._loading:
                    self._parked.append(message)
                else:
                    self._handle(message)
            case Retire():
                self._retire_to = message.reply_to
                self.stop()
            case EndWait() if self._loading:
                self._end_parked(message)
            case _ if self._loading:
                self._noticed.append(message)
            case _:
                self.notice(message)

    def _of_log(self, message: Answer | Refusal) -> None:
        """Take an answer of the partition's leader, but not that to an attempt which was given up."""
        doing, load_id = message.call
        if load_id != self._load_id:
            return
        if isinstance(message, Refusal):
            self._start_over(message.error)
        elif doing == "load":
            self._loaded_some(message)
        else:
            self._appended(message)

    def _end_parked(self, message: EndWait) -> None:
        """Refuse a command that was not begun and whose client waits no longer."""
        for command in [command for command in self._parked if command.call is message.call]:
            self._parked.remove(command)
            why = f"the coordinator of {self.name} was still reading its log: try again"
            tell_back(command.reply_to, Refusal(command.call, command.index, CoordinatorLoadInProgressError(why)))

    def _handle(self, command: Command) -> None:
        try:
            self.handle(command)
        except BrokerError as error:
            self.refuse(command, error)

    def on_turn_end(self) -> None:
        """Append what the turn has gathered."""
        if self._staged:
            self._append_staged()

    # ---- appending

    def _append_staged(self) -> None:
        leader = self._leader()
        if leader is None:
            return
        staged, self._staged = self._staged, []
        chunks: list[list[Any]] = [[]]
        size = 0
        for record in staged:
            length = len(record[1] or b"") + len(record[2] or b"")
            if chunks[-1] and size + length > _BATCH_BYTES:
                chunks.append([])
                size = 0
            chunks[-1].append(record)
            size += length
        # All chunks are one append: the last one's answer commits it, and the leader answers in order.
        self._appends += 1
        for position, chunk in enumerate(chunks):
            index = self._appends if position == len(chunks) - 1 else 0
            call = ("append", self._load_id)
            self._in_flight.append(len(chunk))
            leader.tell(Append(self.actor_ref, call, index, encode_batch(chunk), ACKS_ALL, self._leader_epoch))

    def _appended(self, answer: Answer) -> None:
        body = answer.body
        assert isinstance(body, PartitionProduced)
        if body.error_code:
            self._start_over(error_for(body.error_code, body.error_message))
            return
        self.committed(body.base_offset, body.base_offset + self._in_flight.popleft() - 1)
        if answer.index == 0:
            return
        assert answer.index == self._committed + 1, f"{self.name}: append {answer.index} after {self._committed}"
        self._committed = answer.index
        self._release()

    def _release(self) -> None:
        while self._outgoing and self._outgoing[0].append <= self._committed:
            _, to, message = self._outgoing.popleft()
            tell_back(to, message)

    def _start_over(self, error: BrokerError) -> None:
        """The log took no record, or was not read: nobody is told that it did, and the state is built anew."""
        logger.error("%s has to be read again: %s", self.name, error.message)
        self.context.counters["coordinator-reloads"] += 1
        self._give_up(f"the coordinator could not write to {self.name} ({error.message}): try again")
        self._load_id += 1
        self._loading = True
        self.forget()
        load_id = self._load_id
        self.reactor.call_later(_RELOAD_MS, lambda: self._load_again(load_id))

    def _leader(self) -> Ref | None:
        """The partition's leader; without one the coordinator starts over."""
        leader = self.reactor.lookup(partition_address(self.TOPIC, self.partition))
        if leader is None:
            self._start_over(CoordinatorNotAvailableError(f"{self.name} has no leader on this node at the moment"))
        return leader

    def _give_up(self, why: str) -> None:
        self._staged.clear()
        self._in_flight.clear()
        outgoing, self._outgoing = self._outgoing, deque()
        for _, to, message in outgoing:
            if isinstance(message, Answer | Refusal):
                tell_back(to, Refusal(message.call, message.index, CoordinatorNotAvailableError(why)))
        self._appends = self._committed = 0

    # ---- loading

    def _load_again(self, load_id: int) -> None:
        if load_id == self._load_id and self.reactor.lookup(self.address) is not None:
            self._load()

    def _load(self) -> None:
        self._load_end = -1
        leader = self._leader()
        if leader is None:
            return
        self.forget()
        self._leader_epoch = self.context.image.topics[self.TOPIC].partitions[self.partition].leader_epoch
        leader.tell(DescribeDir(self.actor_ref, ("load", self._load_id), 0))

    def _loaded_some(self, answer: Answer) -> None:
        body = answer.body
        if isinstance(body, PartitionDirInfo):
            if body.error_message is not None:
                self._start_over(CoordinatorNotAvailableError(f"{self.name} cannot be read: {body.error_message}"))
                return
            self._load_offset, self._load_end = body.log_start_offset, body.log_end_offset
            self._load_more()
            return
        assert isinstance(body, PartitionFetched)
        if body.error_code:
            self._start_over(error_for(body.error_code, body.error_message))
            return
        try:
            self._replay(answer.data)
        except ZmqBrokerError as error:
            self._start_over(
                CoordinatorNotAvailableError(f"{self.name} at offset {self._load_offset}: {error.message}")
            )
            return
        if not answer.data and self._load_offset < self._load_end:
            # What stands past the high watermark is not committed yet, and may be ours of a moment ago: wait for it.
            load_id = self._load_id
            self.reactor.call_later(1.0, lambda: self._load_more() if load_id == self._load_id else None)
            return
        self._load_more()

    def _replay(self, data: bytes) -> None:
        position = 0
        while position < len(data):
            header = read_header(data, position)
            records = () if header.is_control else decode_batch(data[position : position + header.size])
            for record in records:
                if record.key is not None:
                    self.replay(record.key, record.value, record.offset)
            position += header.size
            self._load_offset = header.next_offset

    def _load_more(self) -> None:
        if self._load_offset < self._load_end:
            leader = self._leader()
            if leader is None:
                return
            leader.tell(
                Read(self.actor_ref, ("load", self._load_id), 0, self._load_offset, _READ_BYTES, self._leader_epoch)
            )
            return
        self._loading = False
        self.loaded()
        while self._noticed and not self._loading:
            self.notice(self._noticed.popleft())
        while self._parked and not self._loading:
            self._handle(self._parked.popleft())
        if self._staged:
            self._append_staged()

    # ---- the end

    def on_stop(self) -> None:
        """Tell everybody who waits to ask again."""
        self._end(f"the coordinator of {self.name} stops here")
        if self._retire_to is not None:
            self._retire_to.tell(Retired(self.address))

    def on_crash(self, error: BaseException | None) -> None:
        """Tell everybody who waits; the state is built anew when the actor starts again."""
        self._end(f"the coordinator of {self.name} failed and starts again: {error!r}")
        if self._retire_to is not None:
            self.reactor.stop_actor(self.address)  # it was to end anyway, and shall not be made again
            self._retire_to.tell(Retired(self.address))

    def _end(self, why: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._give_up(why)
        for message in (*self._parked, *self.waiting(), *self.actor_inbox.take_told()):
            if isinstance(message, Command):
                refusal = Refusal(message.call, message.index, CoordinatorNotAvailableError(why))
                tell_back(message.reply_to, refusal)
            elif isinstance(message, Retire):
                self._retire_to = message.reply_to
        self._parked.clear()

    def waiting(self) -> list[Command]:
        """Commands that the subclass keeps, to be answered later."""
        return []
