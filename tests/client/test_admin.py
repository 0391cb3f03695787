"""The admin client against a scripted broker: what it asks, and what it makes of the answers."""

import time

import pytest
from zmqbroker import Admin, NewTopic, TopicPartition, errors
from zmqbroker.client.admin import ConfigResource
from zmqbroker.transport import cluster_messages as c
from zmqbroker.transport import config_messages as config
from zmqbroker.transport import messages as m
from zmqbroker.transport.message_base import Body

FAST = {"retry_backoff_ms": 5, "reconnect_backoff_ms": 5, "reconnect_backoff_max_ms": 20}


@pytest.fixture
def admin(server):
    with Admin(bootstrap_servers=server.servers, **FAST) as client:
        yield client


def test_topics_are_created_and_described(server, admin):
    def create(heard):
        assert heard.body.topics[0].configs == [("retention.ms", "5")]
        return m.TopicsReply([m.TopicResult(topic.topic, 0, None, "id", 3, 1) for topic in heard.body.topics])

    server.once(m.CreateTopicsRequest.API, create)
    (created,) = admin.create_topics([NewTopic("t", 3, 1, topic_configs={"retention.ms": 5})])
    assert (created.name, created.topic_id, created.num_partitions, created.replication_factor) == ("t", "id", 3, 1)
    server.topics["t"] = 3
    assert admin.list_topics() == ["t"]
    (topic,) = admin.describe_topics(["t"])
    assert [(p.partition, p.leader, p.isr) for p in topic.partitions] == [(0, 1, [1]), (1, 1, [1]), (2, 1, [1])]
    with pytest.raises(errors.UnknownTopicOrPartitionError):
        admin.describe_topics(["none"])


def test_errors_come_by_their_types(server, admin):
    results = [m.TopicResult("a"), m.TopicResult("b", 36, "b is there"), m.TopicResult("c", 36, "c is there")]
    server.once(m.CreateTopicsRequest.API, lambda _: m.TopicsReply(results))
    with pytest.raises(errors.TopicExistsError, match="b is there") as caught:
        admin.create_topics([NewTopic("a"), NewTopic("b"), NewTopic("c")])
    assert "2 of 3 failed" in caught.value.__notes__[0]
    with pytest.raises(errors.UnsupportedVersionError):
        admin.node_status()


def test_what_passes_is_asked_again(server, admin):
    later = errors.NotControllerError("not me")
    answer = m.TopicsReply([m.TopicResult("t")])
    server.once(m.DeleteTopicsRequest.API, lambda _: later, lambda _: [b"\xc1"], lambda _: answer)
    admin.delete_topics(["t"])
    assert len(server.requests(m.DeleteTopicsRequest.API)) == 3


def test_settings(server, admin):
    entry = config.ConfigValue("retention.ms", "7", "topic", "how long")
    reply = config.DescribeConfigsReply([config.ResourceConfigs(2, "t", configs=[entry])])
    server.once(config.DescribeConfigsRequest.API, lambda _: reply)
    topic = ConfigResource.topic("t")
    assert admin.describe_configs([topic])[topic]["retention.ms"].value == "7"
    heard = []
    done = config.AlterConfigsReply([config.ResourceResult(2, "t")])
    server.once(config.AlterConfigsRequest.API, *[lambda h: heard.append(h.body.resources[0]) or done] * 2)
    admin.alter_configs({topic: {"retention.ms": "9", "flush": None}})
    admin.alter_client_quotas("c", producer_byte_rate=1_000)
    assert heard[0].configs == [("retention.ms", "9"), ("flush", None)]
    assert (heard[1].type, heard[1].name) == (config.CLIENT_RESOURCE, "c")
    assert heard[1].configs == [("producer_byte_rate", "1000"), ("consumer_byte_rate", None)]


