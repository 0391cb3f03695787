"""Tables of consumer groups, and of transactional ids, in virtual time, with logs that can be read again."""

from __future__ import annotations

from typing import Any

import pytest
from zmqbroker.errors import BrokerError, InvalidTopicError, UnknownTopicOrPartitionError
from zmqbroker.groups.consumer_protocol import Subscription, encode_subscription
from zmqbroker.groups.effects import Now
from zmqbroker.groups.group_table import GroupTable
from zmqbroker.groups.transaction_records import State, TransactionState, decode
from zmqbroker.groups.transaction_table import TransactionTable
from zmqbroker.settings import BrokerConfig
from zmqbroker.transport import group_messages as g
from zmqbroker.transport import transaction_messages as tm
from zmqbroker.transport.messages import InitProducerIdRequest

WALL_MS = 1_700_000_000_000
TOPICS = {"t": 8, "u": 4}
TRANSACTION_MS = 60_000
OFFSETS_PLACE = ("__consumer_offsets", 3)


class Waiting:
    """A request, and what it was answered with."""

    def __init__(self, request: Any) -> None:
        self.request = request
        self.answer: Any = None

    @property
    def error(self) -> str:
        """The name of the error; empty: none."""
        assert self.answer is not None, f"{self.request} is not answered"
        return self.answer.name if isinstance(self.answer, BrokerError) else ""

    @property
    def body(self) -> Any:
        assert self.answer is not None, f"{self.request} is not answered"
        assert not isinstance(self.answer, BrokerError), repr(self.answer)
        return self.answer


