"""Chunks of batches as a share group reads them, and their delays."""

from __future__ import annotations

import pytest
from zmqbroker.errors import CorruptMessageError
from zmqbroker.groups.share_batches import Chunk, Delayed, due_runs
from zmqbroker.log import compression
from zmqbroker.log.batch import make_batch, stamp
from zmqbroker.log.plain_records import encode_batch, encode_records

LIMIT = 1 << 20


def batch(base: int, *times: int | None, codec: int = 0) -> bytes:
    """A batch at an offset, with one record for each time of delivery."""
    records = [(1, None, b"v", [] if time is None else [("__deliver_at", str(time).encode())]) for time in times]
    if codec:
        data, _ = encode_records(records)
        packed = compression.compress(codec, data)
        made = bytearray(
            make_batch(packed, records_count=len(records), base_timestamp=1, max_timestamp=1, attributes=codec)
        )
    else:
        made = bytearray(encode_batch(records))
    stamp(made, base, 0)
    return bytes(made)


def test_a_chunk_knows_its_batches_and_holes() -> None:
    first, second = batch(5, None, None), batch(10, None)
    chunk = Chunk(6, first + second, LIMIT)
    assert (chunk.first, chunk.next) == (5, 11)
    assert [chunk.find(offset).first for offset in (5, 6, 7, 9, 10)] == [5, 5, 10, 10, 10]
    assert chunk.bytes_of(chunk.find(10)) == second
    assert not chunk.covers(11)
    assert chunk.delays(chunk.find(5)) is None


@pytest.mark.parametrize("codec", range(5))
def test_delays_are_found_in_every_compression(codec: int) -> None:
    chunk = Chunk(0, batch(0, None, codec=codec) + batch(1, None, 70, 70, 0, codec=codec), LIMIT)
    assert chunk.delays(chunk.find(0)) is None
    assert chunk.delays(chunk.find(1)) == [Delayed(1, 1, 0), Delayed(2, 3, 70), Delayed(4, 4, 0)]


def test_a_batch_that_cannot_be_decoded_has_no_delays() -> None:
    made = make_batch(b"__deliver_at", records_count=1, base_timestamp=1, max_timestamp=1)
    chunk = Chunk(0, made, LIMIT)
    assert chunk.delays(chunk.find(0)) is None
    with pytest.raises(CorruptMessageError):
        Chunk(0, b"x" * 70, LIMIT)


def test_a_time_that_is_none_is_no_delay() -> None:
    for value in (b"soon", b"-5", b"", None, "²".encode()):
        made = encode_batch([(1, None, b"v", [("__deliver_at", value)])])
        chunk = Chunk(0, made, LIMIT)
        assert chunk.delays(chunk.find(0)) is None


def test_what_is_not_due_is_one_run_with_the_earliest_time() -> None:
    delays = [Delayed(0, 1, 0), Delayed(2, 2, 90), Delayed(3, 4, 70), Delayed(5, 5, 10), Delayed(6, 9, 99)]
    assert due_runs(delays, 1, 8, 50) == [Delayed(1, 1, 0), Delayed(2, 4, 70), Delayed(5, 5, 0), Delayed(6, 8, 99)]
    assert due_runs(delays, 0, 9, 99) == [Delayed(0, 9, 0)]
    assert due_runs(None, 3, 4, 0) == [Delayed(3, 4, 0)]
