"""The controller that leads: answers when all is committed, in order, and none that may be lost."""

from __future__ import annotations

from zmqbroker.actors.context import CONTROLLER
from zmqbroker.actors.peer_commands import AppendRefused, ForwardedCall
from zmqbroker.errors import BrokerIdNotRegisteredError, NotControllerError, StorageError, UnsupportedVersionError
from zmqbroker.transport.messages import InitProducerIdRequest, MetadataRequest
from zmqbroker.transport.peer_messages import HeartbeatNodeRequest


def test_an_answer_waits_for_the_commit_and_for_the_node_s_own_image(cluster, topic):
    nodes = cluster(1)
    nodes.auto_commit = nodes[1].follows = False
    asked = nodes[1].ask(topic("t"))
    nodes.run()
    assert asked.outcome is None
    nodes.commit()
    nodes.run()
    assert asked.outcome is None  # committed, but this node's actors do not know it
    nodes[1].apply()
    nodes.run()
    assert asked.body.topics[0].error_code == 0
    assert asked.known.end_offset >= asked.metadata_offset == len(nodes.log)


def test_answers_leave_in_the_order_of_the_commits(cluster, topic):
    nodes = cluster(1)
    nodes.auto_commit = False
    first, second = nodes[1].ask(topic("a")), nodes[1].ask(topic("b"))
    nodes.run()
    nodes.commit(first_end := nodes.appends[-2].offset + len(nodes.appends[-2].records))
    nodes.run()
    assert first.metadata_offset == first_end
    assert second.outcome is None
    nodes.commit()
    nodes.run()
    assert second.metadata_offset == len(nodes.log)


def test_a_decision_without_records_waits_for_what_it_was_decided_from(cluster, topic):
    nodes = cluster(1)
    nodes.auto_commit = False
    nodes[1].ask(topic("t"))
    again = nodes[1].ask(topic("t"))  # exists, if the first one is not lost
    refused = nodes[1].ask(HeartbeatNodeRequest(9, 0, 0))
    nodes.run()
    assert again.outcome is refused.outcome is None
    nodes.commit()
    nodes.run()
    assert again.body.topics[0].error_code == 36
    assert isinstance(refused.outcome, BrokerIdNotRegisteredError)


def test_a_heartbeat_that_changes_nothing_waits_for_nothing(cluster, topic):
    nodes = cluster(1)
    nodes.auto_commit = False
    nodes[1].ask(topic("t"))
    before = len(nodes.appends)
    beat = nodes[1].heartbeat()
    nodes.run()
    assert (beat.body.is_caught_up, beat.body.is_fenced) == (True, False)
    assert len(nodes.appends) == before + 1


def test_a_request_that_is_not_the_controller_s_is_refused(cluster):
    nodes = cluster(1)
    asked = nodes[1].ask(MetadataRequest())
    nodes.run()
    assert isinstance(asked.outcome, UnsupportedVersionError)


def test_a_new_leader_answers_nothing_before_its_epoch_is_committed(cluster, topic):
    nodes = cluster(1, joined=False)
    nodes.auto_commit = False
    nodes.elect(1)
    asked = nodes[1].ask(topic("t", factor=9))
    nodes.run()
    assert asked.outcome is None
    nodes.commit()
    nodes.run()
    assert asked.body.topics[0].error_code == 38


def test_producer_ids_are_never_given_twice(cluster):
    nodes = cluster(3)
    seen = []
    for leader in (1, 2, 3, 1):
        nodes.elect(leader, keep=len(nodes.log))
        asked = [nodes[node].ask(InitProducerIdRequest()) for node in (1, 2, 3) for _ in range(3)]
        nodes.run()
        seen += [one.body.producer_id for one in asked]
    assert len(set(seen)) == len(seen) == 36


def test_uncommitted_decisions_of_a_lost_lead_are_refused_and_decided_by_the_next_one(cluster, topic):
    nodes = cluster(3)
    nodes.auto_commit = False
    local, passed = nodes[1].ask(topic("local")), nodes[2].ask(topic("passed"))
    nodes.run()
    nodes.elect(3)  # without what was not committed
    nodes.run()
    assert local.outcome is passed.outcome is None
    nodes.auto_commit = True
    nodes.run_for(300)
    assert local.body.topics[0].error_code == passed.body.topics[0].error_code == 0
    assert set(nodes.image.topics) == {"local", "passed"}


