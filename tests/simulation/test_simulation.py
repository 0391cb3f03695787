"""The simulator runs clean, leaves the same trace twice, notices broken rules, and shrinks what it found."""

from __future__ import annotations

import pytest
from zmqbroker.simulation.__main__ import main
from zmqbroker.simulation.cluster_mutations import MUTATIONS
from zmqbroker.simulation.faults import AIMED_KINDS, KINDS, Plan, draw
from zmqbroker.simulation.history import Fate, History, Sent
from zmqbroker.simulation.mutations import patched
from zmqbroker.simulation.past_seeds import PAST
from zmqbroker.simulation.run import Counts, Result, run
from zmqbroker.simulation.runner import find_mutation, hash_elsewhere, try_plan
from zmqbroker.simulation.shrink import shrink, smaller
from zmqbroker.simulation.workloads import Reader
from zmqbroker.simulation.world import ViolationError, World

SEEDS = 12
MIX = ((12, 1), (1, 5), (3, 1), (4, 1), (202, 3))
"""Seeds, each with the fewest nodes: 3, 4 and 5 of them, with groups, queues and moves of partitions."""
NOTICED_WITH = {"ack-before-flush": "power", "no-sequences": "break"}
"""Rules, each with the fault that shows that it is gone; the command tries all rules, in swarms of all faults."""
MUTATION_SEEDS = 60
FULL_ENOUGH = 1_000


def test_seeds_run_clean_and_do_enough_to_mean_something() -> None:
    total = Counts()
    for seed in range(SEEDS):
        result = run(Plan(seed, nodes_max=1))
        assert result.violation is None, f"python -m zmqbroker.simulation {result.plan}: {result.violation}"
        total.add(result.counts)
    assert total.acked > FULL_ENOUGH, total
    assert total.reads > FULL_ENOUGH, total
    assert total.failed > SEEDS, total
    assert total.lives > 2 * SEEDS, total
    assert total.faults > 5 * SEEDS, total


def test_seeds_of_clusters_run_clean_with_groups_queues_and_moves() -> None:
    swarms = [draw(Plan(seed, nodes_min=nodes_min)) for seed, nodes_min in MIX]
    for kind in ("members", "sharers", "movers"):
        assert any(getattr(swarm, kind) for swarm in swarms), kind
    for seed, nodes_min in MIX:
        result = run(Plan(seed, nodes_min=nodes_min))
        assert result.violation is None, f"python -m zmqbroker.simulation {result.plan}: {result.violation}"
        assert result.counts.operations > 100, result.counts


@pytest.mark.parametrize("seed", [3, 15])
def test_a_seed_leaves_the_same_trace_in_two_processes_with_other_hashes(seed: int) -> None:
    plan = Plan(seed, nodes_max=1)
    assert hash_elsewhere(plan) == run(plan).trace_hash


def test_seeds_differ() -> None:
    assert run(Plan(1, nodes_max=1)).trace_hash != run(Plan(2, nodes_max=1)).trace_hash


@pytest.mark.parametrize(("name", "fault"), NOTICED_WITH.items())
def test_a_rule_that_is_gone_is_noticed(name: str, fault: str) -> None:
    without = frozenset(KINDS) - {fault, "slow-flush"}
    plans = [Plan(seed, nodes_max=1, without=without) for seed in range(MUTATION_SEEDS)]
    found = find_mutation(name, [plan for plan in plans if fault in draw(plan).every_ms])
    assert found.by is not None, f"{MUTATIONS[name].rule}: {found.instead}"


@pytest.mark.parametrize("wrong", PAST)
def test_past_seeds_stay_well(wrong: str) -> None:
    result = run(PAST[wrong])
    assert result.violation is None, f"{wrong}, again? python -m zmqbroker.simulation {result.plan}: {result.violation}"


CLUSTER_MUTATIONS = {
    "follower-flush": 1,
    "fenced-leave": 0,
    "parted-logs": 38,
    "quorum-flush": 0,
    "truncate-by-epoch": 7,
    "recovered-before-clean": 236,
    "write-again": 24,
}
"""Rules of clusters, each with a seed that is quick to show that it is gone, or one that comes soon after it."""


@pytest.mark.parametrize(("name", "seed"), CLUSTER_MUTATIONS.items())
def test_a_rule_of_clusters_that_is_gone_is_noticed(name: str, seed: int) -> None:
    rule = MUTATIONS[name]
    plans = [Plan(seed + more, nodes_min=rule.nodes_min, only=rule.only) for more in range(5)]
    found = find_mutation(name, plans)
    assert found.by is not None, f"{rule.rule}: {found.instead}"


