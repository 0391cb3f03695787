"""Metadata records: what stands in ``__cluster_metadata-0``, one msgpack array a record, tagged by its type.

The image of the cluster is the fold of these records, live and at start alike (KIP-631).
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from ..errors import CorruptMessageError


class _Record(msgspec.Struct, array_like=True, tag=True, forbid_unknown_fields=False):
    """Base of the records; a later version may add fields at the end, which this one then ignores."""


class RegisterNode(_Record):
    """A node has started; its epoch is the offset of this record."""

    node_id: int
    host: str
    port: int
    rack: str
    clean: bool
    """Whether it had stopped cleanly before: then its logs hold all that they held."""


class CreateTopic(_Record):
    """A topic begins; its partitions follow."""

    name: str
    topic_id: str


class RemoveTopic(_Record):
    """A topic, its partitions and its settings end."""

    name: str


class SetPartition(_Record):
    """A partition begins, or its state changes as a whole."""

    topic: str
    partition: int
    replicas: list[int]
    isr: list[int]
    leader: int
    leader_epoch: int


class SetConfig(_Record):
    """A setting of a resource changes; a value of nil takes it back to the default."""

    resource_type: int
    resource_name: str
    key: str
    value: str | None


class NextProducerId(_Record):
    """Producer ids below this one have been given out."""

    producer_id: int


MetadataRecord: TypeAlias = RegisterNode | CreateTopic | RemoveTopic | SetPartition | SetConfig | NextProducerId

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[MetadataRecord] = msgspec.msgpack.Decoder(MetadataRecord)


def encode(record: MetadataRecord) -> bytes:
    """A record's value as it stands in the log."""
    return _encoder.encode(record)


def decode(value: bytes) -> MetadataRecord:
    """The record of a value; CorruptMessageError if it is none that this version knows."""
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"a metadata record of {len(value)} bytes cannot be read: {error}"
        raise CorruptMessageError(message) from error
