"""Requests that come late, answers that are lost: what transactions and their offsets make of them."""

from __future__ import annotations

import pytest
from zmqbroker import errors
from zmqbroker.groups.effects import Now
from zmqbroker.groups.group_table import GroupTable
from zmqbroker.groups.transaction import EPOCH_MAX
from zmqbroker.groups.transaction_table import TransactionTable
from zmqbroker.settings import BrokerConfig
from zmqbroker.transport import group_messages as g
from zmqbroker.transport import transaction_messages as t
from zmqbroker.transport.messages import InitProducerIdRequest

NOW = Now(0.0, 1_000)
CONFIG = BrokerConfig()


def everything(*_):
    return True


class Coordinator:
    """A table of transactions, and what it has written down."""

    def __init__(self):
        self.table = TransactionTable(CONFIG)
        self.table.loaded(NOW)
        self.log = []

    def written(self):
        records, self.table.records = self.table.records, []
        self.log += records

    def init(self, producer_id=-1, producer_epoch=-1, fresh_id=7):
        request = InitProducerIdRequest(producer_id, producer_epoch, "tx", 60_000)
        self.table.check_init(request)
        reply = self.table.init(request, fresh_id, NOW)
        self.written()
        return reply

    def add(self, producer_id, epoch, last=t.NOT_SAID):
        request = t.AddPartitionsToTxnRequest("tx", producer_id, epoch, [g.TopicPartitionEntry("t", 0)], last)
        reply = self.table.add_partitions(request, lambda *_: None, NOW)
        self.written()
        return reply.transaction

    def end(self, producer_id, epoch, *, committed=True, transaction=-1):
        self.table.end(t.EndTxnRequest("tx", producer_id, epoch, committed, transaction), NOW)
        self.complete()

    def complete(self):
        prepared, self.table.prepared = self.table.prepared, []
        for each in prepared:
            self.table.completed(each, NOW)
        self.written()

    def restarted(self):
        """One that has read what this one has written, compacted: of each key the last, in the order of the log."""
        again = Coordinator()
        last = {key: number for number, (key, _) in enumerate(self.log)}
        again.log = [record for number, record in enumerate(self.log) if last[record[0]] == number]
        for key, value in again.log:
            again.table.replay(key, value)
        again.table.loaded(NOW)
        return again

    @property
    def it(self):
        return self.table.transactions["tx"]


def test_what_adds_partitions_late_begins_no_transaction():
    coordinator = Coordinator()
    known = coordinator.init().transaction
    assert known == -1
    number = coordinator.add(7, 0, known)
    coordinator.end(7, 0, transaction=number)
    with pytest.raises(errors.InvalidTxnStateError, match=f"last transaction was -1; that of 'tx' is {number}"):
        coordinator.add(7, 0, known)
    assert coordinator.it.is_idle
    following = coordinator.add(7, 0, number)
    assert following > number
    assert coordinator.add(7, 0, number) == following, "a repeat"


def test_an_end_that_comes_late_does_not_end_the_next_transaction():
    coordinator = Coordinator()
    coordinator.init()
    first = coordinator.add(7, 0)
    coordinator.end(7, 0, transaction=first)
    coordinator.end(7, 0, transaction=first)
    second = coordinator.add(7, 0)
    with pytest.raises(errors.InvalidTxnStateError, match=f"transaction {first} of 'tx' is over"):
        coordinator.end(7, 0, transaction=first)
    assert coordinator.it.number == second
    assert not coordinator.it.is_idle


@pytest.mark.parametrize("restart", [False, True])
def test_who_asks_for_the_next_epoch_again_gets_the_same_over_a_restart_too(restart):
    coordinator = Coordinator()
    coordinator.init()
    given = coordinator.init(7, 0)
    assert (given.producer_id, given.producer_epoch) == (7, 1)
    if restart:
        coordinator = coordinator.restarted()
    assert coordinator.init(7, 0) == given
    number = coordinator.add(7, 1)
    coordinator.end(7, 1, transaction=number)
    if restart:
        coordinator = coordinator.restarted()
    with pytest.raises(errors.ProducerFencedError):
        coordinator.init(7, 0)


def test_a_producer_that_was_fenced_for_its_time_goes_on_over_a_restart():
    coordinator = Coordinator()
    coordinator.init()
    number = coordinator.add(7, 0)
    assert coordinator.table.tick(Now(60_000.0, 61_000)) == ["tx"]
    coordinator.complete()
    again = coordinator.restarted()
    reply = again.init(7, 0)
    assert (reply.producer_epoch, reply.transaction) == (1, number)


