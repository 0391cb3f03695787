"""`zmqbroker produce` and `zmqbroker consume`: lines in, lines out, and the ways that both end."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys

import pytest
from zmqbroker import Producer


@pytest.fixture
def at(zmqbroker_server):
    """The flag that says where the broker is."""
    return ["--bootstrap-server", zmqbroker_server.bootstrap_servers]


@pytest.fixture
def produce(zmqbroker_command, at, zmqbroker_topic):
    def run(*words, stdin=b""):
        return zmqbroker_command("produce", "--topic", zmqbroker_topic, *words, *at, stdin=stdin)

    return run


@pytest.fixture
def consume(zmqbroker_command, at, zmqbroker_topic):
    def run(*words):
        return zmqbroker_command("consume", "--topic", zmqbroker_topic, "--timeout-ms", "1000", *words, *at)

    return run


def test_lines_go_in_and_come_out_as_they_were(produce, consume):
    lines = b"first\n\nwith\ttab and \xff\xfe bytes\r\nlast, without newline"
    done = produce(stdin=lines)
    assert done.returncode == 0
    assert b"4 records" in done.stderr
    done = consume("--from-beginning", "--max-messages", "4")
    assert done.returncode == 0
    assert done.stdout == lines + b"\n"
    assert b"4 records" in done.stderr


def test_a_file_is_sent(produce, consume, tmp_path):
    file = tmp_path / "lines"
    file.write_bytes(b"".join(b"%d\n" % number for number in range(1000)))
    assert produce("--file", str(file), "--compression", "zstd").returncode == 0
    assert consume("--from-beginning", "--max-messages", "1000").stdout == file.read_bytes()


def test_a_file_that_is_not_there_is_refused(produce, refused):
    assert "no-such-file" in refused(produce("--file", "no-such-file"))


def test_keys_are_split_off_and_printed(produce, consume):
    assert produce("--key-separator", ":", stdin=b"a:1\nb:2:3\n:4\n").returncode == 0
    done = consume("--from-beginning", "--max-messages", "3", "--print-key", "--key-separator", "=")
    assert done.stdout == b"a=1\nb=2:3\n=4\n"


def test_a_line_without_key_separator_is_refused_by_number(produce, refused):
    assert "line 2" in refused(produce("--key-separator", ":", stdin=b"a:1\nnothing\n"))


def test_json_lines_hold_everything(zmqbroker_server, zmqbroker_topic, consume):
    with Producer(bootstrap_servers=zmqbroker_server.bootstrap_servers) as producer:
        producer.send(zmqbroker_topic, b"v", key="ü".encode(), headers=[("h", b"1"), ("n", None)], timestamp_ms=12345)
        producer.send(zmqbroker_topic, b"\xff", timestamp_ms=12346)
    done = consume("--from-beginning", "--max-messages", "2", "--format", "json")
    first, second = map(json.loads, done.stdout.splitlines())
    assert first == {
        "topic": zmqbroker_topic,
        "partition": 0,
        "offset": 0,
        "timestamp": 12345,
        "key": "ü",
        "value": "v",
        "headers": [{"name": "h", "value": "1"}, {"name": "n", "value": None}],
    }
    assert second["value_base64"] == "/w=="
    assert second["key"] is None


def test_all_fields_can_be_printed_as_text(zmqbroker_server, zmqbroker_topic, consume):
    with Producer(bootstrap_servers=zmqbroker_server.bootstrap_servers) as producer:
        producer.send(zmqbroker_topic, b"v", key=b"k", headers=[("h", b"1")], timestamp_ms=12345)
    flags = [f"--print-{name}" for name in ("key", "timestamp", "partition", "offset", "headers")]
    done = consume("--from-beginning", "--max-messages", "1", *flags, "--key-separator", "|")
    assert done.stdout == b"12345|0|0|h:1|k|v\n"


def test_one_partition_can_be_read_from_an_offset(zmqbroker_command, produce, consume, zmqbroker_topic, at):
    made = zmqbroker_command("topics", "create", "--topic", zmqbroker_topic, "--partitions", "2", *at)
    assert made.returncode == 0, made.stderr
    assert produce("--partition", "1", stdin=b"a\nb\nc\n").returncode == 0
    assert produce("--partition", "0", stdin=b"other\n").returncode == 0
    done = consume("--partition", "1", "--offset", "1", "--max-messages", "2")
    assert done.stdout == b"b\nc\n"


def test_without_records_it_ends_after_the_timeout(produce, consume):
    assert produce(stdin=b"before\n").returncode == 0
    done = consume()
    assert (done.returncode, done.stdout) == (0, b"")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--offset", "5"], "--partition"),
        (["--from-beginning", "--offset", "earliest"], "--from-beginning"),
        (["--property", "no.such=1"], "no_such"),
        (["--property", "nothing"], "KEY=VALUE"),
    ],
    ids=str,
)
def test_flags_that_do_not_fit_together_are_refused(consume, refused, flags, says):
    assert says in refused(consume(*flags))


@pytest.mark.parametrize("topic", ["..", "a/b", "x" * 250], ids=["dots", "slash", "long"])
@pytest.mark.parametrize("verb", ["produce", "consume"])
def test_a_bad_topic_name_is_refused(zmqbroker_command, at, refused, verb, topic):
    refused(zmqbroker_command(verb, "--topic", topic, *at, stdin=b"x\n"))


@pytest.mark.parametrize("verb", ["produce", "consume"])
def test_no_broker_is_refused_in_bounded_time(zmqbroker_command, refused, unused_port, verb):
    flags = ["--bootstrap-server", f"127.0.0.1:{unused_port}", "--request-timeout-ms", "500"]
    assert str(unused_port) in refused(zmqbroker_command(verb, "--topic", "t", *flags, stdin=b"x\n"))


def test_ctrl_c_ends_consume_in_good_order(produce, zmqbroker_topic, at):
    assert produce(stdin=b"one\n").returncode == 0
    command = [sys.executable, "-m", "zmqbroker", "consume", "--topic", zmqbroker_topic, "--from-beginning", *at]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"one\n"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 0
    assert told == f"1 records read from topic {zmqbroker_topic}\n".encode()


def test_a_closed_pipe_ends_consume_without_complaint(produce, zmqbroker_topic, at):
    assert produce(stdin=b"a line\n" * 50_000).returncode == 0
    command = [sys.executable, "-m", "zmqbroker", "consume", "--topic", zmqbroker_topic, "--from-beginning", *at]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"a line\n"
    process.stdout.close()
    assert process.wait(30) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_progress_bar_is_drawn_on_a_terminal_only(zmqbroker_topic, at, tmp_path):
    file = tmp_path / "lines"
    file.write_bytes(b"some line or other\n" * 20_000)
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "zmqbroker", "produce", "--topic", zmqbroker_topic, "--file", str(file), *at]
    with subprocess.Popen(command, stderr=slave, stdin=subprocess.DEVNULL) as process:
        os.close(slave)
        drawn = b""
        try:
            while data := os.read(master, 4096):
                drawn += data
        except OSError:  # how Linux says that the last one has closed the terminal
            pass
        assert process.wait(30) == 0
    os.close(master)
    assert "━".encode() in drawn
    assert b"20,000 records" in drawn


def test_a_group_goes_on_where_it_was(produce, consume, zmqbroker_topic):
    assert produce(stdin=b"one\ntwo\nthree\nfour\n").returncode == 0
    group = ["--group", f"cli-{zmqbroker_topic}", "--from-beginning"]
    first = consume(*group, "--max-messages", "2")
    assert first.stdout.splitlines() == [b"one", b"two"]
    assert consume(*group, "--max-messages", "2").stdout.splitlines() == [b"three", b"four"]
