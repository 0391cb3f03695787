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
    from ..transport.message_base import Request
    from .kraft_asking import Asking
    from .kraft_leader import Leader
    from .kraft_types import SnapshotId


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
