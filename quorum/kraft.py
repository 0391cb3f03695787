"""The metadata quorum's protocol as a pure state machine: KRaft, which is Raft by pull (KIP-595, 630, 853, 996).

Every input is a method that takes the time and returns effects, to be carried out in order before the next input::

    for effect in machine.tick(now_ms):
        match effect: ...
    wake me at machine.next_deadline()

What changes the log (AppendLeaderChange, AppendVoters, AppendFetched, TruncateTo) is carried out at once; after
appending, `voters_appended` for each SetVoters and then `log_appended` are called. Flushing takes its time:
whoever appends starts a flush, and calls `log_flushed` when it is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ..errors import BrokerError
from ..transport.quorum_messages import (
    FetchSnapshotReply,
    FetchSnapshotRequest,
    QuorumEpochReply,
    QuorumFetchReply,
    QuorumFetchRequest,
    VoteReply,
    VoteRequest,
)
from .kraft_elections import Elections
from .kraft_following import Following
from .kraft_leader import Leader
from .kraft_leading import Leading
from .kraft_roles import Candidate, Follower, Prospective, Pull, Unattached
from .kraft_types import NOBODY, Refuse
from .kraft_voters import as_list

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..transport.message_base import Body, Request
    from ..transport.quorum_messages import (
        AddVoterRequest,
        BeginQuorumEpochRequest,
        DescribeQuorumReply,
        EndQuorumEpochRequest,
        RemoveVoterRequest,
        Voter,
    )
    from .kraft_types import Effect, QuorumState, SnapshotId, Token

R = TypeVar("R", bound="Request")


class KraftMachine(Elections, Following, Leading):
    """One node's part in the quorum.

    me: this node and its disk. state: as it was last saved (`QuorumState()` for an empty folder). voters: the history
    of voter sets in the log and its snapshot, (offset of the record, voters) in order; the founder of a cluster gives
    (-1, [itself]), and so does an old log without any: the machine then writes them into the log when it leads.
    A node that joins gives none. random: a number in [0, 1), another one each time.
    """

    # ---- what may be read at any time

    @property
    def state(self) -> QuorumState:
        """What the last SaveState said, or the machine was made from."""
        return self._state

    @property
    def is_leader(self) -> bool:
        """Whether this node leads the quorum, or believes so."""
        return isinstance(self._role, Leader)

    @property
    def role(self) -> str:
        """What this node is at the moment, for logs and metrics."""
        name = type(self._role).__name__
        return name if self.is_voter or self.is_leader else f"{name} (observer)"

    @property
    def high_watermark(self) -> int:
        """What is below it is committed."""
        return self._high_watermark

    @property
    def voters(self) -> list[Voter]:
        """The latest voters in the log, committed or not."""
        return as_list(self._voters.latest)

    def next_deadline(self) -> float:
        """When to call `tick` at the latest; NEVER: no need."""
        role = self._role
        deadline = self._next_fetch_ms()
        if isinstance(role, Leader):
            waiting = (each.deadline_ms for each in role.waiting.values())
            return min(deadline, role.asking.next_ms(), self._quorum_deadline(role), *waiting)
        deadline = min(deadline, role.deadline_ms)
        if isinstance(role, Unattached | Follower):
            return deadline
        if isinstance(role, Prospective | Candidate):
            deadline = min(deadline, role.retry_at_ms)
        return min(deadline, role.asking.next_ms())

    def describe(self, now_ms: float, wall_ms: int) -> DescribeQuorumReply:
        """The quorum as its leader sees it; NotControllerError if this node is not the leader."""
        return self._describe(now_ms, wall_ms)

    # ---- time and the node's own life

    def start(self, now_ms: float) -> list[Effect]:
        """Begin; called once, first. A log that was recovered and is not flushed yet has to be flushed."""
        leader_id = self._state.leader_id
        if leader_id not in (NOBODY, self._me.node_id):
            self._become_follower(self.epoch, leader_id, now_ms, heard=False)
        elif self._voters.latest == {self._me.node_id: self._me.directory_id}:
            self._stand(now_ms)
        else:
            self._become_unattached(self.epoch, now_ms)
            if leader_id == self._me.node_id and isinstance(self._role, Unattached):
                # Of a whole cluster that starts anew its last leader may be the only one who can win. Pre-votes keep it
                # from disturbing another that leads by now.
                self._role.deadline_ms = now_ms + self._election_backoff()
        return self._settled(now_ms)

    def tick(self, now_ms: float) -> list[Effect]:
        """Do what is due."""
        self._elections_due(now_ms)
        return self._settled(now_ms)

    def resign(self, now_ms: float) -> list[Effect]:
        """This node is about to stop: if it leads it hands over, and it stands for election no more."""
        self._stopping = True
        if isinstance(self._role, Leader):
            self._resign(self._role, now_ms)
        elif isinstance(self._role, Prospective | Candidate):
            self._become_unattached(self.epoch, now_ms)
        return self._settled(now_ms)

    # ---- requests of others: answered by Reply, Refuse or ReadSnapshot with the token, at once or later

    def handle_vote(self, request: VoteRequest, token: Token, now_ms: float) -> list[Effect]:
        """A (pre-)candidate asks for this node's vote. Refused: INCONSISTENT_VOTER_SET, if another disk is meant."""
        return self._answer(self._on_vote, request, token, now_ms)

    def handle_begin_epoch(self, request: BeginQuorumEpochRequest, token: Token, now_ms: float) -> list[Effect]:
        """A leader announces itself. Refused: INCONSISTENT_VOTER_SET."""
        return self._answer(self._on_begin_epoch, request, token, now_ms)

    def handle_end_epoch(self, request: EndQuorumEpochRequest, token: Token, now_ms: float) -> list[Effect]:
        """A leader resigns."""
        return self._answer(self._on_end_epoch, request, token, now_ms)

    def handle_fetch(self, request: QuorumFetchRequest, token: Token, now_ms: float) -> list[Effect]:
        """A follower or observer asks for the log; held back while there is nothing for it.

        If this node does not lead, or not in the epoch that is asked in, the reply says only what it knows of that.
        """
        return self._answer(self._on_fetch, request, token, now_ms)

    def handle_fetch_snapshot(self, request: FetchSnapshotRequest, token: Token, now_ms: float) -> list[Effect]:
        """A follower asks for a part of a snapshot. A node that does not lead answers with a size of -1."""
        return self._answer(self._on_fetch_snapshot, request, token, now_ms)

    def add_voter(self, request: AddVoterRequest, token: Token, now_ms: float) -> list[Effect]:
        """Let an observer vote; answered when that is committed.

        Refused: NOT_CONTROLLER; DUPLICATE_VOTER; REQUEST_TIMED_OUT while the node has not caught up, another change is
        not committed, or nothing of this epoch is: try again.
        """
        return self._answer(self._on_add_voter, request, token, now_ms)

    def remove_voter(self, request: RemoveVoterRequest, token: Token, now_ms: float) -> list[Effect]:
        """Let a voter vote no more; answered when that is committed. A leader that removes itself then resigns.

        Refused: NOT_CONTROLLER; VOTER_NOT_FOUND; INVALID_REQUEST for the last voter; REQUEST_TIMED_OUT: try again.
        """
        return self._answer(self._on_remove_voter, request, token, now_ms)

    def _answer(
        self, handle: Callable[[R, Token, float], None], request: R, token: Token, now_ms: float
    ) -> list[Effect]:
        """Handle a request; what is wrong changes nothing."""
        try:
            handle(request, token, now_ms)
        except BrokerError as error:
            self._effects.append(Refuse(token, error))
        return self._settled(now_ms)

    # ---- answers to this node's own requests

    def handle_reply(self, node_id: int, request: Request, reply: Body, data_size: int, now_ms: float) -> list[Effect]:
        """A node has answered; data_size: how many bytes the frame after the reply holds.

        AppendFetched and WriteSnapshot, if they are among the effects, mean these bytes.
        """
        if isinstance(request, VoteRequest) and isinstance(reply, VoteReply):
            self._on_vote_reply(request, reply, now_ms)
        elif isinstance(request, QuorumFetchRequest) and isinstance(reply, QuorumFetchReply):
            self._on_fetch_reply(node_id, request, reply, data_size, now_ms)
        elif isinstance(request, FetchSnapshotRequest) and isinstance(reply, FetchSnapshotReply):
            self._on_snapshot_reply(node_id, request, reply, data_size, now_ms)
        else:
            assert isinstance(reply, QuorumEpochReply), reply
            self._on_epoch_reply(node_id, request, reply, now_ms)
        return self._settled(now_ms)

    def request_failed(self, node_id: int, request: Request, now_ms: float) -> list[Effect]:
        """A request was not answered, or with an error, or the answer was unusable."""
        if isinstance(request, QuorumFetchRequest | FetchSnapshotRequest):
            self._on_fetch_failed(node_id, request, now_ms)
        else:
            self._on_question_failed(node_id, request, now_ms)
        return self._settled(now_ms)

    # ---- the links

    def peers_changed(self, node_ids: Iterable[int], now_ms: float) -> list[Effect]:
        """The nodes that can be asked who leads, besides the voters: those of the cluster, or addresses from settings.

        An observer that knows no voters needs one of them to find the quorum.
        """
        self._peers = sorted(node_ids)
        return self._settled(now_ms)

    def peer_gone(self, node_id: int, now_ms: float) -> list[Effect]:
        """The link is REFUSED: no process listens there. If it was the leader, this node stands at once."""
        self._gone[node_id] = None
        role = self._role
        if isinstance(role, Follower) and role.leader_id == node_id:
            self._leader_is_gone(role, now_ms)
        elif isinstance(role, Prospective | Candidate):
            self._count_votes(role, now_ms)
        return self._settled(now_ms)

    def peer_up(self, node_id: int, now_ms: float) -> list[Effect]:
        """The link is UP (again): what waits to be sent there again need not wait longer."""
        self._gone.pop(node_id, None)
        role = self._role
        if isinstance(role, Unattached | Follower):
            self._pull.retry_at_ms = min(self._pull.retry_at_ms, now_ms)
        else:
            role.asking.hurry(node_id, now_ms)
        return self._settled(now_ms)

    # ---- the log

    def voters_appended(self, offset: int, voters: Sequence[Voter]) -> None:
        """A SetVoters record was appended at this offset; call it before `log_appended`."""
        self._voters.append(offset, voters)
        if isinstance(self._role, Leader):
            self._role.asking.keep(self._others(), 0)

    def log_appended(self, now_ms: float) -> list[Effect]:
        """The log's end has moved, by an effect (TruncateTo as well) or by the controller's records."""
        self._log_changing = False
        self._pull.failures = 0
        return self._settled(now_ms)

    def voters_refused(self, error: BrokerError, now_ms: float) -> list[Effect]:
        """AppendVoters could not be carried out, as the disk is full: whoever asked for the change hears why."""
        self._log_changing = False
        if isinstance(self._role, Leader) and self._role.change is not None:
            self._effects.append(Refuse(self._role.change.token, error))
            self._role.change = None
        return self._settled(now_ms)

    def log_flushed(self, now_ms: float) -> list[Effect]:
        """The log's flushed offset has moved."""
        return self._settled(now_ms)

    def snapshot_written(self, snapshot: SnapshotId) -> None:
        """This node has written a snapshot of its own, and may have removed the log below it."""
        assert snapshot.offset <= self._high_watermark, "a snapshot holds what is committed"
        self._voters.forget_before(snapshot.offset)

    def snapshot_installed(
        self, snapshot: SnapshotId, voters: tuple[int, Sequence[Voter]], now_ms: float
    ) -> list[Effect]:
        """The log starts at the snapshot's offset now; voters: (offset of their record, those in the snapshot)."""
        self._on_installed(snapshot, *voters)
        return self._settled(now_ms)

    def snapshot_failed(self, now_ms: float) -> list[Effect]:
        """The snapshot that came is not usable, or could not be written; it is fetched again from its beginning."""
        self._installing = None
        self._pull = Pull(failures=self._pull.failures)
        if isinstance(self._role, Follower):
            self._role.download = None
        self._fetch_failed(now_ms)
        return self._settled(now_ms)

    # ---- after every input

    def _settled(self, now_ms: float) -> list[Effect]:
        """Do what can be done in the state that an input has led to, and give all effects."""
        role = self._role
        if isinstance(role, Leader):
            self._advance_leader(role, now_ms)
            if self._role is role:
                self._answer_waiting(role, now_ms)
        elif isinstance(role, Follower):
            self._advance_follower(role)
        self._ask(now_ms)
        self._fetch(now_ms)
        return self._take()
