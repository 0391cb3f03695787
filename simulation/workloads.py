"""What the clients of a simulation do. Each records what it does and what it knows of the outcome."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

from ..errors import OffsetOutOfRangeError
from ..log.batch import read_header
from ..log.transactions import read_marker
from ..transport.messages import READ_COMMITTED, READ_UNCOMMITTED, FetchRequest, PartitionFetch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..log.batch import BatchHeader
    from ..transport.messages import AbortedTransaction, PartitionFetched
    from .client import Outcome, SimClient
    from .history import History, Partition

_BACKOFF_MS = (20.0, 200.0)
_PARTITION_BYTES = 64 * 1024


class Workload(Protocol):
    """What one client does."""

    name: str

    def start(self) -> None:
        """Begin."""
        ...

    def quiesce(self) -> None:
        """Begin nothing new; what has begun goes on until it is answered."""
        ...

    @property
    def busy(self) -> str:
        """What it still waits for; empty: nothing."""
        ...


def topic_entry(partition: Partition) -> str:
    """A partition's name, for people."""
    return f"{partition[0]}-{partition[1]}"


class _Aborted:
    """What a reader of committed records leaves out of one answer (KIP-98)."""

    def __init__(self, named: Sequence[AbortedTransaction]) -> None:
        self._coming = list(named)
        self._open: set[int] = set()

    def has(self, header: BatchHeader, batch: bytes) -> bool:
        """Whether the next batch is part of an aborted transaction."""
        while self._coming and self._coming[0].first_offset <= header.last_offset:
            self._open.add(self._coming.pop(0).producer_id)
        if not header.is_transactional or header.producer_id not in self._open:
            return False
        if header.is_control:
            marker = read_marker(batch)
            if marker is not None and not marker.committed:
                self._open.remove(header.producer_id)
            return False
        return True


class Reader:
    """Reads one partition from its beginning, and never skips or goes back unless it says so (invariant 14)."""

    def __init__(
        self,
        client: SimClient,
        history: History,
        partition: Partition,
        rack: str = "",
        isolation: int = READ_UNCOMMITTED,
    ) -> None:
        self.client = client
        self.partition = partition
        self._rack = rack
        self._isolation = isolation
        self._near: str | None = None
        """The address of a follower in the same rack, to which the leader has sent this one (KIP-392)."""
        self.position = 0
        self.high_watermark = -1
        """Of the last fetch."""
        self.end = -1
        """What is below it may be read: the high watermark, or the last stable offset."""
        self.on_value: Callable[[bytes], object] | None = None
        """Hears of each record that is read."""
        self._asked = (-1, 0.0)
        """In which leader epoch the leader was asked, and when; -1: it was a follower."""
        self._history = history

    def request(self, max_wait_ms: int) -> tuple[str, FetchRequest] | None:
        """Whom to ask for what comes next; None if no leader is known."""
        leader = self.client.leader(*self.partition)
        if leader is None:
            return None
        self._asked = (leader[1] if self._near is None else -1, self.client.world.now_ms)
        entry = PartitionFetch(*self.partition, self.position, _PARTITION_BYTES, leader[1])
        return self._near or leader[0], FetchRequest(
            max_wait_ms, 1, _PARTITION_BYTES, [entry], rack=self._rack, isolation=self._isolation
        )

    def take(self, outcome: Outcome) -> bool:
        """Take in what was fetched; False if there was an error, and metadata should be refreshed."""
        near, self._near = self._near, None  # whatever is wrong with it, the leader knows
        if outcome.body is None:
            return False
        (state,) = outcome.body.partitions
        if state.error_code:
            self._check_error(state)
            return False
        self._near = near
        if state.preferred_read_replica >= 0:
            self._near = self.client.address_of(state.preferred_read_replica)
            return self._near is not None
        self.high_watermark = state.high_watermark
        self._check_stable(state)
        self._history.operations += 1
        data, aborted = outcome.frames[0], _Aborted(state.aborted)
        position = 0
        while position < len(data):
            header = read_header(data, position)
            self._take_batch(header, data[position : position + header.size], aborted)
            position += header.size
        return True

    def _check_stable(self, state: PartitionFetched) -> None:
        epoch, asked_ms = self._asked
        self.end = state.last_stable_offset if self._isolation == READ_COMMITTED else state.high_watermark
        if epoch >= 0:
            offsets = (state.last_stable_offset, state.high_watermark)
            self._history.transactions.stable(self.partition, epoch, asked_ms, offsets)

    def _take_batch(self, header: BatchHeader, batch: bytes, aborted: _Aborted) -> None:
        leaves_out = aborted.has(header, batch)
        if header.is_control:
            self._step(header.base_offset)
            self.position = max(self.position, header.next_offset)
            return
        for offset, value in self._history.decode(batch):
            if not leaves_out:
                self._take_record(offset, value)
            elif self._step(offset):
                self._history.transactions.leave_out(value, f"{topic_entry(self.partition)} offset {offset}")

    def _take_record(self, offset: int, value: bytes) -> None:
        if not self._step(offset):
            return
        self._history.note_read(self.partition, offset, value)
        if self.on_value is not None:
            self.on_value(value)
        if self._isolation == READ_COMMITTED:
            self._history.transactions.read(value, f"{topic_entry(self.partition)} offset {offset}")

    def _step(self, offset: int) -> bool:
        """Go past an offset; False if this one was behind: its batch began before the position that was asked for."""
        if offset < self.position:
            return False
        world, name = self.client.world, topic_entry(self.partition)
        if offset != self.position:
            world.violated("H14", f"{self.client.name} asked {name} for {self.position} and got {offset}")
        if offset >= self.end:
            text = f"{self.client.name} read {offset} of {name}, whose high watermark is {self.high_watermark}"
            world.violated("H10", f"{text}, and which may be read up to {self.end}")
        self.position = offset + 1
        return True

    def _check_error(self, state: PartitionFetched) -> None:
        if state.error_code == OffsetOutOfRangeError.code:
            text = f"{self.client.name} has read {topic_entry(self.partition)} up to {self.position} and now hears: "
            self.client.world.violated("H14", text + str(state.error_message))


