"""What a worker of the queue under chaos writes down, and which records are poison.

Its log has entries of fixed size (ENTRY), each call's entries written at once, so that a SIGKILL loses none:

    DELIVERED   a record was handed out, at this time
    ACCEPTED, REJECTED, RELEASED   what will be said about it; written before it is said
    CONFIRMED   commit() has returned: what was said since the last CONFIRMED or FAILED holds, but for FAILED partitions
    FAILED      ... but for what was said of this partition since then (-1: of all)
"""

from __future__ import annotations

import struct

ENTRY = struct.Struct("<BBhIqq")
"""Kind, delivery count, partition, number, offset, monotonic ns."""
DELIVERED, ACCEPTED, REJECTED, RELEASED, CONFIRMED, FAILED = range(1, 7)
ALL = -1
REJECT_EVERY, RELEASE_EVERY = 1000, 2500


def decision(number):
    """What a worker says about a record: some are poison, which no worker can work off."""
    if number % REJECT_EVERY == REJECT_EVERY // 2:
        return REJECTED
    if number % RELEASE_EVERY == RELEASE_EVERY // 2 + 1:
        return RELEASED
    return ACCEPTED
