"""Consumers of a group against an embedded broker: who gets what, when it moves, and what survives."""

import threading
from contextlib import ExitStack

import pytest
from zmqbroker import Admin, Consumer, ConsumerRebalanceListener, NewTopic, Producer, TopicPartition, errors
from zmqbroker.testing import Broker

COOPERATIVE = {"partition_assignment_strategy": ["cooperative-sticky"]}


@pytest.fixture(scope="module")
def shared_broker():
    settings = {"num_partitions": 4, "group_initial_rebalance_delay_ms": 0, "group_min_session_timeout_ms": 100}
    with Broker(**settings) as broker:
        yield broker


class Recorder(ConsumerRebalanceListener):
    """Writes down what it hears."""

    def __init__(self):
        self.heard = []

    def on_partitions_revoked(self, revoked):
        self.heard.append(("revoked", {tp.partition for tp in revoked}))

    def on_partitions_assigned(self, assigned):
        self.heard.append(("assigned", {tp.partition for tp in assigned}))

    def on_partitions_lost(self, lost):
        self.heard.append(("lost", {tp.partition for tp in lost}))

    def count(self, what):
        return sum(kind == what for kind, _ in self.heard)


class Member:
    """A consumer that a thread polls until it is stopped."""

    def __init__(self, consumer, listener):
        self.consumer = consumer
        self.listener = listener
        self.seen = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._stop.is_set():
            for partition, records in self.consumer.poll(50).items():
                self.seen += [(partition.partition, record.offset) for record in records]
        self.consumer.close()

    def stop(self):
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()

    @property
    def owns(self):
        return {tp.partition for tp in self.consumer.assignment()}


@pytest.fixture
def groups(shared_broker, request):
    """Makes topics, consumers and members of a group of the test's own."""
    with ExitStack() as closing:
        yield Groups(shared_broker, request.node.name.replace("[", "-").replace("]", ""), closing)


class Groups:
    def __init__(self, broker, name, closing):
        self.broker = broker
        self.name = name
        self._closing = closing
        self.servers = {"bootstrap_servers": broker.bootstrap_servers}

    def consumer(self, **more):
        settings = {"group_id": self.name, "auto_offset_reset": "earliest", **self.servers, **more}
        consumer = Consumer(**settings)
        self._closing.callback(consumer.close)
        return consumer

    def member(self, **more):
        listener = Recorder()
        consumer = self.consumer(**more)
        consumer.subscribe(self.name, listener=listener)
        member = Member(consumer, listener)
        self._closing.callback(member.stop)
        return member

    def send(self, count, topic=None, partitions=4):
        with Producer(**self.servers) as producer:
            for number in range(count):
                producer.send(topic or self.name, b"%d" % number, partition=number % partitions)
            producer.flush()

    def committed(self):
        with Consumer(group_id=self.name, **self.servers) as consumer:
            found = consumer.committed([TopicPartition(self.name, number) for number in range(4)])
            return [found[TopicPartition(self.name, number)] for number in range(4)]


def poll_until(consumer, condition, what="it"):
    for _ in range(400):
        if condition():
            return
        consumer.poll(50)
    pytest.fail(f"{what} did not happen in time")


def test_two_members_share_and_a_leaver_gives_its_partitions_up_at_once(groups, eventually):
    groups.send(40)
    first = groups.member()
    eventually(lambda: len(first.seen) == 40, "the first reads everything")
    second = groups.member()
    halves = ({0, 1}, {2, 3})
    eventually(lambda: first.owns in halves and second.owns in halves and first.owns != second.owns, "they share")
    groups.send(40)
    eventually(lambda: len(first.seen) + len(second.seen) == 80, "all is read")
    second.stop()
    eventually(lambda: first.owns == {0, 1, 2, 3}, "the partitions move", 0.5)
    first.stop()
    assert len({*first.seen, *second.seen}) == 80, "nothing is read twice, nothing is missing"
    assert groups.committed() == [20, 20, 20, 20]


def test_cooperative_members_keep_what_stays(groups, eventually):
    first = groups.member(**COOPERATIVE)
    eventually(lambda: first.owns == {0, 1, 2, 3}, "the first has all")
    second = groups.member(**COOPERATIVE)
    eventually(lambda: len(second.owns) == 2 and len(first.owns) == 2, "they share")
    revoked = [what for kind, what in first.listener.heard if kind == "revoked"]
    assert revoked == [second.owns], "only what moved was revoked"
    groups.send(40)
    eventually(lambda: len(first.seen) + len(second.seen) == 40, "all is read")
    second.stop()
    eventually(lambda: first.owns == {0, 1, 2, 3}, "the partitions move", 0.5)
    assert first.listener.count("revoked") == 1


