"""How long a fail-over takes, and that none happens without a reason, in a cluster of three real nodes under load.

    python tests/faults/failover.py --kills 20               kill the leader of the loaded partition, again and again
    python tests/faults/failover.py --no-kills --seconds 60  full load and no fault: no leader may change

A fail-over's time is the gap between the last acknowledgement before it and the first one after it, as a producer with
its default settings sees it. Exit code 1 if a goal is missed, or something acknowledged is lost or stored twice.
"""

from __future__ import annotations

import math
import shutil
import signal
import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from threading import Event

from zmqbroker import Consumer, NewTopic, TopicPartition

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # pytest imports this file without its folder

import torture  # noqa: E402
from left_overs import LeftOvers  # noqa: E402
from torture_checker import judge  # noqa: E402
from torture_log import ACKED, OUTCOME, Outcome  # noqa: E402
from torture_nodes import NODES, TortureCluster, View, wait_until  # noqa: E402

MEDIAN_MS_MAX = 400.0
P99_MS_MAX = 1_000.0
SETTLE_SECONDS = 60.0
LOADED = 0
"""The partition whose leader is killed."""


class Run:
    """A cluster, and one or more producers that load it."""

    def __init__(self, args, folder, left_overs, closing):
        self._cluster = TortureCluster(folder, left_overs, network=None, disks={}, shim=None, flags=[])
        closing.callback(self._cluster.close)
        self._cluster.start()
        self._servers = self._cluster.bootstrap_servers
        self.view = View(self._servers)
        closing.callback(self.view.close)
        config = {"min.insync.replicas": "2", "flush": "ack"}
        topic = NewTopic(torture.TOPIC, torture.PARTITIONS, len(NODES), topic_configs=config)
        self.view.admin.create_topics([topic])
        self.clients = torture.Clients(folder, left_overs, self._servers, args)
        closing.callback(self.clients.close)
        self._await_full()
        for number in range(args.writers):
            self.clients.start("produce", number)
        assert wait_until(lambda: all(self.outcomes(number) for number in range(args.writers)), 30)

    def outcomes(self, number=0):
        return self.clients.log(f"produce{number}", OUTCOME, Outcome)

    def _await_full(self):
        if not wait_until(lambda: self.view.shortcomings() == [], SETTLE_SECONDS):
            message = f"not all is as it should be after {SETTLE_SECONDS:.0f} s: {self.view.shortcomings()}"
            raise RuntimeError(message)

    def kill_leader(self):
        """Kill it, start it again, wait until all is as before; when (ns) it was killed."""
        leader = self.view.partitions(torture.TOPIC)[LOADED].leader
        begun = time.monotonic_ns()
        self._cluster.nodes[leader].kill()
        Event().wait(1.0)
        self._cluster.start_node(leader)
        self._await_full()
        return begun

    def facts(self):
        """What must not change without a fault: leader epochs, the quorum's epoch, the nodes' registrations."""
        leaders = {p.partition: p.leader_epoch for p in self.view.partitions(torture.TOPIC)}
        nodes = {node_id: (node.epoch, node.state) for node_id, node in self.view.nodes().items()}
        return leaders, self.view.quorum_epoch(), nodes

    def log_lines(self, words):
        """Lines in the nodes' logs with one of these words."""
        texts = [self._cluster.error_path(node).read_text(errors="replace") for node in NODES]
        return [line for text in texts for line in text.splitlines() if any(word in line for word in words)]

    def judge(self, writers):
        """Stop the producers and check what they have written."""
        wrong = self.clients.stop("produce")
        final, _ = torture.read_all(self._servers)
        found, counts = judge({number: self.outcomes(number) for number in range(writers)}, final, {})
        return wrong + found, counts

    def count(self, writers):
        """Stop the producers, and hold what they were answered against the ends of the logs.

        Without a fault each record is acknowledged, each at an offset of its own, and these are all that there are. So
        minutes of full load, which are more than can be held in memory, need not be read back.
        """
        wrong = self.clients.stop("produce")
        partitions = [TopicPartition(torture.TOPIC, number) for number in range(torture.PARTITIONS)]
        with Consumer(bootstrap_servers=self._servers) as consumer:
            ends = {found.partition: end for found, end in consumer.end_offsets(partitions).items()}
        places = {partition: bytearray(end) for partition, end in ends.items()}
        counts, stamps = Counter(), []
        for number in range(writers):
            at = None
            for outcome in self.clients.log_parts(f"produce{number}", OUTCOME, Outcome):
                stamps += [outcome.at] * (at is None)
                at = outcome.at
                if outcome.kind != ACKED:
                    counts["not acknowledged"] += 1
                    continue
                counts["records acknowledged"] += 1
                place = places[outcome.partition]
                if outcome.offset >= len(place):
                    counts["LOST"] += 1
                elif place[outcome.offset]:
                    counts["one offset for two"] += 1
                else:
                    place[outcome.offset] = 1
            stamps += [at] * (at is not None)
        counts["DUPLICATED"] = sum(place.count(0) for place in places.values())
        for what in ("LOST", "DUPLICATED", "not acknowledged", "one offset for two"):
            wrong += [f"{counts[what]} records: {what}"] * bool(counts[what])
        return wrong, counts, (max(stamps) - min(stamps)) / 1e9


