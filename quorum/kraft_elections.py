"""Elections: votes and pre-votes given and counted, leaders that begin and end their epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InconsistentVoterSetError, InvalidRequestError
from ..transport.quorum_messages import (
    BeginQuorumEpochRequest,
    EndQuorumEpochRequest,
    QuorumEpochReply,
    Voter,
    VoteReply,
    VoteRequest,
)
from .kraft_core import KraftCore
from .kraft_leader import Leader
from .kraft_roles import Candidate, Follower, Prospective, Resigned, Unattached
from .kraft_types import NEVER, NOBODY, Send

if TYPE_CHECKING:
    from ..transport.message_base import Request
    from .kraft_types import Token


class Elections(KraftCore):
    """What is said around an election, at both ends."""

    # ---- asked by others

    def _on_vote(self, request: VoteRequest, token: Token, now_ms: float) -> None:
        self._check_epoch(request.epoch)
        self._check_voter(request.voter)
        if request.candidate.node_id == self._me.node_id:
            message = f"node {self._me.node_id} is asked for its vote by a candidate of its own id"
            raise InvalidRequestError(message)
        if request.epoch > self.epoch:
            self._become_unattached(request.epoch, now_ms)
        same_epoch = request.epoch == self.epoch
        granted = same_epoch and self._is_up_to_date(request)
        if request.pre_vote:
            granted = granted and not self._has_leader(now_ms)
        elif granted := granted and self._may_vote_for(request.candidate):
            self._become_unattached(self.epoch, now_ms, vote_for=request.candidate)
        # a leader that this node does not hear itself is no reason for the candidate to give up
        leader_id = NOBODY if same_epoch and not self._has_leader(now_ms) else self.leader_id
        self._reply(token, VoteReply(self.epoch, leader_id, granted))

    def _check_voter(self, voter: Voter) -> None:
        """Raise InconsistentVoterSetError if another node, or this node with another disk, is meant."""
        if voter != self._me:
            message = (
                f"node {voter.node_id} with directory {voter.directory_id} is meant, and this is node"
                f" {self._me.node_id} with directory {self._me.directory_id}"
            )
            raise InconsistentVoterSetError(message)

    def _is_up_to_date(self, request: VoteRequest) -> bool:
        """Whether the candidate's log holds at least what this node's could have committed."""
        return (request.last_epoch, request.end_offset) >= (self._log.last_epoch, self._log.end_offset)

    def _has_leader(self, now_ms: float) -> bool:
        """Whether this node leads, or has heard of its leader within the fetch time-out."""
        if isinstance(self._role, Follower):
            return now_ms - self._role.heard_ms < self._config.fetch_timeout_ms
        return isinstance(self._role, Leader)

    def _may_vote_for(self, candidate: Voter) -> bool:
        """One vote in an epoch, and none where somebody has won."""
        if self._state.leader_id != NOBODY:
            return False
        return self._state.voted_for is None or self._state.voted_for == candidate

    def _on_begin_epoch(self, request: BeginQuorumEpochRequest, token: Token, now_ms: float) -> None:
        self._check_epoch(request.epoch)
        self._check_voter(request.voter)
        known = self._state.leader_id if request.epoch == self.epoch else NOBODY
        if request.leader_id in (NOBODY, self._me.node_id) or known not in (NOBODY, request.leader_id):
            message = f"node {request.leader_id} cannot lead epoch {request.epoch}: node {known} does"
            raise InvalidRequestError(message)
        if request.epoch >= self.epoch:
            self._heard_leader(request.epoch, request.leader_id, now_ms)
        self._reply(token, QuorumEpochReply(self.epoch, self.leader_id))

    def _heard_leader(self, epoch: int, leader_id: int, now_ms: float) -> None:
        """The leader itself has said that it leads. That it is heard does not mean that it can be fetched from."""
        if epoch > self.epoch or not isinstance(self._role, Follower):
            self._become_follower(epoch, leader_id, now_ms, heard=True)

    def _on_end_epoch(self, request: EndQuorumEpochRequest, token: Token, now_ms: float) -> None:
        self._check_epoch(request.epoch)
        if request.epoch >= self.epoch:
            if request.leader_id in (NOBODY, self._me.node_id) or (
                request.epoch == self.epoch and self._state.leader_id not in (NOBODY, request.leader_id)
            ):
                message = f"node {request.leader_id} does not lead epoch {request.epoch}"
                raise InvalidRequestError(message)
            self._leader_resigned(request, now_ms)
        self._reply(token, QuorumEpochReply(self.epoch, self.leader_id))

    def _leader_resigned(self, request: EndQuorumEpochRequest, now_ms: float) -> None:
        """Stand at once if this node is the best successor, else after those that are better."""
        if request.epoch == self.epoch and not isinstance(self._role, Follower | Unattached):
            return  # an election is on already
        self._become_unattached(request.epoch, now_ms)
        assert isinstance(self._role, Unattached)
        if self._me.node_id not in request.preferred or not self._may_stand():
            return
        place = request.preferred.index(self._me.node_id)
        if place == 0:
            self._stand(now_ms)
        else:
            delay_ms = self._config.backoff_ms * place + self._election_backoff(place)
            self._role.deadline_ms = min(self._role.deadline_ms, now_ms + delay_ms)

    # ---- asking others

    def _ask(self, now_ms: float) -> None:
        """Send what the role has to ask the voters."""
        role = self._role
        if isinstance(role, Unattached | Follower):
            return
        for node_id in role.asking.take_due(now_ms):
            request = self._question(role, node_id)
            self._effects.append(Send(node_id, request, self._config.election_timeout_ms))

    def _question(self, role: Prospective | Candidate | Leader | Resigned, node_id: int) -> Request:
        if isinstance(role, Resigned):
            return EndQuorumEpochRequest(self._me.node_id, self.epoch, role.preferred)
        voter = Voter(node_id, self._voters.latest[node_id])
        if isinstance(role, Leader):
            return BeginQuorumEpochRequest(voter, self._me.node_id, self.epoch)
        log = self._log
        pre_vote = isinstance(role, Prospective)
        return VoteRequest(voter, self._me, self.epoch, log.last_epoch, log.end_offset, pre_vote)

    def _on_vote_reply(self, request: VoteRequest, reply: VoteReply, now_ms: float) -> None:
        if self._learn(reply.epoch, reply.leader_id, now_ms):
            return
        role = self._role
        wanted = Prospective if request.pre_vote else Candidate
        voter = request.voter
        if not isinstance(role, wanted) or request.epoch != self.epoch:
            return
        if self._voters.latest.get(voter.node_id) != voter.directory_id:
            return
        assert isinstance(role, Prospective | Candidate)
        role.asking.done(voter.node_id)
        if reply.granted:
            role.granted.add(voter.node_id)
        else:
            role.denied.add(voter.node_id)
        self._count_votes(role, now_ms)

    def _on_epoch_reply(self, node_id: int, request: Request, reply: QuorumEpochReply, now_ms: float) -> None:
        role = self._role
        if self._learn(reply.epoch, reply.leader_id, now_ms):
            return
        if isinstance(role, Leader) and isinstance(request, BeginQuorumEpochRequest) and request.epoch == self.epoch:
            role.asking.ask_at(node_id, now_ms + self._config.fetch_timeout_ms / 2)
        elif isinstance(role, Resigned) and isinstance(request, EndQuorumEpochRequest):
            role.asking.done(node_id)

    def _on_question_failed(self, node_id: int, request: Request, now_ms: float) -> None:
        """Ask again a little later, as long as it is the same question."""
        role = self._role
        same = (
            (isinstance(role, Prospective) and isinstance(request, VoteRequest) and request.pre_vote)
            or (isinstance(role, Candidate) and isinstance(request, VoteRequest) and not request.pre_vote)
            or (isinstance(role, Leader) and isinstance(request, BeginQuorumEpochRequest))
            or (isinstance(role, Resigned) and isinstance(request, EndQuorumEpochRequest))
        )
        if same and not isinstance(role, Unattached | Follower):
            role.asking.retry_at(node_id, now_ms + self._retry_delay(role.asking.fail(node_id)))

    # ---- time

    def _elections_due(self, now_ms: float) -> None:
        """What the role's own deadline brings."""
        role = self._role
        if isinstance(role, Leader):
            if self._quorum_deadline(role) <= now_ms:
                self._resign(role, now_ms)
        elif isinstance(role, Prospective | Candidate):
            if role.deadline_ms <= now_ms and role.retry_at_ms == NEVER:
                self._lost += 1
            if min(role.deadline_ms, role.retry_at_ms) <= now_ms:
                self._stand(now_ms)
        elif role.deadline_ms <= now_ms:
            self._stand(now_ms)

    def _quorum_deadline(self, leader: Leader) -> float:
        """When the leader resigns, unless a majority is heard until then (check-quorum)."""
        return leader.majority_heard_ms(self._voters.latest, self._me) + self._config.fetch_timeout_ms * 1.5
