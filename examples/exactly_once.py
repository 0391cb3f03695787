"""Exactly once: each order of one topic becomes one bill in another, though the worker is killed in the middle of it.

The worker writes the bills of some orders, and how far it has read, in one transaction: both hold, or neither. When it
is killed in between and started again, its transactional id tells the broker to abort what was left open, and the
group's offsets say where to go on: with the orders whose bills nobody will ever see. Readers of the bills ask for
isolation_level="read_committed".
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections import Counter

from zmqbroker import Consumer, Producer

IDLE_MS = 3_000


def work(args: Namespace) -> None:
    """Write bills until there have been no orders for a moment; in the given transaction, be killed."""
    with (
        Producer(bootstrap_servers=args.bootstrap_server, transactional_id=f"biller-of-{args.orders}") as producer,
        Consumer(
            args.orders,
            bootstrap_servers=args.bootstrap_server,
            group_id=f"billers-of-{args.orders}",
            group_instance_id="biller",  # so that it has its partitions back at once when it is started again
            enable_auto_commit=False,  # the transactions say how far it is
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            max_poll_records=50,
        ) as consumer,
    ):
        producer.init_transactions()  # first: who was this worker before is fenced, what that left open is aborted
        transactions = 0
        while orders := consumer.poll(timeout_ms=IDLE_MS):
            transactions += 1
            with producer.transaction():
                for records in orders.values():
                    for order in records:
                        producer.send(args.bills, b"bill for " + order.value)
                if transactions == args.die_in:
                    producer.flush()
                    print(f"killed in transaction {transactions}: bills are written, but not committed", flush=True)
                    os.kill(os.getpid(), signal.SIGKILL)
                done = {partition: records[-1].offset + 1 for partition, records in orders.items()}
                producer.send_offsets_to_transaction(done, consumer)
        print(f"done after {transactions} transactions", flush=True)


def start_worker(args: Namespace, die_in: int) -> int:
    """Run a worker in a process of its own to its end; its exit code."""
    words = ["--bootstrap-server", args.bootstrap_server, "--orders", args.orders, "--bills", args.bills]
    command = [sys.executable, __file__, "--worker", "--die-in", str(die_in), *words]
    return subprocess.run(command, check=False).returncode  # noqa: S603 - it is this program


def count(args: Namespace, isolation_level: str) -> Counter[bytes]:
    """How often each bill is in its topic."""
    with Consumer(
        args.bills,
        bootstrap_servers=args.bootstrap_server,
        auto_offset_reset="earliest",
        isolation_level=isolation_level,
        consumer_timeout_ms=IDLE_MS,
    ) as consumer:
        return Counter(record.value for record in consumer)


def main() -> None:
    """Read the command line; send orders, have them billed by workers that die, and count the bills."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap-server", default="127.0.0.1:9292")
    parser.add_argument("--orders", default=f"orders-{time.time_ns()}", help="a new topic (default: one of its own)")
    parser.add_argument("--bills", default=f"bills-{time.time_ns()}", help="another one")
    parser.add_argument("--count", type=int, default=1_000, help="how many orders there are")
    parser.add_argument("--worker", action="store_true", help="only work")
    parser.add_argument("--die-in", type=int, default=0, metavar="N", help="the transaction that a worker dies in")
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    wanted = {b"bill for order %d" % number for number in range(args.count)}
    with Producer(bootstrap_servers=args.bootstrap_server) as producer:
        producer.send_many(args.orders, [b"order %d" % number for number in range(args.count)]).get(timeout=10)
    for die_in in (1, 3, 2, 0):
        start_worker(args, die_in)
    written, bills = count(args, "read_uncommitted"), count(args, "read_committed")
    print(f"{written.total() - bills.total()} bills were written in vain, and are not read")
    twice = bills.total() - len(bills)
    print(f"{args.count} orders, {bills.total()} bills: {len(wanted - bills.keys())} lost, {twice} twice")


if __name__ == "__main__":
    main()
