"""Elections, ISR and ELR: who leads, who may be elected later, and what a topic's settings make of it."""

from __future__ import annotations

import pytest
from zmqbroker.quorum import decisions, elections
from zmqbroker.quorum.image import PartitionImage
from zmqbroker.quorum.min_insync import missing_settings
from zmqbroker.quorum.records import CreateTopic, SetPartition
from zmqbroker.settings import broker_config
from zmqbroker.transport.config_messages import TOPIC_RESOURCE, AlterConfigsRequest, ResourceChange


def configure(cluster, **configs):
    changes = [(key.replace("_", "."), value) for key, value in configs.items()]
    request = AlterConfigsRequest([ResourceChange(TOPIC_RESOURCE, "a", changes)])
    (result,) = cluster.commit(decisions.alter_configs(cluster.image, request, cluster.config)).resources
    assert not result.error_code, result.error_message


def test_the_leader_comes_from_the_isr_in_the_order_of_the_replicas(metadata):
    cluster = metadata(4).topic([4, 1, 3, 2])
    cluster.fence(4)
    assert cluster.summary() == (1, [1, 3, 2], [])
    cluster.alter([1, 2])
    cluster.fence(1)
    assert cluster.summary()[0] == 2, "node 3 comes first, but is not in sync"


def test_a_leader_stays_as_long_as_it_can(metadata):
    cluster = metadata(3).topic([1, 2, 3])
    cluster.fence(1)
    cluster.beat(1)
    cluster.alter([2, 3, 1])
    assert cluster.summary() == (2, [1, 2, 3], [])
    epoch = cluster.state().leader_epoch
    cluster.fence(3)
    assert cluster.state().leader_epoch == epoch, "a smaller ISR is no new leader epoch"


def test_the_last_one_in_sync_waits_for_its_return(metadata):
    cluster = metadata(2).topic([1, 2])
    cluster.fence(2, 1)
    assert cluster.summary() == (-1, [1], [])
    cluster.beat(2)
    assert cluster.summary() == (-1, [1], []), "node 2 may lack what was acked"
    cluster.beat(1)
    assert cluster.summary() == (1, [1], [])


def test_who_leaves_a_small_isr_is_eligible(metadata):
    """With min.insync.replicas=2 nothing was committed since node 2 left."""
    cluster = metadata(3).topic([1, 2, 3])
    cluster.fence(3)
    assert cluster.summary() == (1, [1, 2], []), "the ISR is large enough to go on without node 3"
    cluster.fence(2)
    assert cluster.summary() == (1, [1], [2])
    cluster.fence(1)
    assert cluster.summary() == (-1, [1], [2])
    cluster.beat(3)
    assert cluster.summary() == (-1, [1], [2]), "things may have been committed without node 3"
    cluster.beat(2)
    assert cluster.summary() == (2, [2], [1])
    cluster.beat(1)
    cluster.alter([2, 3])
    assert cluster.summary() == (2, [2, 3], []), "now things can be committed without node 1"


def test_a_leader_may_drop_several_at_once(metadata):
    cluster = metadata(3).topic([1, 2, 3])
    cluster.alter([1])
    assert cluster.summary() == (1, [1], [2, 3])
    cluster.fence(1)
    assert cluster.summary() == (2, [2], [1, 3])


def test_an_isr_member_is_elected_before_an_eligible_one(metadata):
    cluster = metadata(4).topic([1, 2, 3, 4], **{"min.insync.replicas": 3})
    cluster.alter([1, 4])
    assert cluster.summary() == (1, [1, 4], [2, 3])
    cluster.fence(1)
    assert cluster.summary() == (4, [4], [1, 2, 3])


def test_without_permission_nobody_out_of_sync_is_elected(metadata):
    cluster = metadata(3).topic([1, 2, 3], **{"min.insync.replicas": 1})
    cluster.alter([1])
    cluster.fence(1)
    assert cluster.summary() == (-1, [1], [])


def test_with_permission_anybody_alive_is_elected_once_nobody_else_is(metadata):
    unclean = {"unclean.leader.election.enable": "true"}
    cluster = metadata(3).topic([1, 2, 3], **{"min.insync.replicas": 2, **unclean})
    cluster.alter([1, 3])
    cluster.fence(3)
    assert cluster.summary() == (1, [1], [3])
    cluster.beat(3)
    cluster.fence(1)
    assert cluster.summary() == (3, [3], [1]), "an eligible one goes first, though node 2 comes before it"
    cluster.fence(3)
    assert cluster.summary() == (2, [2], []), "what node 1 and 3 have is another history now"
    cluster.fence(2)
    assert cluster.summary() == (-1, [2], [])


def test_an_unclean_leader_is_rather_not_one_that_has_just_begun_to_copy(metadata):
    cluster = metadata(3).topic([1, 2], **{"unclean.leader.election.enable": "true"})
    cluster.alter([1])
    cluster.move([3, 2, 1])
    cluster.fence(1)
    assert cluster.summary()[0] == 2


def test_permission_that_comes_later_counts_at_once(metadata):
    cluster = metadata(2).topic([1, 2])
    cluster.alter([1])
    cluster.fence(1)
    configure(cluster, unclean_leader_election_enable="true")
    assert cluster.summary() == (2, [2], [])


