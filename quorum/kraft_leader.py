"""What the quorum's leader knows of the others: how far each has fetched, who waits, what is committed. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from .kraft_types import NEVER
from .kraft_voters import reached_by_majority

if TYPE_CHECKING:
    from ..transport.quorum_messages import QuorumFetchRequest, Voter
    from .kraft_asking import Asking
    from .kraft_types import Token
    from .kraft_voters import Voters

_MAX_REPLICAS = 1000
"""So many are remembered; those that fetched least recently are forgotten first."""


@dataclass(slots=True)
class Progress:
    """How far a replica has fetched in this epoch."""

    end_offset: int = -1
    """All below is in its log and flushed there."""
    fetched_ms: float = -NEVER
    caught_up_ms: float = -NEVER
    """When it last had all that the log held then."""
    leader_end: int = 0
    """The end of the leader's log when it last fetched."""


class Waiting(NamedTuple):
    """A fetch that there is nothing for yet."""

    token: Token
    request: QuorumFetchRequest
    deadline_ms: float


class VoterChange(NamedTuple):
    """A change of the voters that somebody waits for."""

    token: Token
    offset: int
    """Of its record."""


@dataclass(slots=True)
class Leader:
    """The leader of an epoch."""

    epoch_start: int
    """The offset of its LeaderChange: once that is committed, all before it is."""
    since_ms: float
    asking: Asking
    """BeginQuorumEpoch: at first, and again to voters that do not fetch."""
    replicas: dict[tuple[int, str], Progress] = field(default_factory=dict)
    """By node and directory, the one that fetched last at the end."""
    waiting: dict[tuple[int, str], Waiting] = field(default_factory=dict)
    change: VoterChange | None = None

    def touch(self, replica: Voter, now_ms: float) -> Progress:
        """A replica has asked for something."""
        key = (replica.node_id, replica.directory_id)
        progress = self.replicas.pop(key, None) or Progress()
        self.replicas[key] = progress
        if len(self.replicas) > _MAX_REPLICAS:
            del self.replicas[next(iter(self.replicas))]
        progress.fetched_ms = now_ms
        return progress

    def fetched_to(self, replica: Voter, offset: int, log_end: int, now_ms: float) -> None:
        """A replica fetches from here on: its log is the leader's up to here."""
        assert 0 <= offset <= log_end, (offset, log_end)
        before = self.replicas.get((replica.node_id, replica.directory_id))
        fetched_before_ms = before.fetched_ms if before else -NEVER
        progress = self.touch(replica, now_ms)
        if offset >= log_end:
            progress.caught_up_ms = now_ms
        elif offset >= progress.leader_end > 0:
            progress.caught_up_ms = max(progress.caught_up_ms, fetched_before_ms)
        progress.end_offset = offset
        progress.leader_end = log_end

    def progress(self, node_id: int, directory_id: str) -> Progress:
        """How far a replica is; nothing is known of those that have not fetched in this epoch."""
        return self.replicas.get((node_id, directory_id)) or Progress()

    def majority_offset(self, voters: Voters, me: Voter, flushed_offset: int) -> int:
        """What a majority of the voters has flushed; the leader is one only if it votes."""
        return reached_by_majority(
            flushed_offset
            if (node_id, directory_id) == (me.node_id, me.directory_id)
            else self.progress(node_id, directory_id).end_offset
            for node_id, directory_id in voters.items()
        )

    def majority_heard_ms(self, voters: Voters, me: Voter) -> float:
        """When a majority of the voters was last heard; NEVER (that is, always) if the leader is one by itself."""
        return reached_by_majority(
            NEVER
            if (node_id, directory_id) == (me.node_id, me.directory_id)
            else max(self.since_ms, self.progress(node_id, directory_id).fetched_ms)
            for node_id, directory_id in voters.items()
        )

    def successors(self, voters: Voters, me: Voter) -> list[int]:
        """The other voters, by how much of the log they have."""
        others = [node_id for node_id in voters if node_id != me.node_id]
        return sorted(others, key=lambda node_id: (-self.progress(node_id, voters[node_id]).end_offset, node_id))
