"""A member of the group under chaos, in a process of its own: it reads, commits, and writes down what happens to it.

Its log has one JSON line an event, written at once, so that a SIGKILL loses none; times are the system's monotonic
clock in ns, which all processes share:

    assigned, revoked, lost   g: generation, p: partitions
    read                      r: [partition, first offset, last offset] of what a poll returned
    commit, refused           begun: ns, o: {partition: offset}; error: why it was refused
    closing, closed           around close()
    wrong                     why: what a poll returned is not what was sent
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from argparse import ArgumentParser

from zmqbroker import Consumer, ConsumerRebalanceListener
from zmqbroker.errors import ZmqBrokerError


class Log:
    """Appends events; also from the thread that calls back."""

    def __init__(self, path):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, event, **what):
        line = json.dumps({"t": time.monotonic_ns(), "e": event, **what}, separators=(",", ":"))
        os.write(self._file, line.encode() + b"\n")


class Listener(ConsumerRebalanceListener):
    """Writes down every change of the assignment. What is revoked is this member's until the call returns."""

    def __init__(self, consumer, log):
        self._consumer = consumer
        self._log = log

    def _write(self, event, partitions):
        generation = self._consumer.group_metadata().generation_id
        self._log(event, g=generation, p=sorted(partition.partition for partition in partitions))

    def on_partitions_revoked(self, revoked):
        self._write("revoked", revoked)

    def on_partitions_assigned(self, assigned):
        self._write("assigned", assigned)

    def on_partitions_lost(self, lost):
        self._write("lost", lost)


def ranges_of(found, log):
    """What a poll returned, as the log has it; each record's value is its own offset."""
    ranges = []
    for partition, records in found.items():
        first, last = records[0].offset, records[-1].offset
        if [int(record.value) for record in records] != list(range(first, first + len(records))):
            log(
                "wrong", why=f"{partition}: not every offset from {first} to {last}, with its number, once and in order"
            )
        ranges.append([partition.partition, first, last])
    return ranges


def commit(consumer, ranges, log, *, waits):
    """Commit what the last poll returned, and write down what became of it."""
    offsets = {partition: last + 1 for partition, _, last in ranges}
    begun = time.monotonic_ns()

    def done(_offsets, result):
        if isinstance(result, Exception):
            log("refused", begun=begun, o=offsets, error=f"{type(result).__name__}: {result}")
        else:
            log("commit", begun=begun, o=offsets)

    if not waits:
        consumer.commit_async(callback=done)
        return
    try:
        consumer.commit()
    except ZmqBrokerError as error:
        done(None, error)
    else:
        done(None, None)


def main():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--servers", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--strategy", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--session-timeout-ms", type=int, required=True)
    parser.add_argument("--commit-async", action="store_true")
    args = parser.parse_args()
    log = Log(args.log)
    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    consumer = Consumer(
        bootstrap_servers=args.servers,
        group_id=args.group,
        partition_assignment_strategy=(args.strategy,),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=args.session_timeout_ms,
        heartbeat_interval_ms=args.session_timeout_ms // 4,
        max_poll_interval_ms=20_000,
    )
    consumer.subscribe([args.topic], listener=Listener(consumer, log))
    while not stopping:
        found = consumer.poll(timeout_ms=50)
        if found:
            ranges = ranges_of(found, log)
            log("read", r=ranges)
            commit(consumer, ranges, log, waits=not args.commit_async)
    log("closing")
    consumer.close()
    log("closed")


if __name__ == "__main__":
    sys.exit(main())