def test_records_offsets_and_nodes(server, admin):
    server.topics["t"] = 2
    parts = [TopicPartition("t", 0), TopicPartition("t", 1)]
    half = m.DeleteRecordsReply([m.PartitionDeleted("t", 0, 0, None, 5), m.PartitionDeleted("t", 1, 6, "moved")])
    rest = m.DeleteRecordsReply([m.PartitionDeleted("t", 1, 0, None, 6)])
    server.once(m.DeleteRecordsRequest.API, lambda _: half, lambda _: rest)
    assert admin.delete_records(dict.fromkeys(parts, 5)) == {parts[0]: 5, parts[1]: 6}
    assert admin.list_offsets(dict.fromkeys(parts, m.LATEST))[parts[1]].offset == 0
    cluster = admin.describe_cluster()
    assert (cluster.cluster_id, [node.node_id for node in cluster.nodes]) == ("scripted", [1])
    entry = m.PartitionDirInfo("t", 0, 10, 0, 5, 5, 1)
    server.once(m.DescribeLogDirsRequest.API, lambda _: m.DescribeLogDirsReply(0, "/data", 100, 50, [entry]))
    (folder,) = admin.describe_log_dirs()
    assert (folder.path, folder.partitions[0].log_end_offset) == ("/data", 5)
    status = m.NodeStatusReply(1, "scripted", "0", 5, 6, [("produce_requests", 7)])
    server.once(m.NodeStatusRequest.API, lambda _: status)
    assert admin.node_status(1).counters == {"produce_requests": 7}
    with pytest.raises(errors.NetworkError, match="node 9 is not known; there are 1"):
        Admin(bootstrap_servers=server.servers, default_api_timeout_ms=50, **FAST).node_status(9)


def test_without_a_broker_the_time_is_bounded_and_the_cause_named(server):
    server.kill()
    settings = {"bootstrap_servers": server.servers, "default_api_timeout_ms": 100, **FAST}
    with Admin(**settings) as admin, pytest.raises(errors.NetworkError, match="the connection was refused"):
        admin.list_topics()


def test_another_cluster_at_the_address_is_refused(server, admin):
    admin.describe_cluster()
    # More than once: the client may come back by itself before it is asked for anything.
    refusal = errors.InconsistentClusterIdError("this is cluster b")
    server.once(m.ApiVersionsRequest.API, *[lambda _: refusal] * 20)
    server.kill()
    server.start()
    with pytest.raises(errors.InconsistentClusterIdError, match="cluster b"):
        admin.describe_cluster()


def test_a_closed_admin_says_so(server):
    admin = Admin(bootstrap_servers=server.servers)
    admin.close()
    with pytest.raises(errors.ClosedError):
        admin.list_topics()


NO_MAJORITY = "there is no controller; node 1 reaches 1 of the 3 voters"


def test_silence_does_not_hide_the_reason_that_a_broker_gave(server):
    server.once(c.DrainNodeRequest.API, lambda _: errors.RequestTimedOutError(NO_MAJORITY), *[lambda _: "drop"] * 9)
    settings = {"bootstrap_servers": server.servers, "default_api_timeout_ms": 300, "request_timeout_ms": 100, **FAST}
    with Admin(**settings) as admin, pytest.raises(errors.RequestTimedOutError, match=NO_MAJORITY):
        admin.drain_node(2)
    assert len(server.requests(c.DrainNodeRequest.API)) > 1


def test_a_brokers_reason_replaces_silence(server):
    rules = [lambda _: "drop", *[lambda _: errors.RequestTimedOutError(NO_MAJORITY)] * 999]
    server.once(c.RemoveNodeRequest.API, *rules)
    settings = {"bootstrap_servers": server.servers, "default_api_timeout_ms": 300, "request_timeout_ms": 100, **FAST}
    with Admin(**settings) as admin, pytest.raises(errors.RequestTimedOutError, match=NO_MAJORITY):
        admin.remove_node(2)


