"""Leaving out what aborted transactions have written, of what a fetch has brought (KIP-98). Pure.

The broker names the aborted transactions that have batches in the answer. From the first offset of one on,
transactional batches of its producer are left out, until its abort marker. Markers stay: they hold no records for the
user, and they move the position past what is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import CorruptMessageError
from ..log.batch import HEADER_SIZE, read_header
from ..log.transactions import read_marker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..log.batch import BatchHeader
    from ..transport.messages import AbortedTransaction


def without_aborted(batches: bytes, aborted: Sequence[AbortedTransaction]) -> list[bytes]:
    """The stretches between what was aborted; what does not look like batches stays, for the decoder to judge."""
    coming = sorted(aborted, key=lambda transaction: transaction.first_offset, reverse=True)
    open_now: set[int] = set()
    kept: list[bytes] = []
    start = 0
    for position, header in _headers(batches):
        while coming and coming[-1].first_offset <= header.last_offset:
            open_now.add(coming.pop().producer_id)
        if header.producer_id not in open_now or not header.is_transactional:
            continue
        end = position + header.size
        if header.is_control:
            marker = read_marker(memoryview(batches)[position:end])
            if marker is not None and not marker.committed:
                open_now.remove(header.producer_id)
            continue
        if position > start:
            kept.append(batches[start:position])
        start = end
    if start < len(batches):
        kept.append(batches[start:] if start else batches)
    return kept


def _headers(batches: bytes) -> Iterator[tuple[int, BatchHeader]]:
    """The whole batches, each with its position."""
    position = 0
    while len(batches) - position >= HEADER_SIZE:
        try:
            header = read_header(batches, position)
        except CorruptMessageError:
            return
        if position + header.size > len(batches):
            return
        yield position, header
        position += header.size
