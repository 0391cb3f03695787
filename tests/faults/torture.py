"""Torture of a cluster of three real nodes: producers and readers work while a nemesis does everything to the nodes.

    python tests/faults/torture.py --seconds 120 --seed 1 --faults kill-leader,cut,power-cut

Nodes are killed, stopped, restarted, cut off, and their disks fill, fail and lose their power (torture_nemesis.py).
What the machine does not allow is left out, and the table says so. Then all is healed, everything is read back, and
torture_checker.py judges. Exit code 1 if anything was wrong, or too little was acknowledged; the logs are kept then.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event

from zmqbroker import Consumer, NewTopic, TopicPartition
from zmqbroker.errors import ZmqBrokerError

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # pytest imports this file without its folder

import netns  # noqa: E402
import torture_disks  # noqa: E402
from left_overs import LeftOvers  # noqa: E402
from torture_checker import compare_replicas, gaps, judge, judge_group, judge_queue  # noqa: E402
from torture_log import ACKED, GROUP, OUTCOME, READ, SHARED, VALUE, GroupEvent, Outcome, Read, Shared, entries  # noqa: E402
from torture_nemesis import DISKS, NEEDS, NETWORK, SHIM, Nemesis  # noqa: E402
from torture_nodes import NODES, TortureCluster, View, wait_until  # noqa: E402

TOPIC = "torture"
PARTITIONS = 4
GROUP_ID = "torture"
WRITERS, READERS, MEMBERS, WORKERS = 2, 1, 2, 2
LEASE_MS, DELIVERY_LIMIT = 5_000, 1_000
ISR_SECONDS = 60.0
END_SECONDS = 120.0
GROUP_SECONDS = 60.0
FAULT_SECONDS = 15.0
"""What a fault takes with all that follows it, on average and at most: a run of so many has done its whole deck."""
AFTERWARDS_SECONDS = 3.0
"""How long the producers go on when all is healed: the cluster must work then."""


class Machine:
    """What this machine allows: a network and disks of the run's own, and a shim before the nodes' system calls."""

    def __init__(self, folder, left_overs, wanted):
        self.reasons = {}
        self.network, self.disks, self.shim = None, {}, None
        needed = {NEEDS[kind] for kind in wanted}
        if NETWORK in needed:
            self._try(NETWORK, netns.why_not(), lambda: self._make_network(left_overs))
        if DISKS in needed:
            self._try(DISKS, torture_disks.why_no_images(), lambda: self._make_disks(folder, left_overs))
        if SHIM in needed:
            self.shim, reason = torture_disks.build_shim(folder)
            self._try(SHIM, reason, lambda: None)

    def _try(self, what, reason, make):
        if reason is None:
            try:
                make()
            except (OSError, RuntimeError) as error:
                reason = str(error)
        if reason is not None:
            self.reasons[what] = reason

    def _make_network(self, left_overs):
        network = netns.Network(NODES, left_overs)
        network.enter()
        self.network = network

    def _make_disks(self, folder, left_overs):
        self.disks = {node: torture_disks.Disk(folder, node, left_overs) for node in NODES}


class Clients:
    """The processes of the producers and readers."""

    def __init__(self, folder, left_overs, servers, args):
        self._folder = folder
        self._left_overs = left_overs
        self._flags = ["--servers", servers, "--topic", TOPIC, "--partitions", str(PARTITIONS)]
        self._flags += ["--pause-ms", str(args.pause_ms), "--burst", str(args.burst)]
        self._processes = {}

    def start(self, what, number):
        name = f"{what}{number}"
        command = [sys.executable, str(HERE / "torture_client.py"), what, *self._flags]
        command += ["--number", str(number), "--log", str(self._log(name))]
        self._log(name).touch()
        with (self._folder / f"{name}.err").open("ab") as errors:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors, start_new_session=True)
        self._left_overs.note_process(process.pid)
        self._processes[name] = process

    def _log(self, name):
        return self._folder / f"{name}.log"

    def stop(self, what):
        """Tell all of a kind to end in good order; complaints."""
        chosen = {name: process for name, process in self._processes.items() if name.startswith(what)}
        for process in chosen.values():
            process.terminate()
        return [f"{name} ended with exit code {code}" for name, p in chosen.items() if (code := p.wait(END_SECONDS))]

    def log(self, name, layout, kind):
        return entries(self._log(name).read_bytes(), layout, kind)

    def log_parts(self, name, layout, kind):
        """The same bit by bit, for logs that are too long to be held."""
        with self._log(name).open("rb") as file:
            while part := file.read(layout.size * 100_000):
                yield from entries(part, layout, kind)

    def close(self):
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()


def read_all(servers):
    """Everything that stands in the topic, by partition, and the high watermarks."""
    partitions = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
    final = {number: [] for number in range(PARTITIONS)}
    deadline = time.monotonic() + END_SECONDS
    with Consumer(bootstrap_servers=servers, auto_offset_reset="earliest", max_poll_records=10_000) as consumer:
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            found = consumer.poll(timeout_ms=1_000)
            if found:
                deadline = time.monotonic() + END_SECONDS  # there may be gigabytes
            for partition, records in found.items():
                for record in records:
                    producer, meant, number = VALUE.unpack_from(record.value)
                    assert meant == partition.partition, f"{record} was sent to partition {meant}"
                    final[partition.partition].append(Read(partition.partition, record.offset, producer, number))
            if time.monotonic() > deadline:
                message = f"the topic could not be read to its end: nothing came for {END_SECONDS:.0f} s"
                raise TimeoutError(message)
    return final, {partition.partition: end for partition, end in ends.items()}


class Torture:
    """One run."""

    def __init__(self, args, folder, left_overs, closing):
        self._args = args
        self._folder = folder
        self._begun_at = time.monotonic()
        self.wrong = []
        self.machine = Machine(folder, left_overs, args.faults)
        self.kinds = [kind for kind in args.faults if NEEDS[kind] not in self.machine.reasons]
        machine = self.machine
        self._cluster = TortureCluster(
            folder, left_overs, network=machine.network, disks=machine.disks, shim=machine.shim, flags=args.flags
        )
        closing.callback(self._cluster.close)
        self._cluster.start()
        self._servers = self._cluster.bootstrap_servers
        self._view = View(self._servers)
        closing.callback(self._view.close)
        config = {"min.insync.replicas": "2", "flush": args.flush}
        self._view.admin.create_topics(
            [NewTopic(TOPIC, num_partitions=PARTITIONS, replication_factor=len(NODES), topic_configs=config)]
        )
        self._clients = Clients(folder, left_overs, self._servers, args)
        closing.callback(self._clients.close)

    def say(self, text):
        if self._args.verbose:
            print(f"{time.monotonic() - self._begun_at:7.2f} {time.strftime('%H:%M:%S')} {text}", flush=True)

    def _await_full(self, when):
        begun = time.monotonic()
        short = None

        def is_full():
            nonlocal short
            self._cluster.keep_running()
            short = self._view.shortcomings()
            return short == []

        if not wait_until(is_full, ISR_SECONDS):
            missing = "nobody answers" if short is None else ", ".join(short[:5])
            self.wrong.append(f"{when}: not all is as it should be after {ISR_SECONDS:.0f} s: {missing}")
        return time.monotonic() - begun

    def run(self):
        """The counts of the run."""
        counts = {}
        self._await_full("at the start")
        epochs = self._epochs()
        self._start_clients()
        begun = time.monotonic_ns()
        nemesis = self._let_loose()
        healed = time.monotonic_ns()
        counts["in sync again after the last fault (s)"] = round(self._await_full("after healing"), 1)
        self.say("healed")
        Event().wait(AFTERWARDS_SECONDS)
        ended = time.monotonic_ns()
        self.wrong += self._clients.stop("produce")
        final, high_watermarks = read_all(self._servers)
        self.wrong += self._clients.stop("read")
        counts["group at the end after (s)"], committed = self._await_group(high_watermarks)
        self.wrong += self._clients.stop("join")
        counts["queue empty after (s)"] = self._await_queue()
        self.wrong += self._clients.stop("work")
        leaders, quorum = (after - before for before, after in zip(epochs, self._epochs(), strict=True))
        counts["changes of partition leaders (epochs)"] = leaders
        counts["changes of the controller (epochs)"] = quorum
        self.say("stopping the nodes")
        self._stop_nodes()
        folders = {n: [self._cluster.data_path(node) / f"{TOPIC}-{n}" for node in NODES] for n in range(PARTITIONS)}
        self.wrong += compare_replicas(folders, high_watermarks)
        outcomes = {n: self._clients.log(f"produce{n}", OUTCOME, Outcome) for n in range(WRITERS)}
        counts |= self._judge(outcomes, final, committed, high_watermarks)
        if not any(o.kind == ACKED and o.at > healed for found in outcomes.values() for o in found):
            self.wrong.append("nothing was acknowledged after healing")
        longest, by_kind = gaps(outcomes, nemesis.faults, begun, ended)
        counts["longest gap between a partition's acks (ms)"] = round(longest)
        done = Counter(fault.kind for fault in nemesis.faults)
        self.wrong += self._undone(done)
        self.by_kind = {kind: (done[kind], by_kind.get(kind, 0.0)) for kind in self.kinds}
        return counts

    def _start_clients(self):
        for what, count in (("read", READERS), ("join", MEMBERS), ("work", WORKERS), ("produce", WRITERS)):
            for number in range(count):
                self._clients.start(what, number)
        if not wait_until(self._has_acked, 30):
            self.wrong.append("nothing was acknowledged in the first 30 s")

    def _let_loose(self):
        """Let the nemesis do its work."""
        self.say("the nemesis begins")
        args = self._args
        nemesis = Nemesis(
            self._cluster, self._view, self.machine.network, topic=TOPIC, kinds=self.kinds, seed=args.seed
        )
        if self.kinds:
            nemesis.run(args.seconds, args.rest_seconds, self.say, args.at_once)
        else:
            Event().wait(args.seconds)
        self.wrong += nemesis.wrong
        return nemesis

    def _undone(self, done):
        """Complain of faults that were asked for and not done, though there was time: a calm run shows nothing."""
        args = self._args
        if args.faults and not done:
            return ["no fault was done"]
        a_deck = len(self.kinds) * (args.rest_seconds + FAULT_SECONDS) / args.at_once
        return [f"no {kind} was done" for kind in self.kinds if not done[kind] and args.seconds >= a_deck]

    def _judge(self, outcomes, final, committed, high_watermarks):
        """Judge what the clients have seen, and how the nodes have lived; counts."""
        reads = {n: self._clients.log(f"read{n}", READ, Read) for n in range(READERS)}
        wrong, counts = judge(outcomes, final, reads)
        events = {n: self._clients.log(f"join{n}", GROUP, GroupEvent) for n in range(MEMBERS)}
        wrong_of_group, counts_of_group = judge_group(events, committed, high_watermarks)
        events = {n: self._clients.log(f"work{n}", SHARED, Shared) for n in range(WORKERS)}
        wrong_of_queue, counts_of_queue = judge_queue(events, high_watermarks)
        self.wrong += wrong + wrong_of_group + wrong_of_queue
        acked = counts["records acknowledged"]
        floor = self._args.floor * self._args.seconds
        if acked < floor:
            self.wrong.append(f"only {acked:,} records were acknowledged, {floor:,.0f} are the least")
        for node in NODES:
            for line in self._cluster.error_path(node).read_text(errors="replace").splitlines():
                # A node that cannot flush ends by an assertion, as it should.
                if line.startswith("AssertionError") and "Input/output error" not in line:
                    self.wrong.append(f"node {node} failed: {line}")
        deaths = {
            "nodes that ended by themselves": len(self._cluster.deaths()),
            "supervisors that gave up": self._cluster.supervisors_that_gave_up,
        }
        return counts | counts_of_group | counts_of_queue | deaths

    def _await_group(self, high_watermarks):
        """Wait until the group has read and committed everything; how long that took, and what is committed."""
        begun = time.monotonic()
        committed = {}

        def is_done():
            with suppress(ZmqBrokerError):
                found = self._view.admin.list_consumer_group_offsets(GROUP_ID)
                committed.update({p.partition: known.offset for p, known in found.items() if p.topic == TOPIC})
            return committed == high_watermarks

        wait_until(is_done, GROUP_SECONDS)
        return round(time.monotonic() - begun, 1), committed

    def _await_queue(self):
        """Wait until every record of the queue is finished; how long that took."""
        begun = time.monotonic()
        left = -1

        def is_done():
            nonlocal left
            with suppress(ZmqBrokerError):
                (group,) = self._view.admin.describe_share_groups([f"{GROUP_ID}-queue"])
                left = sum(partition.lag for partition in group.partitions) if group.partitions else -1
            return left == 0

        if not wait_until(is_done, GROUP_SECONDS):
            self.wrong.append(f"{left:,} records of the queue are not finished after {GROUP_SECONDS:.0f} s")
        return round(time.monotonic() - begun, 1)

    def _has_acked(self):
        return all(self._clients.log(f"produce{number}", OUTCOME, Outcome) for number in range(WRITERS))

    def _epochs(self):
        return sum(p.leader_epoch for p in self._view.partitions(TOPIC)), self._view.quorum_epoch()

    def _stop_nodes(self):
        """At once, and one signal each: a second one, a second later, would kill a node that has not stopped yet."""
        nodes = self._cluster.nodes
        with ThreadPoolExecutor(len(nodes)) as hands:
            codes = list(hands.map(lambda node: node.stop(), nodes.values()))
        for node_id, code in zip(nodes, codes, strict=True):
            if code:
                self.wrong.append(f"node {node_id} ended with exit code {code} at the end")


def print_table(args, torture, counts):
    """Every number of the run."""
    print(f"{len(NODES)} nodes, {PARTITIONS} partitions, {WRITERS} producers, {args.seconds:.0f} s, seed {args.seed}")
    for name, count in counts.items():
        print(f"  {name:44} {count:>12,}")
    print(f"  {'fault':30} {'times':>13} {'longest gap (ms)':>12}")
    for kind, (times, gap) in torture.by_kind.items():
        print(f"    {kind:28} {times:>13,} {gap:>12,.0f}")
    for kind in args.faults:
        if kind not in torture.kinds:
            print(f"    {kind:28} left out: {torture.machine.reasons[NEEDS[kind]]}")


def fault_kinds(text):
    """Names of kinds, with commas."""
    kinds = list(NEEDS) if text == "all" else [kind for kind in text.split(",") if kind]
    unknown = [kind for kind in kinds if kind not in NEEDS]
    if unknown:
        message = f"{', '.join(unknown)}: these kinds of fault are known: {', '.join(NEEDS)}"
        raise ValueError(message)
    return kinds


def arguments():
    """What the command line says."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long the nemesis works")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", default="all", help=f"with commas, of: {', '.join(NEEDS)}")
    parser.add_argument("--without", default="", help="kinds of faults that are left out of these")
    parser.add_argument("--rest-seconds", type=float, default=3.0, help="the longest rest between two faults")
    parser.add_argument(
        "--at-once", type=int, default=1, help="how many faults there may be at once, on different nodes"
    )
    parser.add_argument("--pause-ms", type=float, default=10.0, help="a producer's pause between two rounds")
    parser.add_argument("--burst", type=int, default=1, help="records for each partition in a round")
    parser.add_argument(
        "--flush", default="ack", help="of the topic; with os a cut of all power has to be seen to lose"
    )
    parser.add_argument(
        "--floor", type=float, default=60.0, help="records that must be acknowledged a second, at least"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the nodes")
    parser.add_argument("--keep", action="store_true", help="keep all logs in any case")
    parser.add_argument("--verbose", action="store_true", help="a line for each fault")
    args = parser.parse_args()
    try:
        without = fault_kinds(args.without)
        args.faults = [kind for kind in fault_kinds(args.faults) if kind not in without]
    except ValueError as error:
        parser.error(str(error))
    queue = [f"group.share.record.lock.duration.ms={LEASE_MS}", f"group.share.delivery.count.limit={DELIVERY_LIMIT}"]
    args.flags = [word for setting in queue + args.set for word in ("--set", setting)]
    return args


def main():
    args = arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))  # so that nothing is left behind
    left_overs = LeftOvers()
    folder = Path(tempfile.mkdtemp(prefix="zmqbroker-torture-"))
    try:
        with ExitStack() as closing:
            torture = Torture(args, folder, left_overs, closing)
            counts = torture.run()
            print_table(args, torture, counts)
            wrong = torture.wrong
            if wrong or args.keep:
                keep_logs(folder, torture)
    finally:
        left_overs.close()
    if not wrong and not args.keep:
        shutil.rmtree(folder)
    else:
        print(f"  the logs are in {folder}")
    if not wrong:
        print("  everything held")
        return 0
    print(f"  {len(wrong)} VIOLATIONS")
    for text in wrong:
        print(f"  - {text}")
    return 1


def keep_logs(folder, torture):
    """Copy the nodes' data from disks that will go."""
    for node, disk in torture.machine.disks.items():
        shutil.copytree(disk.path / "data", folder / f"data{node}", dirs_exist_ok=True)


if __name__ == "__main__":
    sys.exit(main())
