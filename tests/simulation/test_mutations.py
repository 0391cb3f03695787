"""The gate of the mutations: only what a rule is there for shows that it is gone; the command refuses idle flags."""

from __future__ import annotations

import re

import pytest
from zmqbroker.simulation import runner
from zmqbroker.simulation.__main__ import SEED_FLAGS, main
from zmqbroker.simulation.cluster_mutations import MUTATIONS
from zmqbroker.simulation.faults import KINDS, Plan
from zmqbroker.simulation.rules import OTHERS, RULES
from zmqbroker.simulation.run import Counts, Result
from zmqbroker.simulation.runner import find_mutation, run_mutations, try_mutation
from zmqbroker.simulation.world import ViolationError

PLANS = [Plan(seed) for seed in range(3)]
PROVES_NOTHING = {"node", "restart", "exception", "history", "setup"}
"""What a broken patch may lead to."""


def ends_with(*invariants: str | None):
    """Run a plan to the violation that its seed has here."""

    def run(plan: Plan) -> Result:
        invariant = invariants[plan.seed]
        violation = None if invariant is None else ViolationError(invariant, "so it is", 1.0)
        return Result(plan, violation, "", Counts())

    return run


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_rule_is_shown_by_known_invariants_that_a_broken_patch_does_not_violate(name: str) -> None:
    mutation = MUTATIONS[name]
    assert mutation.redundant or mutation.shows
    assert mutation.only <= set(KINDS)
    for word in mutation.shows:
        number = re.fullmatch(r"H?(\d+)", word)
        assert int(number[1]) in RULES if number else word in OTHERS.keys() - PROVES_NOTHING, word


def test_a_rule_that_is_gone_is_noticed_by_its_own_invariant() -> None:
    assert try_mutation("fenced-leave", PLANS, ends_with(None, "8 ISR and ELR", "8 ISR and ELR")) == (
        True,
        "fenced-leave: seed 1: 8 ISR and ELR: so it is (at 1.000 ms)",
    )


@pytest.mark.parametrize("other", ["exception", "restart", "not deterministic", "node", "22 liveness"])
def test_any_other_violation_does_not_count(other: str) -> None:
    noticed, line = try_mutation("fenced-leave", PLANS, ends_with(None, other, other))
    assert not noticed
    assert line == f"fenced-leave: NOT NOTICED by its own invariant: seed 1: {other}: so it is (at 1.000 ms)"


def test_seeds_go_on_after_a_violation_that_does_not_count() -> None:
    found = find_mutation("fenced-leave", PLANS, ends_with("exception", None, "8 ISR and ELR"))
    assert found.by is not None
    assert found.by.plan.seed == 2
    assert found.instead is not None
    assert found.instead.plan.seed == 0


def test_a_rule_that_nothing_misses_is_told() -> None:
    noticed, line = try_mutation("fenced-leave", PLANS, ends_with(None, None, None))
    assert not noticed
    assert line == "fenced-leave: NOT NOTICED by 3 seeds: a fenced node leaves every ISR"


def test_the_exit_code_says_whether_all_were_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = []

    def try_one(job):
        tried.append(job)
        name, plans = job
        return name != "majority", f"{name}, {len(plans)} seeds from {plans[0]}"

    monkeypatch.setattr(runner, "_try", try_one)
    assert main(["--mutations", "fenced-leave", "--seeds", "4", "--start", "7", "--jobs", "1"]) == 0
    assert capsys.readouterr().out == "fenced-leave, 4 seeds from --seed 7 --nodes 5 --nodes-min 3\n"
    assert main(["--mutations", "fenced-leave", "majority", "--jobs", "1"]) == 1
    assert [len(plans) for _, plans in tried] == [4, 300, 300]


def test_what_is_not_tried_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_mutations(["own-epoch", "majority"], Plan(0, nodes_max=1), 1, jobs=2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("own-epoch: left out") or lines[0].startswith("own-epoch: not tried")
    assert lines[1] == "majority: left out, it takes 3 nodes"


@pytest.mark.parametrize("flag", SEED_FLAGS)
def test_flags_that_would_be_ignored_are_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    option = f"--{flag.replace('_', '-')}"
    value = [] if flag == "hash_only" else ["kill" if flag in {"only", "without"} else "0"]
    with pytest.raises(SystemExit) as ended:
        main(["--mutations", "majority", option, *value])
    assert ended.value.code == 2
    assert f"{option} has no meaning with --mutations" in capsys.readouterr().err


def test_a_rule_of_another_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--mutations", "majorty"])
    assert "majorty: these are known: ack-before-flush, " in capsys.readouterr().err