class World:
    """One coordinator's state machine."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.config = BrokerConfig(**settings)
        self.table = GroupTable(self.config)
        self.ms = 1000.0
        self.log: list[tuple[bytes, bytes | None]] = []
        self.topics = dict(TOPICS)
        self.ids = 0
        self.table.loaded(self.now, lambda topic: topic in self.topics)

    @property
    def now(self) -> Now:
        return Now(self.ms, WALL_MS + int(self.ms))

    # ---- doing

    def take(self) -> None:
        records, answers = self.table.effects.take()
        self.log += records
        for token, answer in answers:
            assert token.answer is None, f"{token.request} was answered twice"
            token.answer = answer

    def ask(self, handle: Any, request: Any, *more: Any) -> Waiting:
        """Ask the table something that it may answer later."""
        waiting = Waiting(request)
        try:
            handle(waiting, request, *more, self.now)
        except BrokerError as error:
            assert not self.table.effects.records, "something changed before the error"
            waiting.answer = error
        self.take()
        return waiting

    def do(self, handle: Any, *arguments: Any) -> Waiting:
        """Ask the table something that it answers at once."""
        waiting = Waiting(arguments)
        try:
            waiting.answer = handle(*arguments)
        except BrokerError as error:
            assert not self.table.effects.records, "something changed before the error"
            waiting.answer = error
        self.take()
        return waiting

    def new_id(self) -> str:
        self.ids += 1
        return f"m{self.ids}"

    def advance(self, ms: float) -> None:
        """Let time pass, deadline by deadline."""
        end = self.ms + ms
        while (due := self.table.deadline_ms()) <= end:
            self.ms = max(self.ms, due)
            self.table.tick(self.now)
            self.take()
        self.ms = end

    def restart(self) -> None:
        """A new process reads the log, of which compaction has kept the last record of each key."""
        self.table = GroupTable(self.config)
        last = {key: index for index, (key, _) in enumerate(self.log)}
        for index, (key, value) in enumerate(self.log):
            if last[key] == index:
                self.table.replay(key, value)
        self.table.loaded(self.now, lambda topic: topic in self.topics)
        self.take()

    # ---- requests

    def join(self, member_id: str = "", group: str = "g", **options: Any) -> Waiting:
        topics = options.pop("topics", ("t",))
        protocols = options.pop("protocols", None)
        if protocols is None:
            protocols = [("range", encode_subscription(Subscription(tuple(topics))))]
        request = g.JoinGroupRequest(
            group,
            options.pop("session_ms", 10_000),
            options.pop("rebalance_ms", 30_000),
            member_id,
            options.pop("instance", None),
            options.pop("type", "consumer"),
            protocols,
            options.pop("reason", None),
            options.pop("require_id", False),
        )
        assert not options
        return self.ask(lambda token, asked, now: self.table.join(token, asked, "client", self.new_id, now), request)

    def sync(self, joined: Any, assignments: Any = (), group: str = "g", **options: Any) -> Waiting:
        request = g.SyncGroupRequest(
            group,
            options.pop("generation", joined.generation_id),
            options.pop("member_id", joined.member_id),
            options.pop("instance", None),
            options.pop("type", None),
            options.pop("protocol", None),
            list(assignments),
        )
        assert not options
        return self.ask(self.table.sync, request)

    def heartbeat(self, member_id: str, generation: int, wait_ms: int = 0, instance: str | None = None) -> Waiting:
        request = g.HeartbeatRequest("g", generation, member_id, instance, wait_ms)
        return self.ask(self.table.heartbeat, request)

    def leave(self, *members: str, group: str = "g") -> Any:
        request = g.LeaveGroupRequest(group, [g.LeavingMember(member) for member in members])
        return self.do(self.table.leave, request, self.now)

    def commit(
        self, offset: int, generation: int = -1, member_id: str = "", topic: str = "t", partition: int = 0, **more: Any
    ) -> Waiting:
        group, instance = more.pop("group", "g"), more.pop("instance", None)
        entry = g.OffsetToCommit(topic, partition, offset, **more)
        request = g.OffsetCommitRequest(group, generation, member_id, instance, [entry])
        return self.do(self.table.commit, request, self.exists, self.now)

    def exists(self, topic: str, partition: int) -> bool:
        return partition < self.topics.get(topic, 0)

    def committed(self, group: str = "g") -> dict[tuple[str, int], int]:
        reply = self.do(self.table.fetch_offsets, g.OffsetFetchRequest(group)).body
        return {(entry.topic, entry.partition): entry.offset for entry in reply.partitions}

    def events(self, group: str = "g") -> list[g.GroupEvent]:
        return self.do(self.table.events, g.GroupEventsRequest(group)).body.events

    def kinds(self, group: str = "g") -> list[str]:
        return [event.kind for event in self.events(group)]

    # ---- shorthands

    def group(self, group: str = "g") -> Any:
        return self.table.groups[group]

    @property
    def state(self) -> str:
        return str(self.group().state)

    def stable(self, count: int = 2, **options: Any) -> list[Any]:
        """Make a stable group; returns what each member was told when it joined, the leader first."""
        waiting = [self.join(**options) for _ in range(count)]
        self.advance(1000)
        joined = [one.body for one in waiting]
        for one in (*joined[1:], joined[0]):
            self.sync(one, [(each.member_id, f"for {each.member_id}".encode()) for each in joined])
        assert self.state == "Stable"
        return joined


class Transactions:
    """A table of transactional ids in virtual time, with a log that can be read again."""

    def __init__(self, **settings: Any) -> None:
        self.config = BrokerConfig(**settings)
        self.ms = 1000.0
        self.wall_ms = WALL_MS
        self.ids = 1000
        self.log: list[tuple[bytes, bytes | None]] = []
        self.prepared: list[Any] = []
        self.table = TransactionTable(self.config)
        self.table.loaded(self.now)

    @property
    def now(self) -> Now:
        return Now(self.ms, self.wall_ms)

    def take(self) -> None:
        records, self.table.records = self.table.records, []
        prepared, self.table.prepared = self.table.prepared, []
        self.log += records
        self.prepared += prepared

    def do(self, what: Any, *arguments: Any) -> Any:
        """What a method returns, or the name of the error that it raises; then nothing has changed."""
        before = self.seen()
        try:
            done = what(*arguments)
        except BrokerError as error:
            assert (self.seen(), self.table.records, self.table.prepared) == (before, [], [])
            return error.name
        self.take()
        return done.name if isinstance(done, BrokerError) else done

    def seen(self) -> Any:
        def of(found: Any) -> Any:
            # A partition that is added again is written down only with what comes next.
            update_ms = -1 if found.state is State.ONGOING else found.update_ms
            return found.written()._replace(partitions=tuple(sorted(found.partitions)), update_ms=update_ms)

        return {name: (of(found), found.former) for name, found in self.table.transactions.items()}

    def pass_time(self, ms: float, wall_ms: int | None = None) -> None:
        self.ms += ms
        self.wall_ms += int(ms) if wall_ms is None else wall_ms

    def tick(self) -> list[str]:
        aborted = self.table.tick(self.now)
        self.take()
        return aborted

    def restart(self) -> None:
        """Another node reads the log, of which compaction has kept the last record of each key."""
        before = self.seen()
        self.table = TransactionTable(self.config)
        for key, value in dict(self.log).items():
            self.table.replay(key, value)
        self.table.loaded(self.now)
        self.prepared.clear()
        self.take()
        assert self.seen() == before

    # ---- requests

    def init(self, asked: Any = (-1, -1), timeout_ms: int = TRANSACTION_MS, name: str = "tx") -> Any:
        request = InitProducerIdRequest(*asked, name, timeout_ms)
        needs_id = self.do(self.table.check_init, request)
        if isinstance(needs_id, str):
            return needs_id
        reply = self.do(self.table.init, request, self.ids + 1 if needs_id else -1, self.now)
        if isinstance(reply, str):
            return reply
        self.ids = max(self.ids, reply.producer_id)
        return reply.producer_id, reply.producer_epoch

    def add(self, who: Any, *partitions: Any, **options: Any) -> Any:
        entries = [g.TopicPartitionEntry(*partition) for partition in partitions or (("a", 0),)]
        request = tm.AddPartitionsToTxnRequest(
            options.pop("name", "tx"), *who, entries, options.pop("last", tm.NOT_SAID)
        )
        reply = self.do(self.table.add_partitions, request, self.problem, self.now)
        if isinstance(reply, str) or not any(entry.error_code for entry in reply.partitions):
            return reply if isinstance(reply, str) else reply.transaction
        assert reply.transaction == -1
        return [entry.error_code for entry in reply.partitions]

    def add_offsets(self, who: Any, last: int = tm.NOT_SAID, name: str = "tx") -> Any:
        request = tm.AddOffsetsToTxnRequest(name, *who, "g", last)
        return self.do(self.table.add_offsets, request, OFFSETS_PLACE, self.now)

    def end(self, who: Any, number: int = -1, *, committed: bool = True, name: str = "tx") -> Any:
        return self.do(self.table.end, tm.EndTxnRequest(name, *who, committed, number), self.now) or "done"

    def verify(self, who: Any, partition: Any = ("a", 0), name: str = "tx") -> Any:
        return self.do(self.table.verify, name, *who, partition)

    def complete(self) -> None:
        """The markers of all that is prepared are written."""
        prepared, self.prepared = self.prepared, []
        for transaction in prepared:
            self.table.completed(transaction, self.now)
        self.take()

    @staticmethod
    def problem(topic: str, partition: int) -> BrokerError | None:
        if topic.startswith("__"):
            return InvalidTopicError(f"{topic} is internal")
        return None if topic in "ab" and partition < 4 else UnknownTopicOrPartitionError(f"no {topic}-{partition}")

    @property
    def state(self) -> State:
        return self.table.transactions["tx"].state

    def written(self) -> TransactionState:
        """What the last record says."""
        key, value = self.log[-1]
        found = decode(key, value)
        assert found is not None
        assert isinstance(found[1], TransactionState)
        return found[1]


@pytest.fixture
def make_world() -> Any:
    """Make a world with settings of its own."""
    return lambda **settings: World(settings)


@pytest.fixture
def world() -> World:
    return World({})


@pytest.fixture
def make_transactions() -> Any:
    """Make a table of transactional ids with settings of its own."""
    return Transactions
