"""`zmqbroker queues ...`: what they print, what they change, and what they refuse."""

from __future__ import annotations

import json
import time

import pytest
from zmqbroker import Consumer, NewTopic, Producer, ShareConsumer, TopicPartition
from zmqbroker.client.admin import Admin


@pytest.fixture
def at(zmqbroker_server):
    return {"bootstrap_servers": zmqbroker_server.bootstrap_servers}


@pytest.fixture
def run(zmqbroker_command, at):
    """Run a command against the broker; with --format json, what it printed."""

    def call(*words):
        done = zmqbroker_command(*words, "--bootstrap-server", at["bootstrap_servers"])
        if "json" in words and done.returncode == 0:
            return json.loads(done.stdout)
        return done

    return call


@pytest.fixture
def queue(at, zmqbroker_topic):
    """A topic of one partition with 6 records; the queue over it has the same name."""
    with Admin(**at) as admin:
        admin.create_topics([NewTopic(zmqbroker_topic, 1)])
    with Producer(**at) as producer:
        for number in range(6):
            producer.send(zmqbroker_topic, b"v%d" % number, key=b"k%d" % number, headers=[("own", b"%d" % number)])
        producer.flush()
    return zmqbroker_topic


def take(at, queue, eventually):
    """A consumer, and the records that it got."""
    consumer = ShareConsumer(queue, group_id=queue, acknowledgement_mode="explicit", client_id="worker", **at)
    records = []

    def enough():
        records.extend(consumer.poll(timeout_ms=50))
        return records

    eventually(enough, "the queue delivers")
    return consumer, records


@pytest.fixture
def worked_on(at, queue, eventually):
    """A queue with a consumer: record 0 is done, 1 and 2 given up, 3 released for a day, 4 and 5 leased."""
    consumer, records = take(at, queue, eventually)
    assert len(records) == 6
    consumer.acknowledge(records[0])
    consumer.reject(records[1:3], "it is bad")
    consumer.release(records[3], delay_ms=86_400_000)
    consumer.commit()
    with consumer:
        yield queue


def describe(run, queue):
    return run("queues", "describe", "--group", queue, "--format", "json")[0]


def given_up(run, queue, eventually):
    """Wait for the dead letters: they are written after the rejection is durable."""
    return eventually(lambda: describe(run, queue)["partitions"][0]["dead_lettered"] == 2, "two dead letters")


def test_a_queue_is_described(run, worked_on, eventually):
    given_up(run, worked_on, eventually)
    found = describe(run, worked_on)
    assert (found["state"], found["dead_letter_topic"]) == ("Stable", f"dlq.{worked_on}")
    (member,) = found["members"]
    assert (member["client_id"], member["topics"], member["leased"]) == ("worker", [worked_on], 2)
    (partition,) = found["partitions"]
    names = ("start_offset", "next_offset", "available", "delayed", "leased", "lag", "dead_lettered")
    assert [partition[name] for name in names] == [3, 6, 0, 1, 2, 3, 2]
    assert 0 <= partition["lag_ms"] < 60_000

    lines = run("queues", "describe", "--group", worked_on).stdout.decode().splitlines()
    assert lines[0].startswith(f"queue {worked_on}: Stable, 1 consumer, dead letters to dlq.{worked_on}, ")
    assert lines[2].split()[:5] == [worked_on, "0", "3", "6", "3"]
    assert "worker" in lines[4]
    assert {"group": worked_on, "state": "Stable"} in run("queues", "list", "--format", "json")
    assert worked_on in run("queues", "list").stdout.decode()
    assert worked_on in run("queues", "describe").stdout.decode()


def test_peek_shows_states_and_leases_nothing(run, worked_on, eventually):
    given_up(run, worked_on, eventually)
    found = run("queues", "peek", "--group", worked_on, "--format", "json")
    seen = [(one["offset"], one["state"], one["delivery_count"], one["key"], one["value"]) for one in found]
    assert seen == [(3, "delayed", 1, "k3", "v3"), (4, "acquired", 1, "k4", "v4"), (5, "acquired", 1, "k5", "v5")]
    assert found[0]["headers"] == [{"name": "own", "value": "3"}]
    assert found[0]["until_ms"] > time.time() * 1000 + 80_000_000
    assert found[1]["member"]
    assert describe(run, worked_on)["partitions"][0]["leased"] == 2

    lines = run("queues", "peek", "--group", worked_on, "--limit", "1").stdout.decode().splitlines()
    assert len(lines) == 2
    assert lines[1].split()[:3] == [worked_on, "0", "3"]


def test_peek_shows_what_was_never_delivered(run, at, worked_on):
    with Producer(**at) as producer:
        producer.send(worked_on, b"now")
        producer.send(worked_on, b"x" * 100, deliver_at=int(time.time() * 1000) + 3_600_000)
        producer.flush()
    consumed = run("queues", "peek", "--group", worked_on, "--topic", worked_on, "--format", "json")[-2:]
    assert [(one["offset"], one["delivery_count"]) for one in consumed][1] == (7, 0)
    assert consumed[1]["state"] == "delayed"
    assert "xxx..." in run("queues", "peek", "--group", worked_on).stdout.decode()


