"""A member of a consumer group: it joins, syncs, fetches and commits offsets, says that it lives, leaves, or dies."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import IllegalGenerationError, MemberIdRequiredError, RebalanceInProgressError, UnknownMemberIdError
from ..transport.group_messages import (
    GROUP_COORDINATOR,
    HeartbeatRequest,
    JoinGroupRequest,
    LeaveGroupRequest,
    LeavingMember,
    OffsetCommitRequest,
    OffsetFetchRequest,
    OffsetToCommit,
    SyncGroupRequest,
    TopicPartitionEntry,
)
from .coordinated import Coordinated
from .history import Fate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..transport.group_messages import JoinGroupReply
    from ..transport.message_base import Request
    from .client import Outcome, SimClient
    from .group_history import Commit, GroupHistory
    from .history import Partition

_BACKOFF_MS = (20.0, 200.0)
_SESSION_MS = (300, 1_000, 3_000)
_REBALANCE_MS = 1_000
_PROTOCOL_TYPE = "simulated"
_PROTOCOL = "round-robin"
_NOT_CURRENT = frozenset((IllegalGenerationError.code, UnknownMemberIdError.code))
"""Answers by which a commit was certainly not taken."""
_REJOIN = _NOT_CURRENT | {RebalanceInProgressError.code}


class GroupMember:
    """One process after the other that is a member of the group."""

    def __init__(self, client: SimClient, group: GroupHistory, partitions: Sequence[Partition]) -> None:
        self.name = client.name
        self._client = client
        self._group = group
        self._random = random = client.world.stream(f"{client.name}/work")
        self._coordinator = Coordinated(client, group.group, GROUP_COORDINATOR, group.is_coordinator)
        self._partitions = list(partitions)
        self._session_ms = random.choice(_SESSION_MS)
        self._think_ms = random.choice((20.0, 60.0, 200.0))
        self._member_id = ""
        self._generation = -1
        self._owned: list[Partition] = []
        self._past: tuple[str, int, list[Partition]] | None = None
        """Who this was once, for commits that come too late."""
        self._quiet = False
        self._doing = ""

    def start(self) -> None:
        """Begin."""
        self._later(self._join)

    def quiesce(self) -> None:
        """Begin nothing new."""
        self._quiet = True

    @property
    def busy(self) -> str:
        """The request that is not answered."""
        return self._doing

    # ---- one thing after the other

    def _later(self, act: Callable[[], object], delay_ms: float | None = None) -> None:
        self._doing = ""
        if delay_ms is None:
            delay_ms = self._random.uniform(*_BACKOFF_MS)
        self._client.world.later(delay_ms, f"{self.name} think", lambda: None if self._quiet else act())

    def _ask(self, request: Request, on_outcome: Callable[[Outcome], object], timeout_ms: float = 2_000.0) -> None:
        self._doing = type(request).__name__
        self._coordinator.ask(request, on_outcome, timeout_ms)

    def _think(self) -> None:
        self._later(self._act, self._random.expovariate(1.0) * self._think_ms)

    def _act(self) -> None:
        what = self._random.random()
        if what < 0.45:  # noqa: PLR2004 - shares of what members do
            self._commit(self._member_id, self._generation, self._owned)
        elif what < 0.85:  # noqa: PLR2004
            self._heartbeat()
        elif what < 0.93 and self._past is not None:  # noqa: PLR2004
            self._commit(*self._past)
        elif what < 0.97:  # noqa: PLR2004
            self._leave()
        else:
            self._crash()

    def _trouble(self, outcome: Outcome) -> None:
        """A request was refused, or not answered: join again where that is called for."""
        code = 0 if outcome.error is None else outcome.error.code
        if code in _REJOIN:
            self._rejoin(code)
        else:
            self._later(self._join if self._generation < 0 else self._act)

    def _rejoin(self, code: int) -> None:
        self._end_generation()
        if code == UnknownMemberIdError.code:
            self._member_id = ""
        self._later(self._join)

    def _end_generation(self) -> None:
        if self._owned:
            self._past = (self._member_id, self._generation, self._owned)
        self._generation, self._owned = -1, []

    def _crash(self) -> None:
        """The process dies, and another takes its place, of which the coordinator knows nothing."""
        self._client.disconnect()
        self._end_generation()
        self._member_id = ""
        self._later(self._join)

    # ---- membership

    def _join(self) -> None:
        request = JoinGroupRequest(
            self._group.group,
            self._session_ms,
            _REBALANCE_MS,
            self._member_id,
            None,
            _PROTOCOL_TYPE,
            [(_PROTOCOL, b"")],
        )
        self._ask(request, self._joined, 3.0 * _REBALANCE_MS)

    def _joined(self, outcome: Outcome) -> None:
        reply: JoinGroupReply | None = outcome.body
        if reply is None:
            self._trouble(outcome)
            return
        self._member_id = reply.member_id
        if reply.error_code == MemberIdRequiredError.code:
            self._later(self._join, 0.0)
            return
        self._generation = reply.generation_id
        assignments = self._assign([member.member_id for member in reply.members])
        request = SyncGroupRequest(
            self._group.group, self._generation, self._member_id, None, _PROTOCOL_TYPE, _PROTOCOL, assignments
        )
        self._ask(request, self._synced, 3.0 * _REBALANCE_MS)

    def _assign(self, members: list[str]) -> list[tuple[str, bytes]]:
        """All partitions, one by one to each member."""
        parts: dict[str, list[str]] = {member: [] for member in members}
        for number, (topic, index) in enumerate(self._partitions if members else []):
            parts[members[number % len(members)]].append(f"{topic}/{index}")
        return [(member, ",".join(part).encode()) for member, part in parts.items()]

    def _synced(self, outcome: Outcome) -> None:
        if outcome.body is None:
            self._end_generation()
            self._trouble(outcome)
            return
        names = [name.split("/") for name in outcome.body.assignment.decode().split(",") if name]
        self._owned = [(topic, int(index)) for topic, index in names]
        self._group.assigned(self._member_id, self._generation, self._owned)
        self.fetch(self._owned, self._think)

    def _heartbeat(self) -> None:
        request = HeartbeatRequest(self._group.group, self._generation, self._member_id, None)
        self._ask(request, lambda outcome: self._trouble(outcome) if outcome.body is None else self._think())

    def _leave(self) -> None:
        member_id = self._member_id

        def left(outcome: Outcome) -> None:
            if outcome.body is not None and not outcome.body.members[0].error_code:
                self._group.left(member_id)
            self._end_generation()
            self._member_id = ""
            self._later(self._join)

        self._ask(LeaveGroupRequest(self._group.group, [LeavingMember(member_id)]), left)

    # ---- offsets

    def fetch(self, partitions: list[Partition], done: Callable[[], object]) -> None:
        """Ask what is committed, until there is an answer."""
        asked_ms = self._client.world.now_ms
        entries = [TopicPartitionEntry(*partition) for partition in partitions]

        def fetched(outcome: Outcome) -> None:
            found: list[Any] = [] if outcome.body is None else outcome.body.partitions
            failed = outcome.body is None or any(each.error_code for each in found)
            if failed or not self._coordinator.is_current:
                self._coordinator.forget()
                again = partial(self.fetch, partitions, done)
                self._client.world.later(self._random.uniform(*_BACKOFF_MS), f"{self.name} again", again)
                return
            for each in found:
                self._group.fetched((each.topic, each.partition), each.offset, asked_ms)
            done()

        self._ask(OffsetFetchRequest(self._group.group, entries), fetched)

    def check_all(self, done: Callable[[], object]) -> None:
        """At the end, what was acked is there."""
        self.fetch(self._partitions, done)

    def _commit(self, member_id: str, generation: int, partitions: list[Partition]) -> None:
        if not partitions:
            self._heartbeat()
            return
        commits = [self._group.commit(partition, generation, member_id) for partition in partitions]
        entries = [OffsetToCommit(*pair, commit.offset) for pair, commit in zip(partitions, commits, strict=True)]
        request = OffsetCommitRequest(self._group.group, generation, member_id, None, entries)
        is_current = (member_id, generation) == (self._member_id, self._generation)
        self._ask(request, partial(self._committed, commits, is_current))

    def _committed(self, commits: list[Commit], is_current: bool, outcome: Outcome) -> None:  # noqa: FBT001 - bound
        if outcome.body is None:
            codes = [-1 if outcome.error is None else outcome.error.code] * len(commits)
        else:
            codes = [each.error_code for each in outcome.body.partitions]
        for commit, code in zip(commits, codes, strict=True):
            unsent = not outcome.sent or code in _NOT_CURRENT
            self._group.settle(commit, Fate.ACKED if not code else Fate.FAILED if unsent else Fate.UNKNOWN)
        refused = [code for code in codes if code in _REJOIN]
        if is_current and refused:
            self._rejoin(refused[0])
        elif any(codes) and is_current:
            self._coordinator.forget()
            self._later(self._act)
        else:
            self._think()
