"""Commits of a consumer group: what they cover, their order, and what happens when the coordinator is in trouble."""

import time
from itertools import count, pairwise

import pytest
from zmqbroker import Consumer, ConsumerRebalanceListener, Producer, TopicPartition, errors
from zmqbroker.client.types import OffsetAndMetadata
from zmqbroker.groups.consumer_protocol import Assignment, encode_assignment
from zmqbroker.testing import Broker
from zmqbroker.transport import group_messages as g

FAST = {"retry_backoff_ms": 5, "reconnect_backoff_ms": 5, "reconnect_backoff_max_ms": 20}
PART = TopicPartition("t", 0)
names = count()


@pytest.fixture(scope="module")
def shared_broker():
    with Broker(group_initial_rebalance_delay_ms=0) as broker:
        yield broker


@pytest.fixture
def settings(shared_broker):
    """A group of the test's own, and 20 records in partition 0 of a topic of that name."""
    name = f"t{next(names)}"
    servers = {"bootstrap_servers": shared_broker.bootstrap_servers}
    with Producer(**servers) as producer:
        producer.send_many(name, [b"%d" % number for number in range(20)], partition=0)
    return {"group_id": name, "auto_offset_reset": "earliest", **servers}


def committed(settings):
    with Consumer(**settings) as consumer:
        return consumer.committed(TopicPartition(settings["group_id"], 0))


def test_the_record_in_work_is_not_committed_when_its_work_fails(settings):
    with pytest.raises(LookupError), Consumer(settings["group_id"], **settings) as consumer:  # noqa: PT012
        for record in consumer:
            if record.offset == 7:
                raise LookupError
    assert committed(settings) == 7
    with pytest.raises(LookupError), Consumer(settings["group_id"], **settings) as consumer:  # noqa: PT012
        assert consumer.poll(10_000, 5)
        assert consumer.poll(10_000, 5)
        raise LookupError
    assert committed(settings) == 12


def test_a_clean_end_commits_what_was_handed_out(settings):
    with Consumer(settings["group_id"], **settings) as consumer:
        assert next(consumer).offset == 0
        assert next(consumer).offset == 1
    assert committed(settings) == 2
    with Consumer(settings["group_id"], **settings) as consumer:
        assert next(consumer).offset == 2


def test_automatic_commits_cover_what_was_done_before_the_last_request(settings, eventually):
    part = TopicPartition(settings["group_id"], 0)
    with Consumer(settings["group_id"], auto_commit_interval_ms=10, **settings) as consumer:
        assert len(consumer.poll(10_000, 5)[part]) == 5
        done = consumer.metrics()["commits"]
        assert len(consumer.poll(10_000, 5)[part]) == 5
        eventually(lambda: consumer.metrics()["commits"] > done, "a commit, while the user is busy")
        assert consumer.committed(part) == 5


def test_without_automatic_commits_only_the_user_commits(settings):
    part = TopicPartition(settings["group_id"], 0)
    with Consumer(settings["group_id"], enable_auto_commit=False, **settings) as consumer:
        assert consumer.poll(10_000)
        assert consumer.committed(part) is None
        consumer.commit({part: OffsetAndMetadata(3, "half way")})
        assert consumer.committed([part]) == {part: 3}
        assert consumer.committed(part, metadata=True).metadata == "half way"
        with pytest.raises(ValueError, match="from 0 up"):
            consumer.commit({part: -1})
    assert committed(settings) == 3


def test_assigned_partitions_start_at_the_groups_offsets(settings):
    part = TopicPartition(settings["group_id"], 0)
    with Consumer(enable_auto_commit=False, **settings) as consumer:
        consumer.assign([part])
        assert consumer.position(part) == 0
        consumer.seek(part, 4)
        consumer.commit()
        assert consumer.group_metadata() == (settings["group_id"], -1, "", None)
    with Consumer(**settings) as consumer:
        consumer.assign([part])
        assert next(consumer).offset == 4
    assert committed(settings) == 5


def test_async_commits_happen_in_order(settings, eventually):
    part = TopicPartition(settings["group_id"], 0)
    heard = []
    with Consumer(settings["group_id"], enable_auto_commit=False, **settings) as consumer:
        assert consumer.poll(10_000)
        for offset in range(1, 11):
            consumer.commit_async({part: offset}, lambda offsets, error: heard.append((offsets[part].offset, error)))
        eventually(lambda: len(heard) == 10, "all callbacks")
        assert heard == [(offset, None) for offset in range(1, 11)]
        assert consumer.committed(part) == 10
        with pytest.raises(errors.CommitFailedError, match="not assigned to this member"):
            consumer.commit_async({TopicPartition("other", 0): 1})
        consumer.commit_async({part: 11})
    assert committed(settings) == 11


