"""Chaos in a queue: eight workers, two of which are killed again and again, and the broker is killed midway.

    python tests/faults/queue_chaos.py --records 1000000 --seed 1

Some records are poison, which ends in the dead-letter topic. Each worker (queue_chaos_worker.py) writes down what it
gets and says; queue_chaos_checker.py judges that. Exit code 1 if anything was wrong; the logs are kept then.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from contextlib import ExitStack
from pathlib import Path

from zmqbroker import Admin, Consumer, NewTopic, Producer, TopicPartition
from zmqbroker.testing.process import BrokerProcess

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # pytest imports this file without its folder

from queue_chaos_checker import DeadLetter, judge  # noqa: E402
from queue_chaos_log import ENTRY  # noqa: E402

TOPIC, GROUP = "jobs", "workers"
DEAD_LETTERS = f"dlq.{GROUP}"
PARTITIONS = 4
WORKERS, CRASHERS = 8, 2
DELIVERY_LIMIT = 5
LEASE_MS = 5_000
VALUE_BYTES = 100
CHUNK = 1_000
END_SECONDS = 120.0
"""How long nothing may be worked off before the run is given up."""
ENTRIES_PER_RECORD = 2


class Worker:
    """A worker's process; one that crashes is started again, with a log of its own."""

    def __init__(self, name, servers, folder, work):
        self.name = name
        self.logs = []
        self.crashes = 0
        self.crash_at = None
        self._servers = servers
        self._folder = folder
        self._work = work
        self.process = None

    def start(self):
        log = self._folder / f"{self.name}-{self.crashes}.log"
        log.touch()
        self.logs.append(log)
        command = [sys.executable, str(HERE / "queue_chaos_worker.py"), "--servers", self._servers]
        command += ["--topic", TOPIC, "--group", GROUP, "--log", str(log), *self._work]
        with (self._folder / f"{self.name}.err").open("ab") as errors:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors)

    @property
    def has_begun(self):
        """Whether it has had a record."""
        return self.logs[-1].stat().st_size > 0

    def crash(self):
        self.process.kill()
        self.process.wait()
        self.crashes += 1
        self.crash_at = None
        self.start()

    def close(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Chaos:
    """The workers, and what is done to them."""

    def __init__(self, servers, args, folder):
        self._draw = random.Random(args.seed)
        self._breath = threading.Event()
        self._crash_seconds = args.crash_seconds
        work = ["--poll-records", str(args.poll_records), "--work-ms", str(args.work_ms)]
        self.workers = [Worker(f"w{number}", servers, folder, work) for number in range(WORKERS)]

    def start(self):
        for worker in self.workers:
            worker.start()

    def _plan_crash(self, worker):
        """A crashing worker lives for a while from its first record on, so that it crashes with records in hand."""
        if worker.crash_at is None and worker.has_begun:
            worker.crash_at = time.monotonic() + self._draw.uniform(0.3, 1.7) * self._crash_seconds

    def pass_time(self):
        """A moment; whose time has come crashes."""
        self._breath.wait(0.05)
        for worker in self.workers:
            if worker.process.poll() is not None:
                message = f"{worker.name} ended by itself with exit code {worker.process.returncode}"
                raise RuntimeError(message)
        for worker in self.workers[:CRASHERS]:
            self._plan_crash(worker)
            if worker.crash_at is not None and worker.crash_at <= time.monotonic():
                worker.crash()

    def handled(self):
        """How many deliveries were written down, about."""
        sizes = sum(log.stat().st_size for worker in self.workers for log in worker.logs)
        return sizes // ENTRY.size // ENTRIES_PER_RECORD

    def stop(self):
        for worker in self.workers:
            worker.process.terminate()
        return [
            f"{worker.name} ended with exit code {code}"
            for worker in self.workers
            if (code := worker.process.wait(END_SECONDS)) != 0 and worker.has_begun
        ]

    def close(self):
        for worker in self.workers:
            worker.close()


def produce(servers, records):
    """Send all records: each value is its number, filled up."""
    with Producer(bootstrap_servers=servers) as producer:
        for first in range(0, records, CHUNK):
            numbers = range(first, min(first + CHUNK, records))
            producer.send_many(TOPIC, [(b"%012d" % number).ljust(VALUE_BYTES, b".") for number in numbers])
        producer.flush(END_SECONDS)


def left_over(admin):
    """How many records of the queue are not finished."""
    (group,) = admin.describe_share_groups([GROUP])
    return sum(partition.lag for partition in group.partitions) if group.partitions else -1


def work_off(chaos, broker, records, admin):
    """Wait until everything is finished; the broker dies in the middle. How long it was gone."""
    best, best_at, gone = 1 << 62, time.monotonic(), None
    while True:
        chaos.pass_time()
        if gone is None:
            if chaos.handled() >= records // 2:
                begun = time.monotonic()
                broker.kill()
                broker.start()
                gone = time.monotonic() - begun
            continue
        left = left_over(admin)
        if left == 0:
            return gone
        if left < best:
            best, best_at = left, time.monotonic()
        if time.monotonic() > best_at + END_SECONDS:
            message = f"{left:,} records are left, and for {END_SECONDS:.0f} s none was finished"
            raise TimeoutError(message)


def dead_letters(servers):
    """Everything in the dead-letter topic."""
    partition = TopicPartition(DEAD_LETTERS, 0)
    found = []
    with Consumer(bootstrap_servers=servers, auto_offset_reset="earliest") as consumer:
        consumer.assign([partition])
        end = consumer.end_offsets([partition])[partition]
        while consumer.position(partition) < end:
            for records in consumer.poll(timeout_ms=1_000).values():
                found += [DeadLetter(int(record.value[:12]), dict(record.headers)) for record in records]
    return found


def run(args, folder):
    """Run it all; (what was wrong, counts)."""
    records = args.records
    with ExitStack() as closing:
        flags = [
            *("--set", "log.level=ERROR", "--set", f"group.share.record.lock.duration.ms={LEASE_MS}"),
            *("--set", f"group.share.delivery.count.limit={DELIVERY_LIMIT}"),
        ]
        broker = closing.enter_context(BrokerProcess(flags=flags))
        servers = broker.bootstrap_servers
        admin = closing.enter_context(Admin(bootstrap_servers=servers))
        admin.create_topics([NewTopic(TOPIC, num_partitions=PARTITIONS, replication_factor=1)])
        produce(servers, records)
        chaos = Chaos(servers, args, folder)
        closing.callback(chaos.close)
        begun = time.monotonic()
        chaos.start()
        gone = work_off(chaos, broker, records, admin)
        seconds = time.monotonic() - begun
        bad = chaos.stop()
        letters = dead_letters(servers)
        logs = [log.read_bytes() for worker in chaos.workers for log in worker.logs]
        wrong, counts = judge(logs, letters, records=records, delivery_limit=DELIVERY_LIMIT)
    counts["worker crashes"] = sum(worker.crashes for worker in chaos.workers)
    counts["broker killed, back after (ms)"] = round(gone * 1000)
    counts["records a second, crashes included"] = round(records / seconds)
    return wrong + bad, counts


def main():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--poll-records", type=int, default=500)
    parser.add_argument("--work-ms", type=float, default=0.0, help="how long the work on one poll's records takes")
    parser.add_argument("--crash-seconds", type=float, default=2.0, help="a crashing worker's life, on the average")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no process is left behind
    folder = Path(tempfile.mkdtemp(prefix="zmqbroker-queue-chaos-"))
    wrong, counts = run(args, folder)
    print(f"queue of {args.records:,} records, {WORKERS} workers, {CRASHERS} of them crashing, seed {args.seed}")
    for name, count in counts.items():
        print(f"  {name:42} {count:>12,}")
    if not wrong:
        print("  everything held")
        shutil.rmtree(folder)
        return 0
    print(f"  {len(wrong)} VIOLATIONS; the logs are in {folder}")
    for text in wrong:
        print(f"  - {text}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
