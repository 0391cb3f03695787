"""All nodes of a cluster are restarted one after the other, and nobody who works with it notices.

    python tests/cluster/rolling.py [--rounds 1] [--seconds 2]

Each is stopped in good order (SIGTERM), started again, and the next one follows when it is ready and in sync. In the
end every partition is led by its preferred leader again. Prints the longest time that a client was without an answer.
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

from traffic import Traffic, Verdict, wait_for

LEAST_RECORDS = 500
FLAGS = ("--set", "leader.imbalance.check.interval.ms=1000")


def run(calm_seconds: float, rounds: int = 1) -> Verdict:
    """One run; between the restarts the traffic goes on for a while."""
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {what}", flush=True)

    with LocalCluster(3, flags=FLAGS) as cluster, Admin(bootstrap_servers=cluster.bootstrap_servers) as admin:
        traffic = Traffic(cluster.bootstrap_servers).start()
        wait_for(lambda: len(admin.describe_quorum().voters) == 3, "three voters")
        say("three nodes, and traffic")
        Event().wait(calm_seconds)
        for node_id in [*cluster.nodes] * rounds:
            wait_for(lambda: is_in_sync(admin), "all replicas are in sync")
            code = cluster.nodes[node_id].stop()
            assert code == 0, f"node {node_id} ended with {code}"
            stopped = time.monotonic()
            Event().wait(calm_seconds / 2)  # a controller that fences the node meanwhile must do no harm
            cluster.start_node(node_id)
            say(f"node {node_id} is back after {time.monotonic() - stopped:.1f} s")
            assert not traffic.failures(), traffic.failures()
        wait_for(lambda: is_in_sync(admin), "all replicas are in sync")
        wait_for(lambda: is_led_as_preferred(admin), "the preferred leaders are back")
        say("the preferred leaders lead")
        Event().wait(calm_seconds)
        verdict = traffic.stop()
        say(str(verdict))
        return verdict


def is_in_sync(admin: Admin) -> bool:
    """Whether every replica of every partition is in sync."""
    return all(len(p.isr) == len(p.replicas) for topic in admin.describe_topics() for p in topic.partitions)


def is_led_as_preferred(admin: Admin) -> bool:
    """Whether every partition is led by the first of its replicas."""
    return all(p.leader == p.replicas[0] for topic in admin.describe_topics() for p in topic.partitions)


def main() -> int:
    """Run once."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1, help="how often each node is restarted (default 1)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each state lasts (default 2)")
    args = parser.parse_args()
    try:
        run(args.seconds, args.rounds).check(LEAST_RECORDS)
    except AssertionError as error:
        print(f"FAILED: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
