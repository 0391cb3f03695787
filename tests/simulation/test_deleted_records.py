"""Deleted records stay deleted whoever leads next, and a partition that is empty by that is as good as any other."""

from __future__ import annotations

import pytest
from zmqbroker.errors import RequestTimedOutError


def test_a_deletion_is_answered_once_all_in_sync_have_deleted(machines):
    cluster = machines()
    result = cluster.delete(5)
    assert (result.error_code, result.low_watermark) == (0, 5)
    assert cluster.logs() == [(5, 10)] * 3
    result = cluster.delete(3)
    assert (result.error_code, result.low_watermark) == (0, 5), "what is gone already is gone on all"


def test_a_follower_that_does_not_hear_of_it_holds_up_the_answer_as_long_as_it_is_in_sync(machines):
    cluster = machines(broker_session_timeout_ms=4_000)
    controller = cluster.leader.life.context.controller_id
    follower = next(node for node in cluster.cluster if node not in (cluster.leader, cluster.node(controller)))
    follower.pause()
    began_ms = cluster.world.now_ms
    result = cluster.delete(5, timeout_ms=1_000)
    assert result.error_code == RequestTimedOutError.code
    result = cluster.delete(5)
    assert (result.error_code, result.low_watermark) == (0, 5)
    assert cluster.world.now_ms - began_ms > 2_000
    follower.resume()
    cluster.run_until(lambda: cluster.logs() == [(5, 10)] * 3)


@pytest.mark.parametrize("restarted", ["the leader", "all"])
def test_a_partition_whose_records_are_all_deleted_goes_on_after_a_restart(machines, restarted):
    """The leader that comes back has no record of the epoch that its followers name."""
    cluster = machines()
    assert cluster.delete(10).error_code == 0
    nodes = list(cluster.cluster) if restarted == "all" else [cluster.leader]
    cluster.restart(*nodes)
    cluster.run_until(lambda: cluster.is_whole() and cluster.state().leader == 1)
    assert cluster.logs() == [(10, 10)] * 3
    result = cluster.produce(10)
    assert (result.error_code, result.base_offset) == (0, 10)
    cluster.run_until(lambda: cluster.logs() == [(10, 11)] * 3)


def test_a_leader_without_epochs_tells_its_followers_where_it_begins(machines):
    """Its checkpoint is lost, and there is no record to learn the epochs from; nobody loops, or goes back before it."""
    cluster = machines()
    assert cluster.delete(10).error_code == 0
    leader = cluster.leader
    leader.on_stop.append(lambda node: node.disk.remove("/data/data-0/leader-epoch-checkpoint"))
    cluster.restart(leader)
    cluster.run_until(lambda: cluster.is_whole() and cluster.state().leader == 1)
    assert cluster.logs() == [(10, 10)] * 3
    assert cluster.produce(10).base_offset == 10
    cluster.run_until(lambda: cluster.logs() == [(10, 11)] * 3)


def test_followers_of_an_idle_partition_hear_of_what_its_leader_has_deleted_by_age(machines):
    settings = (("flush", "ack"), ("retention.ms", "1000"), ("segment.ms", "500"))
    cluster = machines(settings, log_retention_check_interval_ms=300)
    cluster.run_until(lambda: cluster.logs() == [(10, 10)] * 3)
