"""Looking at logs from outside, for ``zmqbroker log dump`` and ``verify``: reads only, no lock, no repair."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .batch import COMPRESSION_NAMES, HEADER_SIZE, BatchHeader, computed_crc
from .leftovers import base_offset_of, base_offsets
from .scan import HEADER, SCAN_CHUNK_BYTES, BadBatchError, check_header, walk
from .segment import LOG_SUFFIX, segment_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .disk import Disk


class BatchInfo(NamedTuple):
    """What a dump says of one batch."""

    path: str
    position: int
    size: int
    base_offset: int
    last_offset: int
    records_count: int
    leader_epoch: int
    compression: str
    is_control: bool
    is_transactional: bool
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    last_sequence: int
    crc: int
    crc_valid: bool


class Finding(NamedTuple):
    """What a verification says of one segment file."""

    path: str
    batches: int
    size: int
    """Bytes that were read and are good."""
    next_offset: int
    problem: str
    """What is wrong and where; empty if nothing is."""
    problem_position: int


class LogPathError(Exception):
    """There is no log at the path; the message says what was looked for."""


def segment_files(disk: Disk, path: str) -> list[str]:
    """The segment files of a partition's folder in order, or the one that the path names."""
    name = path.rpartition("/")[2]
    if name.endswith(LOG_SUFFIX) and disk.exists(path):
        if base_offset_of(name, LOG_SUFFIX) is None:
            message = f"{path} is not a segment: its name is not an offset of 20 digits"
            raise LogPathError(message)
        return [path]
    if not disk.exists(path):
        message = f"{path} does not exist; name a partition's folder (topic-0) or a segment (...{LOG_SUFFIX})"
        raise LogPathError(message)
    try:
        names = disk.list(path)
    except NotADirectoryError as error:
        message = f"{path} is neither a folder nor a segment (...{LOG_SUFFIX})"
        raise LogPathError(message) from error
    files = [segment_path(path, base, LOG_SUFFIX) for base in base_offsets(names, LOG_SUFFIX)]
    if not files:
        message = f"{path} holds no segments"
        raise LogPathError(message)
    return files


def dump(disk: Disk, path: str) -> Iterator[BatchInfo]:
    """Every batch of a folder or a segment, with its CRC computed; BadBatchError where no header can be read."""
    for file_path in segment_files(disk, path):
        file = disk.open(file_path)
        try:
            size = file.size()
            position = 0
            while position < size:
                data = file.read(position, HEADER_SIZE)
                if len(data) < HEADER_SIZE:
                    raise BadBatchError(position, -1, f"{len(data)} bytes at the end are less than a header")
                header = BatchHeader._make(HEADER.unpack(data))
                check_header(header, position, size, header.base_offset)
                yield _info(file_path, position, header, file.read(position, header.size))
                position += header.size
        finally:
            file.close()


def _info(path: str, position: int, header: BatchHeader, batch: bytes) -> BatchInfo:
    return BatchInfo(
        path=path,
        position=position,
        size=header.size,
        base_offset=header.base_offset,
        last_offset=header.last_offset,
        records_count=header.records_count,
        leader_epoch=header.leader_epoch,
        compression=COMPRESSION_NAMES[header.compression],
        is_control=header.is_control,
        is_transactional=header.is_transactional,
        base_timestamp=header.base_timestamp,
        max_timestamp=header.max_timestamp,
        producer_id=header.producer_id,
        producer_epoch=header.producer_epoch,
        base_sequence=header.base_sequence,
        last_sequence=header.last_sequence,
        crc=header.crc,
        crc_valid=computed_crc(batch) == header.crc,
    )


def verify(disk: Disk, path: str) -> Iterator[Finding]:
    """Check every byte of a folder or a segment: CRCs, and that offsets and leader epochs follow each other.

    One finding for each segment. A torn tail of a log that is in use is a problem too: only recovery can tell.
    """
    expected: int | None = None
    epoch = -1
    for file_path in segment_files(disk, path):
        base = base_offset_of(file_path.rpartition("/")[2], LOG_SUFFIX)
        assert base is not None
        finding, epoch = _verify_segment(disk, file_path, base, epoch)
        if expected is not None and base != expected and not finding.problem:
            problem = f"the segment begins at offset {base}, the one before ends at {expected}"
            finding = finding._replace(problem=problem, problem_position=0)
        expected = None if finding.problem else finding.next_offset
        yield finding


def _verify_segment(disk: Disk, path: str, base: int, epoch: int) -> tuple[Finding, int]:
    file = disk.open(path)
    batches = position = 0
    next_offset = base
    try:
        for at, header in walk(file, 0, file.size(), base, check_crc=True, chunk_bytes=SCAN_CHUNK_BYTES):
            if header.leader_epoch < epoch:
                reason = f"the batch has leader epoch {header.leader_epoch} after epoch {epoch}"
                raise BadBatchError(at, header.base_offset, reason)  # noqa: TRY301  handled as walk's own
            epoch = header.leader_epoch
            batches += 1
            position = at + header.size
            next_offset = header.next_offset
    except BadBatchError as error:
        problem = f"at offset {error.offset}, position {error.position}: {error.reason}"
        return Finding(path, batches, position, next_offset, problem, error.position), epoch
    finally:
        file.close()
    return Finding(path, batches, position, next_offset, "", -1), epoch
