"""The second part of `make demo`: three nodes, the leader is killed while lines stream in, and nothing is lost.

1. Three nodes start, each as `zmqbroker start` does; the second and third join the first.
2. Lines go into a topic with one partition and three replicas; a line counts once it is on two disks (acks=all).
3. Midway SIGKILL ends the process of the node that leads. Another one leads; the producer goes on by itself.
4. The killed node comes back and catches up: it is in sync again.
5. Everything is read back: each acknowledged line once, in order.
"""

from __future__ import annotations

import sys
import threading
import time

from zmqbroker import Admin, Consumer, NewTopic, Producer, TopicPartition
from zmqbroker.testing import LocalCluster

TOPIC = "lines"
LINES = 20_000
STEP_SECONDS = 60.0
"""No step may take longer; each takes a second or two."""


def say(line: str) -> None:
    """One line of the demonstration."""
    print(line, flush=True)


def wait_for(condition: object, what: str) -> None:
    """Wait until a function returns something true."""
    assert callable(condition)
    deadline = time.monotonic() + STEP_SECONDS
    breath = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not within {STEP_SECONDS:.0f} s")
        breath.wait(0.02)


def leader_of(admin: Admin) -> tuple[int, list[int]]:
    """Who leads, and who is in sync."""
    (topic,) = admin.describe_topics([TOPIC])
    return topic.partitions[0].leader, topic.partitions[0].isr


def main() -> int:
    """Run the demonstration; the exit code."""
    with (
        LocalCluster(3, flags=["--set", "log.level=ERROR"]) as cluster,
        Admin(bootstrap_servers=cluster.bootstrap_servers) as admin,
    ):
        wait_for(lambda: sum(node.is_voter for node in admin.list_nodes()) == 3, "three nodes vote")  # noqa: PLR2004
        say(f"three nodes run: {cluster.bootstrap_servers}")
        admin.create_topics([NewTopic(TOPIC, num_partitions=1, replication_factor=3)])
        leader, in_sync = leader_of(admin)
        say(f"node {leader} leads, in sync are nodes {in_sync}")
        longest = stream(cluster, leader)
        successor, _ = leader_of(admin)
        say(f"node {successor} leads now; the longest time without an acknowledgement was {longest * 1000:.0f} ms")
        wait_for(lambda: len(leader_of(admin)[1]) == 3, "the killed node is in sync again")  # noqa: PLR2004
        say(f"node {leader} is back, and in sync")
        return check(cluster)


def stream(cluster: LocalCluster, leader: int) -> float:
    """Send all lines, kill the leader midway; the longest time between two acknowledgements, in seconds."""
    longest, last = 0.0, time.monotonic()
    with Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
        waiting = []
        for number in range(LINES):
            waiting.append(producer.send(TOPIC, b"line %d" % number))
            if len(waiting) == 100:  # noqa: PLR2004 - often enough to see a gap
                for future in waiting:
                    future.get(STEP_SECONDS)
                waiting.clear()
                now = time.monotonic()
                longest, last = max(longest, now - last), now
            if number == LINES // 2:
                say(f"{number - len(waiting) + 1} lines are acknowledged; SIGKILL for node {leader}")
                cluster.nodes[leader].kill_node()
        producer.flush()
    say(f"{LINES} lines are acknowledged")
    return longest


def check(cluster: LocalCluster) -> int:
    """Read everything back; 0 if every line came once and in order, and nothing stands behind the last one."""
    lines: list[bytes] = []
    with Consumer(
        TOPIC, bootstrap_servers=cluster.bootstrap_servers, auto_offset_reset="earliest", consumer_timeout_ms=5000
    ) as consumer:
        for record in consumer:
            lines.append(record.value)
            if len(lines) == LINES:
                break
        end = consumer.end_offsets([TopicPartition(TOPIC, 0)])[TopicPartition(TOPIC, 0)]
    expected = [b"line %d" % number for number in range(LINES)]
    lost, twice = len(set(expected) - set(lines)), len(lines) - len(set(lines))
    order = "in order" if lines == expected else "out of order"
    say(f"{len(lines)} lines are read back: {lost} lost, {twice} twice, {order}; the partition ends at offset {end}")
    return 0 if lines == expected and end == LINES else 1


if __name__ == "__main__":
    sys.exit(main())
