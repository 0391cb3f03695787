"""The share consumer against a scripted coordinator: what goes over the wire, and what faults do to it."""

import logging
import sys
import time
from pathlib import Path

import pytest
from zmqbroker import AcknowledgeKind, ShareConsumer, TopicPartition, errors
from zmqbroker.transport import group_messages as g
from zmqbroker.transport import share_messages as s

sys.path.insert(0, str(Path(__file__).parent))
try:
    from share_script import ShareScript, batch
finally:
    sys.path.pop(0)

FAST = {"retry_backoff_ms": 5, "reconnect_backoff_ms": 5, "reconnect_backoff_max_ms": 20}
T0 = TopicPartition("t", 0)


@pytest.fixture
def server(server):
    return ShareScript(server)


def consumer_of(server, **more):
    settings = {"group_id": "g", "bootstrap_servers": server.servers, "consumer_timeout_ms": 5_000, **FAST, **more}
    return ShareConsumer("t", **settings)


def ranges_of(heard):
    return [(i.first_offset, i.last_offset, i.kind) for e in heard.body.acknowledgements for i in e.acknowledgements]


# ---- handing out, and accepting


def test_a_record_says_all_about_itself(server):
    server.lease((7, 7, 3), batches=[batch(7, [b"v"])])
    with consumer_of(server) as consumer:
        before = time.monotonic()
        (record,) = consumer.poll(5_000)
        assert (record.topic, record.partition, record.offset, record.value) == ("t", 0, 7, b"v")
        assert (record.delivery_count, record.leader_epoch, record.timestamp) == (3, 3, 1000)
        assert before + 29 < record.lease_deadline < time.monotonic() + 30.1
        assert record.topic_partition == T0
        assert (record.serialized_key_size, record.serialized_value_size, record.checksum) == (-1, 1, None)
        record_in_a_set = {record}
        assert record in record_in_a_set
        assert consumer.subscription() == {"t"}
        assert consumer.bootstrap_connected()


def test_iteration_accepts_a_record_when_the_next_is_asked_for(server):
    for first in range(0, 100, 10):
        server.lease_values(first, 10)
    with consumer_of(server) as consumer:
        for record in consumer:
            assert record.value == b"%d" % record.offset
            if record.offset == 49:
                break
        consumer.commit()
        assert server.said[:49] == [(offset, s.ACK_ACCEPT) for offset in range(49)]
        assert not server.said_of(49)
        assert next(consumer).offset == 50
    assert not server.said_of(49)
    assert not server.said_of(50)
    assert len(server.left) == 1


def test_a_loop_that_raises_leaves_its_record_unacknowledged(server):
    server.lease_values(0, 3)

    def work():
        with consumer_of(server) as consumer:
            for record in consumer:
                assert record.offset < 1 or 1 // 0

    with pytest.raises(ZeroDivisionError):
        work()
    assert server.said == [(0, s.ACK_ACCEPT), (2, s.ACK_RETURN)]


def test_iteration_ends_by_its_time_out_and_accepts_the_last_record(server):
    server.lease_values(0, 3)
    with consumer_of(server, consumer_timeout_ms=50) as consumer:
        assert [record.offset for record in consumer] == [0, 1, 2]
        consumer.commit()
        assert server.said == [(offset, s.ACK_ACCEPT) for offset in range(3)]


def test_poll_accepts_what_the_last_poll_returned(server):
    server.lease_values(0, 10)
    with consumer_of(server) as consumer:
        first = consumer.poll(5_000, 4)
        assert [record.offset for record in first] == [0, 1, 2, 3]
        consumer.release(first[1])
        assert [record.offset for record in consumer.poll(5_000, 4)] == [4, 5, 6, 7]
        assert consumer.commit() == {T0: 8}
        assert sorted(server.said) == [(n, s.ACK_RELEASE if n == 1 else s.ACK_ACCEPT) for n in range(8)]
        assert consumer.commit() == {}
    assert server.said_of(8, 9) == [s.ACK_RETURN] * 2


