"""What must always hold of the metadata quorum."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ZmqBrokerError
from .invariants import Invariant
from .probe import METADATA_KEY

if TYPE_CHECKING:
    from ..quorum.image import MetadataImage
    from ..quorum.kraft_types import QuorumState
    from .cluster import SimNode
    from .probe import QuorumView


class QuorumEpochs(Invariant):
    """1 and 2: one leader in a quorum epoch, which has all that is committed; epochs, votes and leaders stay known."""

    NAME = "1 one quorum leader"

    def _init(self) -> None:
        self._leaders: dict[int, tuple[str, int]] = {}
        self._states: dict[tuple[str, str], QuorumState] = {}

    def quorum_changed(self, node: SimNode, quorum: QuorumView) -> None:
        """Look at its state."""
        self._check_state(node, quorum)
        epoch, me = quorum.state.epoch, (node.name, node.lives)
        if not quorum.leads or self._leaders.get(epoch) == me:
            return
        owner = self._leaders.setdefault(epoch, me)
        if owner != me:
            self.violated(f"epoch {epoch} is led by {me}, and was led by {owner}")
        if epoch == max(self._leaders) and not self.truth.check_whole(node, METADATA_KEY, quorum.log):
            mark = self.truth.high_watermark(METADATA_KEY)
            self.violated(f"{me} leads epoch {epoch}, its log ends at {quorum.end_offset}, and {mark} is committed")

    def _check_state(self, node: SimNode, quorum: QuorumView) -> None:
        key, new = (node.name, quorum.me.directory_id), quorum.state
        old, self._states[key] = self._states.get(key, new), new
        went_back = new.epoch < old.epoch
        if new.epoch == old.epoch:
            went_back = (old.voted_for is not None and new.voted_for != old.voted_for) or (
                old.leader_id not in (-1, new.leader_id)
            )
        if went_back:
            self.violated(f"2: {node.name} knew {old}, and now it says {new}")


class QuorumCommitment(Invariant):
    """20: what the quorum's leader commits is on the disks of a majority; a log that begins late has its snapshot."""

    NAME = "20 quorum"

    def _init(self) -> None:
        self._starts: dict[tuple[str, int], int] = {}
        self._images: dict[int, MetadataImage] = {}

    def quorum_changed(self, node: SimNode, quorum: QuorumView) -> None:
        """Look at what has moved."""
        self._images[quorum.image.end_offset] = quorum.image
        if quorum.leads and METADATA_KEY in self.truth.advanced:
            self._check_majority(node, quorum)
        key = (node.name, node.lives)
        if quorum.start_offset > self._starts.get(key, 0):
            self._starts[key] = quorum.start_offset
            self._check_snapshot(node, quorum)

    def _check_majority(self, node: SimNode, quorum: QuorumView) -> None:
        have = []
        for voter in quorum.voters:
            held = self.truth.held(voter.node_id, METADATA_KEY)
            if held is not None and held.flushed_offset >= quorum.high_watermark:
                have.append(voter.node_id)
        if 2 * len(have) <= len(quorum.voters):
            text = f"{node.name} has committed up to {quorum.high_watermark}; {have} have that, flushed"
            self.violated(f"{text}, of the voters {[voter.node_id for voter in quorum.voters]}")

    def _check_snapshot(self, node: SimNode, quorum: QuorumView) -> None:
        where = f"the log of {node.name} begins at {quorum.start_offset}"
        if quorum.snapshot is None or quorum.snapshot.offset < quorum.start_offset:
            self.violated(f"{where}, and its snapshot is {quorum.snapshot}")
            return
        try:
            image = quorum.load_snapshot()
        except (ZmqBrokerError, OSError) as error:
            self.violated(f"{where}, and its snapshot {quorum.snapshot} is not good: {error}")
            return
        known = self._images.get(quorum.snapshot.offset)
        if known is not None and known != image:
            self.violated(f"the snapshot {quorum.snapshot} of {node.name} holds {image}, and {known} is committed")
