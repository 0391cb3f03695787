"""Nodes: they register, are heard of or not, stop, are drained, removed, and come back."""

from __future__ import annotations

import pytest
from zmqbroker.errors import (
    BrokerIdNotRegisteredError,
    DuplicateBrokerRegistrationError,
    InvalidReplicationFactorError,
    InvalidRequestError,
    PolicyViolationError,
    StaleBrokerEpochError,
    UnsupportedVersionError,
)
from zmqbroker.quorum import node_decisions
from zmqbroker.quorum.image import apply
from zmqbroker.quorum.records import SetProtocolVersion, SetVoters
from zmqbroker.transport.cluster_messages import UpgradeClusterRequest
from zmqbroker.transport.config_messages import TOPIC_RESOURCE
from zmqbroker.transport.peer_messages import JoinClusterRequest

# ---- registration


def test_the_epoch_is_the_offset_of_the_record(metadata):
    cluster = metadata(2)
    end = cluster.image.end_offset
    assert cluster.register(3) == end == cluster.image.nodes[3].epoch
    assert cluster.image.nodes[3].fenced
    assert cluster.image.next_node_id == 4


def test_a_registration_is_repeated_without_harm(metadata):
    cluster = metadata(1)
    epoch = cluster.register(2, incarnation="x")
    image = cluster.image
    assert cluster.register(2, incarnation="x", alive=True) == epoch
    assert cluster.image == image


def test_two_processes_are_not_one_node(metadata):
    cluster = metadata(2)
    with pytest.raises(DuplicateBrokerRegistrationError, match="alive at h:9002"):
        cluster.register(2, alive=True)
    cluster.register(2, alive=False)


def test_a_registration_that_comes_late_does_not_take_the_place_of_a_later_process(metadata):
    """Of a process that was registered once, and of one that died before it was."""
    cluster = metadata(1)
    cluster.register(2, incarnation="first")
    epoch = cluster.register(2, incarnation="third", former_incarnations="first second")
    for late in ("second", "first"):
        with pytest.raises(DuplicateBrokerRegistrationError, match=f"since process {late} asked .* epoch {epoch}"):
            cluster.register(2, incarnation=late)
    assert cluster.register(2, incarnation="third") == epoch
    cluster.register(2, incarnation="fourth", directory_id="another")
    with pytest.raises(DuplicateBrokerRegistrationError, match="since process third asked to be"):
        cluster.register(2, incarnation="third")


def test_of_processes_long_ago_nobody_keeps_the_names(metadata):
    cluster = metadata(1)
    for number in range(100):
        cluster.register(2, incarnation=f"n{number}", former_incarnations=f"m{number}")
    assert len(cluster.image.nodes[2].former.split()) == 16
    assert "n98" in cluster.image.nodes[2].former.split()


@pytest.mark.parametrize("given", [{"host": ""}, {"incarnation": ""}, {"port": 2**16}, {"node_id": -1}])
def test_a_registration_has_an_address_and_an_incarnation(metadata, given):
    with pytest.raises(InvalidRequestError):
        metadata(1).register(2, **given)


def test_a_node_has_to_speak_the_version_of_the_cluster(metadata):
    cluster = metadata(2)
    with pytest.raises(UnsupportedVersionError, match=r"node 3 speaks .* 1 to 2, and the cluster uses 0"):
        cluster.register(3, min_version=1, max_version=2)
    assert 3 not in cluster.image.nodes


def test_a_removed_node_comes_back_only_with_an_empty_folder(metadata):
    cluster = metadata(2)
    cluster.fence(2)
    cluster.remove(2)
    with pytest.raises(BrokerIdNotRegisteredError, match="removed from the cluster"):
        cluster.register(2, was_member=True)
    with pytest.raises(BrokerIdNotRegisteredError, match="no node 2"):
        cluster.beat(2, epoch=0)
    cluster.register(2, was_member=False)


def test_a_restart_ends_leaderships_and_memberships(metadata):
    cluster = metadata(3).topic([1, 2, 3])
    cluster.register(1)
    assert cluster.summary() == (2, [2, 3], [])
    cluster.register(2)
    assert cluster.summary() == (3, [3], [2])