def test_acknowledgements_are_few_ranges_in_order(server):
    server.lease_values(0, 100)
    with consumer_of(server, acknowledgement_mode="explicit") as consumer:
        records = consumer.poll(5_000)
        consumer.acknowledge(records[50:])
        for record in reversed(records[:10]):
            consumer.acknowledge(record)
        consumer.reject(records[10:12], "bad")
        consumer.release(records[12:50], 77)
        consumer.commit()
    said = [one for heard in server.requests(s.ShareAcknowledgeRequest.API) for one in ranges_of(heard)]
    kinds = {kind: sorted(r[:2] for r in said if r[2] == kind) for kind in (s.ACK_ACCEPT, s.ACK_REJECT, s.ACK_RELEASE)}
    assert kinds == {s.ACK_ACCEPT: [(0, 9), (50, 99)], s.ACK_REJECT: [(10, 11)], s.ACK_RELEASE: [(12, 49)]}
    items = [i for h in server.requests(79) for e in h.body.acknowledgements for i in e.acknowledgements]
    assert {i.reason for i in items if i.kind == s.ACK_REJECT} == {"bad"}
    assert {i.delay_ms for i in items if i.kind == s.ACK_RELEASE} == {77}
    assert len(server.said) == 100


def test_an_acknowledgement_names_the_lease_that_it_is_about(server):
    server.lease_values(0, 2)
    server.lease_values(2, 2)
    with consumer_of(server, acknowledgement_mode="explicit") as consumer:
        records = consumer.poll(5_000, 2)
        consumer.acknowledge(records)
        more = consumer.poll(5_000, 2)
        consumer.acknowledge(more)
        consumer.commit()
    items = [i for h in server.heard for e in getattr(h.body, "acknowledgements", ()) for i in e.acknowledgements]
    leases = {offset: i.lease for i in items for offset in range(i.first_offset, i.last_offset + 1)}
    assert leases == {record.offset: record.lease for record in records + more}
    assert leases[0] == leases[1] != leases[2] == leases[3]


def test_acknowledgements_do_not_wait_behind_an_empty_long_poll(server):
    server.lease_values(0, 1)
    with consumer_of(server, acknowledgement_mode="explicit", fetch_max_wait_ms=60_000) as consumer:
        (record,) = consumer.poll(5_000)
        consumer.poll(0) if not record else consumer.acknowledge(record)
        consumer.poll(1)
        assert len(server.requests(s.ShareFetchRequest.API)) >= 2  # the second waits at the broker
        server.wait_for(lambda: server.said == [(0, s.ACK_ACCEPT)])
        server.wait_for(lambda: len(server._waiting) == 1)


def test_a_slow_worker_holds_little_and_a_fast_one_much(server):
    with consumer_of(server) as consumer:
        pace = consumer._session.pace
        pace.lease_s = 30.0
        assert pace.target == 1
        pace.handed_out(1, 100.0)
        pace.asked(100.1)
        assert pace.target == 2
        pace.handed_out(2, 100.1)
        pace.asked(100.1001)
        assert pace.target == 1_000
        pace.handed_out(1, 200.0)
        pace.asked(260.0)
        assert pace.target == 1
        assert pace.at_once(500) == 1
        assert pace.patience_s(is_busy=True) == 1.0
        assert pace.patience_s(is_busy=False) == 22.5


def test_what_is_not_handed_out_for_long_goes_back(server):
    server.lease_ms = 400
    server.lease_values(0, 10)
    with consumer_of(server) as consumer:
        assert next(consumer).offset == 0
        server.wait_for(lambda: len(server.said) == 9)
        assert server.said == [(offset, s.ACK_RETURN) for offset in range(1, 10)]
        assert consumer.metrics()["records_returned"] == 9
        fetches = len(server.requests(s.ShareFetchRequest.API))
        assert fetches == 1, "nothing is fetched for a user who does not come back"
        server.lease_values(20, 1)
        assert next(consumer).offset == 20


def test_what_is_not_handed_out_goes_back_when_the_connection_breaks(server):
    server.lease_values(0, 10)
    with consumer_of(server, value_deserializer=int, acknowledgement_mode="explicit") as consumer:
        first = next(consumer)
        server.kill()
        server.start()
        server.refused = {5: errors.InvalidRecordStateError.code}  # somebody else has it by now
        server.wait_for(lambda: len(server.said) == 8)
        assert sorted(server.said) == [(offset, s.ACK_RETURN) for offset in range(1, 10) if offset != 5]
        server.lease_values(20, 1)
        assert next(consumer).offset == 20
        consumer.acknowledge(first)
        assert consumer.commit() == {T0: 1}, "that a return is refused is no error of the user"


