"""Transactions as the committed logs have them, held against what their producers know (invariants 23, 28 and 29)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ..log.batch import read_header
from ..log.transactions import read_marker
from . import probe
from .invariants import Invariant

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .cluster import Cluster, SimNode
    from .probe import Key, Replica
    from .transaction_history import Transaction


class _Open(NamedTuple):
    """What has no marker yet, of one producer in one partition."""

    first_offset: int
    transaction: Transaction | None


@dataclass
class _Marked:
    """One partition's transactions."""

    open: dict[int, _Open] = field(default_factory=dict)
    """By producer id."""
    numbers: dict[int, int] = field(default_factory=dict)
    """Of the last marker, by producer id."""
    ended: dict[Transaction, str] = field(default_factory=dict)
    """Where the markers are of transactions that have records here."""


class _End(NamedTuple):
    committed: bool
    number: int
    where: str


class Markers(Invariant):
    """23: between two markers of a producer stand the records of one transaction, and its markers say the same
    everywhere; and 28: nobody calls more stable than what the committed log shows to be so.
    """

    NAME = "23 markers"

    def _init(self) -> None:
        self._logs: dict[Key, _Marked] = {}
        self._ends: dict[Transaction, _End] = {}
        self.truth.on_committed.append(self._committed)

    def _committed(self, key: Key, batch: bytes) -> None:
        header = read_header(batch)
        if not header.is_transactional or not header.has_producer_id:
            return
        log = self._logs.setdefault(key, _Marked())
        where = f"{key} offset {header.base_offset}"
        if header.is_control:
            self._ended(log, header.producer_id, batch, where)
            return
        known = log.open.get(header.producer_id)
        for _, value in self.history.decode(batch):
            transaction = self.history.transactions.of(value)
            if known is None:
                known = log.open[header.producer_id] = _Open(header.base_offset, transaction)
            elif known.transaction is not transaction:
                text = f"{where} has {value!r} of {transaction}, and there is no marker since {known.transaction}"
                self.violated(text)
            if transaction is not None and transaction in log.ended:
                self.violated(f"{where} has {value!r}, and {log.ended[transaction]} the marker of {transaction}")

    def _ended(self, log: _Marked, producer_id: int, batch: bytes, where: str) -> None:
        marker = read_marker(batch)
        assert marker is not None, f"{where} is a control batch and no marker"
        known = log.open.pop(producer_id, None)
        before = log.numbers.get(producer_id, -1)
        if marker.transaction <= before:
            self.violated(f"{where} has the marker of number {marker.transaction}, after that of {before}")
        log.numbers[producer_id] = marker.transaction
        if known is None or known.transaction is None:
            return
        log.ended[known.transaction] = where
        end = _End(marker.committed, marker.transaction, where)
        first = self._ends.setdefault(known.transaction, end)
        if first[:2] != end[:2]:
            self.violated(f"{known.transaction} has ended in two ways: {first} and {end}")
        self.history.transactions.marked(known.transaction, where, committed=marker.committed)

    def after_pass(self, node: SimNode, replicas: Sequence[Replica]) -> None:
        """Hold what replicas call stable against the committed log, as far as that is known."""
        for replica in replicas:
            log = self._logs.get(replica.key)
            committed = self.truth.partitions.get(replica.key)
            if log is None or committed is None or committed.seen_end < committed.high_watermark:
                continue
            told = probe.stable_offset(replica.log, replica.high_watermark)
            first = min((found.first_offset for found in log.open.values()), default=told)
            if told > first:
                text = f"{replica.name} on {node.name} calls stable what is below {told}, and {first} is open"
                self.world.violated("28 stable offset", text)


def open_transactions(cluster: Cluster) -> str:
    """29: what is not at its end, after healing: a transaction, a partition, or a group's offsets; or nothing."""
    return next((found for node in cluster for found in _unfinished(node)), "")


def _unfinished(node: SimNode) -> Iterable[str]:
    if found := probe.unfinished(node):
        yield found
    for replica in probe.replicas(node):
        stable = probe.stable_offset(replica.log, replica.high_watermark)
        if replica.leads and stable < replica.high_watermark:
            yield f"{replica.name} on {node.name} is stable up to {stable} of {replica.high_watermark}"
