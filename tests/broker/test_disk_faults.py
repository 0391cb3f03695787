"""A disk that is full, a flush that fails, bytes that changed: what is refused, what goes on, what ends the node."""

from __future__ import annotations

import pathlib

import pytest
from zmqbroker.actors.metadata_log import MetadataDamagedError
from zmqbroker.actors.reactor import NodeFatalError
from zmqbroker.errors import ZmqBrokerError
from zmqbroker.log.data_folder import DataFolderError
from zmqbroker.transport.messages import DescribeLogDirsRequest


def flip(node, name, position=-3):
    """Change one bit of the first segment of a log."""
    path = next(iter(sorted(pathlib.Path(node.folder, name).glob("*.log"))))
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def test_a_full_disk_refuses_appends_and_nothing_else(make_node, faults):
    client = make_node().client()
    client.create("a")
    client.create("b")
    sequence = {"producer_id": 1, "producer_epoch": 0}
    client.produce("a", b"0", base_sequence=0, **sequence)
    faults.full_for = "/a-0/"
    for acks in (-1, 1):
        result = client.produce("a", b"x", acks=acks, base_sequence=1, **sequence)
        assert (result.error_code, "No space left on device" in result.error_message) == (56, True)
    client.send_produce("a", b"x", acks=0)
    assert client.hears_nothing()
    assert client.values("a") == [b"0"]
    assert client.produce("b", b"x").error_code == 0
    assert client.end_offset("a") == 1
    faults.full_for = ""
    assert client.produce("a", b"1", base_sequence=1, **sequence).base_offset == 1
    assert client.values("a") == [b"0", b"1"]


def test_a_full_disk_refuses_the_roll_of_a_segment_too(make_node, faults):
    node = make_node()
    client = node.client()
    client.create("a", segment_bytes=300)
    client.produce("a", b"0" * 200)
    faults.full_for = "/a-0/"
    assert client.produce("a", b"x" * 200).error_code == 56
    faults.full_for = ""
    assert client.produce("a", b"1" * 200).base_offset == 1
    node.crash()
    assert node.start().client().values("a") == [b"0" * 200, b"1" * 200]


def test_the_counters_of_upkeep_survive_a_full_disk(make_node, faults, caplog, eventually):
    client = make_node(log_retention_check_interval_ms=5, log_flush_offset_checkpoint_interval_ms=5).client()
    client.create("a")
    client.produce("a", b"x")
    faults.full_for = "/data-0/"
    eventually(lambda: "have to wait" in caplog.text or "could not be written" in caplog.text, "upkeep says so")
    assert client.values("a") == [b"x"]
    faults.full_for = ""
    assert client.produce("a", b"y").error_code == 0


@pytest.mark.parametrize("which", ["/a-0/", "__cluster_metadata"])
def test_a_flush_that_fails_ends_the_node_and_is_never_tried_again(make_node, faults, which):
    node = make_node()
    client = node.client()
    client.create("a")
    client.produce("a", b"0")
    faults.flush_error_for = which
    if which == "/a-0/":
        client.send_produce("a", b"1")
    else:
        from zmqbroker.transport.messages import InitProducerIdRequest

        client.send(InitProducerIdRequest())
    error = node.wait()
    assert isinstance(error, NodeFatalError)
    assert "Input/output error" in str(error)
    assert faults.flushes_failed == 1
    faults.flush_error_for = ""
    client = node.start().client()
    assert client.values("a")[0] == b"0"
    assert client.produce("a", b"2").error_code == 0


def test_another_nodes_folder_is_refused(node, make_node):
    node.stop()
    with pytest.raises(DataFolderError, match="belongs to node 1, and this is node 2"):
        make_node(folder=node.folder, node_id=2)
    assert node.start().client().produce is not None


def test_a_folder_in_use_is_refused_and_stays_whole(node, make_node):
    client = node.client()
    client.create("a")
    with pytest.raises(DataFolderError, match="is in use by another process"):
        make_node(folder=node.folder)
    assert client.produce("a", b"x").error_code == 0


