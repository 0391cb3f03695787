"""The examples of queues are run as a reader of the documentation runs them, against a real broker."""

from __future__ import annotations

import queue
import re
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
JOBS = 60
SECONDS = 60.0


@pytest.fixture
def broker(zmqbroker_server_factory):
    """A broker whose leases are short, so that nobody waits for half a minute after a crash."""
    return zmqbroker_server_factory(group_share_record_lock_duration_ms=1_000)


@pytest.fixture
def start(broker):
    """Start an example; a thread passes on what it prints, line by line."""
    lines = queue.Queue()
    with ExitStack() as closing:

        def read(process):
            for line in process.stdout:
                lines.put(line)

        def launch(name, *flags):
            command = [sys.executable, EXAMPLES / name, *flags, "--bootstrap-server", broker.bootstrap_servers]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            closing.enter_context(process)
            reader = threading.Thread(target=read, args=(process,))
            closing.callback(reader.join)
            closing.callback(process.kill)
            reader.start()
            return process

        launch.lines = lines
        yield launch


@pytest.fixture
def run(broker):
    """Run an example to its end; what it printed."""

    def to_its_end(name, *flags):
        command = [sys.executable, EXAMPLES / name, *flags, "--bootstrap-server", broker.bootstrap_servers]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return to_its_end


def test_a_crashed_worker_loses_nothing(start, run, zmqbroker_topic):
    names = ("--topic", zmqbroker_topic)
    for name in "AB":
        start("queue_worker.py", *names, "--name", name)
    crashing = start("queue_worker.py", *names, "--name", "C", "--crash-after", "3")
    ready = {start.lines.get(timeout=SECONDS) for _ in "ABC"}
    assert ready == {"A is ready\n", "B is ready\n", "C is ready\n"}
    assert run("queue_producer.py", *names, "--count", str(JOBS)).startswith(f"{JOBS} jobs wait")
    done, crashed = [], []
    while len({job for job, _ in done}) < JOBS:
        line = start.lines.get(timeout=SECONDS)
        if found := re.search(r"did '(job \d+)' \(delivery (\d)\)", line):
            done.append((found[1], int(found[2])))
        elif found := re.search(r"crashes with '(job \d+)'", line):
            crashed.append(found[1])
    assert len(done) == JOBS, "no job was done twice"
    for job in crashed:  # that of the crash came again, and was done by another worker
        assert dict(done)[job] > 1
        assert crashing.wait(SECONDS) == 1


def test_a_message_has_one_receiver(run):
    output = run("point_to_point.py", "--count", "100")
    assert "one message, one receiver: Alice has ['a letter']" in output
    shares = [int(share) for share in re.findall(r"(?:Alice|Bob) has (\d+)", output)]
    assert len(shares) == 2
    assert sum(shares) == 100
    assert min(shares) > 0, "each of the two has some"
    assert "received in all: 100, different ones: 100" in output


def test_a_delayed_job_comes_at_its_time(run):
    output = run("delayed_job.py", "--delay-ms", "3000")
    found = re.findall(r"after +(\d+) ms: '([^']+)', (done|not now)", output)
    assert [(job, what) for _, job, what in found] == [
        ("do it now", "done"),
        ("remind me", "not now"),
        ("remind me", "done"),
    ]
    _, first, second = (int(waited) for waited, _, _ in found)
    assert first >= 3_000
    assert second - first >= 2_990


def test_a_dead_letter_says_why_and_can_be_sent_back(run):
    output = run("dead_letters.py").splitlines()
    assert output[:3] == ["served: 2 coffees", "rejected: b'{coffees: 1}'", "served: 4 coffees"]
    assert output[3].startswith("dead letter: b'{coffees: 1}' of orders-")
    assert re.search(r"not JSON: .*, delivered 1 times", output[4])
    assert output[5:] == ["served: 1 coffees"]