def test_records_flow_while_a_cooperative_group_waits_for_a_member(groups, eventually):
    first = groups.member(**COOPERATIVE)
    eventually(lambda: first.owns == {0, 1, 2, 3}, "the first has all")
    slow = groups.consumer(**COOPERATIVE)
    slow.subscribe(groups.name)
    poll_until(slow, lambda: len(slow.assignment()) == 2)
    third = groups.consumer(**COOPERATIVE)
    third.subscribe(groups.name)
    third.poll(50)  # begins a rebalance, which the second, busy, does not take part in
    eventually(lambda: slow.metrics()["heartbeats"] >= 1, "the second heard of it")
    before = len(first.seen)
    mine = first.owns
    groups.send(40)
    eventually(lambda: {n for n, _ in first.seen[before:]} >= mine, "the first reads on")
    assert third.assignment() == set()


def test_offsets_and_members_survive_a_restart_of_the_broker(eventually):
    settings = {"num_partitions": 4, "group_initial_rebalance_delay_ms": 0}
    with Broker(**settings) as broker, ExitStack() as closing:
        groups = Groups(broker, "restart", closing)
        groups.send(40)
        member = groups.member(heartbeat_interval_ms=100)
        eventually(lambda: len(member.seen) == 40, "all is read")
        before = member.consumer.group_metadata()
        beats = member.consumer.metrics()["heartbeats"]
        broker.restart()
        eventually(lambda: member.consumer.metrics()["heartbeats"] > beats + 2, "heartbeats go on")
        groups.send(40)
        eventually(lambda: len(member.seen) == 80, "the rest is read")
        assert member.consumer.group_metadata() == before
        assert member.listener.heard == [("assigned", {0, 1, 2, 3})]
        member.stop()
        assert groups.committed() == [20, 20, 20, 20]


def test_a_pattern_takes_up_topics_as_they_come(groups):
    groups.send(4, "pattern-a")
    groups.send(4, "other")
    consumer = groups.consumer(metadata_max_age_ms=100)
    consumer.subscribe(pattern="pattern-.*")
    poll_until(consumer, lambda: len(consumer.assignment()) == 4)
    assert consumer.subscription() == {"pattern-a"}
    groups.send(4, "pattern-b")
    poll_until(consumer, lambda: len(consumer.assignment()) == 8)
    assert {tp.topic for tp in consumer.assignment()} == {"pattern-a", "pattern-b"}


def test_a_pattern_works_without_a_group(groups):
    groups.send(4, "alone-a")
    with Consumer(auto_offset_reset="earliest", metadata_max_age_ms=100, **groups.servers) as consumer:
        consumer.subscribe(pattern="alone-.*")
        poll_until(consumer, lambda: len(consumer.assignment()) == 4)
        groups.send(4, "alone-b")
        poll_until(consumer, lambda: len(consumer.assignment()) == 8)
        with pytest.raises(errors.ConfigError, match="no regular expression"):
            consumer.subscribe(pattern="(")


def test_a_topic_that_comes_later_is_shared_out_by_the_leader(groups):
    consumer = groups.consumer(allow_auto_create_topics=False, retry_backoff_ms=10)
    consumer.subscribe(groups.name)
    poll_until(consumer, lambda: consumer.group_metadata().generation_id > 0)
    assert consumer.assignment() == set()
    with Admin(**groups.servers) as admin:
        admin.create_topics([NewTopic(groups.name, 3)])
    poll_until(consumer, lambda: len(consumer.assignment()) == 3)


def test_a_static_member_restarts_without_a_rebalance(groups, eventually):
    groups.send(4)
    other = groups.member()
    static = groups.member(group_instance_id="one")
    eventually(lambda: len(other.owns) == 2 and len(static.owns) == 2, "they share")
    owned, heard = static.owns, list(other.listener.heard)
    generation = other.consumer.group_metadata().generation_id
    static.stop()
    again = groups.member(group_instance_id="one")
    eventually(lambda: again.owns == owned, "it gets the same back")
    assert other.consumer.group_metadata().generation_id == generation
    assert other.listener.heard == heard


def test_a_fenced_static_member_raises_for_good(groups):
    first = groups.consumer(group_instance_id="one", heartbeat_interval_ms=50)
    recorder = Recorder()
    first.subscribe(groups.name, listener=recorder)
    poll_until(first, first.assignment)
    second = groups.consumer(group_instance_id="one")
    second.subscribe(groups.name)
    poll_until(second, second.assignment)
    with pytest.raises(errors.FencedInstanceIdError):
        poll_until(first, lambda: False)
    assert recorder.heard[-1] == ("lost", {0, 1, 2, 3})
    with pytest.raises(errors.FencedInstanceIdError):
        first.poll(1_000)


