"""Leading: fetches answered or held back, the high watermark, and changes of the voters (KIP-853)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import (
    DuplicateVoterError,
    InvalidRequestError,
    NotControllerError,
    OffsetOutOfRangeError,
    RequestTimedOutError,
    VoterNotFoundError,
)
from ..transport.message_base import Body
from ..transport.quorum_messages import (
    AddVoterRequest,
    DescribeQuorumReply,
    FetchSnapshotReply,
    FetchSnapshotRequest,
    QuorumFetchReply,
    QuorumFetchRequest,
    QuorumReplica,
    RemoveVoterRequest,
    Voter,
)
from .kraft_core import KraftCore
from .kraft_leader import Leader, Progress, VoterChange, Waiting
from .kraft_types import NOBODY, AppendVoters, HighWatermark, LogRange, ReadSnapshot, Reply
from .kraft_voters import as_list

if TYPE_CHECKING:
    from .kraft_types import Token
    from .kraft_voters import Voters


class Leading(KraftCore):
    """What a leader answers."""

    # ---- fetches

    def _on_fetch(self, request: QuorumFetchRequest, token: Token, now_ms: float) -> None:
        if request.fetch_offset < 0:
            message = f"{request.fetch_offset} is no offset to fetch the metadata log from"
            raise OffsetOutOfRangeError(message)
        role = self._leader_for(request.replica, request.epoch, now_ms)
        if role is None:
            self._reply(token, QuorumFetchReply(self.epoch, self.leader_id))
            return
        self._heard_follower(role, request.replica, now_ms)
        parted = self._parted(request)
        if parted is not None:
            self._reply(token, parted)
            return
        role.fetched_to(request.replica, request.fetch_offset, self._log.end_offset, now_ms)
        key = (request.replica.node_id, request.replica.directory_id)
        superseded = role.waiting.pop(key, None)
        if superseded is not None:
            self._reply(superseded.token, self._nothing_new())
        wait_ms = min(request.max_wait_ms, self._config.fetch_timeout_ms)
        role.waiting[key] = Waiting(token, request, now_ms + wait_ms)

    def _leader_for(self, replica: Voter, epoch: int, now_ms: float) -> Leader | None:
        """The leader's state if this node leads in the epoch that a replica asks in.

        A voter's higher epoch ends the lead. An observer's does not: it has elected nobody, and may be anybody.
        """
        self._check_epoch(epoch)
        if replica.node_id == self._me.node_id:
            message = f"node {self._me.node_id} is asked for the metadata log by a node of its own id"
            raise InvalidRequestError(message)
        if epoch > self.epoch and self._voters.latest.get(replica.node_id) == replica.directory_id:
            self._become_unattached(epoch, now_ms)
        return self._role if isinstance(self._role, Leader) and epoch == self.epoch else None

    def _heard_follower(self, leader: Leader, replica: Voter, now_ms: float) -> None:
        if self._voters.latest.get(replica.node_id) == replica.directory_id:
            leader.asking.ask_at(replica.node_id, now_ms + self._config.fetch_timeout_ms / 2)

    def _nothing_new(self) -> QuorumFetchReply:
        return QuorumFetchReply(self.epoch, self.leader_id, self._high_watermark)

    def _parted(self, request: QuorumFetchRequest) -> QuorumFetchReply | None:
        """Where the replica's log has parted from this one, or the snapshot that it needs; None: it is a part of it."""
        log, offset, epoch = self._log, request.fetch_offset, request.last_fetched_epoch
        if offset == log.start_offset == 0:
            return None
        snapshot = log.snapshot
        if snapshot is not None and snapshot == (offset, epoch):
            return None
        reply = self._nothing_new()
        found, end = log.epoch_end(epoch)
        if snapshot is not None and (offset < log.start_offset or found < 0):
            reply.snapshot_offset, reply.snapshot_epoch = snapshot
        elif found == epoch and end >= offset:
            return None
        else:
            reply.diverging_epoch, reply.diverging_end = (found, end) if found >= 0 else (0, log.start_offset)
        return reply

    def _on_fetch_snapshot(self, request: FetchSnapshotRequest, token: Token, now_ms: float) -> None:
        role = self._leader_for(request.replica, request.epoch, now_ms)
        if role is None:
            self._reply(token, FetchSnapshotReply(self.epoch, self.leader_id, size=-1, position=request.position))
            return
        self._heard_follower(role, request.replica, now_ms)
        role.touch(request.replica, now_ms)
        self._effects.append(ReadSnapshot(token, request))

    def _answer_waiting(self, leader: Leader, now_ms: float) -> None:
        """Answer the fetches that there is something for now, or that have waited long enough."""
        if self._log_changing:
            return
        end = self._log.end_offset
        for key, waiting in list(leader.waiting.items()):
            request = waiting.request
            has_data = request.fetch_offset < end
            if not (has_data or self._high_watermark > request.high_watermark or waiting.deadline_ms <= now_ms):
                continue
            del leader.waiting[key]
            data = LogRange(request.fetch_offset, end, request.max_bytes) if has_data else None
            self._effects.append(Reply(waiting.token, self._nothing_new(), data))

    # ---- what is committed

    def _advance_leader(self, leader: Leader, now_ms: float) -> None:
        """Commit what a majority has flushed; nothing of earlier epochs before a record of this one."""
        if self._log_changing:
            return
        offset = leader.majority_offset(self._voters.latest, self._me, self._log.flushed_offset)
        if leader.epoch_start < offset and self._high_watermark < offset:
            assert offset <= self._log.end_offset, "what is committed is in the log"
            self._high_watermark = offset
            self._effects.append(HighWatermark(offset))
        if self._voters.latest_offset < self._high_watermark:
            self._voters_committed(leader, now_ms)

    def _voters_committed(self, leader: Leader, now_ms: float) -> None:
        change = leader.change
        if change is not None:
            assert change.offset == self._voters.latest_offset, "one change at a time"
            leader.change = None
            self._reply(change.token, Body())
        if not self.is_voter:
            self._resign(leader, now_ms)

    # ---- changes of the voters

    def _on_add_voter(self, request: AddVoterRequest, token: Token, now_ms: float) -> None:
        leader = self._leader_that_may_change(request)
        voters = self._voters.latest
        if request.node_id in voters:
            message = f"node {request.node_id} votes already, with directory {voters[request.node_id]}"
            raise DuplicateVoterError(message)
        progress = leader.progress(request.node_id, request.directory_id)
        if now_ms - progress.caught_up_ms > self._config.fetch_timeout_ms:
            message = (
                f"node {request.node_id} with directory {request.directory_id} does not vote yet: it has fetched to"
                f" {progress.end_offset}, and the metadata log ends at {self._log.end_offset}"
            )
            raise RequestTimedOutError(message)
        self._change_voters(leader, {**voters, request.node_id: request.directory_id}, token)

    def _on_remove_voter(self, request: RemoveVoterRequest, token: Token, _now_ms: float) -> None:
        leader = self._leader_that_may_change(request)
        voters = self._voters.latest
        if voters.get(request.node_id) != request.directory_id:
            message = f"node {request.node_id} with directory {request.directory_id} does not vote"
            raise VoterNotFoundError(message)
        if len(voters) == 1:
            message = f"node {request.node_id} is the only one that votes and cannot be removed"
            raise InvalidRequestError(message)
        rest = {node_id: voters[node_id] for node_id in voters if node_id != request.node_id}
        self._change_voters(leader, rest, token)

    def _leader_that_may_change(self, request: AddVoterRequest | RemoveVoterRequest) -> Leader:
        """One change at a time, and none before a record of this epoch is committed: majorities then overlap."""
        leader = self._leader_or_refuse()
        if self._high_watermark <= leader.epoch_start:
            message = f"node {request.node_id}: the leader of epoch {self.epoch} has yet to commit its first record"
            raise RequestTimedOutError(message)
        if leader.change is not None or self._voters.latest_offset >= self._high_watermark:
            message = f"node {request.node_id}: another change of the voters is yet to be committed"
            raise RequestTimedOutError(message)
        return leader

    def _leader_or_refuse(self) -> Leader:
        if isinstance(self._role, Leader):
            return self._role
        known = "nobody that it knows of" if self.leader_id == NOBODY else f"node {self.leader_id}"
        message = f"node {self._me.node_id} does not lead the metadata quorum; {known} does"
        raise NotControllerError(message)

    def _change_voters(self, leader: Leader, voters: Voters, token: Token) -> None:
        leader.change = VoterChange(token, self._log.end_offset)
        self._effects.append(AppendVoters(self.epoch, as_list(voters)))
        self._log_changing = True

    # ---- description

    def _describe(self, now_ms: float, wall_ms: int) -> DescribeQuorumReply:
        leader = self._leader_or_refuse()
        voters = self._voters.latest

        def replica(node_id: int, directory_id: str, progress: Progress) -> QuorumReplica:
            if (node_id, directory_id) == (self._me.node_id, self._me.directory_id):
                return QuorumReplica(node_id, directory_id, self._log.end_offset, wall_ms, wall_ms)
            fetched, caught_up = (
                -1 if when < leader.since_ms else wall_ms - int(now_ms - when)
                for when in (progress.fetched_ms, progress.caught_up_ms)
            )
            return QuorumReplica(node_id, directory_id, progress.end_offset, fetched, caught_up)

        return DescribeQuorumReply(
            self._me.node_id,
            self.epoch,
            self._high_watermark,
            [
                replica(voter.node_id, voter.directory_id, leader.progress(voter.node_id, voter.directory_id))
                for voter in as_list(voters)
            ],
            [
                replica(*key, progress)
                for key, progress in sorted(leader.replicas.items(), key=lambda item: item[0])
                if voters.get(key[0]) != key[1]
            ],
        )
