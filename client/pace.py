"""How many requests a producer has under way, and when it had better put more into one.

A batch costs the client and the broker about the same, however few records it has. A producer that writes to many
partitions in turn would turn each record into a batch of its own, and each batch into a request: a hundred partitions
would be fifty times slower than one. So a producer that closes many batches lets what is open gather for as long as
its leader has something else to answer; then all of it leaves together. A slower one does not wait for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .connection import Connection

_WINDOW_S = 0.02
_FAST = 1_000.0
"""Batches a second, of all partitions together, that would be much of the client's work if each left by itself."""


class Pace:
    """The pace of one producer. most_in_flight: Kafka's max.in.flight.requests.per.connection."""

    def __init__(self, most_in_flight: int) -> None:
        self._most_in_flight = most_in_flight
        self._under_way: dict[Connection, int] = {}
        self._is_fast = False
        self._since = 0.0
        self._closed = 0

    def closed(self, now: float) -> None:
        """A batch is closed."""
        self._closed += 1
        passed = now - self._since
        if passed >= _WINDOW_S:
            self._is_fast = self._closed >= _FAST * passed
            self._since = now
            self._closed = 0

    def sent(self, leader: Connection) -> None:
        """A request is on its way."""
        self._under_way[leader] = self._under_way.get(leader, 0) + 1

    def ended(self, leader: Connection) -> None:
        """A request has its answer, or will have none."""
        left = self._under_way.pop(leader) - 1
        if left:
            self._under_way[leader] = left

    def is_full(self, leader: Connection) -> bool:
        """Whether nothing is sent before a request is answered."""
        return self._under_way.get(leader, 0) >= self._most_in_flight

    def holds(self, leader: Connection | None) -> bool:
        """Whether an open batch goes on gathering until a request is answered."""
        under_way = self._under_way.get(leader, 0) if leader is not None else 0
        return under_way > 0 and (self._is_fast or under_way >= self._most_in_flight)
