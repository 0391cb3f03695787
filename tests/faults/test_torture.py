"""A short torture of a cluster, and its judge: it must see what it is there to see."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

HERE = Path(__file__).parent
SHORT = {
    "nodes and disks": (12, "kill-leader,pause,cut,power-cut,failing-fsync,short-write,full-disk,restart"),
    "network": (6, "cut,one-way,flapping"),
}
"""Short runs: seconds, and kinds of faults. The seed of the first does not come to its cuts, hence the second."""


@pytest.mark.parametrize("what", SHORT)
def test_a_cluster_loses_nothing_under_torture(what, monkeypatch):
    seconds, kinds = SHORT[what]
    if what == "network":
        monkeypatch.syspath_prepend(str(HERE))
        import netns

        if (reason := netns.why_not()) is not None:
            pytest.skip(reason)
    flags = ["--seconds", str(seconds), "--seed", "5", "--faults", kinds, "--rest-seconds", "0.5", "--floor", "5"]
    command = [sys.executable, HERE / "torture.py", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=115, check=False)
    left_out = [line.partition("left out: ")[2] for line in done.stdout.splitlines() if "left out: " in line]
    if len(left_out) == len(kinds.split(",")):
        pytest.skip(left_out[0])  # root, and still not allowed
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything held" in done.stdout


@pytest.fixture
def checker(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    import torture_checker

    return torture_checker


@pytest.fixture
def log(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    import torture_log

    return torture_log


def good_run(log):
    """Two producers, one partition: six records, taking turns, all acknowledged; one reader has them all."""
    final = [log.Read(0, offset, offset % 2, offset // 2) for offset in range(6)]
    outcomes = {0: [], 1: []}
    for read in final:
        outcomes[read.producer].append(log.Outcome(log.ACKED, 0, read.number, read.offset, 10))
    return outcomes, {0: final}, {0: list(final)}


def violations(checker, outcomes, final, reads):
    wrong, counts = checker.judge(outcomes, final, reads)
    return "\n".join(wrong), counts


def test_a_good_run_is_found_good(checker, log):
    wrong, counts = violations(checker, *good_run(log))
    assert not wrong
    assert counts["records acknowledged"] == 6
    assert counts["LOST"] == counts["DUPLICATED"] == 0


def test_a_lost_record_is_seen(checker, log):
    outcomes, final, reads = good_run(log)
    final[0].pop()
    wrong, counts = violations(checker, outcomes, final, reads)
    assert counts["LOST"] == 1
    assert "1 acknowledged records are lost: (1, 0, 2)" in wrong
    assert "reader 0 has had are not what stands there now" in wrong


def test_a_record_that_stands_twice_is_seen(checker, log):
    outcomes, final, reads = good_run(log)
    final[0].append(log.Read(0, 6, 1, 2))
    wrong, counts = violations(checker, outcomes, final, reads)
    assert counts["DUPLICATED"] == 1
    assert "stand at more than one offset: ((1, 0, 2), [5, 6])" in wrong


def test_swapped_records_of_a_producer_are_seen(checker, log):
    outcomes, final, _ = good_run(log)
    second, fourth = final[0][1], final[0][3]
    final[0][1], final[0][3] = fourth._replace(offset=1), second._replace(offset=3)
    wrong, _ = violations(checker, outcomes, final, {})
    assert "out of their producer's order" in wrong
    assert "do not stand where their acknowledgement says" in wrong


def test_a_refused_record_that_is_stored_is_seen_and_an_unknown_one_is_fine(checker, log):
    outcomes, final, reads = good_run(log)
    outcomes[1][2] = outcomes[1][2]._replace(kind=log.UNKNOWN, offset=-1)
    wrong, counts = violations(checker, outcomes, final, reads)
    assert not wrong
    assert counts["... of them stored"] == 1
    outcomes[1][2] = outcomes[1][2]._replace(kind=log.FAILED)
    assert "records were refused and stored: (1, 0, 2)" in violations(checker, outcomes, final, reads)[0]


def test_a_record_without_an_answer_and_one_that_nobody_sent_are_seen(checker, log):
    outcomes, final, reads = good_run(log)
    del outcomes[1][1]
    wrong, _ = violations(checker, outcomes, final, reads)
    assert "1 records were sent and never answered for" in wrong
    assert "1 records are stored that no producer has told of" in wrong


def test_a_reader_that_skips_or_goes_back_is_seen(checker, log):
    outcomes, final, reads = good_run(log)
    del reads[0][3]
    assert "1 times reader 0 did not go on where it was" in violations(checker, outcomes, final, reads)[0]
    reads[0] += reads[0][-1:]
    assert "2 times reader 0 did not go on where it was" in violations(checker, outcomes, final, reads)[0]


def test_gaps_belong_to_the_fault_that_made_them(checker, log):
    from torture_nemesis import Fault

    ms = 1_000_000
    stamps = [*range(0, 1_000, 10), *range(1_500, 2_000, 10), *range(2_100, 3_000, 10)]
    outcomes = {0: [log.Outcome(log.ACKED, 0, number, number, at * ms) for number, at in enumerate(stamps)]}
    times = {"kill": (995, 1_200), "cut": (1_300, 1_400), "pause": (1_995, 2_050)}
    faults = [Fault(kind, begun * ms, ended * ms) for kind, (begun, ended) in times.items()]
    longest, by_kind = checker.gaps(outcomes, faults, 0, 2_990 * ms)
    assert longest == 510
    assert by_kind == {"kill": 510, "cut": 0, "pause": 110}


UNDONE = [
    ({"kill": 0, "cut": 0}, 5.0, ["no fault was done"]),
    ({"cut": None}, 5.0, ["no fault was done"]),
    ({}, 5.0, []),
    ({"kill": 1, "cut": 0}, 35.0, []),
    ({"kill": 9, "cut": 0}, 36.0, ["no cut was done"]),
    ({"kill": 9, "cut": None}, 36.0, []),
]
"""How often each kind that is wanted was done, or None if the machine does not allow it; seconds; complaints."""


@pytest.mark.parametrize(("times", "seconds", "complaints"), UNDONE)
def test_a_run_without_the_faults_it_was_for_is_no_good(monkeypatch, times, seconds, complaints):
    monkeypatch.syspath_prepend(str(HERE))
    import torture

    run = object.__new__(torture.Torture)
    run.kinds = [kind for kind, count in times.items() if count is not None]
    run._args = SimpleNamespace(faults=list(times), seconds=seconds, rest_seconds=3.0, at_once=1)
    done = Counter(kind for kind, count in times.items() for _ in range(count or 0))
    assert run._undone(done) == complaints