def test_records_whose_lease_ended_are_not_handed_out(server):
    server.lease_values(0, 10)
    with consumer_of(server) as consumer:
        assert next(consumer).offset == 0
        for held in consumer._acks.partitions.values():
            for record in held.open.values():
                record.lease_deadline = 0.0
        server.lease_values(20, 1)
        assert next(consumer).offset == 20
        assert consumer.metrics()["leases_lost"] == 9


# ---- what is refused


def test_what_was_not_delivered_cannot_be_acknowledged(server):
    server.lease_values(0, 3)
    with consumer_of(server, acknowledgement_mode="explicit") as consumer:
        records = consumer.poll(5_000)
        consumer.acknowledge(records[0])
        for again in (consumer.acknowledge, consumer.release, consumer.reject, consumer.renew):
            with pytest.raises(errors.InvalidRecordStateError, match="t-0 offset 0 was acknowledged before"):
                again(records[0])
        with pytest.raises(errors.InvalidRecordStateError):
            consumer.acknowledge([records[1], records[1]])
        with pytest.raises(errors.InvalidRecordStateError):
            consumer.acknowledge([records[1], records[0]])
        with pytest.raises(TypeError, match="not str"):
            consumer.acknowledge(["x"])
        with pytest.raises(ValueError, match="delay_ms=-1"):
            consumer.release(records[1], -1)
        with pytest.raises(ValueError, match="17"):
            consumer.acknowledge(records[1], 17)
        records[2].lease_deadline = time.monotonic() - 1
        with pytest.raises(errors.InvalidRecordStateError, match=r"ended 10\d\d ms ago"):
            consumer.acknowledge(records[2])
        assert consumer.commit() == {T0: 1}
        assert server.said == [(0, s.ACK_ACCEPT)]
        consumer.acknowledge(records[1], AcknowledgeKind.REJECT)
        consumer.commit()
        assert server.said_of(1) == [s.ACK_REJECT]


def test_explicit_mode_wants_each_record_acknowledged_before_the_next_poll(server):
    server.lease_values(0, 3)
    with consumer_of(server, acknowledgement_mode="explicit") as consumer:
        records = consumer.poll(5_000)
        consumer.acknowledge(records[0])
        with pytest.raises(errors.IllegalStateError, match=r"2 of the 3 records of the last poll .* t-0 offset 1"):
            consumer.poll(0)
        consumer.acknowledge(records[1:])
        assert consumer.poll(0) == []


def test_one_late_record_does_not_spoil_those_beside_it(server):
    server.refused = {37: errors.InvalidRecordStateError.code}
    server.lease_values(0, 100)
    seen = []
    more = {"on_acknowledge_error": lambda *said: seen.append(said)}
    with consumer_of(server, acknowledgement_mode="explicit", **more) as consumer:
        consumer.acknowledge(consumer.poll(5_000))
        with pytest.raises(errors.InvalidRecordStateError, match="no"):
            consumer.commit()
        assert [(partition, ranges) for partition, _, ranges in seen] == [(T0, [(37, 37)])]
        assert sorted(offset for offset, _ in server.said) == [n for n in range(100) if n != 37]
        assert consumer.metrics()["acknowledgements_refused"] == 1
        assert consumer.metrics()["records_acknowledged"] == 99
        assert consumer.commit() == {T0: 99}


def test_what_was_said_of_an_ended_lease_does_not_count_for_the_next(server):
    server.holds = True
    server.refused = {3: errors.InvalidRecordStateError.code}
    server.lease_values(0, 10)
    more = {"acknowledgement_mode": "explicit", "fetch_max_wait_ms": 60_000}
    with consumer_of(server, **more) as consumer:
        consumer.acknowledge(consumer.poll(5_000))
        assert consumer.poll(1) == []
        server.wait_for(lambda: len(server.requests(s.ShareFetchRequest.API)) == 2)
        server.refused = {}  # from here on the broker would take it, as that of the new lease
        server.lease_values(3, 1, deliveries=2)
        with pytest.raises(errors.InvalidRecordStateError, match="the record is delivered again"):
            consumer.commit()
        assert not server.said_of(3)
        (again,) = consumer.poll(5_000)
        assert (again.offset, again.delivery_count) == (3, 2)
        consumer.acknowledge(again)
        assert consumer.commit() == {T0: 10}


