"""Reading only what is committed: which batches of a fetch are left out, and what is asked of the brokers."""

import random
from itertools import pairwise

import pytest
from zmqbroker import Consumer, TopicPartition, errors
from zmqbroker.client.aborted import without_aborted
from zmqbroker.log.batch import read_header, stamp
from zmqbroker.log.records import encode_batch
from zmqbroker.log.transactions import Marker, encode_marker
from zmqbroker.transport import messages as m

T0 = TopicPartition("t", 0)
FAST = {"retry_backoff_ms": 5, "reconnect_backoff_ms": 5, "reconnect_backoff_max_ms": 20}


class Log:
    """Batches as a broker stores them, with an account of what a reader may see."""

    def __init__(self):
        self.batches = []
        self.end = 0
        self.aborted = []
        self.first = {}
        """Where the open transaction of each producer begins."""
        self.kept = []
        """The offsets of batches that were not aborted."""
        self.pending = {}

    def write(self, producer_id=-1, values=(b"x",), *, transactional=True):
        transactional = transactional and producer_id >= 0
        records = [(0, None, value, []) for value in values]
        batch = encode_batch(records, producer_id=producer_id, producer_epoch=0, transactional=transactional)
        if transactional:
            self.first.setdefault(producer_id, self.end)
            self.pending.setdefault(producer_id, []).append(self.end)
        else:
            self.kept.append(self.end)
        self._append(batch)

    def finish(self, producer_id, *, committed):
        first = self.first.pop(producer_id)
        if committed:
            self.kept += self.pending.pop(producer_id)
        else:
            del self.pending[producer_id]
            self.aborted.append(m.AbortedTransaction(producer_id, first))
        self.kept.append(self.end)  # the marker
        self._append(encode_marker(producer_id, 0, Marker(committed, 0), 0))

    def _append(self, batch):
        copy = bytearray(batch)
        stamp(copy, self.end, 0)
        self.end += read_header(copy).records_count
        self.batches.append(bytes(copy))

    def fetched(self, first=0, end=None):
        """Some batches, by their places, and the aborted transactions that a broker names with them."""
        some = self.batches[first:end]
        start, stop = read_header(some[0]).base_offset, read_header(some[-1]).next_offset
        named = []
        for transaction in self.aborted:
            marker = next(
                header.base_offset
                for header in map(read_header, self.batches)
                if header.is_control
                and header.producer_id == transaction.producer_id
                and header.base_offset > transaction.first_offset
            )
            if transaction.first_offset < stop and marker >= start:
                named.append(transaction)
        return b"".join(some), sorted(named, key=lambda one: one.first_offset)


def offsets(stretches):
    """The base offsets of the batches in stretches of them."""
    found = []
    for stretch in stretches:
        position = 0
        while position < len(stretch):
            header = read_header(stretch, position)
            found.append(header.base_offset)
            position += header.size
    return found


def test_what_is_aborted_is_left_out_and_its_marker_stays():
    log = Log()
    log.write()
    log.write(1)
    log.write(2)
    log.write(1, [b"y", b"z"])
    log.finish(1, committed=False)
    log.finish(2, committed=True)
    log.write(1)
    log.finish(1, committed=True)
    batches, aborted = log.fetched()
    assert offsets(without_aborted(batches, aborted)) == [0, 2, 5, 6, 7, 8]


def test_batches_outside_of_transactions_stay():
    log = Log()
    log.write(1)
    log.write(1, transactional=False)
    log.finish(1, committed=False)
    assert offsets(without_aborted(*log.fetched())) == [1, 2]


def test_a_fetch_that_is_aborted_as_a_whole_leaves_nothing():
    log = Log()
    for _ in range(3):
        log.write(1)
    log.finish(1, committed=False)
    assert without_aborted(*log.fetched(end=2)) == []
    assert offsets(without_aborted(*log.fetched(first=1))) == [3]


def test_what_is_no_batch_is_left_to_the_decoder():
    log = Log()
    log.write(1)
    log.finish(1, committed=False)
    log.write()
    batches, aborted = log.fetched()
    for rest in (b"short", b"\xff" * 100, log.batches[-1][:-1]):
        stretches = without_aborted(batches + rest, aborted)
        assert b"".join(stretches).endswith(log.batches[-1] + rest)
        assert without_aborted(rest, aborted) == [rest]


