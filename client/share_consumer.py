"""The share consumer: takes records out of a queue, one lease for each, and says what became of them (KIP-932)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from ..errors import (
    ConfigError,
    IllegalStateError,
    InvalidRecordStateError,
    RequestTimedOutError,
)
from ..transport.share_messages import DEFAULT_DELAY
from .io import ClientIO, Wait
from .options import ShareConsumerOptions, make_options
from .share_decoder import ShareDecoder
from .share_session import ShareSession
from .share_types import AcknowledgeKind, ShareRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from typing_extensions import Unpack

    from ..errors import ZmqBrokerError
    from .io import Flow
    from .types import TopicPartition

_ACCEPT = AcknowledgeKind.ACCEPT
_MOST_REASON = 1_000
"""Characters of a reason: it becomes a header of the dead letter."""
_MOST_DELAY_MS = 2**40


class ShareConsumerSettings(TypedDict, total=False):
    """The keywords of a share consumer; `client.options.ShareConsumerOptions` says what they mean."""

    bootstrap_servers: str | Sequence[str]
    client_id: str
    group_id: str
    acknowledgement_mode: str
    key_deserializer: Callable[[bytes], Any] | None
    value_deserializer: Callable[[bytes], Any] | None
    max_poll_records: int
    fetch_max_wait_ms: int
    fetch_max_bytes: int
    consumer_timeout_ms: float
    check_crcs: bool
    on_acknowledge_error: Callable[[TopicPartition, ZmqBrokerError, list[tuple[int, int]]], None] | None
    request_timeout_ms: int
    connect_timeout_ms: int
    retry_backoff_ms: int
    retry_backoff_max_ms: int
    reconnect_backoff_ms: int
    reconnect_backoff_max_ms: int
    metadata_max_age_ms: int


class ShareConsumer:
    """Takes records of a share group's topics; other consumers of the group take others, of the same partitions too.

    Iterate it, or `poll` it, in one thread at a time; any thread may say what became of records. A record is leased: it
    is delivered again, to anybody, if nothing is said about it in time. Raises ConfigError for an unknown setting or a
    value out of range.

    In implicit mode asking for the next record, or for the next poll, accepts what was delivered before and not
    acknowledged otherwise. A loop that is left by break or an exception leaves its last record as it is.
    """

    def __init__(self, *topics: str, **settings: Unpack[ShareConsumerSettings]) -> None:
        self._setup(topics, make_options(ShareConsumerOptions, settings))
        self._io.start_thread("zmqbroker-share-consumer")

    @classmethod
    def without_thread(cls, topics: tuple[str, ...], options: ShareConsumerOptions) -> Self:
        """A consumer that an event loop drives."""
        consumer = cls.__new__(cls)
        consumer._setup(topics, options)  # noqa: SLF001 - of its own class
        return consumer

    def _setup(self, topics: tuple[str, ...], options: ShareConsumerOptions) -> None:
        self._options = options
        self.io = self._io = ClientIO(options)
        self._now = self._io.now
        self._lock = self._io.lock
        self._session = ShareSession(self._io, options)
        self._acks = self._session.acks
        self._pop = self._session.ready.popleft
        self._decoder = ShareDecoder(options)
        self._io.drivers += [self._session.coordinator, self._session]
        self._implicit = options.acknowledgement_mode == "implicit"
        self._given: list[ShareRecord] = []
        """What the last poll returned."""
        self._records: Iterator[ShareRecord] | None = None
        if topics:
            self.subscribe(topics)

    # ---- what to take

    def subscribe(self, topics: str | Iterable[str]) -> None:
        """Take records of these topics, instead of what was taken before."""
        names = {topics} if isinstance(topics, str) else set(topics)
        if not names or not all(isinstance(name, str) and name for name in names):
            message = f"topics={topics!r}: names of topics are expected"
            raise ConfigError(message)
        self._io.check_open()
        with self._lock:
            self._session.subscribe(sorted(names))

    def unsubscribe(self) -> None:
        """Take nothing more; what was not handed out goes back."""
        with self._lock:
            self._session.subscribe([])
            self._io.rearm()

    def subscription(self) -> set[str]:
        """The topics subscribed to."""
        return set(self._session.topics)

    # ---- records

    def poll(self, timeout_ms: float = 0, max_records: int | None = None) -> list[ShareRecord]:
        """The next records, max_poll_records at most, as soon as there are any; empty if none came in time.

        In implicit mode accepts all of the last poll about which nothing was said; in explicit mode raises
        IllegalStateError if there are such. Raises what a deserializer raised; the record that it was about is
        released. Raises the broker's error if asking again does not help.
        """
        most = self._most(max_records)
        self.finish_given()
        records = self._take(most)
        return records or self._io.run(self.polled(timeout_ms, most))

    def polled(self, timeout_ms: float, max_records: int | None) -> Flow[list[ShareRecord]]:
        """`poll` as a flow, once what was given before is finished."""
        most = self._most(max_records)
        deadline = self._now() + timeout_ms / 1000
        session = self._session
        while True:
            with self._lock:
                session.demand = session.pace.at_once(most)
                self._acks.hurry()
            try:
                came = yield Wait(session.is_news, deadline)
            finally:
                session.demand = 0
            records = self._take(most)
            if records or not came:
                return records

    def _most(self, max_records: int | None) -> int:
        most = self._options.max_poll_records if max_records is None else max_records
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            message = f"max_records={max_records!r}: 1 or more is expected"
            raise ConfigError(message)
        return most

    def finish_given(self) -> None:
        """Accept what was given before and is open, or refuse to go on. Raises IllegalStateError."""
        self._io.check_open()
        with self._lock:
            if self._implicit:
                self._accept_given()
            else:
                now = self._now()
                open_ = [one for one in self._given if self._acks.is_open(one) and one.lease_deadline > now]
                if open_:
                    message = (
                        f"{len(open_)} of the {len(self._given)} records of the last poll are not acknowledged, the"
                        f" first is {_name(open_[0])}: say what became of each before the next poll, or iterate"
                    )
                    raise IllegalStateError(message)
                self._given = []
            self._session.pace.asked(self._now())

    def _accept_given(self) -> None:
        given, self._given = self._given, []
        for record in given:
            if self._acks.accept(record):
                self._io.rearm()

    def _take(self, most: int) -> list[ShareRecord]:
        """What is here, up to so many records."""
        taken: list[ShareRecord] = []
        while len(taken) < most:
            record = self._ready()
            if record is not None:
                taken.append(record)
            elif not self._refill(quiet=bool(taken)):
                break
        if taken:
            self._given = taken
            self._hand_out(len(taken))
        return taken

    def _ready(self) -> ShareRecord | None:
        """The next decoded record whose lease has not ended."""
        while True:
            try:
                record = self._pop()
            except IndexError:
                return None
            if record.lease_deadline > self._now():
                return record
            self._lost(record)

    def _lost(self, record: ShareRecord) -> None:
        with self._lock:
            self._session.lost(record)

    def _hand_out(self, count: int) -> None:
        self._lock.acquire()
        self._session.handed_out(count)
        self._io.pass_and_release()  # ask for what comes next while the user is busy with this

    def _refill(self, *, quiet: bool) -> bool:
        """Make more records ready; False: nothing is here. Raises what is to be raised, unless quiet."""
        session = self._session
        while True:
            with self._lock:
                if session.parts:
                    if quiet and isinstance(session.parts[0], Exception):
                        return False
                    part = session.next_part()
                    if isinstance(part, Exception):
                        raise part
                    return True
                error = None if quiet else session.take_error()
                if error is not None:
                    raise error
                if not session.fetched:
                    return False
                fetched = session.fetched.popleft()
            decoded = self._decoder.decode(fetched)
            with self._lock:
                held = self._acks.held(fetched.entry.topic, fetched.entry.partition)
                for part in decoded.parts:
                    if isinstance(part, list):
                        self._acks.lease(held, part)
                for first, last, kind, reason in decoded.said:
                    self._acks.add(held, first, last, kind, reason=reason, lease=fetched.lease)
                session.parts.extend(decoded.parts)

    # ---- one by one

    def __iter__(self) -> Generator[ShareRecord, None, None]:
        """Iterate over records for ever, or until none came for consumer_timeout_ms. Raises as `poll`."""
        while True:
            record = self.take_one()
            if record is None:
                if not self._io.run(self.more_came()):
                    return
                continue
            yield record
            if self._implicit:
                self.accept(record)

    def __next__(self) -> ShareRecord:
        """The next record. Raises StopIteration after consumer_timeout_ms without one."""
        if self._records is None:
            self._records = iter(self)
        try:
            return next(self._records)
        except BaseException:
            self._records = None
            raise

    def take_one(self) -> ShareRecord | None:
        """The next record that is here; None: nothing is here."""
        try:
            record = self._pop()
        except IndexError:
            pass
        else:
            if record.lease_deadline > self._now():
                return record
            self._lost(record)
        while (ready := self._ready()) is None:
            self._io.check_open()
            with self._lock:
                self._session.pace.asked(self._now())
            if not self._refill(quiet=False):
                return None
            self._hand_out(len(self._session.ready))
        return ready

    def more_came(self) -> Flow[bool]:
        """Wait until `take_one` has something; False after consumer_timeout_ms."""
        session = self._session
        with self._lock:
            session.demand = session.pace.target
            self._acks.hurry()
        try:
            came = yield Wait(session.is_news, self._now() + self._options.consumer_timeout_ms / 1000)
        finally:
            session.demand = 0
        return bool(came)

    def accept(self, record: ShareRecord) -> None:
        """Accept a record that iteration has handed out, unless something else was said about it."""
        with self._lock:
            self._accept(record)
        if self._io.after:
            self._io.run_after()

    def _accept(self, record: ShareRecord) -> None:
        if record.lease_deadline > self._now():
            if self._acks.accept(record):
                self._io.rearm()
        elif self._acks.is_open(record):
            self._acks.too_late(record)

    # ---- what became of them

    def acknowledge(
        self, records: ShareRecord | Iterable[ShareRecord], kind: AcknowledgeKind = AcknowledgeKind.ACCEPT
    ) -> None:
        """Say what became of one or several records; it is sent within milliseconds, and `commit` waits for it.

        Raises InvalidRecordStateError, and says nothing about any of them, if one was acknowledged before, was not
        delivered by this consumer, or is leased to it no more.
        """
        if kind is _ACCEPT and type(records) is ShareRecord and not self._io.closed:
            with self._lock:
                if records.lease_deadline > self._now():
                    first = self._acks.accept(records)
                    if first:
                        self._io.rearm()
                    if first is not None:
                        return
        self._say(records, AcknowledgeKind(kind), DEFAULT_DELAY, "")

    def release(self, records: ShareRecord | Iterable[ShareRecord], delay_ms: int | None = None) -> None:
        """Have records delivered again, to anybody: after a delay, or the group's back-off. Raises as `acknowledge`."""
        if delay_ms is not None and (
            isinstance(delay_ms, bool) or not isinstance(delay_ms, int) or not 0 <= delay_ms <= _MOST_DELAY_MS
        ):
            message = f"delay_ms={delay_ms!r}: milliseconds from 0 to {_MOST_DELAY_MS} are expected"
            raise ValueError(message)
        self._say(records, AcknowledgeKind.RELEASE, DEFAULT_DELAY if delay_ms is None else delay_ms, "")

    def reject(self, records: ShareRecord | Iterable[ShareRecord], reason: str = "") -> None:
        """Give records up: they go to the dead-letter topic, with the reason. Raises as `acknowledge`."""
        self._say(records, AcknowledgeKind.REJECT, DEFAULT_DELAY, reason[:_MOST_REASON])

    def renew(self, records: ShareRecord | Iterable[ShareRecord]) -> None:
        """Let the leases of records begin anew (KIP-1222). Raises as `acknowledge`.

        Their lease_deadline moves when the broker has confirmed it.
        """
        self._say(records, AcknowledgeKind.RENEW, DEFAULT_DELAY, "")

    def _say(
        self, records: ShareRecord | Iterable[ShareRecord], kind: AcknowledgeKind, delay_ms: int, reason: str
    ) -> None:
        many = [records] if isinstance(records, ShareRecord) else list(records)
        self._io.check_open()
        with self._lock:
            seen: set[ShareRecord] = set()
            for record in many:
                self._check(record, seen)
            first = [self._acks.say(record, int(kind), delay_ms, reason) for record in many]
            if any(first):
                self._io.rearm()

    def _check(self, record: ShareRecord, seen: set[ShareRecord]) -> None:
        if not isinstance(record, ShareRecord):
            message = f"a record that this consumer has delivered is expected, not {type(record).__name__}"
            raise TypeError(message)
        if record in seen or not self._acks.is_open(record):
            message = f"{_name(record)} was acknowledged before, or was not delivered by this consumer"
            raise InvalidRecordStateError(message)
        late_ms = (self._now() - record.lease_deadline) * 1000
        if late_ms >= 0:
            message = (
                f"the lease of {_name(record)} ended {late_ms:.0f} ms ago, and the record is delivered again; renew"
                " leases that do not last, or raise the group's share.record.lock.duration.ms"
            )
            raise InvalidRecordStateError(message)
        seen.add(record)

    def commit(self, timeout_ms: float | None = None) -> dict[TopicPartition, int]:
        """Send what was said and wait until it is durable; the records that became so since the last commit.

        In implicit mode accepts first what the last poll returned; the record that a loop is at is accepted when the
        loop asks for the next. Raises the first error since the last commit (InvalidRecordStateError for a lease that
        had ended), and RequestTimedOutError after timeout_ms (None: request_timeout_ms); what is not yet durable then
        is still sent.
        """
        return self._io.run(self.committed(timeout_ms))

    def flush(self, timeout_ms: float | None = None) -> dict[TopicPartition, int]:
        """`commit`, as producers call it."""
        return self.commit(timeout_ms)

    def committed(self, timeout_ms: float | None) -> Flow[dict[TopicPartition, int]]:
        """`commit` as a flow."""
        self._io.check_open()
        wait_ms = self._options.request_timeout_ms if timeout_ms is None else timeout_ms
        session, acks = self._session, self._acks
        with self._lock:
            if self._implicit:
                self._accept_given()
            session.flushers += 1
            acks.hurry()
        try:
            settled = yield Wait(lambda: acks.is_settled, self._now() + wait_ms / 1000)
        finally:
            with self._lock:
                session.flushers -= 1
        with self._lock:
            acknowledged = acks.harvest()
        if not settled:
            message = f"acknowledgements were not answered within {wait_ms:g} ms; they are still sent"
            raise RequestTimedOutError(message)
        return acknowledged

    def commit_async(self) -> None:
        """Send what was said at once, and do not wait; in implicit mode accept first what the last poll returned."""
        self._io.check_open()
        self._lock.acquire()
        if self._implicit:
            self._accept_given()
        self._acks.hurry()
        self._io.pass_and_release()

    # ---- the rest

    def bootstrap_connected(self) -> bool:
        """Whether some broker is connected."""
        with self._lock:
            return any(connection.is_usable for connection in self._io.connections.values())

    def metrics(self) -> dict[str, float]:
        """Counters since the start, and how many records are held now."""
        with self._lock:
            return {**self._session.counters, **self._acks.counters, "records_held": self._acks.open_count}

    def close(self, timeout_ms: float = 5_000) -> None:
        """Send what was said, give back the rest at once, and disconnect; takes timeout_ms at most.

        What was delivered and not acknowledged is released: it counts as a delivery. What was not handed out is not.
        """
        if self._io.closed:
            return
        try:
            self._io.run(self.leaving(timeout_ms))
        finally:
            self.shut()

    def leaving(self, timeout_ms: float) -> Flow[None]:
        """Everything of `close` that waits."""
        session = self._session
        with self._lock:
            session.leave()
        left = yield Wait(lambda: session.left, self._now() + timeout_ms / 1000)
        if not left:
            with self._lock:
                message = f"the consumer was closed, and no broker has answered within {timeout_ms:g} ms"
                self._acks.give_up(RequestTimedOutError(message), self._now())

    def shut(self) -> None:
        """Everything of `close` that does not wait."""
        with self._lock:
            self._io.drivers.clear()
        self._io.close()

    def __enter__(self) -> Self:
        """The consumer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def _name(record: ShareRecord) -> str:
    return f"{record.topic}-{record.partition} offset {record.offset}"
