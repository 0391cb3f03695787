"""Two of three nodes are killed: what needs a majority is refused in time and says so; what does not, goes on."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import zmq
from zmqbroker.actors.node import NodeAddress
from zmqbroker.errors import BrokerError, BrokerNotAvailableError, RequestTimedOutError
from zmqbroker.testing import LocalCluster
from zmqbroker.transport.cluster_messages import (
    AlterPartitionReassignmentsRequest,
    DescribeClusterRequest,
    ElectLeadersRequest,
    Reassignment,
)
from zmqbroker.transport.group_messages import (
    FindCoordinatorRequest,
    OffsetCommitRequest,
    OffsetFetchRequest,
    OffsetToCommit,
)
from zmqbroker.transport.messages import (
    CreateTopicsRequest,
    MetadataRequest,
    NewTopic,
    PartitionData,
    ProduceRequest,
)

TIMEOUT_MS = 1_000
SLACK_S = 2.0
OFFSETS = "__consumer_offsets"


class Processes:
    """Three nodes in processes of their own, and clients of theirs."""

    def __init__(self, cluster: LocalCluster, client_class: type, batch: Any) -> None:
        self.cluster = cluster
        self.folder = Path(cluster.data_dir)
        self.context = zmq.Context()
        self._client_class = client_class
        self._batch = batch
        self._clients: list[Any] = []
        self._watching: dict[int, Any] = {}

    def client(self, node_id: int) -> Any:
        host, port = self.cluster.nodes[node_id].bootstrap_servers.rsplit(":", 1)
        client = self._client_class(self.context, NodeAddress(host, int(port), node_id), {})
        self._clients.append(client)  # their sockets are closed with the context
        return client

    def watch_anew(self) -> None:
        """The nodes are other processes than before."""
        self._watching.clear()

    def produce(self, client: Any, topic: str, value: bytes, acks: int = -1) -> int:
        """The error code of one batch."""
        request = ProduceRequest(acks, TIMEOUT_MS, [PartitionData(topic, 0)])
        return client.call(request, self._batch(value)).partitions[0].error_code

    def state(self, topic: str, node_id: int = 1) -> Any:
        if node_id not in self._watching:
            self._watching[node_id] = self.client(node_id)
        (found,) = self._watching[node_id].call(MetadataRequest([topic], False)).topics  # noqa: FBT003
        return found.partitions[0] if found.partitions else None


@pytest.fixture(scope="module")
def processes(tmp_path_factory, nodes_in_threads):
    flags = ["--set", "offsets.topic.num.partitions=1", "--set", "auto.create.topics.enable=false"]
    folder = str(tmp_path_factory.mktemp("majority"))
    with LocalCluster(3, data_dir=folder, flags=[*flags, "--set", "log.level=ERROR"]) as cluster:
        made = Processes(cluster, nodes_in_threads.Client, nodes_in_threads.batch_of)
        yield made
        made.context.destroy(0)


def within(seconds: float, work: Any) -> Any:
    """What the work returns or raises, in time."""
    begun = time.monotonic()
    try:
        return work()
    except BrokerError as error:
        return error
    finally:
        assert time.monotonic() - begun < seconds, "it hung"


def lead_all_on_one(made: Processes, eventually: Any) -> None:
    """Topics whose leader, and coordinator, is node 1."""
    client = made.client(1)
    eventually(lambda: len(client.call(DescribeClusterRequest()).nodes) == 3, "the nodes")
    eventually(lambda: sum(node.is_voter for node in client.call(DescribeClusterRequest()).nodes) == 3, "the voters")
    topics = [
        NewTopic("t", assignments=[[1, 2, 3]], configs=[("min.insync.replicas", "2")]),
        NewTopic("solo", assignments=[[1]]),
    ]
    assert [entry.error_code for entry in client.call(CreateTopicsRequest(topics, 10_000)).topics] == [0, 0]
    eventually(lambda: not client.call(FindCoordinatorRequest(["g"])).coordinators[0].error_code, "a coordinator")
    eventually(lambda: len(made.state(OFFSETS).isr) == 3, "its replicas")
    move = AlterPartitionReassignmentsRequest([Reassignment(OFFSETS, 0, [1, 2, 3])], 10_000)
    client.call(move)
    client.call(ElectLeadersRequest([(OFFSETS, 0)]))
    eventually(lambda: made.state(OFFSETS).leader == 1, "its leader")
    eventually(lambda: not client.ask(OffsetFetchRequest("g")).error_code, "its role")


def a_node_alone_says_why_it_does_not_serve(made: Processes) -> None:
    """Started anew without a majority, the node has nobody to register with."""
    for request in (MetadataRequest(None, False), OffsetFetchRequest("g"), DescribeClusterRequest()):  # noqa: FBT003
        error = within(10.0, lambda request=request: made.client(1).call(request))
        assert isinstance(error, BrokerNotAvailableError), error
        assert error.retriable
        assert error.message.startswith("node 1 does not serve clients yet: it knows of no controller")


def all_come_back(made: Processes, eventually: Any, values: list[bytes], solo_values: list[bytes]) -> None:
    """All were killed: nobody leads before those are there that have all that was acked."""
    for node_id in (2, 3):
        made.cluster.launch_node(node_id)
    for node in made.cluster.nodes.values():
        node.wait_ready()
    made.watch_anew()
    eventually(lambda: made.state("t").leader != -1 and len(made.state("t").isr) == 3, "a leader, and all in sync")
    leader = made.client(made.state("t").leader)
    eventually(lambda: made.produce(leader, "t", b"last") == 0, "its role")
    assert leader.values("t") == values
    solo = made.client(1)
    eventually(lambda: made.produce(solo, "solo", b"last") == 0, "the other leader's role")
    assert solo.values("solo") == solo_values
    coordinator = made.client(made.state(OFFSETS).leader)
    eventually(lambda: not coordinator.ask(OffsetFetchRequest("g")).error_code, "the coordinator")
    assert [entry.offset for entry in coordinator.call(OffsetFetchRequest("g")).partitions] == [3]


def test_a_majority_is_lost_and_comes_back(processes, eventually, zmqbroker_command):
    made, cluster = processes, processes.cluster
    lead_all_on_one(made, eventually)
    client = made.client(1)
    acked = [b"acked %d" % number for number in range(5)]
    for value in acked:
        assert made.produce(client, "t", value) == 0
        assert made.produce(client, "solo", value) == 0
    client.call(OffsetCommitRequest("g", -1, "", None, [OffsetToCommit("t", 0, 3)]))
    assert client.values("t") == acked

    for node_id in (2, 3):
        cluster.nodes[node_id].kill()

    # What needs others, or the controller, is refused within its time-out, and may be tried again.
    code = within(TIMEOUT_MS / 1000 + SLACK_S, lambda: made.produce(client, "t", b"in doubt"))
    assert code in (RequestTimedOutError.code, 19, 20), code
    request = CreateTopicsRequest([NewTopic("new", 1, 1)], TIMEOUT_MS)
    for _ in range(2):
        error = within(TIMEOUT_MS / 1000 + SLACK_S, lambda: client.call(request))
        assert isinstance(error, RequestTimedOutError), error
        assert error.retriable
        assert "majority of 2" in error.message or "the controller is node" in error.message, error.message
    eventually(lambda: client.call(DescribeClusterRequest()).controller_id == -1, "it has noticed", 15)
    error = within(TIMEOUT_MS / 1000 + SLACK_S, lambda: client.call(request))
    assert "node 1 reaches 1 of the 3 voters [1, 2, 3], and a majority of 2" in error.message

    # acks=1 is what the leader alone can promise: it is taken, and is not committed before others have it.
    assert made.produce(client, "t", b"alone", acks=1) == 0
    # Reads of what is committed, and of positions, go on; and so does what has one replica.
    assert client.values("t") == acked
    assert client.end_offset("t") == len(acked)
    assert [entry.offset for entry in client.call(OffsetFetchRequest("g")).partitions] == [3]
    assert made.produce(client, "solo", b"still acked") == 0
    listed = zmqbroker_command("nodes", "list", "--bootstrap-server", cluster.bootstrap_servers, "--format", "json")
    assert listed.returncode == 0, listed.stderr
    assert [node["node_id"] for node in json.loads(listed.stdout)] == [1, 2, 3]
    described = within(SLACK_S, lambda: client.call(DescribeClusterRequest()))
    assert (described.controller_id, len(described.nodes)) == (-1, 3)

    # One more makes a majority: everything goes on, and what the leader took alone is committed now.
    cluster.start_node(2)
    eventually(lambda: made.state("t").isr == [1, 2], "a follower in sync")
    assert made.produce(client, "t", b"again") == 0
    values = client.values("t")
    assert values[: len(acked)] == acked
    assert values[-2:] == [b"alone", b"again"]
    assert client.call(CreateTopicsRequest([NewTopic("later", 1, 1)], 10_000)).topics[0].error_code == 0

    cluster.nodes[2].kill()
    cluster.nodes[1].kill()
    cluster.nodes[1].launch()
    a_node_alone_says_why_it_does_not_serve(made)

    all_come_back(made, eventually, [*values, b"last"], [*acked, b"still acked", b"last"])


def test_a_copy_of_a_nodes_folder_does_not_start(processes, eventually, zmqbroker_process):
    """By the command line: one sentence, and an exit code that is not 0."""
    made = processes
    client = made.client(1)

    def of_the_nodes() -> list[Any]:
        """What a second process of node 2 would change: where each node is, its registration, state and vote."""
        nodes = client.call(DescribeClusterRequest()).nodes
        return sorted((n.node_id, n.host, n.port, n.epoch, n.state, n.is_voter) for n in nodes)

    everybody = [(node_id, "active", True) for node_id in (1, 2, 3)]
    eventually(lambda: [(n[0], *n[4:]) for n in of_the_nodes()] == everybody, "all are there, and vote")
    copy = made.folder / "copy"
    shutil.copytree(made.folder / "2", copy, ignore=shutil.ignore_patterns("*.tmp"))
    before = of_the_nodes()
    words = ["start", "--data-dir", str(copy), "--listen", "tcp://127.0.0.1:0", "--set", "node.id=2"]
    sentence = refused_by(zmqbroker_process(*words))
    assert "node 2 runs already" in sentence
    assert "two data folders" in sentence
    assert of_the_nodes() == before


def refused_by(done: Any) -> str:
    assert done.returncode == 1, done.stderr
    (sentence,) = [line for line in done.stderr.decode().splitlines() if line.startswith("zmqbroker: ")]
    assert b"Traceback" not in done.stderr
    return sentence
