"""Which partition of an internal topic holds a group's state: Kafka's own rule, so that its tools find it."""

from __future__ import annotations

_INT32_BITS, _INT32_SIGN = 0xFFFFFFFF, 0x80000000


def java_hash(text: str) -> int:
    """Java's ``String.hashCode``: over UTF-16 units, as a signed 32-bit number."""
    units = text.encode("utf-16-be", "surrogatepass")
    value = 0
    for position in range(0, len(units), 2):
        value = (value * 31 + (units[position] << 8 | units[position + 1])) & _INT32_BITS
    return value - (_INT32_BITS + 1) if value & _INT32_SIGN else value


def group_partition(group_id: str, partitions: int) -> int:
    """The partition of a group: its hash without the sign, as ``Utils.abs`` of Kafka, modulo the partitions."""
    return (java_hash(group_id) & 0x7FFFFFFF) % partitions
