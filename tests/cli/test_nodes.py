"""`zmqbroker nodes ...` and the verbs that move partitions: what they print, what they refuse, and how they wait."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys

import pytest
from zmqbroker import Admin, NewTopic, Producer
from zmqbroker.client.admin_types import ConfigResource
from zmqbroker.testing import LocalCluster

THROTTLE = "replication.throttled.rate"
numbers = itertools.count()


@pytest.fixture(scope="module")
def cluster():
    """Three nodes, which move neither leaders nor replicas by themselves."""
    settings = ("leader.imbalance.check.interval.ms=1h", "auto.rebalance.on.join.enable=false")
    with LocalCluster(3, flags=[word for setting in settings for word in ("--set", setting)]) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def admin(cluster):
    with Admin(bootstrap_servers=cluster.bootstrap_servers) as client:
        yield client


@pytest.fixture
def command(cluster, zmqbroker_command):
    """Run a verb against the cluster."""
    return lambda *words: zmqbroker_command(*words, "--bootstrap-server", cluster.bootstrap_servers)


@pytest.fixture
def make_topic(cluster, admin, eventually):
    """Make topics with these replicas; they are deleted when the test ends, so that the nodes are empty again."""
    made = []

    def make(*assignments):
        made.append(f"t{next(numbers)}")
        admin.create_topics([NewTopic(made[-1], replica_assignments=assignments)])
        for node_id in (1, 2, 3):  # a command may ask any of them
            eventually(lambda node=cluster.nodes[node_id]: knows(node, made[-1]), f"node {node_id} has heard of it")
        return made[-1]

    yield make
    admin.delete_topics(made)


def knows(node, topic):
    """Whether a node, and no other is asked, knows a topic."""
    with Admin(bootstrap_servers=node.bootstrap_servers) as asked:
        return topic in asked.list_topics()


def done(finished, code=0):
    assert finished.returncode == code, finished.stderr.decode()
    return finished.stdout.decode()


def replicas(admin, topic):
    (described,) = admin.describe_topics([topic])
    return [partition.replicas for partition in described.partitions]


def leaders(admin, topic):
    (described,) = admin.describe_topics([topic])
    return [partition.leader for partition in described.partitions]


@pytest.fixture
def becomes(eventually):
    """Wait for a value: who waits until something is done asks one node, and another hears of it a moment later."""

    def wait(look, expected):
        seen = []
        eventually(lambda: seen.append(look()) or seen[-1] == expected, f"{expected}")

    return wait


# ---- nodes


def test_list_is_a_table(command):
    head, *rows = done(command("nodes", "list")).splitlines()
    assert head.split() == ["node", "address", "rack", "state", "leaders", "replicas", "roles"]
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    assert all(" active " in row for row in rows)
    assert sum("controller" in row for row in rows) == 1


def test_list_counts_leaders_and_replicas(command, make_topic):
    make_topic([2, 1], [2, 3])
    nodes = {node["node_id"]: node for node in json.loads(done(command("nodes", "list", "--format", "json")))}
    assert [nodes[number]["replicas"] for number in (1, 2, 3)] == [1, 2, 1]
    assert nodes[2]["leaders"] == 2


def test_quorum_names_its_leader_and_voters(command, eventually):
    def voters():
        told = json.loads(done(command("nodes", "quorum", "--format", "json")))
        return [voter["node_id"] for voter in told["voters"]] == [1, 2, 3]

    eventually(voters, "three voters")
    first, head, *rows = done(command("nodes", "quorum")).splitlines()
    assert first.startswith("leader 1 of epoch ")
    assert head.split() == ["node", "role", "end", "lag"]
    assert [row.split()[:2] for row in rows][:3] == [["1", "voter"], ["2", "voter"], ["3", "voter"]]


def test_upgrade_to_the_version_that_is_used_changes_nothing(command):
    assert done(command("nodes", "upgrade", "--version", "0")) == "the cluster uses protocol version 0\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("nodes drain --node 9", "no node 9"),
        ("nodes remove --node 9", "no node 9"),
        ("nodes remove --node 2", "node 2 is alive"),
        ("nodes upgrade --version 99", "upgrade its software first"),
        ("topics reassign --topic nope --to 1", "there is no topic 'nope'"),
        ("topics rebalance --topic nope", "there is no topic 'nope'"),
        ("topics elect-leaders --topic nope", "there is no topic 'nope'"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(command, refused, words, says):
    assert says in refused(command(*words.split()))


@pytest.mark.parametrize("verb", ["nodes list", "nodes quorum", "topics rebalance"])
def test_a_cluster_that_is_not_there_is_named(zmqbroker_command, refused, unused_port, verb):
    address = f"127.0.0.1:{unused_port}"
    words = ["--bootstrap-server", address, "--request-timeout-ms", "200"]
    assert address in refused(zmqbroker_command(*verb.split(), *words))


@pytest.mark.parametrize(
    "words",
    [
        "nodes drain",
        "nodes drain --node -1",
        "nodes drain --node two",
        "topics reassign --topic t --to 1,1",
        "topics reassign --topic t --to 1,x",
        "topics reassign --topic t --to 1 --replication-factor 2",
        "topics reassign --topic t --to 1 --cancel",
        "topics reassign --topic t --replication-factor 0",
    ],
)
def test_a_wrong_flag_is_a_wrong_call(zmqbroker_command, words):
    assert zmqbroker_command(*words.split()).returncode == 2


def test_a_drained_node_hosts_nothing_and_may_host_again(command, admin, make_topic, becomes):
    topic = make_topic([2, 1], [2, 3])
    assert done(command("nodes", "drain", "--node", "2")) == "node 2 is drained\n"
    becomes(lambda: any(2 in nodes for nodes in replicas(admin, topic)), expected=False)
    becomes(lambda: " drained " in done(command("nodes", "list")), expected=True)
    assert done(command("nodes", "drain", "--node", "2")) == "node 2 is drained\n", "once more, it is still so"
    assert done(command("nodes", "drain", "--node", "2", "--cancel")) == "node 2 may have replicas again\n"
    becomes(lambda: " drained " in done(command("nodes", "list")), expected=False)


def test_a_node_that_the_others_cannot_stand_in_for_is_not_drained(command, refused, make_topic):
    topic = make_topic([1, 2, 3])
    assert f"{topic}-0 has 3 replicas" in refused(command("nodes", "drain", "--node", "2"))
    assert " draining " not in done(command("nodes", "list"))


def test_a_node_that_is_gone_is_removed(cluster, command, admin, eventually, becomes):
    cluster.start_node(4)
    cluster.nodes[4].stop()
    eventually(lambda: admin.list_nodes()[3].state == "fenced", "node 4 is seen to be gone")
    assert done(command("nodes", "remove", "--node", "4")) == "node 4 is removed\n"
    becomes(lambda: [node.node_id for node in admin.list_nodes()], [1, 2, 3])


# ---- partitions


def test_partitions_go_where_they_are_sent(command, admin, make_topic, becomes):
    topic = make_topic([1, 2], [2, 3])
    told = done(command("topics", "reassign", "--topic", topic, "--to", "3,1", "--partition", "1"))
    assert told == f"topic {topic}: every partition is where it shall be\n"
    becomes(lambda: replicas(admin, topic), [[1, 2], [3, 1]])


def test_a_topic_gets_more_replicas_and_fewer(command, admin, make_topic, becomes):
    topic = make_topic([1], [2])
    done(command("topics", "reassign", "--topic", topic, "--replication-factor", "3"))
    becomes(lambda: [sorted(nodes) for nodes in replicas(admin, topic)], [[1, 2, 3], [1, 2, 3]])
    assert [nodes[0] for nodes in replicas(admin, topic)] == [1, 2], "the leaders stay"
    done(command("topics", "reassign", "--topic", topic, "--replication-factor", "1"))
    becomes(lambda: replicas(admin, topic), [[1], [2]])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--to 2,9", "node 9 is not in the cluster"),
        ("--replication-factor 5", "needs as many nodes, and 3 can be used"),
        ("--partition 7", "no partition 7"),
        ("--to 2 --throttle fast", THROTTLE),
        ("--to 2 --throttle -1", THROTTLE),
    ],
)
def test_a_move_that_cannot_be_is_refused(command, refused, make_topic, words, says):
    topic = make_topic([1])
    assert says in refused(command("topics", "reassign", "--topic", topic, *words.split()))
    assert done(command("topics", "reassign", "--topic", topic, "--cancel")).startswith("0 partitions"), "nothing moves"


def test_a_slow_move_is_shown_interrupted_resumed_and_cancelled(  # noqa: PLR0917 - fixtures
    cluster, command, admin, refused, make_topic, becomes
):
    topic = make_topic([1])
    everywhere = ConfigResource.all_brokers()
    with Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
        for _ in range(30):
            producer.send(topic, bytes(100_000))
        producer.flush()
    words = ("topics", "reassign", "--topic", topic)

    # Interrupted by Ctrl-C when it has told of its progress.
    servers = ["--bootstrap-server", cluster.bootstrap_servers]
    process = subprocess.Popen(
        [sys.executable, "-m", "zmqbroker", *words, *servers, "--to", "1,2", "--throttle", "100kB"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (
        process.stderr.readline()
        == f"1 partitions of {topic} are being moved, with 1 replicas that are not in sync yet\n"
    )
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert "Traceback" not in said

    # It goes on: the same command without a goal looks at it, and gives up waiting after a while.
    assert "after 1 s 1 partitions" in refused(command(*words, "--wait-seconds", "1"))
    becomes(lambda: admin.describe_configs([everywhere])[everywhere][THROTTLE].value, "100000")

    # Cancelled, the replicas of before are back.
    assert done(command(*words, "--cancel")) == f"1 partitions of {topic} go back to the replicas of before\n"
    becomes(lambda: replicas(admin, topic), [[1]])

    # Begun again and not waited for; then resumed without a limit, which is taken back in the end.
    assert done(command(*words, "--to", "1,2", "--no-wait")) == f"1 partitions of {topic} are being moved\n"
    assert done(command(*words, "--throttle", "0")) == f"topic {topic}: every partition is where it shall be\n"
    becomes(lambda: replicas(admin, topic), [[1, 2]])
    becomes(lambda: admin.describe_configs([everywhere])[everywhere][THROTTLE].source, "default")


def test_rebalance_spreads_what_is_on_one_node(command, admin, make_topic, becomes):
    topic = make_topic([1], [1], [1])
    shown = done(command("topics", "rebalance", "--topic", topic, "--dry-run"))
    assert shown.splitlines()[0].split() == ["topic", "partition", "replicas"]
    assert len(shown.splitlines()) == 3
    assert replicas(admin, topic) == [[1], [1], [1]], "it was only shown"
    assert done(command("topics", "rebalance", "--topic", topic)) == shown + "2 partitions are moved\n"
    becomes(lambda: sorted(replicas(admin, topic)), [[1], [2], [3]])
    assert done(command("topics", "rebalance", "--topic", topic)) == "the cluster is even: nothing to move\n"


def test_preferred_leaders_are_elected(command, admin, make_topic, becomes):
    topic = make_topic([1, 2])
    done(command("topics", "reassign", "--topic", topic, "--to", "2,1"))
    becomes(lambda: leaders(admin, topic), [1])
    assert done(command("topics", "elect-leaders", "--topic", topic)) == "1 partitions have another leader now\n"
    becomes(lambda: leaders(admin, topic), [2])
    assert done(command("topics", "elect-leaders", "--topic", topic)) == "0 partitions have another leader now\n"
