"""A node in a process of its own: the real clock, disk, network and threads around the actors of actors/assembly.py."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from ..clock import SystemClock
from ..identity import new_id
from ..log.data_folder import DataFolder
from ..log.real_disk import RealDisk
from ..log.validation import warm_up
from ..transport.join import join_cluster
from ..transport.listener import ListenerLimits
from ..transport.poller import ZmqPoller
from ..transport.zmq_network import ZmqNetwork
from .assembly import NodeActors, NodeAddress
from .context import NodeContext
from .flush_pool import FlushPool
from .metadata_log import METADATA_PARTITION
from .reactor import Reactor

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..errors import ZmqBrokerError
    from ..settings import BrokerConfig

logger = logging.getLogger(__name__)

_LINGER_MS = 1000
_JOIN_TIMEOUT_MS = 60_000
_WARM_UP_AFTER_MS = 250.0
"""Importing the codec competes with the reactor for the interpreter: the first clients are answered before."""

__all__ = ["Node", "NodeAddress"]


class Node:
    """One broker node.

    ``run`` blocks the thread that calls it until ``stop`` has been called from any thread, or from a signal handler,
    and the node has stopped in good order: what it leads is led elsewhere, requests that wait are answered, logs are
    flushed and closed, the folder is marked clean. A start that is refused (an address in use, a folder of another
    node, a bad setting, a cluster that does not want it) raises a ZmqBrokerError out of ``run``; a failed invariant or
    a failed fsync raises NodeFatalError, and the folder is not marked clean.
    """

    def __init__(self, config: BrokerConfig, *, on_ready: Callable[[NodeAddress], None]) -> None:
        self._config = config
        self._on_ready = on_ready
        self._poller = ZmqPoller()
        self._clock = SystemClock()
        self._disk = RealDisk()
        self._reactor = Reactor(self._clock, self._poller)
        self._clean = False
        self._refusal: ZmqBrokerError | None = None
        self._nodes: dict[int, tuple[str, int]] = {}
        """Where the cluster is, for a node that has just joined it."""
        self._flusher: FlushPool
        self._actors: NodeActors

    def stop(self, *, hand_over: bool = True) -> None:
        """Begin to stop; returns at once. With hand_over other nodes first lead what this one leads."""
        self._reactor.call_from_thread(lambda: self._begin_stop(hand_over=hand_over))

    def _begin_stop(self, *, hand_over: bool) -> None:
        self._actors.begin_stop(hand_over=hand_over)

    def run(self) -> None:
        """Start, serve until stopped, and stop."""
        config = self._config
        try:
            folder = DataFolder.open(
                self._disk,
                config.data_dir,
                node_id=config.node_id,
                make_id=new_id,
                join=self._join if config.join else None,
            )
            self._clean = folder.was_clean  # and stays so, if the start is refused before anything is written
            self._config = replace(config, node_id=folder.node_id)
            try:
                if config.join and not self._nodes and not self._has_metadata(folder):
                    self._join(folder.node_id)  # it had joined, and then learned nothing
                self._serve(folder)
            finally:
                folder.close(clean=self._clean)
        finally:
            self._poller.close()

    def _has_metadata(self, folder: DataFolder) -> bool:
        """Whether this node has learned anything of its cluster yet."""
        path = f"{folder.path}/{METADATA_PARTITION}"
        names = self._disk.list(path) if self._disk.exists(path) else []
        return any(name.endswith((".log", ".checkpoint")) and self._disk.size(f"{path}/{name}") for name in names)

    def _join(self, node_id: int) -> tuple[str, int]:
        """Ask the cluster that this node shall join: (cluster id, node id)."""
        reply = join_cluster(self._config.join.split(","), node_id, _JOIN_TIMEOUT_MS)
        self._nodes = {node_id: (host, port) for node_id, host, port in reply.nodes}
        return reply.cluster_id, reply.node_id

    def _serve(self, folder: DataFolder) -> None:
        config = self._config
        self._flusher = flusher = FlushPool(self._reactor, config.num_flush_threads)
        random = Random()  # noqa: S311 - jitter and names, no secrets
        limits = ListenerLimits(config.socket_request_max_bytes, config.handshake_ivl_ms, config.heartbeat_ivl_ms)
        network = ZmqNetwork(self._poller, limits, self._reactor, random)
        context = NodeContext(
            config,
            self._reactor,
            self._clock,
            self._disk,
            folder,
            flusher,
            folder.cluster_id,
            os.getpid(),
            network,
            random,
            incarnation=new_id(),
        )
        try:
            self._actors = NodeActors(context, self._started, self._refuse)
            try:
                self._clean = False
                self._actors.start(socket.gethostname(), self._nodes)
                self._reactor.run()
                if self._refusal is not None:
                    raise self._refusal
                self._clean = True
            finally:
                flusher.close()
                self._actors.shut_down(_LINGER_MS)
        finally:
            network.close()

    def _started(self, address: NodeAddress) -> None:
        logger.info(
            "node %d of cluster %s listens on %s:%d, data in %s, process %d",
            self._config.node_id,
            self._actors.context.cluster_id,
            address.host,
            address.port,
            self._config.data_dir,
            os.getpid(),
        )
        self._on_ready(address)
        self._reactor.call_later(_WARM_UP_AFTER_MS, lambda: self._flusher.submit(warm_up, _warm))

    def _refuse(self, error: ZmqBrokerError) -> None:
        """End: the cluster does not take this node, or the disk has no room for what it has to write down first."""
        self._refusal = error
        self._reactor.stop()


def _warm(error: Exception | None) -> None:
    if error is not None:
        logger.warning("the codec of records could not be imported ahead of its first use: %s", error)
