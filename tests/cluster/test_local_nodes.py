"""`zmqbroker start --nodes N` and `--join`: stopped and started again, grown from one node, and what is refused."""

from __future__ import annotations

import os
import shutil
import signal
import socket

import pytest
from zmqbroker import Admin, Consumer, NewTopic, Producer, TopicPartition
from zmqbroker.cli.local_nodes import check_ports
from zmqbroker.errors import ConfigError
from zmqbroker.settings import BrokerConfig
from zmqbroker.testing.process import process_is_alive

VALUES = [b"%d" % number for number in range(50)]


@pytest.fixture
def start(broker_process, tmp_path):
    """Start nodes under one supervisor on the test's folder; returns it and the ready line of each."""

    def run(nodes=3, *flags):
        words = ["--nodes", str(nodes), *flags]
        broker = broker_process(data_dir=str(tmp_path / "data"), flags=words, error_path=str(tmp_path / "errors"))
        broker.launch()
        ready = [broker.wait_ready() for _ in range(nodes)]
        return broker, sorted(ready, key=lambda line: line.node_id)

    return run


def servers(ready):
    return ",".join(line.address.removeprefix("tcp://") for line in ready)


def write(bootstrap, topic):
    with Producer(bootstrap_servers=bootstrap) as producer:
        for value in VALUES:
            producer.send(topic, value)
        producer.flush()


def read(bootstrap, topic, **settings):
    """All values of the topic's first partition."""
    with Consumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", **settings) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        found = []
        for _ in range(100):
            found += [record.value for records in consumer.poll(200).values() for record in records]
            if len(found) >= len(VALUES):
                break
        if settings:
            consumer.commit()
        return found


def replication(admin, topic):
    (described,) = admin.describe_topics([topic])
    return {len(partition.isr) for partition in described.partitions}


def test_a_cluster_is_stopped_and_comes_back_where_it_was(start):
    broker, before = start()
    with Admin(bootstrap_servers=servers(before)) as admin:
        admin.create_topics([NewTopic("t", 1, 3)])
    write(servers(before), "t")
    assert broker.stop() == 0
    _, after = start()
    assert [line.address for line in after] == [line.address for line in before]
    assert read(servers(after[1:]), "t") == VALUES


def test_a_node_that_is_killed_is_started_again_and_the_others_go_on(start):
    broker, ready = start()
    with Admin(bootstrap_servers=servers(ready)) as admin:
        admin.create_topics([NewTopic("t", replica_assignments=[[2, 1, 3]])])
        os.kill(ready[1].node_pid, signal.SIGKILL)
        write(servers(ready), "t")
        again = broker.wait_ready()
        assert (again.node_id, again.address) == (2, ready[1].address)
    assert read(servers(ready), "t") == VALUES
    assert broker.stop() == 0


def test_a_single_nodes_folder_grows_into_a_cluster(start, zmqbroker_command, eventually):
    broker, alone = start(1)
    with Admin(bootstrap_servers=servers(alone)) as admin:
        admin.create_topics([NewTopic("t", 1)])
        write(servers(alone), "t")
        assert read(servers(alone), "t", group_id="g") == VALUES
    assert broker.stop() == 0

    broker, ready = start()
    assert [line.node_id for line in ready] == [1, 2, 3]
    with Admin(bootstrap_servers=servers(ready)) as admin:
        eventually(lambda: replication(admin, "__consumer_offsets") == {3}, "offsets are on three nodes")
        words = ["topics", "reassign", "--topic", "t", "--replication-factor", "3"]
        done = zmqbroker_command(*words, "--bootstrap-server", servers(ready))
        assert done.returncode == 0, done.stderr
        assert replication(admin, "t") == {3}
        eventually(lambda: len(admin.describe_quorum().voters) == 3, "three voters")
        os.kill(ready[0].node_pid, signal.SIGSTOP)
        try:
            assert read(servers(ready[1:]), "t") == VALUES
            with Consumer(bootstrap_servers=servers(ready[1:]), group_id="g") as consumer:
                assert consumer.committed(TopicPartition("t", 0)) == len(VALUES)
        finally:
            os.kill(ready[0].node_pid, signal.SIGCONT)


def test_a_node_that_was_removed_goes_alone(start, zmqbroker_command, eventually, tmp_path):
    broker, ready = start()
    with Admin(bootstrap_servers=servers(ready)) as admin:
        eventually(lambda: len(admin.describe_quorum().voters) == 3, "three voters")
        admin.create_topics([NewTopic("t", 1, 2)])
        write(servers(ready), "t")
        for verb in ("drain", "remove"):
            done = zmqbroker_command("nodes", verb, "--node", "3", "--bootstrap-server", servers(ready))
            assert done.returncode == 0, done.stderr
    errors = tmp_path / "errors"
    eventually(lambda: not process_is_alive(ready[2].node_pid), "node 3 ends")
    eventually(lambda: "node 3 is not started again: node 3 was removed" in errors.read_text(), "it says why")
    assert [process_is_alive(line.node_pid) for line in ready[:2]] == [True, True]
    assert read(servers(ready[:2]), "t") == VALUES
    assert broker.stop() == 0
    broker, _ = start(2)
    assert broker.stop() == 0


