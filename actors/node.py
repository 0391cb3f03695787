"""A node: one reactor thread with all of its actors, put together here, started, and stopped in good order."""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING, NamedTuple

from ..clock import SystemClock
from ..errors import ConfigError
from ..identity import new_cluster_id
from ..log.data_folder import DataFolder
from ..log.real_disk import RealDisk
from ..log.validation import warm_up
from ..transport.listener import ListenerLimits
from ..transport.poller import ZmqPoller
from ..transport.zmq_network import ZmqNetwork
from .acceptor import Acceptor
from .commands import Drain
from .context import CONTROLLER, LOG_KEEPER, METADATA_KEEPER, NodeContext
from .controller import Controller, RegisterSelf
from .flush_pool import FlushPool
from .log_keeper import LogKeeper
from .metadata_keeper import MetadataKeeper
from .metadata_log import MetadataLog
from .reactor import Reactor

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..errors import BrokerError
    from ..settings import BrokerConfig

logger = logging.getLogger(__name__)

_STOP_CHECK_MS = 2.0
_LINGER_MS = 1000
_WARM_UP_AFTER_MS = 250.0
"""Importing the codec competes with the reactor for the interpreter: the first clients are answered before."""
_WILDCARDS = ("0.0.0.0", "[::]", "*")  # noqa: S104 - refused, not listened on


class NodeAddress(NamedTuple):
    """Where clients reach a node."""

    host: str
    port: int


class Node:
    """One broker node.

    ``run`` blocks the thread that calls it until ``stop`` has been called from any thread, or from a signal handler,
    and the node has stopped in good order: requests that wait are answered, logs are flushed and closed, the folder is
    marked clean. A start that is refused (an address in use, a folder of another node, a bad setting) raises a
    ZmqBrokerError out of ``run``; a failed invariant or a failed fsync raises NodeFatalError, and the folder is not
    marked clean.
    """

    def __init__(self, config: BrokerConfig, *, on_ready: Callable[[NodeAddress], None]) -> None:
        self._config = config
        self._on_ready = on_ready
        self._poller = ZmqPoller()
        self._clock = SystemClock()
        self._disk = RealDisk()
        self._reactor = Reactor(self._clock, self._poller)
        self._stop_asked = False
        self._stop_deadline_ms = 0.0
        self._clean = False
        self._refusal: BrokerError | None = None
        self._context: NodeContext
        self._acceptor: Acceptor

    def stop(self) -> None:
        """Begin to stop; returns at once."""
        self._reactor.call_from_thread(self._begin_stop)

    def run(self) -> None:
        """Start, serve until stopped, and stop."""
        config = self._config
        try:
            folder = DataFolder.open(
                self._disk, config.data_dir, node_id=config.node_id, make_cluster_id=new_cluster_id
            )
            self._clean = folder.was_clean  # and stays so, if the start is refused before anything is written
            try:
                self._serve(folder)
            finally:
                folder.close(clean=self._clean)
        finally:
            self._poller.close()

    def _serve(self, folder: DataFolder) -> None:
        config = self._config
        flusher = FlushPool(self._reactor, config.num_flush_threads)
        network = ZmqNetwork(
            self._poller,
            ListenerLimits(config.socket_request_max_bytes, config.handshake_ivl_ms, config.heartbeat_ivl_ms),
        )
        self._context = NodeContext(
            config, self._reactor, self._clock, self._disk, folder, flusher, folder.cluster_id, os.getpid()
        )
        try:
            self._acceptor = Acceptor(self._context, network)
            try:
                log = MetadataLog(folder, self._clock.wall_ms())
                self._clean = False
                self._start_actors(log)
                self._reactor.run()
                if self._refusal is not None:
                    raise self._refusal
                self._clean = True
            finally:
                flusher.close()
                self._acceptor.shut_down(_LINGER_MS)
        finally:
            network.close()

    def _start_actors(self, log: MetadataLog) -> None:
        reactor, context, config = self._reactor, self._context, self._config
        reactor.spawn(MetadataKeeper, context, self._started, address=METADATA_KEEPER)
        controller = reactor.spawn(Controller, context, log, self._refuse_start, address=CONTROLLER)
        reactor.spawn(LogKeeper, context, address=LOG_KEEPER, supervised=True)
        host, port = self._advertised()
        rack = config.rack or socket.gethostname()
        controller.tell(RegisterSelf(host, port, rack, clean=context.folder.was_clean))

    def _advertised(self) -> NodeAddress:
        """Where clients are told to go: the setting, or else where the node listens."""
        address = self._config.advertised_address or self._acceptor.address
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        if not host or not (port.isascii() and port.isdigit()):
            message = f"advertised.address={address!r} is no address: it has to look like tcp://HOST:PORT"
            raise ConfigError(message)
        if host in _WILDCARDS:
            message = (
                f"the node listens on every interface ({address}), which is no address to give to clients: set"
                f" advertised.address=tcp://HOST:{port} to what they can reach"
            )
            raise ConfigError(message)
        return NodeAddress(host.strip("[]"), int(port))

    def _started(self) -> None:
        """Take clients, now that every partition is open."""
        if self._stop_asked:
            return
        self._context.started_ms = self._clock.monotonic_ms()
        self._acceptor.open()
        address = NodeAddress(*self._acceptor.host_and_port)
        logger.info(
            "node %d of cluster %s listens on %s:%d, data in %s, process %d",
            self._config.node_id,
            self._context.cluster_id,
            address.host,
            address.port,
            self._config.data_dir,
            os.getpid(),
        )
        self._on_ready(address)
        flusher = self._context.flusher
        self._reactor.call_later(_WARM_UP_AFTER_MS, lambda: flusher.submit(warm_up, _warm))

    def _refuse_start(self, error: BrokerError) -> None:
        """End before a client was taken: the disk has no room for the record that this node has started."""
        self._refusal = error
        self._reactor.stop()

    # ---- the end

    def _begin_stop(self) -> None:
        if self._stop_asked:
            return
        self._stop_asked = self._context.stopping = True
        self._stop_deadline_ms = self._clock.monotonic_ms() + self._config.graceful_shutdown_timeout_ms
        self._acceptor.close()
        self._acceptor.tell_sessions(Drain())
        self._stop_when_idle()

    def _stop_when_idle(self) -> None:
        """Wait until no client waits for an answer, or the time is up."""
        left = self._context.open_requests
        if left and self._clock.monotonic_ms() < self._stop_deadline_ms:
            self._reactor.call_later(_STOP_CHECK_MS, self._stop_when_idle)
            return
        if left:
            logger.warning("stopping with %d requests unanswered: graceful.shutdown.timeout.ms is over", left)
        self._reactor.stop()


def _warm(error: Exception | None) -> None:
    if error is not None:
        logger.warning("the codec of records could not be imported ahead of its first use: %s", error)
