"""How partitions are fetched from one leader node: what is asked when, and which answers count."""

from __future__ import annotations

from collections import Counter
from random import Random
from types import SimpleNamespace

import pytest
from zmqbroker.actors.commands import Refusal
from zmqbroker.actors.context import fetcher_address, partition_address, peer_address
from zmqbroker.actors.peer_commands import AskPeer, Follow, PeerAnswer, PeerChanged, Replicated, Unfollow
from zmqbroker.actors.reactor import Reactor
from zmqbroker.actors.replica_fetcher import FLUSH_WAIT_MS, REST_MS_MAX, REST_MS_MIN, ReplicaFetcher
from zmqbroker.errors import NetworkError
from zmqbroker.quorum.image import MetadataImage, PartitionImage, TopicImage, apply
from zmqbroker.quorum.records import SetConfig
from zmqbroker.settings import broker_config
from zmqbroker.transport.config_messages import BROKER_RESOURCE, TOPIC_RESOURCE
from zmqbroker.transport.network import LinkState
from zmqbroker.transport.peer_messages import ReplicaFetchReply, ReplicaPosition, ReplicaState

LEADER, SELF = 1, 2
EPOCH = 3


class Bench:
    """A fetcher, the partitions t-0 to t-3, of which t-3 is being added here, and a link to the leader."""

    def __init__(self, time, heard, **config) -> None:
        self.time = time
        self.heard_class = heard
        self.reactor = Reactor(self.time, self.time)
        state = PartitionImage((1, 2), (1,), LEADER, EPOCH)
        adding = PartitionImage((1, 2), (1,), LEADER, EPOCH, adding=(2,))
        self.context = SimpleNamespace(
            config=broker_config({"node_id": SELF, **config}),
            reactor=self.reactor,
            clock=self.time,
            random=Random(1),
            counters=Counter(),
            node_epoch=77,
            image=MetadataImage(topics={"t": TopicImage("t", "id", (state, state, state, adding))}),
        )
        self.told: list[list] = [[] for _ in range(4)]
        for number, told in enumerate(self.told):
            self.reactor.spawn(heard, told, address=partition_address("t", number))
        self.asked: list[AskPeer] = []
        self.reactor.spawn(heard, self.asked, address=peer_address(LEADER))
        self.fetcher = self.spawn()
        self.sessions: list[int] = []

    def spawn(self):
        return self.reactor.spawn(ReplicaFetcher, self.context, LEADER, address=fetcher_address(LEADER))

    def run(self, after_ms: float = 0.0) -> None:
        self.time.now_ms += after_ms
        while self.reactor.run_pass(0.0):
            pass

    def tell(self, *messages) -> None:
        for message in messages:
            self.fetcher.tell(message)
        self.run()

    def follow(self, *positions) -> None:
        self.tell(*(Follow(ReplicaPosition("t", partition, EPOCH, offset, EPOCH)) for partition, offset in positions))

    def unfollow(self, partition) -> None:
        self.tell(Unfollow("t", partition))

    def request(self):
        """The one request since the last look: (number, positions, forgotten partitions)."""
        (self.last,) = self.asked
        self.asked.clear()
        request = self.last.request
        if request.session not in self.sessions:
            assert request.number == 0
            self.sessions.append(request.session)
        assert request.session == self.sessions[-1]
        positions = [(position.partition, position.fetch_offset) for position in request.changed]
        return request.number, positions, [partition for _, partition in request.forgotten]

    def reply(self, *entries, to=None) -> None:
        ask = to or self.last
        states = [state for state, _ in entries]
        frames = [data for _, data in entries]
        self.tell(PeerAnswer(ask.call, ask.index, ReplicaFetchReply(states), frames=frames))

    def refuse(self, to=None) -> None:
        ask = to or self.last
        self.tell(Refusal(ask.call, ask.index, NetworkError("the link broke")))

    def heard(self, partition):
        """What a partition was told since the last look: [(error, high watermark, data)]."""
        messages, self.told[partition][:] = self.told[partition][:], []
        assert all(isinstance(message, Replicated) for message in messages)
        return [(message.state.error_code, message.state.high_watermark, message.data) for message in messages]


def entry(partition, data=b"", *, high_watermark=0, error=0, diverging=-1, epoch=EPOCH):
    return ReplicaState("t", partition, error, None, epoch, high_watermark, 0, -1, diverging), data


@pytest.fixture
def make_bench(time_class, heard_class):
    return lambda **config: Bench(time_class(), heard_class, **config)


@pytest.fixture
def bench(make_bench):
    return make_bench()


# ---- asking


def test_all_that_is_followed_is_asked_for_in_one_request(bench):
    bench.follow((0, 5), (1, 6))
    assert bench.request() == (0, [(0, 5), (1, 6)], [])
    request = bench.last.request
    assert (request.node_id, request.node_epoch, request.max_wait_ms) == (SELF, 77, 500)
    bench.reply()
    assert bench.request() == (1, [], [])


def test_nothing_is_asked_for_where_nothing_is_followed(bench):
    bench.run(10_000)
    bench.follow((0, 5))
    bench.request()
    bench.unfollow(0)
    bench.reply()
    assert bench.request() == (1, [], [0])
    bench.reply()
    bench.run(10_000)
    assert not bench.asked


