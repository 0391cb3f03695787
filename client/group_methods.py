"""The consumer's methods for its group's offsets: commit them, ask for them, say who commits. Part of the consumer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ConfigError
from .positions import Positions
from .types import OffsetAndMetadata, TopicPartition
from .values import checked_offsets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .commits import CommitCallback
    from .group_session import GroupSession
    from .io import Flow
    from .rebalance_listener import ConsumerGroupMetadata

    Offsets = Mapping[TopicPartition, OffsetAndMetadata | int]
    Committed = (
        int
        | OffsetAndMetadata
        | None
        | dict[TopicPartition, int | None]
        | dict[TopicPartition, OffsetAndMetadata | None]
    )


class GroupMethods(Positions):
    """What a consumer with a group_id can do more. Without one these methods raise ConfigError."""

    _group: GroupSession | None

    def commit(self, offsets: Offsets | None = None, timeout_ms: float | None = None) -> None:
        """Commit offsets (of the next record each, as numbers or OffsetAndMetadata) and wait until it is done.

        Without offsets: the positions of all partitions; what was handed out counts as done with. Raises
        CommitFailedError if the group has rebalanced and others may own the partitions, RequestTimedOutError or the
        coordinator's error if it cannot be done within timeout_ms (request_timeout_ms if it is not given).
        """
        self._io.run(self.committing(offsets, timeout_ms))

    def committing(self, offsets: Offsets | None, timeout_ms: float | None) -> Flow[None]:
        """`commit` as a flow."""
        group = self._session()
        yield from group.commit(self._offsets(offsets), timeout_ms)

    def commit_async(self, offsets: Offsets | None = None, callback: CommitCallback | None = None) -> None:
        """Commit without waiting. Commits happen in the order in which they are asked for.

        callback(offsets, error) hears of the end; error is None if all went well. Raises CommitFailedError at once for
        partitions that are not this member's.
        """
        group = self._session()
        wanted = self._offsets(offsets)
        self._io.lock.acquire()
        try:
            self._io.check_open()
            group.check_owned(wanted.keys())
            group.commits.add(wanted, callback)
        except BaseException:
            self._io.lock.release()
            raise
        self._io.pass_and_release()

    def committed(self, partitions: TopicPartition | Iterable[TopicPartition], *, metadata: bool = False) -> Committed:
        """The group's committed offset of a partition, or of each of several as a dict; None where there is none.

        metadata: as OffsetAndMetadata, with the text that was committed beside it.
        """
        return self._io.run(self.asking_committed(partitions, metadata=metadata))

    def asking_committed(
        self, partitions: TopicPartition | Iterable[TopicPartition], *, metadata: bool
    ) -> Flow[Committed]:
        """`committed` as a flow."""
        group = self._session()
        single = isinstance(partitions, TopicPartition)
        wanted = [partitions] if isinstance(partitions, TopicPartition) else [TopicPartition(*tp) for tp in partitions]
        full = yield from group.commits.committed(wanted, self._timeout_s)
        if metadata:
            return full[wanted[0]] if single else full
        plain = {partition: None if found is None else found.offset for partition, found in full.items()}
        return plain[wanted[0]] if single else plain

    def group_metadata(self, partitions: Iterable[TopicPartition] = ()) -> ConsumerGroupMetadata:
        """Who this consumer is in its group at the moment.

        Raises CommitFailedError if it may not commit offsets of these partitions now: the group has rebalanced.
        """
        with self._io.lock:
            return self._session().membership({TopicPartition(*partition) for partition in partitions})

    def _session(self) -> GroupSession:
        if self._group is None:
            message = "this consumer has no group to commit offsets for; give it a group_id"
            raise ConfigError(message)
        return self._group

    def _offsets(self, offsets: Offsets | None) -> dict[TopicPartition, OffsetAndMetadata]:
        return self._all_positions() if offsets is None else checked_offsets(offsets)

    def _all_positions(self) -> dict[TopicPartition, OffsetAndMetadata]:
        with self._io.lock:
            found = {
                partition: OffsetAndMetadata(state.position)
                for partition, state in self._fetcher.partitions.items()
                if state.position >= 0
            }
            chunk = self._chunk
            if chunk is not None and chunk.generation == chunk.state.generation:
                found[chunk.state.partition] = OffsetAndMetadata(chunk.position)
            return found
