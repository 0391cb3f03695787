"""A worker of the queue under chaos, in a process of its own: it takes records, decides, and writes down what it did.

What its log looks like is said in queue_chaos_log.py.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from argparse import ArgumentParser

from queue_chaos_log import ACCEPTED, ALL, CONFIRMED, DELIVERED, ENTRY, FAILED, REJECTED, decision
from zmqbroker import ShareConsumer
from zmqbroker.errors import InvalidRecordStateError, ZmqBrokerError


class Worker:
    """Takes records until it is told to stop."""

    def __init__(self, args):
        self._file = os.open(args.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._consumer = ShareConsumer(
            args.topic,
            bootstrap_servers=args.servers,
            group_id=args.group,
            acknowledgement_mode="explicit",
            max_poll_records=args.poll_records,
            on_acknowledge_error=self._refused,
        )
        self._work_s = args.work_ms / 1000
        self._breath = threading.Event()
        self.stopping = False

    def run(self):
        while not self.stopping:
            try:
                records = self._consumer.poll(timeout_ms=100)
            except ZmqBrokerError as error:
                print(f"poll: {type(error).__name__}: {error}", file=sys.stderr)
                continue
            if records:
                self.work(records)
        self._consumer.close()

    def work(self, records):
        """Write down first, then say it, then wait until it holds."""
        now = time.monotonic_ns()
        decided = [(record, int(record.value[:12])) for record in records]
        decided = [(record, number, decision(number)) for record, number in decided]
        entries = [
            ENTRY.pack(DELIVERED, record.delivery_count, record.partition, number, record.offset, now)
            for record, number, _ in decided
        ]
        entries += [
            ENTRY.pack(kind, record.delivery_count, record.partition, number, record.offset, now)
            for record, number, kind in decided
        ]
        os.write(self._file, b"".join(entries))
        if self._work_s:
            self._breath.wait(self._work_s)
        for record, number, kind in decided:
            try:
                self.say(record, number, kind)
            except InvalidRecordStateError as error:  # its lease has ended meanwhile
                self._refused(record.topic_partition, error, [])
        self.confirm()

    def say(self, record, number, kind):
        if kind == ACCEPTED:
            self._consumer.acknowledge(record)
        elif kind == REJECTED:
            self._consumer.reject(record, reason=f"number {number} is poison")
        else:
            self._consumer.release(record, delay_ms=0)

    def confirm(self):
        try:
            self._consumer.commit()
        except InvalidRecordStateError:
            pass  # all is answered, and what was refused is written down
        except ZmqBrokerError as error:
            print(f"commit: {type(error).__name__}: {error}", file=sys.stderr)
            self._note(FAILED, ALL)
            return
        self._note(CONFIRMED, ALL)

    def _refused(self, partition, error, ranges):
        print(f"refused: {partition} {ranges}: {error}", file=sys.stderr)
        self._note(FAILED, partition.partition)

    def _note(self, kind, partition):
        os.write(self._file, ENTRY.pack(kind, 0, partition, 0, 0, time.monotonic_ns()))


def main():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--servers", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--poll-records", type=int, required=True)
    parser.add_argument("--work-ms", type=float, required=True, help="how long the work on one poll's records takes")
    worker = Worker(parser.parse_args())

    def stop(*_):
        worker.stopping = True

    signal.signal(signal.SIGTERM, stop)
    worker.run()


if __name__ == "__main__":
    sys.exit(main())
