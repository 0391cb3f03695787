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
    directory_id: str = ""
    incarnation: str = ""
    """Different for each start of its process."""
    min_version: int = 0
    max_version: int = 0
    """The protocol versions that it speaks."""
    epoch: int = -1
    """The node's epoch; -1: the offset of this record. Only a snapshot says it."""
    kafka_host: str = ""
    kafka_port: int = 0
    """Where Kafka's clients reach it; port 0: nowhere."""
    former: str = ""
    """The incarnations before this one, with spaces between them; of each not the oldest."""


class SetNodeState(_Record):
    """A node is heard of or not, about to stop or not, to be emptied or not."""

    node_id: int
    fenced: bool
    stopping: bool
    draining: bool


class RemoveNode(_Record):
    """A node is no longer one of the cluster."""

    node_id: int


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
    """-1: nobody."""
    leader_epoch: int
    elr: list[int] = []
    """Replicas out of sync that hold every committed record (KIP-966)."""
    partition_epoch: int = -1
    """Counts the states of the partition; -1: one more than before."""
    adding: list[int] = []
    removing: list[int] = []
    """Replicas that come and go while the partition is being moved; both are among the replicas."""


class SetConfig(_Record):
    """A setting of a resource changes; a value of nil takes it back to the default."""

    resource_type: int
    resource_name: str
    key: str
    value: str | None


class NextProducerId(_Record):
    """Producer ids below this one have been given out."""

    producer_id: int


class NextNodeId(_Record):
    """Node ids below this one have been given out."""

    node_id: int


class LeaderChange(_Record):
    """A quorum epoch begins; the first record of its leader, by which what is before it is committed too (KIP-595)."""

    leader_id: int
    epoch: int


class NoOp(_Record):
    """Nothing changes. Once it is committed, whoever appended it knows that it led when it did (Kafka's NoOpRecord)."""


class SetVoters(_Record):
    """Who votes, from this record's append on: (node id, directory id) each (KIP-853)."""

    voters: list[tuple[int, str]]


class SetProtocolVersion(_Record):
    """The protocol version that the nodes may use among one another."""

    version: int


MetadataRecord: TypeAlias = (
    RegisterNode
    | SetNodeState
    | RemoveNode
    | CreateTopic
    | RemoveTopic
    | SetPartition
    | SetConfig
    | NextProducerId
    | NextNodeId
    | LeaderChange
    | NoOp
    | SetVoters
    | SetProtocolVersion
)

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
