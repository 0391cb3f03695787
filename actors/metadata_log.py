"""The metadata log: the partition ``__cluster_metadata-0`` that a cluster's metadata records stand in.

One batch holds the records of one decision, so that all of them count or none. At start the records are read back and
folded into the image; nothing else is state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InvalidRequestError, ZmqBrokerError
from ..log.batch import read_header
from ..log.plain_records import decode_batch, encode_batch
from ..log.staging import Appended
from ..quorum import records
from ..quorum.image import METADATA_TOPIC, MetadataImage, apply
from ..settings import TopicConfig
from ..transport.config_messages import TOPIC_RESOURCE

if TYPE_CHECKING:
    from ..log.data_folder import DataFolder
    from ..log.flush import FlushJob
    from ..log.partition_log import PartitionLog

METADATA_PARTITION = f"{METADATA_TOPIC}-0"
_READ_BYTES = 1024 * 1024
_MAX_BATCH_BYTES = 8 * 1024 * 1024


class MetadataDamagedError(ZmqBrokerError):
    """The metadata log cannot be read to its end. Starting without the rest would look like deleted topics."""


class MetadataLog:
    """The log and the image that it makes, appended records included whether they are flushed or not."""

    def __init__(self, folder: DataFolder, now_ms: int) -> None:
        self._folder = folder
        config = TopicConfig(retention_ms=-1, max_message_bytes=_MAX_BATCH_BYTES)
        self._log: PartitionLog = folder.open_log(METADATA_PARTITION, config, now_ms)
        self.image = MetadataImage()
        try:
            self._replay_all()
        except ZmqBrokerError as error:
            message = (
                f"the metadata log is damaged: {error.message}; put back {METADATA_PARTITION} from a copy of the folder"
            )
            raise MetadataDamagedError(message) from error

    def _replay_all(self) -> None:
        log = self._log
        if log.damage is not None:
            raise MetadataDamagedError(str(log.damage))
        offset = log.log_start_offset
        while data := log.read(offset, _READ_BYTES):
            position = 0
            while position < len(data):
                header = read_header(data, position)
                batch = data[position : position + header.size]
                self._replay([records.decode(record.value or b"") for record in decode_batch(batch)])
                position += header.size
                offset = header.next_offset

    def _replay(self, changes: list[records.MetadataRecord]) -> None:
        self.image = apply(self.image, changes, TOPIC_RESOURCE)
        assert self.image.end_offset <= self._log.log_end_offset, "the metadata image is ahead of its log"

    @property
    def committed_offset(self) -> int:
        """The offset below which all is flushed; this node is the whole quorum, so that is committed."""
        return self._log.flushed_offset

    def append(self, changes: list[records.MetadataRecord], now_ms: int) -> None:
        """Append records and apply them to the image; all or none.

        Raises StorageError if the disk refuses, InvalidRequestError if the change is larger than one batch may be.
        """
        batch = encode_batch([(now_ms, None, records.encode(change), ()) for change in changes])
        if len(batch) > _MAX_BATCH_BYTES:
            message = (
                f"the change makes {len(batch)} bytes of metadata; one request may make {_MAX_BATCH_BYTES}: split it"
            )
            raise InvalidRequestError(message)
        (result,) = self._log.append([(read_header(batch), batch)], leader_epoch=0, now_ms=now_ms)
        if not isinstance(result, Appended):
            raise result
        assert result.base_offset == self.image.end_offset, "the metadata log and its image have come apart"
        self._replay(changes)

    def start_flush(self) -> FlushJob | None:
        """What has to be flushed for everything appended to be committed; None if it is."""
        return self._log.start_flush()

    def finish_flush(self, job: FlushJob) -> None:
        """Count what the job flushed as committed."""
        self._log.finish_flush(job)

    def close(self) -> None:
        """Flush and close."""
        self._folder.close_log(METADATA_PARTITION)
