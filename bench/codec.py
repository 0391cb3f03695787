"""What encoding, decoding and checking cost a record: `python bench/codec.py`.

Batches are filled to about 14 kB, as a producer with the default settings sends them. "check" is the broker's check of
records of one size, "check mixed" of records whose sizes differ.
"""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

from zmqbroker.log.batch import COMPRESSION_NAMES
from zmqbroker.log.records import decode_batch, encode_batch
from zmqbroker.log.validation import check_batch
from zmqbroker.settings import TopicConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from zmqbroker.log.record import NewRecord

BATCH_BYTES = 14_000
REPEATS = 50
NOW_MS = 1_700_000_000_000
DECOMPRESSED_MAX = 2**26


def best_us(work: Callable[[], object], records: int) -> float:
    """Microseconds a record in the best of many runs, which is the one that the machine disturbed least."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best / records * 1e6


def records_of(size: int, count: int, spread: int) -> list[NewRecord]:
    """Records without key whose values take size bytes, give or take the spread."""
    return [(NOW_MS, None, os.urandom(size + random.randint(-spread, spread)), []) for _ in range(count)]


def main() -> None:
    """Print one line for each size of a record, then one for each compression."""
    config = TopicConfig()
    print("us/record     encode   decode    check  check mixed  check keyed")
    for size in (10, 100, 1000):
        count = max(1, BATCH_BYTES // size)
        records = records_of(size, count, 0)
        batch = encode_batch(records)
        mixed = encode_batch(records_of(size, count, size // 4))
        keyed = encode_batch([(NOW_MS, b"%d" % random.randrange(1000), value, []) for _, _, value, _ in records])
        figures = [
            best_us(lambda: encode_batch(records), count),  # noqa: B023 - called at once
            best_us(lambda: decode_batch(batch, max_decompressed_bytes=DECOMPRESSED_MAX), count),  # noqa: B023
            *(
                best_us(lambda: check_batch(checked, config, now_ms=NOW_MS), count)  # noqa: B023
                for checked in (batch, mixed, keyed)
            ),
        ]
        print(f"{size:7} B  " + "".join(f"{figure:10.3f}" for figure in figures))
    one = encode_batch(records_of(100, 1, 0))
    print(f"a batch of one record of 100 B: check {best_us(lambda: check_batch(one, config, now_ms=NOW_MS), 1):.2f} us")
    print("\n100 B of text  encode   decode    check   ratio")
    text = [
        (NOW_MS, None, (b'{"id": %d, "user": "%d", "price": %d}' % (i, i * 7919 % 10_007, i % 97)).ljust(100), [])
        for i in range(BATCH_BYTES // 100)
    ]
    plain_size = len(encode_batch(text))
    for codec, name in enumerate(COMPRESSION_NAMES):
        batch = encode_batch(text, compression=codec)
        figures = [
            best_us(lambda: encode_batch(text, compression=codec), len(text)),  # noqa: B023
            best_us(lambda: decode_batch(batch, max_decompressed_bytes=DECOMPRESSED_MAX), len(text)),  # noqa: B023
            best_us(lambda: check_batch(batch, config, now_ms=NOW_MS), len(text)),  # noqa: B023
            plain_size / len(batch),
        ]
        print(f"{name:>9}  " + "".join(f"{figure:9.3f}" for figure in figures))


if __name__ == "__main__":
    main()
