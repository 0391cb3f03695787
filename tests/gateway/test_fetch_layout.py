"""The response to Fetch is laid out by hand, around the batches: as kafka-python reads it, in every version."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zmqbroker.gateway.data_apis import _send_fetched
from zmqbroker.gateway.decoding import Message
from zmqbroker.gateway.protocol import APIS, FETCH, RequestHeader
from zmqbroker.transport.messages import (
    READ_COMMITTED,
    READ_UNCOMMITTED,
    AbortedTransaction,
    PartitionFetched,
)


class Answered:
    """Takes what an exchange would send."""

    def __init__(self, version: int, throttle_ms: int, isolation: int) -> None:
        self.header = RequestHeader(APIS[FETCH], version, 99, None, 0)
        self.request = Message({"isolation_level": isolation})
        self.version = version
        self.throttle_ms = throttle_ms
        self.sent = b""

    def finish(self, buffers: Any) -> None:
        self.sent = b"".join(map(bytes, buffers))


INT64 = st.integers(-(2**63), 2**63 - 1)
PARTITIONS = st.builds(
    PartitionFetched,
    topic=st.sampled_from(["t", "u", "a-longer-name"]),
    partition=st.integers(0, 2**31 - 1),
    error_code=st.integers(0, 120),
    high_watermark=INT64,
    last_stable_offset=INT64,
    log_start_offset=INT64,
    preferred_read_replica=st.integers(-1, 9),
    aborted=st.lists(st.builds(AbortedTransaction, producer_id=INT64, first_offset=INT64), max_size=3),
)


@pytest.mark.parametrize("version", range(APIS[FETCH].low, APIS[FETCH].high + 1))
@settings(max_examples=50, deadline=None)
@given(
    news=st.lists(st.tuples(PARTITIONS, st.binary(max_size=300)), max_size=6),
    session_id=st.integers(0, 2**31 - 1),
    throttle_ms=st.integers(0, 2**31 - 1),
    isolation=st.sampled_from([READ_UNCOMMITTED, READ_COMMITTED]),
)
def test_kafka_python_reads_what_was_laid_out(
    version: int, news: Any, session_id: int, throttle_ms: int, isolation: int
) -> None:
    from kafka.protocol.consumer import FetchResponse

    answered = Answered(version, throttle_ms, isolation)
    _send_fetched(answered, news, session_id)  # type: ignore[arg-type] # what it needs of an exchange
    assert int.from_bytes(answered.sent[:4], "big") == len(answered.sent) - 4
    read = FetchResponse.decode(answered.sent, version=version, header=True, framed=True)
    assert (read.header.correlation_id, read.throttle_time_ms) == (99, throttle_ms)
    assert read.session_id == (session_id if version >= 7 else 0)
    found = [(topic.topic, partition) for topic in read.responses for partition in topic.partitions]
    assert len(found) == len(news)
    for (topic, partition), (wanted, batches) in zip(found, news, strict=True):
        assert (topic, partition.partition_index) == (wanted.topic, wanted.partition)
        assert (partition.error_code, partition.high_watermark) == (wanted.error_code, wanted.high_watermark)
        assert partition.last_stable_offset == wanted.last_stable_offset
        assert bytes(partition.records or b"") == batches
        if isolation == READ_UNCOMMITTED:
            assert partition.aborted_transactions is None
        else:
            read_aborted = [(each.producer_id, each.first_offset) for each in partition.aborted_transactions]
            assert read_aborted == [(each.producer_id, each.first_offset) for each in wanted.aborted]
        if version >= 5:
            assert partition.log_start_offset == wanted.log_start_offset
        if version >= 11:
            assert partition.preferred_read_replica == wanted.preferred_read_replica
