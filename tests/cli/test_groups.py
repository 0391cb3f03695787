"""`zmqbroker groups ...`: what they print, what they change, and what they refuse."""

from __future__ import annotations

import json
import time

import pytest
from zmqbroker import Admin, Consumer, Producer, TopicPartition
from zmqbroker.cli.group_tables import duration, wall_time
from zmqbroker.client.types import OffsetAndMetadata

HOUR_MS = 3_600_000


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
def admin(zmqbroker_server):
    with Admin(bootstrap_servers=zmqbroker_server.bootstrap_servers) as client:
        yield client


@pytest.fixture
def filled(run, zmqbroker_server, zmqbroker_topic):
    """A topic of two partitions: 10 records that are an hour old, and none."""
    assert run("topics", "create", "--topic", zmqbroker_topic, "--partitions", "2").returncode == 0
    start = int(time.time() * 1000) - HOUR_MS
    with Producer(bootstrap_servers=zmqbroker_server.bootstrap_servers) as producer:
        for number in range(10):
            producer.send(zmqbroker_topic, b"%d" % number, partition=0, timestamp_ms=start + number * 1000)
        producer.flush()
    return zmqbroker_topic


@pytest.fixture
def group(admin, filled):
    """A group that has read 4 of the 10 records and has no members."""
    admin.alter_consumer_group_offsets(filled, {TopicPartition(filled, 0): OffsetAndMetadata(4, "so far")})
    return filled


@pytest.fixture
def reading(zmqbroker_server, filled, eventually):
    """A consumer that is in a group of the topic's name."""
    with Consumer(
        filled, bootstrap_servers=zmqbroker_server.bootstrap_servers, group_id=filled, client_id="reader"
    ) as consumer:
        eventually(lambda: consumer.poll(timeout_ms=50) or consumer.assignment(), "the consumer joins")
        yield consumer


def describe(run, group):
    return run("groups", "describe", "--group", group, "--format", "json")[0]


def reset(run, group, *flags):
    moves = run("groups", "reset-offsets", "--group", group, "--format", "json", *flags)
    return [(move["partition"], move["before"], move["after"]) for move in moves]


def committed(admin, group):
    return {partition.partition: found.offset for partition, found in admin.list_consumer_group_offsets(group).items()}


def test_a_group_without_members_is_described(run, group):
    found = describe(run, group)
    assert (found["state"], found["members"], found["coordinator"]) == ("Empty", [], 1)
    (partition,) = found["partitions"]
    figures = [partition[name] for name in ("partition", "committed", "metadata", "end", "lag", "member")]
    assert figures == [0, 4, "so far", 10, 6, None]
    assert HOUR_MS - 10_000 < partition["lag_ms"] < HOUR_MS + 60_000

    lines = run("groups", "describe", "--group", group).stdout.decode().splitlines()
    assert lines[0].startswith(f"group {group}: Empty, 0 members, assignor none, generation ")
    assert lines[2].split()[1:5] == ["0", "4", "10", "6"]
    assert lines[2].split()[5] in ("59m59s", "59m58s", "59m57s", "59m56s", "59m55s", "1h0m")


def test_a_group_that_has_read_all_has_no_lag(run, group):
    assert reset(run, group, "--all-topics", "--to-latest", "--execute") == [(0, 4, 10)]
    (partition,) = describe(run, group)["partitions"]
    assert (partition["lag"], partition["lag_ms"]) == (0, 0)
    assert run("groups", "describe", "--group", group).stdout.decode().splitlines()[2].split()[4:6] == ["0", "-"]


def test_a_group_that_is_read_shows_its_members(run, reading):
    (topic,) = reading.subscription()
    found = describe(run, topic)
    assert found["state"] == "Stable"
    (member,) = found["members"]
    assert (member["client"], member["topics"], member["partitions"]) == ("reader", [topic], [[topic, 0], [topic, 1]])
    assert {partition["client"] for partition in found["partitions"]} == {"reader"}
    listed = run("groups", "list", "--state", "Stable", "--format", "json")
    assert {"group_id": topic, "kind": "classic", "protocol_type": "consumer", "state": "Stable"} in listed
    assert topic in run("groups", "list").stdout.decode()
    assert topic not in run("groups", "list", "--state", "Empty").stdout.decode()


def test_a_member_without_partitions_is_shown(run, reading, zmqbroker_server, eventually):
    (topic,) = reading.subscription()
    more = [
        Consumer(topic, bootstrap_servers=zmqbroker_server.bootstrap_servers, group_id=topic, client_id=f"more{n}")
        for n in range(2)
    ]
    try:

        def settled():
            for consumer in (reading, *more):
                consumer.poll(timeout_ms=10)
            found = describe(run, topic)
            return found if found["state"] == "Stable" and len(found["members"]) == 3 else None

        idle = eventually(settled, "three members are in the group")["members_without_partitions"]
        assert len(idle) == 1
        assert idle[0] in run("groups", "describe", "--group", topic).stdout.decode()
    finally:
        for consumer in more:
            consumer.close()


