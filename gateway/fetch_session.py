"""The fetch session of one connection (KIP-227): a consumer of many partitions names only those that change. Pure.

A fetch of epoch 0 begins a session with all of its partitions; those after it count their epochs up, and name what is
new, moved or forgotten. A response has the partitions that have news. Kafka keeps sessions for a broker; here one ends
with its connection, and a client that connects again begins another, which is what it does anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..errors import FetchSessionIdNotFoundError, InvalidFetchSessionEpochError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..transport.messages import PartitionFetch, PartitionFetched

NO_SESSION: Final = 0
INITIAL_EPOCH: Final = 0
FINAL_EPOCH: Final = -1
_EPOCH_MAX: Final = 2**31 - 1

Key = tuple[str, int]
"""Topic and partition."""


class Answered(NamedTuple):
    """What the client was told of a partition last."""

    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    error_code: int


class FetchSession:
    """At most one session; ``ask`` takes what a request says of it, ``news`` picks what its response has."""

    def __init__(self, session_id: int) -> None:
        assert session_id > NO_SESSION, f"{session_id} means that there is no session"
        self._own_id = session_id
        self._partitions: dict[Key, PartitionFetch] | None = None
        self._told: dict[Key, Answered] = {}
        self._next_epoch = INITIAL_EPOCH

    @property
    def is_open(self) -> bool:
        """Whether there is a session."""
        return self._partitions is not None

    def ask(
        self, session_id: int, epoch: int, named: Sequence[PartitionFetch], forgotten: Iterable[Key]
    ) -> list[PartitionFetch]:
        """The partitions that a request fetches, in the order to serve them.

        Raises FetchSessionIdNotFoundError, or InvalidFetchSessionEpochError for a request that was lost or came twice.
        """
        if epoch in (INITIAL_EPOCH, FINAL_EPOCH):
            self._partitions = None
            self._told.clear()
            if epoch == INITIAL_EPOCH:
                self._partitions = {(entry.topic, entry.partition): entry for entry in named}
                self._next_epoch = 1
            return list(named)
        if self._partitions is None or session_id != self._own_id:
            message = f"this connection has no fetch session {session_id}: begin one with epoch 0"
            raise FetchSessionIdNotFoundError(message)
        if epoch != self._next_epoch:
            message = f"fetch session {session_id} expects epoch {self._next_epoch}, and the request has {epoch}"
            raise InvalidFetchSessionEpochError(message)
        self._next_epoch = epoch + 1 if epoch < _EPOCH_MAX else 1
        for key in forgotten:
            self._partitions.pop(key, None)
            self._told.pop(key, None)
        for entry in named:
            self._partitions[entry.topic, entry.partition] = entry
        return list(self._partitions.values())

    def session_id(self) -> int:
        """What the response says."""
        return self._own_id if self.is_open else NO_SESSION

    def news(
        self, results: Sequence[PartitionFetched], data: Sequence[bytes], *, is_first: bool
    ) -> list[tuple[Any, bytes]]:
        """The partitions that the response has, each with its batches: all in the first of a session, or without one.

        Those that brought records go behind the others, so that each has its turn when there is little room. Aborted
        transactions are named beside the batches that have records of them, and are no news of their own.
        """
        partitions = self._partitions
        found: list[tuple[Any, bytes]] = []
        for result, batches in zip(results, data, strict=True):
            key = (result.topic, result.partition)
            now = Answered(result.high_watermark, result.last_stable_offset, result.log_start_offset, result.error_code)
            if (
                is_first
                or partitions is None
                or batches
                or result.error_code
                or result.preferred_read_replica != -1
                or self._told.get(key) != now
            ):
                found.append((result, batches))
            if partitions is not None and key in partitions:
                self._told[key] = now
                if batches:
                    partitions[key] = partitions.pop(key)
        return found
