"""Transactions against a scripted coordinator: what is asked, in which order, and whatever may be refused or lost."""

import sys
import threading
from pathlib import Path

import pytest
from zmqbroker import Producer, TopicPartition, errors
from zmqbroker.client.rebalance_listener import ConsumerGroupMetadata
from zmqbroker.errors import TransactionAbortedError

sys.path.insert(0, str(Path(__file__).parent))
try:
    from transaction_script import ADD, ADD_GROUP, COMMIT_OFFSETS, END, FIND, INIT, PRODUCE, TransactionScript
finally:
    sys.path.pop(0)

FAST = {"retry_backoff_ms": 5, "retry_backoff_max_ms": 20, "reconnect_backoff_ms": 5, "reconnect_backoff_max_ms": 20}
FENCING = [errors.ProducerFencedError, errors.InvalidProducerEpochError, errors.InvalidProducerIdMappingError]
PASSING = [errors.NotCoordinatorError, errors.CoordinatorNotAvailableError, errors.ConcurrentTransactionsError]
OFFSETS = {TopicPartition("in", 0): 5}


@pytest.fixture
def script(server):
    server.default_partitions = 4
    return TransactionScript(server)


@pytest.fixture
def make(script):
    """Make producers that are closed, in whatever state they are."""
    made = []

    def one(**settings):
        options = {"transactional_id": "tx", "max_block_ms": 5_000, **FAST, **settings}
        producer = Producer(bootstrap_servers=script.server.servers, **options)
        made.append(producer)
        return producer

    yield one
    for producer in made:
        producer.shut()


@pytest.fixture
def producer(make):
    made = make()
    made.init_transactions()
    return made


def transform(producer, group="g"):
    """A transaction with a record and offsets."""
    with producer.transaction():
        producer.send("t", b"x", partition=0)
        producer.send_offsets_to_transaction(OFFSETS, group)


def fail_in_a_block(producer):
    with producer.transaction():
        producer.send("t", b"x", partition=0).get(5)
        raise ZeroDivisionError


def test_what_is_asked_in_a_transaction(script, producer):
    with producer.transaction():
        producer.send("t", b"a", partition=0)
        producer.send("t", b"b", partition=0)
        producer.send_offsets_to_transaction(OFFSETS, "g")
    with producer.transaction():
        producer.send("t", b"c", partition=0)
    asked = script.asked()
    others = [told for told in asked if told != "produce"]
    assert others == ["init", "add 0", "add group", "offsets", "commit", "add 0", "commit"]
    assert asked[-3:] == ["add 0", "produce", "commit"]
    assert {(epoch, transactional) for _, epoch, _, transactional in script.batches()} == {(0, True)}
    sequences = [sequence for _, _, sequence, _ in script.batches()]
    assert sequences == sorted(sequences), "a committed transaction breaks no chain"
    assert all(heard.body.transactional_id == "tx" for heard in script.server.requests(PRODUCE))
    assert script.server.values("t") == [b"a", b"b", b"c"]


def test_partitions_are_added_together(script, producer):
    all_sent = threading.Event()
    script.server.once(ADD, lambda _: all_sent.wait(5) and errors.ConcurrentTransactionsError("the last one ends"))
    with producer.transaction():
        for number in range(8):
            producer.send("t", b"%d" % number, partition=number % 4)
        all_sent.set()
    assert [told for told in script.asked() if told.startswith("add")] == ["add 0", "add 0,1,2,3"]
    assert sum(len(script.server.values("t", partition)) for partition in range(4)) == 8


def test_an_empty_transaction_says_nothing(script, producer):
    with producer.transaction():
        pass
    producer.begin_transaction()
    producer.abort_transaction()
    producer.begin_transaction()
    producer.send_offsets_to_transaction({}, "g")
    producer.commit_transaction()
    assert script.asked() == ["init"]


def test_an_abort_takes_the_next_epoch(script, producer):
    for last in (False, True):
        producer.begin_transaction()
        assert producer.send("t", b"%d" % last, partition=0).get(5).offset == last
        if last:
            producer.commit_transaction()
        else:
            producer.abort_transaction()
    assert script.asked() == ["init", "add 0", "produce", "abort", "init", "add 0", "produce", "commit"]
    assert script.batches() == [(0, 0, 0, True), (0, 1, 0, True)]
    first, second = script.server.requests(INIT)
    assert (first.body.producer_id, first.body.producer_epoch) == (-1, -1)
    assert (second.body.producer_id, second.body.producer_epoch) == (7, 0)
    assert second.body.transactional_id == "tx"


