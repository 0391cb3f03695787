"""What a follower node is served: sessions, positions told once, reads within the budget, one answer a request."""

from __future__ import annotations

from collections import Counter
from random import Random
from types import SimpleNamespace

import pytest
from zmqbroker.actors.commands import EndWait, Refusal
from zmqbroker.actors.context import partition_address, replica_server_address
from zmqbroker.actors.peer_commands import (
    FollowerAt,
    FollowerData,
    FollowerGone,
    FollowerNews,
    FollowerRead,
    FollowerReady,
    PeerAnswer,
    ReplicaFetchCommand,
)
from zmqbroker.actors.reactor import Reactor
from zmqbroker.actors.replica_server import SESSION_BITS, ReplicaServer
from zmqbroker.quorum.image import MetadataImage, NodeImage, PartitionImage, TopicImage
from zmqbroker.settings import broker_config
from zmqbroker.transport.peer_messages import ReplicaFetchRequest, ReplicaPosition, ReplicaState

FOLLOWER, LEADER = 2, 1
NODE_EPOCH = 77
SESSION = 5 << SESSION_BITS
WAIT_MS = 500


class Bench:
    """A server, the partitions t-0 to t-3, and a follower that asks."""

    def __init__(self, time, heard, partitions: int = 4) -> None:
        self.time = time
        self.reactor = Reactor(self.time, self.time)
        state = PartitionImage((1, 2), (1, 2), LEADER, 3)
        self.context = SimpleNamespace(
            config=broker_config({"node_id": LEADER, "replica_fetch_max_bytes": 100}),
            reactor=self.reactor,
            clock=self.time,
            random=Random(1),
            counters=Counter(),
            image=MetadataImage(
                nodes={FOLLOWER: NodeImage(FOLLOWER, "h", 1, "", NODE_EPOCH, fenced=False)},
                topics={"t": TopicImage("t", "id", (state,) * (partitions + 1))},
            ),
        )
        self.told: list[list] = [[] for _ in range(partitions)]
        for number, told in enumerate(self.told):
            self.reactor.spawn(heard, told, address=partition_address("t", number))
        self.answers: list = []
        self.asker = self.reactor.spawn(heard, self.answers, address="asker")
        self.server = self.spawn()

    def spawn(self):
        return self.reactor.spawn(ReplicaServer, self.context, FOLLOWER, address=replica_server_address(FOLLOWER))

    def run(self, after_ms: float = 0.0) -> None:
        self.time.now_ms += after_ms
        while self.reactor.run_pass(0.0):
            pass

    def tell(self, *messages) -> None:
        for message in messages:
            self.server.tell(message)
        self.run()

    def fetch(self, number, changed=(), forgotten=(), *, session=SESSION, node_epoch=NODE_EPOCH, max_bytes=1000):
        request = ReplicaFetchRequest(
            *(FOLLOWER, node_epoch, session, number, WAIT_MS, max_bytes),
            [ReplicaPosition("t", partition, 3, offset, 3) for partition, offset in changed],
            [("t", partition) for partition in forgotten],
        )
        self.tell(ReplicaFetchCommand(self.asker, (session, number), 0, request))

    def take_told(self, partition):
        taken, self.told[partition][:] = self.told[partition][:], []
        return taken

    def positions(self):
        """Which positions the partitions were told since the last look."""
        found = [(number, message) for number in range(len(self.told)) for message in self.take_told(number)]
        assert all(isinstance(message, FollowerAt) for _, message in found), found
        return [(number, message.fetch_offset) for number, message in found]

    def answer(self):
        """The one answer since the last look: which request, and [(partition, error, high watermark, data)]."""
        (message,) = self.answers
        self.answers.clear()
        assert isinstance(message, PeerAnswer), message
        entries = zip(message.body.partitions, message.frames, strict=True)
        return message.call[1], [(s.partition, s.error_code, s.high_watermark, data) for s, data in entries]

    def refusal(self):
        (message,) = self.answers
        self.answers.clear()
        assert isinstance(message, Refusal), message
        return message.call[1], message.error.name


def ready(partition):
    return FollowerReady("t", partition)


def data(partition, batches=b"", *, high_watermark=0, error=0, diverging=-1):
    return FollowerData(ReplicaState("t", partition, error, None, 3, high_watermark, 0, -1, diverging), batches)


def news(partition, high_watermark, epoch=3):
    return FollowerNews("t", partition, epoch, high_watermark, 0)


