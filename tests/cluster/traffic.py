"""Clients that are at work all the time: producers, a consumer group and an admin client, and what became of it all.

Every producer writes `NAME:NUMBER`, counting up, to all partitions in turn, and notes what is acknowledged. Nothing is
repeated by hand: what a client cannot mend by itself is raised, noted as a failure, and ends that client.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, defaultdict
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

from zmqbroker import Admin, Consumer, NewTopic, Producer, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable

TOPIC, GROUP = "traffic", "readers"
PARTITIONS = 6
END_SECONDS = 30.0
PAUSE_SECONDS = 0.005
"""Between two batches of a producer: the nodes share two cores with their clients."""


class Account:
    """How often one client got an answer, the longest time that it had to wait for one, and what it could not mend."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.answers = 0
        self.longest_ms = 0.0
        self.longest_at = 0.0
        self.error: BaseException | None = None
        self._last = time.monotonic()

    def answered(self, count: int = 1) -> None:
        """Note an answer."""
        now = time.monotonic()
        gap_ms = (now - self._last) * 1000
        if gap_ms > self.longest_ms and self.answers:
            self.longest_ms, self.longest_at = gap_ms, now
        self._last = now
        self.answers += count


class Verdict(NamedTuple):
    """What a run has come to."""

    written: int
    lost: list[str]
    """Acknowledged, and not in the log."""
    doubled: list[str]
    """In the log twice."""
    unread: list[str]
    """In the log, and not given to the group."""
    swapped: list[str]
    """Behind a later one of the same producer and partition."""
    read_again: int
    """Given to the group more than once, which a rebalance may cause."""
    failures: list[str]
    gaps: dict[str, float]
    """The longest time in ms that a client was without an answer."""

    def check(self, at_least: int) -> None:
        """Raise AssertionError if anything is wrong, or too little was done to say so."""
        assert not self.failures, self.failures
        assert self.written >= at_least, f"{self.written} records are too few to mean anything"
        for what in ("lost", "doubled", "unread", "swapped"):
            found = getattr(self, what)
            assert not found, f"{len(found)} {what}: {found[:5]}"

    def __str__(self) -> str:
        gaps = ", ".join(f"{name} {ms:.0f} ms" for name, ms in self.gaps.items())
        return (
            f"{self.written} records written, {len(self.lost)} lost, {len(self.doubled)} doubled, {len(self.unread)}"
            f" unread, {len(self.swapped)} swapped, {self.read_again} read again; {len(self.failures)} failures;"
            f" longest gaps: {gaps}"
        )


