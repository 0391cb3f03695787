"""What a group's state machine wants done: records to append, and answers to requests. It does nothing itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ..errors import BrokerError
    from ..transport.message_base import Body

Token = Any
"""A request that waits for its answer; the machines keep it and give it back unopened."""


class Now(NamedTuple):
    """The time, by both clocks."""

    monotonic_ms: float
    """For time-outs."""
    wall_ms: int
    """Since 1970: for what is written down."""


class Effects:
    """Records and answers, in order; answers hold only once all of the records are committed."""

    def __init__(self) -> None:
        self.records: list[tuple[bytes, bytes | None]] = []
        self.answers: list[tuple[Token, Body | BrokerError]] = []

    def append(self, key: bytes, value: bytes | None) -> None:
        """Append a record; None is a tombstone."""
        self.records.append((key, value))

    def answer(self, token: Token, answer: Body | BrokerError) -> None:
        """Answer a request."""
        self.answers.append((token, answer))

    def take(self) -> tuple[list[tuple[bytes, bytes | None]], list[tuple[Token, Body | BrokerError]]]:
        """Take out all records and answers."""
        taken = self.records, self.answers
        self.records, self.answers = [], []
        return taken
