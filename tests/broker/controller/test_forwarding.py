"""Requests for the controller on their way: other nodes, broken links, leaders that move, deadlines, repeats."""

from __future__ import annotations

from random import Random

import pytest
from zmqbroker.actors.commands import Answer
from zmqbroker.actors.context import CONTROLLER
from zmqbroker.actors.peer_commands import ImageApplied
from zmqbroker.errors import BrokerError, RequestTimedOutError
from zmqbroker.transport.cluster_messages import (
    AlterPartitionReassignmentsRequest,
    DrainNodeRequest,
    ListPartitionReassignmentsRequest,
    Reassignment,
    RebalanceRequest,
    RemoveNodeRequest,
)
from zmqbroker.transport.config_messages import TOPIC_RESOURCE, AlterConfigsRequest, ResourceChange
from zmqbroker.transport.messages import (
    CreatePartitionsRequest,
    DeleteTopicsRequest,
    InitProducerIdRequest,
    PartitionCount,
)
from zmqbroker.transport.network import LinkState
from zmqbroker.transport.peer_messages import JoinClusterRequest


def test_any_node_s_controller_takes_every_request(cluster, topic):
    nodes = cluster(3)
    asked = [
        nodes[2].ask(request)
        for request in (
            topic("t", 3),
            CreatePartitionsRequest([PartitionCount("t", 4)], 1000),
            AlterConfigsRequest([ResourceChange(TOPIC_RESOURCE, "t", [("retention.ms", "5")])]),
            InitProducerIdRequest(),
            JoinClusterRequest(),
            AlterPartitionReassignmentsRequest([Reassignment("t", 0, [3, 2, 1])], 1000),
            ListPartitionReassignmentsRequest(),
            RebalanceRequest(validate_only=True),
            DrainNodeRequest(3, cancel=True),
            DeleteTopicsRequest(["t"], 1000),
        )
    ]
    nodes.run()
    for one in asked:
        assert isinstance(one.body, one.request.REPLY), one.request
        assert one.known.end_offset >= one.metadata_offset > 0
    assert asked[4].body.node_id == 4
    assert asked[4].body.cluster_id == "cluster"


def test_an_answer_waits_until_the_asking_node_knows_what_it_speaks_of(cluster, topic):
    nodes = cluster(3)
    nodes[2].follows = False
    asked = nodes[2].ask(topic("t"))
    nodes.run()
    assert "t" in nodes[3].context.image.topics
    assert asked.outcome is None
    nodes[2].apply()
    nodes.run()
    assert asked.body.topics[0].error_code == 0


def test_errors_of_the_request_come_back_as_they_are(cluster):
    nodes = cluster(3)
    asked = nodes[2].ask(RemoveNodeRequest(7))
    nodes.run()
    assert asked.outcome.code == 102
    assert "there is no node 7" in asked.outcome.message


def test_an_error_is_told_once_the_controller_knows_that_it_still_leads(cluster):
    nodes = cluster(3)
    nodes.auto_commit = False
    asked = nodes[1].ask(RemoveNodeRequest(7))
    nodes.run()
    assert asked.outcome is None
    nodes.commit()
    nodes.run()
    assert asked.outcome.code == 102


def test_requests_wait_for_a_leader(cluster, topic):
    nodes = cluster(3)
    nodes.nobody_leads()
    asked = nodes[2].ask(topic("t"))
    nodes.run_for(5_000)
    assert asked.outcome is None
    nodes.elect(3)
    nodes.run_for(0)
    assert asked.body.topics[0].error_code == 0


def test_without_a_majority_a_request_times_out_and_says_why(cluster, topic):
    nodes = cluster(3)
    nodes.nobody_leads()
    nodes[2].links[3].change(LinkState.REFUSED)
    nodes[2].links[1].change(LinkState.DOWN)
    start_ms = nodes.clock.now_ms
    asked = nodes[2].ask(topic("t", timeout_ms=2_000))
    other = nodes[2].ask(InitProducerIdRequest())
    nodes.run_for(40_000)
    assert isinstance(asked.outcome, RequestTimedOutError)
    assert "node 2 reaches 1 of the 3 voters [1, 2, 3], and a majority of 2" in asked.outcome.message
    assert 1_500 <= asked.answered_ms - start_ms <= 2_000
    assert 25_000 <= other.answered_ms - start_ms <= 30_000


def test_a_controller_that_is_not_reached_is_named(cluster, topic):
    nodes = cluster(3)
    nodes[2].links[1].change(LinkState.DOWN)
    asked = nodes[2].ask(topic("t", timeout_ms=1_000))
    nodes.run_for(1_000)
    assert "the controller is node 1, and the connection to it is down" in asked.outcome.message


