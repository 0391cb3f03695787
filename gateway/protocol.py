"""The APIs that the listener offers, each with its versions; and their codecs, made when they are first used.

The schemas are kafka-python's. They are imported with the first request, not with the node: that takes 0.3 s.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..errors import InvalidRequestError, UnsupportedVersionError
from .decoding import Cursor, compile_reader, within
from .encoding import compile_writer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .decoding import Message

CLIENT_ID_BYTES_MAX: Final = 1024
"""As for native clients: it stands in what is written down of groups."""
HEADER: Final = Struct(">hhi")
"""API key, API version, correlation id."""
_SCHEMA_MODULES: Final = ("producer", "consumer", "metadata", "admin")


class Api(NamedTuple):
    """One API, and the versions of it that are offered."""

    key: int
    name: str
    low: int
    high: int


PRODUCE, FETCH, LIST_OFFSETS, METADATA = 0, 1, 2, 3
OFFSET_COMMIT, OFFSET_FETCH, FIND_COORDINATOR = 8, 9, 10
JOIN_GROUP, HEARTBEAT, LEAVE_GROUP, SYNC_GROUP = 11, 12, 13, 14
DESCRIBE_GROUPS, LIST_GROUPS, API_VERSIONS = 15, 16, 18
CREATE_TOPICS, DELETE_TOPICS, DELETE_RECORDS, INIT_PRODUCER_ID, OFFSET_FOR_LEADER_EPOCH = 19, 20, 21, 22, 23
ADD_PARTITIONS_TO_TXN, ADD_OFFSETS_TO_TXN, END_TXN, TXN_OFFSET_COMMIT = 24, 25, 26, 28
DESCRIBE_CONFIGS, ALTER_CONFIGS, DESCRIBE_LOG_DIRS, CREATE_PARTITIONS = 32, 33, 35, 37
DELETE_GROUPS, ELECT_LEADERS, INCREMENTAL_ALTER_CONFIGS = 42, 43, 44
ALTER_PARTITION_REASSIGNMENTS, LIST_PARTITION_REASSIGNMENTS, OFFSET_DELETE = 45, 46, 47
DESCRIBE_QUORUM, DESCRIBE_CLUSTER, DESCRIBE_TOPIC_PARTITIONS = 55, 60, 75
DESCRIBE_PRODUCERS, DESCRIBE_TRANSACTIONS, LIST_TRANSACTIONS = 61, 65, 66

APIS: Final[Mapping[int, Api]] = {
    api.key: api
    for api in (
        Api(PRODUCE, "Produce", 3, 9),
        Api(FETCH, "Fetch", 4, 12),
        Api(LIST_OFFSETS, "ListOffsets", 1, 7),
        Api(METADATA, "Metadata", 0, 12),
        Api(OFFSET_COMMIT, "OffsetCommit", 2, 9),
        Api(OFFSET_FETCH, "OffsetFetch", 1, 9),
        Api(FIND_COORDINATOR, "FindCoordinator", 0, 4),
        Api(JOIN_GROUP, "JoinGroup", 0, 7),
        Api(HEARTBEAT, "Heartbeat", 0, 4),
        Api(LEAVE_GROUP, "LeaveGroup", 0, 5),
        Api(SYNC_GROUP, "SyncGroup", 0, 5),
        Api(DESCRIBE_GROUPS, "DescribeGroups", 0, 5),
        Api(LIST_GROUPS, "ListGroups", 0, 4),
        Api(API_VERSIONS, "ApiVersions", 0, 4),
        Api(CREATE_TOPICS, "CreateTopics", 2, 7),
        Api(DELETE_TOPICS, "DeleteTopics", 1, 6),
        Api(DELETE_RECORDS, "DeleteRecords", 0, 2),
        Api(INIT_PRODUCER_ID, "InitProducerId", 0, 4),
        Api(OFFSET_FOR_LEADER_EPOCH, "OffsetForLeaderEpoch", 2, 4),
        Api(ADD_PARTITIONS_TO_TXN, "AddPartitionsToTxn", 0, 3),
        Api(ADD_OFFSETS_TO_TXN, "AddOffsetsToTxn", 0, 3),
        Api(END_TXN, "EndTxn", 0, 3),
        Api(TXN_OFFSET_COMMIT, "TxnOffsetCommit", 0, 3),
        Api(DESCRIBE_CONFIGS, "DescribeConfigs", 1, 4),
        Api(ALTER_CONFIGS, "AlterConfigs", 0, 2),
        Api(DESCRIBE_LOG_DIRS, "DescribeLogDirs", 1, 4),
        Api(CREATE_PARTITIONS, "CreatePartitions", 0, 3),
        Api(DELETE_GROUPS, "DeleteGroups", 0, 2),
        Api(ELECT_LEADERS, "ElectLeaders", 0, 2),
        Api(ALTER_PARTITION_REASSIGNMENTS, "AlterPartitionReassignments", 0, 0),
        Api(LIST_PARTITION_REASSIGNMENTS, "ListPartitionReassignments", 0, 0),
        Api(DESCRIBE_QUORUM, "DescribeQuorum", 0, 2),
        Api(DESCRIBE_TOPIC_PARTITIONS, "DescribeTopicPartitions", 0, 0),
        Api(INCREMENTAL_ALTER_CONFIGS, "IncrementalAlterConfigs", 0, 1),
        Api(OFFSET_DELETE, "OffsetDelete", 0, 0),
        Api(DESCRIBE_CLUSTER, "DescribeCluster", 0, 0),
        Api(DESCRIBE_PRODUCERS, "DescribeProducers", 0, 0),
        Api(DESCRIBE_TRANSACTIONS, "DescribeTransactions", 0, 0),
        Api(LIST_TRANSACTIONS, "ListTransactions", 0, 1),
    )
}
"""By key."""

LOWEST_TOLD: Final[Mapping[int, int]] = {PRODUCE: 0}
"""What ApiVersions tells as the lowest version, where that is not the lowest that is served: librdkafka compresses only
if it is offered version 0 of Produce, which it does not use."""


class RequestHeader(NamedTuple):
    """What stands before each request."""

    api: Api
    version: int
    correlation_id: int
    client_id: str | None
    body_at: int


class UnknownApiError(UnsupportedVersionError):
    """An API, or a version of one, that is not served; it carries what could be read of the header."""

    def __init__(self, message: str, key: int, correlation_id: int) -> None:
        super().__init__(message)
        self.key = key
        self.correlation_id = correlation_id


class Codec(NamedTuple):
    """How one version of an API is read and written."""

    read: Callable[[Cursor], Message]
    write: Callable[[bytearray, Mapping[str, Any]], None]


def schema_of(name: str) -> Mapping[str, Any]:
    """The JSON schema of a message, such as ``FetchRequest``."""
    for module in _SCHEMA_MODULES:
        found = getattr(import_module(f"kafka.protocol.{module}"), name, None)
        if found is not None:
            schema: Mapping[str, Any] = found.json
            return schema
    message = f"kafka-python knows no {name}"
    raise LookupError(message)


@cache
def codec(key: int, version: int) -> Codec:
    """The codec of one version of an API."""
    name = APIS[key].name
    read = compile_reader(schema_of(f"{name}Request"), version)
    return Codec(read, compile_writer(schema_of(f"{name}Response"), version))


@cache
def is_flexible(key: int, version: int) -> bool:
    """Whether a version of an API has tagged fields, and so the newer headers."""
    return within(version, schema_of(f"{APIS[key].name}Request")["flexibleVersions"])


def read_header(frame: bytes | bytearray) -> RequestHeader:
    """Read what stands before a request. Raises InvalidRequestError, or UnknownApiError."""
    if len(frame) < HEADER.size + 2:
        message = f"a request has {len(frame)} bytes, and its header alone has {HEADER.size + 2}"
        raise InvalidRequestError(message)
    key, version, correlation_id = HEADER.unpack_from(frame)
    api = APIS.get(key)
    if api is None:
        message = f"API {key} is none that is served here"
        raise UnknownApiError(message, key, correlation_id)
    if not api.low <= version <= api.high:
        message = f"version {version} of {api.name} is not served: versions {api.low} to {api.high} are"
        raise UnknownApiError(message, key, correlation_id)
    cursor = Cursor(frame, HEADER.size + 2)
    length = int.from_bytes(frame[HEADER.size : HEADER.size + 2], "big", signed=True)
    client_id = None
    if length > CLIENT_ID_BYTES_MAX:
        message = f"the client id is {length} bytes long, and {CLIENT_ID_BYTES_MAX} are allowed"
        raise InvalidRequestError(message)
    if length >= 0:
        start = cursor.take(length)
        client_id = str(cursor.data[start : start + length], "utf-8", "replace")
    if is_flexible(key, version):
        for _ in range(cursor.count(cursor.varint())):
            cursor.varint()
            cursor.take(cursor.varint())
    return RequestHeader(api, version, correlation_id, client_id, cursor.position)


def begin_response(header: RequestHeader) -> bytearray:
    """The beginning of a response: room for its length, and its header."""
    out = bytearray(4)
    out += header.correlation_id.to_bytes(4, "big", signed=True)
    if header.api.key != API_VERSIONS and is_flexible(header.api.key, header.version):
        out.append(0)
    return out


def end_response(out: bytearray, more_bytes: int = 0) -> bytearray:
    """Put the length of a response before it; more_bytes follow in buffers of their own."""
    out[:4] = (len(out) - 4 + more_bytes).to_bytes(4, "big")
    return out