def test_an_abort_drops_what_is_not_sent(script, make):
    producer = make(linger_ms=60_000)
    producer.init_transactions()
    producer.begin_transaction()
    dropped = producer.send("t", b"x")
    producer.abort_transaction()
    with pytest.raises(TransactionAbortedError, match="transaction 1 of transactional_id='tx' was aborted"):
        dropped.get(0)
    assert producer.metrics()["buffer_used_bytes"] == 0
    producer.flush(5)  # what an abort dropped is no failure
    producer.close()
    assert "produce" not in script.asked()


def test_an_abort_waits_for_what_is_in_flight(script, server, producer):
    order = []
    server.once(PRODUCE, lambda heard: order.append("produce") or server.append(heard))
    producer.begin_transaction()
    future = producer.send("t", b"x", partition=0)
    server.wait_for(lambda: order)
    producer.abort_transaction()
    assert future.is_done()
    assert script.asked() == ["init", "add 0", "produce", "abort", "init"]


@pytest.mark.parametrize("error", PASSING)
@pytest.mark.parametrize("api", [INIT, ADD, ADD_GROUP, COMMIT_OFFSETS, END])
def test_what_may_pass_is_asked_again(script, make, api, error):
    producer = make()
    script.refuse(api, error("for now"), error("still"))
    producer.init_transactions()
    transform(producer)
    assert script.asked()[-1] == "commit"
    assert len(script.server.requests(api)) == 3
    looked = [heard.body.keys for heard in script.server.requests(FIND)]
    moved = error is not errors.ConcurrentTransactionsError
    assert looked.count(["g" if api == COMMIT_OFFSETS else "tx"]) == (3 if moved else 1)
    assert script.server.values("t") == [b"x"]


@pytest.mark.parametrize("api", [INIT, ADD, ADD_GROUP, COMMIT_OFFSETS, END])
def test_a_lost_answer_is_asked_for_again(script, make, api):
    producer = make()
    script.lose(api)
    producer.init_transactions()
    transform(producer)
    assert len(script.server.requests(api)) == 2
    assert script.server.values("t") == [b"x"]


def test_a_lost_outcome_is_asked_for_again_as_it_was(script, producer):
    for committed in (True, False):
        script.lose(END)
        producer.begin_transaction()
        producer.send("t", b"x", partition=0).get(5)
        if committed:
            producer.commit_transaction()
        else:
            producer.abort_transaction()
    ends = [heard.body.committed for heard in script.server.requests(END)]
    assert ends == [True, True, False, False]


def test_the_end_names_its_transaction(script, producer):
    with producer.transaction():
        producer.send_offsets_to_transaction(OFFSETS, "g")
    script.lose(ADD)
    producer.begin_transaction()
    producer.send("t", b"x", partition=0)
    producer.abort_transaction()
    transform(producer)
    ends = [(heard.body.committed, heard.body.transaction) for heard in script.server.requests(END)]
    assert (ends[0], ends[2]) == ((True, 1), (True, 3))
    assert ends[1] in {(False, -1), (False, 2)}, "the abort may come before the number is known"


def test_nothing_to_abort_is_as_good_as_aborted(script, producer):
    producer.begin_transaction()
    producer.send("t", b"x", partition=0).get(5)
    script.refuse(END, errors.InvalidTxnStateError("there is none"))
    producer.abort_transaction()
    with producer.transaction():
        producer.send("t", b"y", partition=0)
    assert script.batches()[-1] == (0, 1, 0, True)


@pytest.mark.parametrize("error", FENCING)
@pytest.mark.parametrize("api", [ADD, ADD_GROUP, COMMIT_OFFSETS, END])
def test_who_is_fenced_is_told_at_every_call(script, producer, api, error):
    script.refuse(api, error("another has it"))
    with pytest.raises(errors.ProducerFencedError, match="'tx', producer id 7 and epoch 0 was fenced: another has it"):
        transform(producer)
    assert_useless(producer)
    assert len(script.server.requests(api)) == 1


def assert_useless(producer):
    calls = [
        producer.init_transactions,
        producer.begin_transaction,
        producer.commit_transaction,
        producer.abort_transaction,
        lambda: producer.send("t", b"y"),
        lambda: producer.send_many("t", [b"y"]),
        lambda: producer.send_offsets_to_transaction(OFFSETS, "g"),
        lambda: producer.flush(5),
    ]
    for call in calls:
        with pytest.raises(errors.ProducerFencedError, match="was fenced"):
            call()
    producer.close()


@pytest.mark.parametrize("code", [47, 49, 90])
def test_a_leader_that_knows_a_newer_epoch_fences(script, producer, code):
    producer.begin_transaction()
    script.refuse_batches(code)
    future = producer.send("t", b"x", partition=0)
    with pytest.raises(errors.ProducerFencedError):
        future.get(5)
    with pytest.raises(errors.ProducerFencedError):
        producer.commit_transaction()
    assert_useless(producer)
    assert "abort" not in script.asked()


