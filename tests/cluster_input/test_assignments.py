"""Replicas that cannot be: more than there are nodes, unknown ones, one twice; and more in sync than replicas."""

from __future__ import annotations

import pytest
from zmqbroker.transport.cluster_messages import (
    AlterPartitionReassignmentsRequest,
    DrainNodeRequest,
    ElectLeadersRequest,
    Reassignment,
    RemoveNodeRequest,
    UpgradeClusterRequest,
)
from zmqbroker.transport.config_messages import TOPIC_RESOURCE, AlterConfigsRequest, ResourceChange
from zmqbroker.transport.messages import CreatePartitionsRequest, CreateTopicsRequest, NewTopic, PartitionCount

ASSIGNMENT, FACTOR = "INVALID_REPLICA_ASSIGNMENT", "INVALID_REPLICATION_FACTOR"


def create(**given):
    return CreateTopicsRequest([NewTopic("new", **given)], 5_000)


def move(*replicas, topic="t", partition=0):
    return AlterPartitionReassignmentsRequest([Reassignment(topic, partition, list(replicas))], 5_000)


REFUSED = [
    (create(partitions=1, replication_factor=4), FACTOR, "3"),
    (create(partitions=1, replication_factor=2**15 - 1), FACTOR, "3"),
    (create(partitions=1, replication_factor=0), FACTOR, ""),
    (create(partitions=1, replication_factor=-2), FACTOR, ""),
    (create(assignments=[[1, 9]]), ASSIGNMENT, "9"),
    (create(assignments=[[1, 1]]), ASSIGNMENT, "1"),
    (create(assignments=[[-1]]), ASSIGNMENT, "-1"),
    (create(assignments=[[]]), ASSIGNMENT, ""),
    (create(assignments=[[1, 2], [1]]), ASSIGNMENT, ""),
    (
        create(partitions=1, replication_factor=2, configs=[("min.insync.replicas", "3")]),
        "INVALID_CONFIG",
        "min.insync",
    ),
    (create(assignments=[[1, 2]], configs=[("min.insync.replicas", "3")]), "INVALID_CONFIG", "min.insync"),
    (move(1, 9), ASSIGNMENT, "9"),
    (move(1, 1), ASSIGNMENT, "1"),
    (move(1, 2, 3, 4), ASSIGNMENT, "4"),
    (move(), ASSIGNMENT, ""),
    (move(-(2**31)), ASSIGNMENT, ""),
    (move(1, topic="none"), "UNKNOWN_TOPIC_OR_PARTITION", "none"),
    (move(1, partition=7), "UNKNOWN_TOPIC_OR_PARTITION", "7"),
    (ElectLeadersRequest([("none", 0)]), "UNKNOWN_TOPIC_OR_PARTITION", "none"),
    (ElectLeadersRequest([("t", 0)]), "ELECTION_NOT_NEEDED", ""),
    (ElectLeadersRequest([("t", 0)], unclean=True), "ELECTION_NOT_NEEDED", ""),
    (CreatePartitionsRequest([PartitionCount("t", 1)], 5_000), "INVALID_PARTITIONS", ""),
    (DrainNodeRequest(9), "BROKER_ID_NOT_REGISTERED", "9"),
    (DrainNodeRequest(3), FACTOR, ""),
    (RemoveNodeRequest(9), "BROKER_ID_NOT_REGISTERED", "9"),
    (RemoveNodeRequest(3), "POLICY_VIOLATION", "3"),
    (
        AlterConfigsRequest([ResourceChange(TOPIC_RESOURCE, "t", [("min.insync.replicas", "4")])]),
        "INVALID_CONFIG",
        "min.insync.replicas",
    ),
    (UpgradeClusterRequest(1), "UNSUPPORTED_VERSION", "0 to 0"),
    (UpgradeClusterRequest(-1), "UNSUPPORTED_VERSION", ""),
    (UpgradeClusterRequest(2**31 - 1), "UNSUPPORTED_VERSION", ""),
]


@pytest.mark.parametrize("to_controller", [True, False])
def test_what_the_nodes_cannot_hold_is_refused(cluster, error_of, to_controller):
    cluster.assign("t", [1, 2, 3])
    cluster.leader("t").client().produce("t", b"x")
    controller = cluster.controller
    asked = controller if to_controller else next(node for node in cluster.alive() if node is not controller)
    client = asked.client()
    before = cluster.everything("t")
    for request, name, words in REFUSED:
        found, sentence = error_of(client.ask(request))
        assert (found, words in sentence) == (name, True), (request, found, sentence)
    assert cluster.everything("t") == before
