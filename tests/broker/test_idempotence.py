"""Idempotent producers: repeats, gaps, fencing, ids that nobody else has; all of it after restarts too."""

from __future__ import annotations

import pytest
from zmqbroker.transport.messages import InitProducerIdRequest


def send(client, sequence, *values, pid=7, epoch=0, **options):
    values = values or (b"%d" % sequence,)
    return client.produce("a", *values, producer_id=pid, producer_epoch=epoch, base_sequence=sequence, **options)


def check_memory_of_five_batches(client):
    """The state that `fill` left: batches of sequences 0 to 6 at offsets 0 to 6."""
    for sequence in range(2, 7):
        result = send(client, sequence)
        assert (result.error_code, result.base_offset) == (0, sequence), result
    assert send(client, 1).error_code == 46
    gap = send(client, 8)
    assert (gap.error_code, gap.base_offset) == (45, -1)
    assert "expected 7" in gap.error_message
    assert client.end_offset("a") == 7


def fill(client):
    client.create("a")
    for sequence in range(7):
        assert send(client, sequence).base_offset == sequence


def test_repeats_have_their_first_offset_and_gaps_are_refused(client):
    fill(client)
    check_memory_of_five_batches(client)
    assert send(client, 7).base_offset == 7


def test_the_same_after_a_clean_restart(node):
    fill(node.client())
    client = node.restart().client()
    check_memory_of_five_batches(client)
    assert send(client, 7).base_offset == 7


def test_the_same_after_an_unclean_restart(node):
    fill(node.client())
    node.crash()
    client = node.start().client()
    check_memory_of_five_batches(client)
    assert send(client, 7).base_offset == 7


def test_repeats_within_one_turn_are_one_record(client):
    client.create("a")
    numbers = [
        client.send_produce("a", b"x", producer_id=1, producer_epoch=0, base_sequence=0, acks=acks)
        for acks in (-1, 1, -1, -1)
    ]
    replies = [client.reply_to(number) for number in numbers]
    assert [reply.body[0][0][4] for reply in replies] == [0, 0, 0, 0]
    assert client.end_offset("a") == 1


def test_a_repeat_of_an_unflushed_batch_is_acknowledged_only_when_it_is_flushed(make_node, faults, eventually):
    client = make_node().client()
    client.create("a")
    faults.hold_flushes("/a-0/")
    sequence = {"producer_id": 1, "producer_epoch": 0, "base_sequence": 0}
    first = client.send_produce("a", b"x", **sequence)
    eventually(lambda: faults.waiting, "the flush is under way")
    repeat = client.send_produce("a", b"x", **sequence)
    assert client.produce("a", b"x", acks=1, **sequence).base_offset == 0
    assert not client._early, "an acks=all repeat was acknowledged before the flush"
    faults.release()
    assert client.reply_to(first).error_code == client.reply_to(repeat).error_code == 0
    assert client.end_offset("a") == 1


def test_an_older_epoch_is_fenced_and_a_newer_one_begins_at_0(client):
    client.create("a")
    send(client, 0, epoch=3)
    assert send(client, 1, epoch=2).error_code == 47
    assert send(client, 1, epoch=4).error_code == 45
    assert send(client, 0, epoch=4).base_offset == 1
    assert send(client, 1, epoch=3).error_code == 47


def test_negative_sequences_and_control_batches_are_refused(client):
    client.create("a")
    assert send(client, -1, b"x").error_code == 87
    assert send(client, 0, b"x", pid=-2).error_code == 87
    assert client.produce("a", b"x", control=True).error_code == 87
    assert client.end_offset("a") == 0


def test_producers_are_apart(client):
    client.create("a", 2)
    assert [send(client, 0, pid=pid).base_offset for pid in (1, 2)] == [0, 1]
    assert send(client, 0, pid=1, partition=1).base_offset == 0
    assert send(client, 1, pid=1).base_offset == 2


def test_a_silent_producer_is_forgotten(make_node, eventually):
    client = make_node(producer_id_expiration_ms=1, log_retention_check_interval_ms=5).client()
    client.create("a")
    send(client, 0)
    eventually(lambda: send(client, 0).base_offset == 1, "the state has expired, so this is no repeat any more")


def take_ids(client, count):
    replies = [client.call(InitProducerIdRequest()) for _ in range(count)]
    assert {reply.producer_epoch for reply in replies} == {0}
    return [reply.producer_id for reply in replies]


def test_producer_ids_are_unique_over_restarts(node):
    found = take_ids(node.client(), 3)
    node.restart()
    found += take_ids(node.client(), 3)
    node.crash()
    node.start()
    found += take_ids(node.client(), 3)
    assert len(set(found)) == 9
    assert min(found) >= 0


def test_a_block_of_ids_is_used_up_before_the_next(client):
    numbers = [client.send(InitProducerIdRequest()) for _ in range(2500)]
    found = [client.reply_to(number).body[0] for number in numbers]
    assert found == list(range(2500))


@pytest.mark.parametrize("epoch", [0, 41])
def test_a_producer_id_gets_its_next_epoch(client, epoch):
    (mine,) = take_ids(client, 1)
    reply = client.call(InitProducerIdRequest(mine, epoch))
    assert (reply.producer_id, reply.producer_epoch) == (mine, epoch + 1)


def test_a_producer_id_without_epochs_left_is_replaced(client):
    (mine,) = take_ids(client, 1)
    reply = client.call(InitProducerIdRequest(mine, 2**15 - 1))
    assert (reply.producer_id, reply.producer_epoch) == (mine + 1, 0)


def test_ids_whose_block_was_not_written_are_not_given_out(make_node, faults):
    node = make_node()
    client = node.client()
    faults.full_for = "__cluster_metadata"
    assert client.ask(InitProducerIdRequest()).error_code == 56
    assert client.ask(InitProducerIdRequest()).error_code == 56, "an id of a block that the metadata log has not"
    faults.full_for = ""
    found = take_ids(client, 2)
    node.restart()
    assert not set(found) & set(take_ids(node.client(), 2))