def test_a_leader_without_a_majority_says_so(cluster, topic):
    nodes = cluster(3)
    nodes.auto_commit = False
    asked = nodes[1].ask(topic("t", timeout_ms=1_000))
    nodes.run_for(1_000)
    assert "node 1 is the controller, but a majority of 2 of the 3 voters" in asked.outcome.message
    nodes.commit()  # too late
    nodes.run()


def test_a_node_that_does_not_hear_of_the_commit_says_so(cluster, topic):
    nodes = cluster(3)
    nodes[2].follows = False
    asked = nodes[2].ask(topic("t", timeout_ms=1_000))
    nodes.run_for(1_000)
    assert f"decided at metadata offset {len(nodes.log)}" in asked.outcome.message
    nodes[2].apply()
    nodes.run()


def test_a_broken_link_is_tried_again_as_soon_as_it_is_mended(cluster, topic):
    nodes = cluster(3)
    link = nodes[2].links[1]
    link.held = True
    asked = nodes[2].ask(topic("t"))
    nodes.run()
    link.change(LinkState.DOWN)
    link.held = False
    nodes.run_for(150)
    link.change(LinkState.UP)
    nodes.run()
    assert asked.body.topics[0].error_code == 0


def test_attempts_become_rarer_but_never_slow(cluster, topic):
    nodes = cluster(3)
    link = nodes[2].links[1]
    link.change(LinkState.DOWN)
    nodes.run()
    nodes[2].ask(topic("t"))
    before = link.seen
    nodes.run_for(10)
    assert link.seen - before == 1
    nodes.run_for(20 + 40 + 80 + 160)
    assert link.seen - before == 5
    nodes.run_for(1_000)
    assert link.seen - before == 10


def lose_answers(nodes, *asked_of_2):
    """Let node 1 carry out what node 2 asks, and node 2 not hear of it; then mend the link."""
    nodes.auto_commit = False
    asked = [nodes[2].ask(request) for request in asked_of_2]
    nodes.run()
    nodes[2].links[1].change(LinkState.DOWN)
    nodes.auto_commit = True
    nodes.run()
    assert all(one.outcome is None for one in asked)
    return asked


def test_a_creation_whose_answer_was_lost_has_succeeded_if_it_is_as_it_was_wanted(cluster, topic):
    nodes = cluster(3)
    (asked,) = lose_answers(nodes, topic("t", 2, retention_ms=7))
    nodes[2].links[1].change(LinkState.UP)
    nodes.run()
    (result,) = asked.body.topics
    assert (result.error_code, result.topic_id) == (0, nodes.image.topics["t"].topic_id)


def test_a_creation_whose_answer_was_lost_has_succeeded_though_its_node_still_knew_the_topic_before(cluster, topic):
    nodes = cluster(3)
    nodes[1].ask(topic("t", 1))
    nodes.run()
    nodes[2].follows = False
    nodes[1].ask(DeleteTopicsRequest(["t"], 1000))
    nodes.run()
    (asked,) = lose_answers(nodes, topic("t", 1))
    nodes[2].follows = True
    nodes[2].apply()
    nodes[2].links[1].change(LinkState.UP)
    nodes.run()
    (result,) = asked.body.topics
    assert (result.error_code, result.topic_id) == (0, nodes.image.topics["t"].topic_id)


def test_a_creation_whose_answer_was_lost_has_succeeded_though_the_topic_moves_by_now(cluster, topic):
    nodes = cluster(4)
    (asked,) = lose_answers(nodes, topic("t", 1, factor=2))
    replicas = nodes.image.topics["t"].partitions[0].replicas
    others = [node_id for node_id in (1, 2, 3, 4) if node_id not in replicas]
    nodes[1].ask(AlterPartitionReassignmentsRequest([Reassignment("t", 0, others)], 1000))
    nodes.run()
    assert nodes.image.topics["t"].partitions[0].adding
    nodes[2].links[1].change(LinkState.UP)
    nodes.run()
    (result,) = asked.body.topics
    assert (result.error_code, result.replication_factor) == (0, 2)