def test_no_offset_and_no_reset_is_an_error(settings):
    settings["auto_offset_reset"] = "none"
    with Consumer(settings["group_id"], **settings) as consumer, pytest.raises(errors.OffsetOutOfRangeError):
        consumer.poll(10_000)


def test_without_a_group_there_is_nothing_to_commit(settings):
    del settings["group_id"]
    with Consumer(**settings) as consumer:
        with pytest.raises(errors.ConfigError, match="group_id"):
            consumer.commit()
        with pytest.raises(errors.ConfigError, match="group_id"):
            consumer.subscribe("t", listener=ConsumerRebalanceListener())


# ---- a scripted coordinator


class Script:
    """Answers as the coordinator of a group of one, in a scripted broker."""

    def __init__(self, server):
        self.server = server
        self.generation = 0
        self.members = 0
        self.offsets = {}
        self.held = []
        server.topics["t"] = 1
        port = int(server.address.rsplit(":", 1)[1])
        self.always(
            g.FindCoordinatorRequest, lambda _: g.FindCoordinatorReply([g.CoordinatorInfo("g", 1, "127.0.0.1", port)])
        )
        self.always(g.JoinGroupRequest, self.join)
        self.always(g.SyncGroupRequest, self.sync)
        self.always(g.HeartbeatRequest, lambda _: g.HeartbeatReply())
        self.always(g.LeaveGroupRequest, lambda _: g.LeaveGroupReply([]))
        self.always(g.OffsetCommitRequest, self.commit)
        self.always(g.OffsetFetchRequest, self.fetch)

    def always(self, request, rule):
        self.server.rules[request.API] = Forever(rule)

    def first(self, request, *rules):
        self.server.rules[request.API].first += rules

    def join(self, heard):
        if not heard.body.member_id:
            self.members += 1
            return g.JoinGroupReply(
                -1, "", "", "", f"m{self.members}", [], error_code=errors.MemberIdRequiredError.code
            )
        self.generation += 1
        name, metadata = heard.body.protocols[0]
        me = heard.body.member_id
        return g.JoinGroupReply(self.generation, "consumer", name, me, me, [g.JoinedMember(me, None, metadata)])

    def sync(self, heard):
        assert heard.body.generation_id == self.generation
        assert heard.body.assignments
        return g.SyncGroupReply("consumer", "range", encode_assignment(Assignment((("t", 0),))))

    def commit(self, heard):
        self.offsets.update({entry.partition: entry.offset for entry in heard.body.partitions})
        return g.OffsetCommitReply(
            [g.PartitionCommitted(entry.topic, entry.partition) for entry in heard.body.partitions]
        )

    def fetch(self, heard):
        return g.OffsetFetchReply(
            [g.CommittedOffset(e.topic, e.partition, self.offsets.get(e.partition, -1)) for e in heard.body.partitions]
        )


class Forever(list):
    """A list of rules that does not end."""

    def __init__(self, rule):
        super().__init__([rule])
        self.rule = rule
        self.first = []

    def pop(self, index=0):
        del index
        return self.first.pop(0) if self.first else self.rule


@pytest.fixture
def script(server):
    return Script(server)


@pytest.fixture
def member(server, script):  # noqa: ARG001 - the script answers it
    """A member of the scripted group that owns its partition."""
    more = {"heartbeat_interval_ms": 20, "enable_auto_commit": False, "auto_offset_reset": "earliest"}
    with Consumer(group_id="g", bootstrap_servers=server.servers, **FAST, **more) as consumer:
        consumer.heard = []
        listener = ConsumerRebalanceListener()
        listener.on_partitions_lost = lambda lost: consumer.heard.append(("lost", lost))
        listener.on_partitions_assigned = lambda added: consumer.heard.append(("assigned", added))
        consumer.subscribe("t", listener=listener)
        settle(consumer)
        yield consumer


def settle(consumer):
    deadline = time.monotonic() + 10
    while not consumer.assignment():
        consumer.poll(10)
        assert time.monotonic() < deadline


def test_a_later_commit_waits_for_the_one_under_way(server, script, member):
    script.first(g.OffsetCommitRequest, lambda _: "drop")
    member.commit_async({PART: 1})
    member.commit_async({PART: 2})
    member.commit_async({PART: 3})
    server.wait_for(lambda: server.requests(g.OffsetCommitRequest.API))
    server.kill()  # nobody knows what became of the first
    server.start()
    member.commit({PART: 4})
    asked = [heard.body.partitions[0].offset for heard in server.requests(g.OffsetCommitRequest.API)]
    assert asked == sorted(asked)
    assert script.offsets == {0: 4}


