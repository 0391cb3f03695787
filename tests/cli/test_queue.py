"""`zmqbroker consume --queue` and the delays of `zmqbroker produce`."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pytest


@pytest.fixture
def at(zmqbroker_server):
    """The flag that says where the broker is."""
    return ["--bootstrap-server", zmqbroker_server.bootstrap_servers]


@pytest.fixture
def produce(zmqbroker_command, at, zmqbroker_topic):
    def run(*words, stdin=b""):
        return zmqbroker_command("produce", "--topic", zmqbroker_topic, *words, *at, stdin=stdin)

    return run


@pytest.fixture
def take(zmqbroker_command, at, zmqbroker_topic):
    def run(*words):
        queue = ["--queue", f"queue-{zmqbroker_topic}", "--timeout-ms", "1000"]
        return zmqbroker_command("consume", "--topic", zmqbroker_topic, *queue, *words, *at)

    return run


def test_each_record_is_taken_once(produce, take):
    assert produce(stdin=b"one\ntwo\nthree\n").returncode == 0
    done = take("--max-messages", "2")
    assert (done.returncode, done.stdout) == (0, b"one\ntwo\n")
    assert b"2 records taken from queue queue-" in done.stderr
    (line,) = take("--format", "json", "--max-messages", "1").stdout.splitlines()
    record = json.loads(line)
    assert (record["value"], record["offset"], record["delivery_count"]) == ("three", 2, 1)
    assert take().stdout == b""


def test_a_delay_is_waited_for(produce, take):
    assert produce("--delay", "1500ms", stdin=b"later\n").returncode == 0
    before = time.monotonic()
    assert take().stdout == b""
    assert take("--timeout-ms", "5000", "--max-messages", "1").stdout == b"later\n"
    assert time.monotonic() - before > 0.5


def test_a_time_is_waited_for(produce, take):
    soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    assert produce("--deliver-at", soon, stdin=b"later\n").returncode == 0
    assert produce("--deliver-at", "2001-01-01", stdin=b"past\n").returncode == 0
    assert take("--timeout-ms", "5000", "--max-messages", "2").stdout == b"past\nlater\n"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--deliver-at", "tomorrow"], b"'tomorrow' is no time"),
        (["--delay", "1 parsec"], b"'parsec' is none of its units"),
        (["--delay=-1s"], b"less than the least allowed"),
        (["--delay", "1s", "--deliver-at", "2001-01-01"], b"not allowed with"),
    ],
)
def test_a_time_or_delay_that_is_none_is_refused(produce, words, why):
    done = produce(*words, stdin=b"x\n")
    assert done.returncode == 2
    assert why in done.stderr


@pytest.mark.parametrize(
    "flag", [["--partition", "0"], ["--from-beginning"], ["--offset", "earliest"], ["--group", "g"]]
)
def test_a_queue_decides_what_its_consumers_get(take, refused, flag):
    assert f"--queue and {flag[0]} do not go together" in refused(take(*flag))
