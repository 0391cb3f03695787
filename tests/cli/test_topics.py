"""`zmqbroker topics ...` and `zmqbroker status`: what they do, what they print, and what they refuse."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def run(zmqbroker_command, zmqbroker_server):
    """Run a command against the broker; with --format json, what it printed."""

    def call(*words):
        done = zmqbroker_command(*words, "--bootstrap-server", zmqbroker_server.bootstrap_servers)
        if "json" in words and done.returncode == 0:
            return json.loads(done.stdout)
        return done

    return call


def describe(run, topic, *flags):
    return run("topics", "describe", "--topic", topic, "--format", "json", *flags)[0]


def test_a_topics_life(run, zmqbroker_topic):
    created = run("topics", "create", "--topic", zmqbroker_topic, "--partitions", "2", "--config", "retention.ms=1h")
    assert created.stdout.decode() == f"topic {zmqbroker_topic} created: 2 partitions, replication factor 1\n"

    assert zmqbroker_topic in run("topics", "list", "--format", "json")
    assert f"{zmqbroker_topic}\n" in run("topics", "list").stdout.decode()

    found = describe(run, zmqbroker_topic)
    assert [partition["partition"] for partition in found["partitions"]] == [0, 1]
    assert found["configs"] == {"retention.ms": {"value": "3600000", "source": "topic"}}
    assert "segment.bytes" in describe(run, zmqbroker_topic, "--all-configs")["configs"]

    changes = ["--partitions", "3", "--config", "segment.bytes=1MiB", "--delete-config", "retention.ms"]
    assert run("topics", "alter", "--topic", zmqbroker_topic, *changes).returncode == 0
    found = describe(run, zmqbroker_topic)
    assert len(found["partitions"]) == 3
    assert found["configs"] == {"segment.bytes": {"value": "1048576", "source": "topic"}}

    assert run("topics", "delete", "--topic", zmqbroker_topic, "--format", "json") == {"deleted": [zmqbroker_topic]}
    assert zmqbroker_topic not in run("topics", "list", "--format", "json")


def test_describe_shows_where_records_are(run, zmqbroker_command, zmqbroker_server, zmqbroker_topic):
    at = ["--bootstrap-server", zmqbroker_server.bootstrap_servers]
    assert zmqbroker_command("produce", "--topic", zmqbroker_topic, *at, stdin=b"a\nb\n").returncode == 0
    partition = describe(run, zmqbroker_topic)["partitions"][0]
    assert (partition["first_offset"], partition["end_offset"], partition["leader"]) == (0, 2, 1)
    printed = run("topics", "describe", "--topic", zmqbroker_topic).stdout.decode().splitlines()
    assert printed[0].startswith(f"topic {zmqbroker_topic}: 1 partitions, replication factor 1, id ")
    assert [row.split()[0] for row in printed[1:]] == ["partition", "0"]
    assert printed[2].split()[-2:] == ["0", "2"]


def test_creating_twice_is_refused_unless_allowed(run, refused, zmqbroker_topic):
    create = ["topics", "create", "--topic", zmqbroker_topic]
    assert run(*create).returncode == 0
    assert zmqbroker_topic in refused(run(*create))
    assert run(*create, "--if-not-exists").returncode == 0


def test_a_dry_run_creates_nothing(run, zmqbroker_topic):
    made = run("topics", "create", "--topic", zmqbroker_topic, "--partitions", "4", "--dry-run", "--format", "json")
    assert (made["created"], made["partitions"]) == (False, 4)
    assert zmqbroker_topic not in run("topics", "list", "--format", "json")


def test_a_missing_topic_is_refused_unless_allowed(run, refused):
    assert "nowhere" in refused(run("topics", "describe", "--topic", "nowhere"))
    assert "nowhere" in refused(run("topics", "delete", "--topic", "nowhere"))
    assert "nowhere" in refused(run("topics", "alter", "--topic", "nowhere", "--partitions", "2"))
    assert run("topics", "delete", "--topic", "nowhere", "--if-exists").returncode == 0


@pytest.mark.parametrize("topic", [".", "..", "a/b", "a b", "x" * 250, "ü"])
def test_a_bad_name_is_refused(run, refused, topic):
    refused(run("topics", "create", "--topic", topic))


def test_the_longest_name_is_taken(run):
    assert run("topics", "create", "--topic", "x" * 249).returncode == 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--replication-factor", "2"], "2"),
        (["--config", "no.such.setting=1"], "no.such.setting"),
        (["--config", "segment.bytes=64parsecs"], "64parsecs"),
        (["--config", "retention.ms=-5"], "-5"),
        (["--config", "min.insync.replicas=2"], "min.insync.replicas"),
        (["--config", "nothing"], "KEY=VALUE"),
    ],
    ids=str,
)
def test_a_bad_setting_is_refused_and_nothing_created(run, refused, zmqbroker_topic, flags, says):
    assert says in refused(run("topics", "create", "--topic", zmqbroker_topic, *flags))
    assert zmqbroker_topic not in run("topics", "list", "--format", "json")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "nothing to alter"),
        (["--partitions", "1"], "1"),
        (["--config", "segment.bytes=tiny"], "segment.bytes"),
        (["--delete-config", "no.such.setting"], "no.such.setting"),
    ],
    ids=str,
)
def test_an_impossible_change_is_refused(run, refused, zmqbroker_topic, flags, says):
    assert run("topics", "create", "--topic", zmqbroker_topic, "--partitions", "2").returncode == 0
    assert says in refused(run("topics", "alter", "--topic", zmqbroker_topic, *flags))


@pytest.mark.parametrize("words", [("topics", "list"), ("status",)], ids=" ".join)
def test_no_broker_is_refused_in_bounded_time(zmqbroker_command, refused, unused_port, words):
    flags = ["--bootstrap-server", f"127.0.0.1:{unused_port}", "--request-timeout-ms", "300"]
    assert str(unused_port) in refused(zmqbroker_command(*words, *flags))


def test_an_address_that_is_none_is_refused(zmqbroker_command, refused):
    assert "not-a-port" in refused(zmqbroker_command("status", "--bootstrap-server", "here:not-a-port"))


def test_status_shows_the_node_and_its_partitions(run, zmqbroker_server, zmqbroker_topic):
    assert run("topics", "create", "--topic", zmqbroker_topic).returncode == 0
    status = run("status", "--format", "json")
    assert status["node_id"] == 1
    assert status["log_dir"]["path"] == zmqbroker_server.data_dir
    mine = [found for found in status["log_dir"]["partitions"] if found["topic"] == zmqbroker_topic]
    assert [(found["partition"], found["log_end_offset"], found["error_message"]) for found in mine] == [(0, 0, None)]
    assert zmqbroker_topic in run("status").stdout.decode()
