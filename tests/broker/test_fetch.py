"""Fetch over the wire: the long poll, its budgets, several partitions, offsets outside of the log."""

from __future__ import annotations

import time

import pytest
from zmqbroker.transport.messages import CreatePartitionsRequest, FetchRequest, PartitionCount, PartitionFetch

LONG_MS = 60_000
"""A wait that a test never waits out: whoever is answered was woken."""


def fetch_many(client, *entries, wait_ms=0, min_bytes=1, max_bytes=1 << 20):
    request = FetchRequest(wait_ms, min_bytes, max_bytes, [PartitionFetch(*entry) for entry in entries])
    reply = client.ask(request)
    return client.body_of(reply, request).partitions, reply.frames


def in_flight(node):
    return node.on_reactor(lambda: node.context.open_requests)


def watches(node, topic, partition=0):
    return node.on_reactor(lambda: len(node.leader(topic, partition)._watches))


def test_a_fetch_has_what_was_produced(client, records):
    client.create("a")
    client.produce("a", b"0", b"1")
    client.produce("a", b"2")
    (state,), frames = fetch_many(client, ("a", 0, 0, 1 << 20))
    assert (state.error_code, state.high_watermark, state.last_stable_offset, state.log_start_offset) == (0, 3, 3, 0)
    assert [(record.offset, record.value) for record in records(frames[0])] == [(0, b"0"), (1, b"1"), (2, b"2")]


def test_a_fetch_in_the_middle_of_a_batch_has_the_whole_batch(client, records):
    client.create("a")
    client.produce("a", b"0", b"1", b"2")
    _, frames = fetch_many(client, ("a", 0, 2, 1 << 20))
    assert [record.offset for record in records(frames[0])] == [0, 1, 2]


def test_a_fetch_at_the_end_waits_and_is_woken_by_a_produce(node, eventually):
    client, other = node.client(), node.client()
    client.create("a")
    number = client.send_fetch("a", 0, wait_ms=LONG_MS)
    eventually(lambda: watches(node, "a") == 1, "the fetch waits")
    other.produce("a", b"x")
    reply = client.reply_to(number)
    assert (reply.error_code, len(reply.frames[0]) > 0) == (0, True)
    assert watches(node, "a") == 0


def test_min_bytes_waits_for_more(node, eventually, records):
    client, other = node.client(), node.client()
    client.create("a")
    number = client.send_fetch("a", 0, wait_ms=LONG_MS, min_bytes=400)
    for index in range(6):
        eventually(lambda: watches(node, "a") == 1, "the fetch waits")
        other.produce("a", b"%d" % index)
    reply = client.reply_to(number)
    size = len(reply.frames[0])
    assert 400 <= size < 500
    assert [record.value for record in records(reply.frames[0])] == [b"%d" % index for index in range(6)]


def test_max_wait_answers_with_what_is_there(client):
    client.create("a")
    client.produce("a", b"x")
    began = time.monotonic()
    state, found = client.fetch("a", wait_ms=60, min_bytes=10_000)
    assert time.monotonic() - began >= 0.06
    assert (state.error_code, [record.value for record in found]) == (0, [b"x"])
    began = time.monotonic()
    assert client.fetch("a", 1, wait_ms=60)[1] == []
    assert time.monotonic() - began >= 0.06


def test_max_wait_0_never_waits(client):
    client.create("a")
    assert client.fetch("a", min_bytes=100)[1] == []


def test_the_brokers_longest_wait_counts_too(make_node):
    client = make_node(max_fetch_wait_ms=30).client()
    client.create("a")
    reply = client.reply_to(client.send_fetch("a", wait_ms=2**31 - 1))
    assert reply.error_code == 0


def test_without_partitions_there_is_nothing_to_wait_for(client):
    assert fetch_many(client, wait_ms=LONG_MS) == ([], [])


def test_one_batch_at_least_however_small_the_budget(client, records):
    client.create("a")
    client.produce("a", b"x" * 1000)
    client.produce("a", b"y" * 1000)
    for max_bytes, partition_bytes in ((1, 1), (0, 0), (10, 1 << 20), (1 << 20, 10)):
        _, frames = fetch_many(client, ("a", 0, 0, partition_bytes), max_bytes=max_bytes)
        assert [record.value[:1] for record in records(frames[0])] == [b"x"], (max_bytes, partition_bytes)


def test_the_budget_holds_over_all_partitions(client):
    client.create("a", 5)
    for partition in range(5):
        client.produce("a", b"x" * 940, partition=partition)
    entries = [("a", partition, 0, 1 << 20) for partition in range(5)]
    size = len(fetch_many(client, *entries[:1])[1][0])
    states, frames = fetch_many(client, *entries, max_bytes=size * 3)
    assert [state.error_code for state in states] == [0] * 5
    assert [(state.topic, state.partition) for state in states] == [entry[:2] for entry in entries]
    assert sum(map(len, frames)) == size * 3
    _, frames = fetch_many(client, *entries, max_bytes=1)
    assert [len(frame) > 0 for frame in frames] == [True, False, False, False, False]


