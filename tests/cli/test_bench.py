"""`zmqbroker bench ...`: each measures something plausible, and says it in both formats."""

from __future__ import annotations

import json

import pytest
from zmqbroker.cli.bench_report import Latencies, payload


@pytest.fixture
def bench(zmqbroker_command, zmqbroker_server, zmqbroker_topic):
    def run(verb, *words):
        at = ["--bootstrap-server", zmqbroker_server.bootstrap_servers, "--topic", zmqbroker_topic]
        done = zmqbroker_command("bench", verb, *words, *at)
        if "json" in words and done.returncode == 0:
            return json.loads(done.stdout)
        return done

    return run


def test_produce_then_consume(bench):
    flags = ["--num-records", "20000", "--record-size", "200", "--format", "json"]
    made = bench("produce", *flags, "--acks", "1", "--compression", "lz4", "--partitions", "2")
    assert made["records"] == 20000
    assert made["records_per_second"] > 1000
    assert made["mb_per_second"] == pytest.approx(made["records_per_second"] * 200 / 1e6, rel=0.01)
    assert 0 < made["latency_ms"]["p50"] <= made["latency_ms"]["p99"] <= made["latency_ms"]["max"]
    read = bench("consume", "--num-records", "20000", "--format", "json")
    assert read["records"] >= 20000


def test_send_many(bench):
    done = bench("produce", "--num-records", "5500", "--send-many")
    assert done.returncode == 0
    assert done.stdout.startswith(b"5,500 records in ")


def test_throughput_is_held(bench):
    made = bench("produce", "--num-records", "1500", "--throughput", "3000", "--format", "json")
    assert 0.4 < made["seconds"] < 5
    assert made["records_per_second"] < 3600


def test_latency(bench):
    found = bench("latency", "--num-records", "200", "--acks", "1", "--format", "json")
    assert set(found["latency_ms"]) == {"p50", "p95", "p99", "p99.9", "max"}
    assert b"p99" in bench("latency", "--num-records", "20").stdout


def test_too_few_records_are_said(bench, refused):
    bench("produce", "--num-records", "10")
    done = bench("consume", "--num-records", "1000", "--timeout-ms", "300")
    assert "only 11 of 1,000 records" in refused(done)


def test_percentiles():
    latencies = Latencies()
    assert latencies.summary() == {}
    for number in range(1, 1001):
        latencies.finish(-number / 1000 + latencies.now())
    assert latencies.summary()["p50"] == pytest.approx(501, abs=5)
    assert latencies.summary()["max"] == pytest.approx(1000, abs=5)


def test_payloads_have_their_size_and_are_always_the_same():
    assert len(payload(1000)) == 1000
    assert payload(50) == payload(50)
