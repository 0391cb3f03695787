"""Every error of zmqbroker, with Kafka's code and name for it.

The tree::

    ZmqBrokerError
    |-- BrokerError                 answered by a broker: has Kafka's code and name, may be retriable
    |   |-- RetriableError          the same request may succeed later, perhaps at another node
    |   `-- ...                     one class for each of Kafka's error codes that this broker uses
    `-- ClientError                 raised by the client library without asking a broker
        |-- BufferTimeoutError      the producer's buffer stayed full for max_block_ms
        |-- ClosedError             the producer, consumer or admin was closed
        |-- CommitFailedError       the group went on without this consumer before its commit came
        |-- ConfigError             a setting is unknown or its value out of range
        |-- IllegalStateError       the method cannot be called now
        `-- TransactionAbortedError  the transaction was aborted before the record was acknowledged

Codes are those of Kafka's protocol guide (``org.apache.kafka.common.protocol.Errors``), so that the Kafka listener can
pass them on unchanged. A message is one sentence that says what was wrong, with both values in it, and what to do.
"""

from __future__ import annotations

from .cluster_errors import (
    BrokerIdNotRegisteredError,
    BrokerNotAvailableError,
    ClusterAuthorizationFailedError,
    DuplicateBrokerRegistrationError,
    DuplicateVoterError,
    ElectionNotNeededError,
    EligibleLeadersNotAvailableError,
    FetchSessionIdNotFoundError,
    InconsistentTopicIdError,
    InconsistentVoterSetError,
    IneligibleReplicaError,
    InvalidFetchSessionEpochError,
    InvalidReplicaAssignmentError,
    InvalidUpdateVersionError,
    NewLeaderElectedError,
    NoReassignmentInProgressError,
    OffsetNotAvailableError,
    PositionOutOfRangeError,
    PreferredLeaderNotAvailableError,
    ReassignmentInProgressError,
    ReplicaNotAvailableError,
    SnapshotNotFoundError,
    StaleBrokerEpochError,
    UnknownTopicIdError,
    VoterNotFoundError,
)
from .error_base import (
    BrokerError,
    BufferTimeoutError,
    ClientError,
    ClosedError,
    CommitFailedError,
    ConfigError,
    IllegalStateError,
    RetriableError,
    TransactionAbortedError,
    ZmqBrokerError,
)
from .group_errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    FencedInstanceIdError,
    GroupIdNotFoundError,
    GroupMaxSizeReachedError,
    GroupSubscribedToTopicError,
    IllegalGenerationError,
    InconsistentGroupProtocolError,
    InvalidCommitOffsetSizeError,
    InvalidGroupIdError,
    InvalidRecordStateError,
    InvalidSessionTimeoutError,
    MemberIdRequiredError,
    NonEmptyGroupError,
    NotCoordinatorError,
    OffsetMetadataTooLargeError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from .transaction_errors import (
    ConcurrentTransactionsError,
    InvalidProducerIdMappingError,
    InvalidTransactionTimeoutError,
    InvalidTxnStateError,
    OperationNotAttemptedError,
    ProducerFencedError,
    TransactionalIdNotFoundError,
    TransactionCoordinatorFencedError,
    UnstableOffsetCommitError,
)