def test_busy_user_code_keeps_its_membership(groups, eventually):
    consumer = groups.consumer(session_timeout_ms=300, heartbeat_interval_ms=100)
    consumer.subscribe(groups.name)
    poll_until(consumer, consumer.assignment)
    before = consumer.group_metadata()
    eventually(lambda: consumer.metrics()["heartbeats"] >= 6, "heartbeats, without any poll")
    groups.send(4)
    poll_until(consumer, lambda: consumer.position(TopicPartition(groups.name, 0)) == 1)
    assert consumer.group_metadata() == before


def test_who_does_not_poll_in_time_leaves_and_comes_back(groups, eventually, caplog):
    groups.send(4)
    recorder = Recorder()
    consumer = groups.consumer(max_poll_interval_ms=200, enable_auto_commit=False)
    consumer.subscribe(groups.name, listener=recorder)
    part = TopicPartition(groups.name, 0)
    poll_until(consumer, lambda: len(consumer.assignment()) == 4 and consumer.position(part) == 1)
    eventually(lambda: consumer.metrics()["poll_timeouts"] == 1, "the poll time-out")
    warning = next(record.getMessage() for record in caplog.records if "left group" in record.getMessage())
    assert "max_poll_interval_ms=200" in warning
    assert "raise max_poll_interval_ms" in warning
    assert recorder.heard == [("assigned", {0, 1, 2, 3})]
    with pytest.raises(errors.CommitFailedError, match=r"generation -1.*poll"):
        consumer.commit()
    with pytest.raises(errors.CommitFailedError, match=r"generation -1.*poll"):
        consumer.commit({part: 1})
    poll_until(consumer, lambda: len(recorder.heard) == 3)
    assert recorder.heard[1:] == [("lost", {0, 1, 2, 3}), ("assigned", {0, 1, 2, 3})]
    poll_until(consumer, lambda: consumer.position(part) == 1)
    consumer.commit()
    assert consumer.committed(part) == 1


def test_what_a_listener_raises_is_raised_by_the_poll_and_changes_nothing_else(groups):
    class Faulty(Recorder):
        def on_partitions_assigned(self, assigned):
            super().on_partitions_assigned(assigned)
            message = "mine"
            raise LookupError(message)

    consumer = groups.consumer()
    consumer.subscribe(groups.name, listener=Faulty())
    with pytest.raises(LookupError, match="mine"):
        poll_until(consumer, lambda: False)
    assert len(consumer.assignment()) == 4
    groups.send(4)
    poll_until(consumer, lambda: consumer.position(TopicPartition(groups.name, 0)) == 1)


def test_a_listener_may_use_the_consumer(groups):
    groups.send(40)
    consumer = groups.consumer(enable_auto_commit=False)

    class Seeker(ConsumerRebalanceListener):
        def on_partitions_assigned(self, assigned):
            for partition in assigned:
                consumer.seek(partition, 5)

        def on_partitions_revoked(self, revoked):
            consumer.commit({partition: consumer.position(partition) for partition in revoked})

    consumer.subscribe(groups.name, listener=Seeker())
    first = {}
    while len(first) < 4:
        for partition, records in consumer.poll(1_000).items():
            first.setdefault(partition.partition, records[0].offset)
    assert first == dict.fromkeys(range(4), 5)
    consumer.close()
    assert groups.committed() == [10, 10, 10, 10]


def test_unsubscribe_leaves_the_group(groups, eventually):
    recorder = Recorder()
    consumer = groups.consumer()
    consumer.subscribe(groups.name, listener=recorder)
    poll_until(consumer, lambda: len(consumer.assignment()) == 4)
    with pytest.raises(errors.ConfigError, match="member of group"):
        consumer.assign([TopicPartition(groups.name, 0)])
    other = groups.member()
    consumer.unsubscribe()
    consumer.poll(0)
    assert recorder.heard == [("assigned", {0, 1, 2, 3}), ("revoked", {0, 1, 2, 3})]
    eventually(lambda: len(other.owns) == 4, "the other has all")
    consumer.assign([TopicPartition(groups.name, 0)])
    assert len(consumer.assignment()) == 1


def test_a_group_of_another_kind_is_refused_with_its_reason(groups):
    first = groups.consumer(partition_assignment_strategy=["range"])
    first.subscribe(groups.name)
    poll_until(first, first.assignment)
    second = groups.consumer(partition_assignment_strategy=["roundrobin"])
    second.subscribe(groups.name)
    with pytest.raises(errors.InconsistentGroupProtocolError):
        poll_until(second, lambda: False)


def test_who_leaves_while_it_joins_leaves_no_trace(groups):
    for _ in range(10):
        with groups.consumer() as hasty:
            hasty.subscribe(groups.name)
            hasty.poll(0)
    consumer = groups.consumer()
    consumer.subscribe(groups.name)
    poll_until(consumer, lambda: len(consumer.assignment()) == 4)