def test_a_record_that_took_longer_than_its_lease_is_not_accepted(server):
    server.lease_values(0, 2)
    seen = []
    with consumer_of(server, on_acknowledge_error=lambda *said: seen.append(said)) as consumer:
        record = next(consumer)
        record.lease_deadline = 0.0
        assert next(consumer).offset == 1
        with pytest.raises(errors.InvalidRecordStateError, match="ended before the record was done"):
            consumer.commit()
        assert [ranges for _, _, ranges in seen] == [[(0, 0)]]
    assert not server.said_of(0)


def test_refused_acknowledgements_are_logged_without_a_callback(server, caplog):
    server.refused = {0: errors.InvalidRecordStateError.code}
    server.lease_values(0, 1)
    with consumer_of(server) as consumer:
        assert consumer.poll(5_000)
        with caplog.at_level(logging.WARNING), pytest.raises(errors.InvalidRecordStateError):
            consumer.commit()
    assert "t-0: acknowledgements of offsets 0 do not hold: no" in caplog.text


def test_renewing_moves_the_deadline(server):
    server.lease_ms = 500
    server.lease_values(0, 2)
    with consumer_of(server, acknowledgement_mode="explicit") as consumer:
        records = consumer.poll(5_000)
        before = records[0].lease_deadline
        server.lease_ms = 60_000
        consumer.renew(records)
        consumer.renew(records[0])
        consumer.commit()
        assert records[0].lease_deadline > before + 50
        assert server.said == [(0, s.ACK_RENEW), (1, s.ACK_RENEW)]
        consumer.renew(records[0])
        consumer.acknowledge(records)
        consumer.commit()
        assert server.said[2:] == [(0, s.ACK_ACCEPT), (1, s.ACK_ACCEPT)]


# ---- batches that are not as they should be


def test_offsets_without_a_record_are_gaps(server):
    data = batch(2, [b"2", b"3"]) + batch(7, [b"7", b"8", b"9"])
    server.lease((0, 2, 1), (3, 8, 2), batches=[data])
    with consumer_of(server) as consumer:
        records = consumer.poll(5_000)
        assert [(one.offset, one.delivery_count) for one in records] == [(2, 1), (3, 2), (7, 2), (8, 2)]
        assert consumer.commit() == {T0: 4}
    gaps = [offset for offset, kind in server.said if kind == s.ACK_GAP]
    assert sorted(gaps) == [0, 1, 4, 5, 6]
    assert server.said_of(9) == []


def test_a_damaged_batch_is_rejected_and_the_queue_goes_on(server, caplog):
    damaged = bytearray(batch(0, [b"a", b"b"]))
    damaged[-3] ^= 1
    server.lease((0, 3, 1), batches=[bytes(damaged) + batch(2, [b"c", b"d"])])
    server.lease((4, 5, 1), batches=[b"nonsense" * 20])
    with consumer_of(server) as consumer:
        assert [record.value for record in consumer.poll(5_000)] == [b"c", b"d"]
        assert consumer.poll(100) == []
        consumer.commit()
    assert server.said_of(0, 1, 4, 5) == [s.ACK_REJECT] * 4
    assert "t-0, offsets 0 to 1 cannot be read and are rejected: the batch's CRC-32C" in caplog.text


def test_a_lease_without_its_batch_is_released(server, caplog):
    server.lease((0, 5, 1), batches=[batch(0, [b"a"])])
    with consumer_of(server) as consumer:
        assert [record.value for record in consumer.poll(5_000)] == [b"a"]
        consumer.commit()
    assert server.said_of(1, 2, 3, 4, 5) == [s.ACK_RELEASE] * 5
    assert "sent no batch that holds them" in caplog.text


def test_a_deserializer_that_raises(server):
    server.lease((0, 4, 1), batches=[batch(0, [b"0", b"1", b"x", b"3", None])])
    with consumer_of(server, value_deserializer=int) as consumer:
        assert [record.value for record in consumer.poll(5_000)] == [0, 1]
        with pytest.raises(ValueError, match="invalid literal") as caught:
            consumer.poll(5_000)
        assert "t-0 at offset 2" in caught.value.__notes__[0]
        last = consumer.poll(5_000)
        assert [(one.value, one.serialized_value_size) for one in last] == [(3, 1), (None, -1)]
        consumer.commit()
    assert server.said_of(2) == [s.ACK_RELEASE]
    assert server.said_of(0, 1, 3, 4) == [s.ACK_ACCEPT] * 4


