"""`zmqbroker log dump` and `log verify`: looking into a partition's files without a broker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from zmqbroker import Producer
from zmqbroker.testing import Broker

FILE = "00000000000000000000.log"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A data folder with a partition of three batches, left behind by a broker."""
    folder = tmp_path_factory.mktemp("written")
    with (
        Broker(data_dir=str(folder)) as broker,
        Producer(bootstrap_servers=broker.bootstrap_servers, compression_type="lz4") as producer,
    ):
        for values in ([b"a", b"b"], [b"\xff"], [b"c" * 100] * 10):
            producer.send_many("orders", values, key=b"k", timestamp_ms=1234567890123)
            producer.flush()
    return folder


@pytest.fixture
def partition(written, tmp_path):
    """A copy of the partition's folder, to be damaged."""
    copy = tmp_path / "orders-0"
    copy.mkdir()
    for file in (written / "orders-0").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def flip_a_bit(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(bytes(data))


def test_dump_lists_batches(zmqbroker_command, partition):
    done = zmqbroker_command("log", "dump", str(partition))
    assert done.returncode == 0
    head, *batches = done.stdout.decode().splitlines()
    assert head == str(partition / FILE)
    assert [line.split()[0] for line in batches] == ["0..1", "2..2", "3..12"]
    assert all(line.endswith("crc=ok") for line in batches)
    assert "compression=lz4" in batches[2]  # smaller ones are not worth it


def test_dump_of_a_segment_with_records_as_json(zmqbroker_command, partition):
    done = zmqbroker_command("log", "dump", str(partition / FILE), "--records", "--format", "json")
    batches = [json.loads(line) for line in done.stdout.splitlines()]
    assert [batch["records_count"] for batch in batches] == [2, 1, 10]
    first = {"offset": 0, "timestamp": 1234567890123, "key": "k", "value": "a", "headers": []}
    assert batches[0]["records"][0] == first
    assert batches[1]["records"][0]["value_base64"] == "/w=="


def test_dump_with_records_as_text(zmqbroker_command, partition):
    lines = zmqbroker_command("log", "dump", str(partition), "--records").stdout.decode().splitlines()
    assert lines[2] == "    offset=0 timestamp=1234567890123 key='k' value='a' headers=[]"


def test_verify_finds_nothing_wrong(zmqbroker_command, partition):
    done = zmqbroker_command("log", "verify", str(partition))
    assert done.returncode == 0
    assert b": 3 batches, " in done.stdout
    assert done.stdout.endswith(b"ok, next offset 13\n")


def test_a_flipped_bit_is_found(zmqbroker_command, partition):
    flip_a_bit(partition / FILE, (partition / FILE).stat().st_size - 1)
    assert b"crc=BAD" in zmqbroker_command("log", "dump", str(partition), "--records").stdout.splitlines()[-1]
    done = zmqbroker_command("log", "verify", str(partition), "--format", "json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["batches"], found["next_offset"]) == (2, 3)
    assert "CRC" in found["problem"]
    assert done.stderr == b"zmqbroker: 1 of 1 segments are damaged or end in a torn batch\n"


def test_a_torn_tail_is_found(zmqbroker_command, refused, partition):
    file = partition / FILE
    file.write_bytes(file.read_bytes()[:-5])
    assert "bytes" in refused(zmqbroker_command("log", "dump", str(partition)))
    assert zmqbroker_command("log", "verify", str(file)).returncode == 1


@pytest.mark.parametrize("verb", ["dump", "verify"])
def test_a_path_without_log_is_refused(zmqbroker_command, refused, tmp_path, verb):
    assert "does not exist" in refused(zmqbroker_command("log", verb, str(tmp_path / "nothing")))
    assert "no segments" in refused(zmqbroker_command("log", verb, str(tmp_path)))
    other = tmp_path / "file.txt"
    other.write_text("no log")
    assert str(other) in refused(zmqbroker_command("log", verb, str(other)))


def test_verify_of_a_running_brokers_log_takes_no_lock(zmqbroker_command, zmqbroker_server, zmqbroker_topic):
    with Producer(bootstrap_servers=zmqbroker_server.bootstrap_servers) as producer:
        producer.send(zmqbroker_topic, b"x").get(timeout=10)
    folder = Path(zmqbroker_server.data_dir) / f"{zmqbroker_topic}-0"
    assert zmqbroker_command("log", "verify", str(folder)).returncode == 0