@pytest.mark.parametrize("code", [45, 46, 59, 10, 48])
def test_a_record_that_failed_fails_the_transaction(script, producer, code):
    producer.begin_transaction()
    script.refuse_batches(code)
    future = producer.send("t", b"x", partition=0)
    with pytest.raises(errors.BrokerError, match=f"says {code}"):
        future.get(5)
    kind = errors.BY_CODE[code]
    for call in (producer.commit_transaction, lambda: producer.send("t", b"y"), producer.begin_transaction):
        with pytest.raises(kind, match="transaction 1 of transactional_id='tx' failed and has to be aborted"):
            call()
    producer.abort_transaction()
    assert script.asked() == ["init", "add 0", "produce", "abort", "init"]
    with producer.transaction():
        producer.send("t", b"z", partition=0)
    assert script.batches()[-1] == (0, 1, 0, True), "a new epoch, numbered from 0"
    producer.close()


def test_a_failure_drops_the_rest_at_once(script, make):
    producer = make(batch_size=200)
    producer.init_transactions()
    producer.begin_transaction()
    all_sent = threading.Event()
    script.refuse_batches(48, after=all_sent)
    futures = [producer.send("t", b"x" * 100, partition=0) for _ in range(20)]
    all_sent.set()
    for future in futures:
        with pytest.raises(errors.InvalidTxnStateError):
            future.get(5)
    with pytest.raises(errors.InvalidTxnStateError), producer.transaction():
        pytest.fail("no other transaction can begin")
    producer.abort_transaction()
    assert producer.metrics()["buffer_used_bytes"] == 0


def test_a_block_that_cannot_be_committed_is_aborted(script, producer):
    script.refuse_batches(48)
    with pytest.raises(errors.InvalidTxnStateError, match="has to be aborted"), producer.transaction():
        producer.send("t", b"x", partition=0)
    assert script.asked()[-2:] == ["abort", "init"]
    with producer.transaction():
        producer.send("t", b"y", partition=0)


def test_a_block_that_raises_is_aborted(script, producer):
    with pytest.raises(ZeroDivisionError):
        fail_in_a_block(producer)
    assert script.asked()[-2:] == ["abort", "init"]


def test_what_a_block_raised_is_more_important_than_its_abort(script, producer):
    script.refuse(END, errors.ProducerFencedError("another has it"))
    with pytest.raises(ZeroDivisionError) as caught:
        fail_in_a_block(producer)
    assert "another has it" in caught.value.__notes__[0]


def test_a_block_that_ends_its_transaction_itself_is_left_alone(script, producer):
    with producer.transaction():
        producer.send("t", b"x", partition=0).get(5)
        producer.abort_transaction()
    with producer.transaction():
        producer.send("t", b"y", partition=0).get(5)
        producer.commit_transaction()
    assert script.asked()[-5:] == ["abort", "init", "add 0", "produce", "commit"]


def test_a_partition_that_cannot_be_added_fails_the_transaction(script, producer):
    script.refuse_add(29, "not yours")
    producer.begin_transaction()
    with pytest.raises(errors.BrokerError, match="not yours"):
        producer.send("t", b"x", partition=0).get(5)
    producer.abort_transaction()
    script.refuse_add(3, "not there yet")
    with producer.transaction():
        producer.send("t", b"x", partition=0)
    assert script.server.values("t") == [b"x"]


@pytest.mark.parametrize("code", [25, 22, 27])
def test_offsets_of_who_is_no_member_any_more_are_refused(script, producer, code):
    script.refuse_offsets(code, "who are you")
    who = ConsumerGroupMetadata("g", 3, "me", "static")
    with pytest.raises(errors.CommitFailedError, match=r"'g' has rebalanced.*'me' in generation 3.*who are you"):
        transform(producer, who)
    (request,) = script.server.requests(COMMIT_OFFSETS)
    body = request.body
    assert (body.generation_id, body.member_id, body.group_instance_id) == (3, "me", "static")
    assert script.asked()[-2:] == ["abort", "init"]


def test_a_group_that_is_none_is_refused(script, producer):
    with producer.transaction():
        for group in ("", None, 5):
            with pytest.raises(TypeError, match="group"):
                producer.send_offsets_to_transaction(OFFSETS, group)
        with pytest.raises(ValueError, match="offset=-1"):
            producer.send_offsets_to_transaction({TopicPartition("in", 0): -1}, "g")
    assert script.asked() == ["init"]


