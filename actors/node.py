"""A node in a process of its own: the real clock, disk, network and threads around the actors of actors/assembly.py."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import replace
from functools import partial
from random import Random
from threading import Thread
from typing import TYPE_CHECKING, TypeAlias

from ..clock import SystemClock
from ..errors import ConfigError
from ..identity import new_id
from ..log.data_folder import DataFolder
from ..log.real_disk import RealDisk
from ..log.validation import warm_up
from ..transport.join import JoinError, JoinGivenUpError, check_alone, find_nodes, join_cluster, wait_s
from ..transport.listener import ListenerLimits
from ..transport.poller import ZmqPoller
from ..transport.zmq_network import ZmqNetwork
from .assembly import NodeActors, NodeAddress
from .context import NodeContext
from .flush_pool import FlushPool
from .metadata_log import has_metadata
from .reactor import Reactor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..errors import ZmqBrokerError
    from ..settings import BrokerConfig
    from .assembly import Gateway

logger = logging.getLogger(__name__)

_LINGER_MS = 1000
_JOIN_TIMEOUT_MS = 60_000
_LOOK_AGAIN_S_MIN = 0.5
_LOOK_AGAIN_S_MAX = 10.0
_HELD_BACK_MS = 250.0
"""How long addresses to join at that do not answer at once keep a node that is ready from saying so."""
_WARM_UP_AFTER_MS = 250.0
"""Importing the codec competes with the reactor for the interpreter: the first clients are answered before."""

OpenGateway: TypeAlias = "Callable[[NodeContext, ZmqPoller], Gateway | None]"
"""Makes the node's second way in, if its settings want one."""

__all__ = ["Node", "NodeAddress", "OpenGateway"]


