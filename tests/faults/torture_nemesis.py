"""The nemesis of a torture: it draws faults, does them to the nodes, and undoes them.

Each fault is a method whose name is its kind, with dashes; it returns when it is undone and the nodes it has hit are
back. What does not come back in time is a violation.
"""

from __future__ import annotations

import random
import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from torture_nodes import NODES, wait_until

BACK_SECONDS = 60.0
FAILED_FSYNC_SECONDS = 10.0
NETWORK, DISKS, SHIM = "network", "disks", "shim"
NEEDS = {
    "kill": None,
    "kill-leader": None,
    "kill-controller": None,
    "kill-two": None,
    "pause": None,
    "pause-leader": None,
    "restart": None,
    "restart-leader": None,
    "file-limit": None,
    "cut": NETWORK,
    "cut-leader": NETWORK,
    "cut-controller": NETWORK,
    "cut-link": NETWORK,
    "one-way": NETWORK,
    "flapping": NETWORK,
    "full-disk": DISKS,
    "power-cut": DISKS,
    "power-cut-all": DISKS,
    "failing-fsync": SHIM,
    "short-write": SHIM,
}
"""Each kind of fault, and what it needs of the machine."""


class Fault(NamedTuple):
    """What was done, from when to when (ns)."""

    kind: str
    begun: int
    ended: int