@pytest.fixture
def bench(time_class, heard_class):
    return Bench(time_class(), heard_class)


# ---- long poll


def test_a_session_begins_with_all_positions_and_its_first_fetch_waits(bench):
    bench.fetch(0, [(0, 7), (1, 8)])
    (at,) = bench.told[0]
    assert (at.node_id, at.node_epoch, at.leader_epoch, at.fetch_offset, at.last_fetched_epoch) == (2, 77, 3, 7, 3)
    assert bench.positions() == [(0, 7), (1, 8)]
    bench.run(WAIT_MS - 1)
    assert not bench.answers
    bench.run(1)
    assert bench.answer() == (0, [])


def test_an_idle_fetch_costs_nothing_for_its_partitions(bench):
    bench.fetch(0, [(0, 7), (1, 8)])
    bench.positions()
    for number in range(1, 5):
        bench.run(WAIT_MS)
        bench.answer()
        bench.fetch(number)
    assert bench.positions() == []


def test_what_comes_is_read_and_answered_at_once(bench):
    bench.fetch(0, [(0, 7), (1, 8)])
    bench.positions()
    bench.tell(ready(1))
    (read,) = bench.take_told(1)
    assert isinstance(read, FollowerRead)
    assert read.max_bytes == 100
    bench.tell(data(1, b"abc", high_watermark=8))
    assert bench.answer() == (0, [(1, 0, 8, b"abc")])
    bench.fetch(1, [(1, 9)])
    assert bench.positions() == [(1, 9)]


def test_partitions_that_are_ready_together_are_answered_together(bench):
    bench.fetch(0, [(0, 7), (1, 8), (2, 9)])
    bench.positions()
    bench.tell(ready(2), ready(0))
    bench.tell(data(2, b"c"))
    assert not bench.answers, "a read is under way"
    bench.tell(data(0, b"a"))
    assert bench.answer() == (0, [(2, 0, 0, b"c"), (0, 0, 0, b"a")])


def test_what_is_ready_before_the_request_is_read_when_it_comes(bench):
    bench.fetch(0, [(0, 7)])
    bench.run(WAIT_MS)
    bench.answer()
    bench.positions()
    bench.tell(ready(0))
    assert bench.take_told(0) == []
    bench.fetch(1)
    assert isinstance(bench.take_told(0)[0], FollowerRead)


def test_reads_stay_within_the_bytes_of_the_request_and_the_others_are_next(bench):
    bench.fetch(0, [(0, 0), (1, 0), (2, 0)], max_bytes=150)
    bench.positions()
    bench.tell(ready(0), ready(1), ready(2))
    assert [message.max_bytes for partition in (0, 1, 2) for message in bench.take_told(partition)] == [100, 50]
    bench.tell(data(0, b"x" * 100), data(1, b"x" * 50))
    assert [entry[0] for entry in bench.answer()[1]] == [0, 1]
    bench.fetch(1, [(0, 1), (1, 1)], max_bytes=150)
    assert isinstance(bench.take_told(2)[0], FollowerRead)


def test_room_that_a_read_leaves_is_used_for_the_next(bench):
    bench.fetch(0, [(0, 0), (1, 0)], max_bytes=100)
    bench.positions()
    bench.tell(ready(0), ready(1))
    assert bench.take_told(1) == []
    bench.tell(data(0, b"x" * 10))
    assert bench.take_told(1)[0].max_bytes == 90


def test_the_time_of_an_earlier_request_does_not_end_this_one(bench):
    bench.fetch(0, [(0, 7)])
    bench.tell(EndWait("another request"))
    assert not bench.answers


def test_data_that_were_not_asked_for_are_dropped(bench):
    bench.fetch(0, [(0, 7)])
    bench.positions()
    bench.tell(data(0, b"for an earlier position"))
    assert not bench.answers
    bench.tell(ready(0))
    assert isinstance(bench.take_told(0)[0], FollowerRead)


# ---- news


def test_news_wait_for_the_next_answer(bench):
    bench.fetch(0, [(0, 7), (1, 8)])
    bench.tell(news(0, 5), news(0, 6), news(1, 7, epoch=2), news(3, 9))
    assert not bench.answers
    bench.run(WAIT_MS)
    assert bench.answer() == (0, [(0, 0, 6, b"")])
    bench.positions()
    bench.fetch(1)
    bench.tell(ready(0))
    assert isinstance(bench.take_told(0)[0], FollowerRead), "news do not answer a position"


