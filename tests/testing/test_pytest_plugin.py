"""The pytest plugin, used as those who install the package use it."""

from __future__ import annotations

import pytest
from zmqbroker import Consumer, Producer

pytest_plugins = ["pytester"]


def test_the_session_broker_serves(zmqbroker_server, zmqbroker_topic):
    with Producer(bootstrap_servers=zmqbroker_server.bootstrap_servers) as producer:
        producer.send(zmqbroker_topic, b"hello").get(timeout=10)
    with Consumer(
        zmqbroker_topic,
        bootstrap_servers=zmqbroker_server.bootstrap_servers,
        auto_offset_reset="earliest",
        consumer_timeout_ms=10_000,
    ) as consumer:
        assert next(iter(consumer)).value == b"hello"


@pytest.mark.parametrize("name", ["a/b c", "ü" * 300])
def test_topics_are_named_after_their_test(zmqbroker_topic, name):  # noqa: ARG001 - pytest puts it into the name
    assert zmqbroker_topic.startswith("test_topics_are_named_after_their_test-")
    assert len(zmqbroker_topic) < 120


def test_the_factory_makes_brokers_with_settings(zmqbroker_server_factory):
    one, other = zmqbroker_server_factory(num_partitions=2), zmqbroker_server_factory()
    assert one.bootstrap_servers != other.bootstrap_servers
    with Producer(bootstrap_servers=one.bootstrap_servers) as producer:
        assert producer.partitions_for("orders") == {0, 1}


def test_the_fixtures_are_there_without_any_import(pytester):
    pytester.makepyfile("""
        def test_one(zmqbroker_server):
            assert zmqbroker_server.is_running

        def test_two(zmqbroker_server_factory):
            assert zmqbroker_server_factory().is_running
    """)
    pytester.runpytest_subprocess("-q").assert_outcomes(passed=2)
