"""What goes into and comes out of the quorum's state machine: time-outs, durable state, view of the log, effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import msgspec

from ..errors import CorruptMessageError
from ..transport.quorum_messages import Voter

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..errors import BrokerError
    from ..transport.message_base import Body, Request
    from ..transport.quorum_messages import FetchSnapshotRequest

Token = Any
"""A request that waits for its answer; the machine keeps it and gives it back unopened."""

NOBODY = -1
"""The leader's id where none is known."""

NEVER = float("inf")


class KraftConfig(NamedTuple):
    """The machine's time-outs, in ms of a monotonic clock, and sizes in bytes."""

    election_timeout_ms: float = 1000.0
    """How long votes are waited for: drawn anew each time from this to twice this."""
    fetch_timeout_ms: float = 2000.0
    """A follower that did not hear of its leader for this long may vote for another. A leader that a majority did not
    fetch from for one and a half of it resigns."""
    backoff_ms: float = 20.0
    """Before what has failed is tried again; doubles with each election that is lost, with jitter."""
    backoff_max_ms: float = 1000.0
    fetch_wait_ms: int = 500
    """How long a leader may hold a fetch back that it has nothing for."""
    fetch_bytes: int = 1024 * 1024
    snapshot_bytes: int = 1024 * 1024


class QuorumState(msgspec.Struct, frozen=True):
    """What a node must not forget: kept in a file as JSON, written whole (temporary file, fsync, rename, fsync)."""

    epoch: int = 0
    voted_for: Voter | None = None
    """Whom it has voted for in this epoch."""
    leader_id: int = NOBODY
    """Who leads in this epoch, as far as it knows."""

    def encode(self) -> bytes:
        """The file."""
        voted = None if self.voted_for is None else (self.voted_for.node_id, self.voted_for.directory_id)
        return msgspec.json.encode(_File(self.epoch, voted, self.leader_id)) + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> QuorumState:
        """Read the file; CorruptMessageError if it is none. Never go on without it: the node might vote twice."""
        try:
            found = msgspec.json.decode(data, type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            message = f"the quorum's state of {len(data)} bytes cannot be read: {error}"
            raise CorruptMessageError(message) from error
        if found.version != _VERSION or found.epoch < 0 or found.leader_id < NOBODY:
            message = f"the quorum's state makes no sense: {found}"
            raise CorruptMessageError(message)
        return cls(found.epoch, None if found.voted_for is None else Voter(*found.voted_for), found.leader_id)


_VERSION = 0


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """The file's fields, by name."""

    epoch: int
    voted_for: tuple[int, str] | None
    leader_id: int
    version: int = _VERSION


class SnapshotId(NamedTuple):
    """A snapshot holds all below its offset; epoch is that of the last record in it."""

    offset: int
    epoch: int


class LogView(Protocol):
    """What the machine reads of the metadata log. Effects that change the log show here at once."""

    @property
    def start_offset(self) -> int:
        """The first offset that is there; above 0 only if there is a snapshot that ends at it or later."""
        ...

    @property
    def end_offset(self) -> int:
        """The offset after the last record."""
        ...

    @property
    def flushed_offset(self) -> int:
        """What is below it, a power cut does not take back."""
        ...

    @property
    def last_epoch(self) -> int:
        """The epoch of the last record, else of the snapshot that the log begins after; 0 if there is neither."""
        ...

    @property
    def snapshot(self) -> SnapshotId | None:
        """The latest snapshot."""
        ...

    def epoch_end(self, epoch: int) -> tuple[int, int]:
        """(largest epoch that is not above this one, the offset where it ends); (-1, -1) if the log knows none."""
        ...


# ---- effects: to be carried out in this order, before the machine is told anything else


class SaveState(NamedTuple):
    """Make this durable; what follows in the list may not leave the node before. Always the first effect."""

    state: QuorumState


class Send(NamedTuple):
    """Ask another node. Then `handle_reply`, or `request_failed` (also when no answer came in time), exactly once."""

    node_id: int
    request: Request
    timeout_ms: float


class LogRange(NamedTuple):
    """Batches to read: from offset on, whole ones, below end_offset, at least one and at most about max_bytes."""

    offset: int
    end_offset: int
    max_bytes: int


class Reply(NamedTuple):
    """Answer a request; data: what the frame that follows holds (None: it is empty)."""

    token: Token
    reply: Body
    data: LogRange | None = None


class Refuse(NamedTuple):
    """Answer a request with an error."""

    token: Token
    error: BrokerError


class ReadSnapshot(NamedTuple):
    """Answer this request with a part of a snapshot: SNAPSHOT_NOT_FOUND and POSITION_OUT_OF_RANGE are the actor's."""

    token: Token
    request: FetchSnapshotRequest


class AppendLeaderChange(NamedTuple):
    """Append a LeaderChange as a batch of this epoch."""

    epoch: int
    leader_id: int


class AppendVoters(NamedTuple):
    """Append a SetVoters as a batch of this epoch; then `voters_appended`, as for every SetVoters in the log.

    Or `voters_refused`, if the disk has no room for a change that somebody has asked for.
    """

    epoch: int
    voters: list[Voter]


class AppendFetched(NamedTuple):
    """Append the batches that came with the fetch reply; they begin at this offset, and have at most this epoch.

    Then `log_appended`; or, if they are not what they should be, `request_failed` for the fetch.
    """

    epoch: int
    offset: int


class TruncateTo(NamedTuple):
    """Remove what is at and past this offset; the machine has gone back to the voters before it by itself."""

    offset: int


class WriteSnapshot(NamedTuple):
    """Write the bytes that came with the reply to a FetchSnapshotRequest; position 0 begins a new temporary file."""

    snapshot: SnapshotId
    position: int


class InstallSnapshot(NamedTuple):
    """The snapshot is there: check it, make it durable, let the log start at its offset; this may take its time.

    Then `snapshot_installed` or `snapshot_failed`.
    """

    snapshot: SnapshotId


class HighWatermark(NamedTuple):
    """What is below this offset is committed. Never goes back while the process lives."""

    offset: int


class LeaderChanged(NamedTuple):
    """Who leads, as far as this node knows (NOBODY: unknown), and in which epoch."""

    leader_id: int
    epoch: int


class StartedLeading(NamedTuple):
    """This node leads, and its LeaderChange is in the log: its controller may decide and append."""

    epoch: int


class StoppedLeading(NamedTuple):
    """This node leads no more: nothing may be appended in this epoch."""

    epoch: int


Effect: TypeAlias = (
    SaveState
    | Send
    | Reply
    | Refuse
    | ReadSnapshot
    | AppendLeaderChange
    | AppendVoters
    | AppendFetched
    | TruncateTo
    | WriteSnapshot
    | InstallSnapshot
    | HighWatermark
    | LeaderChanged
    | StartedLeading
    | StoppedLeading
)

Random: TypeAlias = "Callable[[], float]"
"""A number in [0, 1), another one each time."""