def test_a_restart_of_the_last_one_ends_its_leadership_too(metadata):
    cluster = metadata(1).topic([1])
    epoch = cluster.state().leader_epoch
    cluster.register(1)
    assert cluster.summary() == (-1, [1], [])
    cluster.beat(1)
    assert cluster.summary() == (1, [1], [])
    assert cluster.state().leader_epoch == epoch + 2


def eligible_two(metadata):
    """The ISR is node 1, and 2 is eligible; 3 is out."""
    cluster = metadata(3).topic([1, 2, 3])
    cluster.fence(3, 2)
    assert cluster.summary() == (1, [1], [2])
    return cluster


def test_an_unclean_start_ends_eligibility(metadata):
    cluster = eligible_two(metadata)
    cluster.register(2, clean=True)
    assert cluster.summary() == (1, [1], [2])
    cluster.register(2, clean=False)
    assert cluster.summary() == (1, [1], [])


def test_who_has_started_uncleanly_gives_way_to_who_is_eligible(metadata):
    """One loss, with min.insync.replicas=2: what was acked is still on the other one, dead or not."""
    cluster = eligible_two(metadata)
    cluster.register(1, clean=False)
    assert cluster.summary() == (-1, [2], [])
    cluster.beat(1)
    assert cluster.summary() == (-1, [2], [])
    cluster.beat(2)
    assert cluster.summary() == (2, [2], [])


def test_the_last_one_may_lead_after_an_unclean_start_but_not_with_another_disk(metadata):
    cluster = metadata(3).topic([1])
    cluster.start(1, clean=False)
    assert cluster.summary() == (1, [1], [])
    cluster.start(1, directory_id="new")
    assert cluster.summary() == (-1, [], [])
    assert cluster.elect(0) == {0: 80}
    assert cluster.elect(0, unclean=True) == {0: 0}
    assert cluster.summary() == (1, [1], [])


def test_another_disk_is_an_unclean_start_whatever_it_says(metadata):
    cluster = eligible_two(metadata)
    cluster.register(2, clean=True, directory_id="new")
    assert cluster.summary() == (1, [1], [])


@pytest.mark.parametrize(("said", "elr"), [("i0 {last}", [2]), ("i0", []), ("", [])])
def test_who_stopped_cleanly_before_it_heard_of_its_registration_has_lost_nothing(metadata, said, elr):
    cluster = eligible_two(metadata)
    last = cluster.image.nodes[2]
    said = said.format(last=last.incarnation)
    cluster.register(2, clean=True, previous_epoch=last.epoch - 1, previous_incarnations=said)
    assert cluster.summary() == (1, [1], elr)


# ---- heartbeats


def test_a_node_is_unfenced_once_it_knows_its_registration(metadata):
    cluster = metadata(2)
    epoch = cluster.register(2)
    reply = cluster.beat(2, offset=epoch)
    assert (reply.is_caught_up, reply.is_fenced) == (False, True)
    reply = cluster.beat(2, offset=epoch + 1)
    assert (reply.is_caught_up, reply.is_fenced, reply.should_shut_down) == (True, False, False)
    image = cluster.image
    cluster.beat(2)
    assert cluster.image == image, "a heartbeat without news changes nothing"


def test_a_heartbeat_of_an_earlier_process_is_refused(metadata):
    cluster = metadata(2)
    epoch = cluster.image.nodes[2].epoch
    cluster.register(2)
    with pytest.raises(StaleBrokerEpochError, match=f"epoch {epoch}, and is registered with"):
        cluster.beat(2, epoch=epoch)
    with pytest.raises(StaleBrokerEpochError):
        cluster.beat(2, epoch=2**40)
    with pytest.raises(BrokerIdNotRegisteredError, match=r"no node 7 .* nodes are 1, 2"):
        cluster.beat(7, epoch=0)


def test_a_stopping_node_hands_over_and_leaves_the_isrs(metadata):
    cluster = metadata(3).topic([1, 2, 3], [2, 1, 3], [3, 2, 1])
    reply = cluster.beat(1, want_shut_down=True)
    assert (reply.is_fenced, reply.should_shut_down) == (False, True)
    assert [cluster.summary(index) for index in range(3)] == [(2, [2, 3], []), (2, [2, 3], []), (3, [3, 2], [])]
    assert cluster.image.nodes[1].stopping
    assert cluster.beat(1, want_shut_down=True).should_shut_down, "again, as its answer may be lost"


