"""Clusters of nodes in threads of one process; what they are is taken down, to be compared with what it is later."""

from __future__ import annotations

import threading
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zmq
from zmqbroker.actors.node import Node
from zmqbroker.errors import BY_CODE, error_for
from zmqbroker.settings import broker_config
from zmqbroker.transport.messages import ApiVersionsRequest, CreateTopicsRequest, NewTopic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _nodes_of_the_broker_tests() -> Any:
    path = Path(__file__).parent.parent / "broker" / "conftest.py"
    spec = spec_from_file_location("zmqbroker_test_nodes", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


nodes_in_threads = _nodes_of_the_broker_tests()


class RunningNode(nodes_in_threads.RunningNode):  # type: ignore[misc, name-defined]
    """A node that need not be ready before anybody looks at it."""

    def begin(self) -> RunningNode:
        """Start, and return when it listens; whether it ever takes clients is another matter."""
        self.ready = threading.Event()

        def run() -> None:
            try:
                self.node.run()
            except BaseException as error:  # noqa: BLE001 - the test looks at it
                self.error = error

        self.error = None
        self.node = Node(broker_config(self.settings), on_ready=lambda _: self.ready.set())
        self._thread = threading.Thread(target=run, name="node", daemon=True)
        self._thread.start()
        return self

    def listens(self) -> bool:
        """Whether it has an address by now."""
        actors = getattr(self.node, "_actors", None)
        if actors is not None:
            self.address = actors.address
        return actors is not None


SETTINGS = {
    "broker_session_timeout_ms": 6_000,
    "broker_heartbeat_interval_ms": 200,
    "controller_quorum_fetch_timeout_ms": 3_000,  # nobody shall stand because a busy machine has kept a thread waiting
    "controller_quorum_election_timeout_ms": 500,
    "auto_create_topics_enable": False,
    "offsets_topic_num_partitions": 1,
    "log_level": "ERROR",
}


class Cluster:
    """Nodes 1 to N; node 1 founds the cluster and the others join it."""

    def __init__(self, folder: Path, context: zmq.Context, settings: dict[str, Any], wait: Callable[..., Any]) -> None:
        self.folder = folder
        self.eventually = wait
        self._context = context
        self._settings = {**SETTINGS, **settings}
        self.nodes: dict[int, Any] = {}
        self.spare: list[Any] = []
        """Nodes that a test made, and that are none of the cluster's."""

    def make(self, node_id: int, folder: str | None = None, **settings: Any) -> Any:
        """A node that is not started; in another folder than its own it is a spare one."""
        own = folder is None
        found = RunningNode(
            self._context,
            folder or str(self.folder / str(node_id)),
            {**self._settings, "node_id": node_id, **settings},
        )
        if own:
            self.nodes[node_id] = found
        else:
            self.spare.append(found)
        return found

    def start(self, count: int) -> Cluster:
        for node_id in range(1, count + 1):
            join = {"join": self.servers(1)} if node_id > 1 else {}
            self.make(node_id, **join).start()
        wanted = {1: 1, 2: 1}.get(count, 3)
        self.eventually(lambda: all(len(node.context.image.voters) == wanted for node in self.alive()), "the voters")
        return self

    def servers(self, *node_ids: int) -> str:
        found = [self.nodes[node_id].address for node_id in node_ids or self.nodes]
        return ",".join(f"{address.host}:{address.port}" for address in found)

    def alive(self) -> list[Any]:
        return [node for node in self.nodes.values() if node._thread is not None]

    def __getitem__(self, node_id: int) -> Any:
        return self.nodes[node_id]

    @property
    def image(self) -> Any:
        """The metadata as the controller's node has them."""
        return self.controller.context.image

    @property
    def controller(self) -> Any:
        def find() -> Any:
            return next((n for n in self.alive() if n.context.controller_id == n.context.config.node_id), None)

        return self.eventually(find, "a controller")

    def settled(self) -> Any:
        """Wait until all living nodes have the same metadata; that."""

        def same() -> Any:
            images = [node.context.image for node in self.alive()]
            return images[0] if all(image == images[0] for image in images) else None

        return self.eventually(same, "the same metadata everywhere")

    def state(self, topic: str, partition: int = 0) -> Any:
        return self.image.topics[topic].partitions[partition]

    def create(self, topic: str, partitions: int = 1, *, factor: int | None = None, **configs: Any) -> Any:
        """A topic whose replicas are all in sync."""
        factor = factor or len(self.alive())
        pairs = [(key.replace("_", "."), str(value)) for key, value in configs.items()]
        request = CreateTopicsRequest([NewTopic(topic, partitions, factor, configs=pairs)], 10_000)
        (result,) = self.controller.client().call(request).topics
        assert result.error_code == 0, result
        self.settled()
        states = self.image.topics[topic].partitions
        self.eventually(lambda: all(len(state.isr) == factor for state in states), "an ISR")
        return states

    def assign(self, topic: str, *replicas: list[int], **configs: Any) -> None:
        """A topic whose replicas are where the test says."""
        pairs = [(key.replace("_", "."), str(value)) for key, value in configs.items()]
        request = CreateTopicsRequest([NewTopic(topic, configs=pairs, assignments=list(replicas))], 10_000)
        (result,) = self.controller.client().call(request).topics
        assert result.error_code == 0, result
        self.settled()

    def leader(self, topic: str, partition: int = 0) -> Any:
        """The node that leads a partition."""
        leader_id = self.eventually(
            lambda: (state := self.state(topic, partition)).leader in self.nodes and state.leader, "a leader"
        )
        return self.nodes[leader_id]

    def committed(self, topic: str) -> list[Any]:
        """The values of a topic, once its leader leads and all that is in its log is committed."""

        def found() -> Any:
            node = self.leader(topic)
            client = node.client()
            try:
                if client.fetch(topic)[0].error_code or not node.on_reactor(lambda: _is_committed(node.leader(topic))):
                    return None
                return [client.values(topic)]
            finally:
                client.socket.close(0)

        return self.eventually(found, "all is committed")[0]

    def voice(self, node_id: int, to: int, cluster_id: str | None = None) -> Any:
        """A client of one node that has said it is another node."""
        client = self.nodes[to].client()
        client.call(
            ApiVersionsRequest(f"node-{node_id}", "test", cluster_id or self.nodes[to].context.cluster_id, node_id)
        )
        return client

    def everything(self, *topics: str) -> Any:
        """Metadata, elections and records, to be compared: whatever a refused request may have changed.

        Not how long the metadata log is: a refusal is told once a record that says nothing is committed.
        """
        image = replace(self.settled(), end_offset=0)
        nodes = {}
        for node in self.alive():
            quorum = node.on_reactor(lambda node=node: _quorum_state(node))
            nodes[node.context.config.node_id] = (node.context.node_epoch, quorum)
        values = {topic: self.committed(topic) for topic in topics}
        return image, nodes, values

    def close(self) -> None:
        started = [node for node in [*self.spare, *self.nodes.values()] if node._thread is not None]
        for node in started:
            node.node.stop(hand_over=False)
        for node in started:
            node.wait()


def _is_committed(replica: Any) -> bool:
    return replica.high_watermark == replica.log.log_end_offset


def _quorum_state(node: Any) -> Any:
    machine = node.actor("quorum").machine
    return machine.epoch, machine.leader_id, machine._state.voted_for


@pytest.fixture
def make_cluster(tmp_path: Path, eventually: Callable[..., Any]) -> Iterator[Callable[..., Cluster]]:
    """Start clusters, each in a folder of its own."""
    context = zmq.Context()
    clusters: list[Cluster] = []

    def make(nodes: int = 3, **settings: Any) -> Cluster:
        folder = tmp_path / f"cluster-{len(clusters)}"
        folder.mkdir()
        clusters.append(Cluster(folder, context, settings, eventually))
        return clusters[-1].start(nodes)

    yield make
    for cluster in clusters:
        cluster.close()
    context.destroy(0)


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    """Three nodes."""
    return make_cluster()


@pytest.fixture
def error_of() -> Callable[..., tuple[str, str]]:
    """Name and sentence of what a request is refused with."""

    def find(reply: Any) -> tuple[str, str]:
        if reply.error_code:
            error = error_for(reply.error_code, reply.error_message)
        else:
            entry = reply.body[0][0]
            errors = [
                error_for(*pair)
                for pair in pairwise(entry)
                if isinstance(pair[1], str) and " " in pair[1] and isinstance(pair[0], int) and pair[0] in BY_CODE
            ]
            assert errors, reply
            error = errors[0]
        assert error.message, reply
        return error.name, error.message

    return find


@pytest.fixture
def batch() -> Callable[..., bytes]:
    """Make a batch of values."""
    return nodes_in_threads.batch_of  # type: ignore[no-any-return]


@pytest.fixture(scope="session", name="nodes_in_threads")
def _nodes_in_threads() -> Any:
    """Where nodes in threads, and clients that speak by raw envelopes, come from."""
    return nodes_in_threads