__all__ = [
    "BY_CODE",
    "BrokerError",
    "BrokerIdNotRegisteredError",
    "BrokerNotAvailableError",
    "BufferTimeoutError",
    "ClientError",
    "ClosedError",
    "ClusterAuthorizationFailedError",
    "CommitFailedError",
    "ConcurrentTransactionsError",
    "ConfigError",
    "CoordinatorLoadInProgressError",
    "CoordinatorNotAvailableError",
    "CorruptMessageError",
    "DuplicateBrokerRegistrationError",
    "DuplicateSequenceError",
    "DuplicateVoterError",
    "ElectionNotNeededError",
    "EligibleLeadersNotAvailableError",
    "FencedInstanceIdError",
    "FencedLeaderEpochError",
    "FetchSessionIdNotFoundError",
    "GroupIdNotFoundError",
    "GroupMaxSizeReachedError",
    "GroupSubscribedToTopicError",
    "IllegalGenerationError",
    "IllegalStateError",
    "InconsistentClusterIdError",
    "InconsistentGroupProtocolError",
    "InconsistentTopicIdError",
    "InconsistentVoterSetError",
    "IneligibleReplicaError",
    "InvalidCommitOffsetSizeError",
    "InvalidConfigError",
    "InvalidFetchSessionEpochError",
    "InvalidGroupIdError",
    "InvalidPartitionsError",
    "InvalidProducerEpochError",
    "InvalidProducerIdMappingError",
    "InvalidRecordError",
    "InvalidRecordStateError",
    "InvalidReplicaAssignmentError",
    "InvalidReplicationFactorError",
    "InvalidRequestError",
    "InvalidRequiredAcksError",
    "InvalidSessionTimeoutError",
    "InvalidTimestampError",
    "InvalidTopicError",
    "InvalidTransactionTimeoutError",
    "InvalidTxnStateError",
    "InvalidUpdateVersionError",
    "LeaderNotAvailableError",
    "MemberIdRequiredError",
    "MessageTooLargeError",
    "NetworkError",
    "NewLeaderElectedError",
    "NoReassignmentInProgressError",
    "NonEmptyGroupError",
    "NotControllerError",
    "NotCoordinatorError",
    "NotEnoughReplicasAfterAppendError",
    "NotEnoughReplicasError",
    "NotLeaderOrFollowerError",
    "OffsetMetadataTooLargeError",
    "OffsetNotAvailableError",
    "OffsetOutOfRangeError",
    "OperationNotAttemptedError",
    "OutOfOrderSequenceError",
    "PolicyViolationError",
    "PositionOutOfRangeError",
    "PreferredLeaderNotAvailableError",
    "ProducerFencedError",
    "ReassignmentInProgressError",
    "RebalanceInProgressError",
    "RecordListTooLargeError",
    "ReplicaNotAvailableError",
    "RequestTimedOutError",
    "RetriableError",
    "SnapshotNotFoundError",
    "StaleBrokerEpochError",
    "StorageError",
    "ThrottlingQuotaExceededError",
    "TopicExistsError",
    "TransactionAbortedError",
    "TransactionCoordinatorFencedError",
    "TransactionalIdNotFoundError",
    "UnknownLeaderEpochError",
    "UnknownMemberIdError",
    "UnknownProducerIdError",
    "UnknownServerError",
    "UnknownTopicIdError",
    "UnknownTopicOrPartitionError",
    "UnstableOffsetCommitError",
    "UnsupportedCompressionError",
    "UnsupportedVersionError",
    "VoterNotFoundError",
    "ZmqBrokerError",
    "error_for",
]


class UnknownServerError(BrokerError):
    """The broker met an error that it has no name for."""


class OffsetOutOfRangeError(BrokerError):
    """The offset lies outside of the log."""

    code = 1
    name = "OFFSET_OUT_OF_RANGE"


class CorruptMessageError(RetriableError):
    """The batch failed its CRC, or its size or layout is not valid."""

    code = 2
    name = "CORRUPT_MESSAGE"


class UnknownTopicOrPartitionError(RetriableError):
    """This node hosts no such topic or partition."""

    code = 3
    name = "UNKNOWN_TOPIC_OR_PARTITION"


class LeaderNotAvailableError(RetriableError):
    """The partition has no leader at the moment."""

    code = 5
    name = "LEADER_NOT_AVAILABLE"


class NotLeaderOrFollowerError(RetriableError):
    """This node does not lead the partition."""

    code = 6
    name = "NOT_LEADER_OR_FOLLOWER"


class RequestTimedOutError(RetriableError):
    """The request was not completed within its time-out; whether it took effect is unknown."""

    code = 7
    name = "REQUEST_TIMED_OUT"


class MessageTooLargeError(BrokerError):
    """The batch is larger than the topic allows."""

    code = 10
    name = "MESSAGE_TOO_LARGE"


class NetworkError(RetriableError):
    """The connection broke before the answer came; whether the request took effect is unknown."""

    code = 13
    name = "NETWORK_EXCEPTION"


class InvalidTopicError(BrokerError):
    """The topic's name is not allowed."""

    code = 17
    name = "INVALID_TOPIC_EXCEPTION"


class RecordListTooLargeError(BrokerError):
    """The request holds more record data than a segment can take."""

    code = 18
    name = "RECORD_LIST_TOO_LARGE"


class NotEnoughReplicasError(RetriableError):
    """Fewer replicas are in sync than min.insync.replicas asks for; nothing was appended."""

    code = 19
    name = "NOT_ENOUGH_REPLICAS"