@pytest.mark.parametrize("other", [{"partitions": 3}, {"factor": 1}, {"retention_ms": 8}])
def test_a_creation_that_another_one_came_before_is_refused(cluster, topic, other):
    nodes = cluster(3)
    nodes[2].links[1].held = True
    asked = nodes[2].ask(topic("t", partitions=2, factor=3, retention_ms=7))
    nodes.run()
    nodes[3].ask(topic("t", **{"partitions": 2, "factor": 3, "retention_ms": 7, **other}))
    nodes.run()
    nodes[2].links[1].change(LinkState.DOWN)
    nodes[2].links[1].held = False
    nodes.run()
    nodes[2].links[1].change(LinkState.UP)
    nodes.run()
    assert asked.body.topics[0].error_code == 36


def test_a_creation_of_what_had_been_there_is_refused_however_often_it_is_sent(cluster, topic):
    nodes = cluster(3)
    nodes[3].ask(topic("t"))
    nodes.run()
    nodes[2].links[1].held = True
    asked = nodes[2].ask(topic("t"))
    nodes.run()
    nodes[2].links[1].change(LinkState.DOWN)
    nodes[2].links[1].held = False
    nodes.run()
    nodes[2].links[1].change(LinkState.UP)
    nodes.run()
    assert asked.body.topics[0].error_code == 36


def test_other_repeated_requests_that_were_carried_out_have_succeeded(cluster, topic):
    nodes = cluster(4, joined=False)
    nodes.elect(1)
    nodes.run()
    nodes.join(1, 2, 3)
    nodes[1].ask(topic("wide"))
    nodes[1].ask(topic("gone"))
    nodes.run()
    nodes.join(4)
    nodes[1].ask(DrainNodeRequest(4))
    nodes.run()
    requests = (
        CreatePartitionsRequest([PartitionCount("wide", 3)], 1000),
        DeleteTopicsRequest(["gone"], 1000),
        RemoveNodeRequest(4),
    )
    wider, deleted, removed = lose_answers(nodes, *requests)
    nodes[2].links[1].change(LinkState.UP)
    again = [nodes[3].ask(request) for request in requests]  # for the first time, but done already
    nodes.run()
    assert wider.body.topics[0].error_code == deleted.body.topics[0].error_code == 0
    assert isinstance(removed.outcome, Answer)
    assert [again[0].body.topics[0].error_code, again[1].body.topics[0].error_code] == [37, 3]
    assert again[2].outcome.code == 102


def test_a_repeated_deletion_spares_a_topic_that_was_created_since(cluster, topic):
    nodes = cluster(3)
    nodes[1].ask(topic("t", 1))
    nodes[1].ask(topic("u", 1))
    nodes.run()
    (deleted,) = lose_answers(nodes, DeleteTopicsRequest(["t", "none", "u"], 1000))
    assert "t" not in nodes.image.topics
    nodes[3].ask(topic("t", 1))
    nodes.run()
    created = nodes.image.topics["t"]
    nodes[2].links[1].change(LinkState.UP)
    nodes.run()
    assert nodes.image.topics["t"] == created
    assert [result.error_code for result in deleted.body.topics] == [103, 3, 0]
    assert f"created anew: it has the id {created.topic_id}" in deleted.body.topics[0].error_message


def test_a_repeated_deletion_by_a_node_that_knew_the_topic_before_is_no_success(cluster, topic):
    nodes = cluster(3)
    nodes[1].ask(topic("t", 1))
    nodes.run()
    nodes[2].follows = False
    nodes[1].ask(DeleteTopicsRequest(["t"], 1000))
    nodes.run()
    nodes[1].ask(topic("t", 1))
    nodes.run()
    nodes[2].links[1].held = True
    deleted = nodes[2].ask(DeleteTopicsRequest(["t"], 1000))
    nodes.run()
    nodes[2].links[1].change(LinkState.DOWN)
    nodes[2].links[1].held = False
    nodes[2].follows = True
    nodes[2].apply()
    nodes[2].links[1].change(LinkState.UP)
    nodes.run()
    (result,) = deleted.body.topics
    assert ("t" in nodes.image.topics) == (result.error_code != 0)


def test_a_repeated_deletion_of_what_its_node_saw_only_since_has_succeeded(cluster, topic):
    nodes = cluster(3)
    nodes[2].follows = False
    nodes[1].ask(topic("t", 1))
    nodes.run()
    (deleted,) = lose_answers(nodes, DeleteTopicsRequest(["t"], 1000))
    assert "t" in nodes.image.topics, "node 2 cannot say which one it means"
    nodes[2].context.image = next(image for image in reversed(nodes.images) if "t" in image.topics)
    nodes[2].reactor.tell(CONTROLLER, ImageApplied(nodes[2].context.image.end_offset))
    nodes.run()
    nodes[2].follows = True
    nodes[2].apply()
    nodes[2].links[1].change(LinkState.UP)
    nodes.run()
    assert deleted.body.topics[0].error_code == 0
    assert "t" not in nodes.image.topics