def test_a_node_that_cannot_start_again_is_tried_again_and_the_others_go_on(start, eventually, tmp_path):
    broker, ready = start()
    port = int(ready[2].address.rpartition(":")[2])
    with socket.socket() as taker:
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        os.kill(broker.process.pid, signal.SIGSTOP)
        os.kill(ready[2].node_pid, signal.SIGKILL)
        eventually(lambda: can_bind(taker, port), "its port is free")
        os.kill(broker.process.pid, signal.SIGCONT)
        errors = tmp_path / "errors"
        eventually(lambda: "node 3 does not run: " in errors.read_text(), "it says why")
        write(servers(ready[:2]), "u")
    assert broker.wait_ready().node_id == 3
    assert [process_is_alive(line.node_pid) for line in ready[:2]] == [True, True]
    assert broker.stop() == 0


def test_the_first_node_founds_no_second_cluster_when_its_folder_is_lost(
    start, zmqbroker_process, refused, eventually, tmp_path
):
    broker, ready = start()
    with Admin(bootstrap_servers=servers(ready)) as admin:
        eventually(lambda: len(admin.describe_quorum().voters) == 3, "three voters")
        admin.create_topics([NewTopic("t", 1, 3)])
        assert broker.stop() == 0
    write_off(tmp_path / "data")
    told = refused(zmqbroker_process("start", "--data-dir", str(tmp_path / "data"), "--listen", "tcp://127.0.0.1:0"))
    assert "data/nodes/2 belongs to a node of a cluster" in told
    _, after = start()
    with Admin(bootstrap_servers=after[0].address.removeprefix("tcp://")) as admin:
        assert admin.list_topics() == ["t"]
        assert {node.node_id for node in admin.list_nodes()} == {1, 2, 3}


def write_off(folder):
    """Lose all files of node 1."""
    for entry in folder.iterdir():
        if entry.is_file():
            entry.unlink()
        elif entry.name != "nodes":
            shutil.rmtree(entry)


def test_nodes_that_are_a_part_of_a_cluster_hand_over_before_they_stop_together(
    start, broker_process, eventually, tmp_path
):
    other = broker_process(data_dir=str(tmp_path / "other"), error_path=str(tmp_path / "heard")).start()
    broker, ready = start(2, "--join", other.bootstrap_servers)
    with Admin(bootstrap_servers=other.bootstrap_servers) as admin:
        admin.create_topics([NewTopic("t", replica_assignments=[[2, 1], [3, 1]])])
        eventually(lambda: len(admin.describe_quorum().voters) == 3, "three voters")
    assert [line.node_id for line in ready] == [2, 3]
    assert broker.stop() == 0
    heard = (tmp_path / "heard").read_text()
    assert [heard.count(f"node {node_id} is about to stop") for node_id in (2, 3)] == [1, 1]


def can_bind(taker, port):
    try:
        taker.bind(("127.0.0.1", port))
        taker.listen()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("nodes", ["0", "65", "-1"])
def test_a_number_of_nodes_that_cannot_be_is_refused(zmqbroker_process, refused, tmp_path, nodes):
    done = zmqbroker_process("start", "--data-dir", str(tmp_path / "data"), "--nodes", nodes)
    assert "at most 64 nodes" in refused(done)
    assert not (tmp_path / "data").exists()


def test_ports_that_do_not_exist_are_refused(zmqbroker_process, refused, tmp_path):
    words = ["--nodes", "3", "--listen", "tcp://127.0.0.1:65534", "--data-dir", str(tmp_path / "data")]
    assert "65536" in refused(zmqbroker_process("start", *words))


def test_a_later_nodes_port_that_is_in_use_is_refused_before_anything_runs(zmqbroker_process, refused, tmp_path):
    with socket.socket() as third:
        third.bind(("127.0.0.1", 0))
        third.listen()
        port = third.getsockname()[1]
        words = ["--nodes", "3", "--listen", f"tcp://127.0.0.1:{port - 2}", "--data-dir", str(tmp_path / "data")]
        assert f"port {port} of 127.0.0.1 is in use" in refused(zmqbroker_process("start", *words))
    assert not (tmp_path / "data").exists()


def test_ports_that_were_just_left_are_free():
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as ZeroMQ does
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        host, port = listener.getsockname()
        configs = [BrokerConfig(listen=f"tcp://{host}:{port}")]
        with socket.create_connection((host, port)), pytest.raises(ConfigError, match=f"port {port} "):
            check_ports(configs)
        client = socket.create_connection((host, port))
        accepted, _ = listener.accept()
        accepted.close()  # first, so that the broker's end is what stays behind in TIME_WAIT
        client.close()
    check_ports(configs)
    check_ports([BrokerConfig(listen="tcp://no-such-interface:9292")])


def test_a_folder_of_another_cluster_does_not_join(broker_process, zmqbroker_process, tmp_path):
    one, other = broker_process().start(), broker_process(data_dir=str(tmp_path / "other")).start()
    assert other.stop() == 0
    words = ["--data-dir", other.data_dir, "--listen", "tcp://127.0.0.1:0", "--join", one.bootstrap_servers]
    done = zmqbroker_process("start", *words)
    assert done.returncode == 1
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("zmqbroker: this node's data folder belongs to cluster ")
    assert b"Traceback" not in done.stderr


def test_a_node_id_that_a_living_node_has_is_refused(broker_process, zmqbroker_process, refused, tmp_path):
    first = broker_process().start()
    words = ["--data-dir", str(tmp_path / "new"), "--listen", "tcp://127.0.0.1:0", "--join", first.bootstrap_servers]
    assert "node 1" in refused(zmqbroker_process("start", *words, "--set", "node.id=1"))
