"""The state of one node of the quorum, and its changes from role to role."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InvalidRequestError, NotControllerError
from ..transport.quorum_messages import QuorumFetchReply
from .kraft_asking import Asking
from .kraft_leader import Leader
from .kraft_roles import Candidate, Follower, Prospective, Pull, Resigned, Role, Unattached
from .kraft_types import (
    NEVER,
    NOBODY,
    AppendLeaderChange,
    AppendVoters,
    Effect,
    LeaderChanged,
    QuorumState,
    Refuse,
    Reply,
    SaveState,
    StartedLeading,
    StoppedLeading,
)
from .kraft_voters import BOOTSTRAP_OFFSET, VoterHistory, as_list, majority

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..transport.message_base import Body
    from ..transport.quorum_messages import Voter
    from .kraft_types import KraftConfig, LogView, Random, SnapshotId, Token

EPOCHS_AHEAD_MAX = 2**20
"""How far above this node's own the epoch of a request may be. Epochs only grow, by one with each election, so that
one request of an epoch near the wire's end (2**31 - 1) would leave no room for elections for ever. No node misses a
million elections: not even who was away for years does, as only who could win raises the epoch (pre-votes)."""
MAX_EPOCH = 2**30
"""The highest epoch that an answer is believed by a node that is far behind, such as one that joins. This node asked
for it itself, and a first answer has nothing to be measured by."""


class KraftCore:
    """The state, and its changes; what causes them is told by the classes that inherit from this one."""

    def __init__(  # noqa: PLR0917 - each has a type of its own, so that none is taken for another
        self,
        me: Voter,
        state: QuorumState,
        log: LogView,
        voters: Iterable[tuple[int, Sequence[Voter]]],
        config: KraftConfig,
        random: Random,
    ) -> None:
        self._me = me
        self._log = log
        self._voters = VoterHistory(voters)
        self._config = config
        self._random = random
        self._state = state
        self._dirty = False
        if log.last_epoch > state.epoch:  # an old log without this file
            self._state = QuorumState(log.last_epoch)
            self._dirty = True
        self._role: Role = Unattached(NEVER)
        self._high_watermark = max(log.start_offset, log.snapshot.offset if log.snapshot else 0)
        self._effects: list[Effect] = []
        self._pull = Pull()
        self._log_changing = False
        """Whether an effect that changes the log is on its way: until `log_appended`, the log's end means nothing."""
        self._installing: SnapshotId | None = None
        self._peers: list[int] = []
        self._gone: dict[int, None] = {}
        """Nodes whose process is known to be gone."""
        self._lost = 0
        """Elections lost, or leaders given up, since one was last heard."""
        self._asked = 0
        """How many nodes were asked who leads: they are asked in turn."""
        self._stopping = False

    @property
    def epoch(self) -> int:
        """The quorum epoch that this node is in."""
        return self._state.epoch

    @property
    def leader_id(self) -> int:
        """Who leads in this epoch, as far as this node knows; NOBODY if it does not."""
        if isinstance(self._role, Leader):
            return self._me.node_id
        return self._role.leader_id if isinstance(self._role, Follower) else NOBODY

    @property
    def is_voter(self) -> bool:
        """Whether this node is among the latest voters of its log."""
        return self._voters.latest.get(self._me.node_id) == self._me.directory_id

    def _may_stand(self) -> bool:
        """Whether this node may be elected."""
        return not self._stopping and self._voters.may_stand(self._me, self._high_watermark)

    def _others(self) -> list[int]:
        """The other voters."""
        return [node_id for node_id in self._voters.latest if node_id != self._me.node_id]

    # ---- effects

    def _take(self) -> list[Effect]:
        """All effects so far: what has to be durable first."""
        effects, self._effects = self._effects, []
        if self._dirty:
            self._dirty = False
            effects.insert(0, SaveState(self._state))
        return effects

    def _reply(self, token: Token, reply: Body) -> None:
        self._effects.append(Reply(token, reply))

    # ---- delays

    def _election_deadline(self, now_ms: float) -> float:
        return now_ms + self._config.election_timeout_ms * (1 + self._random())

    def _fetch_deadline(self, now_ms: float) -> float:
        """A little apart, lest all followers stand at once."""
        return now_ms + self._config.fetch_timeout_ms * (1 + self._random() / 4)

    def _election_backoff(self, place: int = 0) -> float:
        """How long to wait before standing (again): anything up to a bound that doubles until a leader is heard."""
        bound = self._config.backoff_ms * (1 << min(self._lost + place + 1, 20))
        self._lost += 1
        return min(bound, self._config.backoff_max_ms) * self._random()

    def _retry_delay(self, failures: int) -> float:
        """How long to wait before a request that failed so many times before is sent again."""
        bound = min(self._config.backoff_ms * (1 << min(failures, 20)), self._config.backoff_max_ms)
        return bound * (1 + self._random()) / 2

    # ---- from role to role

    def _enter(self, role: Role, state: QuorumState) -> None:
        """Take on a role, and what is to be remembered with it."""
        old_role, old, old_leader = self._role, self._state, self.leader_id
        assert state.epoch >= old.epoch, "epochs never go back"
        if state.epoch == old.epoch:
            assert old.voted_for is None or state.voted_for == old.voted_for, "one vote in an epoch"
            assert old.leader_id in (NOBODY, state.leader_id), "one leader in an epoch"
        self._role = role
        if state != old:
            self._state = state
            self._dirty = True
        self._pull = Pull()
        if isinstance(old_role, Leader):
            self._stop_leading(old_role, old.epoch)
        if (self.leader_id, state.epoch) != (old_leader, old.epoch):
            self._effects.append(LeaderChanged(self.leader_id, state.epoch))

    def _stop_leading(self, leader: Leader, epoch: int) -> None:
        """Let nobody wait for an end that this node does not decide about any more."""
        self._effects.append(StoppedLeading(epoch))
        for waiting in leader.waiting.values():
            self._reply(waiting.token, QuorumFetchReply(self.epoch, self.leader_id))
        if leader.change is not None:
            message = f"node {self._me.node_id} leads the quorum no more: whether the voters change is open"
            self._effects.append(Refuse(leader.change.token, NotControllerError(message)))

    def _become_unattached(self, epoch: int, now_ms: float, *, vote_for: Voter | None = None) -> None:
        """Enter an epoch, or stay in it, without a leader; perhaps with a vote."""
        state = self._state if epoch == self.epoch else QuorumState(epoch)
        if vote_for is not None:
            state = QuorumState(epoch, vote_for, state.leader_id)
        self._enter(Unattached(self._election_deadline(now_ms)), state)

    def _become_follower(self, epoch: int, leader_id: int, now_ms: float, *, heard: bool) -> None:
        """Follow a leader: heard by itself, or heard of."""
        voted_for = self._state.voted_for if epoch == self.epoch else None
        if leader_id in self._gone:  # news from before: do not wait for it
            follower = Follower(leader_id, -NEVER, now_ms + self._election_backoff())
        else:
            follower = Follower(leader_id, now_ms if heard else -NEVER, self._fetch_deadline(now_ms))
        self._enter(follower, QuorumState(epoch, voted_for, leader_id))

    def _leader_is_gone(self, follower: Follower, now_ms: float) -> None:
        """Follow it no longer than it takes to stand for election, not all at once."""
        if self._may_stand():
            follower.heard_ms = -NEVER
            follower.deadline_ms = min(follower.deadline_ms, now_ms + self._election_backoff())
        else:
            self._become_unattached(self.epoch, now_ms)

    def _stand(self, now_ms: float) -> None:
        """Ask for pre-votes, if this node may stand at all."""
        if self._installing and isinstance(self._role, Follower):  # its log is about to be another
            self._role.deadline_ms = self._fetch_deadline(now_ms)
            return
        if self._installing or not self._may_stand():
            if isinstance(self._role, Unattached):  # go on with the search
                self._role.deadline_ms = self._election_deadline(now_ms)
            else:
                self._become_unattached(self.epoch, now_ms)
            return
        asking = Asking(self._others(), now_ms)
        role = Prospective(asking, self._election_deadline(now_ms), granted=self._own_vote())
        self._enter(role, self._state)
        self._count_votes(role, now_ms)

    def _become_candidate(self, now_ms: float) -> None:
        assert self._may_stand(), "who does not vote is no candidate"
        asking = Asking(self._others(), now_ms)
        role = Candidate(asking, self._election_deadline(now_ms), granted=self._own_vote())
        self._enter(role, QuorumState(self.epoch + 1, self._me))
        self._count_votes(role, now_ms)

    def _own_vote(self) -> set[int]:
        return {self._me.node_id} if self.is_voter else set()

    def _count_votes(self, role: Prospective | Candidate, now_ms: float) -> None:
        """Go on if the round is won, and wait for the next one if it cannot be won any more."""
        voters = self._voters.latest
        needed = majority(len(voters))
        if len(role.granted) >= needed:
            if isinstance(role, Prospective):
                self._become_candidate(now_ms)
            else:
                self._become_leader(now_ms)
            return
        hopeless = [node_id for node_id in voters if node_id in role.denied or node_id in self._gone]
        if len(voters) - len(role.granted.union(hopeless)) + len(role.granted) < needed and role.retry_at_ms == NEVER:
            role.retry_at_ms = now_ms + self._election_backoff()

    def _become_leader(self, now_ms: float) -> None:
        """Lead, beginning with a record of the new epoch, as only that commits what is before it (KIP-595)."""
        assert self._may_stand(), "who does not vote does not lead"
        assert self._installing is None, "a leader loads no snapshot"
        assert self._log.last_epoch < self.epoch, "nobody has written in this epoch"
        leader = Leader(self._log.end_offset, now_ms, Asking(self._others(), now_ms))
        self._enter(leader, QuorumState(self.epoch, self._me, self._me.node_id))
        self._lost = 0
        self._effects.append(AppendLeaderChange(self.epoch, self._me.node_id))
        if self._voters.latest_offset == BOOTSTRAP_OFFSET:
            self._effects.append(AppendVoters(self.epoch, as_list(self._voters.latest)))
        self._effects.append(StartedLeading(self.epoch))
        self._log_changing = True

    def _resign(self, leader: Leader, now_ms: float) -> None:
        """Lead no more, and say so to the voters."""
        preferred = leader.successors(self._voters.latest, self._me)
        role = Resigned(Asking(self._others(), now_ms), preferred, self._election_deadline(now_ms))
        self._enter(role, self._state)

    # ---- news of other epochs

    def _check_epoch(self, epoch: int) -> None:
        """Raise InvalidRequestError for an epoch that no elections can have led to."""
        limit = self.epoch + EPOCHS_AHEAD_MAX
        if not 0 <= epoch <= limit:
            message = (
                f"quorum epoch {epoch} is refused by node {self._me.node_id}, which is in epoch {self.epoch}: a request"
                f" may be of epoch 0 to {limit}, {EPOCHS_AHEAD_MAX} ahead, as each election adds one and none goes back"
            )
            raise InvalidRequestError(message)

    def _learn(self, epoch: int, leader_id: int, now_ms: float) -> bool:
        """What another node's answer says of the quorum; whether that was news."""
        leads = leader_id not in (NOBODY, self._me.node_id)
        if self.epoch < epoch <= max(MAX_EPOCH, self.epoch + EPOCHS_AHEAD_MAX):
            if leads:
                self._become_follower(epoch, leader_id, now_ms, heard=False)
            elif leader_id == NOBODY and not self._may_stand():
                return False  # an election that may have come to nothing: the leader of now may still be one
            else:
                self._become_unattached(epoch, now_ms)
            return True
        searching = isinstance(self._role, Unattached | Prospective | Candidate)
        if epoch == self.epoch and leads and searching and self._state.leader_id in (NOBODY, leader_id):
            self._become_follower(epoch, leader_id, now_ms, heard=False)
            return True
        return False