def test_an_address_in_use_is_refused_and_leaves_the_folder_clean(node, make_node):
    other = make_node()
    other.client().create("a")
    other.stop()
    with pytest.raises(ZmqBrokerError, match="in use by another process"):
        make_node(folder=other.folder, listen=f"tcp://127.0.0.1:{node.address.port}")
    client = other.start().client()
    client.produce("a", b"x")
    assert client.values("a") == [b"x"]


def test_clients_are_never_told_to_connect_to_a_wildcard(make_node):
    with pytest.raises(ZmqBrokerError, match=r"set advertised\.address=tcp://HOST:\d+ to what they can reach"):
        make_node(listen="tcp://0.0.0.0:0")
    node = make_node(listen="tcp://0.0.0.0:0", advertised_address="tcp://broker.example:9292")
    (info,) = node.on_reactor(lambda: list(node.context.image.nodes.values()))
    assert (info.host, info.port) == ("broker.example", 9292)


@pytest.mark.parametrize("ends", ["stop", "crash"])
def test_damaged_metadata_are_a_refusal_in_one_sentence_and_harm_nothing(node, ends):
    client = node.client()
    client.create("a")
    client.create("b")
    getattr(node, ends)()
    flip(node, "__cluster_metadata-0", position=-3)
    for _ in range(2):
        with pytest.raises(MetadataDamagedError, match=r"the metadata log is damaged.*put back __cluster_metadata-0"):
            node.start()
    flip(node, "__cluster_metadata-0", position=-3)
    assert node.start().client().produce("a", b"x").error_code == 0


@pytest.mark.parametrize("ends", ["stop", "crash"])
def test_a_flipped_bit_in_a_partition_is_said_and_what_is_good_is_served(node, ends):
    """In a header: one in a record is found by the client that reads it, which checks the batch's CRC."""
    client = node.client()
    client.create("a", 2, segment_bytes=300)
    for index in range(4):
        client.produce("a", b"%d" % index * 200)
    client.produce("a", b"other", partition=1)
    getattr(node, ends)()
    path = sorted(pathlib.Path(node.folder, "a-0").glob("*.log"))[2]
    data = bytearray(path.read_bytes())
    data[16] ^= 1
    path.write_bytes(data)
    client = node.start().client()
    assert [record.value for offset in (0, 1) for record in client.fetch("a", offset)[1]] == [b"0" * 200, b"1" * 200]
    state, records = client.fetch("a", 2)
    assert (state.error_code, records) == (2, [])
    assert "damaged at offset 2" in state.error_message
    assert client.produce("a", b"x").error_code == 56
    described = client.call(DescribeLogDirsRequest()).partitions
    assert "damaged at offset 2" in described[0].error_message
    assert described[1].error_message is None
    assert client.values("a", partition=1) == [b"other"]


def test_a_full_disk_at_the_start_is_a_refusal_in_one_sentence(node, faults):
    node.client().create("a")
    node.stop()
    faults.full_for = "__cluster_metadata"
    with pytest.raises(ZmqBrokerError, match="No space left on device"):
        node.start()
    faults.full_for = ""
    assert node.start().client().produce("a", b"x").error_code == 0


def test_a_folder_left_behind_by_a_deletion_is_not_taken_for_a_new_topic(node):
    """The node died between the record that deletes the topic and the removal of its folder."""
    import shutil

    client = node.client()
    client.create("a")
    client.produce("a", b"old")
    node.stop()
    shutil.copytree(f"{node.folder}/a-0", f"{node.folder}.saved")
    client = node.start().client()
    from zmqbroker.transport.messages import DeleteTopicsRequest

    client.call(DeleteTopicsRequest(["a"], 1000))
    node.crash()
    shutil.copytree(f"{node.folder}.saved", f"{node.folder}/a-0")
    client = node.start().client()
    client.create("a")
    assert client.values("a") == []
    assert client.produce("a", b"new").base_offset == 0
    assert pathlib.Path(node.folder, "a-0.0-stray").is_dir()