class ConsumerWorkload:
    """Reads partitions, each from a place of its own, and now and then goes back to an earlier one."""

    def __init__(
        self,
        client: SimClient,
        history: History,
        partitions: Sequence[Partition],
        racks: Sequence[str],
        isolation: int = READ_UNCOMMITTED,
    ) -> None:
        self.name = client.name
        self._client = client
        self._random = client.world.stream(f"{client.name}/work")
        rack = self._random.choice(("", *racks))
        self._readers = [Reader(client, history, partition, rack, isolation) for partition in partitions]
        self._think_ms = self._random.choice((5.0, 20.0, 100.0))
        self._seek_share = self._random.choice((0.0, 0.02, 0.2))
        self._quiet = False
        self._waiting = 0

    def start(self) -> None:
        """Begin to read all partitions."""
        for reader in self._readers:
            self._later(reader, self._random.uniform(0.0, 100.0))

    def quiesce(self) -> None:
        """Read no more."""
        self._quiet = True

    @property
    def busy(self) -> str:
        """Fetches that are not answered."""
        return f"{self._waiting} fetches" if self._waiting else ""

    def _later(self, reader: Reader, delay_ms: float) -> None:
        self._client.world.later(delay_ms, f"{self.name} think", partial(self._fetch, reader))

    def _fetch(self, reader: Reader) -> None:
        if self._quiet:
            return
        asked = reader.request(max_wait_ms=self._random.choice((0, 100, 500)))
        self._waiting += 1
        if asked is None:
            self._client.refresh(partial(self._refreshed, reader))
        else:
            self._client.ask(*asked, partial(self._fetched, reader))

    def _refreshed(self, reader: Reader) -> None:
        self._waiting -= 1
        self._later(reader, self._random.uniform(*_BACKOFF_MS))

    def _fetched(self, reader: Reader, outcome: Outcome) -> None:
        if not reader.take(outcome):
            self._client.refresh(partial(self._refreshed, reader))
            return
        self._waiting -= 1
        if self._random.random() < self._seek_share:
            reader.position = self._random.randint(0, reader.position)
        self._later(reader, self._random.expovariate(1.0) * self._think_ms)


class FinalReader:
    """Reads partitions whole, once all faults are over."""

    def __init__(
        self,
        client: SimClient,
        history: History,
        partitions: Sequence[Partition],
        isolation: int = READ_UNCOMMITTED,
    ) -> None:
        self.name = client.name
        self._client = client
        self._open = [Reader(client, history, partition, isolation=isolation) for partition in partitions]
        self.found: dict[Partition, list[bytes]] = {partition: [] for partition in partitions}
        """All that there is in each partition."""
        for reader in self._open:
            reader.on_value = self.found[reader.partition].append

    def start(self) -> None:
        """Begin."""
        self._next()

    def quiesce(self) -> None:
        """It ends by itself."""

    @property
    def busy(self) -> str:
        """What is not read to its end."""
        return ", ".join(topic_entry(reader.partition) for reader in self._open)

    def _next(self) -> None:
        if not self._open:
            return
        reader = self._open[0]
        asked = reader.request(max_wait_ms=0)
        if asked is None:
            self._refresh()
        else:
            self._client.ask(*asked, partial(self._fetched, reader))

    def _refresh(self) -> None:
        wait_ms = self._client.random.uniform(*_BACKOFF_MS)
        self._client.world.later(wait_ms, f"{self.name} refresh", partial(self._client.refresh, self._next))

    def _fetched(self, reader: Reader, outcome: Outcome) -> None:
        if not reader.take(outcome):
            self._refresh()
            return
        if reader.position >= reader.high_watermark:
            self._open.remove(reader)
        self._next()