def test_a_mutation_is_over_afterwards() -> None:
    class Rule:
        def holds(self) -> bool:
            return True

    class Broker(Rule):
        pass

    with patched(Broker, "holds", lambda _: False):
        assert not Broker().holds()
    assert Broker().holds()


def test_swarms_differ_in_faults_and_leave_some_out() -> None:
    swarms = [draw(Plan(seed)) for seed in range(200)]
    for kind in set(KINDS) - set(AIMED_KINDS):
        assert 10 < sum(kind in swarm.every_ms for swarm in swarms) < 150, kind
    assert len({frozenset(swarm.every_ms) for swarm in swarms}) > 100


def test_leaving_a_fault_out_changes_nothing_else() -> None:
    seed = next(seed for seed in range(100) if {"kill", "pause"} <= draw(Plan(seed)).every_ms.keys())
    whole, part = draw(Plan(seed)), draw(Plan(seed, without=frozenset({"kill"})))
    assert {kind for kind in whole.every_ms if kind != "kill"} == set(part.every_ms)
    assert whole.settings == part.settings


def fake_run(plan: Plan) -> Result:
    """Fails as long as nodes are killed and somebody produces."""
    fails = "kill" in draw(plan).every_ms and "producers" not in plan.without
    violation = ViolationError("7", "it went back", 1.0) if fails else None
    return Result(plan, violation, "", Counts())


def test_a_failing_run_is_shrunk_to_what_it_takes() -> None:
    failed = next(result for seed in range(100) if (result := fake_run(Plan(seed))).violation is not None)
    smallest = shrink(failed, fake_run)
    assert set(draw(smallest.plan).every_ms) == {"kill"}
    assert {"administrators", "consumers", "members", "sharers", "movers"} <= smallest.plan.without
    assert smallest.plan.length == 0.25
    assert all(fake_run(plan).violation is None for plan in smaller(smallest.plan))


def test_shrinking_is_bounded() -> None:
    runs = 0

    def count(plan: Plan) -> Result:
        nonlocal runs
        runs += 1
        return fake_run(plan)

    failed = next(result for seed in range(100) if (result := fake_run(Plan(seed))).violation is not None)
    shrink(failed, count, runs_max=5)
    assert runs == 5


def test_a_finding_says_how_to_see_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    with MUTATIONS["no-sequences"].applied():
        found = find_mutation("no-sequences", [Plan(seed, nodes_max=1) for seed in range(3)]).by
        assert found is not None
        finding = try_plan(found.plan, shrinking=False)
        text = str(finding)
        arguments = text.splitlines()[1].split("simulation ")[1].split()
        assert main(arguments) == 1
    assert str(found.violation) in text
    assert str(found.violation) in capsys.readouterr().out


@pytest.fixture
def history() -> History:
    history = History(World(0))
    for number, value in enumerate((b"a", b"b")):
        history.send(value, Sent("producer", number, ("data", 0), -1))
    return history


@pytest.mark.parametrize(
    ("reads", "invariant"),
    [
        ([(0, b"a"), (0, b"b")], "H10"),
        ([(0, b"nobody's")], "H10"),
        ([(0, b"a"), (1, b"a")], "H13"),
    ],
)
def test_the_history_notices_wrong_reads(history: History, reads: list[tuple[int, bytes]], invariant: str) -> None:
    for offset, value in reads:
        history.note_read(("data", 0), offset, value)
    with pytest.raises(ViolationError) as caught:
        history._world.check()
    assert caught.value.invariant == invariant


def test_the_history_notices_a_read_of_what_had_failed(history: History) -> None:
    history.settle(b"a", Fate.FAILED)
    history.note_read(("data", 0), 0, b"a")
    with pytest.raises(ViolationError, match="H12"):
        history._world.check()


def test_a_reader_notices_a_skip() -> None:
    world = World(0)

    class Client:
        name = "consumer"

    client = Client()
    client.world = world  # type: ignore[attr-defined]
    history = History(world)
    history.send(b"b", Sent("producer", 0, ("data", 0), -1))
    reader = Reader(client, history, ("data", 0))  # type: ignore[arg-type]
    reader.end = 10
    reader._take_record(1, b"b")
    with pytest.raises(ViolationError, match="H14"):
        world.check()