def test_what_empty_partitions_leave_of_the_budget_goes_to_the_others(client):
    client.create("a", 3)
    client.produce("a", b"x" * 500, partition=2)
    _, frames = fetch_many(client, *[("a", partition, 0, 1000) for partition in range(3)], max_bytes=600)
    assert [len(frame) > 0 for frame in frames] == [False, False, True]


def test_the_brokers_own_limit_holds_too(make_node):
    client = make_node(fetch_max_bytes=2000).client()
    client.create("a")
    for _ in range(5):
        client.produce("a", b"x" * 900)
    _, frames = fetch_many(client, ("a", 0, 0, 1 << 20))
    assert 900 < len(frames[0]) < 2000


def test_a_partitions_own_limit_holds(client, records):
    client.create("a")
    for index in range(5):
        client.produce("a", b"%d" % index * 200)
    size = len(fetch_many(client, ("a", 0, 0, 1))[1][0])
    _, frames = fetch_many(client, ("a", 0, 0, size * 2 + 1))
    assert [record.offset for record in records(frames[0])] == [0, 1]


@pytest.mark.parametrize("offset", [-1, -5, 4, 2**62])
def test_offsets_outside_of_the_log_are_out_of_range(client, offset):
    client.create("a")
    client.produce("a", b"0", b"1", b"2")
    reply = client.reply_to(client.send_fetch("a", offset, wait_ms=LONG_MS))
    (state,) = client.body_of(reply, FetchRequest).partitions
    assert state.error_code == 1
    assert f"offsets 0 to 3; a read asked for {offset}" in state.error_message
    assert (state.high_watermark, state.log_start_offset) == (3, 0)


def test_a_partition_that_fails_does_not_hold_up_the_others(client, records):
    client.create("a")
    client.produce("a", b"x")
    entries = (("a", 0, 0, 1000), ("a", 1, 0, 1000), ("none", 0, 0, 1000), ("a", 0, 9, 1000))
    states, frames = fetch_many(client, *entries, wait_ms=LONG_MS, min_bytes=10_000)
    assert [state.error_code for state in states] == [0, 3, 3, 1]
    assert [len(records(frame)) for frame in frames] == [1, 0, 0, 0]


def test_a_produce_to_any_of_the_partitions_wakes_the_fetch(node, eventually):
    client, other = node.client(), node.client()
    client.create("a", 3)
    request = FetchRequest(LONG_MS, 1, 1 << 20, [PartitionFetch("a", index, 0, 1 << 20) for index in range(3)])
    number = client.send(request)
    eventually(lambda: sum(watches(node, "a", index) for index in range(3)) == 3, "the fetch waits")
    other.produce("a", b"x", partition=1)
    reply = client.reply_to(number)
    assert [len(frame) > 0 for frame in reply.frames] == [False, True, False]
    assert sum(watches(node, "a", index) for index in range(3)) == 0


def test_the_same_partition_may_be_named_twice(client, records):
    client.create("a")
    client.produce("a", b"0")
    client.produce("a", b"1")
    _, frames = fetch_many(client, ("a", 0, 0, 1), ("a", 0, 1, 1))
    assert [[record.value for record in records(frame)] for frame in frames] == [[b"0"], [b"1"]]


def test_a_client_that_leaves_takes_its_watches_along(node, eventually):
    from zmqbroker.transport.messages import CloseRequest

    client, other = node.client(), node.client()
    client.create("a")
    client.send_fetch("a", 0, wait_ms=LONG_MS)
    eventually(lambda: watches(node, "a") == 1, "the fetch waits")
    client.send(CloseRequest())
    eventually(lambda: watches(node, "a") == 0, "nobody watches")
    eventually(lambda: in_flight(node) == 0, "nothing is open")
    assert other.produce("a", b"x").error_code == 0
    assert node.on_reactor(lambda: node.context.queued_bytes) == 0


def test_hundreds_of_waiting_fetches_are_all_woken(node, eventually):
    client, other = node.client(), node.client()
    client.create("a")
    numbers = [client.send_fetch("a", 0, wait_ms=LONG_MS) for _ in range(400)]
    eventually(lambda: watches(node, "a") == 400, "all wait")
    other.produce("a", b"x")
    assert all(client.reply_to(number).frames[0] for number in numbers)


def test_a_new_partition_can_be_fetched_at_once(client):
    client.create("a")
    client.call(CreatePartitionsRequest([PartitionCount("a", 3)], 1000))
    assert client.fetch("a", partition=2)[0].error_code == 0
