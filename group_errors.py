"""The errors of consumer groups and queues. Codes and names are Kafka's, as in errors.py."""

from __future__ import annotations

from .error_base import BrokerError, RetriableError


class OffsetMetadataTooLargeError(BrokerError):
    """The metadata of an offset commit is longer than allowed."""

    code = 12
    name = "OFFSET_METADATA_TOO_LARGE"


class CoordinatorLoadInProgressError(RetriableError):
    """The coordinator is still reading its log."""

    code = 14
    name = "COORDINATOR_LOAD_IN_PROGRESS"


class CoordinatorNotAvailableError(RetriableError):
    """The coordinator is not available at the moment."""

    code = 15
    name = "COORDINATOR_NOT_AVAILABLE"


class NotCoordinatorError(RetriableError):
    """This node is not the coordinator."""

    code = 16
    name = "NOT_COORDINATOR"


class IllegalGenerationError(BrokerError):
    """The member speaks of another generation of its group than the present one."""

    code = 22
    name = "ILLEGAL_GENERATION"


class InconsistentGroupProtocolError(BrokerError):
    """The group is of another kind, or no protocol of the member is one of all members."""

    code = 23
    name = "INCONSISTENT_GROUP_PROTOCOL"


class InvalidGroupIdError(BrokerError):
    """The group id is not allowed."""

    code = 24
    name = "INVALID_GROUP_ID"


class UnknownMemberIdError(BrokerError):
    """The group has no such member now."""

    code = 25
    name = "UNKNOWN_MEMBER_ID"


class InvalidSessionTimeoutError(BrokerError):
    """The session time-out is outside of what the broker allows."""

    code = 26
    name = "INVALID_SESSION_TIMEOUT"


class RebalanceInProgressError(BrokerError):
    """The group is rebalancing: its members have to join again."""

    code = 27
    name = "REBALANCE_IN_PROGRESS"


class InvalidCommitOffsetSizeError(BrokerError):
    """The commit makes a record larger than the log takes."""

    code = 28
    name = "INVALID_COMMIT_OFFSET_SIZE"


class NonEmptyGroupError(BrokerError):
    """The group has members."""

    code = 68
    name = "NON_EMPTY_GROUP"


class GroupIdNotFoundError(BrokerError):
    """There is no such group."""

    code = 69
    name = "GROUP_ID_NOT_FOUND"


class MemberIdRequiredError(BrokerError):
    """The member has to join again with the id that it was given."""

    code = 79
    name = "MEMBER_ID_REQUIRED"


class GroupMaxSizeReachedError(BrokerError):
    """The group has as many members as it may have."""

    code = 81
    name = "GROUP_MAX_SIZE_REACHED"


class FencedInstanceIdError(BrokerError):
    """Another member has taken over this group instance id."""

    code = 82
    name = "FENCED_INSTANCE_ID"


class GroupSubscribedToTopicError(BrokerError):
    """The group is subscribed to the topic."""

    code = 86
    name = "GROUP_SUBSCRIBED_TO_TOPIC"


class InvalidRecordStateError(BrokerError):
    """The record is not leased to this consumer (any more), so that it cannot decide about it."""

    code = 121
    name = "INVALID_RECORD_STATE"
