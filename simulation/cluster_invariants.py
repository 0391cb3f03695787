"""What must always hold of the replicas of a partition, and of what the metadata say about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..quorum.elections import min_insync_replicas
from .invariants import Invariant
from .probe import Key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..quorum.image import MetadataImage, PartitionImage
    from .cluster import SimNode
    from .probe import Replica


class OneLeader(Invariant):
    """1: in a leader epoch of a partition one process at most leads; 3: it has all that is committed as it begins."""

    NAME = "1 one leader"

    def _init(self) -> None:
        self._leaders: dict[tuple[Key, int], tuple[str, int]] = {}

    def after_pass(self, node: SimNode, replicas: Sequence[Replica]) -> None:
        """Look at who leads."""
        for replica in replicas:
            if replica.leads:
                self._leads(node, replica)
            if replica.log.leader_epoch > replica.leader_epoch:
                text = f"{replica.name} on {node.name} is in epoch {replica.leader_epoch} and has a later record"
                self.violated(f"{text}, of epoch {replica.log.leader_epoch}")

    def _leads(self, node: SimNode, replica: Replica) -> None:
        key, me = (replica.key, replica.leader_epoch), (node.name, node.lives)
        owner = self._leaders.get(key)
        if owner == me:
            return
        where = f"{replica.name} in epoch {replica.leader_epoch}"
        if owner is not None:
            self.violated(f"{where} is led by {me}, and was led by {owner}")
        self._leaders[key] = me
        committed = self.truth.state(replica.key)
        is_stale = committed is None or committed.leader_epoch > replica.leader_epoch
        if not is_stale and not self.truth.check_whole(node, replica.key, replica.log):
            mark = self.truth.high_watermark(replica.key)
            self.violated(f"3: {where} is led by {node.name}, whose log ends at {replica.end_offset}, before {mark}")


class InSyncMembers(Invariant):
    """4: whoever may be elected, from the ISR or the ELR, has all that is committed."""

    NAME = "4 in sync"

    def _init(self) -> None:
        self._states: dict[Key, PartitionImage] = {}

    def after_pass(self, node: SimNode, replicas: Sequence[Replica]) -> None:  # noqa: ARG002 - the truth says it
        """Look at the partitions whose state, high watermark or log has changed."""
        truth = self.truth
        keys = dict.fromkeys((*truth.advanced, *(replica.key for replica in replicas), *self._changed()))
        for key in keys:
            state = truth.state(key)
            if state is not None:
                self._check(key, state)

    def _changed(self) -> Iterator[Key]:
        image = self.truth.image
        if image is self.truth.old_image:
            return
        for topic in image.topics.values():
            if self.truth.old_image.topics.get(topic.name) is not topic:
                for index, state in enumerate(topic.partitions):
                    key = Key(topic.name, index, topic.topic_id)
                    if self._states.get(key) != state:
                        self._states[key] = state
                        yield key

    def _check(self, key: Key, state: PartitionImage) -> None:
        mark = self.truth.high_watermark(key)
        for node_id in (*state.isr, *state.elr):
            held = self.truth.held(node_id, key)
            if held is None or not self.truth.runs(node_id, held) or held.end_offset >= mark:
                continue
            text = f"node {node_id} may be elected for {key} ({state}), ends at {held.end_offset}"
            self.violated(f"{text}, and {mark} is committed")


class Commitment(Invariant):
    """7: the high watermark moves only if the ISR is large enough, and all of it has what it moves past, flushed."""

    NAME = "7 commitment"

    def _init(self) -> None:
        self._before: dict[tuple[str, Key], PartitionImage] = {}

    def after_pass(self, node: SimNode, replicas: Sequence[Replica]) -> None:
        """Look at the high watermarks that have moved."""
        for replica in replicas:
            before = self._before.get((node.name, replica.key), replica.state)
            self._before[node.name, replica.key] = replica.state
            if not replica.leads or replica.key not in self.truth.advanced:
                continue
            mark, min_isr = replica.high_watermark, replica.min_isr
            isr = max(len(replica.state.isr), len(before.isr))
            if isr < min_isr and before.leader_epoch == replica.leader_epoch:
                text = f"{replica.name} on {node.name} moved to {mark} with {isr} in sync, fewer than {min_isr}"
                self.violated(text)
            state = self.truth.state(replica.key)
            for node_id in () if state is None else state.isr:
                held = self.truth.held(node_id, replica.key)
                has = -1 if held is None else held.flushed_offset if replica.flush == "ack" else held.end_offset
                if has < mark:
                    text = f"{replica.name} on {node.name} moved to {mark}, and node {node_id}, in sync, has {has}"
                    self.violated(text)


class Memberships(Invariant):
    """8: what the committed metadata say of leaders, ISR and ELR."""

    NAME = "8 ISR and ELR"

    def after_pass(self, node: SimNode, replicas: Sequence[Replica]) -> None:  # noqa: ARG002 - the image says it
        """Look at the image, if it is another than before."""
        image, old = self.truth.image, self.truth.old_image
        if image is old:
            return
        for topic in image.topics.values():
            same = old.topics.get(topic.name) is topic and old.nodes == image.nodes
            for index, state in () if same else enumerate(topic.partitions):
                wrong = self._wrong(image, topic.name, state)
                if wrong:
                    self.violated(f"{topic.name}-{index}: {wrong}: {state}, metadata up to {image.end_offset}")

    def _wrong(self, image: MetadataImage, topic: str, state: PartitionImage) -> str:
        isr, elr = set(state.isr), set(state.elr)
        if isr & elr or not isr | elr <= set(state.replicas):
            return "ISR and ELR are no disjoint subsets of the replicas"
        if not isr or len(isr) != len(state.isr) or len(elr) != len(state.elr):
            return "the ISR is empty, or somebody is in it twice"
        if state.leader != -1 and state.leader not in isr:
            return "the leader is not in the ISR"
        out = {node_id for node_id in isr if node_id not in image.nodes or image.nodes[node_id].fenced}
        if out and (state.leader != -1 or len(isr) > 1):
            return f"{out} are fenced and in the ISR"
        overrides = image.config_of(2, topic)
        min_isr = min_insync_replicas(int(overrides.get("min.insync.replicas", 1)), state)
        if elr and len(isr) >= min_isr:
            return f"the ELR is not empty, and min.insync.replicas is {min_isr}"
        return ""
