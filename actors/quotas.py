"""Quotas of clients: how long a client has to wait after it moved bytes. Pure: time is passed in.

A token bucket for each client id and direction: it fills at the allowed rate up to one second's worth, and may go below
zero, since a request is judged after it was taken; the debt is what the client waits off (Kafka KIP-13, KIP-219).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Direction = Literal["produce", "consume"]


@dataclass
class TokenBucket:
    """Bytes that may still be moved; rate is in bytes a second."""

    rate: int
    tokens: float
    filled_at_ms: float

    def charge(self, size: int, now_ms: float) -> int:
        """Take bytes out, and return how many ms it takes until none are owed."""
        assert now_ms >= self.filled_at_ms, f"time went back from {self.filled_at_ms} to {now_ms} ms"
        refill = (now_ms - self.filled_at_ms) * self.rate / 1000
        self.tokens = min(self.tokens + refill, float(self.rate)) - size
        self.filled_at_ms = now_ms
        return 0 if self.tokens >= 0 else int(-self.tokens * 1000 / self.rate) + 1


@dataclass
class Quotas:
    """The buckets of all clients. A rate of 0 means that there is no quota."""

    _buckets: dict[tuple[str, Direction], TokenBucket] = field(default_factory=dict)

    def charge(self, client_id: str, direction: Direction, size: int, rate: int, now_ms: float) -> int:
        """Count bytes of a client, and return how many ms it is to be throttled."""
        key = (client_id, direction)
        if rate == 0:
            self._buckets.pop(key, None)
            return 0
        bucket = self._buckets.get(key)
        if bucket is None or bucket.rate != rate:
            bucket = self._buckets[key] = TokenBucket(rate, float(rate), now_ms)
        return bucket.charge(size, now_ms)

    def forget(self, client_id: str, now_ms: float) -> None:
        """Drop the full buckets of a client that has gone; one that is in debt keeps it."""
        directions: tuple[Direction, ...] = ("produce", "consume")
        for direction in directions:
            bucket = self._buckets.get((client_id, direction))
            if bucket is not None and bucket.charge(0, now_ms) == 0:
                del self._buckets[client_id, direction]
