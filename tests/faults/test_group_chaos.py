"""A short run of the chaos in a consumer group, and its judge: it must see what it is there to see."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SESSION_MS = 2_000
MS = 1_000_000


@pytest.mark.parametrize("strategy", ["range", "cooperative-sticky"])
def test_a_group_holds_what_it_promises_under_chaos(strategy):
    # The suite shares its machine: how fast partitions move is judged by the long run, `make chaos-groups`.
    flags = ["--strategy", strategy, "--seconds", "10", "--seed", "3", "--move-limit-ms", "5000"]
    command = [sys.executable, HERE / "group_chaos.py", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=115, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything held" in done.stdout


@pytest.fixture
def checker(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    import group_chaos_checker

    return group_chaos_checker


def event(at_ms, kind, **what):
    return {"t": at_ms * MS, "e": kind, **what}


def good_run():
    """Two members: A has partition 0, leaves, and B goes on where A has committed."""
    a = [
        event(10, "assigned", g=1, p=[0]),
        event(20, "read", r=[[0, 0, 9]]),
        event(25, "commit", begun=21 * MS, o={"0": 10}),
        event(100, "closing"),
        event(110, "revoked", g=1, p=[0]),
        event(120, "closed"),
    ]
    b = [
        event(10, "assigned", g=1, p=[1]),
        event(50, "read", r=[[1, 0, 4]]),
        event(52, "commit", begun=51 * MS, o={"1": 5}),
        event(130, "assigned", g=2, p=[0]),
        event(150, "read", r=[[0, 10, 14]]),
        event(155, "commit", begun=151 * MS, o={"0": 15}),
        event(900, "closing"),
        event(910, "revoked", g=2, p=[0, 1]),
        event(920, "closed"),
    ]
    return a, b


def violations(checker, a, b, *, hangs=(), samples=(), limit_ms=500):
    lives = [checker.Life("A", copy.deepcopy(a), list(hangs)), checker.Life("B", copy.deepcopy(b))]
    verdict = checker.judge(
        lives,
        samples=list(samples),
        acked={0: 15, 1: 5},
        windows=[checker.Window("leave", "A", 99 * MS, 200 * MS)],
        session_ms=SESSION_MS,
        cooperative=True,
        limit_ms=limit_ms,
        pause_ms=1_000,
    )
    return "\n".join(verdict.violations)


def test_a_good_run_is_found_good(checker):
    assert not violations(checker, *good_run())


def test_two_current_owners_are_seen(checker):
    a, b = good_run()
    b[3]["t"] = 105 * MS
    assert "while A (generation 1) has it too" in violations(checker, a, b)


def test_an_owner_that_hung_too_long_is_no_current_one(checker):
    a, b = good_run()
    for late in a[4:]:
        late["t"] += 5_000 * MS
    a[4]["e"] = "lost"
    hang = (100 * MS, 4_000 * MS)
    for late in b[3:]:
        late["t"] += 3_000 * MS
    assert "has it too" not in violations(checker, a, b, hangs=[hang], limit_ms=9_000)
    a.insert(4, event(4_100, "commit", begun=4_050 * MS, o={"0": 11}))
    assert "could commit 11" in violations(checker, a, b, hangs=[hang], limit_ms=9_000)


def test_a_member_that_hung_while_it_joined_is_no_current_owner(checker):
    a, b = good_run()
    late = [event(140, "assigned", g=1, p=[0]), event(180, "lost", g=-1, p=[0])]
    assert not violations(checker, [*a[:-1], *late, a[-1]], b)
    late.insert(1, event(170, "commit", begun=160 * MS, o={"0": 15}))
    assert "while A (generation 1) could commit 15" in violations(checker, [*a[:-1], *late, a[-1]], b)


def test_an_offset_that_goes_back_is_seen(checker):
    a, b = good_run()
    b[5]["o"] = {"0": 9}
    assert "partition 0: B committed 9 after A committed 10: it went back" in violations(checker, a, b)
    sample = (30 * MS, 31 * MS, {0: 7})
    assert "the admin client read 7" in violations(checker, *good_run(), samples=[sample])


def test_a_skipped_or_unread_record_is_seen(checker):
    a, b = good_run()
    b[4]["r"] = [[0, 11, 14]]
    found = violations(checker, a, b)
    assert "begins partition 0 at 11" in found
    assert "nobody read offset 10" in found


def test_a_read_without_ownership_is_seen(checker):
    a, b = good_run()
    b.insert(3, event(120, "read", r=[[0, 10, 10]]))
    assert "which it does not own" in violations(checker, a, b)


def test_a_slow_move_is_seen(checker):
    assert "moved the partitions after 30 ms (of 20 ms)" in violations(checker, *good_run(), limit_ms=20)


def test_a_keeper_that_is_stopped_is_seen(checker):
    a, b = good_run()
    b[3:3] = [event(105, "revoked", g=1, p=[1]), event(125, "assigned", g=2, p=[1])]
    assert "B: stopped [1], which it kept" in violations(checker, a, b)
