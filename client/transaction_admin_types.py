"""What admin calls about transactions return: plain frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .types import TopicPartition


@dataclass(frozen=True)
class TransactionListing:
    """A transactional id; state is Empty, Ongoing, PrepareCommit, PrepareAbort, CompleteCommit or CompleteAbort."""

    transactional_id: str
    producer_id: int
    state: str


@dataclass(frozen=True)
class TransactionDescription:
    """A transactional id, its producer, and the transaction that is open or being ended."""

    transactional_id: str
    state: str
    coordinator_id: int
    producer_id: int
    producer_epoch: int
    timeout_ms: int
    start_ms: int
    """When the transaction began, since 1970; -1: there is none."""
    partitions: tuple[TopicPartition, ...]
    """Of the transaction."""