class Nemesis:
    """Does one fault after the other, drawn from a deck with each kind in it."""

    def __init__(self, cluster, view, network, *, topic, kinds, seed):
        self._cluster = cluster
        self._view = view
        self._network = network
        self._topic = topic
        self._kinds = kinds
        self._draw = random.Random(seed)
        self._deck = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._nodes = {node_id: threading.Lock() for node_id in NODES}
        self.faults = []
        self.wrong = []

    def run(self, seconds, rest_seconds, say, at_once=1):
        """Faults for so long, with rests between; so many at once, which never hit the same node."""
        until = time.monotonic() + seconds
        with ThreadPoolExecutor(at_once) as hands:
            try:
                for done in [hands.submit(self._work, until, rest_seconds, say) for _ in range(at_once)]:
                    done.result()
            finally:
                self._ended.set()  # also when the run is broken off

    def _work(self, until, rest_seconds, say):
        while time.monotonic() < until and not self._ended.is_set():
            self._wait(0.2 * rest_seconds, rest_seconds)
            kind = self._next_kind()
            begun = time.monotonic_ns()
            what = getattr(self, kind.replace("-", "_"))()
            self.faults.append(Fault(kind, begun, time.monotonic_ns()))
            say(f"{kind} of {what}: {(time.monotonic_ns() - begun) / 1e9:.2f} s")

    def _next_kind(self):
        with self._lock:
            if not self._deck:
                self._deck = list(self._kinds)
                self._draw.shuffle(self._deck)
            return self._deck.pop()

    @contextmanager
    def _hit(self, *node_ids):
        """Have the nodes for oneself. What is hung is let go in any case."""
        with ExitStack() as held:
            for node_id in sorted(node_ids):
                held.enter_context(self._nodes[node_id])
            try:
                yield
            finally:
                for node_id in node_ids:
                    self._cluster.resume_node(node_id)

    @contextmanager
    def _flagged(self, node_id, fault):
        flag = self._cluster.flag(node_id, fault)
        flag.touch()
        try:
            yield
        finally:
            flag.unlink()

    # ---- whom and how long

    def _anyone(self):
        return self._draw.choice(NODES)

    def _leader(self):
        leaders = [p.leader for p in self._view.partitions(self._topic) if p.leader > 0]
        return self._draw.choice(leaders) if leaders else self._anyone()

    def _wait(self, low, high):
        self._ended.wait(self._draw.uniform(low, high))

    def _await_back(self, node_ids, before):
        """Wait until nodes take part again; those with an entry in ``before`` have to register anew."""

        def are_back():
            if self._ended.is_set():
                return True
            self._cluster.keep_running(node_ids)
            now = self._view.nodes()
            return all(
                node_id in now and now[node_id].state == "active" and now[node_id].epoch != before.get(node_id)
                for node_id in node_ids
            )

        if not wait_until(are_back, BACK_SECONDS):
            self.wrong.append(f"of the nodes {list(node_ids)} not all were back {BACK_SECONDS:.0f} s after a fault")

    # ---- processes

    def _kill(self, *node_ids):
        with self._hit(*node_ids):
            before = self._view.epochs()
            if self._draw.random() < 0.5:
                for node_id in node_ids:
                    self._cluster.nodes[node_id].kill_node()
            else:
                for node_id in node_ids:
                    self._cluster.nodes[node_id].kill()
                self._wait(0.0, 3.0)
                for node_id in node_ids:
                    self._cluster.launch_node(node_id)
            self._await_back(node_ids, before)
        return node_ids

    def kill(self):
        return self._kill(self._anyone())

    def kill_leader(self):
        return self._kill(self._leader())

    def kill_controller(self):
        return self._kill(self._view.controller())

    def kill_two(self):
        return self._kill(*self._draw.sample(NODES, 2))

    def _pause(self, node_id):
        with self._hit(node_id):
            self._cluster.pause_node(node_id)
            self._wait(0.1, self._draw.choice([0.5, 3.0, 8.0]))
            self._cluster.resume_node(node_id)
            self._await_back([node_id], {})
        return node_id

    def pause(self):
        return self._pause(self._anyone())

    def pause_leader(self):
        return self._pause(self._leader())

    def _restart(self, node_id):
        with self._hit(node_id):
            before = self._view.epochs()
            code = self._cluster.nodes[node_id].stop()
            if code:
                self.wrong.append(f"node {node_id} ended with exit code {code} when it was told to stop")
            self._cluster.launch_node(node_id)
            self._await_back([node_id], before)
        return node_id

    def restart(self):
        return self._restart(self._anyone())

    def restart_leader(self):
        return self._restart(self._leader())

    # ---- the network

    def _both_ways(self, node_id):
        return [way for other in NODES if other != node_id for way in ((node_id, other), (other, node_id))]

    def _cut(self, node_id, ways=None):
        with self._hit(node_id):
            with self._network.cut(ways or self._both_ways(node_id)):
                self._wait(0.5, 10.0)
            self._await_back([node_id], {})
        return node_id

    def cut(self):
        return self._cut(self._anyone())

    def cut_leader(self):
        return self._cut(self._leader())

    def cut_controller(self):
        return self._cut(self._view.controller())

    def cut_link(self):
        node_id = self._anyone()
        with self._hit(node_id):
            with self._network.link_down(node_id):
                self._wait(0.5, 10.0)
            self._await_back([node_id], {})
        return node_id

    def one_way(self):
        """What it sends, or what is sent to it, does not arrive; from or to both others, or one of them."""
        node_id = self._anyone()
        others = [other for other in NODES if other != node_id]
        if self._draw.random() < 0.3:
            others = [self._draw.choice(others)]
        ways = [(node_id, other) for other in others]
        if self._draw.random() < 0.5:
            ways = [(target, source) for source, target in ways]
        self._cut(node_id, ways)
        return " and ".join(f"{source} to {target}" for source, target in ways)

    def flapping(self):
        node_id = self._anyone()
        with self._hit(node_id):
            until = time.monotonic() + self._draw.uniform(2.0, 8.0)
            while time.monotonic() < until:
                with self._network.cut(self._both_ways(node_id)):
                    self._wait(0.05, 1.0)
                self._wait(0.05, 1.0)
            self._await_back([node_id], {})
        return node_id

    # ---- disks

    def full_disk(self):
        node_id = self._anyone()
        with self._hit(node_id):
            with self._cluster.disks[node_id].full():
                self._wait(1.0, 5.0)
            self._await_back([node_id], {})
        return node_id

    def _cut_power(self, *node_ids):
        with self._hit(*node_ids):
            before = self._view.epochs()
            for node_id in node_ids:
                self._cluster.pause_node(node_id)
            for node_id in node_ids:
                self._cluster.disks[node_id].cut_power()
            for node_id in node_ids:
                self._cluster.nodes[node_id].kill()
                self._cluster.disks[node_id].power_on()
            self._wait(0.0, 2.0)
            for node_id in node_ids:
                self._cluster.launch_node(node_id)
            self._await_back(node_ids, before)
        return node_ids

    def power_cut(self):
        return self._cut_power(self._leader() if self._draw.random() < 0.5 else self._anyone())

    def power_cut_all(self):
        return self._cut_power(*NODES)

    def failing_fsync(self):
        """The node has to end: what a failed fsync has lost, nobody knows."""
        node_id = self._anyone()
        with self._hit(node_id):
            before = self._view.epochs()
            node = self._cluster.nodes[node_id]
            pid = node.node_pid
            with self._flagged(node_id, "fsync"):
                if not wait_until(lambda: node.node_pid != pid, FAILED_FSYNC_SECONDS, 0.02):
                    self.wrong.append(f"node {node_id} lived on for {FAILED_FSYNC_SECONDS:.0f} s although fsync failed")
                self._wait(0.0, 1.0)
            self._await_back([node_id], before)
        return node_id

    def short_write(self):
        node_id = self._anyone()
        with self._hit(node_id):
            pid = self._cluster.nodes[node_id].node_pid
            with self._flagged(node_id, "short-write"):
                self._wait(1.0, 5.0)
            if pid is not None and self._cluster.nodes[node_id].node_pid != pid:
                self.wrong.append(f"node {node_id} ended because of short writes")
            self._await_back([node_id], {})
        return node_id

    def file_limit(self):
        """No file may grow beyond a size: the write that reaches it is short, and the next one fails."""
        node_id = self._anyone()
        with self._hit(node_id), suppress(ProcessLookupError):
            pid = self._cluster.nodes[node_id].node_pid
            logs = self._cluster.data_path(node_id).glob("*/*.log")
            limit = max((path.stat().st_size for path in logs), default=0) + self._draw.randrange(20_000)
            if pid is not None:
                _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, hard))
                self._wait(1.0, 5.0)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
            self._await_back([node_id], {})
        return node_id


assert all(hasattr(Nemesis, kind.replace("-", "_")) for kind in NEEDS)
