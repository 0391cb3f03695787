"""The state machine of transactions by itself: no sockets, no sender, time that is told."""

from types import SimpleNamespace

import pytest
from zmqbroker import TopicPartition, errors
from zmqbroker.client.connection import FOREVER, Answer
from zmqbroker.client.options import ProducerOptions
from zmqbroker.client.rebalance_listener import ConsumerGroupMetadata
from zmqbroker.client.transaction_requests import worst
from zmqbroker.client.transaction_states import NEXT, WHY_NOT, State
from zmqbroker.client.transactions import Transactions
from zmqbroker.client.types import OffsetAndMetadata
from zmqbroker.errors import TransactionAbortedError
from zmqbroker.transport import group_messages as g
from zmqbroker.transport import messages as m
from zmqbroker.transport import transaction_messages as t
from zmqbroker.transport.message_base import Body

GROUP = ConsumerGroupMetadata("g", 1, "me", None)
OFFSETS = {TopicPartition("in", 0): OffsetAndMetadata(5)}


class Wire:
    """A connection that keeps what is submitted, and the client that it belongs to."""

    def __init__(self):
        self.time = 100.0
        self.calls = []
        self.progress = 0
        self.options = ProducerOptions(transactional_id="tx", retry_backoff_ms=100, retry_backoff_max_ms=100)
        self.metadata = SimpleNamespace(any_connection=lambda _: self)

    def now(self):
        return self.time

    def connection(self, _):
        return self

    def submit(self, call, now):
        assert now == self.time
        if isinstance(call.request, g.FindCoordinatorRequest):
            call.done(Answer(g.FindCoordinatorReply([g.CoordinatorInfo(call.request.keys[0], 1, "host", 1)]), []))
        else:
            self.calls.append(call)


class Batches:
    """A sender that does as the test says."""

    def __init__(self):
        self.is_idle = True
        self.identity = None
        self.closed = 0
        self.dropped = []
        self.forgotten = 0

    def take_identity(self, identity):
        self.identity = identity

    def close_all(self):
        self.closed += 1

    def drop(self, error):
        self.dropped.append(error)

    def forget_failures(self):
        self.forgotten += 1


class Machine:
    """The state machine, and what drives it."""

    def __init__(self):
        self.wire = Wire()
        self.batches = Batches()
        self.machine = Transactions(self.wire, self.wire.options, self.batches)

    def step(self, later=0.0):
        """Let time pass, then the request that goes out; None: there is none."""
        self.wire.time += later
        for _ in range(3):  # the coordinators are found in between
            self.machine.step(self.wire.time)
        return self.wire.calls[-1].request if self.wire.calls else None

    def answer(self, outcome):
        """Answer the request that is under way."""
        self.wire.calls.pop().done(outcome if isinstance(outcome, errors.ZmqBrokerError) else Answer(outcome, []))

    def initialise(self):
        self.machine.initialise()
        request = self.step()
        assert (request.transactional_id, request.producer_id, request.producer_epoch) == ("tx", -1, -1)
        self.answer(m.InitProducerIdReply(7, 0))
        return self.machine

    def begin(self):
        self.initialise().begin()
        return self.machine

    def add(self, *partitions):
        """Have partitions added."""
        for partition in partitions:
            assert not self.machine.admits("t", partition)
        request = self.step()
        assert [entry.partition for entry in request.partitions] == list(partitions)
        self.answer(t.AddPartitionsToTxnReply([t.PartitionAdded("t", number) for number in partitions]))
        assert all(self.machine.admits("t", partition) for partition in partitions)


@pytest.fixture
def it():
    return Machine()


def test_every_state_has_its_successors_and_its_reason():
    assert NEXT.keys() == set(State)
    assert WHY_NOT.keys() | {State.ABORTABLE_ERROR, State.FATAL_ERROR} == set(State)
    reached = set().union(*NEXT.values())
    assert reached == set(State) - {State.UNINITIALISED}
    assert not NEXT[State.FATAL_ERROR]


def test_a_transaction_is_committed(it):
    machine = it.begin()
    assert it.batches.identity == (7, 0)
    assert it.step() is None, "nobody need hear of an empty transaction"
    it.add(0, 2)
    it.batches.is_idle = False
    machine.commit()
    assert it.batches.closed == 1
    assert it.step() is None, "records are in flight"
    it.batches.is_idle = True
    request = it.step()
    assert (request.producer_id, request.producer_epoch, request.committed) == (7, 0, True)
    assert machine.is_ending
    assert not machine.may_abort
    it.answer(Body())
    assert machine.state is State.READY
    assert machine.ended == machine.number == 1
    machine.begin()
    assert not machine.admits("t", 0), "each transaction has its own partitions"


def test_an_abort_ends_the_transaction_and_the_epoch(it):
    machine = it.begin()
    it.add(0)
    it.batches.is_idle = False
    machine.abort()
    (error,) = it.batches.dropped
    assert isinstance(error, TransactionAbortedError)
    assert it.batches.forgotten == 1
    assert it.step() is None, "records are in flight"
    assert not machine.admits("t", 0)
    it.batches.is_idle = True
    assert it.step().committed is False
    it.answer(Body())
    assert machine.is_settled
    request = it.step()
    assert (request.producer_id, request.producer_epoch) == (7, 0)
    it.answer(m.InitProducerIdReply(7, 1))
    assert machine.state is State.READY
    assert it.batches.identity == (7, 1)


