"""Each example is run as a reader of the documentation runs it, against a real broker."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
RUN_HERE = {
    "pubsub_publisher.py",
    "pubsub_subscriber.py",
    "burst_absorbed.py",
    "exactly_once.py",
    "demo.py",
    "demo_cluster.py",
}
WITH_KAFKA_CLIENTS = {
    "kafka_confluent.py": [rf"read 'hello {number}' at offset {number}" for number in range(7)],
    "kafka_faststream.py": [rf"a double came back: {2 * number}" for number in range(7)],
    "kafka_celery.py": [rf"the square of {number} is {number * number}" for number in range(7)],
}
"""Each with lines that it has to print."""
IN_TEST_QUEUE_EXAMPLES = {
    "queue_producer.py",
    "queue_worker.py",
    "point_to_point.py",
    "delayed_job.py",
    "dead_letters.py",
}


@pytest.fixture
def start(zmqbroker_server):
    """Start an example with these flags; what still runs is killed when the test ends."""
    with ExitStack() as closing:

        def launch(name, *flags, server=True):
            at = ["--bootstrap-server", zmqbroker_server.bootstrap_servers] if server else []
            process = subprocess.Popen(
                [sys.executable, EXAMPLES / name, *flags, *at], stdout=subprocess.PIPE, text=True
            )
            closing.enter_context(process)
            closing.callback(process.kill)
            return process

        yield launch


def test_every_example_has_a_test():
    assert {
        path.name for path in EXAMPLES.glob("*.py")
    } == RUN_HERE | IN_TEST_QUEUE_EXAMPLES | WITH_KAFKA_CLIENTS.keys()


def test_every_subscriber_sees_every_message(start, zmqbroker_topic):
    start("pubsub_publisher.py", "--topic", zmqbroker_topic, "--count", "1").communicate(timeout=30)
    subscribers = [
        start("pubsub_subscriber.py", "--topic", zmqbroker_topic, "--name", name, "--count", "5") for name in "AB"
    ]
    for subscriber in subscribers:  # each says when it listens: what was published before is not for it
        assert "listens" in subscriber.stdout.readline()
    published, _ = start("pubsub_publisher.py", "--topic", zmqbroker_topic, "--count", "5").communicate(timeout=30)
    assert len(published.splitlines()) == 5
    for subscriber in subscribers:
        output, _ = subscriber.communicate(timeout=30)
        assert re.findall(r"got 'news number (\d)' \(partition 0, offset (\d)\)", output) == [
            (str(number), str(number)) for number in range(1, 6)
        ]
        assert subscriber.returncode == 0


def test_a_late_subscriber_can_read_from_the_beginning(start, zmqbroker_topic):
    start("pubsub_publisher.py", "--topic", zmqbroker_topic, "--count", "2").communicate(timeout=30)
    late = start("pubsub_subscriber.py", "--topic", zmqbroker_topic, "--count", "2", "--from-beginning")
    output, _ = late.communicate(timeout=30)
    assert output.count("got 'news number") == 2


def test_a_burst_is_absorbed(start, zmqbroker_topic):
    flags = ["--topic", zmqbroker_topic, "--records", "5000", "--rate", "10000", "--report-every", "0.1"]
    process = start("burst_absorbed.py", *flags)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    depths = [int(depth.replace(",", "")) for depth in re.findall(r"depth\s+([\d,]+)", output)]
    assert depths[0] > 2500
    assert depths == sorted(depths, reverse=True)
    assert depths[-1] == 0
    assert output.rstrip().endswith("lost 0")


def test_each_order_is_billed_once_though_the_worker_is_killed(start, zmqbroker_topic):
    flags = ["--orders", zmqbroker_topic, "--bills", f"{zmqbroker_topic}-bills", "--count", "500"]
    process = start("exactly_once.py", *flags)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert len(re.findall(r"killed in transaction \d: bills are written, but not committed", output)) == 3
    in_vain = re.search(r"(\d+) bills were written in vain, and are not read", output)
    assert in_vain is not None
    assert int(in_vain[1]) > 0
    assert "500 orders, 500 bills: 0 lost, 0 twice" in output


def test_the_demo_finds_every_line_after_a_crash(start):
    process = start("demo.py", "--lines", "20000", server=False)
    output, _ = process.communicate(timeout=110)
    assert process.returncode == 0, output
    assert "SIGKILL for the whole broker" in output
    assert "Every acknowledged line is there once" in output


def test_the_demonstration_of_a_cluster_loses_nothing(start):
    process = start("demo_cluster.py", server=False)
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 0, out
    assert "20000 lines are read back: 0 lost, 0 twice, in order" in out


@pytest.mark.parametrize("name", WITH_KAFKA_CLIENTS)
def test_applications_of_kafka_run_as_they_are(start, name):
    process = start(name, "--count", "7", server=False)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    for line in WITH_KAFKA_CLIENTS[name]:
        assert line in output, output