def test_news_are_merged_with_data(bench):
    bench.fetch(0, [(0, 7)])
    bench.tell(news(0, 5), ready(0))
    bench.tell(data(0, b"a", high_watermark=6))
    assert bench.answer() == (0, [(0, 0, 6, b"a")])
    bench.fetch(1, [(0, 8)])
    bench.tell(ready(0))
    bench.tell(data(0, b"b", high_watermark=7), news(0, 8))
    assert bench.answer() == (1, [(0, 0, 8, b"b")])


def test_news_are_told_again_in_a_new_session(bench):
    bench.fetch(0, [(0, 7), (1, 8), (2, 9)])
    bench.tell(news(0, 5), ready(1))
    bench.tell(data(1, b"a", high_watermark=8))
    bench.answers.clear()
    bench.fetch(0, [(0, 7), (2, 9), (1, 8)], session=SESSION + 1)
    bench.run(WAIT_MS)
    assert bench.answer() == (0, [(0, 0, 5, b""), (1, 0, 8, b"")])


# ---- errors


def test_an_error_or_parted_logs_are_answered_at_once_and_await_a_position(bench):
    bench.fetch(0, [(0, 7), (1, 8)])
    bench.positions()
    bench.tell(data(0, error=6), data(1, diverging=3))
    assert bench.answer() == (0, [(0, 6, 0, b""), (1, 0, 0, b"")])
    bench.fetch(1)
    bench.tell(ready(0), data(0, error=6))
    assert bench.take_told(0) == []
    assert not bench.answers
    bench.fetch(2, [(0, 7)])
    assert bench.positions() == [(0, 7)]


def test_a_partition_that_is_not_here_is_answered_with_the_reason(bench):
    bench.fetch(0, [(4, 0), (9, 0)])
    assert bench.answer() == (0, [(4, 5, -1, b""), (9, 3, -1, b"")])


def test_a_read_that_finds_nothing_tells_the_position_again(bench):
    bench.fetch(0, [(0, 7)])
    bench.tell(ready(0))
    bench.take_told(0)
    bench.tell(data(0))
    assert bench.positions() == [(0, 7)]
    assert not bench.answers
    bench.tell(ready(0))
    bench.tell(data(0))
    assert bench.answer() == (0, [(0, -1, -1, b"")]), "no partition says twice that there is more when there is not"


# ---- requests that take the place of others


def test_a_second_request_takes_the_place_of_the_one_that_waits(bench):
    bench.fetch(0, [(0, 7)])
    bench.tell(news(0, 3))
    bench.fetch(1, [(1, 8)])
    assert bench.answer() == (0, [(0, 0, 3, b"")])
    bench.run(WAIT_MS - 1)
    assert not bench.answers, "its own time counts"
    bench.run(1)
    assert bench.answer() == (1, [])


def test_data_that_come_after_the_replacement_are_in_the_second_answer(bench):
    bench.fetch(0, [(0, 7), (1, 8)])
    bench.tell(ready(0), ready(1))
    bench.tell(data(0, b"a"))
    bench.fetch(1)
    assert bench.answer() == (0, [(0, 0, 0, b"a")])
    bench.tell(data(1, b"b"))
    assert bench.answer() == (1, [(1, 0, 0, b"b")])


def test_a_position_that_moves_during_a_read_is_told_after_it(bench):
    bench.fetch(0, [(0, 7)])
    bench.positions()
    bench.tell(ready(0))
    bench.take_told(0)
    bench.fetch(1, [(0, 5)])
    assert bench.answer() == (0, [])
    assert bench.take_told(0) == []
    bench.tell(data(0, b"for offset 7"))
    assert bench.positions() == [(0, 5)]
    assert not bench.answers


def test_a_partition_that_is_forgotten_during_a_read_may_come_back(bench):
    bench.fetch(0, [(0, 7)])
    bench.tell(ready(0))
    bench.take_told(0)
    bench.fetch(1, forgotten=[0])
    assert [type(message) for message in bench.take_told(0)] == [FollowerGone]
    bench.fetch(2, [(0, 4)])
    bench.tell(data(0, b"for offset 7"))
    assert bench.positions() == [(0, 4)]
    bench.tell(ready(0))
    bench.tell(data(0, b"d"))
    assert bench.answers[-1].frames == [b"d"]


