"""The share consumer's state machine: one long poll for records, and acknowledgements that never wait behind it.

One ShareFetch is under way at a time. What the user has said about records travels with it when records are plenty,
because its answer comes soon then; otherwise, and whenever somebody waits for it, it goes out at once in a
ShareAcknowledge of its own, of which there is also one at a time. Fetching ahead goes by the user's pace; what was
fetched and not handed out for long, or when the connection broke, is given back, so that others get it.

All methods are called under the client's lock. `ready` alone is popped without it: each record goes to one taker.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from typing import TYPE_CHECKING

from ..errors import ZmqBrokerError, error_for
from ..transport.group_messages import SHARE_COORDINATOR
from ..transport.share_messages import (
    ACK_RETURN,
    ShareAcknowledgeReply,
    ShareAcknowledgeRequest,
    ShareFetchReply,
    ShareFetchRequest,
)
from .connection import FOREVER, Answer, Call, Connection
from .coordinator import Coordinator
from .io import body_of
from .share_acks import Acknowledgements, Outgoing, Refused
from .share_decoder import Fetched
from .share_pace import Pace

if TYPE_CHECKING:
    from .io import ClientIO
    from .options import ShareConsumerOptions
    from .share_types import ShareRecord

logger = logging.getLogger(__name__)

_LINGER_S = 0.01
"""How long an acknowledgement waits for others, unless somebody waits for it."""


class ShareSession:
    """A consumer's dealings with the coordinator of its share group."""

    def __init__(self, io: ClientIO, options: ShareConsumerOptions) -> None:
        self.member_id = f"{options.name}-{os.urandom(16).hex()}"
        self.coordinator = Coordinator(io, options.group_id, SHARE_COORDINATOR)
        self.pace = Pace(2 * options.max_poll_records)
        self.acks = Acknowledgements(io.now, _LINGER_S, options.request_timeout_ms / 1000, self._report)
        self.topics: list[str] = []
        self.ready: deque[ShareRecord] = deque()
        """Decoded, to be handed out one after the other."""
        self.parts: deque[list[ShareRecord] | Exception] = deque()
        """What comes after these: records, and errors to be raised between them."""
        self.fetched: deque[Fetched] = deque()
        """What comes after those, not yet decoded."""
        self.demand = 0
        """How many records the user waits for; 0: it does not wait."""
        self.flushers = 0
        """How many wait for acknowledgements to be durable."""
        self.error: Exception | None = None
        """To be raised to the user once."""
        self.left = False
        self.counters = dict.fromkeys(
            ("fetch_requests", "bytes_fetched", "records_fetched", "records_returned", "leases_lost"), 0
        )
        self._io = io
        self._options = options
        self._fetching = False
        self._acknowledging = False
        self._plenty = False
        """Whether the last fetch brought records."""
        self._away = True
        """Whether the user was not seen for long: nothing is fetched ahead for it."""
        self._stood: Connection | None = None
        """The connection over which leases came; once it broke, they are in doubt."""
        self._joined = False
        self._leaving = False
        self._stepped = 0.0
        self._not_before = 0.0
        self._fetch_not_before = 0.0
        self._clean_at = FOREVER

    # ---- the user's side

    def subscribe(self, topics: list[str]) -> None:
        """Take records of these topics; what is here of others goes back."""
        self.give_back()
        self.topics = topics

    def next_part(self) -> list[ShareRecord] | Exception | None:
        """What is decoded and comes next. Records are ready from now on."""
        if not self.parts:
            return None
        part = self.parts.popleft()
        if isinstance(part, list):
            self.ready.extend(part)
        return part

    def is_news(self) -> bool:
        """Whether there is something to hand out or to raise."""
        return bool(self.ready or self.parts or self.fetched or self.error or self.coordinator.error)

    def take_error(self) -> Exception | None:
        """What is to be raised."""
        error: Exception | None = self.error or self.coordinator.error
        self.error = self.coordinator.error = None
        return error

    def handed_out(self, count: int) -> None:
        """The user works on so many records from now on."""
        self._away = False
        self.demand = 0
        self.pace.handed_out(count, self._io.now())

    def lost(self, record: ShareRecord) -> None:
        """A record's lease ended before it was handed out: it is delivered again, to anybody."""
        self.counters["leases_lost"] += 1
        if self.acks.is_open(record):
            del self.acks.partitions[record.topic, record.partition].open[record.offset]

    def give_back(self) -> None:
        """Return everything that is not handed out: it is available to others at once, and was not delivered."""
        acks = self.acks
        before = self._unhanded
        while True:
            try:
                record = self.ready.popleft()
            except IndexError:
                part = self.next_part()
                if part is None:
                    break
                continue
            if acks.is_open(record):
                acks.say(record, ACK_RETURN)
        for fetched in self.fetched:
            held = acks.held(fetched.entry.topic, fetched.entry.partition)
            for item in sorted(fetched.entry.acquired, key=lambda item: item.first_offset):
                acks.add(held, item.first_offset, item.last_offset, ACK_RETURN, lease=fetched.lease)
        self.fetched.clear()
        self.counters["records_returned"] += before

    @property
    def _unhanded(self) -> int:
        decoded = sum(len(part) for part in self.parts if isinstance(part, list))
        return len(self.ready) + decoded + sum(fetched.count for fetched in self.fetched)

    def leave(self) -> None:
        """Say goodbye as soon as nothing is left to acknowledge; `left` tells when that is done."""
        self._leaving = True
        self.acks.hurry()

    # ---- the driver

    def step(self, now: float) -> None:
        """Send what is due."""
        self._stepped = now
        if self.left:
            return
        self._clean(now)
        if self.coordinator.error is not None:
            self.acks.fail_all(self.coordinator.error, now)
        acks = self.acks
        wanted = 0 if now < self._fetch_not_before else self._wanted()
        sends = acks.due_at <= now and not self._acknowledging
        if now < self._not_before or not (wanted or sends or self._leaving):
            return
        connection = self.coordinator.connection()
        if connection is None or connection.is_backing_off:
            self.left = self._leaving and not acks.is_waiting  # nothing to save: the leases end by themselves
            return
        if self._leaving:
            self._say_goodbye(connection, now)
            return
        together = wanted > 0 and self._plenty and not self.flushers
        if sends and not together:
            self._acknowledge(connection, acks.take(now, fetching=self._fetching), now)
        if wanted:
            self._fetch(connection, wanted, acks.take(now) if together else [], now)

    def next_deadline(self) -> float:
        """When something becomes due though nothing came."""
        times = (self.acks.due_at, self._not_before, self._fetch_not_before, self._clean_at, self._stale_at())
        return min((time for time in times if time > self._stepped), default=FOREVER)

    def _wanted(self) -> int:
        """How many records to ask for now."""
        if self._fetching or self._leaving or not self.topics or self.error is not None or self.acks.is_doubtful:
            return 0
        if self.demand and not self._unhanded:
            return self.demand
        if self._away:
            return 0
        target = self.pace.target
        held = self.acks.open_count + sum(fetched.count for fetched in self.fetched)
        return target - held if held * 2 <= target else 0

    def _oldest_deadline(self) -> float | None:
        """When the lease ends that has waited longest to be handed out."""
        try:
            return self.ready[0].lease_deadline
        except IndexError:  # also if the user takes the last one right now
            return self.fetched[0].deadline if self.fetched else None

    def _stale_at(self) -> float:
        """When what is not handed out has waited for too long."""
        oldest = self._oldest_deadline()
        if oldest is None:
            return FOREVER
        is_busy = self.acks.open_count > len(self.ready)
        return oldest - self.pace.lease_s + self.pace.patience_s(is_busy=is_busy)

    def _clean(self, now: float) -> None:
        if self._stood is not None and not self._stood.is_usable:
            # A coordinator that starts again may not know of them, and lease them to others.
            self._stood = None
            self.give_back()
        if self._stale_at() <= now:
            self.give_back()
            self._away = True
        if now >= self._clean_at:
            self._clean_at = now + self.pace.lease_s
            self.acks.forget_lost(now - self.pace.lease_s)

    # ---- fetching

    def _fetch(self, connection: Connection, wanted: int, sent: list[Outgoing], now: float) -> None:
        options = self._options
        self._fetching = self._joined = True
        self.counters["fetch_requests"] += 1

        def done(outcome: Answer | ZmqBrokerError) -> None:
            self._fetching = False
            self._io.progress += 1
            if self.acks.is_doubtful:
                self.acks.hurry()
            if isinstance(outcome, ZmqBrokerError):
                self._failed(sent, outcome)
                if not outcome.retriable:
                    self.error = outcome
                return
            reply = body_of(outcome, ShareFetchReply)
            self._stood = connection
            self._learn_lease(reply.lease_ms)
            self._settled(sent, reply.acknowledged)
            self._store(reply, outcome.batches)

        request = ShareFetchRequest(
            options.group_id, self.member_id, options.fetch_max_wait_ms, wanted, options.fetch_max_bytes, self.topics,
            [outgoing.entry() for outgoing in sent],
        )  # fmt: skip
        deadline = now + (options.request_timeout_ms + options.fetch_max_wait_ms) / 1000
        connection.submit(Call(request, done, deadline), now)

    def _store(self, reply: ShareFetchReply, frames: list[bytes]) -> None:
        now = self._io.now()
        self._plenty = False
        for position, entry in enumerate(reply.partitions):
            if entry.error_code:
                error = error_for(entry.error_code, entry.error_message)
                self._fetch_not_before = now + self._options.retry_backoff_ms / 1000
                if not error.retriable:
                    self.error = error
                continue
            batches = frames[position] if position < len(frames) else b""
            fetched = Fetched(entry, batches, now + self.pace.lease_s, reply.lease)
            if not fetched.count:
                continue
            self.acks.leased_anew(entry.topic, entry.partition, entry.acquired)
            self._plenty = True
            self.counters["bytes_fetched"] += len(batches)
            self.counters["records_fetched"] += fetched.count
            self.fetched.append(fetched)
        if self.fetched and self.fetched[-1].entry.topic not in self.topics:
            self.give_back()  # asked for before another subscription

    def _learn_lease(self, lease_ms: int) -> None:
        self.pace.lease_s = lease_ms / 1000
        self._clean_at = min(self._clean_at, self._io.now() + self.pace.lease_s)

    # ---- acknowledging

    def _acknowledge(self, connection: Connection, sent: list[Outgoing], now: float, *, leave: bool = False) -> None:
        if not (sent or leave):
            return
        self._acknowledging = True
        options = self._options

        def done(outcome: Answer | ZmqBrokerError) -> None:
            self._acknowledging = False
            self._io.progress += 1
            self.left = leave
            if isinstance(outcome, ZmqBrokerError):
                self._failed(sent, outcome)
            else:
                reply = body_of(outcome, ShareAcknowledgeReply)
                self._learn_lease(reply.lease_ms)
                self._settled(sent, reply.acknowledged)

        entries = [outgoing.entry() for outgoing in sent]
        request = ShareAcknowledgeRequest(options.group_id, self.member_id, entries, leave)
        connection.submit(Call(request, done, now + options.request_timeout_ms / 1000), now)

    def _say_goodbye(self, connection: Connection, now: float) -> None:
        """First what the user has said, all by itself: leaving would release it."""
        if self._acknowledging:
            return
        if self.acks.is_waiting:
            self._acknowledge(connection, self.acks.take(now), now)
        elif not self._joined:
            self.left = True
        else:
            self.give_back()
            self._acknowledge(connection, self.acks.take(now), now, leave=True)

    def _settled(self, sent: list[Outgoing], outcome: object) -> None:
        now = self._io.now()
        assert isinstance(outcome, (list, ZmqBrokerError))
        if self.acks.settle(sent, outcome, now, self.pace.lease_s):
            self._not_before = now + self._options.retry_backoff_ms / 1000

    def _failed(self, sent: list[Outgoing], error: ZmqBrokerError) -> None:
        """A request as a whole failed: the coordinator may be elsewhere now."""
        now = self._io.now()
        self._not_before = now + self._options.retry_backoff_ms / 1000
        self._plenty = False
        if error.retriable:
            self.coordinator.lost(error)
            self.give_back()
        self._settled(sent, error)

    def _report(self, refused: Refused) -> None:
        callback = self._options.on_acknowledge_error
        if callback is not None:
            self._io.after.append(lambda: callback(*refused))
            return
        partition, error, ranges = refused
        where = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges[:10])
        logger.warning(
            "%s-%d: acknowledgements of offsets %s do not hold: %s", *partition, where, error.message or error
        )