def test_no_attempt_is_begun_with_next_to_no_time_left(server):
    clock = [0.0]

    def late(_):
        clock[0] += 9.5  # as long as a broker takes to say that it has no majority
        return errors.RequestTimedOutError(NO_MAJORITY)

    server.once(c.UpgradeClusterRequest.API, late)
    settings = {"bootstrap_servers": server.servers, "default_api_timeout_ms": 10_000, "request_timeout_ms": 10_000}
    with Admin(**settings) as admin:
        admin._io.now = lambda: time.monotonic() + clock[0]
        with pytest.raises(errors.RequestTimedOutError, match=NO_MAJORITY):
            admin.upgrade_cluster(0)
    assert len(server.requests(c.UpgradeClusterRequest.API)) == 1


@pytest.mark.parametrize(
    ("request_type", "reply", "ask"),
    [
        (c.DrainNodeRequest, Body(), lambda admin: admin.drain_node(1)),
        (c.RemoveNodeRequest, Body(), lambda admin: admin.remove_node(1)),
        (c.UpgradeClusterRequest, Body(), lambda admin: admin.upgrade_cluster(0)),
        (c.RebalanceRequest, c.RebalanceReply([]), lambda admin: admin.rebalance()),
        (c.ElectLeadersRequest, c.PartitionOutcomesReply([]), lambda admin: admin.elect_leaders()),
        (m.DeleteTopicsRequest, m.TopicsReply([]), lambda admin: admin.delete_topics([])),
    ],
)
def test_a_broker_is_given_no_more_time_than_the_client_waits(server, request_type, reply, ask):
    server.once(request_type.API, lambda _: reply)
    settings = {"bootstrap_servers": server.servers, "default_api_timeout_ms": 5_000, "request_timeout_ms": 4_000}
    with Admin(**settings) as admin:
        ask(admin)
    (heard,) = server.requests(request_type.API)
    assert 0 < heard.body.timeout_ms <= 4_000


def test_a_retry_asks_another_node(cluster):
    stale, *others = cluster.nodes
    stale.once(c.RebalanceRequest.API, *[lambda _: errors.NotControllerError("not me")] * 999)
    for node in others:
        node.once(c.RebalanceRequest.API, lambda _: c.RebalanceReply([]))
    with Admin(bootstrap_servers=stale.servers, **FAST) as admin:
        admin.describe_cluster()  # now the stale node is the one that is known to work
        assert admin.rebalance() == []
    assert len(stale.requests(c.RebalanceRequest.API)) == 1


def test_what_the_controller_refuses_is_asked_of_another_node(cluster):
    cluster.nodes[0].once(m.DeleteTopicsRequest.API, *[lambda _: errors.NotControllerError("not me")] * 999)
    for node in cluster.nodes[1:]:
        node.once(m.DeleteTopicsRequest.API, lambda _: m.TopicsReply([]))
    with Admin(bootstrap_servers=cluster.nodes[0].servers, **FAST) as admin:
        assert admin.describe_cluster().controller_id == 1
        admin.delete_topics([])
    assert len(cluster.nodes[0].requests(m.DeleteTopicsRequest.API)) == 1


def test_a_leader_out_of_reach_is_named_and_not_its_topic_blamed(cluster):
    cluster.nodes[0].topics["t"] = 1
    cluster.lead(2, 1)
    cluster.nodes[1].kill()
    settings = {"bootstrap_servers": cluster.nodes[0].servers, "default_api_timeout_ms": 300}
    settings |= {"reconnect_backoff_ms": 10_000, "reconnect_backoff_max_ms": 10_000}  # in the end nobody can be asked
    with Admin(**settings) as admin, pytest.raises(errors.NetworkError, match=cluster.nodes[1].servers):
        admin.list_offsets({TopicPartition("t", 0): m.LATEST})
    cluster.lead(-1, 2)
    with Admin(**settings) as admin, pytest.raises(errors.LeaderNotAvailableError, match="t-0 has no leader"):
        admin.list_offsets({TopicPartition("t", 0): m.LATEST})