class NotEnoughReplicasAfterAppendError(RetriableError):
    """The batch was appended, then replicas fell out of sync; whether it stays is unknown."""

    code = 20
    name = "NOT_ENOUGH_REPLICAS_AFTER_APPEND"


class InvalidRequiredAcksError(BrokerError):
    """acks is none of 0, 1 and -1 (all)."""

    code = 21
    name = "INVALID_REQUIRED_ACKS"


class InvalidTimestampError(BrokerError):
    """A record's timestamp is too far from the broker's clock."""

    code = 32
    name = "INVALID_TIMESTAMP"


class UnsupportedVersionError(BrokerError):
    """The broker does not speak this version of the API, or not this API."""

    code = 35
    name = "UNSUPPORTED_VERSION"


class TopicExistsError(BrokerError):
    """A topic of this name exists already."""

    code = 36
    name = "TOPIC_ALREADY_EXISTS"


class InvalidPartitionsError(BrokerError):
    """The number of partitions is not allowed."""

    code = 37
    name = "INVALID_PARTITIONS"


class InvalidReplicationFactorError(BrokerError):
    """The replication factor is below 1 or above the number of nodes."""

    code = 38
    name = "INVALID_REPLICATION_FACTOR"


class InvalidConfigError(BrokerError):
    """A setting is unknown, or its value is not allowed."""

    code = 40
    name = "INVALID_CONFIG"


class NotControllerError(RetriableError):
    """This node is not the controller."""

    code = 41
    name = "NOT_CONTROLLER"


class InvalidRequestError(BrokerError):
    """The request is malformed."""

    code = 42
    name = "INVALID_REQUEST"


class PolicyViolationError(BrokerError):
    """The request is well-formed but this broker's policy refuses it."""

    code = 44
    name = "POLICY_VIOLATION"


class OutOfOrderSequenceError(BrokerError):
    """The batch's sequence number is not the one that follows the producer's last."""

    code = 45
    name = "OUT_OF_ORDER_SEQUENCE_NUMBER"


class DuplicateSequenceError(BrokerError):
    """The batch was appended before, but too long ago for its offset to be known."""

    code = 46
    name = "DUPLICATE_SEQUENCE_NUMBER"


class InvalidProducerEpochError(BrokerError):
    """A newer incarnation of this producer id has fenced this one."""

    code = 47
    name = "INVALID_PRODUCER_EPOCH"


class StorageError(RetriableError):
    """The disk refused a read or a write."""

    code = 56
    name = "KAFKA_STORAGE_ERROR"


class UnknownProducerIdError(BrokerError):
    """The broker has no state for this producer id."""

    code = 59
    name = "UNKNOWN_PRODUCER_ID"


class FencedLeaderEpochError(RetriableError):
    """The request names an older leader epoch than the partition has."""

    code = 74
    name = "FENCED_LEADER_EPOCH"


class UnknownLeaderEpochError(RetriableError):
    """The request names a newer leader epoch than this node knows."""

    code = 75
    name = "UNKNOWN_LEADER_EPOCH"


class UnsupportedCompressionError(BrokerError):
    """The batch's compression is none of gzip, snappy, lz4 and zstd."""

    code = 76
    name = "UNSUPPORTED_COMPRESSION_TYPE"


class InvalidRecordError(BrokerError):
    """The batch is intact, but a client may not write what it holds."""

    code = 87
    name = "INVALID_RECORD"


class ThrottlingQuotaExceededError(RetriableError):
    """A quota is used up."""

    code = 89
    name = "THROTTLING_QUOTA_EXCEEDED"


class InconsistentClusterIdError(BrokerError):
    """The client or the folder belongs to another cluster."""

    code = 104
    name = "INCONSISTENT_CLUSTER_ID"


def _tree(root: type[BrokerError]) -> list[type[BrokerError]]:
    return [root, *(cls for child in root.__subclasses__() for cls in _tree(child))]


BY_CODE: dict[int, type[BrokerError]] = {cls.code: cls for cls in _tree(BrokerError) if cls.code != -1}


def error_for(code: int, message: str | None) -> BrokerError:
    """The exception for a code as it came off the wire; an unknown code becomes UnknownServerError naming it."""
    cls = BY_CODE.get(code)
    if cls is None:
        return UnknownServerError(message or f"the broker answered error code {code}, which has no name here")
    return cls(message or cls.__doc__ or cls.name)