def test_redrive_puts_dead_letters_back_once(run, at, worked_on, eventually):
    given_up(run, worked_on, eventually)
    letters = f"dlq.{worked_on}"
    would = run("queues", "redrive", "--group", worked_on, "--dry-run", "--format", "json")
    assert would == {"dead_letter_topic": letters, "dry_run": True, "redriven": {worked_on: 2}, "skipped": 0}
    assert (
        f"1 dead letter of {letters} to be put back"
        in run("queues", "redrive", "--topic", letters, "--dry-run", "--limit", "1").stderr.decode()
    )

    done = run("queues", "redrive", "--topic", letters, "--limit", "1")
    assert done.stdout.decode().splitlines()[1].split() == [worked_on, "1"]
    assert f"1 dead letter of {letters} put back" in done.stderr.decode()
    assert run("queues", "redrive", "--group", worked_on, "--format", "json")["redriven"] == {worked_on: 1}
    assert run("queues", "redrive", "--group", worked_on, "--format", "json")["redriven"] == {}
    assert run("queues", "redrive", "--group", worked_on, "--dry-run", "--format", "json")["redriven"] == {}

    with Consumer(**at) as consumer:
        consumer.assign([TopicPartition(worked_on, 0)])
        consumer.seek(TopicPartition(worked_on, 0), 6)
        back = []
        eventually(
            lambda: back.extend(*consumer.poll(timeout_ms=50).values() or [()]) or len(back) == 2, "two are back"
        )
    assert [(one.key, one.value, list(one.headers)) for one in back] == [
        (b"k1", b"v1", [("own", b"1")]),
        (b"k2", b"v2", [("own", b"2")]),
    ]


def test_redrive_leaves_what_is_no_dead_letter(run, queue):
    found = run("queues", "redrive", "--topic", queue, "--format", "json")
    assert (found["redriven"], found["skipped"]) == ({}, 6)
    assert run("queues", "redrive", "--topic", queue, "--format", "json")["skipped"] == 0


def test_redrive_drops_the_time_of_delivery_and_the_reasons(run, at, zmqbroker_topic, eventually):
    topic, letters = f"{zmqbroker_topic}-origin", f"{zmqbroker_topic}-letters"
    with Admin(**at) as admin:
        admin.create_topics([NewTopic(topic, 1), NewTopic(letters, 1)])
    headers = [
        ("__deliver_at", b"1"),
        ("mine", None),
        ("__dlq.errors.topic", topic.encode()),
        ("__dlq.errors.message", b""),
    ]
    with Producer(**at) as producer:
        producer.send(letters, None, key=b"k", headers=headers).get(10)
    assert run("queues", "redrive", "--topic", letters, "--format", "json")["redriven"] == {topic: 1}
    with Consumer(topic, auto_offset_reset="earliest", **at) as consumer:
        (records,) = eventually(lambda: consumer.poll(timeout_ms=50), "it is back").values()
    assert [(one.key, one.value, list(one.headers)) for one in records] == [(b"k", None, [("mine", None)])]


def test_offsets_are_reset_once_nobody_works(run, refused, at, queue, eventually):
    consumer, records = take(at, queue, eventually)
    words = ["queues", "reset-offsets", "--group", queue, "--all-topics"]
    assert "has 1 consumer (clients worker): stop them first" in refused(run(*words, "--to-latest"))
    consumer.acknowledge(records)
    consumer.close()
    moves = run(*words, "--shift-by", "-2", "--format", "json")
    assert [(move["before"], move["after"]) for move in moves] == [(6, 4)]
    assert describe(run, queue)["partitions"][0]["start_offset"] == 6
    assert run(*words, "--to-earliest", "--execute").returncode == 0
    assert describe(run, queue)["partitions"][0]["start_offset"] == 0
    assert describe(run, queue)["partitions"][0]["lag"] == 6
    states = [one["state"] for one in run("queues", "peek", "--group", queue, "--format", "json")]
    assert states == ["new"] * 6


def test_a_queue_is_deleted_once_nobody_works(run, refused, at, queue, eventually):
    consumer, records = take(at, queue, eventually)
    assert queue in refused(run("queues", "delete", "--group", queue))
    consumer.acknowledge(records)
    consumer.close()
    assert run("queues", "delete", "--group", queue, "--format", "json") == {"deleted": [queue]}
    assert queue not in run("queues", "list").stdout.decode()


@pytest.mark.parametrize(
    "words",
    [
        ["describe"],
        ["peek"],
        ["delete"],
        ["redrive"],
        ["reset-offsets", "--all-topics", "--to-latest"],
        ["reset-offsets", "--topic", "nowhere", "--to-latest"],
    ],
    ids=" ".join,
)
def test_a_queue_that_is_none_is_refused(run, refused, words):
    assert "nobody" in refused(run("queues", *words, "--group", "nobody"))


def test_a_consumer_group_is_no_queue_and_the_other_way_round(run, refused, at, queue, eventually):
    with Admin(**at) as admin:
        admin.alter_consumer_group_offsets(f"{queue}-group", {TopicPartition(queue, 0): 1})
    refused(run("queues", "describe", "--group", f"{queue}-group"))
    consumer, _ = take(at, queue, eventually)
    with consumer:
        assert "share group" in refused(run("groups", "describe", "--group", queue))
        assert "share group" in refused(run("groups", "delete", "--group", queue))


def test_a_redrive_of_no_topic_is_refused(run, refused):
    assert "nowhere" in refused(run("queues", "redrive", "--topic", "nowhere"))
    assert run("queues", "redrive").returncode == 2
