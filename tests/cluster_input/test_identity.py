"""Who is not who it says it is: another cluster's clients and nodes, copies of folders, empty disks, removed nodes."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from zmqbroker.actors.quorum_files import NotYetJoinedError
from zmqbroker.errors import (
    BrokerIdNotRegisteredError,
    DuplicateBrokerRegistrationError,
    InconsistentClusterIdError,
)
from zmqbroker.log.data_folder import DataFolderError
from zmqbroker.transport.cluster_messages import DrainNodeRequest, ElectLeadersRequest, RemoveNodeRequest
from zmqbroker.transport.join import JoinError
from zmqbroker.transport.messages import ApiVersionsRequest
from zmqbroker.transport.peer_messages import RegisterNodeRequest

UNCLEAN = ElectLeadersRequest([("t", 0)], unclean=True)


def copy_of(node, name):
    """A copy of a node's folder as it is now; what the node is about to rename is left out."""
    target = f"{node.folder}-{name}"
    shutil.copytree(node.folder, target, ignore=shutil.ignore_patterns("*.tmp"))
    return target


def only(cluster, topic="t"):
    """The one replica of a topic, as (node id, node)."""
    (node_id,) = cluster.state(topic).replicas
    return node_id, cluster[node_id]


def on(cluster, node_id, topic="t", **configs):
    """A topic with its one replica on this node."""
    pairs = [(key.replace("_", "."), str(value)) for key, value in configs.items()]
    cluster.assign(topic, [node_id], configs=pairs)


# ---- another cluster


def test_a_client_that_means_another_cluster_is_told_whose_node_this_is(make_cluster):
    cluster = make_cluster(1)
    before = cluster.everything()
    client = cluster[1].client()
    with pytest.raises(InconsistentClusterIdError, match=r"this is a node of cluster .* means cluster other"):
        client.call(ApiVersionsRequest("c", "test", "other"))
    assert cluster.everything() == before
    assert client.call(ApiVersionsRequest("c", "test", before[0] and cluster[1].context.cluster_id)).node_id == 1


def test_a_node_of_another_cluster_is_neither_linked_nor_registered(make_cluster, eventually):
    ours, other = make_cluster(2), make_cluster(1)
    before = ours.everything()
    with pytest.raises(InconsistentClusterIdError):
        ours.voice(3, to=1, cluster_id=other[1].context.cluster_id)
    request = RegisterNodeRequest(other[1].context.cluster_id, 3, "d", "i", "h", 1, "", False, 0, 0)  # noqa: FBT003
    with pytest.raises(InconsistentClusterIdError, match="node 3 belongs to cluster"):
        ours.voice(3, to=1).call(request)
    # A link that leads to the other cluster, because its address was mixed up, comes to nothing.
    address = other[1].address
    ours[1].on_reactor(lambda: ours[1].node._actors.hint({2: (address.host, address.port)}))
    link = ours[1].actor("peer/2")
    eventually(lambda: "belongs to cluster" in link._complaint or "INCONSISTENT_CLUSTER_ID" in link._complaint, "why")
    assert other[1].context.image.nodes.keys() == {1}
    ours[1].on_reactor(lambda: ours[1].node._actors.hint({}))
    ours.create("t", factor=2)
    after = ours.settled()
    assert after.nodes.keys() == before[0].nodes.keys()
    assert after.nodes[1].epoch == before[0].nodes[1].epoch


def test_a_folder_of_another_cluster_does_not_join(make_cluster):
    ours, other = make_cluster(1), make_cluster(2)
    other[2].stop()
    before = ours.everything()
    stranger = ours.make(2, other[2].folder, join=ours.servers(1)).begin()
    error = stranger.wait()  # whether its own cluster finds it first, and it says for a moment that it is ready, or not
    assert isinstance(error, JoinError)
    assert f"belongs to cluster {other[1].context.cluster_id}, and another one is at 127.0.0.1:" in error.message
    assert ours.everything() == before


