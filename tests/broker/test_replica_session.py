"""A fetcher and a server with anything happening between them: every follower ends with its leader's log, no more."""

from __future__ import annotations

from collections import Counter, deque
from random import Random
from types import SimpleNamespace
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from zmqbroker.actors.actor import ReactorActor
from zmqbroker.actors.commands import EndWait, Refusal, tell_back
from zmqbroker.actors.context import fetcher_address, partition_address, peer_address, replica_server_address
from zmqbroker.actors.peer_commands import (
    AskPeer,
    Follow,
    FollowerAt,
    FollowerData,
    FollowerGone,
    FollowerNews,
    FollowerRead,
    FollowerReady,
    PeerAnswer,
    PeerChanged,
    ReplicaFetchCommand,
    Replicated,
    Unfollow,
)
from zmqbroker.actors.reactor import Reactor
from zmqbroker.actors.replica_fetcher import ReplicaFetcher
from zmqbroker.actors.replica_server import ReplicaServer
from zmqbroker.errors import NetworkError
from zmqbroker.quorum.image import MetadataImage, NodeImage, PartitionImage, TopicImage
from zmqbroker.settings import broker_config
from zmqbroker.transport.network import LinkState
from zmqbroker.transport.peer_messages import ReplicaFetchReply, ReplicaFetchRequest, ReplicaPosition, ReplicaState

LEADER, FOLLOWER = 1, 2
PARTITIONS = 3
RECORD_BYTES = 10
NOT_LEADER = 6


class Log:
    """Records by offset, each the leader epoch that wrote it and a value of its own."""

    def __init__(self) -> None:
        self.records: list[tuple[int, int]] = []
        self.epoch = 1
        """The leader epoch that its replica knows."""
        self.high_watermark = 0
        self.flushed = 0

    @property
    def end(self) -> int:
        return len(self.records)

    @property
    def last_epoch(self) -> int:
        return self.records[-1][0] if self.records else -1

    def end_of(self, epoch: int) -> tuple[int, int]:
        """The largest epoch up to this one, and where it ends."""
        end = sum(record[0] <= epoch for record in self.records)
        return (self.records[end - 1][0], end) if end else (-1, 0)

    def cut(self, end: int) -> None:
        del self.records[end:]
        self.high_watermark = min(self.high_watermark, end)
        self.flushed = min(self.flushed, end)