def test_a_transaction_is_asked_for_in_order(make):
    producer = make()
    for call in (producer.begin_transaction, producer.commit_transaction, producer.abort_transaction):
        with pytest.raises(errors.IllegalStateError, match=r"'tx' is not initialised.*call init_transactions first"):
            call()
    producer.init_transactions()
    with pytest.raises(errors.IllegalStateError, match="was called already"):
        producer.init_transactions()
    for call in (
        producer.commit_transaction,
        producer.abort_transaction,
        lambda: producer.send("t", b"x"),
        lambda: producer.send_many("t", [b"x"]),
        lambda: producer.send_offsets_to_transaction(OFFSETS, "g"),
    ):
        with pytest.raises(errors.IllegalStateError, match="no transaction is open; call begin_transaction first"):
            call()
    with producer.transaction():
        producer.send("t", b"x")
        with pytest.raises(errors.IllegalStateError, match="a transaction is open; commit or abort it first"):
            producer.begin_transaction()
    for key in (None, b"key"):  # what `send` keeps at hand for a fast lane is of no use outside of a transaction
        with pytest.raises(errors.IllegalStateError, match="no transaction is open"):
            producer.send("t", b"y", key)


def test_without_a_transactional_id_there_are_no_transactions(server):
    with Producer(bootstrap_servers=server.servers) as producer:
        for call in (producer.init_transactions, producer.begin_transaction, producer.transaction):
            with pytest.raises(errors.IllegalStateError, match="no transactional_id"):
                call()


@pytest.mark.parametrize("settings", [{"acks": 1}, {"acks": 0}, {"enable_idempotence": False}])
def test_a_transaction_needs_numbers_and_all_replicas(settings):
    (name, value), *_ = settings.items()
    with pytest.raises(errors.ConfigError, match=f"transactional_id='tx' and {name}={value}"):
        Producer(transactional_id="tx", **settings)


@pytest.mark.parametrize("settings", [{"transactional_id": ""}, {"transactional_id": 5}, {"transaction_timeout_ms": 0}])
def test_what_is_no_setting_is_refused(settings):
    with pytest.raises(errors.ConfigError, match=next(iter(settings))):
        Producer(**settings)


def test_an_init_that_is_refused_can_be_made_again(script, make):
    producer = make(transaction_timeout_ms=1_000_000_000)
    script.refuse(INIT, errors.InvalidTransactionTimeoutError("too long"))
    with pytest.raises(errors.InvalidTransactionTimeoutError, match="too long"):
        producer.init_transactions()
    producer.init_transactions()
    assert script.server.requests(INIT)[0].body.transaction_timeout_ms == 1_000_000_000


def test_a_coordinator_that_does_not_answer_is_named(script, make, server):
    producer = make(max_block_ms=200)
    script.refuse(FIND, *[errors.CoordinatorNotAvailableError("it is not elected")] * 50)
    with pytest.raises(errors.RequestTimedOutError, match="init_transactions was not done within max_block_ms=200"):
        producer.init_transactions()
    server.rules[FIND].clear()
    producer.init_transactions()


def test_a_commit_that_is_not_answered_goes_on(script, make, server):
    producer = make(max_block_ms=200)
    producer.init_transactions()
    producer.begin_transaction()
    producer.send("t", b"x", partition=0)
    script.refuse(END, *[errors.CoordinatorNotAvailableError("it is not elected")] * 1000)
    with pytest.raises(errors.RequestTimedOutError, match=r"commit_transaction was not done.*it is not elected"):
        producer.commit_transaction()
    with pytest.raises(errors.IllegalStateError, match="is being committed"):
        producer.abort_transaction()
    server.rules[END].clear()
    producer.commit_transaction()
    assert script.asked()[-1] == "commit"
    with producer.transaction():
        producer.send("t", b"y", partition=0)


def test_records_expire_where_their_partition_is_not_added(script, make):
    producer = make(delivery_timeout_ms=200)
    producer.init_transactions()
    script.refuse(ADD, *[errors.NotCoordinatorError("not me")] * 1000)
    producer.begin_transaction()
    producer.send("t", b"x", partition=0)
    with pytest.raises(errors.RequestTimedOutError, match=r"delivery_timeout_ms=200.*0 attempts.*not me"):
        producer.commit_transaction()
    producer.abort_transaction()


def test_close_aborts_what_is_open(script, producer):
    producer.begin_transaction()
    producer.send("t", b"x", partition=0).get(5)
    producer.close()
    assert "abort" in script.asked()


def test_a_batch_behind_one_that_is_sent_again_is_sent_again_too(script, server, make):
    producer = make(batch_size=1)
    producer.init_transactions()
    script.refuse_batches(56)
    with producer.transaction():
        for number in range(5):
            producer.send("t", b"%d" % number, partition=0)
    assert server.values("t") == [b"0", b"1", b"2", b"3", b"4"]
    assert script.asked()[-1] == "commit"


def test_a_lost_answer_of_a_batch_stores_it_once(script, server, producer):
    script.lose(PRODUCE)
    with producer.transaction():
        producer.send("t", b"x", partition=0)
    assert server.values("t") == [b"x"]
    assert script.asked()[-3:] == ["produce", "produce", "commit"]