@pytest.fixture
def forgetful(make_cluster):
    """A cluster of two whose second node has joined and learned nothing, and where another cluster is."""
    ours, other = make_cluster(2), make_cluster(1)
    ours[2].stop()
    folder = Path(ours[2].folder)
    meta = (folder / "meta.properties").read_bytes()
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "meta.properties").write_bytes(meta)
    return ours, other.servers(1)


def test_a_node_that_knows_nothing_of_its_cluster_does_not_wait_for_another(forgetful):
    ours, foreign = forgetful
    ours[2].settings["join"] = foreign
    with pytest.raises(JoinError, match=r"folder belongs to cluster .*, and another one is at 127\.0\.0\.1:"):
        ours[2].start()


def test_a_node_that_knows_nothing_of_its_cluster_joins_it_again_and_founds_none(forgetful):
    ours, foreign = forgetful
    join = ours[2].settings.pop("join")
    with pytest.raises(NotYetJoinedError, match="start it with --join"):
        ours[2].start()
    ours[2].settings["join"] = f"{foreign},{join}"
    ours[2].start()
    assert set(ours.settled().nodes) == {1, 2}


# ---- a folder that is used twice


def test_a_folder_is_one_process(make_cluster):
    cluster = make_cluster(1)
    before = cluster.everything()
    with pytest.raises(DataFolderError, match="in use by another process"):
        cluster.make(1, cluster[1].folder).start()
    assert cluster.everything() == before


@pytest.mark.parametrize(
    ("knows_address", "sentence"),
    [
        (True, "node 2 runs already, at 127.0.0.1:.* copy of its data folder"),
        (False, "two processes cannot be one node"),
    ],
)
def test_a_copy_is_refused_while_the_original_lives(make_cluster, knows_address, sentence):
    cluster = make_cluster(2, broker_session_timeout_ms=1_000)
    cluster.create("t")
    cluster.leader("t").client().produce("t", b"acked")
    copy = copy_of(cluster[2], "copy")
    if not knows_address:
        Path(copy, "node.address").unlink()
    before = cluster.everything("t")
    with pytest.raises(DuplicateBrokerRegistrationError, match=sentence):
        cluster.make(2, copy).start()
    after = cluster.everything("t")
    assert after[0].nodes == before[0].nodes, "the first keeps its epoch, and stays unfenced"
    assert after[2] == before[2]
    assert cluster[2].context.node_epoch == before[1][2][0]
    assert cluster.leader("t").client().produce("t", b"more").error_code == 0


def test_a_copy_of_the_founder_is_refused_too(make_cluster):
    """It could lead its own quorum of one, and two clusters would grow from one."""
    cluster = make_cluster(1)
    cluster.create("t")
    before = cluster.everything("t")
    with pytest.raises(DuplicateBrokerRegistrationError):
        cluster.make(1, copy_of(cluster[1], "copy")).start()
    assert cluster.everything("t") == before


def test_an_old_copy_of_a_follower_leaves_the_isr_and_loses_nothing(make_cluster, eventually):
    """It was stopped well when it was copied, and its marker says so; but it has run on since."""
    cluster = make_cluster(3)
    cluster.create("t", min_insync_replicas=1)
    leader = cluster.leader("t")
    leader.client().produce("t", b"old")
    node_id = next(node_id for node_id in cluster.nodes if cluster[node_id] is not leader)
    cluster[node_id].stop()
    copy = copy_of(cluster[node_id], "copy")
    assert Path(copy, ".kafka_cleanshutdown").read_bytes().startswith(b'{"version":0,"brokerEpoch":')
    cluster[node_id].start()
    eventually(lambda: node_id in cluster.state("t").isr, "back in the ISR")
    leader = cluster.leader("t")
    for index in range(10):
        assert leader.client().produce("t", b"acked %d" % index).error_code == 0
    others = [other for other in cluster.nodes if other != node_id]
    cluster[node_id].stop()
    before = cluster.state("t")
    node = cluster.make(node_id, join=cluster.servers(*others))
    node.folder = copy
    node.settings["data_dir"] = copy
    node.start()
    registered = cluster.image.nodes[node_id]
    assert registered.epoch == node.context.node_epoch
    eventually(lambda: node_id in cluster.state("t").isr, "it has caught up")
    assert cluster.state("t").partition_epoch > before.partition_epoch
    for other in others:
        assert len(cluster[other].client().values("t")) == 11 if cluster.leader("t") is cluster[other] else True
    assert node.on_reactor(lambda: node.leader("t").log.log_end_offset) == 11


