"""The embedded broker: starting, stopping, coming back with its data, refusing, and cleaning up."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from zmqbroker import Consumer, Producer
from zmqbroker.errors import ClosedError, ConfigError, ZmqBrokerError
from zmqbroker.testing import Broker

START_SECONDS_MAX = 0.1


def test_it_runs_the_real_node_and_removes_its_temporary_folder():
    with Broker() as broker:
        assert broker.is_running
        folder = Path(broker.data_dir)
        assert (folder / "meta.properties").is_file()
        with Producer(bootstrap_servers=broker.bootstrap_servers) as producer:
            assert producer.send("orders", b"one").get(timeout=10).offset == 0
    assert not broker.is_running
    assert not folder.exists()


def test_a_restart_keeps_address_and_data():
    with Broker() as broker:
        address = broker.bootstrap_servers
        with Producer(bootstrap_servers=address) as producer:
            producer.send("orders", b"one").get(timeout=10)
        broker.restart()
        assert broker.bootstrap_servers == address
        with Consumer(
            "orders", bootstrap_servers=address, auto_offset_reset="earliest", consumer_timeout_ms=10_000
        ) as consumer:
            assert next(iter(consumer)).value == b"one"


def test_a_folder_of_the_callers_own_stays(tmp_path):
    folder = tmp_path / "data"
    with Broker(data_dir=str(folder)) as broker:
        assert broker.data_dir == str(folder)
    assert (folder / "meta.properties").is_file()


def test_settings_are_those_of_the_broker():
    with Broker(num_partitions=3) as broker, Producer(bootstrap_servers=broker.bootstrap_servers) as producer:
        assert producer.partitions_for("orders") == {0, 1, 2}


def test_a_wrong_setting_is_refused_before_anything_starts():
    with pytest.raises(ConfigError, match=r"num.partitions"):
        Broker(num_partition=3)
    with pytest.raises(ConfigError, match=r"num.partitions"):
        Broker(num_partitions=0)


def test_a_folder_that_another_broker_holds_is_refused():
    with Broker() as broker:
        second = Broker(data_dir=broker.data_dir)
        with pytest.raises(ZmqBrokerError, match=broker.data_dir):
            second.start()
        assert not second.is_running


def test_a_port_in_use_is_refused_and_a_later_start_succeeds():
    with Broker() as broker:
        second = Broker(listen=f"tcp://{broker.bootstrap_servers}")
        with pytest.raises(ZmqBrokerError, match=broker.bootstrap_servers.rpartition(":")[2]):
            second.start()
        broker.stop()
        second.start()
        assert second.bootstrap_servers == broker.bootstrap_servers
        second.close()


def test_what_it_has_not_yet_is_said():
    broker = Broker()
    with pytest.raises(ClosedError, match="not been started"):
        _ = broker.bootstrap_servers
    with pytest.raises(ClosedError, match="no data folder"):
        _ = broker.data_dir
    broker.stop()
    broker.close()


def test_it_starts_in_a_tenth_of_a_second():
    best = min(_start_seconds() for _ in range(5))
    assert best < START_SECONDS_MAX


def _start_seconds() -> float:
    started = time.perf_counter()
    with Broker():
        return time.perf_counter() - started