@pytest.mark.parametrize("knows", [True, False])
def test_a_deletion_that_comes_late_spares_a_topic_that_was_created_since(cluster, topic, knows):
    nodes = cluster(3)
    nodes[2].follows = knows
    nodes[1].ask(topic("t", 1))
    nodes.run()
    link = nodes[2].links[1]
    link.held = True
    deleted = nodes[2].ask(DeleteTopicsRequest(["t"], 1000))
    nodes.run()
    (late,) = link.waiting
    link.change(LinkState.DOWN)
    link.held = False
    link.change(LinkState.UP)
    nodes[2].follows = True
    nodes[2].apply()
    nodes.run()
    assert deleted.body.topics[0].error_code == 0
    assert "t" not in nodes.image.topics
    nodes[3].ask(topic("t", 1))
    nodes.run()
    created = nodes.image.topics["t"]
    link.deliver(late)
    nodes.run()
    assert nodes.image.topics["t"] == created


def test_a_first_deletion_is_by_name_whatever_its_node_knows(cluster, topic):
    nodes = cluster(3)
    nodes[1].ask(topic("t", 1))
    nodes.run()
    nodes[2].follows = False
    nodes[1].ask(DeleteTopicsRequest(["t"], 1000))
    nodes[1].ask(topic("t", 1))
    nodes.run()
    deleted = nodes[2].ask(DeleteTopicsRequest(["t"], 1000))
    nodes.run()
    nodes[2].follows = True
    nodes[2].apply()
    nodes.run()
    assert deleted.body.topics[0].error_code == 0
    assert "t" not in nodes.image.topics


def test_a_hung_leader_s_answer_is_not_waited_for_when_another_leads(cluster, topic):
    nodes = cluster(3)
    nodes[2].links[1].held = True
    asked = nodes[2].ask(topic("t"))
    nodes.run_for(1_000)
    assert asked.outcome is None
    nodes.elect(3)
    nodes.run_for(0)
    assert asked.body.topics[0].error_code == 0
    nodes[2].links[1].release()  # the old one refuses, too late
    nodes.run_for(1_000)


def test_every_request_has_one_answer_and_every_success_is_committed(cluster, topic):  # noqa: C901, PLR0912
    """Links break, leaders come and go, commits lag: 20 runs with up to 40 requests each."""
    for seed in range(20):
        random = Random(seed)
        nodes = cluster(3)
        nodes.auto_commit = False
        asked = {}
        for step in range(160):
            match random.randrange(8):
                case 0 | 1:
                    if step % 2 and len(asked) < 40:
                        name = f"t{len(asked)}"
                        asked[name] = nodes[random.randint(1, 3)].ask(topic(name, timeout_ms=5_000))
                case 2:
                    nodes.elect(random.randint(1, 3), keep=random.choice(nodes.batch_ends))
                case 3:
                    nodes.nobody_leads()
                case 4:
                    a, b = random.sample((1, 2, 3), 2)
                    nodes[a].links[b].change(random.choice((LinkState.DOWN, LinkState.UP)))
                case 5:
                    a, b = random.sample((1, 2, 3), 2)
                    nodes[a].links[b].held = True
                case 6:
                    a, b = random.sample((1, 2, 3), 2)
                    nodes[a].links[b].release()
                case 7:
                    if nodes.leader_id != -1 and nodes.log:
                        nodes.commit(random.choice(nodes.batch_ends))
            nodes.run_for(random.choice((0, 1, 30)))
        for node in nodes.nodes.values():
            for link in node.links.values():
                link.change(LinkState.UP)
                link.release()
        nodes.auto_commit = True
        nodes.elect(random.randint(1, 3), keep=len(nodes.log))
        nodes.run_for(6_000)
        assert asked
        for name, one in asked.items():
            assert one.outcome is not None, (seed, name)
            if isinstance(one.outcome, BrokerError):
                assert isinstance(one.outcome, RequestTimedOutError), (seed, name, one.outcome)
            else:
                (result,) = one.body.topics
                assert result.error_code == 0, (seed, result)
                assert nodes.image.topics[name].topic_id == result.topic_id
                assert name in one.known.topics


@pytest.mark.parametrize("api", [0, 58, 9999])
def test_only_requests_that_exist_are_unwrapped(api):
    from zmqbroker.actors.forwarding import unwrapped
    from zmqbroker.transport.peer_messages import ForwardRequest

    with pytest.raises(BrokerError):
        unwrapped(ForwardRequest(api, []))
