"""Who is in sync: single rules by example, and all of them against a recomputation from what has happened."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zmqbroker.quorum.image import PartitionImage
from zmqbroker.quorum.in_sync import RETRY_MS, InSync, Proposal

LAG_MS = 1000.0
NODES = (1, 2, 3)
EPOCHS = {1: 10, 2: 20, 3: 30}


def a_leader(isr=(1, 2, 3), *, min_isr=2, end=0, acked=None, high_watermark=0, now_ms=0.0, led_before=False):
    return InSync(
        1,
        PartitionImage(NODES, tuple(isr), 1, 5),
        min_insync_replicas=min_isr,
        log_end=end,
        acked_offset=end if acked is None else acked,
        high_watermark=high_watermark,
        lag_max_ms=LAG_MS,
        now_ms=now_ms,
        led_before=led_before,
    )


def wanted(view, now_ms, epochs=EPOCHS, eligible=NODES):
    proposal = view.wanted_isr(now_ms, epochs, eligible)
    return None if proposal is None else proposal.members


def changed(view, isr, **more):
    return replace(view.state, isr=tuple(isr), partition_epoch=view.state.partition_epoch + 1, **more)


# ---- the high watermark


def test_a_lone_replica_is_its_own_high_watermark():
    view = a_leader([1], min_isr=1, end=4, acked=2)
    assert view.high_watermark == 2
    view.local(7, 9, 0.0)
    assert view.high_watermark == 7


def test_the_high_watermark_is_the_lowest_position_of_the_isr():
    view = a_leader()
    view.local(10, 12, 0.0)
    assert view.high_watermark == 0
    view.fetched(2, 20, 6, 1.0)
    assert view.high_watermark == 0, "node 3 was not heard of in this epoch"
    view.fetched(3, 30, 11, 1.0)
    assert view.high_watermark == 6
    view.fetched(2, 20, 12, 2.0)
    assert view.high_watermark == 10, "the leader's own position counts too"


def test_who_has_lost_committed_records_is_named():
    view = a_leader()
    view.local(10, 10, 0.0)
    for node_id in (2, 3):
        view.fetched(node_id, 10 * node_id, 10, 1.0)
    assert view.high_watermark == 10
    view.fetched(2, 20, 6, 2.0)
    proposal = view.wanted_isr(2.0, EPOCHS, NODES)
    assert (proposal.members, proposal.lost) == ((1, 3), (2,))
    view.proposed(proposal)
    view.committed(changed(view, [1, 3]), 3.0)
    assert view.wanted_isr(3.0, EPOCHS, NODES) is None, "it cannot be elected any more"


def test_the_high_watermark_stays_while_the_isr_is_too_small():
    view = a_leader([1], min_isr=2)
    view.local(10, 10, 0.0)
    assert view.high_watermark == 0
    view.fetched(2, 20, 10, 0.0)
    proposal = view.wanted_isr(0.0, EPOCHS, NODES)
    view.proposed(proposal)
    view.fetched(2, 20, 10, 0.5)
    assert view.high_watermark == 0, "a member that is only proposed does not count"
    view.committed(changed(view, [1, 2]), 1.0)
    assert view.high_watermark == 10


def test_a_setting_that_asks_for_less_moves_the_high_watermark():
    view = a_leader([1], min_isr=2)
    view.local(10, 10, 0.0)
    view.configured(1)
    assert view.high_watermark == 10


def test_a_proposed_member_holds_the_high_watermark_at_once():
    view = a_leader([1, 2])
    view.local(5, 5, 0.0)
    view.fetched(2, 20, 5, 0.0)
    view.fetched(3, 30, 5, 0.0)
    view.proposed(view.wanted_isr(0.0, EPOCHS, NODES))
    assert view.maximal_isr == {1, 2, 3}
    view.local(9, 9, 1.0)
    view.fetched(2, 20, 9, 1.0)
    assert view.high_watermark == 5
    view.fetched(3, 30, 8, 1.0)
    assert view.high_watermark == 8


def test_a_member_whose_removal_is_proposed_still_counts():
    view = a_leader()
    view.local(5, 5, 0.0)
    view.fetched(2, 20, 5, 1.0)
    assert wanted(view, LAG_MS + 1) == (1, 2)
    view.proposed(view.wanted_isr(LAG_MS + 1, EPOCHS, NODES))
    assert view.high_watermark == 0
    view.committed(changed(view, [1, 2]), LAG_MS + 1)
    assert view.high_watermark == 5


# ---- joining


@pytest.mark.parametrize(
    ("what", "position", "epochs", "eligible"),
    [
        ("below the high watermark", 19, EPOCHS, NODES),
        ("another process of the node", 20, {**EPOCHS, 3: 31}, NODES),
        ("not registered", 20, {1: 10, 2: 20}, NODES),
        ("fenced", 20, EPOCHS, (1, 2)),
    ],
)
def test_a_follower_may_not_join(what, position, epochs, eligible):
    view = a_leader([1, 2], end=10)
    view.local(20, 20, 0.0)
    view.fetched(2, 20, 20, 0.0)
    assert view.high_watermark == 20
    view.fetched(3, 30, position, 0.0)
    assert wanted(view, 0.0, epochs, eligible) is None, what
    view.fetched(3, 30, 20, 0.0)
    assert wanted(view, 0.0) == (1, 2, 3)


def test_a_follower_joins_only_past_the_start_of_the_epoch():
    view = a_leader([1], min_isr=2, end=10, high_watermark=4)
    view.fetched(3, 30, 9, 0.0)
    assert wanted(view, 0.0) is None
    view.fetched(3, 30, 10, 0.0)
    assert wanted(view, 0.0) == (1, 3)


def test_a_follower_that_has_left_must_fetch_again():
    view = a_leader([1, 2])
    view.fetched(3, 30, 0, 0.0)
    view.gone(3, 1.0)
    assert wanted(view, 1.0) is None
    view.fetched(3, 30, 0, 2.0)
    assert wanted(view, 2.0) == (1, 2, 3)


def test_a_replica_that_was_moved_away_and_back_must_fetch_again():
    view = a_leader([1, 2])
    view.local(5, 5, 0.0)
    view.fetched(3, 30, 5, 0.0)
    view.committed(changed(view, [1, 2], replicas=(1, 2)), 0.0)
    view.committed(changed(view, [1, 2], replicas=(1, 2, 3)), 0.0)
    assert wanted(view, 0.0) is None


def test_who_says_nothing_and_is_behind_does_not_join_again_and_again():
    view = a_leader([1, 2, 3], min_isr=3)
    view.fetched(2, 20, 0, 0.0)
    view.fetched(3, 30, 0, 0.0)
    view.local(5, 5, 1.0)
    view.fetched(2, 20, 5, 1.0)
    now_ms = LAG_MS + 2
    assert wanted(view, now_ms) == (1, 2)
    view.proposed(view.wanted_isr(now_ms, EPOCHS, NODES))
    view.committed(changed(view, [1, 2]), now_ms)
    assert view.high_watermark == 0
    assert wanted(view, now_ms) is None


# ---- leaving


def test_a_follower_at_the_end_stays_however_long_it_is_silent():
    view = a_leader(end=5)
    for node_id in (2, 3):
        view.fetched(node_id, EPOCHS[node_id], 5, 0.0)
    assert wanted(view, 100 * LAG_MS) is None
    view.local(6, 6, 100 * LAG_MS)
    assert wanted(view, 101 * LAG_MS) is None, "it was at the end until then"
    assert wanted(view, 101 * LAG_MS + 1) == (1,)


def test_a_follower_that_always_has_the_end_of_its_fetch_before_is_caught_up():
    view = a_leader()
    view.fetched(3, 30, 0, 0.0)
    for step in range(1, 50):
        now_ms = step * LAG_MS / 2
        view.local(10 * step, 10 * step, now_ms)
        view.fetched(2, 20, 10 * step, now_ms)
        view.fetched(3, 30, 10 * (step - 1), now_ms)
        assert wanted(view, now_ms) is None


def test_a_follower_that_falls_ever_further_behind_leaves():
    view = a_leader()
    view.fetched(3, 30, 0, 0.0)
    for step in range(1, 5):
        now_ms = step * LAG_MS / 2
        view.local(10 * step, 10 * step, now_ms)
        view.fetched(2, 20, 10 * step, now_ms)
        view.fetched(3, 30, step, now_ms)
    assert wanted(view, now_ms) == (1, 2)


def test_a_member_that_has_lost_what_it_had_leaves_at_once():
    view = a_leader()
    view.local(5, 5, 0.0)
    view.fetched(2, 20, 5, 0.0)
    view.fetched(3, 30, 5, 0.0)
    view.fetched(3, 30, 2, 1.0)
    assert wanted(view, 1.0) == (1, 2)
    assert view.high_watermark == 5


def test_an_older_process_of_a_node_is_not_heard():
    view = a_leader([1, 2])
    view.local(5, 5, 0.0)
    view.fetched(2, 21, 3, 0.0)
    view.fetched(2, 20, 5, 0.0)
    assert view.high_watermark == 3


# ---- proposals


def joining():
    view = a_leader([1, 2])
    view.local(5, 5, 0.0)
    view.fetched(2, 20, 5, 0.0)
    view.fetched(3, 30, 5, 0.0)
    proposal = view.wanted_isr(0.0, EPOCHS, NODES)
    assert proposal == Proposal(((1, 10), (2, 20), (3, 30)), 5, 0)
    view.proposed(proposal)
    view.local(9, 9, 1.0)
    view.fetched(2, 20, 9, 1.0)
    return view


def test_one_proposal_is_under_way():
    assert wanted(joining(), 1.0) is None


def test_a_proposal_that_failed_holds_until_a_newer_state_is_known():
    view = joining()
    view.proposal_failed(0, 2.0)
    assert wanted(view, 2.0) is None, "not at once again"
    assert view.maximal_isr == {1, 2, 3}
    assert view.high_watermark == 5
    assert not view.committed(replace(view.state, isr=(1, 2)), 3.0), "the state that is known already says nothing"
    assert view.high_watermark == 5
    again = wanted(view, 2.0 + RETRY_MS, EPOCHS, (1, 2))
    assert again == (1, 2), "whom nobody may add any more still holds it: ask what became of the proposal"
    view.proposed(view.wanted_isr(2.0 + RETRY_MS, EPOCHS, (1, 2)))
    view.proposal_failed(0, 300.0)
    assert view.high_watermark == 5, "an earlier attempt may be accepted yet"
    view.committed(changed(view, [1, 2]), 400.0)
    assert view.high_watermark == 9
    assert view.maximal_isr == {1, 2}


def test_a_leader_that_has_forgotten_its_proposals_counts_every_replica():
    view = a_leader([1, 2], led_before=True)
    assert view.maximal_isr == {1, 2, 3}
    view.local(5, 5, 0.0)
    view.fetched(2, 20, 5, 0.0)
    assert view.high_watermark == 0
    assert wanted(view, 0.0, EPOCHS, NODES) == (1, 2)
    view.proposed(view.wanted_isr(0.0, EPOCHS, NODES))
    view.committed(changed(view, [1, 2]), 1.0)
    assert view.high_watermark == 5


def test_a_newer_state_ends_a_proposal_and_its_late_answer_ends_nothing():
    view = joining()
    assert view.committed(changed(view, [1, 2]), 2.0)
    assert view.high_watermark == 9
    view.fetched(3, 30, 9, 2.0)
    view.proposed(view.wanted_isr(2.0, EPOCHS, NODES))
    view.proposal_failed(0, 3.0)
    assert view.maximal_isr == {1, 2, 3}
    assert wanted(view, 1000.0) is None, "the second proposal is still under way"


def test_an_older_state_is_ignored():
    view = joining()
    first = view.state
    view.committed(changed(view, [1, 2, 3]), 2.0)
    assert not view.committed(first, 3.0)
    assert view.state.isr == (1, 2, 3)


# ---- everything together


@dataclass
class Model:
    """What has happened, and the rules in their plainest form."""

    isr: set[int]
    min_isr: int
    start: int
    acked: int
    end: int
    high_watermark: int
    positions: dict[int, int] = field(default_factory=dict)
    epochs: dict[int, int] = field(default_factory=dict)
    maybe: set[int] = field(default_factory=set)

    def advance(self):
        if len(self.isr) >= self.min_isr:
            members = self.isr | self.maybe
            known = [self.acked if node == 1 else self.positions.get(node, -1) for node in members]
            self.high_watermark = max(self.high_watermark, min(known))

    def may_join(self, node, epochs, eligible):
        position = self.positions.get(node, -1)
        enough = position >= self.high_watermark and position >= self.start
        return node not in self.isr and enough and epochs.get(node) == self.epochs[node] and node in eligible


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 3), st.integers(0, 3)),
        st.tuples(st.just("fetch"), st.sampled_from([2, 3]), st.integers(0, 4)),
        st.tuples(st.just("gone"), st.sampled_from([2, 3])),
        st.tuples(st.just("restart"), st.sampled_from([2, 3])),
        st.tuples(st.just("fence"), st.sampled_from([2, 3]), st.booleans()),
        st.tuples(st.just("propose")),
        st.tuples(st.just("accept"), st.booleans()),
        st.tuples(st.just("fail")),
        st.tuples(st.just("shrink"), st.sampled_from([2, 3])),
        st.tuples(st.just("wait"), st.sampled_from([10.0, 300.0, 2 * LAG_MS])),
        st.tuples(st.just("configure"), st.integers(1, 3)),
    ),
    max_size=60,
)


class Run:
    """One history, told to both the view and the model."""

    def __init__(self, isr, min_isr, end, unflushed, unknown):
        self.now_ms = 0.0
        start = end
        self.view = a_leader(isr, min_isr=min_isr, end=end, acked=end - unflushed, high_watermark=end - unknown)
        self.model = Model({*isr}, min_isr, start, end - unflushed, end, end - unknown)
        self.model.advance()
        self.node_epochs = {2: 20, 3: 30}
        self.fenced: set[int] = set()
        self.proposal: Proposal | None = None

    def do(self, step):
        getattr(self, step[0])(*step[1:])
        model, view = self.model, self.view
        before = model.high_watermark
        model.advance()
        assert view.high_watermark == model.high_watermark >= before
        assert view.maximal_isr == model.isr | model.maybe

    def append(self, count, unflushed):
        model = self.model
        model.end += count
        model.acked = max(model.acked, model.end - unflushed)
        self.view.local(model.acked, model.end, self.now_ms)

    def fetch(self, node, behind):
        model = self.model
        position = max(model.positions.get(node, 0), model.end - behind, 0)
        model.positions[node], model.epochs[node] = position, self.node_epochs[node]
        self.view.fetched(node, self.node_epochs[node], position, self.now_ms)

    def gone(self, node):
        self.model.positions.pop(node, None)
        self.view.gone(node, self.now_ms)

    def restart(self, node):
        self.node_epochs[node] += 1

    def fence(self, node, on):
        (self.fenced.add if on else self.fenced.discard)(node)

    def propose(self):
        eligible = set(NODES) - self.fenced
        epochs = {1: 10, **self.node_epochs}
        proposal = self.view.wanted_isr(self.now_ms, epochs, eligible)
        if proposal is None:
            return
        assert self.proposal is None
        assert 1 in proposal.members
        added = set(proposal.members) - self.model.isr
        for node in added:
            assert self.model.may_join(node, epochs, eligible)
        self.view.proposed(proposal)
        self.model.maybe |= added
        self.proposal = proposal

    def accept(self, heard):
        """The controller agrees; the leader may hear of it, or of a time-out."""
        if self.proposal is None:
            return
        members = self.proposal.members
        self.proposal = None
        if heard:
            self._commit(members)
        else:
            self.view.proposal_failed(self.view.state.partition_epoch, self.now_ms)

    def fail(self):
        if self.proposal is None:
            return
        self.proposal = None
        self.view.proposal_failed(self.view.state.partition_epoch, self.now_ms)

    def shrink(self, node):
        if node in self.model.isr:
            self.proposal = None
            self._commit(sorted(self.model.isr - {node}))

    def _commit(self, members):
        self.view.committed(changed(self.view, members), self.now_ms)
        self.model.isr, self.model.maybe = set(members), set()

    def wait(self, ms):
        self.now_ms += ms

    def configure(self, min_isr):
        self.model.min_isr = min_isr
        self.view.configured(min_isr)


beginnings = st.tuples(
    st.sampled_from([(1,), (1, 2), (1, 2, 3)]),
    st.integers(1, 3),
    st.integers(3, 9),
    st.integers(0, 2),
    st.integers(0, 3),
)


@settings(max_examples=300, deadline=None)
@given(beginnings, steps)
def test_it_agrees_with_a_recomputation(beginning, history):
    run = Run(*beginning)
    for step in history:
        run.do(step)