def test_with_no_epoch_left_nobody_goes_on_as_the_producer_that_was_fenced():
    coordinator = Coordinator()
    coordinator.init()
    coordinator.it.producer_epoch = EPOCH_MAX - 1
    coordinator.add(7, EPOCH_MAX - 1)
    coordinator.table.tick(Now(60_000.0, 61_000))
    coordinator.complete()
    with pytest.raises(errors.ProducerFencedError):
        coordinator.init(7, EPOCH_MAX - 1)
    reply = coordinator.init(fresh_id=8)
    assert (reply.producer_id, reply.producer_epoch) == (8, 0)


# ---- offsets


class Groups:
    """A table of groups, and what it has written down."""

    def __init__(self):
        self.table = GroupTable(CONFIG)
        self.log = []

    def send(self, offset, transaction, named=-1):
        request = t.TxnOffsetCommitRequest("tx", 7, 0, "g", [g.OffsetToCommit("t", 0, offset)], transaction=named)
        (result,) = self.table.commit_in_transaction(request, transaction, everything, NOW).partitions
        self.written()
        assert result.error_code == 0

    def end(self, transaction, *, committed=True):
        self.table.end_transaction(7, transaction, NOW, committed=committed)
        return self.written()

    def commit(self, offset):
        request = g.OffsetCommitRequest("g", -1, "", None, [g.OffsetToCommit("t", 0, offset)])
        self.table.commit(request, everything, NOW)
        self.written()

    def written(self):
        records, _ = self.table.effects.take()
        self.log += records
        return records

    def offset(self, *, stable=False):
        (found,) = self.table.fetch_offsets(
            g.OffsetFetchRequest("g", [g.TopicPartitionEntry("t", 0)], stable)
        ).partitions
        return found.offset if not found.error_code else errors.BY_CODE[found.error_code]

    def restarted(self):
        again = Groups()
        for key, value in self.log:
            again.table.replay(key, value)
        again.table.loaded(NOW, everything)
        again.log = list(self.log)
        return again


@pytest.mark.parametrize("restart", [False, True])
def test_offsets_count_with_their_transaction(restart):
    groups = Groups()
    groups.send(5, 100)
    assert groups.offset() == -1
    assert groups.offset(stable=True) is errors.UnstableOffsetCommitError
    if restart:
        groups = groups.restarted()
    groups.end(100)
    assert groups.offset(stable=True) == 5
    groups.send(9, 200)
    groups.end(200, committed=False)
    assert groups.offset(stable=True) == 5
    assert (groups.restarted() if restart else groups).offset() == 5


@pytest.mark.parametrize("restart", [False, True])
def test_offsets_that_come_late_do_not_count_for_the_next_transaction(restart):
    groups = Groups()
    groups.send(5, 100, named=100)
    groups.end(100)
    if restart:
        groups = groups.restarted()
    with pytest.raises(errors.CoordinatorNotAvailableError, match="transaction 100 of 'tx' has ended"):
        groups.send(5, 100)
    groups.send(9, 200, named=200)
    with pytest.raises(errors.InvalidTxnStateError, match="transaction 100 is over"):
        groups.send(5, 200, named=100)
    groups.end(100, committed=False)
    assert groups.offset(stable=True) is errors.UnstableOffsetCommitError, "a marker that comes late ends nothing"
    groups.end(200)
    assert groups.offset() == 9


def test_each_marker_is_written_down():
    """By a coordinator that has a successor without knowing it none is, and so none is answered."""
    groups = Groups()
    assert groups.end(100)
    assert groups.end(100)


def test_an_offset_that_is_committed_beside_a_transaction_and_after_it_counts():
    groups = Groups()
    groups.send(5, 100)
    groups.commit(2)
    groups.end(100)
    assert groups.offset(stable=True) == 2


def test_a_group_whose_offsets_are_pending_does_not_become_a_queue():
    groups = Groups()
    groups.send(5, 100)
    with pytest.raises(errors.InconsistentGroupProtocolError, match="in an open transaction"):
        groups.table.claim("g", NOW)


def test_what_has_ended_long_ago_is_forgotten():
    groups = Groups()
    groups.end(100)
    groups.table.pending.expire(NOW.wall_ms)
    assert groups.table.pending.has_ended(7, 100)
    groups.table.pending.expire(NOW.wall_ms + 1)
    assert not groups.table.pending.has_ended(7, 100)
    groups.written()
    assert not groups.restarted().table.pending.has_ended(7, 100)