class Traffic:
    """Two producers, two members of a group and an admin client, each on a thread of its own."""

    def __init__(self, servers: str, replication_factor: int = 3) -> None:
        self.servers = servers
        self.accounts: dict[str, Account] = {}
        self._acked: list[str] = []
        self._read: Counter[str] = Counter()
        self._enough = threading.Event()
        self._all_read = threading.Event()
        self._threads: list[threading.Thread] = []
        with Admin(bootstrap_servers=servers) as admin:
            admin.create_topics([NewTopic(TOPIC, PARTITIONS, replication_factor)])

    def start(self) -> Traffic:
        """Begin."""
        for name in ("producer-a", "producer-b"):
            self._spawn(name, self._produce)
        for name in ("member-1", "member-2"):
            self._spawn(name, self._consume)
        self._spawn("admin", self._administer)
        return self

    def stop(self) -> Verdict:
        """End, and judge."""
        self._enough.set()
        for thread in self._threads:
            if thread.name.startswith(("producer", "admin")):
                thread.join(END_SECONDS)
        deadline = time.monotonic() + END_SECONDS
        written = self._log()
        values = [value for log in written.values() for value in log]
        while time.monotonic() < deadline and not self._read.keys() >= set(values) and not self.failures():
            Event().wait(0.02)
        self._all_read.set()
        for thread in self._threads:
            thread.join(END_SECONDS)
            if thread.is_alive():
                self.accounts[thread.name].error = TimeoutError(f"{thread.name} has not ended")
        counts = Counter(values)
        return Verdict(
            len(values),
            [value for value in self._acked if value not in counts],
            [value for value, count in counts.items() if count > 1],
            [value for value in counts if value not in self._read],
            [value for log in written.values() for value in _swapped(log)],
            sum(count - 1 for count in self._read.values()),
            self.failures(),
            {name: account.longest_ms for name, account in self.accounts.items()},
        )

    def failures(self) -> list[str]:
        """What the clients raised so far."""
        return [f"{a.name}: {type(a.error).__name__}: {a.error}" for a in self.accounts.values() if a.error is not None]

    # ---- the clients

    def _spawn(self, name: str, work: Callable[[Account], None]) -> None:
        account = self.accounts[name] = Account(name)

        def run() -> None:
            try:
                work(account)
            except Exception as error:  # noqa: BLE001 - judged at the end
                account.error = error

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _produce(self, account: Account) -> None:
        numbers = itertools.count()
        with Producer(bootstrap_servers=self.servers) as producer:
            while not self._enough.is_set():
                batch = [f"{account.name}:{next(numbers)}" for _ in range(2 * PARTITIONS)]
                futures = [
                    producer.send(TOPIC, value.encode(), partition=index % PARTITIONS)
                    for index, value in enumerate(batch)
                ]
                for value, future in zip(batch, futures, strict=True):
                    future.get(END_SECONDS)
                    self._acked.append(value)
                account.answered(len(batch))
                self._enough.wait(PAUSE_SECONDS)

    def _consume(self, account: Account) -> None:
        settings = {"group_id": GROUP, "auto_offset_reset": "earliest", "auto_commit_interval_ms": 200}
        strategy = ["cooperative-sticky"]
        with Consumer(
            TOPIC, bootstrap_servers=self.servers, partition_assignment_strategy=strategy, **settings
        ) as consumer:
            while not self._all_read.is_set():
                for records in consumer.poll(100).values():
                    self._read.update(record.value.decode() for record in records)
                    account.answered(len(records))

    def _administer(self, account: Account) -> None:
        with Admin(bootstrap_servers=self.servers) as admin:
            for number in itertools.count():
                if self._enough.wait(0.05):
                    return
                admin.list_nodes()
                admin.describe_topics([TOPIC])
                admin.list_consumer_group_offsets(GROUP)
                admin.describe_quorum()
                name = f"short-lived-{number}"
                admin.create_topics([NewTopic(name, 1, 1)])
                admin.delete_topics([name])
                account.answered()

    def _log(self) -> dict[int, list[str]]:
        """Everything in the log, by partition."""
        found: dict[int, list[str]] = defaultdict(list)
        partitions = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
        with Consumer(bootstrap_servers=self.servers, auto_offset_reset="earliest") as consumer:
            consumer.assign(partitions)
            ends = consumer.end_offsets(partitions)
            deadline = time.monotonic() + END_SECONDS
            while any(consumer.position(partition) < ends[partition] for partition in partitions):
                assert time.monotonic() < deadline, "the log could not be read to its end"
                for partition, records in consumer.poll(100).items():
                    found[partition.partition] += [record.value.decode() for record in records]
        return found


def _swapped(log: list[str]) -> list[str]:
    """The records of one partition that stand behind a later one of their producer."""
    highest: dict[str, int] = {}
    found = []
    for value in log:
        name, _, number = value.partition(":")
        if int(number) < highest.get(name, -1):
            found.append(value)
        highest[name] = max(highest.get(name, -1), int(number))
    return found


def wait_for(
    condition: Callable[[], object], what: str, seconds: float = END_SECONDS, tell: Callable[[], str] = str
) -> None:
    """Wait until a condition holds. Raises AssertionError, with what there is to tell."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s; {tell()}"
        Event().wait(0.05)
