"""The errors of a cluster's inner life: nodes, quorum, replicas. Codes and names are Kafka's, as in errors.py."""

from __future__ import annotations

from .error_base import BrokerError, RetriableError


class BrokerNotAvailableError(RetriableError):
    """The node that is meant cannot be reached."""

    code = 8
    name = "BROKER_NOT_AVAILABLE"


class ReplicaNotAvailableError(RetriableError):
    """This replica cannot serve the partition at the moment."""

    code = 9
    name = "REPLICA_NOT_AVAILABLE"


class ClusterAuthorizationFailedError(BrokerError):
    """Only a node of the cluster may ask that."""

    code = 31
    name = "CLUSTER_AUTHORIZATION_FAILED"


class InvalidReplicaAssignmentError(BrokerError):
    """The replicas that were named cannot host the partition."""

    code = 39
    name = "INVALID_REPLICA_ASSIGNMENT"


class ReassignmentInProgressError(BrokerError):
    """The partition is being moved already."""

    code = 60
    name = "REASSIGNMENT_IN_PROGRESS"


class FetchSessionIdNotFoundError(RetriableError):
    """The leader does not know the session of this fetch: begin a new one."""

    code = 70
    name = "FETCH_SESSION_ID_NOT_FOUND"


class InvalidFetchSessionEpochError(RetriableError):
    """The fetch is not the next one of its session."""

    code = 71
    name = "INVALID_FETCH_SESSION_EPOCH"


class StaleBrokerEpochError(BrokerError):
    """The node has registered anew since: what says this comes from before."""

    code = 77
    name = "STALE_BROKER_EPOCH"


class PreferredLeaderNotAvailableError(RetriableError):
    """The preferred leader is not in sync, or not there."""

    code = 80
    name = "PREFERRED_LEADER_NOT_AVAILABLE"


class OffsetNotAvailableError(RetriableError):
    """The leader is new and does not know yet what is committed, or a follower does not have the offset yet."""

    code = 78
    name = "OFFSET_NOT_AVAILABLE"


class EligibleLeadersNotAvailableError(RetriableError):
    """No replica that has every committed record is there."""

    code = 83
    name = "ELIGIBLE_LEADERS_NOT_AVAILABLE"


class ElectionNotNeededError(BrokerError):
    """The partition is led by its preferred leader already."""

    code = 84
    name = "ELECTION_NOT_NEEDED"


class NoReassignmentInProgressError(BrokerError):
    """The partition is not being moved."""

    code = 85
    name = "NO_REASSIGNMENT_IN_PROGRESS"


class InconsistentVoterSetError(BrokerError):
    """This node and the sender do not agree on who votes."""

    code = 94
    name = "INCONSISTENT_VOTER_SET"


class InvalidUpdateVersionError(RetriableError):
    """The change is based on a state of the partition that is out of date."""

    code = 95
    name = "INVALID_UPDATE_VERSION"


class SnapshotNotFoundError(RetriableError):
    """The snapshot that was asked for is not there any more."""

    code = 98
    name = "SNAPSHOT_NOT_FOUND"


class PositionOutOfRangeError(BrokerError):
    """The snapshot has no such position."""

    code = 99
    name = "POSITION_OUT_OF_RANGE"


class UnknownTopicIdError(RetriableError):
    """No topic has this id."""

    code = 100
    name = "UNKNOWN_TOPIC_ID"


class DuplicateBrokerRegistrationError(BrokerError):
    """Another process has this node id and is alive."""

    code = 101
    name = "DUPLICATE_BROKER_REGISTRATION"


class BrokerIdNotRegisteredError(RetriableError):
    """No node of this id is in the cluster."""

    code = 102
    name = "BROKER_ID_NOT_REGISTERED"


class InconsistentTopicIdError(RetriableError):
    """The topic of this name has another id."""

    code = 103
    name = "INCONSISTENT_TOPIC_ID"


class IneligibleReplicaError(BrokerError):
    """A replica that shall be in sync is fenced, stopping, or has another epoch."""

    code = 107
    name = "INELIGIBLE_REPLICA"


class NewLeaderElectedError(RetriableError):
    """The change has moved the leader to another node."""

    code = 108
    name = "NEW_LEADER_ELECTED"


class DuplicateVoterError(BrokerError):
    """The node votes already."""

    code = 126
    name = "DUPLICATE_VOTER"


class VoterNotFoundError(BrokerError):
    """The node does not vote."""

    code = 127
    name = "VOTER_NOT_FOUND"
