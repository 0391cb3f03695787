"""Which node coordinates a group or transactional id: a driver that finds it, again when it moved or is unreachable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import CoordinatorLoadInProgressError, ZmqBrokerError, error_for
from ..transport.group_messages import GROUP_COORDINATOR, FindCoordinatorReply, FindCoordinatorRequest
from .backoff import retry_wait_s
from .connection import FOREVER, Answer, Call, Connection
from .io import body_of
from .metadata import node_address

if TYPE_CHECKING:
    from .io import ClientIO


class Coordinator:
    """The coordinator of one group (or share group, or transactional id, by key_type).

    All methods are called under the client's lock.
    """

    def __init__(self, io: ClientIO, key: str, key_type: int = GROUP_COORDINATOR) -> None:
        self.key = key
        self.node_id = -1
        self.error: ZmqBrokerError | None = None
        """Why it cannot be found at all: not retriable. Whoever raises it to the user sets it to None."""
        self.last_error: ZmqBrokerError | None = None
        """Why it is not known now, or was not a moment ago."""
        self._io = io
        self._key_type = key_type
        self._address: str | None = None
        self._wanted = False
        self._under_way = False
        self._not_before = 0.0
        self._failures = 0
        self._asked: Connection | None = None
        """Who did not know when asked last."""

    def connection(self) -> Connection | None:
        """The connection to it; None: not known now, and asked for from this call on."""
        if self._address is None:
            self._wanted = True
            return None
        return self._io.connection(self._address)

    def lost(self, error: ZmqBrokerError) -> None:
        """A request to it failed in a way that another node, or the same one later, may not."""
        self.last_error = error
        self._not_before = max(self._not_before, self._io.now() + self._io.options.retry_backoff_ms / 1000)
        if not isinstance(error, CoordinatorLoadInProgressError):
            self._address = None
            self.node_id = -1

    def step(self, now: float) -> None:
        """Ask, if it is wanted and due."""
        if not self._wanted or self._under_way or self._address is not None or now < self._not_before:
            return
        self._under_way = True
        request = FindCoordinatorRequest([self.key], self._key_type)
        connection = self._io.metadata.any_connection(() if self._asked is None else (self._asked,))
        self._asked = connection
        connection.submit(Call(request, self._answered, now + self._io.options.request_timeout_ms / 1000), now)

    def next_deadline(self) -> float:
        """When `step` is due."""
        if self._wanted and not self._under_way and self._address is None:
            return self._not_before
        return FOREVER

    def _answered(self, outcome: Answer | ZmqBrokerError) -> None:
        self._under_way = False
        self._io.progress += 1
        self._failures += 1
        self._not_before = self._io.now() + retry_wait_s(self._io.options, self._failures)
        if not isinstance(outcome, ZmqBrokerError):
            found = [info for info in body_of(outcome, FindCoordinatorReply).coordinators if info.key == self.key]
            if found and not found[0].error_code:
                self._address = node_address(found[0].host, found[0].port)
                self.node_id = found[0].node_id
                self._wanted = False
                self._asked = None
                self._failures = 0
                self.last_error = None
                return
            code, text = (found[0].error_code, found[0].error_message) if found else (15, "no coordinator was named")
            outcome = error_for(code, text)
        self.last_error = outcome
        if not outcome.retriable:
            self.error = outcome
            self._wanted = False
