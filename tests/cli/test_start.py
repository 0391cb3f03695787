"""`zmqbroker start`: its ready line, its exit codes, its refusals, and what happens when one of its processes dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from zmqbroker.actors.supervisor import BACKOFF_RESET_MS, next_backoff_ms
from zmqbroker.testing.process import parse_ready, process_is_alive


def test_ready_line_names_address_and_data_folder(broker_process, tmp_path):
    broker = broker_process(data_dir=str(tmp_path / "data")).start()
    assert broker.ready.address.startswith("tcp://127.0.0.1:")
    assert broker.ready.data_dir == str(tmp_path / "data")
    assert broker.ready.node_id == 1
    assert process_is_alive(broker.ready.node_pid)
    assert (tmp_path / "data" / "meta.properties").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_good_order(broker_process, number):
    broker = broker_process().start()
    node_pid = broker.ready.node_pid
    broker.process.send_signal(number)
    assert broker.process.wait(30) == 0
    assert not process_is_alive(node_pid)


def test_ctrl_c_reaches_both_processes_and_the_exit_code_is_0(broker_process):
    broker = broker_process().start()
    os.killpg(broker.process.pid, signal.SIGINT)
    assert broker.process.wait(30) == 0


def test_the_same_signal_twice_at_once_is_one_order_to_stop(broker_process):
    broker = broker_process().start()
    broker.process.send_signal(signal.SIGTERM)
    broker.process.send_signal(signal.SIGINT)
    assert broker.process.wait(30) == 0


def test_it_can_be_stopped_before_it_is_ready(broker_process):
    broker = broker_process()
    broker.launch()
    assert broker.stop() in (0, -signal.SIGTERM)  # the latter: before the first line of ours had run


def test_no_third_process_is_there(broker_process):
    broker = broker_process().start()
    children = Path(f"/proc/{broker.process.pid}/task/{broker.process.pid}/children").read_text().split()
    assert children == [str(broker.ready.node_pid)]


def test_a_node_that_dies_is_started_again_on_the_same_port(broker_process):
    broker = broker_process().start()
    before = broker.ready
    broker.kill_node()
    after = broker.wait_ready()
    assert after.address == before.address
    assert after.node_pid != before.node_pid
    assert not process_is_alive(before.node_pid)
    assert broker.stop() == 0


def test_a_node_whose_supervisor_is_killed_stops_by_itself(broker_process, eventually):
    broker = broker_process().start()
    node_pid = broker.ready.node_pid
    os.kill(broker.process.pid, signal.SIGKILL)
    eventually(lambda: not process_is_alive(node_pid), "the node ends")


def test_it_starts_again_after_everything_was_killed(broker_process):
    broker = broker_process().start()
    broker.kill()
    broker.start()
    assert broker.stop() == 0


def test_a_port_in_use_is_refused(broker_process, zmqbroker_process, refused, tmp_path):
    address = broker_process().start().ready.address
    done = zmqbroker_process("start", "--listen", address, "--data-dir", str(tmp_path))
    assert address.rpartition(":")[2] in refused(done)


def test_a_data_folder_that_is_held_is_refused(broker_process, zmqbroker_process, refused):
    folder = broker_process().start().data_dir
    done = zmqbroker_process("start", "--listen", "tcp://127.0.0.1:0", "--data-dir", folder)
    assert folder in refused(done)


def test_another_nodes_folder_is_refused(broker_process, zmqbroker_process, refused):
    broker = broker_process().start()
    assert broker.stop() == 0
    done = zmqbroker_process("start", "--data-dir", broker.data_dir, "--set", "node.id=7")
    assert "7" in refused(done)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("no.such.setting=1", "no.such.setting"),
        ("log.segmnt.bytes=1", "log.segment.bytes"),
        ("log.segment.bytes=64parsecs", "64parsecs"),
        ("num.partitions=0", "num.partitions"),
        ("num.partitions", "NAME=VALUE"),
        ("listen=http://here", "listen"),
    ],
)
def test_a_bad_setting_is_refused(zmqbroker_process, refused, tmp_path, setting, says):
    done = zmqbroker_process("start", "--data-dir", str(tmp_path / "data"), "--set", setting)
    assert says in refused(done)
    assert not (tmp_path / "data").exists()


def test_a_settings_file_is_read_and_flags_win(broker_process, tmp_path):
    file = tmp_path / "broker.toml"
    file.write_text('node_id = 5\nlog_level = "DEBUG"\n')
    broker = broker_process(flags=["--config", str(file), "--set", "node.id=6"]).start()
    assert broker.ready.node_id == 6


def test_a_settings_file_that_is_not_there_is_refused(zmqbroker_process, refused, tmp_path):
    done = zmqbroker_process("start", "--config", str(tmp_path / "none.toml"))
    assert "none.toml" in refused(done)


def test_a_closed_standard_output_does_not_stop_it(tmp_path, eventually):
    command = [sys.executable, "-m", "zmqbroker", "start", "--data-dir", str(tmp_path), "--listen", "tcp://127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        process.stdout.close()
        eventually((tmp_path / "__cluster_metadata-0").exists, "the node opens its log")
        process.terminate()
        assert process.wait(30) in (0, 120)  # 120: the interpreter's own, when it flushes into a pipe without reader
    finally:
        process.kill()
        process.wait()


def test_backoff_doubles_to_its_limit_and_is_forgotten_after_a_minute():
    waits = [0]
    for _ in range(9):
        waits.append(next_backoff_ms(waits[-1], alive_ms=5))
    assert waits[1:] == [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
    assert next_backoff_ms(10_000, alive_ms=BACKOFF_RESET_MS) == 100


def test_ready_lines_are_read_and_others_are_not():
    line = "zmqbroker ready: listening on tcp://127.0.0.1:9292, data in /srv/a (b) c (node 3, process 77)\n"
    assert parse_ready(line) == ("tcp://127.0.0.1:9292", "/srv/a (b) c", 3, 77, "")
    kafka = line.replace(", data", ", for Kafka's clients on [::1]:9092, data")
    assert parse_ready(kafka) == ("tcp://127.0.0.1:9292", "/srv/a (b) c", 3, 77, "[::1]:9092")
    assert parse_ready(line.replace("ready", "restarted and ready")) is not None
    assert parse_ready("zmqbroker is getting ready\n") is None
