"""What a member of the metadata quorum tells itself, and what comes back to it with answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .commands import Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..transport.message_base import Request
    from .peer_commands import QuorumCall


class Tick(Message):
    """Something of the quorum's may be due."""


class WorkDone(Message):
    """What was given to another thread is done, well or with an error."""

    then: Callable[[Exception | None], None]
    error: Exception | None


class Asked(Message):
    """The question that an answer belongs to."""

    node_id: int
    request: Request


class PassedOn(Message):
    """The answer goes to whoever has asked here."""

    call: QuorumCall
