"""Safety rules of replication and of the metadata quorum that can be taken away, as those of mutations.py."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..actors.active_controller import ActiveController
from ..actors.following import Following
from ..actors.leading import Leading
from ..actors.metadata_keeper import MetadataKeeper
from ..actors.metadata_log import MetadataLog
from ..actors.quorum_files import QuorumFiles
from ..actors.replica_server import ReplicaServer
from ..quorum import elections, node_decisions, partition_decisions
from ..quorum.elections import NO_LOSSES
from ..quorum.in_sync import InSync
from ..quorum.kraft_core import KraftCore
from ..quorum.kraft_elections import Elections
from ..quorum.kraft_leader import Leader
from ..quorum.kraft_leading import Leading as QuorumLeading
from .mutations import MUTATIONS, mutation, patched, patched_module

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..quorum.kraft_types import QuorumState

__all__ = ["MUTATIONS"]

_CLUSTER = 3


# ---- replicas


@mutation(
    "maximal-isr", "members that were proposed hold the high watermark at once (KIP-497)", _CLUSTER, shows="1 4 7"
)
def _maximal_isr() -> Iterator[None]:
    with patched(InSync, "maximal_isr", property(lambda self: set(self.state.isr))):
        yield


@mutation(
    "fetched-this-epoch",
    "who has not fetched in this epoch holds the high watermark where it is",
    _CLUSTER,
    shows="1 4 7",
)
def _fetched_this_epoch() -> Iterator[None]:
    position = InSync._position  # noqa: SLF001 - a rule is cut out of it

    def supposed(self: Any, node_id: int) -> int | None:
        found = position(self, node_id)
        return self._end if found is None else found

    with patched(InSync, "_position", supposed):
        yield


@mutation(
    "start-of-epoch",
    "a follower joins the ISR only past the start of the leader's epoch (KAFKA-7128)",
    _CLUSTER,
    "kill power",
    shows="1 4 7",
)
def _start_of_epoch() -> Iterator[None]:
    init = InSync.__init__

    def from_anywhere(self: InSync, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options)
        self.epoch_start = 0

    with patched(InSync, "__init__", from_anywhere):
        yield


@mutation("follower-flush", "a follower flushes before the fetch that acknowledges", _CLUSTER, shows="4 7")
def _follower_flush() -> Iterator[None]:
    go_on = Following._go_on  # noqa: SLF001 - a rule is cut out of it

    def at_once(self: Any) -> None:
        with patched(type(self._log), "flushed_offset", property(lambda log: log.log_end_offset)):
            go_on(self)
        self._replica.want_flush()

    with patched(Following, "_go_on", at_once):
        yield


@mutation(
    "truncate-by-epoch",
    "a follower truncates where the logs have parted, not to its high watermark",
    _CLUSTER,
    shows="1 4 5 7",
)
def _truncate_by_epoch() -> Iterator[None]:
    begin = Following.begin

    def truncating(self: Any) -> None:
        self._log.truncate_to(max(self._replica.high_watermark, self._log.log_start_offset))
        begin(self)

    with patched(Following, "begin", truncating):
        yield


@mutation("min-isr", "the high watermark moves only with min.insync.replicas in sync", _CLUSTER, shows="4 7")
def _min_isr() -> Iterator[None]:
    advance = InSync._advance  # noqa: SLF001 - a rule is cut out of it

    def alone(self: Any) -> None:
        self._min_isr = 1
        advance(self)

    with patched(InSync, "_advance", alone):
        yield


@mutation(
    "leader-epoch",
    "a fetch of an earlier leader epoch is refused",
    _CLUSTER,
    "kill-leader pause partition",
    redundant="a position counts only if the leader's log does not part from the follower's by its last epoch, so one"
    " of an earlier leader epoch counts for what both have",
)
def _leader_epoch() -> Iterator[None]:
    from ..actors import partition  # noqa: PLC0415 - only to patch what it has imported

    with patched_module(partition, "check_followed_epoch", lambda *_: None):
        yield


@mutation(
    "later-batches",
    "a follower refuses batches of a later leader epoch than it asked in",
    _CLUSTER,
    "kill-leader pause partition",
    redundant="a leader answers in the epoch that it was asked in, or with an error, and its log has nothing of a later"
    " one",
)
def _later_batches() -> Iterator[None]:
    with patched(Following, "_check_epochs", lambda *_: None):
        yield


@mutation("parted-logs", "the leader tells a follower that its log has parted (KIP-101)", _CLUSTER, shows="1 4 5 7")
def _parted_logs() -> Iterator[None]:
    parted = Leading._parted  # noqa: SLF001 - a rule is cut out of it

    def by_length(self: Any, message: Any) -> tuple[int, int] | None:
        return parted(self, message) if message.fetch_offset > self._log.log_end_offset else None

    with patched(Leading, "_parted", by_length):
        yield


# ---- nodes


@mutation(
    "roles-before-registration",
    "a process leads and follows nothing before it is registered",
    _CLUSTER,
    shows="1 4 6 7",
)
def _roles_before_registration() -> Iterator[None]:
    take = MetadataKeeper._take  # noqa: SLF001 - a rule is cut out of it

    def at_once(self: Any, new: Any) -> None:
        own = new.nodes.get(self.context.config.node_id)
        if not self._registered and own is not None and own.incarnation != self.context.incarnation:
            as_ours = replace(own, incarnation=self.context.incarnation)
            new = replace(new, nodes={**new.nodes, own.node_id: as_ours})
        take(self, new)

    with patched(MetadataKeeper, "_take", at_once):
        yield


@mutation(
    "node-epochs",
    "who fetched as an earlier process of its node does not get into the ISR (KIP-903)",
    _CLUSTER,
    "loss",
    shows="1 4 7",
)
def _node_epochs() -> Iterator[None]:
    change = partition_decisions._check_change  # noqa: SLF001 - a rule is cut out of it

    def unchecked(image: Any, state: Any, node_id: int, wanted: Any) -> None:
        epochs = [(member, image.nodes[member].epoch) for member, _ in wanted.new_isr if member in image.nodes]
        wanted.new_isr = epochs
        change(image, state, node_id, wanted)

    may_join = InSync._may_join  # noqa: SLF001 - see above

    def join(self: Any, node_id: int, now_ms: float, epochs: Any, eligible: Any) -> bool:
        follower = self._followers.get(node_id)
        known = epochs if follower is None else {**epochs, node_id: follower.node_epoch}
        return may_join(self, node_id, now_ms, known, eligible)

    with (
        patched_module(partition_decisions, "_check_change", unchecked),
        patched(InSync, "_may_join", join),
        patched(ReplicaServer, "_check_node", lambda *_: None),
    ):
        yield


@mutation("elect-in-sync", "leaders come from the ISR, or from the ELR", _CLUSTER, "kill power", shows="1 4 8")
def _elect_in_sync() -> Iterator[None]:
    rules_from = elections.rules_from

    def unclean(*arguments: Any) -> Any:
        return rules_from(*arguments)._replace(unclean=True)

    with patched_module(elections, "rules_from", unclean):
        yield


@mutation("fenced-leave", "a fenced node leaves every ISR", _CLUSTER, shows="8")
def _fenced_leave() -> Iterator[None]:
    def found(old: Any, wanted: Any, nodes: Any, losses: Any) -> list[int]:
        del old, nodes, losses
        return [node for node in wanted.replicas if node in wanted.isr]

    with patched_module(elections, "_in_sync", found):
        yield


@mutation(
    "unclean-start",
    "after an unclean start a node is not eligible any more (KIP-966)",
    _CLUSTER,
    "loss pause stop",
    shows="1 4",
)
def _unclean_start() -> Iterator[None]:
    with patched_module(node_decisions, "_losses", lambda *_: NO_LOSSES):
        yield


# ---- the metadata quorum


@mutation(
    "own-epoch",
    "a quorum's leader commits nothing before a record of its own epoch (Raft, 5.4.2)",
    _CLUSTER,
    "kill-leader",
    redundant="a new leader appends that record before anybody fetches, so a reply that brings older records brings it"
    " as well; only more than 1 MB of them, which one reply does not hold, makes a difference",
)
def _own_epoch() -> Iterator[None]:
    advance = QuorumLeading._advance_leader  # noqa: SLF001 - a rule is cut out of it

    def of_any_epoch(self: Any, leader: Leader, now_ms: float) -> None:
        start, leader.epoch_start = leader.epoch_start, -1
        try:
            advance(self, leader, now_ms)
        finally:
            leader.epoch_start = start

    with patched(QuorumLeading, "_advance_leader", of_any_epoch):
        yield


@mutation(
    "durable-vote",
    "a vote is on the medium before it is told",
    _CLUSTER,
    "kill kill-leader power slow-network",
    shows="1",
)
def _durable_vote() -> Iterator[None]:
    """A vote stays in memory until its leader is known: what a crash leaves is whole, and older."""
    save = QuorumFiles.save

    def when_led(self: Any, state: QuorumState) -> None:
        if state.leader_id >= 0 or state.voted_for is None:
            save(self, state)

    with patched(QuorumFiles, "save", when_led):
        yield


@mutation("one-vote", "a voter votes once in an epoch", _CLUSTER, "kill kill-leader slow-network", shows="1")
def _one_vote() -> Iterator[None]:
    enter = KraftCore._enter  # noqa: SLF001 - see above

    def forgetful(self: Any, role: Any, state: QuorumState) -> None:
        if state.epoch == self._state.epoch and state.voted_for != self._state.voted_for:
            self._state = type(self._state)(self._state.epoch, None, self._state.leader_id)
        enter(self, role, state)

    with (
        patched(Elections, "_may_vote_for", lambda self, _: self._state.leader_id == -1),
        patched(KraftCore, "_enter", forgetful),
    ):
        yield


@mutation(
    "up-to-date-vote", "nobody votes for a candidate whose log lacks what this one's has", _CLUSTER, shows="1 5 20"
)
def _up_to_date_vote() -> Iterator[None]:
    with patched(Elections, "_is_up_to_date", lambda *_: True):
        yield


@mutation("quorum-flush", "metadata are flushed before they count", _CLUSTER, shows="20")
def _quorum_flush() -> Iterator[None]:
    with patched(MetadataLog, "flushed_offset", property(lambda log: log.end_offset)):
        yield


@mutation("majority", "metadata are committed by a majority of the voters", _CLUSTER, shows="20")
def _majority() -> Iterator[None]:
    majority = Leader.majority_offset

    def own(self: Leader, voters: Any, me: Any, flushed_offset: int) -> int:
        return max(flushed_offset, majority(self, voters, me, flushed_offset))

    with patched(Leader, "majority_offset", own):
        yield


@mutation(
    "answer-when-committed", "a change of the metadata is answered once it is committed", _CLUSTER, shows="metadata"
)
def _answer_when_committed() -> Iterator[None]:
    def at_once(self: Any) -> None:
        while self._decided:
            _, respond, outcome = self._decided.popleft()
            respond(outcome, -1)

    with patched(ActiveController, "_answer", at_once):
        yield