def test_a_moved_coordinator_is_found_again(server, script, member):
    moved = errors.NotCoordinatorError("another")
    before = len(server.requests(g.FindCoordinatorRequest.API))
    script.first(g.OffsetCommitRequest, lambda _: moved, lambda _: errors.CoordinatorLoadInProgressError("wait"))
    member.commit({PART: 5})
    assert script.offsets == {0: 5}
    assert len(server.requests(g.FindCoordinatorRequest.API)) > before
    script.first(g.HeartbeatRequest, lambda _: moved)
    generation = member.group_metadata()
    member.poll(100)
    assert member.group_metadata() == generation
    assert [kind for kind, _ in member.heard] == ["assigned"]


@pytest.mark.parametrize(
    ("error", "kept"), [(errors.UnknownMemberIdError, False), (errors.IllegalGenerationError, True)]
)
def test_a_member_that_was_dropped_loses_its_partitions_and_joins_anew(script, member, error, kept):
    before = member.group_metadata()
    script.first(g.HeartbeatRequest, lambda _: error("gone"))
    deadline = time.monotonic() + 10
    while len(member.heard) < 3:
        member.poll(10)
        assert time.monotonic() < deadline
    assert [kind for kind, _ in member.heard] == ["assigned", "lost", "assigned"]
    after = member.group_metadata()
    assert after.generation_id == before.generation_id + 1
    assert (after.member_id == before.member_id) == kept


def test_a_refused_commit_names_both_generations(script, member, eventually):
    refused = [g.PartitionCommitted("t", 0, errors.IllegalGenerationError.code, "the group is in generation 9")]
    script.first(g.OffsetCommitRequest, lambda _: g.OffsetCommitReply(refused))
    heard = []
    member.commit_async({PART: 1}, lambda _, error: heard.append(error))
    eventually(lambda: heard, "the callback")
    assert isinstance(heard[0], errors.CommitFailedError)
    assert "generation 1" in heard[0].message
    assert "generation 9" in heard[0].message
    assert "poll" in heard[0].message


def test_a_commit_ends_with_its_time(script, member):
    script.first(g.OffsetCommitRequest, *[lambda _: errors.CoordinatorNotAvailableError("not now")] * 1000)
    with pytest.raises(errors.CoordinatorNotAvailableError, match="not now"):
        member.commit({PART: 1}, timeout_ms=50)


def test_a_text_that_is_too_long_is_refused(script, member):
    refused = [g.PartitionCommitted("t", 0, errors.OffsetMetadataTooLargeError.code, "5000 of 4096 bytes")]
    script.first(g.OffsetCommitRequest, lambda _: g.OffsetCommitReply(refused))
    with pytest.raises(errors.OffsetMetadataTooLargeError, match="5000 of 4096"):
        member.commit({PART: OffsetAndMetadata(1, "x" * 5_000)})


@pytest.mark.usefixtures("script")
def test_closing_takes_bounded_time_without_a_broker(server):
    consumer = Consumer(group_id="g", bootstrap_servers=server.servers, auto_offset_reset="earliest", **FAST)
    consumer.subscribe("t")
    settle(consumer)
    server.kill()
    began = time.monotonic()
    consumer.close(300)
    assert time.monotonic() - began < 2


def test_a_group_that_is_refused_is_told_and_may_be_tried_again(server, script):
    script.first(g.JoinGroupRequest, lambda _: errors.GroupMaxSizeReachedError("1000 of 1000 members"))
    with Consumer("t", group_id="g", bootstrap_servers=server.servers, **FAST) as consumer:
        with pytest.raises(errors.GroupMaxSizeReachedError, match="1000 of 1000"):
            consumer.poll(10_000)
        settle(consumer)


def test_slices_follow_the_pace_of_the_user(server, script):
    script.offsets[0] = 0
    with Producer(bootstrap_servers=server.servers) as producer:
        producer.send_many("t", [b"x"] * 2_000)
    clock = [0.0]
    more = {"auto_offset_reset": "earliest", "max_poll_interval_ms": 10**9, "session_timeout_ms": 10**9}
    with Consumer("t", group_id="g", bootstrap_servers=server.servers, **FAST, **more) as consumer:
        iterator = iter(consumer)
        next(iterator)
        real = consumer.io.now
        consumer.io.now = lambda: real() + clock[0]
        asked = []
        enter = consumer._group.enter
        consumer._group.enter = lambda chunk: asked.append(position[0]) or enter(chunk)
        position = [1]
        for _ in range(600):
            clock[0] += 0.01  # ten milliseconds of work
            position[0] = next(iterator).offset
        slow = [after - before for before, after in pairwise(asked)][3:]
        assert slow
        assert max(slow) <= 4
        for _ in range(1_200):
            position[0] = next(iterator).offset
        fast = [after - before for before, after in pairwise(asked)][-3:]
        assert max(fast) > 50