def test_a_retried_creation_that_was_committed_after_all_has_succeeded(cluster, topic):
    nodes = cluster(3)
    nodes.auto_commit = False
    mine = nodes[2].ask(topic("t", 4, retention_ms=1000))
    other = nodes[2].ask(topic("t", 4, retention_ms=2000))
    nodes.run()
    nodes.elect(3, keep=len(nodes.log))  # the new leader has it, but the old one could not say so
    nodes.auto_commit = True
    nodes.run_for(300)
    (result,) = mine.body.topics
    assert (result.error_code, result.partitions) == (0, 4)
    assert result.topic_id == nodes.image.topics["t"].topic_id
    assert other.body.topics[0].error_code == 36  # it wanted another retention time


def test_voters_that_the_quorum_appends_shift_nothing(cluster, topic):
    nodes = cluster(3)
    nodes.auto_commit = False
    before = nodes[1].ask(topic("before"))
    nodes.run()
    nodes.write_voters(1, 2)
    after = nodes[1].ask(nodes[3].registration("process-3b"))  # sent before the controller hears of the voters
    nodes.run()
    nodes.commit()
    nodes.run()
    assert before.body.topics[0].error_code == 0
    nodes.auto_commit = True
    nodes.run_for(100)
    assert after.body.node_epoch == nodes.image.nodes[3].epoch
    assert nodes.image.nodes[3].incarnation == "process-3b"


def test_what_overtakes_the_news_of_the_voters_is_decided_anew(cluster, topic):
    nodes = cluster(1)
    nodes.auto_commit = False
    nodes[1].ask(topic("a"))
    nodes.run()
    nodes[1].quorum.held = []
    stale = nodes[1].ask(topic("b"))
    nodes.run()  # decided and sent; the quorum has not taken it yet
    nodes.write_voters(1)
    nodes[1].quorum.release()
    end = len(nodes.log)
    nodes.run()
    assert len(nodes.log) == end  # void
    nodes.auto_commit = True
    nodes.run_for(100)
    assert stale.body.topics[0].error_code == 0
    assert set(nodes.image.topics) == {"a", "b"}


def test_a_full_disk_refuses_what_was_decided_past_it_and_the_lead_goes_on(cluster, topic):
    nodes = cluster(1)
    nodes.auto_commit = False
    kept = nodes[1].ask(topic("kept"))
    nodes.run()
    image = nodes.image
    lost = nodes[1].ask(topic("lost"))
    nodes.run()
    del nodes.log[image.end_offset :], nodes.images[image.end_offset + 1 :]
    nodes.basis += 1
    nodes[1].reactor.tell(CONTROLLER, AppendRefused(nodes.epoch, image, nodes.basis, StorageError("no room")))
    nodes.run()
    assert isinstance(lost.outcome, StorageError)
    nodes.auto_commit = True
    again = nodes[1].ask(topic("lost"))
    nodes.run()
    assert kept.body.topics[0].error_code == again.body.topics[0].error_code == 0


def test_news_of_an_older_epoch_change_nothing(cluster, topic):
    nodes = cluster(3)
    nodes.auto_commit = False
    asked = nodes[1].ask(topic("t"))
    nodes.run()
    old_epoch = nodes.epoch
    nodes.elect(1)  # the same node in a later epoch: what was not committed is gone
    nodes[1].reactor.tell(CONTROLLER, AppendRefused(old_epoch, nodes.image, nodes.basis + 1, StorageError("no room")))
    nodes.run()
    nodes.auto_commit = True
    nodes.run_for(100)
    assert asked.body.topics[0].error_code == 0
    assert nodes.image.topics.keys() == {"t"}


def test_a_forwarded_call_is_refused_by_a_node_that_does_not_lead(cluster, topic):
    nodes = cluster(3)
    asked = Asked()
    nodes[3].reactor.tell(CONTROLLER, ForwardedCall(nodes[3].asker, asked, 0, topic("t")))
    nodes.run()
    assert isinstance(asked.outcome, NotControllerError)
    assert "t" not in nodes.image.topics


class Asked:
    """A request of another node."""

    request = outcome = None
