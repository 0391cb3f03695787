"""A short run of the chaos in a queue, and its judge: it must see what it is there to see."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
HEADERS = dict.fromkeys(
    f"__dlq.errors.{name}"
    for name in ("topic", "partition", "offset", "group", "delivery.count", "message", "timestamp")
)
POISON = 500
RECORDS = 510


def test_a_queue_holds_what_it_promises_under_chaos():
    flags = ["--records", "20000", "--seed", "2", "--poll-records", "100", "--work-ms", "100", "--crash-seconds", "1"]
    command = [sys.executable, HERE / "queue_chaos.py", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=115, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything held" in done.stdout


@pytest.fixture
def chaos(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    import queue_chaos_checker

    return queue_chaos_checker


def entry(chaos, kind, number, at, *, count=1, partition=0):
    return chaos.ENTRY.pack(kind, count, partition, number, number, at)


def good_log(chaos):
    """One worker delivers, accepts and confirms everything but the poison."""
    from queue_chaos_log import REJECTED

    log = b""
    for number in range(RECORDS):
        kind = REJECTED if number == POISON else chaos.ACCEPTED
        log += entry(chaos, chaos.DELIVERED, number, 10) + entry(chaos, kind, number, 10)
    return log + entry(chaos, chaos.CONFIRMED, 0, 20, partition=chaos.ALL)


def violations(chaos, *logs, letters=None):
    found = [chaos.DeadLetter(POISON, HEADERS)] if letters is None else letters
    wrong, counts = chaos.judge(logs, found, records=RECORDS, delivery_limit=5)
    return "\n".join(wrong), counts


def test_a_good_run_is_found_good(chaos):
    wrong, counts = violations(chaos, good_log(chaos))
    assert not wrong
    assert counts["acknowledged and confirmed"] == RECORDS - 1
    assert counts["dead-lettered"] == 1


def test_a_delivery_after_the_acknowledgement_is_seen(chaos):
    again = entry(chaos, chaos.DELIVERED, 7, 30, count=2)
    assert "delivered after their acknowledgement was confirmed: 7" in violations(chaos, good_log(chaos), again)[0]


def test_a_redelivery_after_an_unconfirmed_one_is_fine(chaos):
    refused = entry(chaos, chaos.DELIVERED, 7, 5) + entry(chaos, chaos.ACCEPTED, 7, 5)
    refused += entry(chaos, chaos.FAILED, 0, 6) + entry(chaos, chaos.CONFIRMED, 0, 6, partition=chaos.ALL)
    wrong, counts = violations(chaos, refused, good_log(chaos))
    assert not wrong
    assert counts["redelivered"] == 1
    assert counts["acknowledgements refused or not answered"] == 1


def test_a_lost_record_is_seen(chaos):
    log = good_log(chaos)
    short = log[: -3 * chaos.ENTRY.size] + log[-chaos.ENTRY.size :]
    wrong, _ = violations(chaos, short)
    assert "neither acknowledged nor dead letters: 509" in wrong
    assert "never delivered: 509" in wrong


def test_a_poisoned_record_has_to_be_a_dead_letter_that_says_why(chaos):
    assert "are poison and no dead letters: 500" in violations(chaos, good_log(chaos), letters=[])[0]
    bare = [chaos.DeadLetter(POISON, {})]
    assert "lacks headers" in violations(chaos, good_log(chaos), letters=bare)[0]


def test_both_acknowledged_and_dead_is_seen(chaos):
    letters = [chaos.DeadLetter(number, HEADERS) for number in (POISON, 7)]
    assert "acknowledged, and dead letters too: 7" in violations(chaos, good_log(chaos), letters=letters)[0]


def test_a_delivery_over_the_limit_is_seen(chaos):
    sixth = entry(chaos, chaos.DELIVERED, 7, 5, count=6)
    assert "over the delivery limit: 7" in violations(chaos, sixth, good_log(chaos))[0]