def test_the_next_request_says_what_was_taken(bench):
    bench.follow((0, 5), (1, 6))
    bench.request()
    bench.reply(entry(0, b"abc", high_watermark=5))
    assert bench.heard(0) == [(0, 5, b"abc")]
    assert not bench.asked
    bench.follow((0, 8))
    assert bench.request() == (1, [(0, 8)], [])


def test_the_next_request_waits_for_all_but_not_long(bench):
    bench.follow((0, 5), (1, 6), (2, 7))
    bench.request()
    bench.reply(entry(0, b"abc"), entry(1, b"def"), entry(2, error=6))
    bench.follow((0, 8))
    bench.unfollow(2)
    assert not bench.asked
    bench.run(FLUSH_WAIT_MS)
    assert bench.request() == (1, [(0, 8)], [2])
    bench.follow((1, 9))
    assert bench.request() == (2, [(1, 9)], [])


def test_a_new_position_does_not_wait_for_a_reply(bench):
    bench.follow((0, 5))
    bench.request()
    first = bench.last
    bench.follow((1, 6))
    assert bench.request() == (1, [(1, 6)], [])
    bench.follow((2, 7))
    assert not bench.asked, "two requests are under way"
    bench.reply(to=first)
    assert bench.request() == (2, [(2, 7)], [])


def test_a_position_that_is_said_again_is_not_sent_again(bench):
    bench.follow((0, 5))
    bench.request()
    bench.reply(entry(0, high_watermark=3))
    assert bench.heard(0) == [(0, 3, b"")]
    assert bench.request() == (1, [], [])
    bench.follow((0, 5))
    assert not bench.asked


def test_a_position_is_sent_again_after_an_answer_that_left_it(bench):
    bench.follow((0, 5))
    bench.request()
    bench.reply(entry(0, diverging=4))
    bench.follow((0, 5))
    assert bench.request() == (1, [(0, 5)], [])


# ---- which answers count


def test_an_answer_to_an_earlier_position_is_dropped(bench):
    bench.follow((0, 5))
    bench.request()
    first = bench.last
    bench.follow((0, 3))
    assert bench.request() == (1, [(0, 3)], [])
    bench.reply(entry(0, b"from 5"), to=first)
    assert bench.heard(0) == []
    assert not bench.asked
    bench.reply(entry(0, b"from 3"))
    assert bench.heard(0) == [(0, 0, b"from 3")]


def test_an_answer_to_a_position_that_is_not_sent_yet_is_dropped(bench):
    bench.follow((0, 5))
    bench.request()
    first = bench.last
    bench.follow((1, 1))
    bench.request()
    bench.follow((0, 3))
    bench.reply(entry(0, b"from 5"), to=first)
    assert bench.heard(0) == []
    assert bench.request() == (2, [(0, 3)], [])


def test_what_comes_for_a_partition_that_is_not_followed_any_more_is_dropped(bench):
    bench.follow((0, 5), (1, 6))
    bench.request()
    bench.unfollow(0)
    bench.reply(entry(0, b"abc"))
    assert bench.heard(0) == []
    assert bench.request() == (1, [], [0])
    bench.follow((0, 5))
    assert bench.request() == (2, [(0, 5)], [])


def test_data_of_another_leader_epoch_become_an_error(bench):
    bench.follow((0, 5))
    bench.request()
    bench.reply(entry(0, b"abc", epoch=EPOCH + 1))
    assert bench.heard(0) == [(-1, -1, b"")]


def test_news_are_told_whatever_the_position_is(bench):
    bench.follow((0, 5), (1, 6))
    bench.request()
    bench.reply(entry(0, b"abc", high_watermark=5))
    bench.run(FLUSH_WAIT_MS)
    bench.reply(entry(0, high_watermark=6))
    assert bench.heard(0) == [(0, 5, b"abc")], "a request is answered once"
    bench.request()
    bench.reply(entry(0, high_watermark=6), entry(0, high_watermark=9, epoch=EPOCH - 1))
    assert bench.heard(0) == [(0, 6, b"")]
    assert bench.request() == (2, [], []), "news await no answer"
    bench.follow((0, 8))
    assert bench.request() == (3, [(0, 8)], [])


def test_a_partition_that_left_and_came_back_begins_anew_at_the_leader(bench):
    bench.follow((0, 5))
    bench.request()
    bench.unfollow(0)
    bench.follow((0, 5))
    assert bench.request() == (1, [(0, 5)], [0])


# ---- failures


def test_after_a_failure_a_new_session_begins_later_and_later(bench):
    bench.follow((0, 5), (1, 6))
    bench.request()
    rest_ms = REST_MS_MIN
    for _ in range(8):
        bench.refuse()
        bench.run(rest_ms - 1)
        assert not bench.asked
        bench.run(1)
        assert bench.request() == (0, [(0, 5), (1, 6)], [])
        rest_ms = min(2 * rest_ms, REST_MS_MAX)
    assert bench.sessions == sorted(set(bench.sessions))
    bench.reply()
    bench.request()
    bench.refuse()
    bench.run(REST_MS_MIN)
    assert bench.request()[0] == 0, "a reply ends the row"