class Leader(ReactorActor):
    """Leads a partition; says what actors/leading.py would."""

    def __init__(self, log: Log, partition: int) -> None:
        super().__init__()
        self.log, self.partition = log, partition
        self.followers: dict[int, list[Any]] = {}  # server, offset, whether it was told that there is more

    def state(self, error: int = 0, diverging: tuple[int, int] = (-1, -1)) -> ReplicaState:
        return ReplicaState("t", self.partition, error, None, self.log.epoch, self.log.high_watermark, 0, *diverging)

    def on_receive(self, message: Any) -> None:
        if isinstance(message, FollowerAt):
            self.follower_at(message)
        elif isinstance(message, FollowerGone):
            self.followers.pop(message.node_id, None)
        elif isinstance(message, FollowerRead) and message.node_id in self.followers:
            server, offset, _ = self.followers[message.node_id]
            records = self.log.records[offset : offset + max(1, message.max_bytes // RECORD_BYTES)]
            data = msgspec.msgpack.encode((offset, records)) if records else b""
            tell_back(server, FollowerData(self.state(), data))
        elif message == "more":
            self.say_ready()
        elif message == "news":
            self.say_news()
        elif message == "epoch":
            self.end_role()

    def follower_at(self, at: FollowerAt) -> None:
        log = self.log
        if at.leader_epoch != log.epoch:
            tell_back(at.reply_to, FollowerData(self.state(NOT_LEADER), b""))
            return
        epoch, end = (log.epoch, log.end) if at.last_fetched_epoch == log.epoch else log.end_of(at.last_fetched_epoch)
        if at.fetch_offset and (epoch < at.last_fetched_epoch or end < at.fetch_offset):
            tell_back(at.reply_to, FollowerData(self.state(diverging=(epoch, end)), b""))
            return
        known = self.followers.get(at.node_id)
        self.followers[at.node_id] = [at.reply_to, at.fetch_offset, False]
        if known is None or known[0] != at.reply_to:
            self.say_news()
        if at.fetch_offset > log.high_watermark:
            log.high_watermark = at.fetch_offset
            self.say_news()
        self.say_ready()

    def say_news(self) -> None:
        for server, _, _ in self.followers.values():
            tell_back(server, FollowerNews("t", self.partition, self.log.epoch, self.log.high_watermark, 0))

    def say_ready(self) -> None:
        for follower in self.followers.values():
            if follower[1] < self.log.end and not follower[2]:
                follower[2] = True
                tell_back(follower[0], FollowerReady("t", self.partition))

    def end_role(self) -> None:
        for server, _, _ in self.followers.values():
            tell_back(server, FollowerData(self.state(NOT_LEADER), b""))
        self.followers.clear()

    def on_stop(self) -> None:
        self.end_role()
        for message in self.actor_inbox.take_told():
            if isinstance(message, FollowerAt):
                tell_back(message.reply_to, FollowerData(self.state(NOT_LEADER), b""))


class Follower(ReactorActor):
    """Follows a partition; does what actors/following.py would. What it takes is flushed when the test says so."""

    def __init__(self, world: World, log: Log, partition: int) -> None:
        super().__init__()
        self.world, self.log, self.partition = world, log, partition
        self.asked = False
        self.pausing = False

    def on_start(self) -> None:
        self.go_on()

    def tell_fetcher(self, message: Any, *, spawn: bool) -> None:
        address = fetcher_address(LEADER)
        if not self.reactor.tell(address, message) and spawn:
            self.reactor.spawn(ReplicaFetcher, self.world.follower, LEADER, address=address).tell(message)

    def go_on(self) -> None:
        log = self.log
        if log.flushed < log.end or self.pausing:
            return
        self.asked = True
        self.position = position = ReplicaPosition("t", self.partition, log.epoch, log.end, log.last_epoch)
        self.tell_fetcher(Follow(position), spawn=True)

    def on_receive(self, message: Any) -> None:
        if isinstance(message, Replicated):
            if message.is_news:
                self.take_news(message.state)
            elif self.asked and message.position == self.position:
                self.asked = False
                self.take(message)
        elif message == "flush":
            self.log.flushed = self.log.end
            if not self.asked:
                self.go_on()
        elif isinstance(message, EndWait):
            self.pausing = False
            self.go_on()
        else:
            self.tell_fetcher(Unfollow("t", self.partition), spawn=False)
            self.asked, self.log.epoch = False, message
            self.go_on()

    def take(self, news: Replicated) -> None:
        state, log = news.state, self.log
        if state.error_code:
            self.tell_fetcher(Unfollow("t", self.partition), spawn=False)
            self.pausing = True
            tell, address = self.reactor.tell, self.address
            self.reactor.call_later(10.0, lambda: tell(address, EndWait(None)))
            return
        assert state.leader_epoch == log.epoch
        if state.diverging_end >= 0:
            log.cut(min(state.diverging_end, log.end_of(state.diverging_epoch)[1]))
        elif news.data:
            base, records = msgspec.msgpack.decode(news.data)
            assert base == log.end, f"records from {base} on for a log that ends at {log.end}"
            log.records += [(epoch, value) for epoch, value in records]
            self.take_news(state)
        self.go_on()

    def take_news(self, state: ReplicaState) -> None:
        log = self.log
        if state.leader_epoch == log.epoch:
            log.high_watermark = max(log.high_watermark, min(state.high_watermark, log.end))


class Link(ReactorActor):
    """The link to the leader: requests, and their answers, are under way until the test delivers them."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def on_receive(self, ask: AskPeer) -> None:
        world = self.world
        if not world.is_up:
            tell_back(ask.reply_to, Refusal(ask.call, ask.index, NetworkError("the link is down")))
            return
        world.asks[ask.call] = ask
        world.requests.append((world.connection, ask.call, msgspec.msgpack.encode(ask.request)))


class Connections(ReactorActor):
    """Takes the server's answers to the wire, each to the connection that its request came by."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def on_receive(self, answer: PeerAnswer | Refusal) -> None:
        connection, call = answer.call
        body = answer.error if isinstance(answer, Refusal) else (msgspec.msgpack.encode(answer.body), answer.frames)
        if connection == self.world.connection:
            self.world.replies.append((call, body))


class World:
    """A leader node and a follower node, and what happens to them."""

    def __init__(self, time: Any) -> None:
        self.time = time
        self.leader, self.follower = self.node(LEADER), self.node(FOLLOWER)
        self.is_up = True
        self.connection = 0
        self.asks: dict[Any, AskPeer] = {}
        self.requests: deque[Any] = deque()
        self.stale: deque[Any] = deque()
        self.replies: deque[Any] = deque()
        self.values = 0
        self.led = [Log() for _ in range(PARTITIONS)]
        self.followed = [Log() for _ in range(PARTITIONS)]
        self.leader.reactor.spawn(Connections, self, address="connections")
        self.follower.reactor.spawn(Link, self, address=peer_address(LEADER))
        for partition in range(PARTITIONS):
            self.make_leader(partition)
            self.make_follower(partition)

    def node(self, node_id: int) -> Any:
        state = PartitionImage((1, 2), (1, 2), LEADER, 1)
        return SimpleNamespace(
            config=broker_config(
                {
                    "node_id": node_id,
                    "replica_fetch_max_bytes": 3 * RECORD_BYTES,
                    "replica_fetch_response_max_bytes": 5 * RECORD_BYTES,
                }
            ),
            reactor=Reactor(self.time, self.time),
            clock=self.time,
            random=Random(node_id),
            counters=Counter(),
            node_epoch=7,
            image=MetadataImage(
                nodes={FOLLOWER: NodeImage(FOLLOWER, "h", 1, "", 7)},
                topics={"t": TopicImage("t", "id", (state,) * PARTITIONS)},
            ),
        )

    def make_leader(self, partition: int) -> None:
        address = partition_address("t", partition)
        if self.leader.reactor.lookup(address) is None:
            self.leader.reactor.spawn(Leader, self.led[partition], partition, address=address)

    def make_follower(self, partition: int) -> None:
        address = partition_address("t", partition)
        self.follower.reactor.spawn(Follower, self, self.followed[partition], partition, address=address)

    def run(self) -> None:
        while any([self.leader.reactor.run_pass(0.0), self.follower.reactor.run_pass(0.0)]):
            pass

    # ---- what may happen

    def append(self, partition: int, count: int) -> None:
        log = self.led[partition]
        log.records += [(log.epoch, value) for value in range(self.values, self.values + count)]
        self.values += count
        self.leader.reactor.tell(partition_address("t", partition), "more")

    def commit(self, partition: int) -> None:
        """The high watermark moves, for another follower's sake."""
        log = self.led[partition]
        log.high_watermark = min(log.high_watermark + 1, log.end)
        self.leader.reactor.tell(partition_address("t", partition), "news")

    def one_pass(self, node: int) -> None:
        (self.leader, self.follower)[node].reactor.run_pass(0.0)

    def stale_request(self) -> None:
        """A request arrives by a connection that is broken."""
        self.request(self.stale)

    def request(self, of: deque[Any] | None = None) -> None:
        """A request arrives."""
        queue = self.requests if of is None else of
        if not queue:
            return
        connection, call, body = queue.popleft()
        address, reactor = replica_server_address(FOLLOWER), self.leader.reactor
        server = reactor.lookup(address) or reactor.spawn(ReplicaServer, self.leader, FOLLOWER, address=address)
        request = msgspec.msgpack.decode(body, type=ReplicaFetchRequest)
        server.tell(ReplicaFetchCommand(reactor.lookup("connections"), (connection, call), 0, request))

    def reply(self) -> None:
        if self.replies:
            call, body = self.replies.popleft()
            ask = self.asks.pop(call)
            if isinstance(body, tuple):
                reply = msgspec.msgpack.decode(body[0], type=ReplicaFetchReply)
                tell_back(ask.reply_to, PeerAnswer(call, ask.index, reply, frames=body[1]))
            else:
                tell_back(ask.reply_to, Refusal(call, ask.index, body))

    def break_link(self) -> None:
        """Replies are lost; requests may be under way for ever, and arrive at any time."""
        self.is_up = False
        self.connection += 1
        self.stale += self.requests
        self.requests.clear()
        self.replies.clear()
        asks, self.asks = self.asks, {}
        for call, ask in asks.items():
            tell_back(ask.reply_to, Refusal(call, ask.index, NetworkError("the link broke")))

    def mend_link(self) -> None:
        if not self.is_up:
            self.is_up = True
            self.follower.reactor.tell(fetcher_address(LEADER), PeerChanged(LEADER, LinkState.UP))

    def wait(self, ms: float) -> None:
        self.time.now_ms += ms

    def flush(self, partition: int) -> None:
        self.follower.reactor.tell(partition_address("t", partition), "flush")

    def elect(self, partition: int, lost: int) -> None:
        """A new leader epoch begins, and its leader may not have the last records; the follower hears of it later."""
        log = self.led[partition]
        log.epoch += 1
        log.cut(max(0, log.end - lost))
        self.leader.reactor.tell(partition_address("t", partition), "epoch")

    def learn(self, partition: int) -> None:
        """The follower hears of the leader epoch."""
        if self.followed[partition].epoch < self.led[partition].epoch:
            self.follower.reactor.tell(partition_address("t", partition), self.led[partition].epoch)

    def stop_leader(self, partition: int) -> None:
        self.leader.reactor.stop_actor(partition_address("t", partition))

    def crash_follower(self, partition: int) -> None:
        """A follower's actor dies and is made anew; what it had not flushed may be lost."""
        self.follower.reactor.stop_actor(partition_address("t", partition))
        while self.follower.reactor.lookup(partition_address("t", partition)) is not None:
            self.follower.reactor.run_pass(0.0)
        log = self.followed[partition]
        log.cut(log.flushed)
        self.make_follower(partition)

    def crash_server(self) -> None:
        self.leader.reactor.tell(replica_server_address(FOLLOWER), FollowerReady([], 0))  # type: ignore[arg-type]

    def crash_fetcher(self) -> None:
        self.follower.reactor.tell(fetcher_address(LEADER), Unfollow([], 0))  # type: ignore[arg-type]

    def do(self, step: tuple[Any, ...]) -> None:
        getattr(self, step[0])(*step[1:])

    def heal(self) -> None:
        """Nothing goes wrong any more, for as long as a healthy cluster needs."""
        self.mend_link()
        for partition in range(PARTITIONS):
            self.run()
            self.make_leader(partition)
            self.learn(partition)
        for _ in range(300):
            self.run()
            for partition in range(PARTITIONS):
                self.flush(partition)
            while self.requests or self.replies:
                self.request()
                self.reply()
                self.run()
            self.wait(10.0)


partitions = st.integers(0, PARTITIONS - 1)
STEPS = st.one_of(
    st.tuples(st.just("append"), partitions, st.integers(1, 8)),
    st.tuples(st.just("commit"), partitions),
    st.tuples(st.just("one_pass"), st.integers(0, 1)),
    st.tuples(st.just("run")),
    st.tuples(st.just("run")),
    st.tuples(st.just("request")),
    st.tuples(st.just("request")),
    st.tuples(st.just("stale_request")),
    st.tuples(st.just("reply")),
    st.tuples(st.just("reply")),
    st.tuples(st.just("flush"), partitions),
    st.tuples(st.just("flush"), partitions),
    st.tuples(st.just("wait"), st.sampled_from([5.0, 25.0, 60.0, 500.0])),
    st.tuples(st.just("break_link")),
    st.tuples(st.just("mend_link")),
    st.tuples(st.just("elect"), partitions, st.integers(0, 2)),
    st.tuples(st.just("learn"), partitions),
    st.tuples(st.just("stop_leader"), partitions),
    st.tuples(st.just("make_leader"), partitions),
    st.tuples(st.just("crash_follower"), partitions),
    st.tuples(st.just("crash_server")),
    st.tuples(st.just("crash_fetcher")),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, max_size=80))
@example([("append", 0, 8), ("run",), ("request",), ("run",), ("reply",)])
def test_every_follower_ends_with_the_log_of_its_leader(time_class, steps):
    world = World(time_class())
    for step in steps:
        world.do(step)
    world.heal()
    for led, followed in zip(world.led, world.followed, strict=True):
        assert followed.records == led.records
        assert followed.high_watermark == led.high_watermark == led.end
