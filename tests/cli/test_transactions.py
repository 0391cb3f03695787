"""`zmqbroker transactions ...`, and consuming what is committed: what they print, and what they refuse."""

from __future__ import annotations

import json

import pytest
from zmqbroker import Producer


@pytest.fixture
def run(zmqbroker_command, zmqbroker_server):
    """Run a command against the broker; with --format json, what it printed."""

    def call(*words):
        done = zmqbroker_command(*words, "--bootstrap-server", zmqbroker_server.bootstrap_servers)
        if "json" in words and done.returncode == 0:
            return json.loads(done.stdout)
        return done

    return call


@pytest.fixture
def producer(zmqbroker_server, zmqbroker_topic):
    """A producer whose first transaction is committed."""
    with Producer(
        bootstrap_servers=zmqbroker_server.bootstrap_servers, transactional_id=zmqbroker_topic, client_id="cli"
    ) as made:
        made.init_transactions()
        with made.transaction():
            made.send(zmqbroker_topic, b"committed", partition=0)
        yield made


def test_transactions_are_listed(run, producer, zmqbroker_topic, eventually):
    producer.begin_transaction()
    producer.send(zmqbroker_topic, b"open", partition=0).get(10)
    listed = run("transactions", "list", "--state", "Ongoing", "--format", "json")
    (mine,) = [one for one in listed if one["transactional_id"] == zmqbroker_topic]
    assert mine["state"] == "Ongoing"
    assert mine["producer_id"] >= 0
    assert zmqbroker_topic in run("transactions", "list").stdout.decode()
    long_open = ("transactions", "list", "--longer-than-ms", "1")
    eventually(lambda: zmqbroker_topic in run(*long_open).stdout.decode(), "it is open for longer than 1 ms")
    assert zmqbroker_topic not in run(*long_open[:-1], "3600000").stdout.decode()
    producer.abort_transaction()
    assert zmqbroker_topic not in run("transactions", "list", "--state", "Ongoing").stdout.decode()


def test_transactions_are_described(run, producer, zmqbroker_topic):
    producer.begin_transaction()
    producer.send(zmqbroker_topic, b"open", partition=0).get(10)
    words = ("transactions", "describe", "--transactional-id", zmqbroker_topic)
    (one,) = run(*words, "--format", "json")
    assert one["state"] == "Ongoing"
    assert one["partitions"] == [[zmqbroker_topic, 0]]
    assert one["timeout_ms"] == 60_000
    assert one["start_ms"] > 0
    table = run(*words).stdout.decode().splitlines()
    assert table[1].split()[1] == "Ongoing"
    assert f"{zmqbroker_topic}-0" in table[1]
    assert zmqbroker_topic in run("transactions", "describe").stdout.decode()


def test_a_transactional_id_that_nobody_has_used(run, refused, producer):
    assert producer.bootstrap_connected()
    assert "nobody" in refused(run("transactions", "describe", "--transactional-id", "nobody"))


def test_only_what_is_committed_is_printed(run, producer, zmqbroker_topic):
    producer.begin_transaction()
    producer.send(zmqbroker_topic, b"open", partition=0).get(10)
    words = ("consume", "--topic", zmqbroker_topic, "--from-beginning", "--timeout-ms", "500")
    assert run(*words).stdout == b"committed\nopen\n"
    assert run(*words, "--isolation-level", "read_uncommitted").stdout == b"committed\nopen\n"
    assert run(*words, "--isolation-level", "read_committed").stdout == b"committed\n"


def test_a_queue_has_no_isolation_level(run, refused, zmqbroker_topic):
    words = ("consume", "--topic", zmqbroker_topic, "--queue", "g", "--isolation-level", "read_committed")
    assert "--isolation-level" in refused(run(*words))
