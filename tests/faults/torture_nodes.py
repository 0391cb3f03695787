"""The nodes of a torture: each with a supervisor, a disk and a place in the network of its own, where there are such.

`View` is what the cluster says of itself meanwhile, asked with patience.
"""

from __future__ import annotations

import time
from pathlib import Path
from threading import Event

from zmqbroker import Admin
from zmqbroker.errors import ZmqBrokerError
from zmqbroker.testing.cluster import LocalCluster
from zmqbroker.testing.process import BrokerProcess

PORT = 9292
NODES = (1, 2, 3)
ASK_MS = 3_000


class TortureCluster(LocalCluster):
    """Three nodes. ``disks`` is empty, ``network`` and ``shim`` are None, where the machine does not allow them."""

    def __init__(self, folder, left_overs, *, network, disks, shim, flags):
        super().__init__(len(NODES), data_dir=str(folder), flags=flags)
        self._folder = folder
        self._left_overs = left_overs
        self._network = network
        self.disks = disks
        self._shim = shim
        self.supervisors_that_gave_up = 0

    def data_path(self, node_id):
        """Where the node's logs are."""
        base = self.disks[node_id].path if self.disks else self._folder / f"disk{node_id}"
        return base / "data"

    def error_path(self, node_id):
        """What the node has written to standard error."""
        return self._folder / f"node{node_id}.err"

    def flag(self, node_id, fault):
        """The file that makes the node's disk fail in this way."""
        return self._folder / f"faults{node_id}" / fault

    def make_node(self, node_id, flags):
        host = "127.0.0.1" if self._network is None else self._network.host(node_id)
        env = None
        if self._shim is not None:
            faults = self._folder / f"faults{node_id}"
            faults.mkdir(exist_ok=True)
            env = {"LD_PRELOAD": str(self._shim), "ZMQBROKER_FAULTS": str(faults)}
        return BrokerProcess(
            data_dir=str(self.data_path(node_id)),
            listen=f"tcp://{host}:{0 if self._network is None else PORT}",
            flags=flags,
            prefix=() if self._network is None else self._network.prefix(node_id),
            env=env,
            error_path=str(self.error_path(node_id)),
        )

    def launch_node(self, node_id):
        node = super().launch_node(node_id)
        self._left_overs.note_process(node.process.pid)
        return node

    def keep_running(self, node_ids=NODES):
        """Start the nodes whose supervisors have ended by themselves, as an operator would."""
        for node_id in node_ids:
            if not self.nodes[node_id].is_running:
                self.supervisors_that_gave_up += 1
                self.launch_node(node_id)

    def deaths(self):
        """Lines about nodes that ended otherwise than by a signal."""
        return [
            f"node {node_id}: {line}"
            for node_id in self.nodes
            for line in Path(self.error_path(node_id)).read_text(errors="replace").splitlines()
            if "the node ended with exit code" in line
        ]


class View:
    """What the nodes say, whoever of them answers."""

    def __init__(self, servers):
        self._admin = Admin(bootstrap_servers=servers, request_timeout_ms=ASK_MS, default_api_timeout_ms=ASK_MS)
        self._partitions = []
        self._controller = NODES[0]

    def close(self):
        self._admin.close()

    @property
    def admin(self):
        return self._admin

    def nodes(self):
        """State of each node by its id; empty if nobody answers."""
        try:
            return {node.node_id: node for node in self._admin.list_nodes()}
        except ZmqBrokerError:
            return {}

    def epochs(self):
        """When each node has registered."""
        return {node_id: node.epoch for node_id, node in self.nodes().items()}

    def controller(self):
        """The active controller's node, as far as is known."""
        self._controller = next(
            (node.node_id for node in self.nodes().values() if node.is_controller), self._controller
        )
        return self._controller

    def partitions(self, topic):
        """The topic's partitions, as far as is known."""
        try:
            (found,) = self._admin.describe_topics([topic])
            self._partitions = found.partitions
        except ZmqBrokerError:
            pass
        return self._partitions

    def shortcomings(self):
        """Partitions without leader or with replicas out of sync, nodes that do not vote; None if nobody answers."""
        try:
            topics = self._admin.describe_topics()
            voters = {node.node_id for node in self._admin.describe_quorum().voters}
        except ZmqBrokerError:
            return None
        return [f"node {node_id} does not vote" for node_id in NODES if node_id not in voters] + [
            f"{topic.name}-{p.partition} (leader {p.leader}, ISR {p.isr} of {p.replicas})"
            for topic in topics
            for p in topic.partitions
            if p.leader < 0 or set(p.isr) != set(p.replicas)
        ]

    def quorum_epoch(self):
        """The epoch of the metadata quorum."""
        return self._admin.describe_quorum().epoch


def wait_until(condition, seconds, pause=0.1):
    """Whether a condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        Event().wait(pause)
    return True
