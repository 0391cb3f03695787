"""Asks a group's coordinator, wherever it is: found anew after each answer that another node has it now."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..errors import CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError
from ..transport.group_messages import FindCoordinatorReply, FindCoordinatorRequest
from .client import REQUEST_TIMEOUT_MS, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..transport.message_base import Request
    from .client import SimClient

_ELSEWHERE = (NotCoordinatorError, CoordinatorNotAvailableError, CoordinatorLoadInProgressError)
_UNSENT = Outcome(None, [], None, sent=False)


class Coordinated:
    """One client's way to the coordinator of one group."""

    def __init__(self, client: SimClient, group: str, key_type: int, is_current: Callable[[str], bool]) -> None:
        self.group = group
        self._client = client
        self._key_type = key_type
        self._is_current = is_current
        self._address = ""

    @property
    def is_current(self) -> bool:
        """Whether the coordinator that has answered is the group's: one before it may not know what was done since."""
        return self._is_current(self._address)

    def ask(
        self, request: Request, on_outcome: Callable[[Outcome], object], timeout_ms: float = REQUEST_TIMEOUT_MS
    ) -> None:
        """Ask once; a coordinator that cannot be found counts as one that does not answer."""
        if self._address:
            self._client.ask(self._address, request, partial(self._answered, on_outcome), (), timeout_ms)
        else:
            find = FindCoordinatorRequest([self.group], self._key_type)
            self._client.ask(self._client.any_address(), find, partial(self._found, request, on_outcome, timeout_ms))

    def _found(
        self, request: Request, on_outcome: Callable[[Outcome], object], timeout_ms: float, outcome: Outcome
    ) -> None:
        if isinstance(outcome.body, FindCoordinatorReply):
            (found,) = outcome.body.coordinators
            if not found.error_code:
                self._address = f"tcp://{found.host}:{found.port}"
                self.ask(request, on_outcome, timeout_ms)
                return
        on_outcome(_UNSENT)

    def _answered(self, on_outcome: Callable[[Outcome], object], outcome: Outcome) -> None:
        if not outcome.answered or isinstance(outcome.error, _ELSEWHERE):
            self._address = ""
        on_outcome(outcome)

    def forget(self) -> None:
        """Look for the coordinator anew, as after an error within an answer."""
        self._address = ""