@pytest.mark.parametrize(
    ("flags", "after"),
    [
        (["--to-earliest"], 0),
        (["--to-latest"], 10),
        (["--to-offset", "7"], 7),
        (["--to-offset", "700"], 10),
        (["--shift-by", "2"], 6),
        (["--shift-by", "-2"], 2),
        (["--shift-by", "-20"], 0),
        (["--to-datetime", "2020-01-31T12:00:00Z"], 0),
        (["--to-datetime", "2999-01-31"], 10),
        (["--by-duration", "1d"], 0),
        (["--by-duration", "1s"], 10),
    ],
    ids=str,
)
def test_offsets_are_reset(run, admin, group, flags, after):
    assert reset(run, group, "--all-topics", *flags) == [(0, 4, after)]
    assert committed(admin, group) == {0: 4}
    assert reset(run, group, "--all-topics", *flags, "--execute") == [(0, 4, after)]
    assert committed(admin, group) == {0: after}


def test_offsets_are_reset_to_the_middle_of_the_time(run, group):
    moment = wall_time(int(time.time() * 1000) - HOUR_MS + 4_500)
    ((_, _, after),) = reset(run, group, "--all-topics", "--to-datetime", moment)
    assert 3 <= after <= 8


def test_topics_and_partitions_are_chosen(run, admin, group):
    assert reset(run, group, "--topic", f"{group}:1", "--to-earliest") == [(1, None, 0)]
    assert reset(run, group, "--topic", group, "--to-earliest", "--execute") == [(0, 4, 0), (1, None, 0)]
    assert committed(admin, group) == {0: 0, 1: 0}
    new = f"{group}-new"
    assert reset(run, new, "--topic", f"{group}:0,1", "--to-latest", "--execute") == [(0, None, 10), (1, None, 0)]
    assert committed(admin, new) == {0: 10, 1: 0}


def test_what_a_dry_run_says(run, group):
    done = run("groups", "reset-offsets", "--group", group, "--all-topics", "--to-earliest")
    assert done.stdout.decode().splitlines()[1].split() == [group, "0", "4", "0"]
    assert "--execute" in done.stderr.decode()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--topic", "nowhere", "--to-latest"], "nowhere"),
        (["--topic", "TOPIC:7", "--to-latest"], "no partition 7: it has 2 partitions"),
        (["--topic", "TOPIC:1", "--shift-by", "1"], "cannot be shifted"),
    ],
    ids=str,
)
def test_an_impossible_reset_is_refused(run, refused, group, flags, says):
    words = [flag.replace("TOPIC", group) for flag in flags]
    assert says in refused(run("groups", "reset-offsets", "--group", group, *words))


def test_a_reset_of_nothing_is_refused(run, refused):
    words = ["groups", "reset-offsets", "--group", "nobody", "--all-topics", "--to-latest"]
    assert "name topics with --topic" in refused(run(*words))


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--to-latest"],
        ["--all-topics"],
        ["--all-topics", "--to-latest", "--to-earliest"],
        ["--all-topics", "--topic", "t", "--to-latest"],
        ["--all-topics", "--to-datetime", "yesterday"],
        ["--all-topics", "--by-duration", "5 parsecs"],
        ["--topic", "t:x", "--to-latest"],
        ["--topic", ":1", "--to-latest"],
    ],
    ids=" ".join,
)
def test_a_wrong_call_is_told_apart(run, flags):
    assert run("groups", "reset-offsets", "--group", "g", *flags).returncode == 2


def test_a_group_with_members_is_neither_reset_nor_deleted(run, refused, reading):
    (topic,) = reading.subscription()
    words = ["groups", "reset-offsets", "--group", topic, "--topic", topic, "--to-latest"]
    for flags in ([], ["--execute"]):
        sentence = refused(run(*words, *flags))
        assert "with 1 member (clients reader)" in sentence
        assert "stop them first" in sentence
    assert "1 members" in refused(run("groups", "delete", "--group", topic))


def test_a_group_is_deleted(run, refused, group):
    assert run("groups", "delete", "--group", group, "--format", "json") == {"deleted": [group]}
    assert group not in run("groups", "list").stdout.decode()
    for words in (["describe"], ["delete"]):
        assert group in refused(run("groups", *words, "--group", group))


def test_events_say_what_happened(run, refused, reading):
    (group,) = reading.subscription()
    events = run("groups", "events", "--group", group, "--format", "json")
    assert "joined" in [event["kind"] for event in events]
    assert [event["sequence"] for event in events] == sorted(event["sequence"] for event in events)
    assert run("groups", "events", "--group", group, "--limit", "1", "--format", "json") == events[-1:]
    (joined,) = [
        line for line in run("groups", "events", "--group", group).stdout.decode().splitlines() if " joined " in line
    ][:1]
    assert "reader" in joined
    assert "nobody" in refused(run("groups", "events", "--group", "nobody"))


@pytest.mark.parametrize(
    ("value_ms", "text"),
    [
        (None, "-"),
        (0, "0.0s"),
        (59_900, "59.9s"),
        (61_000, "1m1s"),
        (2 * HOUR_MS + 90_000, "2h1m"),
        (90_000_000, "1d1h"),
    ],
)
def test_durations_are_short(value_ms, text):
    assert duration(value_ms) == text