def test_a_stopping_node_waits_for_a_living_replica_to_catch_up(metadata):
    cluster = metadata(2).topic([1, 2])
    cluster.fence(2)
    cluster.beat(2)
    assert cluster.summary() == (1, [1], [])
    assert not cluster.beat(1, want_shut_down=True).should_shut_down
    assert cluster.summary() == (1, [1], []), "it leads on, as nobody else can"
    entry = cluster.alter([1, 2])
    assert (entry.error_code, entry.leader) == (108, 2)
    assert cluster.summary() == (2, [2], [])
    assert cluster.beat(1, want_shut_down=True).should_shut_down


def test_a_stopping_node_does_not_wait_for_the_dead(metadata):
    cluster = metadata(2).topic([1, 2]).topic([1], name="b")
    cluster.fence(2)
    assert cluster.beat(1, want_shut_down=True).should_shut_down
    assert cluster.summary() == cluster.summary(0, "b") == (1, [1], [])


def test_two_stopping_nodes_do_not_wait_for_each_other(metadata):
    cluster = metadata(2).topic([1, 2])
    assert cluster.beat(1, want_shut_down=True).should_shut_down
    assert cluster.beat(2, want_shut_down=True).should_shut_down
    assert cluster.summary() == (2, [2], [])


def test_a_fenced_node_may_stop_at_once(metadata):
    cluster = metadata(2).topic([1, 2])
    cluster.fence(1)
    reply = cluster.beat(1, want_shut_down=True)
    assert (reply.is_fenced, reply.should_shut_down) == (True, True)
    assert cluster.image.nodes[1].fenced


def test_fencing_twice_and_fencing_nobody_change_nothing(metadata):
    cluster = metadata(2)
    cluster.fence(1)
    assert node_decisions.fence(cluster.image, 1, cluster.config) == []
    assert node_decisions.fence(cluster.image, 9, cluster.config) == []


# ---- joining, draining, removing, upgrading


def test_ids_are_given_once(metadata):
    cluster = metadata(2)

    def join(node_id=-1):
        return cluster.commit(node_decisions.join_cluster(cluster.image, JoinClusterRequest(node_id), "c"))

    reply = join()
    assert (reply.cluster_id, reply.node_id, reply.nodes) == ("c", 3, [(1, "h", 9001), (2, "h", 9002)])
    assert [join().node_id, join(9).node_id, join().node_id, join(1).node_id] == [4, 9, 10, 1]
    for node_id in (-2, 2**31 - 1, -1):
        if node_id == 2**31 - 1:
            assert join(node_id).node_id == node_id
        else:
            with pytest.raises(InvalidRequestError):
                join(node_id)


def test_a_drained_node_has_nothing_and_gets_nothing(metadata):
    cluster = metadata(4).topic(count=8, factor=3)
    leads = [index for index in range(8) if cluster.state(index).leader == 2]
    cluster.drain(2)
    assert leads
    assert all(cluster.state(index).leader != 2 for index in range(8)), "its leaders move at once"
    assert cluster.describe()[2].state == "draining"
    cluster.catch_up()
    assert all(2 not in cluster.state(index).replicas for index in range(8))
    assert all(len(cluster.state(index).replicas) == 3 for index in range(8))
    assert cluster.describe()[2].state == "drained"
    cluster.topic(name="b", count=8, factor=3)
    assert cluster.describe()[2].replicas == 0
    cluster.drain(2, cancel=True)
    assert cluster.describe()[2].state == "active"


def test_a_draining_node_leads_on_where_nobody_else_can(metadata):
    cluster = metadata(3).topic([1]).topic([1, 2], name="b")
    cluster.drain(1)
    assert cluster.summary() == (1, [1], [])
    assert cluster.summary(0, "b") == (2, [2, 1], [])
    cluster.catch_up()
    assert cluster.state().replicas == (3,)
    assert cluster.summary() == (3, [3], [])
    assert cluster.state(0, "b").replicas == (3, 2)


def test_a_drain_stays_over_a_restart(metadata):
    cluster = metadata(2)
    cluster.drain(2)
    cluster.start(2)
    assert cluster.image.nodes[2].draining


