"""Sequence numbers: whatever is refused, lost or forgotten, each record is stored once, in order."""

import pytest
from zmqbroker import Producer, errors
from zmqbroker.log.batch import read_header
from zmqbroker.transport import messages as m

PRODUCE = m.ProduceRequest.API
FAST = {"retry_backoff_ms": 5, "reconnect_backoff_ms": 5, "reconnect_backoff_max_ms": 20}
STORAGE, OUT_OF_ORDER, DUPLICATE, UNKNOWN_PRODUCER = 56, 45, 46, 59
FATE_UNKNOWN = [7, 20, 6]


def make(server, **settings) -> Producer:
    return Producer(bootstrap_servers=server.servers, **{**FAST, **settings})


def failing(code):
    """A rule that stores nothing and answers a code."""
    return lambda heard: refused(heard, code)


def refused(heard, code):
    return m.ProduceReply(
        [m.PartitionProduced(entry.topic, entry.partition, code, f"says {code}") for entry in heard.body.partitions]
    )


def stored_then(server, code=None):
    """A rule that stores the batches and answers a code, or loses the answer with the connection."""

    def rule(heard):
        server.append(heard)
        return refused(heard, code) if code else [b"\xc1"]  # not msgpack: the client gives the connection up

    return rule


def numbers(server):
    headers = [read_header(heard.batches[0]) for heard in server.requests(PRODUCE)]
    return [(header.producer_epoch, header.base_sequence) for header in headers]


def test_a_duplicate_nobody_sent_before_is_not_stored(server):
    server.once(PRODUCE, failing(DUPLICATE))
    with make(server) as producer:
        assert producer.send("t", b"x").get(5).offset == 0
    assert server.values("t") == [b"x"]


def test_a_duplicate_after_a_refusal_is_not_stored(server):
    server.once(PRODUCE, failing(STORAGE), failing(DUPLICATE))
    with make(server) as producer:
        assert producer.send("t", b"x").get(5).offset == 0
    assert server.values("t") == [b"x"]
    assert numbers(server) == [(0, 0), (0, 0), (1, 0)]


@pytest.mark.parametrize("code", [None, *FATE_UNKNOWN])
def test_a_duplicate_after_an_unknown_fate_is_stored(server, code):
    server.once(PRODUCE, stored_then(server, code), failing(STORAGE), failing(DUPLICATE))
    with make(server) as producer:
        assert producer.send("t", b"x").get(5).offset == -1
        assert producer.send("t", b"y").get(5).offset == 1
    assert server.values("t") == [b"x", b"y"]


@pytest.mark.parametrize("code", [None, *FATE_UNKNOWN])
def test_the_numbers_of_a_batch_that_may_be_stored_are_not_used_again(server, code):
    with make(server) as producer:
        producer.send("t", b"0").get(5)
        server.once(PRODUCE, stored_then(server, code), failing(10))
        with pytest.raises(errors.MessageTooLargeError):
            producer.send("t", b"1").get(5)
        assert producer.send("t", b"2").get(5).offset == 2
        assert producer.send("t", b"3").get(5).offset == 3
        with pytest.raises(errors.MessageTooLargeError):
            producer.flush(5)
    assert server.values("t") == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("first", ["stored", "refused"])
def test_batches_behind_a_refused_one_keep_their_order(server, first):
    attempts = []

    def rule(heard):
        if read_header(heard.batches[0]).base_sequence != 3:
            return None
        attempts.append(heard)
        if len(attempts) == 1:
            return stored_then(server)(heard) if first == "stored" else refused(heard, STORAGE)
        return refused(heard, 10) if len(attempts) == 2 else None

    values = [b"%090d" % number for number in range(20)]
    with make(server, batch_size=100) as producer:
        server.once(PRODUCE, *[rule] * 200)
        futures = [producer.send("t", value) for value in values]
        with pytest.raises(errors.MessageTooLargeError, match="1 records failed"):
            producer.flush(10)
    assert [number for number, future in enumerate(futures) if future.failed()] == [3]
    offsets = [future.get(0).offset for future in futures if future.succeeded()]
    if first == "refused":
        del values[3]
        assert offsets == list(range(19))
    else:
        assert offsets == [0, 1, 2, *range(4, 20)]
    assert server.values("t") == values


@pytest.mark.parametrize("failures", [1, 3])
def test_batches_behind_a_retried_one_wait_under_their_numbers(server, failures):
    with make(server, batch_size=100) as producer:
        server.once(PRODUCE, *[failing(STORAGE)] * failures)
        futures = [producer.send("t", b"%090d" % number) for number in range(30)]
        producer.flush(10)
        assert [future.get(0).offset for future in futures] == list(range(30))
    assert server.values("t") == [b"%090d" % number for number in range(30)]
    assert {epoch for epoch, _ in numbers(server)} == {0}


@pytest.mark.parametrize("code", [OUT_OF_ORDER, UNKNOWN_PRODUCER])
def test_a_forgotten_producer_begins_its_next_epoch(server, code):
    with make(server, batch_size=100) as producer:
        producer.send("t", b"%090d" % 0).get(5)

        def forget(heard):
            server.stored["t", 0].producers.clear()
            return refused(heard, code)

        server.once(PRODUCE, forget)
        futures = [producer.send("t", b"%090d" % number) for number in range(1, 30)]
        producer.flush(10)
        assert [future.get(0).offset for future in futures] == list(range(1, 30))
    assert server.values("t") == [b"%090d" % number for number in range(30)]
    assert {epoch for epoch, _ in numbers(server)} == {0, 1}


def test_parts_of_a_split_batch_keep_their_order(server):
    with make(server, linger_ms=20, batch_size=4_000) as producer:
        producer.send("t", b"first").get(5)
        server.max_batch_bytes = 400
        values = [b"%03d" % number * 10 for number in range(40)]
        values[13] = b"x" * 1_000  # no split makes it small enough
        server.once(PRODUCE, lambda _: None, failing(STORAGE), lambda _: None, failing(STORAGE))
        futures = [producer.send("t", value) for value in values]
        with pytest.raises(errors.MessageTooLargeError, match="1 records failed"):
            producer.flush(10)
        assert futures[13].failed()
        del values[13], futures[13]
        assert [future.get(0).offset for future in futures] == list(range(1, 40))
    assert server.values("t")[1:] == values
    assert {epoch for epoch, _ in numbers(server)} == {0}