def test_an_old_copy_of_the_last_replica_does_not_lead(make_cluster, eventually, caplog):
    """What was acked after the copy is not there: somebody has to say that it may be lost."""
    cluster = make_cluster(2)
    cluster.assign("t", [2])
    client = cluster[2].client()
    client.produce("t", b"old")
    cluster[2].stop()
    copy = copy_of(cluster[2], "copy")
    cluster[2].start()
    eventually(lambda: cluster.state("t").leader == 2, "a leader")
    assert cluster[2].client().produce("t", b"acked").error_code == 0
    original = cluster[2]
    original.stop()
    node = cluster.make(2, join=cluster.servers(1))
    node.folder = node.settings["data_dir"] = copy
    with caplog.at_level(logging.WARNING):
        node.start()
    state = cluster.state("t")
    assert (state.leader, state.isr, state.elr) == (-1, (), ())
    assert "no replica of" in caplog.text
    assert "t-0" in caplog.text
    state, _ = cluster[1].client().fetch("t")
    assert state.error_code == 5
    assert "no leader" in state.error_message
    # The original's disk turns up again: but it is not the last registered any more, and nobody trusts it unasked.
    reply = cluster[1].client().call(UNCLEAN)
    assert reply.partitions[0].error_code == 0
    assert cluster.leader("t") is node
    eventually(lambda: node.client().fetch("t")[0].error_code == 0, "the leader's role")
    assert node.client().values("t") == [b"old"]


# ---- an empty disk


def wipe(cluster, node_id):
    """Stop a node and take its disk away."""
    cluster[node_id].stop()
    shutil.rmtree(cluster[node_id].folder)
    others = [other for other in cluster.nodes if other != node_id]
    return cluster.make(node_id, join=cluster.servers(*others))


def test_a_wiped_disk_comes_back_as_an_empty_follower(make_cluster, eventually):
    cluster = make_cluster(3)
    cluster.create("t", partitions=3)
    for partition in range(3):
        cluster.leader("t", partition).client().produce("t", b"acked", partition=partition)
    voters = dict(cluster.image.voters)
    node = wipe(cluster, 3)
    before = [cluster.state("t", partition) for partition in range(3)]
    assert all(3 not in state.isr for state in before)
    seen = []
    node.start()
    eventually(lambda: seen.append(cluster.state("t", 2)) or 3 in seen[-1].isr, "it has caught up")
    assert all(state.leader != 3 for state in seen if 3 not in state.isr)
    eventually(lambda: all(3 in cluster.state("t", index).isr for index in range(3)), "all have caught up")
    directory = node.context.folder.directory_id
    assert directory != voters[3]
    eventually(lambda: dict(cluster.image.voters).get(3) == directory, "it votes under its new directory")
    for partition in range(3):
        assert cluster.leader("t", partition).client().values("t", partition=partition) == [b"acked"]