def test_a_lower_min_insync_replicas_ends_eligibility(metadata):
    """From then on node 1 alone commits, so node 2 may soon lack what is acked."""
    cluster = metadata(3).topic([1, 2, 3])
    cluster.alter([1])
    configure(cluster, retention_ms="1h")
    assert cluster.summary() == (1, [1], [2, 3])
    configure(cluster, min_insync_replicas="1")
    assert cluster.summary() == (1, [1], [])


def test_min_insync_replicas_back_at_its_default_ends_eligibility_too(metadata):
    cluster = metadata(3).topic([1, 2, 3], **{"min.insync.replicas": 3})
    cluster.alter([1, 2])
    assert cluster.summary() == (1, [1, 2], [3])
    configure(cluster, min_insync_replicas=None)
    assert cluster.setting("min.insync.replicas") == "2"
    assert cluster.summary() == (1, [1, 2], [])


@pytest.mark.parametrize(
    ("state", "needed"),
    [
        (PartitionImage((1, 2, 3), (1,), 1, 0), 2),
        (PartitionImage((1, 2), (1,), 1, 0), 2),
        (PartitionImage((1,), (1,), 1, 0), 1),
        (PartitionImage((2, 1), (1,), 1, 0, adding=(2,), removing=(1,)), 1),
        (PartitionImage((1, 2, 3), (1,), 1, 0, adding=(2, 3)), 1),
        (PartitionImage((1, 2, 3), (1,), 1, 0, removing=(2, 3)), 1),
        (PartitionImage((4, 5, 1, 2), (1,), 1, 0, adding=(4, 5), removing=(1, 2)), 2),
    ],
)
def test_no_more_are_needed_in_sync_than_there_are_replicas_before_and_after_a_move(state, needed):
    assert elections.min_insync_replicas(2, state) == needed


def test_the_rules_of_a_topic_come_from_its_settings_and_the_defaults():
    config = broker_config({"min.insync.replicas": 3, "unclean_leader_election_enable": True})
    assert elections.rules_from({}, config) == (3, True)
    own = {"min.insync.replicas": "2", "unclean.leader.election.enable": "false"}
    assert elections.rules_from(own, config) == (2, False)
    assert elections.rules_from({}, broker_config({})) == (1, False)


# ---- what a new topic begins with


@pytest.mark.parametrize(("factor", "setting"), [(1, "1"), (2, "1"), (3, "2"), (4, "2")])
def test_min_insync_replicas_goes_by_the_number_of_replicas(metadata, factor, setting):
    assert metadata(4).topic(count=1, factor=factor).setting("min.insync.replicas") == setting


def test_min_insync_replicas_is_what_somebody_says(metadata):
    cluster = metadata(3).topic(count=1, factor=3, **{"min.insync.replicas": 1})
    assert cluster.setting("min.insync.replicas") == "1"
    cluster = metadata(3, **{"min.insync.replicas": 3}).topic(count=1, factor=3)
    assert cluster.setting("min.insync.replicas") == "3"


def test_a_topic_goes_by_one_and_the_same_number_on_nodes_with_different_files(metadata):
    """If a leader acknowledged alone what the controller counts as not committed, an eligible replica could lose it."""
    cluster = metadata(3, **{"min.insync.replicas": 2, "unclean.leader.election.enable": True}).topic([1, 2])
    other = broker_config({})
    assert elections.rules_of(cluster.image, other, "a") == elections.rules_of(cluster.image, cluster.config, "a")
    assert other.topic_config(cluster.image.config_of(TOPIC_RESOURCE, "a")).min_insync_replicas == 2
    configure(cluster, min_insync_replicas="1", unclean_leader_election_enable="false")
    configure(cluster, min_insync_replicas=None, unclean_leader_election_enable=None)
    assert elections.rules_of(cluster.image, other, "a") == (2, True)


def test_what_older_topics_lack_is_written_down(metadata):
    cluster = metadata(3, **{"min.insync.replicas": 2}).topic([1, 2, 3], **{"min.insync.replicas": 1})
    cluster.commit([CreateTopic("old", "id"), SetPartition("old", 0, [1, 2, 3], [1, 2, 3], 1, 0)])
    cluster.commit(missing_settings(cluster.image, cluster.config))
    assert missing_settings(cluster.image, cluster.config) == []
    assert elections.rules_of(cluster.image, broker_config({}), "old") == (2, False)
    assert elections.rules_of(cluster.image, broker_config({}), "a") == (1, False)


def test_a_new_partition_begins_with_those_that_live(metadata):
    cluster = metadata(3)
    cluster.fence(1)
    cluster.topic([1, 2, 3], [3, 1, 2])
    assert cluster.summary(0) == (2, [2, 3], [])
    assert cluster.summary(1) == (3, [3, 2], [])
    with pytest.raises(AssertionError, match=r"none of the nodes \[1\] of partition 0 of b can lead it"):
        cluster.topic([1], name="b")


def test_a_new_topic_is_placed_on_nodes_that_may_have_replicas(metadata):
    cluster = metadata(4)
    cluster.fence(2)
    cluster.topic(count=8)
    assert {node for index in range(8) for node in cluster.state(index).replicas} == {1, 3, 4}
    with pytest.raises(AssertionError, match=r"factor of 4 is not possible.* 3 of 4 registered"):
        cluster.topic(name="b", count=1, factor=4)