def test_a_large_batch_in_many_small_answers_is_decoded_once(server, monkeypatch):
    from zmqbroker.client import share_decoder

    decoded = []
    original = share_decoder.records_of
    monkeypatch.setattr(share_decoder, "records_of", lambda *a, **k: decoded.append(1) or original(*a, **k))
    data = batch(0, [b"%d" % number for number in range(100)], compression=1)
    for first in range(0, 100, 10):
        server.lease((first, first + 9, 1), batches=[data])
    with consumer_of(server, consumer_timeout_ms=100) as consumer:
        assert [int(record.value) for record in consumer] == list(range(100))
    assert len(decoded) == 1


# ---- faults


def test_acknowledgements_survive_a_broken_connection(server):
    server.lease_values(0, 10)
    with consumer_of(server, acknowledgement_mode="explicit") as consumer:
        records = consumer.poll(5_000)
        server.kill()
        consumer.acknowledge(records)
        server.start()
        assert consumer.commit(10_000) == {T0: 10}
        server.lease_values(10, 1)
        assert consumer.poll(5_000)[0].offset == 10
    assert sorted(server.said[:10]) == [(n, s.ACK_ACCEPT) for n in range(10)]


def test_an_acknowledgement_without_an_answer_is_repeated_and_its_refusal_reported(server):
    refusal = s.ShareAcknowledgeReply([s.PartitionAcknowledged("t", 0, 121, "leased to nobody")], 30_000)
    server.lease_values(0, 1)
    seen = []
    with consumer_of(
        server, acknowledgement_mode="explicit", on_acknowledge_error=lambda *a: seen.append(a)
    ) as consumer:
        records = consumer.poll(5_000)
        server.once(s.ShareAcknowledgeRequest.API, lambda _: errors.NotCoordinatorError("it moved"), lambda _: refusal)
        consumer.acknowledge(records)
        with pytest.raises(errors.InvalidRecordStateError, match="leased to nobody; an earlier attempt"):
            consumer.commit()
        assert [item[2] for item in seen] == [[(0, 0)]]
        assert len(server.requests(g.FindCoordinatorRequest.API)) == 2


def test_a_group_of_the_wrong_kind(server):
    refused = errors.InconsistentGroupProtocolError("g is a consumer group")
    server.once(s.ShareFetchRequest.API, lambda _: refused)
    with consumer_of(server) as consumer:
        with pytest.raises(errors.InconsistentGroupProtocolError, match="g is a consumer group"):
            consumer.poll(5_000)
        server.lease_values(0, 1)
        assert consumer.poll(5_000)


def test_a_topic_that_is_not_there_yet(server):
    missing = s.ShareFetchReply([s.PartitionShared("t", 0, 3, "there is no topic t")], [], 30_000)
    server.once(s.ShareFetchRequest.API, lambda _: (missing, [b""]), lambda _: (missing, [b""]))
    server.lease_values(0, 1)
    with consumer_of(server) as consumer:
        assert consumer.poll(5_000)[0].offset == 0


def test_closing_without_a_broker_takes_its_time_and_no_more(server, caplog):
    server.lease_values(0, 1)
    consumer = consumer_of(server, acknowledgement_mode="explicit")
    (record,) = consumer.poll(5_000)
    server.kill()
    consumer.acknowledge(record)
    before = time.monotonic()
    consumer.close(200)
    assert time.monotonic() - before < 3
    assert "acknowledgements of offsets 0 do not hold" in caplog.text
    consumer.close()
    with pytest.raises(errors.ClosedError):
        consumer.poll(0)
    with pytest.raises(errors.ClosedError):
        consumer.acknowledge(record)


def test_closing_before_anything_was_asked_sends_nothing(server):
    consumer_of(server).close()
    assert server.heard == []


def test_settings_are_checked():
    with pytest.raises(errors.ConfigError, match="group"):
        ShareConsumer("t")
    with pytest.raises(errors.ConfigError, match="acknowledgement_mode='both'"):
        ShareConsumer("t", group_id="g", acknowledgement_mode="both")
    with pytest.raises(errors.ConfigError, match="did you mean max_poll_records"):
        ShareConsumer("t", group_id="g", max_poll_record=1)
    with pytest.raises(errors.ConfigError, match="topics"):
        ShareConsumer("", group_id="g")
    with ShareConsumer("t", group_id="g") as consumer, pytest.raises(errors.ConfigError, match="max_records=0"):
        consumer.poll(0, 0)
