"""A table of consumer groups in virtual time, with a log that can be read again."""

from __future__ import annotations

from typing import Any

import pytest
from zmqbroker.errors import BrokerError
from zmqbroker.groups.consumer_protocol import Subscription, encode_subscription
from zmqbroker.groups.effects import Now
from zmqbroker.groups.group_table import GroupTable
from zmqbroker.settings import BrokerConfig
from zmqbroker.transport import group_messages as g

WALL_MS = 1_700_000_000_000
TOPICS = {"t": 8, "u": 4}


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


@pytest.fixture
def make_world() -> Any:
    """Make a world with settings of its own."""
    return lambda **settings: World(settings)


@pytest.fixture
def world() -> World:
    return World({})
