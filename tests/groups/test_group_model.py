"""A consumer group against members that do as they like, in virtual time; what must hold is looked at after each step.

Members join, sync, beat, hang, leave, go away and commit; the coordinator restarts. What is held against the group is
only what members were told, and what stands in the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from zmqbroker.groups.rebalance import SESSION

if TYPE_CHECKING:
    from zmqbroker.groups.group_table import GroupTable

REBALANCE_MS = (5_000, 20_000)
SESSIONS_MS = (3_000, 10_000, 40_000)
PARTITIONS = 5
clients = st.integers(0, 4)


class Client:
    """One process: what it was told, and what it waits for."""

    def __init__(self, instance: str | None) -> None:
        self.instance = instance
        self.member_id = ""
        self.joined: Any = None
        self.owned: list[int] = []
        self.waiting: dict[str, tuple[Any, float]] = {}
        self.session_ms, self.rebalance_ms = SESSIONS_MS[1], REBALANCE_MS[1]

    def forget(self) -> None:
        self.member_id, self.joined, self.owned = "", None, []


class GroupModel(RuleBasedStateMachine):
    """See the file's first line."""

    def __init__(self, make_world: Any) -> None:
        super().__init__()
        self.make_world = make_world

    @initialize(static=st.integers(0, 2), delay=st.sampled_from([0, 100, 3_000]), size=st.sampled_from([3, 1000]))
    def begin(self, static: int, delay: int, size: int) -> None:
        self.world = self.make_world(
            group_initial_rebalance_delay_ms=delay, group_max_size=size, offsets_retention_minutes=2**31 - 1
        )
        self.clients = [Client(f"i{number}" if number < static else None) for number in range(5)]
        self.generation = 0
        self.told_generation = 0
        """The newest one that a member was told of."""
        self.owners: dict[tuple[int, int], str] = {}
        self.offsets: dict[tuple[str, int], int] = {}

    # ---- what members do

    def wait_for(self, client: Client, kind: str, waiting: Any, at_most_ms: float) -> None:
        if kind in client.waiting:  # the client gave up on an earlier one
            del client.waiting[kind]
        client.waiting[kind] = (waiting, self.world.ms + at_most_ms)
        self.hear()

    @rule(
        number=clients,
        topics=st.sampled_from([("t",), ("t", "u")]),
        require=st.sampled_from([False, True]),
        timing=st.integers(0, 5),
    )
    def join(self, number: int, topics: Any, require: Any, timing: int) -> None:
        client = self.clients[number]
        client.session_ms, client.rebalance_ms = SESSIONS_MS[timing % 3], REBALANCE_MS[timing % 2]
        waiting = self.world.join(
            client.member_id,
            instance=client.instance,
            topics=topics,
            require_id=require,
            session_ms=client.session_ms,
            rebalance_ms=client.rebalance_ms,
        )
        self.wait_for(client, "join", waiting, 2 * max(REBALANCE_MS) + 3_000)

    @rule(number=clients)
    def sync(self, number: int) -> None:
        client = self.clients[number]
        if client.joined is None:
            return
        members = [member.member_id for member in client.joined.members]
        parts = [
            (member, bytes(part for part in range(PARTITIONS) if part % len(members) == place))
            for place, member in enumerate(members)
        ]
        if client.joined.skip_assignment:
            parts = []
        waiting = self.world.sync(client.joined, parts, instance=client.instance)
        self.wait_for(client, "sync", waiting, max(REBALANCE_MS))

    @rule(number=clients, wait_ms=st.sampled_from([0, 500, 5_000]))
    def heartbeat(self, number: int, wait_ms: int) -> None:
        client = self.clients[number]
        if client.joined is not None:
            generation = client.joined.generation_id
            waiting = self.world.heartbeat(client.member_id, generation, wait_ms, client.instance)
            self.wait_for(client, "heartbeat", waiting, wait_ms)

    @rule(number=clients, stale=st.integers(0, 1), part=st.integers(0, PARTITIONS - 1), offset=st.integers(0, 99))
    def commit(self, number: int, stale: int, part: int, offset: int) -> None:
        client = self.clients[number]
        if client.joined is None:
            return
        generation = client.joined.generation_id - stale
        done = self.world.commit(offset, generation, client.member_id, partition=part, instance=client.instance)
        if not done.error:
            assert generation == self.told_generation, "a commit of an older generation was taken"
            self.offsets["t", part] = offset
        self.hear()

    @rule(part=st.integers(0, PARTITIONS - 1), offset=st.integers(0, 99))
    def commit_from_outside(self, part: int, offset: int) -> None:
        done = self.world.commit(offset, partition=part)
        assert bool(done.error) == (self.world.state != "Empty")
        if not done.error:
            self.offsets["t", part] = offset

    @rule(number=clients)
    def leave(self, number: int) -> None:
        client = self.clients[number]
        if client.member_id:
            self.world.leave(client.member_id)
            self.hear()
            client.forget()

    @rule(number=clients)
    def go_away(self, number: int) -> None:
        """The process ends; its connection tells the broker."""
        client = self.clients[number]
        for waiting, _ in list(client.waiting.values()):
            self.world.table.end_wait(waiting, "g", self.world.now)
            self.world.take()
            assert waiting.answer is not None, f"{waiting.request} waits although its client is gone"
        client.waiting.clear()
        client.forget()

    @rule(ms=st.sampled_from([1, 90, 1_000, 2_900, 11_000]))
    def time_passes(self, ms: int) -> None:
        """Whoever hangs is a client that no rule picks meanwhile."""
        self.world.advance(ms)
        self.hear()

    @rule()
    def everybody_gets_on(self) -> None:
        """Well-behaved clients become stable, from wherever they are."""
        for _ in range(8):
            for number, client in enumerate(self.clients):
                if "join" in client.waiting or "sync" in client.waiting:
                    continue
                if client.joined is None:
                    self.join(number, ("t",), require=False, timing=5)
                else:
                    self.heartbeat(number, 0)
                    if client.joined is not None:
                        self.sync(number)
            self.world.advance(700)
            self.hear()

    @rule()
    def restart(self) -> None:
        """What stands in the log is what there was; whoever waited asks again."""
        generation, group, *more = durable(self.world.table)
        self.world.restart()
        generation_again, group_again, *more_again = durable(self.world.table)
        assert (generation_again, more_again) == (generation, more)
        assert group is None or group_again == group
        for client in self.clients:
            client.waiting.clear()

    @precondition(lambda self: "g" in self.world.table.groups)
    @rule()
    def delete(self) -> None:
        empty = not self.world.group().roster.members
        done = self.world.do(self.world.table.delete, "g", self.world.now)
        if "g" in self.world.table.groups:
            assert done.error == "NON_EMPTY_GROUP"
            assert not empty or self.world.state != "Empty"
        else:
            self.generation = self.told_generation = 0
            self.owners.clear()
            self.offsets.clear()

    # ---- what members hear

    def hear(self) -> None:
        for client in self.clients:
            for kind, (waiting, _) in list(client.waiting.items()):
                if waiting.answer is not None:
                    del client.waiting[kind]
                    self.hear_one(client, kind, waiting)

    def hear_one(self, client: Client, kind: str, waiting: Any) -> None:
        if waiting.error in ("UNKNOWN_MEMBER_ID", "FENCED_INSTANCE_ID", "GROUP_MAX_SIZE_REACHED"):
            client.forget()
        elif waiting.error:
            client.joined = None
        elif kind == "join":
            body = waiting.body
            client.member_id = body.member_id
            client.joined = None if body.error_code else body
            if not body.error_code:
                assert body.generation_id >= self.told_generation, "a generation went back"
                self.told_generation = body.generation_id
                assert bool(body.members) == (body.leader == body.member_id)
        elif kind == "sync":
            client.owned = list(waiting.body.assignment)
            who = client.instance or waiting.request.member_id
            for part in client.owned:
                owner = self.owners.setdefault((waiting.request.generation_id, part), who)
                assert owner == who, f"{part} belongs to {owner} and {who} in one generation"

    # ---- what must hold

    @invariant()
    def everybody_is_answered_in_time(self) -> None:
        for client in getattr(self, "clients", ()):
            for waiting, due_ms in client.waiting.values():
                assert self.world.ms <= due_ms, f"{waiting.request} is answered too late"

    @invariant()
    def generations_go_on(self) -> None:
        group = self.world.table.groups.get("g")
        if group is not None:
            assert group.generation >= self.generation
            self.generation = group.generation
            assert self.told_generation <= self.generation

    @invariant()
    def offsets_are_what_was_committed(self) -> None:
        assert self.world.committed() == self.offsets

    @invariant()
    def members_are_in_order(self) -> None:
        group = self.world.table.groups.get("g")
        if group is None:
            return
        roster = group.roster
        assert roster.joining == sum(member.join is not None for member in roster.members.values())
        assert set(roster.static.values()) <= roster.members.keys()
        assert not roster.pending & roster.members.keys()
        for member_id, member in roster.members.items():
            assert member.member_id == member_id
            watched = (SESSION, member_id) in group.deadlines
            assert watched == (not member.waits or member.is_new), (
                f"{member_id} could stay for ever, or is watched twice"
            )
            assert member.heartbeat is None or str(group.state) in ("CompletingRebalance", "Stable")
            assert (member.join is None) or str(group.state) == "PreparingRebalance"
            assert (member.sync is None) or str(group.state) == "CompletingRebalance"


def durable(table: GroupTable) -> Any:
    """What a restart must not change."""
    group = table.groups.get("g")
    offsets = {key: dict(offsets.by_partition) for key, offsets in table.offsets.items() if offsets}
    events = {key: list(recorder.events) for key, recorder in table.recorders.items() if recorder.events}
    if group is None or not (group.generation or offsets):
        return 0, None, offsets, events
    # While a rebalance goes on, the log has the generation before it.
    settled = group.durable() if str(group.state) != "PreparingRebalance" and group.generation else None
    return group.generation, settled, offsets, events


def test_the_rules_hold_whatever_members_do(make_world: Any) -> None:
    run_state_machine_as_test(
        lambda: GroupModel(make_world),
        settings=settings(
            max_examples=60,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
        ),
    )
