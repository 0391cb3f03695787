"""The catalogue: every request of the native protocol by its API number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .cluster_messages import CLUSTER_REQUESTS
from .config_messages import (
    AlterConfigsRequest,
    DescribeConfigsRequest,
)
from .group_messages import (
    DeleteGroupsRequest,
    DescribeGroupsRequest,
    FindCoordinatorRequest,
    GroupEventsRequest,
    HeartbeatRequest,
    JoinGroupRequest,
    LeaveGroupRequest,
    ListGroupsRequest,
    OffsetCommitRequest,
    OffsetDeleteRequest,
    OffsetFetchRequest,
    SyncGroupRequest,
)
from .messages import (
    ApiVersionsRequest,
    CloseRequest,
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteRecordsRequest,
    DeleteTopicsRequest,
    DescribeLogDirsRequest,
    FetchRequest,
    InitProducerIdRequest,
    ListOffsetsRequest,
    MetadataRequest,
    NodeStatusRequest,
    OffsetForLeaderEpochRequest,
    ProduceRequest,
)
from .peer_messages import PEER_REQUESTS
from .quorum_messages import QUORUM_REQUESTS
from .share_messages import (
    AlterShareOffsetsRequest,
    DeleteShareGroupRequest,
    DescribeShareGroupsRequest,
    ShareAcknowledgeRequest,
    ShareFetchRequest,
    ShareStatesRequest,
)
from .transaction_messages import TRANSACTION_REQUESTS

if TYPE_CHECKING:
    from .message_base import Request

_ALL: tuple[type[Request], ...] = (
    ProduceRequest,
    FetchRequest,
    ListOffsetsRequest,
    MetadataRequest,
    ApiVersionsRequest,
    CloseRequest,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    CreatePartitionsRequest,
    DeleteRecordsRequest,
    InitProducerIdRequest,
    OffsetForLeaderEpochRequest,
    DescribeLogDirsRequest,
    NodeStatusRequest,
    AlterConfigsRequest,
    DescribeConfigsRequest,
    FindCoordinatorRequest,
    JoinGroupRequest,
    SyncGroupRequest,
    HeartbeatRequest,
    LeaveGroupRequest,
    OffsetCommitRequest,
    OffsetFetchRequest,
    OffsetDeleteRequest,
    DescribeGroupsRequest,
    ListGroupsRequest,
    DeleteGroupsRequest,
    GroupEventsRequest,
    ShareFetchRequest,
    ShareAcknowledgeRequest,
    DescribeShareGroupsRequest,
    AlterShareOffsetsRequest,
    DeleteShareGroupRequest,
    ShareStatesRequest,
    *QUORUM_REQUESTS,
    *PEER_REQUESTS,
    *CLUSTER_REQUESTS,
    *TRANSACTION_REQUESTS,
)

REQUESTS = {cls.API: cls for cls in _ALL}
"""Request type by API number."""
assert len(REQUESTS) == len(_ALL), "two requests have one API number"