@pytest.mark.parametrize("seed", range(20))
def test_any_log_is_read_as_it_was_committed(seed):
    rng = random.Random(seed)
    log = Log()
    for _ in range(120):
        producer_id = rng.randrange(-1, 4)
        if producer_id in log.first and rng.random() < 0.3:
            log.finish(producer_id, committed=rng.random() < 0.5)
        else:
            log.write(producer_id, [b"x"] * rng.randrange(1, 4), transactional=rng.random() < 0.9)
    for producer_id in list(log.first):
        log.finish(producer_id, committed=rng.random() < 0.5)
    for _ in range(20):  # any stretch of it
        first = rng.randrange(len(log.batches))
        end = rng.randrange(first + 1, len(log.batches) + 1)
        bases = [read_header(batch).base_offset for batch in log.batches[first:end]]
        assert offsets(without_aborted(*log.fetched(first, end))) == [base for base in bases if base in log.kept]


# ---- the consumer


def answer_with(server, log, *, parts):
    """Have fetches answered with a log, cut in so many parts."""
    server.topics["t"] = 1
    cuts = [len(log.batches) * part // parts for part in range(parts + 1)]
    ends = {read_header(log.batches[end - 1]).next_offset: (first, end) for first, end in pairwise(cuts)}

    def fetch(heard):
        offset = heard.body.partitions[0].fetch_offset
        part = next((part for end, part in sorted(ends.items()) if end > offset), None)
        batches, aborted = log.fetched(*part) if part is not None else (b"", [])
        entry = m.PartitionFetched("t", 0, 0, None, log.end, log.end, 0, aborted=aborted)
        return m.FetchReply([entry]), [batches]

    server._fetch = fetch


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_a_consumer_hands_out_what_is_committed(server, parts):
    log = Log()
    log.write(1, [b"aborted"] * 3)
    log.write(2, [b"a", b"b"])
    log.write(1, [b"aborted"] * 2)
    log.finish(2, committed=True)
    log.finish(1, committed=False)
    log.write(-1, [b"c"])
    log.write(1, [b"aborted"])
    log.finish(1, committed=False)
    answer_with(server, log, parts=parts)
    with Consumer(bootstrap_servers=server.servers, isolation_level="read_committed", **FAST) as consumer:
        consumer.assign([T0])
        consumer.seek(T0, 0)
        seen = []
        while consumer.position(T0) < log.end:
            for records in consumer.poll(1_000).values():
                seen += [(record.offset, record.value) for record in records]
    assert seen == [(3, b"a"), (4, b"b"), (9, b"c")]
    assert consumer.metrics()["buffered_bytes"] == 0
    asked = [heard.body.partitions[0].fetch_offset for heard in server.requests(m.FetchRequest.API)]
    assert asked == sorted(asked)


@pytest.mark.parametrize(("level", "number"), [("read_committed", 1), ("read_uncommitted", 0), (None, 0)])
def test_the_isolation_level_goes_with_fetches_and_lookups(server, level, number):
    server.topics["t"] = 1
    settings = {} if level is None else {"isolation_level": level}
    with Consumer(bootstrap_servers=server.servers, auto_offset_reset="earliest", **settings, **FAST) as consumer:
        consumer.assign([T0])
        consumer.poll(20)
        assert consumer.end_offsets([T0]) == {T0: 0}
        consumer.offsets_for_times({T0: 5})
        server.wait_for(lambda: server.requests(m.FetchRequest.API))
    assert {heard.body.isolation for heard in server.requests(m.FetchRequest.API)} == {number}
    lookups = server.requests(m.ListOffsetsRequest.API)
    assert len(lookups) == 3
    assert {heard.body.isolation for heard in lookups} == {number}


def test_another_isolation_level_is_refused():
    with pytest.raises(errors.ConfigError, match="isolation_level='serializable': must be one of 'read_uncommitted'"):
        Consumer(isolation_level="serializable")
