"""What a node is in the quorum at a time, and what it knows in that role.

::

    Unattached --time-out--> Prospective --majority of pre-votes--> Candidate --majority of votes--> Leader
        ^                        ^    |                                 |                              |
        |                        |    `------- a leader is heard of ----+---> Follower                 |
    higher epoch            time-out, or the leader is gone <-------------------'          resigns --> Resigned

Whatever the role, a higher epoch ends it. Observers are Unattached or Followers only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from .kraft_types import NEVER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..transport.message_base import Request
    from .kraft_leader import Leader
    from .kraft_types import SnapshotId


class Asking:
    """Which nodes are yet to be asked something, and when; NEVER while a request to the node is under way."""

    __slots__ = ("_failures", "_when")

    def __init__(self, node_ids: Iterable[int], now_ms: float) -> None:
        self._when = dict.fromkeys(sorted(node_ids), now_ms)
        self._failures: dict[int, int] = {}

    def take_due(self, now_ms: float) -> list[int]:
        """Those to ask now; they count as asked."""
        due = [node_id for node_id, when in self._when.items() if when <= now_ms]
        self._when.update(dict.fromkeys(due, NEVER))
        return due

    def ask_at(self, node_id: int, when_ms: float) -> None:
        """Ask (again) then: the node has answered, or is heard of."""
        if node_id in self._when:
            self._when[node_id] = when_ms
            self._failures.pop(node_id, None)

    def fail(self, node_id: int) -> int:
        """The node did not answer; how often in a row before."""
        failures = self._failures.get(node_id, 0)
        self._failures[node_id] = failures + 1
        return failures

    def retry_at(self, node_id: int, when_ms: float) -> None:
        """Ask then a node that did not answer."""
        if node_id in self._when:
            self._when[node_id] = when_ms

    def hurry(self, node_id: int, now_ms: float) -> None:
        """The node can be reached again: ask it now if it was to be asked again later."""
        if node_id in self._failures and self._when.get(node_id, NEVER) != NEVER:
            self._when[node_id] = now_ms

    def done(self, node_id: int) -> None:
        """Ask it no more."""
        self._when.pop(node_id, None)

    def keep(self, node_ids: Iterable[int], now_ms: float) -> None:
        """Those to ask are these; the new ones now."""
        self._when = {node_id: self._when.get(node_id, now_ms) for node_id in sorted(node_ids)}

    def next_ms(self) -> float:
        """When somebody is to be asked next."""
        return min(self._when.values(), default=NEVER)


@dataclass(slots=True)
class Unattached:
    """Knows of no leader in its epoch; it may have voted."""

    deadline_ms: float
    """When a voter stands for election."""


@dataclass(slots=True)
class Voting:
    """Collects votes: a round of asking every voter."""

    asking: Asking
    deadline_ms: float
    """When the round ends without a result."""
    granted: set[int]
    denied: set[int] = field(default_factory=set)
    retry_at_ms: float = NEVER
    """When to try again, after the round is lost."""


class Prospective(Voting):
    """Asks whether it would be elected, and has changed nothing yet (KIP-996)."""


class Candidate(Voting):
    """Asks for votes in an epoch of its own, in which it has voted for itself."""


@dataclass(slots=True)
class Download:
    """A snapshot that is being fetched from the leader."""

    snapshot: SnapshotId
    position: int = 0


@dataclass(slots=True)
class Follower:
    """Fetches from the leader."""

    leader_id: int
    heard_ms: float
    """When the leader was last heard; -inf: not yet, or it is known to be gone."""
    deadline_ms: float
    """When this node gives the leader up."""
    high_watermark: int = -1
    """The leader's; what this node has of it may be less."""
    download: Download | None = None


@dataclass(slots=True)
class Resigned:
    """Led this epoch, and will not again; tells the voters so."""

    asking: Asking
    preferred: list[int]
    deadline_ms: float
    """When it may stand for election again."""


Role: TypeAlias = "Unattached | Prospective | Candidate | Follower | Leader | Resigned"


@dataclass(slots=True)
class Pull:
    """The one request for the log that may be under way."""

    node_id: int = -1
    request: Request | None = None
    retry_at_ms: float = -NEVER
    failures: int = 0
    """How many in a row; an answer that could not be stored is one too."""
