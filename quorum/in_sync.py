"""Who is in sync: a leader's view of its followers in one leader epoch, and the high watermark that follows. Pure.

The rules are Kafka's, with KIP-966 and the maximal ISR of KIP-497:

- The high watermark is the lowest position of the *maximal ISR*: the members of the committed ISR, and those that were
  proposed to the controller, at once, as the controller may have agreed before this leader hears of it. A position
  counts once it was fetched in this leader epoch; members not heard of yet hold the high watermark where it is.
- It moves only up, and only while the committed ISR has at least min.insync.replicas members. Nothing that is proposed
  counts here: the ISR may be smaller than that proposal.
- A follower may join when it has reached the high watermark and the start of this leader epoch, in this epoch and as
  the process that the metadata knows (by its node epoch); it leaves when it was not caught up for replica.lag.time.max.

Times are of a monotonic clock. Whoever uses this checks each fetch first: its leader epoch is this one, and its log has
not parted from the leader's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from .image import PartitionImage

RETRY_MS: Final = 200.0
"""How long a leader waits with the next proposal after one that failed."""


class Proposal(NamedTuple):
    """A change of the ISR, for the controller."""

    isr: tuple[tuple[int, int], ...]
    """(node id, node epoch) of each member, in the order of the replicas."""
    leader_epoch: int
    partition_epoch: int
    """Of the state that it is based on; also tells it from other proposals when its outcome is known."""
    lost: tuple[int, ...] = ()
    """Replicas that have lost committed records: nobody may elect them."""

    @property
    def members(self) -> tuple[int, ...]:
        """The node ids."""
        return tuple(node_id for node_id, _ in self.isr)


class _Follower:
    """What the leader knows of one follower."""

    __slots__ = ("caught_up_ms", "fetched_ms", "leader_end", "node_epoch", "position")

    def __init__(self, caught_up_ms: float) -> None:
        self.node_epoch = -1
        self.position: int | None = None
        """Where it has fetched from last; None: it was not heard of in this leader epoch."""
        self.fetched_ms = caught_up_ms
        self.leader_end = -1
        """The leader's log end when it fetched last; -1: it has not."""
        self.caught_up_ms = caught_up_ms
        """When it had all that the leader had, for the last time."""


