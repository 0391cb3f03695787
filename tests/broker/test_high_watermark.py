"""With flush=ack nobody reads, and nobody is told of acks=all, before the records are on the disk."""

from __future__ import annotations

import pytest
from zmqbroker.transport.config_messages import TOPIC_RESOURCE, AlterConfigsRequest, ResourceChange
from zmqbroker.transport.messages import CloseRequest, ListOffsetsRequest, PartitionTimestamp


@pytest.fixture
def held(make_node, faults, eventually):
    """A node with a topic whose flushes are held back, and one acks=all record that waits for its own."""
    node = make_node()
    client = node.client()
    client.create("a")
    client.produce("a", b"flushed")
    faults.hold_flushes("/a-0/")
    node.waiting = client.send_produce("a", b"waits", acks=-1)
    eventually(lambda: faults.waiting, "the flush is under way")
    return node, client


def test_acks_1_is_answered_and_acks_all_waits_for_the_flush(held, faults, eventually):
    node, client = held
    assert client.produce("a", b"unflushed", acks=1).base_offset == 2
    assert client.hears_nothing(), "acks=all was answered before the flush"
    faults.release()
    assert client.reply_to(node.waiting).error_code == 0
    eventually(lambda: client.end_offset("a") == 3, "the next flush covers the rest")


def test_a_reader_sees_only_what_is_flushed(held, faults):
    node, client = held
    client.produce("a", b"unflushed", acks=1)
    state, records = client.fetch("a")
    assert [record.value for record in records] == [b"flushed"]
    assert (state.high_watermark, state.last_stable_offset) == (1, 1)
    state, records = client.fetch("a", 1)
    assert (state.error_code, records) == (0, [])
    assert client.fetch("a", 3)[0].error_code == 0, "the log's end, where a reader of another leader might stand"
    assert client.fetch("a", 4)[0].error_code == 1
    assert client.end_offset("a") == 1
    by_time = client.call(ListOffsetsRequest([PartitionTimestamp("a", 0, -3)])).partitions[0]
    assert by_time.offset in (0, -1), "a look-up by time must not tell of unflushed records either"
    faults.release()
    client.reply_to(node.waiting)


def test_a_waiting_reader_is_woken_by_the_flush_and_not_by_the_append(held, faults):
    node, client = held
    reader = node.client()
    number = reader.send_fetch("a", 1, wait_ms=60_000)
    client.produce("a", b"unflushed", acks=1)
    assert reader.hears_nothing()
    faults.release()
    assert reader.reply_to(number).frames[0]
    client.reply_to(node.waiting)


def test_deletion_stops_at_the_high_watermark(held, faults):
    from zmqbroker.transport.messages import DeleteRecordsRequest, PartitionDeletion

    _, client = held
    (result,) = client.call(DeleteRecordsRequest([PartitionDeletion("a", 0, 2)], 1000)).partitions
    assert result.error_code == 1
    (result,) = client.call(DeleteRecordsRequest([PartitionDeletion("a", 0, -1)], 1000)).partitions
    assert (result.error_code, result.low_watermark) == (0, 1)
    faults.release()


@pytest.mark.parametrize("flush", ["os", "interval"])
def test_other_modes_do_not_wait(make_node, faults, flush):
    client = make_node().client()
    client.create("a", flush=flush, flush_ms=1)
    faults.hold_flushes("/a-0/")
    assert client.produce("a", b"x", acks=-1).base_offset == 0
    assert client.values("a") == [b"x"]
    faults.release()


def test_an_interval_flushes_in_time(make_node, eventually):
    client = make_node().client()
    client.create("a", flush="interval", flush_ms=20)
    before = client.counters().get("flushes", 0)
    client.produce("a", b"x")
    eventually(lambda: client.counters().get("flushes", 0) > before, "the interval's flush")


def test_switching_to_another_mode_lets_the_waiting_go(held, faults):
    node, client = held
    change = ResourceChange(TOPIC_RESOURCE, "a", [("flush", "os")])
    assert client.call(AlterConfigsRequest([change])).resources[0].error_code == 0
    assert client.reply_to(node.waiting).error_code == 0
    assert client.values("a") == [b"flushed", b"waits"]
    faults.release()


def test_switching_to_ack_waits_from_then_on(make_node, faults, eventually):
    client = make_node().client()
    client.create("a", flush="os")
    client.produce("a", b"0")
    faults.hold_flushes("/a-0/")
    client.call(AlterConfigsRequest([ResourceChange(TOPIC_RESOURCE, "a", [("flush", "ack")])]))
    number = client.send_produce("a", b"1")
    eventually(lambda: faults.waiting, "the flush is under way")
    assert client.hears_nothing()
    assert client.values("a") == [b"0"], "what was readable stays so, what is new is not yet"
    faults.release()
    assert client.reply_to(number).error_code == 0


def test_after_a_crash_unflushed_records_are_flushed_before_they_are_read(held, faults):
    """What recovery finds past the recovery point may stand in the page cache alone."""
    node, client = held
    client.produce("a", b"unflushed", acks=1)
    node.node._reactor.call_from_thread(_crash)
    faults.release()
    node.wait()
    client = node.start().client()
    logs = node.on_reactor(lambda: (node.leader("a").log.recovery_point, node.leader("a").log.log_end_offset))
    assert logs == (3, 3), "recovered records are served before they are flushed"
    assert client.end_offset("a") == 3, "a client sees the high watermark go back"
    assert client.values("a") == [b"flushed", b"waits", b"unflushed"]


def _crash() -> None:
    message = "the test ends this node"
    raise AssertionError(message)


def end_last_session(reactor):
    address = [address for address in reactor.addresses() if address.startswith("session/")][-1]
    reactor._actors[address]._close("the test ends it")


def test_a_client_that_left_keeps_no_other_from_its_answer(make_node, faults, eventually):
    node = make_node(log_flush_offset_checkpoint_interval_ms=600_000)
    leaves, stays = node.client(), node.client()
    stays.create("a")
    faults.hold_flushes("/a-0/")
    leaves.send_produce("a", b"0")
    eventually(lambda: faults.waiting, "the flush is under way")
    fetch = leaves.send_fetch("a", 0, wait_ms=60_000)
    node.on_reactor(lambda: end_last_session(node.node._reactor))
    number = stays.send_produce("a", b"1")
    waiting = stays.send_fetch("a", 0, wait_ms=60_000)
    eventually(lambda: node.on_reactor(lambda: node.context.counters["sessions-closed"]) == 1, "the first has left")
    faults.release()
    assert stays.reply_to(number).error_code == 0
    assert stays.reply_to(waiting).error_code == 0
    assert fetch
    assert stays.values("a") == [b"0", b"1"]


def test_what_was_asked_before_a_goodbye_is_answered(make_node, faults, eventually):
    node = make_node(log_flush_offset_checkpoint_interval_ms=600_000)
    client = node.client()
    client.create("a")
    faults.hold_flushes("/a-0/")
    number = client.send_produce("a", b"0")
    eventually(lambda: faults.waiting, "the flush is under way")
    waiting = client.send_fetch("a", 0, wait_ms=60_000)
    client.send(CloseRequest())
    assert client.reply_to(waiting).error_code == 0, "nothing more is waited for"
    faults.release()
    assert client.reply_to(number).error_code == 0
    eventually(lambda: node.on_reactor(lambda: node.context.counters["sessions-closed"]) == 1, "then the session ends")
