"""The nemesis of a torture: it draws faults, does them to the nodes, and undoes them.

Each fault is a method whose name is its kind, with dashes; it returns when it is undone and the nodes it has hit are
back. What does not come back in time is a violation.
"""

from __future__ import annotations

import random
import resource
import time
from contextlib import suppress
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

    def __init__(self, cluster, view, network, topic, kinds, seed):
        self._cluster = cluster
        self._view = view
        self._network = network
        self._topic = topic
        self._kinds = kinds
        self._draw = random.Random(seed)
        self._deck = []
        self.faults = []
        self.wrong = []

    def run(self, seconds, rest_seconds, say):
        """Faults for so long, with rests between."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(self._draw.uniform(0.2, 1.0) * rest_seconds)
            if not self._deck:
                self._deck = list(self._kinds)
                self._draw.shuffle(self._deck)
            kind = self._deck.pop()
            begun = time.monotonic_ns()
            try:
                what = getattr(self, kind.replace("-", "_"))()
            finally:
                self.heal()
            self.faults.append(Fault(kind, begun, time.monotonic_ns()))
            say(f"{kind} {what}: {(time.monotonic_ns() - begun) / 1e9:.2f} s")

    def heal(self):
        """Undo whatever may be left of a fault."""
        if self._network is not None:
            self._network.mend()
        for node_id in NODES:
            self._cluster.resume_node(node_id)
            for fault in ("fsync", "short-write"):
                self._cluster.flag(node_id, fault).unlink(missing_ok=True)
        for disk in self._cluster.disks.values():
            disk.make_room()

    # ---- whom and how long

    def _anyone(self):
        return self._draw.choice(NODES)

    def _leader(self):
        leaders = [p.leader for p in self._view.partitions(self._topic) if p.leader > 0]
        return self._draw.choice(leaders) if leaders else self._anyone()

    def _wait(self, low, high):
        time.sleep(self._draw.uniform(low, high))

    def _await_back(self, node_ids, before):
        """Wait until nodes take part again; those with an entry in ``before`` have to register anew."""

        def are_back():
            self._cluster.keep_running()
            now = self._view.nodes()
            return all(
                node_id in now and now[node_id].state == "active" and now[node_id].epoch != before.get(node_id)
                for node_id in node_ids
            )

        if not wait_until(are_back, BACK_SECONDS):
            self.wrong.append(f"of the nodes {list(node_ids)} not all were back {BACK_SECONDS:.0f} s after a fault")

    # ---- processes

    def _kill(self, *node_ids):
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
        return f"of {node_ids}"

    def kill(self):
        return self._kill(self._anyone())

    def kill_leader(self):
        return self._kill(self._leader())

    def kill_controller(self):
        return self._kill(self._view.controller())

    def kill_two(self):
        return self._kill(*self._draw.sample(NODES, 2))

    def _pause(self, node_id):
        self._cluster.pause_node(node_id)
        self._wait(0.1, self._draw.choice([0.5, 3.0, 8.0]))
        self._cluster.resume_node(node_id)
        self._await_back([node_id], {})
        return f"of {node_id}"

    def pause(self):
        return self._pause(self._anyone())

    def pause_leader(self):
        return self._pause(self._leader())

    def _restart(self, node_id):
        before = self._view.epochs()
        code = self._cluster.nodes[node_id].stop()
        if code:
            self.wrong.append(f"node {node_id} ended with exit code {code} when it was told to stop")
        self._cluster.launch_node(node_id)
        self._await_back([node_id], before)
        return f"of {node_id}"

    def restart(self):
        return self._restart(self._anyone())

    def restart_leader(self):
        return self._restart(self._leader())

    # ---- the network

    def _cut_from_nodes(self, node_id):
        for other in NODES:
            if other != node_id:
                self._network.cut(node_id, other)
                self._network.cut(other, node_id)

    def _cut(self, node_id):
        self._cut_from_nodes(node_id)
        self._wait(0.5, 10.0)
        self._network.mend()
        self._await_back([node_id], {})
        return f"of {node_id} from the other nodes"

    def cut(self):
        return self._cut(self._anyone())

    def cut_leader(self):
        return self._cut(self._leader())

    def cut_controller(self):
        return self._cut(self._view.controller())

    def cut_link(self):
        node_id = self._anyone()
        self._network.cut_link(node_id)
        try:
            self._wait(0.5, 10.0)
        finally:
            self._network.mend_link(node_id)
        self._await_back([node_id], {})
        return f"of {node_id}"

    def one_way(self):
        node_id = self._anyone()
        others = [other for other in NODES if other != node_id]
        if self._draw.random() < 0.3:
            others = [self._draw.choice(others)]
        outwards = self._draw.random() < 0.5
        for other in others:
            self._network.cut(*((node_id, other) if outwards else (other, node_id)))
        self._wait(0.5, 10.0)
        self._network.mend()
        self._await_back([node_id], {})
        return f"{'from' if outwards else 'to'} {node_id}, other side {others}"

    def flapping(self):
        node_id = self._anyone()
        until = time.monotonic() + self._draw.uniform(2.0, 8.0)
        while time.monotonic() < until:
            self._cut_from_nodes(node_id)
            self._wait(0.05, 1.0)
            self._network.mend()
            self._wait(0.05, 1.0)
        self._await_back([node_id], {})
        return f"of {node_id}"

    # ---- disks

    def full_disk(self):
        node_id = self._anyone()
        disk = self._cluster.disks[node_id]
        disk.fill()
        self._wait(1.0, 5.0)
        disk.make_room()
        self._await_back([node_id], {})
        return f"of {node_id}"

    def _cut_power(self, node_ids):
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
        return f"of {node_ids}"

    def power_cut(self):
        return self._cut_power([self._leader() if self._draw.random() < 0.5 else self._anyone()])

    def power_cut_all(self):
        return self._cut_power(list(NODES))

    def failing_fsync(self):
        node_id = self._anyone()
        before = self._view.epochs()
        node = self._cluster.nodes[node_id]
        pid = node.node_pid
        flag = self._cluster.flag(node_id, "fsync")
        flag.touch()
        if not wait_until(lambda: node.node_pid != pid, FAILED_FSYNC_SECONDS, 0.02):
            self.wrong.append(f"node {node_id} lived on for {FAILED_FSYNC_SECONDS:.0f} s although fsync failed")
        self._wait(0.0, 1.0)
        flag.unlink()
        self._await_back([node_id], before)
        return f"of {node_id}"

    def short_write(self):
        node_id = self._anyone()
        pid = self._cluster.nodes[node_id].node_pid
        flag = self._cluster.flag(node_id, "short-write")
        flag.touch()
        self._wait(1.0, 5.0)
        flag.unlink()
        if pid is not None and self._cluster.nodes[node_id].node_pid != pid:
            self.wrong.append(f"node {node_id} ended because of short writes")
        self._await_back([node_id], {})
        return f"of {node_id}"

    def file_limit(self):
        """No file may grow beyond a size: the write that reaches it is short, and the next one fails."""
        node_id = self._anyone()
        pid = self._cluster.nodes[node_id].node_pid
        if pid is None:
            return f"of {node_id}, which was not there"
        largest = max((path.stat().st_size for path in self._cluster.data_path(node_id).glob("*/*.log")), default=0)
        with suppress(ProcessLookupError):
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest + self._draw.randrange(20_000), hard))
            self._wait(1.0, 5.0)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        self._await_back([node_id], {})
        return f"of {node_id}"


assert all(hasattr(Nemesis, kind.replace("-", "_")) for kind in NEEDS)