def test_a_forgotten_partition_is_silent(bench):
    bench.fetch(0, [(0, 7)])
    bench.tell(news(0, 4), ready(0))
    bench.fetch(1, forgotten=[0, 1])
    bench.answers.clear()
    bench.tell(data(0, b"x"), ready(0), news(0, 5))
    bench.run(WAIT_MS)
    assert bench.answer() == (1, [])


# ---- sessions


def test_a_fetch_that_is_not_the_next_of_its_session_changes_nothing(bench):
    bench.fetch(0, [(0, 7)])
    bench.positions()
    for number, session, name in (
        (1, SESSION + 1, "FETCH_SESSION_ID_NOT_FOUND"),
        (2, SESSION, "INVALID_FETCH_SESSION_EPOCH"),
        (0, SESSION, "INVALID_FETCH_SESSION_EPOCH"),
    ):
        bench.fetch(number, [(1, 1)], session=session)
        assert bench.refusal() == (number, name)
    assert bench.positions() == []
    bench.run(WAIT_MS)
    assert bench.answer() == (0, []), "the request that waited was not touched"


def test_a_session_that_is_over_does_not_come_back(bench):
    bench.fetch(0, session=SESSION + 1)
    bench.fetch(0, session=SESSION)
    assert bench.refusal() == (0, "INVALID_FETCH_SESSION_EPOCH")
    bench.fetch(0, session=1 << SESSION_BITS)
    assert bench.refusal() == (0, "INVALID_FETCH_SESSION_EPOCH"), "that of the session before: another fetcher began"


def test_a_new_session_takes_the_place_of_all_that_was(bench):
    bench.fetch(0, [(0, 7), (1, 8), (2, 9)])
    bench.positions()
    bench.tell(ready(1), ready(2))
    bench.take_told(1), bench.take_told(2)
    bench.tell(data(2, b"old"))
    bench.fetch(0, [(1, 6), (2, 9)], session=SESSION + 1)
    assert bench.refusal() == (0, "INVALID_FETCH_SESSION_EPOCH")
    assert [type(message) for message in bench.take_told(0)] == [FollowerGone]
    assert bench.positions() == [(2, 9)]
    bench.tell(data(1, b"old"))
    assert bench.positions() == [(1, 6)]
    bench.run(WAIT_MS)
    assert bench.answer() == (0, [(2, 0, 0, b"")]), "news only"


@pytest.mark.parametrize(
    ("node_epoch", "name"), [(NODE_EPOCH - 1, "STALE_BROKER_EPOCH"), (NODE_EPOCH + 1, "BROKER_ID_NOT_REGISTERED")]
)
def test_another_process_of_the_node_is_refused(bench, node_epoch, name):
    bench.fetch(0, [(0, 7)], node_epoch=node_epoch)
    assert bench.refusal() == (0, name)
    assert bench.positions() == []


def test_a_node_that_is_not_registered_is_refused(bench):
    bench.context.image = MetadataImage()
    bench.fetch(0, [(0, 7)])
    assert bench.refusal() == (0, "BROKER_ID_NOT_REGISTERED")


def test_a_session_ends_with_the_process_that_began_it(bench):
    bench.fetch(0, [(0, 7)])
    bench.context.image = MetadataImage(nodes={FOLLOWER: NodeImage(FOLLOWER, "h", 1, "", NODE_EPOCH + 1)})
    bench.fetch(1, node_epoch=NODE_EPOCH + 1)
    assert bench.refusal() == (1, "FETCH_SESSION_ID_NOT_FOUND")


# ---- the end


def test_the_request_that_waits_is_refused_when_the_node_stops(bench):
    bench.fetch(0, [(0, 7)])
    bench.server.stop(block=False)
    bench.run()
    assert bench.refusal() == (0, "BROKER_NOT_AVAILABLE")


def test_a_server_that_fails_says_so_and_the_next_one_knows_no_session(bench, monkeypatch):
    bench.fetch(0, [(0, 7)])
    monkeypatch.setattr(ReplicaServer, "_on_ready", lambda *_: 1 / 0)
    bench.tell(ready(0))
    assert bench.refusal() == (0, "UNKNOWN_SERVER_ERROR")
    bench.server = bench.spawn()
    bench.fetch(1)
    assert bench.refusal() == (1, "FETCH_SESSION_ID_NOT_FOUND")