def test_a_wiped_only_replica_has_no_leader_until_somebody_says_so(make_cluster, eventually, caplog):
    cluster = make_cluster(2)
    cluster.assign("t", [2])
    cluster[2].client().produce("t", b"gone")
    node = wipe(cluster, 2)
    with caplog.at_level(logging.WARNING):
        node.start()
    state = cluster.state("t")
    assert (state.leader, state.isr) == (-1, ())
    assert "another data folder" in caplog.text
    assert "no replica of" in caplog.text
    (result,) = cluster[1].client().call(ElectLeadersRequest([("t", 0)])).partitions
    assert result.error_code == 80
    assert cluster.state("t") == state
    assert cluster[1].client().call(UNCLEAN).partitions[0].error_code == 0
    assert cluster.leader("t") is node
    eventually(lambda: node.client().produce("t", b"new").error_code == 0, "the leader's role")


def test_a_replica_that_comes_back_is_in_sync_as_soon_as_the_metadata_have_it_back(make_cluster, eventually):
    """It may have caught up a moment before, and then nothing happens that its leader would look at it for."""
    cluster = make_cluster(2, replica_lag_time_max_ms=3_600_000)
    for topic in ("t", "u"):
        cluster.assign(topic, [1, 2])
        assert cluster.leader(topic).client().produce(topic, b"x").error_code == 0
    cluster[2].stop()
    cluster[2].settings["join"] = cluster.servers(1)
    cluster[2].start()
    # In whatever order: that of the replicas may have changed, as leaders are spread over the nodes that have joined.
    eventually(lambda: all(set(cluster.state(topic).isr) == {1, 2} for topic in ("t", "u")), "it is in sync")


# ---- a removed node


@pytest.fixture
def removed(make_cluster):
    """A cluster of two whose third node was removed."""
    cluster = make_cluster(3)
    cluster.assign("t", [1, 2])
    cluster[3].stop()
    cluster.eventually(lambda: cluster.image.nodes[3].fenced, "its process is gone")
    cluster.controller.client().call(RemoveNodeRequest(3))
    cluster.eventually(
        lambda: len(cluster.image.voters) == 1 or 3 not in dict(cluster.image.voters), "its vote is gone"
    )
    cluster.settled()
    return cluster


def test_a_removed_node_does_not_come_back_with_its_folder(removed):
    before = removed.everything("t")
    node = removed.make(3, removed[3].folder, join=removed.servers(1, 2))
    with pytest.raises(BrokerIdNotRegisteredError, match=r"node 3 was removed .* empty data folder"):
        node.start()
    after = removed.everything("t")
    assert after[0].nodes == before[0].nodes
    assert after[2] == before[2]
    again = removed.make(3, removed[3].folder, join=removed.servers(1, 2))
    with pytest.raises(BrokerIdNotRegisteredError, match=r"node 3 was removed"):
        again.start()  # by now it has the metadata in which it is not


def test_a_node_that_is_removed_while_it_lives_ends_and_does_not_come_back(make_cluster):
    cluster = make_cluster(3)
    client = cluster.controller.client()
    client.call(DrainNodeRequest(3))
    client.call(RemoveNodeRequest(3))
    cluster.eventually(lambda: cluster[3].error is not None, "it has ended")
    assert isinstance(cluster[3].error, BrokerIdNotRegisteredError)
    node = cluster.make(3, cluster[3].folder, join=cluster.servers(1, 2))
    with pytest.raises(BrokerIdNotRegisteredError, match=r"node 3 was removed"):
        node.start()


def test_a_removed_node_comes_back_with_an_empty_folder(removed, eventually):
    before = removed.everything("t")
    node = wipe_stopped(removed, 3)
    node.start()
    eventually(lambda: not removed.image.nodes[3].fenced, "it is one of the cluster")
    assert removed.image.nodes[3].epoch > max(n.epoch for n in before[0].nodes.values() if n.node_id != 3)
    assert removed.leader("t").client().values("t") == before[2]["t"]


def wipe_stopped(cluster, node_id):
    shutil.rmtree(cluster[node_id].folder)
    return cluster.make(node_id, join=cluster.servers(1, 2))
