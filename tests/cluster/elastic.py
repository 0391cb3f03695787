"""A cluster grows from three nodes to five and shrinks to three again, and nobody who works with it notices.

    python tests/cluster/elastic.py [--seconds 5]

Nodes join under traffic and get their share of replicas, of leaders and of votes; then two of those that were there,
each the controller at that time, are drained, stopped and removed. Prints each step's time, and exits with 1 if
anything was wrong.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from threading import Event

from zmqbroker import Admin
from zmqbroker.testing import LocalCluster

sys.path.insert(0, str(Path(__file__).parent))  # pytest imports this file without its folder

from traffic import TOPIC, Traffic, Verdict, wait_for

LEAST_RECORDS = 500


def run(calm_seconds: float) -> Verdict:
    """One run; between the steps the traffic goes on for a while."""
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {what}", flush=True)

    with LocalCluster(3) as cluster, Admin(bootstrap_servers=cluster.bootstrap_servers) as admin:
        traffic = Traffic(cluster.bootstrap_servers).start()
        say("three nodes, and traffic")
        Event().wait(calm_seconds)
        grow(cluster, admin)
        say(f"five nodes: {shares(admin)}")
        Event().wait(calm_seconds)
        for _ in range(2):
            gone = shrink(cluster, admin)
            say(f"node {gone}, which was the controller, is gone: {shares(admin)}")
        wait_for(lambda: len(admin.describe_quorum().voters) == 3, "three voters")
        Event().wait(calm_seconds)
        assert not traffic.failures(), traffic.failures()
        verdict = traffic.stop()
        say(str(verdict))
        return verdict


def grow(cluster: LocalCluster, admin: Admin) -> None:
    """Two nodes join, and get their share."""
    for node_id in (4, 5):
        cluster.launch_node(node_id)
    for node_id in (4, 5):
        cluster.nodes[node_id].wait_ready()
    wait_for(lambda: len(admin.describe_quorum().voters) == 5, "five voters")
    wait_for(lambda: is_spread(admin), "the replicas are spread over five nodes", tell=lambda: shares(admin))


def shrink(cluster: LocalCluster, admin: Admin) -> int:
    """The node that is the controller leaves; returns which that was."""
    gone = next(node.node_id for node in admin.list_nodes() if node.is_controller)
    admin.drain_node(gone)
    wait_for(lambda: state_of(admin, gone) == "drained", f"node {gone} is drained")
    cluster.nodes[gone].stop()
    del cluster.nodes[gone]
    wait_for(lambda: state_of(admin, gone) in ("fenced", "drained"), f"node {gone} is seen to be gone")
    admin.remove_node(gone)
    return gone


def state_of(admin: Admin, node_id: int) -> str:
    """A node's state in words."""
    return next(node.state for node in admin.list_nodes() if node.node_id == node_id)


def is_spread(admin: Admin) -> bool:
    """Whether no move is under way, and every node hosts and leads about as much as the others, of each topic too."""
    if admin.list_partition_reassignments():
        return False
    nodes = admin.list_nodes()
    (topic,) = admin.describe_topics([TOPIC])
    of_topic = [sum(node.node_id in p.replicas for p in topic.partitions) for node in nodes]
    counts = ([node.replicas for node in nodes], [node.leaders for node in nodes])
    return min(of_topic) >= 1 and all(max(each) - min(each) <= max(each) // 4 + 2 for each in counts)


def shares(admin: Admin) -> str:
    """Who has what."""
    nodes = admin.list_nodes()
    return ", ".join(
        f"node {node.node_id} {node.leaders}/{node.replicas}{' votes' if node.is_voter else ''}" for node in nodes
    )


def main() -> int:
    """Run once."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each state lasts (default 5)")
    args = parser.parse_args()
    try:
        run(args.seconds).check(LEAST_RECORDS)
    except AssertionError as error:
        print(f"FAILED: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