def fail_overs(run, args):
    """Kill leaders; (what was wrong, rows)."""
    kills = []
    for _ in range(args.kills):
        kills.append(run.kill_leader())
        Event().wait(0.5)
    wrong, counts = run.judge(args.writers)
    stamps = sorted(o.at for o in run.outcomes() if o.kind == ACKED and o.partition == LOADED)
    gaps = []
    for begun in kills:
        pairs = [(b - a) / 1e6 for a, b in pairwise(stamps) if b >= begun and a <= begun + 3e9]
        gaps.append(max(pairs, default=math.inf))
    gaps.sort()
    median, p99 = statistics.median(gaps), gaps[math.ceil(0.99 * len(gaps)) - 1]
    rows = {
        "leaders killed": len(kills),
        "records acknowledged": counts["records acknowledged"],
        "LOST": counts["LOST"],
        "DUPLICATED": counts["DUPLICATED"],
        "gap, median (ms)": round(median),
        "gap, p99 (ms)": round(p99),
        "gap, longest (ms)": round(gaps[-1]),
    }
    if median >= MEDIAN_MS_MAX or p99 >= P99_MS_MAX:
        wrong.append(f"the goal is a median below {MEDIAN_MS_MAX:.0f} ms and a p99 below {P99_MS_MAX:.0f} ms")
    return wrong, rows


def full_load(run, args):
    """No faults for a while; (what was wrong, rows)."""
    Event().wait(5.0)  # preferred leaders have settled
    before = run.facts()
    Event().wait(args.seconds)
    after = run.facts()
    wrong, counts, seconds = run.count(args.writers)
    fenced = run.log_lines(["is fenced", "was not heard of"])
    changed = sum(after[0][number] - epoch for number, epoch in before[0].items())
    for was, now, what in zip(
        before, after, ("leader epochs", "the quorum's epoch", "the nodes' registrations"), strict=False
    ):
        if was != now:
            wrong.append(f"{what} changed without a fault: {was} became {now}")
    wrong += fenced
    rows = {
        "seconds": args.seconds,
        "records acknowledged": counts["records acknowledged"],
        "records a second": round(counts["records acknowledged"] / seconds),
        "LOST": counts["LOST"],
        "DUPLICATED": counts["DUPLICATED"],
        "changes of leaders (epochs)": changed,
        "changes of the controller (epochs)": after[1] - before[1],
        "nodes fenced": len(fenced),
    }
    return wrong, rows


def arguments():
    parser = ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--kills", type=int, default=20, help="how often the leader is killed")
    what.add_argument("--no-kills", action="store_true", help="full load and no fault: no leader may change")
    parser.add_argument("--seconds", type=float, default=60.0, help="with --no-kills: how long")
    parser.add_argument("--writers", type=int, default=None, help="producers (1, or 2 with --no-kills)")
    parser.add_argument("--pause-ms", type=float, default=5.0, help="a producer's pause between two rounds")
    parser.add_argument("--burst", type=int, default=None, help="records for each partition in a round")
    args = parser.parse_args()
    defaults = (
        {"writers": 2, "pause_ms": 5.0, "burst": 500} if args.no_kills else {"writers": 1, "pause_ms": 5.0, "burst": 5}
    )
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def main():
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left behind
    left_overs = LeftOvers()
    folder = Path(tempfile.mkdtemp(prefix="zmqbroker-failover-"))
    try:
        with ExitStack() as closing:
            run = Run(args, folder, left_overs, closing)
            wrong, rows = (full_load if args.no_kills else fail_overs)(run, args)
    finally:
        left_overs.close()
    for name, value in rows.items():
        print(f"  {name:40} {value:>12,}")
    if not wrong:
        shutil.rmtree(folder)
        print("  everything held")
        return 0
    print(f"  {len(wrong)} VIOLATIONS; the logs are in {folder}")
    for text in wrong:
        print(f"  - {text}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