def test_a_link_that_is_up_again_ends_the_rest(bench):
    bench.follow((0, 5))
    bench.request()
    bench.refuse()
    bench.tell(PeerChanged(LEADER, LinkState.DOWN), PeerChanged(9, LinkState.UP))
    assert not bench.asked
    bench.tell(PeerChanged(LEADER, LinkState.UP))
    assert bench.request() == (0, [(0, 5)], [])


def test_without_a_link_it_tries_again(bench):
    bench.reactor.stop_actor(peer_address(LEADER))
    bench.run()
    bench.follow((0, 5))
    bench.reactor.spawn(bench.heard_class, bench.asked, address=peer_address(LEADER))
    bench.run(REST_MS_MIN)
    assert bench.request() == (0, [(0, 5)], [])


def test_nothing_is_asked_for_before_the_node_is_registered(bench):
    bench.context.node_epoch = -1
    bench.follow((0, 5))
    bench.run(REST_MS_MIN)
    assert not bench.asked
    bench.context.node_epoch = 78
    bench.run(2 * REST_MS_MIN)
    assert bench.request() == (0, [(0, 5)], [])
    assert bench.last.request.node_epoch == 78


def test_what_is_being_flushed_is_not_asked_for_in_the_new_session(bench):
    bench.follow((0, 5), (1, 6))
    bench.request()
    bench.reply(entry(0, b"abc"))
    bench.run(FLUSH_WAIT_MS)
    assert bench.request() == (1, [], [])
    bench.refuse()
    bench.run(REST_MS_MIN)
    assert bench.request() == (0, [(1, 6)], []), "its position is not known yet"
    bench.follow((0, 8))
    assert bench.request() == (1, [(0, 8)], [])


def test_answers_to_a_session_that_was_given_up_are_dropped(bench):
    bench.follow((0, 5))
    bench.request()
    first = bench.last
    bench.follow((1, 6))
    bench.request()
    bench.refuse()
    bench.run(REST_MS_MIN)
    assert bench.request() == (0, [(0, 5), (1, 6)], [])
    bench.reply(entry(0, b"abc"), to=first)
    bench.refuse(to=first)
    assert bench.heard(0) == []
    assert not bench.asked


def test_a_reply_that_makes_no_sense_ends_the_session(bench):
    bench.follow((0, 5))
    bench.request()
    bench.tell(PeerAnswer(bench.last.call, 0, ReplicaFetchReply([entry(0)[0]]), frames=[]))
    bench.run(REST_MS_MIN)
    assert bench.request() == (0, [(0, 5)], [])


def test_a_partition_that_is_gone_is_not_followed(bench):
    bench.follow((0, 5), (1, 6))
    bench.request()
    bench.reactor.stop_actor(partition_address("t", 0))
    bench.run()
    bench.reply(entry(0, b"abc"))
    assert bench.request() == (1, [], [0])


def test_a_fetcher_that_fails_tells_its_partitions(bench, monkeypatch):
    bench.follow((0, 5))
    bench.request()
    monkeypatch.setattr(ReplicaFetcher, "_unfollow", lambda *_: 1 / 0)
    bench.tell(Unfollow("t", 1), Follow(ReplicaPosition("t", 1, EPOCH, 0, -1)))
    assert bench.heard(0) == [(-1, -1, b"")]
    assert bench.heard(1) == [(-1, -1, b"")]
    first = bench.sessions[0]
    bench.fetcher = bench.spawn()
    bench.follow((0, 5))
    bench.request()
    assert bench.sessions[1] != first


# ---- throttling


def test_partitions_that_are_being_added_keep_to_their_rate(make_bench):
    bench = make_bench(replication_throttled_rate=1000)
    bench.follow((0, 0), (3, 0))
    bench.request()
    bench.reply(entry(0, b"x" * 5000), entry(3, b"x" * 3000))
    bench.follow((0, 1), (3, 1))
    assert bench.request() == (1, [(0, 1)], []), "1000 bytes were there, and 2000 are owed"
    bench.run(1999)
    assert not bench.asked
    bench.run(2)
    assert bench.request() == (2, [(3, 1)], [])


def test_a_rate_that_is_set_for_all_nodes_wins_and_can_be_taken_back(bench):
    def set_rate(value):
        record = SetConfig(BROKER_RESOURCE, "", "replication.throttled.rate", value)
        bench.context.image = apply(bench.context.image, [record], TOPIC_RESOURCE)

    set_rate("1000")
    bench.follow((3, 0))
    bench.request()
    bench.reply(entry(3, b"x" * 60_000))
    bench.follow((3, 1))
    bench.run(5000)
    assert not bench.asked
    set_rate(None)
    bench.run(1000)
    assert bench.request() == (1, [(3, 1)], [])


def test_without_a_rate_nothing_is_throttled(bench):
    bench.follow((3, 0))
    bench.request()
    bench.reply(entry(3, b"x" * 3000))
    bench.follow((3, 1))
    assert bench.request() == (1, [(3, 1)], [])
