"""A network of the run's own: a namespace for each node, and one in the middle that routes and that clients run in.

Every link is a pair of virtual interfaces. Whom a node does not reach any more is a rule in the middle that drops
packets from one address to another, so that each direction is cut by itself, and nobody is told. Nothing leaves these
namespaces: the one in the middle has no other link.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from left_overs import run_command

CLONE_NEWNET = 0x40000000
RULE_PRIORITY = "100"


def why_not():
    """Why this machine allows no such network; None if it does."""
    if os.geteuid() != 0:
        return "not root"
    for program in ("ip", "nsenter"):
        if shutil.which(program) is None:
            return f"the program {program} is missing (iproute2, util-linux)"
    return None


class Network:
    """Nodes 1 to N. Raises RuntimeError if the machine refuses."""

    def __init__(self, nodes, left_overs):
        self._prefix = f"zmqbroker-{os.getpid()}"
        self._middle = f"{self._prefix}-hub"
        left_overs.note("netns", self._middle)
        run_command("ip", "netns", "add", self._middle)
        run_command("ip", "-n", self._middle, "link", "set", "lo", "up")
        for node in nodes:
            self._add_node(node, left_overs)
        self._outside = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def _add_node(self, node, left_overs):
        name = self._namespace(node)
        left_overs.note("netns", name)
        run_command("ip", "netns", "add", name)
        inner = ("peer", "name", "eth0", "netns", name)
        run_command("ip", "link", "add", f"node{node}", "netns", self._middle, "type", "veth", *inner)
        run_command("ip", "-n", self._middle, "addr", "add", f"10.213.{node}.1/30", "dev", f"node{node}")
        run_command("ip", "-n", name, "addr", "add", f"{self.host(node)}/30", "dev", "eth0")
        for link in ("lo", "eth0"):
            run_command("ip", "-n", name, "link", "set", link, "up")
        run_command("ip", "-n", self._middle, "link", "set", f"node{node}", "up")
        run_command("ip", "-n", name, "route", "add", "default", "via", f"10.213.{node}.1")

    def _namespace(self, node):
        return f"{self._prefix}-{node}"

    @staticmethod
    def host(node):
        """A node's address."""
        return f"10.213.{node}.2"

    def prefix(self, node):
        """The words before a command that shall run where the node is."""
        return ["nsenter", f"--net=/run/netns/{self._namespace(node)}", "--"]

    def enter(self):
        """Let this thread, and the threads and processes that it starts, be in the middle."""
        descriptor = os.open(f"/run/netns/{self._middle}", os.O_RDONLY | os.O_CLOEXEC)
        _set_namespace(descriptor)
        os.close(descriptor)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")  # of this namespace

    def leave(self):
        """Back to where this thread was before."""
        _set_namespace(self._outside)

    # ---- cuts

    @contextmanager
    def link_down(self, node):
        """Nobody reaches the node, clients neither, for as long as the context lasts."""
        try:
            run_command("ip", "-n", self._middle, "link", "set", f"node{node}", "down")
            yield
        finally:
            run_command("ip", "-n", self._middle, "link", "set", f"node{node}", "up")

    @contextmanager
    def cut(self, ways):
        """Drop what nodes send to others, given as pairs of them, for as long as the context lasts."""
        try:
            for way in ways:
                self._rule("add", *way)
            yield
        finally:
            for way in ways:
                self._rule("del", *way)

    def _rule(self, verb, source, target):
        words = ("from", self.host(source), "to", self.host(target), "blackhole", "pref", RULE_PRIORITY)
        run_command("ip", "-n", self._middle, "rule", verb, *words)


def _set_namespace(descriptor):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET):
        error = ctypes.get_errno()
        message = f"setns: {os.strerror(error)}"
        raise RuntimeError(message)