class Node:
    """One broker node.

    open_gateway makes a second way in for clients of another protocol; without it there is none.

    ``run`` blocks the thread that calls it until ``stop`` has been called from any thread, or from a signal handler,
    and the node has stopped in good order: what it leads is led elsewhere, requests that wait are answered, logs are
    flushed and closed, the folder is marked clean. A start that is refused (an address in use, a folder of another
    node, a bad setting, a cluster that does not want it) raises a ZmqBrokerError out of ``run``; a failed invariant or
    a failed fsync raises NodeFatalError, and the folder is not marked clean.
    """

    def __init__(
        self,
        config: BrokerConfig,
        *,
        on_ready: Callable[[NodeAddress], None],
        open_gateway: OpenGateway | None = None,
    ) -> None:
        self._config = config
        self._open_gateway = open_gateway
        self._on_ready = on_ready
        self._poller = ZmqPoller()
        self._clock = SystemClock()
        self._disk = RealDisk()
        self._reactor = Reactor(self._clock, self._poller)
        self._clean = False
        self._incarnation = ""
        """Set once the node has run to its end."""
        self._epoch = -1
        """That of this process's registration, or of the one before that has left the folder as it is."""
        self._refusal: ZmqBrokerError | None = None
        self._nodes: dict[int, tuple[str, int]] = {}
        """Where the cluster is, for a node that has just joined it."""
        self._settled = False
        """The node takes clients, or is to stop: nobody has to be asked where the cluster is any more."""
        self._ending = False
        self._has_looked = True
        """False until the addresses to join at have been asked once whose they are, if they have to be."""
        self._ready_at: NodeAddress | None = None
        """Where the node takes clients, once it does; then it says that it is ready, once."""
        self._said_ready = False
        self._flusher: FlushPool
        self._actors: NodeActors

    def stop(self, *, hand_over: bool = True, siblings: Sequence[int] = ()) -> None:
        """Begin to stop; returns at once. With hand_over other nodes, save siblings, first lead what this one leads."""
        self._settled = self._ending = True
        self._reactor.call_from_thread(lambda: self._begin_stop(hand_over=hand_over, siblings=siblings))

    def _begin_stop(self, *, hand_over: bool, siblings: Sequence[int]) -> None:
        self._actors.begin_stop(hand_over=hand_over, siblings=siblings)

    def _is_settled(self) -> bool:
        return self._settled

    def _is_ending(self) -> bool:
        return self._ending

    def run(self) -> None:
        """Start, serve until stopped, and stop."""
        try:
            self._run()
        except JoinGivenUpError:
            logger.info("the node stops before it has found a cluster to join")
        finally:
            self._settled = self._ending = True
            self._poller.close()

    def _run(self) -> None:
        config = self._config
        folder = DataFolder.open(
            self._disk,
            config.data_dir,
            node_id=config.node_id,
            make_id=new_id,
            join=self._join if config.join else None,
        )
        self._clean = folder.was_clean  # and stays so, if the start is refused before anything is written
        self._epoch = folder.clean_epoch
        self._config = replace(config, node_id=folder.node_id)
        try:
            if config.join and not self._nodes and not has_metadata(self._disk, folder.path):
                self._join(folder.node_id, folder.cluster_id)  # it had joined, and then learned nothing
            if folder.address:
                check_alone(folder.address, folder.cluster_id, folder.node_id, self._is_settled)
            self._serve(folder)
        finally:
            folder.close(self._clean, self._epoch, self._incarnation)

    def _join(self, node_id: int, cluster_id: str | None = None) -> tuple[str, int]:
        """Ask the cluster that this node shall join: (cluster id, node id)."""
        reply = join_cluster(
            self._config.join.split(","), node_id, _JOIN_TIMEOUT_MS, self._is_settled, cluster_id=cluster_id
        )
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
            gateway = None if self._open_gateway is None else self._open_gateway(context, self._poller)
            self._actors = self._put_together(context, gateway)
            try:
                self._clean = False
                self._actors.start(socket.gethostname(), self._nodes)
                folder.note_address(self._actors.address.host, self._actors.address.port)
                if config.join:
                    self._has_looked = bool(self._nodes)  # whom it has just joined is known
                    Thread(target=self._look_for_others, name="look-for-others", daemon=True).start()
                self._reactor.run()
                if self._refusal is not None:
                    raise self._refusal
                self._clean, self._epoch, self._incarnation = True, context.node_epoch, context.incarnation
            finally:
                flusher.close()
                self._actors.shut_down(_LINGER_MS)
        finally:
            network.close()

    def _put_together(self, context: NodeContext, gateway: Gateway | None) -> NodeActors:
        try:
            return NodeActors(context, self._started, self._refuse, gateway)
        except BaseException:  # the node's own address is in use
            if gateway is not None:
                gateway.shut_down()
            raise

    def _look_for_others(self) -> None:
        """Ask the nodes that the settings name where the cluster is: all may have moved while this one was away.

        In a thread of its own, from time to time until the node takes clients: its start never waits for that. The
        first look goes to its end: a node that is told to join another cluster than its own does not stay, even if it
        has found its own by other ways.
        """
        config, cluster_id = self._config, self._actors.context.cluster_id
        pause_s, given_up = _LOOK_AGAIN_S_MIN, self._is_ending
        while not given_up():
            try:
                nodes = find_nodes(config.join.split(","), cluster_id, config.node_id, given_up)
            except ConfigError as error:
                logger.error("%s", error)  # noqa: TRY400 - a sentence that says it all
                self._reactor.call_from_thread(self._looked)
                return
            except JoinError as error:
                self._reactor.call_from_thread(partial(self._refuse_foreign, error))
                return
            if nodes and not self._reactor.call_from_thread(partial(self._actors.hint, nodes)):
                return
            self._reactor.call_from_thread(self._looked)
            given_up = self._is_settled
            wait_s(pause_s, given_up)
            pause_s = min(2 * pause_s, _LOOK_AGAIN_S_MAX)

    def _looked(self) -> None:
        self._has_looked = True
        self._say_ready()

    def _refuse_foreign(self, error: JoinError) -> None:
        if not (self._settled and self._has_looked):  # else its own cluster has found it meanwhile
            self._refuse(error)

    def _started(self, address: NodeAddress) -> None:
        logger.info(
            "node %d of cluster %s listens on %s:%d%s, data in %s, process %d",
            self._config.node_id,
            self._actors.context.cluster_id,
            address.host,
            address.port,
            f", for Kafka's clients on {address.kafka_host}:{address.kafka_port}" if address.kafka_port else "",
            self._config.data_dir,
            os.getpid(),
        )
        self._settled = True
        self._ready_at = address
        if self._has_looked:
            self._say_ready()
        else:
            self._reactor.call_later(_HELD_BACK_MS, self._say_ready)

    def _say_ready(self) -> None:
        if self._ready_at is None or self._said_ready or self._ending:
            return
        self._said_ready = True
        self._on_ready(self._ready_at)
        self._reactor.call_later(_WARM_UP_AFTER_MS, lambda: self._flusher.submit(warm_up, _warm))

    def _refuse(self, error: ZmqBrokerError) -> None:
        """End: the cluster does not take this node, or the disk has no room for what it has to write down first."""
        self._refusal = error
        self._reactor.stop()


def _warm(error: Exception | None) -> None:
    if error is not None:
        logger.warning("the codec of records could not be imported ahead of its first use: %s", error)