@pytest.mark.parametrize("end", [Transactions.commit, Transactions.abort])
def test_an_empty_transaction_ends_without_a_word(it, end):
    machine = it.begin()
    end(machine)
    assert it.step() is None
    assert machine.state is State.READY
    assert it.batches.identity == (7, 0)


def test_one_request_at_a_time(it):
    machine = it.begin()
    commit = machine.add_offsets(GROUP, OFFSETS)
    assert not machine.admits("t", 0)
    assert isinstance(it.step(), t.AddPartitionsToTxnRequest)
    assert not machine.admits("t", 1)
    machine.commit()
    it.step()
    assert len(it.wire.calls) == 1
    it.answer(t.AddPartitionsToTxnReply([t.PartitionAdded("t", 0)]))
    assert [entry.partition for entry in it.step().partitions] == [1]
    it.answer(t.AddPartitionsToTxnReply([t.PartitionAdded("t", 1)]))
    assert it.step().group_id == "g"
    it.answer(t.AddOffsetsToTxnReply(7))
    request = it.step()
    assert isinstance(request, t.TxnOffsetCommitRequest)
    assert (request.generation_id, request.member_id, request.partitions[0].offset) == (1, "me", 5)
    assert not commit.done
    it.answer(t.TxnOffsetCommitReply([g.PartitionCommitted("in", 0)]))
    assert commit.done
    assert it.step().committed is True


def test_an_abort_waits_for_the_request_under_way(it):
    machine = it.begin()
    machine.admits("t", 0)
    it.step()
    machine.abort()
    it.step()
    assert len(it.wire.calls) == 1
    it.answer(errors.NotCoordinatorError("moved"))
    assert it.step() is None, "it backs off"
    assert it.step(0.11).committed is False, "the coordinator may have heard of it"


def test_who_has_to_wait_asks_again_soon_and_then_less_often(it):
    machine = it.begin()
    machine.admits("t", 0)
    waits = []
    for _ in range(30):
        it.step()
        it.answer(errors.ConcurrentTransactionsError("the last one ends"))
        waits.append(machine.next_deadline() - it.wire.time)
        assert it.step() is None
        it.step(waits[-1] + 0.001)
    assert waits[0] == pytest.approx(0.005)
    assert 0.08 <= max(waits) <= 0.1, "retry_backoff_ms, which is 100"
    it.answer(t.AddPartitionsToTxnReply([t.PartitionAdded("t", 0)]))
    assert machine.admits("t", 0)
    assert machine.next_deadline() == FOREVER


@pytest.mark.parametrize("state", [State.IN_TRANSACTION, State.COMMITTING])
def test_a_failure_makes_it_abortable(it, state):
    machine = it.begin()
    it.add(0)
    commit = machine.add_offsets(GROUP, OFFSETS)
    if state is State.COMMITTING:
        machine.commit()
    machine.fail(errors.StorageError("the disk"))
    machine.fail(errors.CorruptMessageError("a later one is of no interest"))
    assert commit.done
    assert machine.state is State.ABORTABLE_ERROR
    assert it.batches.dropped == [], "not under the sender's hands"
    it.step()
    assert [str(error) for error in it.batches.dropped] == [
        "transaction 1 of transactional_id='tx' failed and has to be aborted: the disk"
    ]
    for call in (machine.begin, machine.commit, lambda: machine.check_open("send")):
        with pytest.raises(errors.StorageError, match="the disk"):
            call()
    machine.abort()
    assert it.step().committed is False


def test_a_commit_can_be_turned_into_an_abort_until_it_is_sent(it):
    machine = it.begin()
    it.add(0)
    it.batches.is_idle = False
    machine.commit()
    it.step()
    assert machine.may_abort
    machine.abort()
    it.batches.is_idle = True
    assert it.step().committed is False


def test_a_commit_whose_fate_nobody_knows_is_fatal(it):
    machine = it.begin()
    it.add(0)
    machine.commit()
    it.step()
    it.answer(errors.InvalidTxnStateError("there is no transaction"))
    assert machine.is_fatal
    with pytest.raises(errors.InvalidTxnStateError):
        machine.abort()


def test_nothing_is_said_once_it_is_fenced(it):
    machine = it.begin()
    machine.admits("t", 0)
    it.step()
    machine.fence(errors.InvalidProducerEpochError("says a leader"))
    it.answer(errors.ConcurrentTransactionsError("for now"))
    it.step(10.0)
    assert it.wire.calls == []
    assert machine.is_settled
    with pytest.raises(errors.ProducerFencedError, match="'tx', producer id 7 and epoch 0 was fenced: says a leader"):
        machine.check_alive()


def test_which_error_of_several_decides():
    def entry(code):
        return t.PartitionAdded("t", 0, code, f"says {code}")

    passing, final, fenced, left_out = entry(3), entry(29), entry(47), entry(55)
    assert worst([entry(0)]) is None
    assert str(worst([entry(0), left_out, passing])) == "says 3"
    assert str(worst([left_out, passing, final])) == "says 29"
    assert str(worst([final, passing, fenced, left_out])) == "says 47"


def test_the_end_names_the_transaction_so_that_a_late_one_does_not_end_the_next(it):
    machine = it.begin()
    assert not machine.admits("t", 0)
    it.step()
    it.answer(t.AddPartitionsToTxnReply([t.PartitionAdded("t", 0)], 12_345))
    machine.commit()
    assert it.step().transaction == 12_345
    it.answer(Body())
    machine.begin()
    assert not machine.admits("t", 0)
    it.step()
    it.answer(t.AddPartitionsToTxnReply([t.PartitionAdded("t", 0)], 12_346))
    machine.commit()
    assert it.step().transaction == 12_346
