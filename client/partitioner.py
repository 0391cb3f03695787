"""Which partition a record goes to: murmur2 of its key, as Kafka's default partitioner.

MurmurHash2 by Austin Appleby (public domain), seeded as in Kafka's ``Utils.murmur2``: the same key goes to the same
partition whichever client sends it.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct

_MASK = 0xFFFFFFFF
_M = 0x5BD1E995
_SEED = 0x9747B28C
_CACHED_KEYS = 65_536

_words = Struct("<I").iter_unpack


def murmur2(data: bytes) -> int:
    """The 32-bit hash of some bytes, unsigned."""
    length = len(data)
    h = _SEED ^ length
    whole = length & ~3
    for (k,) in _words(data[:whole]) if whole else ():
        k = (k * _M) & _MASK  # noqa: PLW2901 - the algorithm's own variable
        k ^= k >> 24  # noqa: PLW2901
        h = ((h * _M) & _MASK) ^ ((k * _M) & _MASK)
    rest = data[whole:]
    if rest:
        h = ((h ^ int.from_bytes(rest, "little")) * _M) & _MASK
    h = ((h ^ (h >> 13)) * _M) & _MASK
    return h ^ (h >> 15)


@lru_cache(_CACHED_KEYS)
def positive_hash(key: bytes) -> int:
    """The hash of a key as Kafka counts partitions with it: the sign bit cleared. Remembers the keys used last."""
    return murmur2(key) & 0x7FFFFFFF