class InSync:
    """The followers of one partition, its ISR and its high watermark, as its leader sees them in one leader epoch.

    log_end is where the leader's log ends as the epoch begins; acked_offset how much of it counts as the leader's own
    position (what is flushed, with flush=ack); high_watermark what the leader knew as a follower. led_before: it has
    led in this epoch already and has forgotten whom it proposed, so any replica may be in the ISR by now.
    """

    def __init__(
        self,
        node_id: int,
        state: PartitionImage,
        *,
        min_insync_replicas: int,
        log_end: int,
        acked_offset: int,
        high_watermark: int,
        lag_max_ms: float,
        now_ms: float,
        led_before: bool = False,
    ) -> None:
        assert node_id in state.isr, f"node {node_id} leads and is not in the ISR of {state}"
        assert 0 <= high_watermark <= log_end, f"high watermark {high_watermark} past the log's end {log_end}"
        assert acked_offset <= log_end, f"acknowledged up to {acked_offset}, past the log's end {log_end}"
        self.node_id = node_id
        self.state = state
        """The newest state of the partition that is known to be committed."""
        self.high_watermark = high_watermark
        self.epoch_start = log_end
        self._min_isr = min_insync_replicas
        self._acked = acked_offset
        self._end = log_end
        self._lag_max_ms = lag_max_ms
        self._followers = {member: _Follower(now_ms) for member in state.isr if member != node_id}
        self._proposal: Proposal | None = None
        self._maybe: set[int] = set(state.replicas) - {node_id, *state.isr} if led_before else set()
        """Members whose addition was proposed since the committed state was; whether they are in is not known."""
        self.known_lost: set[int] = set()
        """Followers that have said that they lack records which they had."""
        self._quiet_until_ms = now_ms
        self._advance()

    # ---- what happens

    def local(self, acked_offset: int, end_offset: int, now_ms: float) -> None:
        """The leader's own log has grown, or more of it is flushed."""
        assert self._acked <= acked_offset <= end_offset, (
            f"acknowledged {self._acked} to {acked_offset} of {end_offset}"
        )
        assert end_offset >= self._end, f"the leader's log shrinks from {self._end} to {end_offset}"
        if end_offset > self._end:
            # Who sits at the end is not asked for anything, so it says nothing: it was caught up until this moment.
            for follower in self._followers.values():
                if follower.position == self._end:
                    follower.caught_up_ms = now_ms
        self._acked, self._end = acked_offset, end_offset
        self._advance()

    def fetched(self, node_id: int, node_epoch: int, offset: int, now_ms: float) -> None:
        """A follower has fetched from an offset in this leader epoch, so it has all before it.

        An older incarnation of its node is not heard any more.
        """
        assert node_id != self.node_id, f"node {node_id} fetches from itself"
        assert 0 <= offset <= self._end, f"node {node_id} fetches at {offset}, past the leader's end {self._end}"
        follower = self._followers.get(node_id)
        if follower is not None and node_epoch < follower.node_epoch:
            return
        if follower is None or node_epoch > follower.node_epoch >= 0:
            # A new process: nothing that was known of the old one holds.
            follower = self._followers[node_id] = _Follower(now_ms - self._lag_max_ms)
        if offset >= self._end:
            follower.caught_up_ms = max(follower.caught_up_ms, now_ms)
        elif 0 <= follower.leader_end <= offset:
            follower.caught_up_ms = max(follower.caught_up_ms, follower.fetched_ms)
        self.known_lost.discard(node_id)
        follower.node_epoch = node_epoch
        follower.position = offset
        follower.fetched_ms = now_ms
        follower.leader_end = max(follower.leader_end, self._end)
        self._advance()

    def lost(self, node_id: int) -> None:
        """A follower has lost records that it had, whatever it has fetched: it has to go, until it fetches again."""
        self.known_lost.add(node_id)
        follower = self._followers.get(node_id)
        if follower is not None:
            follower.position, follower.leader_end = None, -1

    def gone(self, node_id: int, now_ms: float) -> None:
        """A follower does not fetch this partition any more; what it has is unknown until it does again."""
        follower = self._followers.get(node_id)
        if follower is not None:
            if follower.position == self._end:
                follower.caught_up_ms = now_ms
            follower.position, follower.leader_end = None, -1

    def configured(self, min_insync_replicas: int) -> None:
        """The topic's min.insync.replicas may have changed."""
        self._min_isr = min_insync_replicas
        self._advance()

    # ---- the ISR

    @property
    def maximal_isr(self) -> set[int]:
        """Nodes that are in the ISR, or may be by now."""
        return {*self.state.isr, *self._maybe}

    def wanted_isr(self, now_ms: float, epochs: Mapping[int, int], eligible: Container[int]) -> Proposal | None:
        """The change of the ISR to propose now, if any; say ``proposed`` when it is sent.

        epochs has the node epochs of the metadata; eligible are the nodes that may be in an ISR (not fenced, not
        stopping). To be asked when followers fetch, after a failure, and now and then for those that do not fetch.
        After a proposal that has failed there is always another one, be it for the ISR as it is: the partition epoch
        that it leads to refuses all that were sent before.
        """
        if self._proposal is not None or now_ms < self._quiet_until_ms:
            return None
        isr = set(self.state.isr)
        wanted = tuple(
            node_id
            for node_id in self.state.replicas
            if node_id == self.node_id
            or (
                self._may_stay(node_id, now_ms) if node_id in isr else self._may_join(node_id, now_ms, epochs, eligible)
            )
        )
        lost = tuple(node_id for node_id in self.state.replicas if self._has_lost(node_id))
        if set(wanted) == isr and not self._maybe and not lost:
            return None
        return Proposal(
            tuple((node_id, self._node_epoch(node_id, epochs)) for node_id in wanted),
            self.state.leader_epoch,
            self.state.partition_epoch,
            lost,
        )

    def proposed(self, proposal: Proposal) -> None:
        """A proposal is on its way to the controller: those whom it adds hold the high watermark from now on."""
        assert self._proposal is None, f"{proposal} while {self._proposal} is under way"
        assert proposal.partition_epoch == self.state.partition_epoch, f"{proposal} is not based on {self.state}"
        assert self.node_id in proposal.members, f"the leader {self.node_id} is not in {proposal}"
        for node_id in set(proposal.members) - set(self.state.isr):
            position = self._followers[node_id].position
            assert position is not None, f"{proposal} adds {node_id}, which has not fetched in this epoch"
            assert position >= max(self.high_watermark, self.epoch_start), f"{proposal} adds {node_id}, at {position}"
            self._maybe.add(node_id)
        self._proposal = proposal

    def committed(self, state: PartitionImage, now_ms: float) -> bool:
        """A state of the partition is committed, by the metadata or as the answer to a proposal; True if it is newer.

        A newer state ends the proposal under way: it is what came of it, or what the controller refuses it for.
        """
        if state.partition_epoch <= self.state.partition_epoch:
            return False
        assert state.leader_epoch == self.state.leader_epoch, f"{state} is of another leader epoch than {self.state}"
        assert self.node_id in state.isr, f"node {self.node_id} leads and is not in the ISR of {state}"
        for node_id in set(self.state.replicas) - set(state.replicas):
            self._followers.pop(node_id, None)  # its log goes, so what it had means nothing if it ever comes back
        for node_id in state.isr:
            if node_id not in self._followers and node_id != self.node_id:
                self._followers[node_id] = _Follower(now_ms)
            elif node_id not in self.state.isr:
                follower = self._followers[node_id]
                follower.caught_up_ms = max(follower.caught_up_ms, now_ms)  # or it may have to go as soon as it is in
        self.state = state
        self._proposal = None
        self._maybe.clear()
        self._advance()
        return True

    def proposal_failed(self, partition_epoch: int, now_ms: float) -> None:
        """The proposal that was based on this partition epoch has failed, or what became of it is not known.

        Whom it adds goes on to hold the high watermark until a newer state is known. Not even a refusal ends that: an
        earlier attempt with the same epochs may still be on its way to the controller, and be accepted.
        """
        if self._proposal is None or partition_epoch != self._proposal.partition_epoch:
            return  # a newer state was known first
        self._proposal = None
        self._quiet_until_ms = now_ms + RETRY_MS

    # ---- inside

    def _may_stay(self, node_id: int, now_ms: float) -> bool:
        follower = self._followers[node_id]
        if self._has_lost(node_id):
            return False
        return follower.position == self._end or now_ms - follower.caught_up_ms <= self._lag_max_ms

    def _has_lost(self, node_id: int) -> bool:
        """Whether a replica that could be elected has lost committed records, all of which it has had."""
        follower = self._followers.get(node_id)
        position = None if follower is None else follower.position
        is_short = position is not None and position < self.high_watermark
        return (node_id in self.state.isr or node_id in self.state.elr) and (is_short or node_id in self.known_lost)

    def _may_join(self, node_id: int, now_ms: float, epochs: Mapping[int, int], eligible: Container[int]) -> bool:
        follower = self._followers.get(node_id)
        return (
            follower is not None
            and follower.position is not None
            and follower.position >= max(self.high_watermark, self.epoch_start)
            and (follower.position == self._end or now_ms - follower.fetched_ms <= self._lag_max_ms)
            and epochs.get(node_id) == follower.node_epoch
            and node_id in eligible
        )

    def _node_epoch(self, node_id: int, epochs: Mapping[int, int]) -> int:
        follower = self._followers.get(node_id)
        return epochs.get(node_id, -1) if follower is None or follower.node_epoch < 0 else follower.node_epoch

    def _position(self, node_id: int) -> int | None:
        if node_id == self.node_id:
            return self._acked
        follower = self._followers.get(node_id)
        return None if follower is None else follower.position

    def _advance(self) -> None:
        """Move the high watermark to where all members of the maximal ISR are."""
        if len(self.state.isr) < self._min_isr:
            return
        lowest = self._end
        for node_id in self.maximal_isr:
            position = self._position(node_id)
            if position is None or position <= self.high_watermark:
                return
            lowest = min(lowest, position)
        assert lowest > self.high_watermark, f"the high watermark goes back from {self.high_watermark} to {lowest}"
        self.high_watermark = lowest