def test_a_drain_needs_other_nodes(metadata):
    cluster = metadata(3).topic([1, 2, 3])
    image = cluster.image
    with pytest.raises(InvalidReplicationFactorError, match="node 2 cannot be drained: a-0 has 3 replicas"):
        cluster.drain(2)
    assert cluster.image == image
    with pytest.raises(BrokerIdNotRegisteredError):
        cluster.drain(9)


def test_only_an_empty_node_is_removed(metadata):
    cluster = metadata(3).topic([1, 2])
    with pytest.raises(PolicyViolationError, match="node 2 has 1 replicas"):
        cluster.remove(2)
    with pytest.raises(PolicyViolationError, match="node 3 is alive"):
        cluster.remove(3, alive=True)
    with pytest.raises(BrokerIdNotRegisteredError):
        cluster.remove(9)
    cluster.drain(3)
    cluster.remove(3, alive=True)
    assert sorted(cluster.image.nodes) == [1, 2]
    with pytest.raises(PolicyViolationError, match="only one"):
        metadata(1).remove(1)


@pytest.mark.parametrize(
    ("voters", "fenced", "is_refused"),
    [([1], [], True), ([1, 2], [], True), ([1, 2, 3], [], False), ([1, 2, 3], [3], True), ([2, 3], [2, 3], False)],
)
def test_a_node_without_whose_vote_nothing_could_be_decided_is_not_removed(metadata, voters, fenced, is_refused):
    image = metadata(3)
    image.commit([SetVoters([(voter, f"d{voter}") for voter in voters])])
    image.drain(1)
    image.fence(*fenced)
    if is_refused:
        with pytest.raises(PolicyViolationError, match=r"node 1 votes in the metadata quorum"):
            image.remove(1)
    else:
        image.remove(1)
    assert (1 in image.image.nodes) == is_refused


def test_a_move_that_ends_when_a_node_comes_back_takes_min_insync_replicas_along(metadata):
    image = metadata(3).topic([1, 2, 3])
    assert image.setting("min.insync.replicas") == "2"
    image.fence(2, 3, 1)
    image.move([1])
    image.beat(1)
    assert list(image.state().replicas) == [1]
    assert image.setting("min.insync.replicas") == "1"


def test_a_dead_node_is_drained_and_removed(metadata):
    cluster = metadata(4).topic([1, 2, 3])
    cluster.fence(2)
    cluster.drain(2)
    cluster.catch_up()
    assert cluster.describe()[2].state == "drained"
    cluster.remove(2)
    assert cluster.state().replicas == (1, 4, 3)


def test_the_cluster_is_upgraded_when_all_nodes_can(metadata):
    cluster = metadata(1)
    cluster.start(2, max_version=2)

    def upgrade(version):
        request = UpgradeClusterRequest(version)
        return cluster.commit(node_decisions.upgrade_cluster(cluster.image, request))

    with pytest.raises(UnsupportedVersionError, match="node 1 speaks the protocol versions 0 to 0, and not 2"):
        upgrade(2)
    cluster.start(1, max_version=3)
    upgrade(2)
    assert cluster.image.protocol_version == 2
    end = cluster.image.end_offset
    upgrade(2)
    assert cluster.image.end_offset == end
    with pytest.raises(UnsupportedVersionError, match="uses protocol version 2, and cannot go back to 1"):
        upgrade(1)
    with pytest.raises(UnsupportedVersionError, match="0 to 0, and the cluster uses 2"):
        cluster.register(3)


def test_the_cluster_is_described(metadata):
    cluster = metadata(4).topic([1, 2], [2, 1]).topic([2], name="b")
    cluster.image = apply(cluster.image, [SetProtocolVersion(0)], TOPIC_RESOURCE)
    cluster.fence(3)
    cluster.beat(4, want_shut_down=True)
    nodes = cluster.describe(controller_id=2)
    assert [(node.state, node.leaders, node.replicas) for node in nodes.values()] == [
        ("active", 1, 2),
        ("active", 2, 3),
        ("fenced", 0, 0),
        ("stopping", 0, 0),
    ]
    assert [node.is_controller for node in nodes.values()] == [False, True, False, False]
