"""How a node ends and comes back: in good order, by a failed invariant, by kill -9."""

from __future__ import annotations

from pathlib import Path

import pytest
from zmqbroker.testing import BrokerProcess
from zmqbroker.transport.messages import FetchRequest, MetadataRequest, NodeStatusRequest, ProduceRequest

MARKER = ".kafka_cleanshutdown"


def recovery(node, topic, partition=0):
    return node.on_reactor(lambda: node.leader(topic, partition).log.recovery)


def test_a_graceful_stop_answers_everybody(make_node, faults, eventually):
    node = make_node()
    client = node.client()
    client.create("a")
    fetches = [client.send_fetch("a", 0, wait_ms=60_000) for _ in range(3)]
    eventually(lambda: node.on_reactor(lambda: len(node.leader("a")._watches)) == 3, "the fetches wait")
    faults.hold_flushes("/a-0/")
    produces = [client.send_produce("a", b"%d" % index) for index in range(5)]
    eventually(lambda: node.on_reactor(lambda: len(node.leader("a")._role._waiting)) == 5, "all wait for their flush")
    node.node.stop()
    for number in fetches:
        reply = client.reply_to(number)
        assert client.body_of(reply, FetchRequest).partitions[0].error_code == 0
    faults.release()
    for number in produces:
        assert client.body_of(client.reply_to(number), ProduceRequest).partitions[0].error_code == 0
    assert node.wait() is None
    assert Path(node.folder, MARKER).exists()
    client = node.start().client()
    assert client.values("a") == [b"%d" % index for index in range(5)]


def test_after_a_clean_stop_nothing_is_scanned(node):
    client = node.client()
    client.create("a", segment_bytes=1000)
    for index in range(10):
        client.produce("a", b"%d" % index * 300)
    node.stop()
    assert Path(node.folder, MARKER).exists()
    client = node.start().client()
    assert not Path(node.folder, MARKER).exists(), "a running node is not stopped cleanly"
    found = recovery(node, "a")
    assert (found.scanned_bytes, found.truncated_bytes, found.rebuilt) == (0, 0, [])
    assert len(client.values("a")) == 10


def test_after_an_unclean_end_epochs_are_new_and_records_are_there(node):
    client = node.client()
    client.create("a", 2)
    for partition in (0, 1):
        client.produce("a", b"x", partition=partition)
    node.crash()
    assert not Path(node.folder, MARKER).exists()
    client = node.start().client()
    states = client.call(MetadataRequest(["a"])).topics[0].partitions
    assert all(state.leader_epoch > 0 for state in states)
    assert [client.values("a", partition=partition) for partition in (0, 1)] == [[b"x"], [b"x"]]


def test_a_stop_that_takes_too_long_gives_up_waiting(make_node, faults, caplog, eventually):
    node = make_node(graceful_shutdown_timeout_ms=50)
    client = node.client()
    client.create("a")
    faults.hold_flushes("/a-0/")
    client.send_produce("a", b"x")
    eventually(lambda: faults.waiting, "the flush is under way")
    node.node.stop()
    eventually(lambda: "stopping with 1 requests unanswered" in caplog.text, "it says so")
    faults.release()
    node.wait()


def test_stop_may_be_called_twice_and_a_stopping_node_takes_no_requests(node):
    client = node.client()
    client.call(NodeStatusRequest())
    node.node.stop()
    node.node.stop()
    assert node.wait() is None


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path, make_node):
    """In a process of its own: then the same folder is opened here."""
    from types import SimpleNamespace

    import zmq

    folder = str(tmp_path / "killed")
    context = zmq.Context()
    client = None
    try:
        with BrokerProcess(data_dir=folder) as broker:
            host, _, port = broker.bootstrap_servers.rpartition(":")
            from_conftest = type(make_node.__closure__ and make_node(folder=str(tmp_path / "other")).client())
            client = from_conftest(context, SimpleNamespace(host=host, port=int(port)), {})
            client.create("a")
            for index in range(50):
                assert client.produce("a", b"%d" % index, producer_id=1, producer_epoch=0, base_sequence=index)
            for _ in range(20):
                client.send_produce("a", b"unacked", acks=0)
            broker.kill()
    finally:
        if client is not None:
            client.socket.close(0)
        context.term()
    node = make_node(folder=folder)
    client = node.client()
    values = client.values("a")
    assert values[:50] == [b"%d" % index for index in range(50)]
    assert set(values[50:]) <= {b"unacked"}
    assert client.call(MetadataRequest(["a"])).topics[0].partitions[0].leader_epoch > 0
    repeat = client.produce("a", b"49", producer_id=1, producer_epoch=0, base_sequence=49)
    assert repeat.base_offset == 49


@pytest.mark.parametrize("ends", ["stop", "crash"])
def test_many_restarts_in_a_row(node, ends):
    for index in range(5):
        client = node.client()
        if index == 0:
            client.create("a")
        assert client.produce("a", b"%d" % index).base_offset == index
        getattr(node, ends)()
        node.start()
    assert node.client().values("a") == [b"%d" % index for index in range(5)]
