"""Following: fetches of the leader's log, the search for a leader, logs that have parted, snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..transport.quorum_messages import FetchSnapshotReply, FetchSnapshotRequest, QuorumFetchReply, QuorumFetchRequest
from .kraft_core import KraftCore
from .kraft_leader import Leader
from .kraft_roles import Download, Follower, Prospective, Pull, Resigned, Unattached
from .kraft_types import (
    NEVER,
    AppendFetched,
    HighWatermark,
    InstallSnapshot,
    Send,
    SnapshotId,
    TruncateTo,
    WriteSnapshot,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..transport.message_base import Request
    from ..transport.quorum_messages import Voter


class Following(KraftCore):
    """One request at a time, of the leader or of anybody who may know it."""

    # ---- asking

    def _fetch(self, now_ms: float) -> None:
        """Send the next request, if it is time: not before all of the log is flushed, as a fetch offset says so."""
        if now_ms < self._next_fetch_ms():
            return
        pull = self._pull
        pull.node_id = self._whom_to_fetch_from()
        pull.request = self._next_request()
        self._effects.append(Send(pull.node_id, pull.request, self._config.fetch_timeout_ms))

    def _next_fetch_ms(self) -> float:
        """When to send the next request; NEVER: something else has to happen first."""
        log = self._log
        if self._log_changing or self._installing or log.flushed_offset < log.end_offset:
            return NEVER
        if self._pull.request is not None or not self._could_be_asked():
            return NEVER
        return self._pull.retry_at_ms

    def _could_be_asked(self) -> list[int]:
        """The leader; without one, anybody, except that who may be elected asks the voters for their votes instead."""
        role = self._role
        if isinstance(role, Follower):
            return [role.leader_id]
        stands = self.is_voter and self._may_stand()
        if not isinstance(role, Unattached | Prospective) and (stands or not isinstance(role, Resigned)):
            return []
        voters = self._voters.latest
        known = dict.fromkeys([*voters, *self._peers])
        known.pop(self._me.node_id, None)
        asked = [node_id for node_id in known if not (stands and node_id in voters)]
        return [node_id for node_id in asked if node_id not in self._gone] or asked

    def _whom_to_fetch_from(self) -> int:
        nodes = self._could_be_asked()
        if not isinstance(self._role, Follower):
            self._asked += 1
        return nodes[self._asked % len(nodes)]

    def _next_request(self) -> Request:
        config, log = self._config, self._log
        download = self._role.download if isinstance(self._role, Follower) else None
        if download is not None:
            snapshot = download.snapshot
            return FetchSnapshotRequest(
                self._me, self.epoch, snapshot.offset, snapshot.epoch, download.position, config.snapshot_bytes
            )
        wait_ms = int(min(config.fetch_wait_ms, config.fetch_timeout_ms / 4))
        return QuorumFetchRequest(
            self._me, self.epoch, log.end_offset, log.last_epoch, self._high_watermark, wait_ms, config.fetch_bytes
        )

    # ---- answers

    def _is_under_way(self, node_id: int, request: Request) -> bool:
        """Whether this is the answer that is waited for; then the next request may be sent.

        An earlier request may be the same, word for word: its answer must not count, or the two would drive each other.
        """
        if self._pull.node_id != node_id or self._pull.request is not request:
            return False
        self._pull.request = None
        return True

    def _fetch_failed(self, now_ms: float) -> None:
        """Go on after a while, with the next node if the leader is not known."""
        pull = self._pull
        pull.retry_at_ms = now_ms + self._retry_delay(pull.failures)
        pull.failures += 1

    def _on_fetch_failed(self, node_id: int, request: Request, now_ms: float) -> None:
        self._log_changing = False  # it may be that what came could not be appended
        if not self._is_under_way(node_id, request) and self._pull.request is not None:
            return
        if isinstance(request, FetchSnapshotRequest) and isinstance(self._role, Follower):
            self._role.download = None  # it may be gone: ask which one there is now
        self._fetch_failed(now_ms)

    def _from_leader(self, node_id: int, request_epoch: int, epoch: int, leader_id: int, now_ms: float) -> bool:
        """Whether a reply comes from the leader that is followed; what else it says is learned."""
        learned = self._learn(epoch, leader_id, now_ms)
        role = self._role
        if isinstance(role, Follower) and role.leader_id == node_id:
            if epoch == request_epoch == self.epoch and leader_id == node_id:
                role.heard_ms = now_ms
                role.deadline_ms = self._fetch_deadline(now_ms)
                self._lost = 0
                return True
            if not learned and epoch == self.epoch:  # it says itself that it leads no more
                self._leader_is_gone(role, now_ms)
        if not learned:
            self._fetch_failed(now_ms)
        return False

    def _answered(
        self,
        node_id: int,
        request: QuorumFetchRequest | FetchSnapshotRequest,
        reply: QuorumFetchReply | FetchSnapshotReply,
        now_ms: float,
    ) -> Follower | None:
        """The follower that waits for this reply, if its leader sent it; None: it is learned from, and all is done."""
        if not self._is_under_way(node_id, request):
            self._learn(reply.epoch, reply.leader_id, now_ms)
            return None
        if not self._from_leader(node_id, request.epoch, reply.epoch, reply.leader_id, now_ms):
            return None
        role = self._role
        assert isinstance(role, Follower), "only a follower has a leader that could answer"
        return role

    def _on_fetch_reply(
        self, node_id: int, request: QuorumFetchRequest, reply: QuorumFetchReply, data_size: int, now_ms: float
    ) -> None:
        role = self._answered(node_id, request, reply, now_ms)
        if role is None:
            return
        if reply.diverging_end >= 0:
            self._cut(reply, now_ms)
        elif reply.snapshot_offset >= 0:
            self._begin_download(role, SnapshotId(reply.snapshot_offset, reply.snapshot_epoch), now_ms)
        else:
            assert request.fetch_offset == self._log.end_offset, "nothing else appends to a follower's log"
            role.high_watermark = max(role.high_watermark, reply.high_watermark)
            self._pull = Pull(failures=self._pull.failures if data_size else 0)
            if data_size:
                self._effects.append(AppendFetched(self.epoch, request.fetch_offset))
                self._log_changing = True

    def _cut(self, reply: QuorumFetchReply, now_ms: float) -> None:
        """Cut the log to the lower of the leader's end of that epoch and this node's (KIP-595)."""
        log = self._log
        epoch, end = log.epoch_end(reply.diverging_epoch)
        offset = min(reply.diverging_end, log.start_offset if epoch < 0 else end)
        if offset >= log.end_offset:  # it makes no sense, and would be said again
            self._fetch_failed(now_ms)
            return
        assert offset >= self._high_watermark, "what is committed is never cut off"
        self._voters.truncate(offset)
        self._pull = Pull()
        self._effects.append(TruncateTo(offset))
        self._log_changing = True

    def _advance_follower(self, follower: Follower) -> None:
        """What the leader says is committed, as far as this node has it."""
        if not self._log_changing:
            self._advance_to(min(follower.high_watermark, self._log.end_offset))

    def _advance_to(self, offset: int) -> None:
        if offset > self._high_watermark:
            assert offset <= self._log.end_offset, "what is committed is in the log"
            self._high_watermark = offset
            self._effects.append(HighWatermark(offset))

    # ---- snapshots

    def _begin_download(self, follower: Follower, snapshot: SnapshotId, now_ms: float) -> None:
        if snapshot.offset < self._high_watermark:  # this node has more than what it would get
            self._fetch_failed(now_ms)
            return
        self._pull = Pull(failures=self._pull.failures)
        follower.download = Download(snapshot)

    def _on_snapshot_reply(
        self, node_id: int, request: FetchSnapshotRequest, reply: FetchSnapshotReply, data_size: int, now_ms: float
    ) -> None:
        role = self._answered(node_id, request, reply, now_ms)
        if role is None:
            return
        download = role.download
        assert download is not None, "a part of a snapshot was asked for"
        end = download.position + data_size
        if reply.position != download.position or end > reply.size or (data_size == 0 and end < reply.size):
            role.download = None
            self._fetch_failed(now_ms)
            return
        self._pull = Pull(failures=self._pull.failures)
        self._effects.append(WriteSnapshot(download.snapshot, download.position))
        download.position = end
        if end == reply.size:
            role.download = None
            self._installing = download.snapshot
            self._effects.append(InstallSnapshot(download.snapshot))

    def _on_installed(self, snapshot: SnapshotId, offset: int, voters: Sequence[Voter]) -> None:
        assert self._installing == snapshot, (self._installing, snapshot)
        assert not isinstance(self._role, Leader), "a leader loads no snapshot"
        assert self._log.start_offset == self._log.end_offset == snapshot.offset, "the log starts after its snapshot"
        assert offset < snapshot.offset, "the voters of a snapshot stand in it"
        self._installing = None
        self._pull.failures = 0
        self._voters.install(offset, voters)
        self._advance_to(snapshot.offset)
