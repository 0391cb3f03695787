"""Kafka's text checkpoint files: a version, a count, then one line an entry. No I/O.

::

    0                   version
    2                   how many lines follow
    orders 0 1200       (topic, partition, offset), or (leader epoch, start offset)
    orders 1 1180
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

VERSION = 0


class CheckpointFormatError(Exception):
    """The text is not a checkpoint; the reason says why."""


def encode_lines(lines: Iterable[str]) -> bytes:
    """The file with these entries."""
    entries = list(lines)
    return "\n".join([str(VERSION), str(len(entries)), *entries, ""]).encode()


def decode_lines(data: bytes, fields: int) -> list[list[str]]:
    """The entries of a file, each split into its fields; CheckpointFormatError if it is cut short or malformed."""
    try:
        lines = data.decode().split("\n")
        version, count = int(lines[0]), int(lines[1])
    except (ValueError, IndexError) as error:
        message = "it does not start with a version and a count"
        raise CheckpointFormatError(message) from error
    if version != VERSION:
        message = f"it has version {version}; only {VERSION} is known"
        raise CheckpointFormatError(message)
    if lines[-1] or len(lines) - 3 != count:
        message = f"it announces {count} entries and holds {len(lines) - 3}"
        raise CheckpointFormatError(message)
    entries = [line.split(" ") for line in lines[2:-1]]
    for entry in entries:
        if len(entry) != fields:
            message = f"the entry {' '.join(entry)!r} has {len(entry)} fields, not {fields}"
            raise CheckpointFormatError(message)
    return entries


def encode_offsets(offsets: Mapping[str, int]) -> bytes:
    """The file for offsets by folder name (``topic-partition``)."""
    lines = []
    for name, offset in sorted(offsets.items()):
        topic, _, partition = name.rpartition("-")
        lines.append(f"{topic} {partition} {offset}")
    return encode_lines(lines)


def decode_offsets(data: bytes) -> dict[str, int]:
    """Offsets by folder name; CheckpointFormatError if any of it is malformed."""
    offsets = {}
    for topic, partition, offset in decode_lines(data, 3):
        if not (partition.isdecimal() and offset.isdecimal()):
            message = f"the entry {topic} {partition} {offset} has no valid partition and offset"
            raise CheckpointFormatError(message)
        offsets[f"{topic}-{partition}"] = int(offset)
    return offsets
