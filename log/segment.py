"""One segment of a partition's log: a file of batches and its two sparse indexes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .batch import HEADER_SIZE, LENGTH_OVERHEAD, MAGIC, NO_TIMESTAMP, BatchHeader
from .index import IndexFormatError, OffsetIndex, TimeIndex
from .scan import HEADER, BadBatchError, check_header, header_at, walk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from .disk import Disk, File

LOG_SUFFIX = ".log"
INDEX_SUFFIX = ".index"
TIME_INDEX_SUFFIX = ".timeindex"
SNAPSHOT_SUFFIX = ".snapshot"
DELETED_SUFFIX = ".deleted"

MARKS_KEPT = 128
"""Exact positions remembered: the ends of the latest appends, where readers at the tail and high watermarks stand."""


def segment_path(folder: str, base_offset: int, suffix: str) -> str:
    """Where a file of a segment lies."""
    return f"{folder}/{base_offset:020d}{suffix}"


class Segment:
    """Batches from a base offset on. Only the last segment of a log is appended to; the others are sealed.

    A sealed segment's indexes are read when they are first needed and checked then, its file is opened when it is
    first read. The owner keeps the number of open files low with ``release``.
    """

    def __init__(self, disk: Disk, folder: str, base_offset: int, *, index_interval_bytes: int) -> None:
        self._disk = disk
        self._folder = folder
        self.base_offset = base_offset
        self.path = segment_path(folder, base_offset, LOG_SUFFIX)
        self._interval = index_interval_bytes
        self._file: File | None = None
        self.size = 0
        self.next_offset = base_offset
        self.sealed = False
        self.max_timestamp = NO_TIMESTAMP
        self.max_timestamp_offset = base_offset
        self.first_timestamp = NO_TIMESTAMP
        self.bad: BadBatchError | None = None
        """Where the batches stop fitting together, if they do: what lies before can be read."""
        self.rebuilt_reason = ""
        """Why the indexes had to be built anew from the batches; empty if they had not."""
        self._offset_index = OffsetIndex(base_offset)
        self._time_index = TimeIndex(base_offset)
        self._since_index_entry = 0
        self._loaded = True
        self._marks: dict[int, int] = {}

    @classmethod
    def create(cls, disk: Disk, folder: str, base_offset: int, *, index_interval_bytes: int) -> Segment:
        """A new, empty segment; a file of that name that an earlier try left is emptied."""
        segment = cls(disk, folder, base_offset, index_interval_bytes=index_interval_bytes)
        segment._file = disk.open(segment.path, create=True)
        if segment._file.size():
            segment._file.truncate(0)
        return segment

    @classmethod
    def existing(
        cls, disk: Disk, folder: str, base_offset: int, next_offset: int | None, *, index_interval_bytes: int
    ) -> Segment:
        """A segment found at start: sealed if it is known where it ends, else the last one, whose end is still open."""
        segment = cls(disk, folder, base_offset, index_interval_bytes=index_interval_bytes)
        segment.size = disk.size(segment.path)
        segment.next_offset = base_offset if next_offset is None else next_offset
        segment.sealed = next_offset is not None
        segment._loaded = False
        return segment

    # Files

    @property
    def file(self) -> File:
        """The open file."""
        if self._file is None:
            self._file = self._disk.open(self.path)
        return self._file

    @property
    def is_open(self) -> bool:
        """Whether a file descriptor is held."""
        return self._file is not None

    def release(self) -> None:
        """Close the file; it is opened again when needed."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def offset_index(self) -> OffsetIndex:
        """Where batches start; loaded on first use."""
        self.load()
        return self._offset_index

    @property
    def time_index(self) -> TimeIndex:
        """Up to where timestamps have reached what; loaded on first use."""
        self.load()
        return self._time_index

    @property
    def last_time_entry(self) -> tuple[int, int] | None:
        """The time index's last entry as far as it is in memory: (timestamp, offset)."""
        return self._time_index.last

    def largest_timestamp(self) -> int:
        """The largest timestamp of its records; -1 if none has one. Loads the indexes of a sealed segment."""
        self.load()
        return self.max_timestamp

    # Indexes

    def load(self) -> None:
        """Read and check the indexes of a segment that was there at start.

        Both are completed by walking over the headers after their last entries, so that one that was cut short is
        whole again. If the batches themselves do not fit together, ``bad`` says where.
        """
        if self._loaded:
            return
        try:
            self.read_indexes(self.next_offset if self.sealed else None)
            self.walk_tail()
        except (OSError, IndexFormatError, BadBatchError) as error:
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise
            self.rebuild(str(error))
        self.finish_load()

    def read_indexes(self, next_offset: int | None) -> None:
        """Take the index files as they are, if they can be right; FileNotFoundError or IndexFormatError if not.

        With next_offset the entries must lie below it.
        """
        self._reset_indexes()
        end = next_offset if next_offset is not None else 2**63 - 1
        data = self._disk.read_file(segment_path(self._folder, self.base_offset, INDEX_SUFFIX))
        offsets = OffsetIndex.decode(data, self.base_offset, self.size)
        last = offsets.before(end)
        if offsets and (last is None or last[1] != offsets.last_position):
            message = f"its entries reach past the segment's end at offset {end}"
            raise IndexFormatError(message)
        data = self._disk.read_file(segment_path(self._folder, self.base_offset, TIME_INDEX_SUFFIX))
        times = TimeIndex.decode(data, self.base_offset, end)
        if not data and not offsets and self.size > self._interval:
            message = "both are empty"
            raise IndexFormatError(message)
        self._offset_index, self._time_index = offsets, times
        if times.last is not None:
            self.max_timestamp, self.max_timestamp_offset = times.last

    def drop_entries_from(self, offset: int) -> None:
        """Forget index entries at or past an offset: after a crash only what was flushed is trusted."""
        entry = self._offset_index.at_or_after(offset)
        if entry is not None:
            self._offset_index.truncate(entry[1])
        self._time_index.truncate(offset)
        last = self._time_index.last
        self.max_timestamp, self.max_timestamp_offset = last or (NO_TIMESTAMP, self.base_offset)

    def _reset_indexes(self) -> None:
        self._offset_index = OffsetIndex(self.base_offset)
        self._time_index = TimeIndex(self.base_offset)
        self._since_index_entry = 0
        self.max_timestamp, self.max_timestamp_offset = NO_TIMESTAMP, self.base_offset
        self._marks.clear()

    def tail_start(self) -> tuple[int, int]:
        """(position, base offset of the batch there) from where the indexes must be checked and continued."""
        last_time = self._time_index.last
        offset = self.base_offset if last_time is None else last_time[1]
        entry = self._offset_index.before(offset)
        if entry is None:
            return 0, self.base_offset
        return entry[1], self._header_of_entry(entry).base_offset

    def walk_tail(self) -> None:
        """Continue the indexes from their last entries to the end of the file; IndexFormatError if these are wrong."""
        last_time = self._time_index.last
        position, offset = self.tail_start()
        for at, header in walk(self.file, position, self.size, offset, check_crc=False):
            self.check_time_entry(last_time, header)
            self.note(at, header)
            offset = header.next_offset
        if last_time is not None and last_time[1] >= offset:
            message = f"its last entry {last_time} is past the segment's end at offset {offset}"
            raise IndexFormatError(message)
        self._found_end(offset)

    def check_time_entry(self, entry: tuple[int, int] | None, header: BatchHeader) -> None:
        """IndexFormatError if the time index's last entry is about this batch, and is wrong."""
        if entry is None or not header.base_offset <= entry[1] < header.next_offset:
            return
        if entry != (header.max_timestamp, header.last_offset):
            message = f"its last entry {entry} is not the batch's {(header.max_timestamp, header.last_offset)}"
            raise IndexFormatError(message)

    def rebuild(self, reason: str) -> None:
        """Build the indexes anew from the batches' headers, as far as these fit: ``bad`` says where they do not."""
        self.rebuilt_reason = reason
        self.bad = None
        self._reset_indexes()
        offset = self.base_offset
        try:
            for at, header in walk(self.file, 0, self.size, offset, check_crc=False):
                self.note(at, header)
                offset = header.next_offset
            self._found_end(offset)
        except BadBatchError as error:
            self.bad = error
            if not self.sealed:
                self.next_offset = error.offset

    def begin_scan(self) -> None:
        """Start the indexes empty, for a scan from the segment's first byte that calls ``note`` for each batch."""
        self._reset_indexes()

    def _found_end(self, offset: int) -> None:
        if self.sealed and offset != self.next_offset:
            reason = f"the segment ends at offset {offset}, and the next one begins at {self.next_offset}"
            raise BadBatchError(self.size, offset, reason)
        self.next_offset = offset

    def finish_load(self) -> None:
        """The indexes are whole: a sealed segment's time index ends with its largest timestamp."""
        self._loaded = True
        if self.sealed:
            self._time_index.append(self.max_timestamp, self.max_timestamp_offset)
        if self.size:
            try:
                self.first_timestamp = header_at(self.file, 0, self.size, self.base_offset).max_timestamp
            except BadBatchError as error:
                self.bad = error

    def note(self, position: int, header: BatchHeader) -> None:
        """Take a batch that is in the file into the indexes."""
        size = header.batch_length + LENGTH_OVERHEAD
        timestamp = header.max_timestamp if header.records_count else NO_TIMESTAMP
        self.note_values(position, size, header.base_offset + header.last_offset_delta, timestamp)

    def note_values(self, position: int, size: int, last_offset: int, max_timestamp: int) -> None:
        """As ``note``, from the values alone."""
        if max_timestamp > self.max_timestamp:
            self.max_timestamp = max_timestamp
            self.max_timestamp_offset = last_offset
        last_position = self._offset_index.last_position
        if position <= last_position:
            # A walk from before the last entry: only the largest timestamp can be new.
            self._since_index_entry = size
            return
        if self._since_index_entry > self._interval:
            self._offset_index.append(last_offset, position)
            self._time_index.append(self.max_timestamp, self.max_timestamp_offset)
            self._since_index_entry = 0
        self._since_index_entry += size

    def index_files(self) -> list[tuple[str, bytes]]:
        """Path and content of the two index files."""
        return [
            (segment_path(self._folder, self.base_offset, INDEX_SUFFIX), self._offset_index.encode()),
            (segment_path(self._folder, self.base_offset, TIME_INDEX_SUFFIX), self._time_index.encode()),
        ]

    @property
    def is_loaded(self) -> bool:
        """Whether the indexes are in memory."""
        return self._loaded

    # Append

    def append(self, buffers: Sequence[Buffer], batches: Sequence[tuple[int, int, int]]) -> None:
        """Write batches in one call; each is (size, last offset, largest timestamp). An OSError changes nothing."""
        assert not self.sealed
        assert self._loaded
        position = self.size
        written = self.file.append(buffers)
        self._marks[self.next_offset] = position
        if position == 0:
            self.first_timestamp = batches[0][2]
        for size, last_offset, max_timestamp in batches:
            self.note_values(position, size, last_offset, max_timestamp)
            position += size
        assert position == self.size + written, (position, self.size, written)
        self.size = position
        self.next_offset = batches[-1][1] + 1
        self._mark(self.next_offset, position)

    def _mark(self, offset: int, position: int) -> None:
        """Remember that a batch with this base offset starts, or will, at this position."""
        self._marks[offset] = position
        if len(self._marks) > MARKS_KEPT:
            for old in list(self._marks)[: MARKS_KEPT // 2]:
                del self._marks[old]

    def seal(self) -> None:
        """No more appends: the time index gets its last entry."""
        assert not self.sealed
        self._time_index.append(self.max_timestamp, self.max_timestamp_offset)
        self.sealed = True
        self._marks.clear()

    def truncate(self, position: int, offset: int) -> None:
        """Cut the segment at a batch's start, and be the last segment of the log, open for appends."""
        self.load()
        self._cut(position)
        self.sealed = False
        self.bad = None
        self.size = position
        self.next_offset = offset
        self._offset_index.truncate(position)
        self._time_index.truncate(offset)
        self._marks.clear()
        last = self._time_index.last
        self.max_timestamp, self.max_timestamp_offset = last or (NO_TIMESTAMP, self.base_offset)
        self._since_index_entry = 0
        self.first_timestamp = NO_TIMESTAMP
        try:
            self.walk_tail()
        except (BadBatchError, IndexFormatError) as error:
            self.rebuild(str(error))
        self.finish_load()

    def end_at(self, position: int, offset: int) -> None:
        """Be the last segment, cut at a position up to which a scan has taken all batches into the indexes."""
        self._cut(position)
        self.size = position
        self.next_offset = offset
        self.sealed = False
        self.bad = None
        self.finish_load()

    def _cut(self, position: int) -> None:
        """Cut the file, durably: else a crash could bring old batches back behind new ones, and fitting them.

        The index files would be wrong once the segment has grown again; the owner makes their removal durable.
        """
        if position < self.size:
            self.file.truncate(position)
            self.file.flush()
        for suffix in (INDEX_SUFFIX, TIME_INDEX_SUFFIX):
            self._disk.remove(segment_path(self._folder, self.base_offset, suffix))

    # Read

    def near(self, offset: int) -> tuple[int, int]:
        """(position, base offset there) of some batch at or before the one that holds the offset, by the index if it is
        of use. Does not load the segment.
        """
        try:
            if not self._loaded:
                self.read_indexes(None)
            entry = self._offset_index.before(offset)
            if entry is not None:
                return entry[1], self._header_of_entry(entry).base_offset
        except (FileNotFoundError, IndexFormatError, BadBatchError):
            pass
        return 0, self.base_offset

    def locate(self, offset: int) -> int:
        """Position of the batch that holds the offset; BadBatchError if the file does not fit together there."""
        position = self._marks.get(offset)
        if position is not None:
            return position
        self.load()
        try:
            if self.bad is None:
                return self._locate_by_index(offset)
        except BadBatchError as error:
            # The index may be what is wrong: believe the batches.
            self.rebuild(str(error))
        if self.bad is not None and offset >= self.bad.offset:
            raise self.bad
        return self._locate_by_index(offset)

    def _locate_by_index(self, offset: int) -> int:
        # A read ends where an entry points to, so the next one finds its start in the entry at or after its offset.
        after = self._offset_index.at_or_after(offset)
        if after is not None:
            header = self._header_of_entry(after)
            if header.base_offset <= offset:
                return after[1]
        before = self._offset_index.before(offset)
        if before is None:
            position, expected = 0, self.base_offset
        else:
            header = self._header_of_entry(before)
            position, expected = before[1] + header.size, header.next_offset
        for position_found, header in walk(self.file, position, self.size, expected, check_crc=False):
            if header.next_offset > offset:
                return position_found
            expected = header.next_offset
        reason = f"the file ends at offset {expected}, and should reach {self.next_offset}"
        raise BadBatchError(self.size, expected, reason)

    def _header_of_entry(self, entry: tuple[int, int]) -> BatchHeader:
        header = header_at(self.file, entry[1], self.size)
        if header.last_offset != entry[0]:
            reason = (
                f"the batch at position {entry[1]} ends at offset {header.last_offset}, its index entry says {entry[0]}"
            )
            raise BadBatchError(entry[1], header.base_offset, reason)
        return header

    def read(self, offset: int, max_bytes: int, end_offset: int) -> bytes:
        """Whole batches, as stored, from the one that holds the offset: max_bytes at most, or one, below end_offset.

        b"" if that batch reaches past end_offset. At the tail this is one read and no search.
        """
        position = self.locate(offset)
        if self.bad is not None:
            end_offset = min(end_offset, self.bad.offset)
        limit = min(position + max_bytes, self.size)
        end = self.size if end_offset >= self.next_offset and self.bad is None else self._marks.get(end_offset, -1)
        if position < end <= limit:
            data = self.file.read(position, end - position)
            self._check_first(data, position, offset)
            return data
        entry = self.offset_index.last_start(limit, min(end_offset, self.next_offset))
        if entry is None or entry[1] <= position:
            return self._read_exactly(position, limit, offset, end_offset)
        header = self._header_of_entry(entry)
        if limit < self.size and end_offset >= self.next_offset:
            # The room is what bounds it: stop at the indexed batch and leave the rest of the room unused.
            self._mark(header.base_offset, entry[1])
            data = self.file.read(position, entry[1] - position)
            self._check_first(data, position, offset)
            return data
        return self._read_exactly(position, limit, offset, end_offset, known=(entry[1], header.base_offset))

    def _read_exactly(
        self, position: int, limit: int, offset: int, end_offset: int, known: tuple[int, int] | None = None
    ) -> bytes:
        """As ``read``, by walking over the headers in what was read, from a known batch on if there is one."""
        data = self.file.read(position, max(min(limit, self.size) - position, HEADER_SIZE))
        first = self._check_first(data, position, offset)
        if first.next_offset > end_offset:
            return b""
        if first.size > len(data):
            return self.file.read(position, first.size)
        at, expected = (known[0] - position, known[1]) if known is not None else (first.size, first.next_offset)
        while at + HEADER_SIZE <= len(data):
            header = HEADER.unpack_from(data, at)
            size, next_offset = header[1] + LENGTH_OVERHEAD, header[0] + header[6] + 1
            if header[0] != expected or header[3] != MAGIC or size < HEADER_SIZE:
                if at == 0:
                    raise BadBatchError(position, expected, "the header is not a batch's")
                break  # the next read begins here, and says what is wrong
            if at + size > len(data) or next_offset > end_offset:
                break
            at += size
            expected = next_offset
        return data if at == len(data) else data[:at]

    def _check_first(self, data: bytes, position: int, offset: int) -> BatchHeader:
        """The header at the start of what was read: continuity is checked, the CRC is the client's to check."""
        if len(data) < HEADER_SIZE:
            reason = f"a header needs {HEADER_SIZE} bytes and {len(data)} could be read"
            raise BadBatchError(position, offset, reason)
        header = BatchHeader._make(HEADER.unpack_from(data))
        check_header(header, position, self.size, header.base_offset)
        if not header.base_offset <= offset < header.next_offset:
            reason = f"the batch holds offsets {header.base_offset} to {header.last_offset}, not {offset}"
            raise BadBatchError(position, offset, reason)
        return header

    # Removal

    def delete(self) -> None:
        """Remove its files: renamed first, so that what a crash leaves is known to be rubbish."""
        self.release()
        paths = [
            segment_path(self._folder, self.base_offset, suffix)
            for suffix in (INDEX_SUFFIX, TIME_INDEX_SUFFIX, LOG_SUFFIX)
        ]
        present = [path for path in paths if self._disk.exists(path)]
        for path in present:
            self._disk.rename(path, path + DELETED_SUFFIX)
        for path in present:
            self._disk.remove(path + DELETED_SUFFIX)
