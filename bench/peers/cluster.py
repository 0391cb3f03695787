"""Rows: three nodes with a replica on each: rate, latency, and what happens when the leader is killed."""

from __future__ import annotations

import statistics
import time
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from rows import produce as ours_produce
from rows.basics import wait_for

from . import latency, produce
from .kafka_broker import KafkaCluster
from .kafka_clients import Topics, send_batches, send_each
from .latency import LATENCIES, LOAD, held
from .ours import OursCluster
from .produce import RECORDS
from .row import Entry, Figure, Goal, Row
from .talk import PeerChild

if TYPE_CHECKING:
    from .row import Measured
    from .stage import Stage

RATE_NAME = "3 nodes: produce 100 B, acks=all"
KILLS = 4
"""A round."""
BEFORE_SECONDS = 0.5
"""Of acknowledgements before each blow, so that there is a last one."""
SOON_SECONDS = 1.0
"""A gap that has begun by then belongs to the blow."""
AFTER_SECONDS = 3.0
"""After the partition has a new leader, before the node that was killed is started again."""
END_SECONDS = 120.0

ON_DISKS = "on the disk of each before the ack"
PAGE_CACHES = "page cache of each before the ack"
KAFKA_EACH = f"{KafkaCluster.name}, confluent-kafka produce()"
KAFKA_BATCH = f"{KafkaCluster.name}, confluent-kafka produce_batch()"
KAFKA_LATENCY = f"{KafkaCluster.name}, confluent-kafka acks=all"


def gaps(stage: Stage, *, kind: type[KafkaCluster | OursCluster], client: str) -> Measured:
    """Kill the leader under load, again and again, each time once all replicas are in sync.

    Nobody starts the node again before another one leads: Kafka's has no supervisor, and so ours does without.
    """
    system = stage.system(kind)
    topics, topic = Topics(system.kafka_bootstrap), stage.name("failover")
    topics.create(topic, kind.replicas)
    servers = system.kafka_bootstrap if client == "confluent" or isinstance(system, KafkaCluster) else system.servers
    struck = []
    with PeerChild("stream", client, servers, "-1", topic) as stream:
        stream.wait_for_word(END_SECONDS)
        for _ in range(1 if stage.is_quick else KILLS):
            time.sleep(BEFORE_SECONDS)
            leader = topics.leader(topic)
            struck.append(time.perf_counter())  # the system's monotonic clock, the same in every process
            system.kill_node(leader)
            try:
                wait_for(partial(_is_led_by_another, topics, topic, leader), "another leader", END_SECONDS)
                time.sleep(AFTER_SECONDS)
            finally:
                system.start_node(leader)
            topics.wait_in_sync(topic, kind.replicas)
        time.sleep(BEFORE_SECONDS)
        found = stream.finish(END_SECONDS)
    topics.delete(topic)
    assert not found["failures"], f"{len(found['failures'])} records failed: {found['failures'][0]}"
    longest = [_longest_gap(found["acks"], moment) * 1000 for moment in struck]
    return {"median gap": statistics.median(longest), "longest gap": max(longest)}


def _is_led_by_another(topics: Topics, topic: str, leader: int) -> bool:
    return topics.leader(topic) not in (leader, -1)


def _longest_gap(acks: list[float], struck: float) -> float:
    """Of the times between two acknowledgements that lie in part after the blow."""
    return max(
        later - earlier for earlier, later in pairwise(acks) if later > struck and earlier < struck + SOON_SECONDS
    )


def _rate_row() -> Row:
    many = Goal(">= 1.5x", "records", 1.5, (KAFKA_EACH, KAFKA_BATCH))
    each = Goal(">= 1.5x", "records", 1.5, (KAFKA_EACH,))
    own = partial(produce.ours, kind=OursCluster, value_bytes=100, acks=-1)
    foreign = partial(produce.confluent, value_bytes=100, acks=-1)
    at_ours, at_kafka = partial(foreign, kind=OursCluster), partial(foreign, kind=KafkaCluster)
    tool = partial(produce.java, kind=KafkaCluster, value_bytes=100, acks=-1)
    return Row(
        RATE_NAME,
        "One producer, one partition with three replicas; from the first call to the last acknowledgement.",
        (RECORDS,),
        (
            Entry(OursCluster, "send()", ON_DISKS, partial(own, how=ours_produce.send), None, (each,)),
            Entry(OursCluster, "send_many()", ON_DISKS, partial(own, how=ours_produce.send_many), None, (many,)),
            Entry(OursCluster, "confluent-kafka produce()", ON_DISKS, partial(at_ours, how=send_each)),
            Entry(OursCluster, "confluent-kafka produce_batch()", ON_DISKS, partial(at_ours, how=send_batches)),
            Entry(KafkaCluster, "confluent-kafka produce()", PAGE_CACHES, partial(at_kafka, how=send_each)),
            Entry(KafkaCluster, "confluent-kafka produce_batch()", PAGE_CACHES, partial(at_kafka, how=send_batches)),
            Entry(KafkaCluster, "kafka-producer-perf-test", PAGE_CACHES, tool),
        ),
        keeps=(KAFKA_EACH, produce.MOST[KafkaCluster.replicas]),
    )


def _latency_row(name: str, about: str, *, is_loaded: bool) -> Row:
    goals = held("p99 <= 0.5x", 0.5, KAFKA_LATENCY, "p99")
    own = partial(latency.own, kind=OursCluster, acks=-1, is_loaded=is_loaded)
    at_ours = partial(latency.confluent, kind=OursCluster, acks=-1, is_loaded=is_loaded)
    at_kafka = partial(latency.confluent, kind=KafkaCluster, acks=-1, is_loaded=is_loaded)
    return Row(
        name,
        about,
        (*LATENCIES, LOAD) if is_loaded else LATENCIES,
        (
            Entry(OursCluster, "send().get(), acks=all", ON_DISKS, own, None, goals),
            Entry(OursCluster, "confluent-kafka acks=all", ON_DISKS, at_ours),
            Entry(KafkaCluster, "confluent-kafka acks=all", PAGE_CACHES, at_kafka),
        ),
    )


def _failover_row() -> Row:
    goal = Goal("< 1.0 s at p99 of 20 kills", "longest gap", 1000.0, takes_worst=True)
    own = partial(gaps, kind=OursCluster, client="ours")
    at_ours = partial(gaps, kind=OursCluster, client="confluent")
    at_kafka = partial(gaps, kind=KafkaCluster, client="confluent")
    return Row(
        "3 nodes: kill -9 the leader",
        "The longest time between two acknowledgements while 2,000 records a second are sent with acks=all and the "
        f"leader is killed, {KILLS} times a round (once with --quick); it is started again when another node leads.",
        (Figure("median gap", "ms", "less", is_drawn=False), Figure("longest gap", "ms", "less")),
        (
            Entry(OursCluster, "send()", ON_DISKS, own, None, (goal,)),
            Entry(OursCluster, "confluent-kafka produce()", ON_DISKS, at_ours),
            Entry(KafkaCluster, "confluent-kafka produce()", PAGE_CACHES, at_kafka),
        ),
        warms_up=False,
    )


ROWS = (
    _rate_row(),
    _latency_row(
        "3 nodes: latency of one record, idle",
        "100 B, three replicas, sent when the one before is acknowledged by all.",
        is_loaded=False,
    ),
    _latency_row(
        "3 nodes: latency of one record, half load",
        "The same while another process sends 100 B to the same partition with the same client: at both half as many "
        "records a second as confluent-kafka's produce() got Kafka's three nodes to acknowledge.",
        is_loaded=True,
    ),
    _failover_row(),
)
