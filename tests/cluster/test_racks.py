"""A consumer in a rack of its own reads from the replica there, and from the leader when that replica is gone."""

from __future__ import annotations

import time

import pytest
from zmqbroker import Admin, Consumer, NewTopic, Producer, TopicPartition
from zmqbroker.testing import LocalCluster

RACKS = {1: "a", 2: "b", 3: "c"}
LONG_MS = 25_000
READ_SECONDS = 20
PARTITION = TopicPartition("t", 0)


@pytest.fixture
def cluster():
    """Three nodes in three racks."""
    with LocalCluster(0) as nodes:
        nodes.start_node(1, "--set", f"broker.rack={RACKS[1]}")
        for node_id in (2, 3):
            nodes.launch_node(node_id, "--set", f"broker.rack={RACKS[node_id]}")
        for node_id in (2, 3):
            nodes.nodes[node_id].wait_ready()
        yield nodes


def read(consumer, count):
    """The values of so many records."""
    values = []
    deadline = time.monotonic() + READ_SECONDS
    while len(values) < count:
        assert time.monotonic() < deadline, f"{len(values)} of {count} records came"
        values += [record.value for records in consumer.poll(200).values() for record in records]
    return values


def test_the_nearest_replica_is_read(cluster):
    servers = cluster.bootstrap_servers
    with Admin(bootstrap_servers=servers) as admin, Producer(bootstrap_servers=servers) as producer:
        admin.create_topics([NewTopic("t", replica_assignments=[[1, 2]])])
        with (
            Consumer(
                bootstrap_servers=servers, client_rack="b", auto_offset_reset="earliest", fetch_max_wait_ms=LONG_MS
            ) as near,
            Consumer(bootstrap_servers=servers, client_rack="c", auto_offset_reset="earliest") as alone,
        ):
            for consumer in (near, alone):
                consumer.assign([PARTITION])
            expected = [b"%d" % number for number in range(10)]
            for value in expected:
                producer.send("t", value).get(20)
            assert read(near, 10) == expected
            assert read(alone, 10) == expected, "rack c has no replica: the leader is read"
            assert followed(near) == 2
            assert followed(alone) is None

            # A long poll at the follower ends when the follower hears that more is committed, long before its time.
            producer.send("t", b"more").get(20)
            assert read(near, 1) == [b"more"]
            assert followed(near) == 2

            # The follower dies: from the same offset on the leader is read.
            cluster.nodes[2].kill()
            producer.send("t", b"without it").get(20)
            assert read(near, 1) == [b"without it"]
            assert followed(near) is None
            assert near.position(PARTITION) == 12

            # It comes back, is in sync again, and is read again.
            cluster.start_node(2)
            deadline = time.monotonic() + 20
            number = 0
            while followed(near) != 2:
                assert time.monotonic() < deadline, "the follower is not read again"
                producer.send("t", b"%d" % number).get(20)
                assert read(near, 1) == [b"%d" % number]
                number += 1


def followed(consumer):
    """The follower that a consumer reads from."""
    return consumer._fetcher.partitions[PARTITION].near
