"""What runs in the process that the supervisor spawns: one node, and a watch on the supervisor.

Kept apart from the node, so that the supervisor can name `node_main` without importing what a node needs.
"""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import suppress
from functools import partial
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, NamedTuple

from ..errors import BrokerIdNotRegisteredError, DuplicateBrokerRegistrationError, ZmqBrokerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from logging import Logger

    from ..settings import BrokerConfig
    from .node import Node, NodeAddress, OpenGateway


class Ready(NamedTuple):
    """Sent to the supervisor when the node answers requests, with the address that it listens on, and its id."""

    address: str
    node_id: int
    kafka: str = ""
    """HOST:PORT for Kafka's clients; empty: nowhere."""


class Refused(NamedTuple):
    """Sent to the supervisor when the node cannot start or go on: a port in use, a full disk, a bad setting."""

    reason: str
    for_good: bool = False
    """Its cluster does not take it: it was removed, or another process has its id."""


class Stop(NamedTuple):
    """Sent by the supervisor: stop, together with other nodes of its."""

    siblings: tuple[int, ...]
    """The nodes that stop at the same time: leaders are not moved to them."""


def node_main(config: BrokerConfig, supervisor: Connection, open_gateway: OpenGateway | None = None) -> None:
    """Run a node until SIGTERM, or until the supervisor is gone; the process exits with 0 then, else with 1.

    Ctrl-C does not arrive here: the supervisor starts this process with SIGINT blocked, and sends SIGTERM itself.
    """
    stop = _Stop()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())

    import logging  # noqa: PLC0415 - the supervisor imports this file too, and does without

    logging.basicConfig(level=config.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logger = logging.getLogger(__name__)
    watch = partial(_watch_parent, stop, supervisor, logger)
    threading.Thread(target=watch, name="watch-supervisor", daemon=True).start()

    def on_ready(address: NodeAddress) -> None:
        kafka = host_and_port(address, kafka=True) if address.kafka_port else ""
        _tell(supervisor, Ready(f"tcp://{host_and_port(address)}", address.node_id, kafka))

    try:
        _run(config, on_ready, stop, open_gateway)
    except ZmqBrokerError as error:
        from .reactor import NodeFatalError  # noqa: PLC0415 - as for the node

        if isinstance(error, NodeFatalError):
            raise  # it was not refused: it failed at work, and may work again after a restart
        for_good = isinstance(error, BrokerIdNotRegisteredError | DuplicateBrokerRegistrationError)
        _tell(supervisor, Refused(error.message, for_good))
        sys.exit(1)


def host_and_port(address: NodeAddress, *, kafka: bool = False) -> str:
    """Write the address as clients take it, with the brackets that IPv6 needs; kafka: that for Kafka's clients."""
    host, port = (address.kafka_host, address.kafka_port) if kafka else (address.host, address.port)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _run(
    config: BrokerConfig,
    on_ready: Callable[[NodeAddress], None],
    stop: _Stop,
    open_gateway: OpenGateway | None,
) -> None:
    from .node import Node  # noqa: PLC0415 - only now that the handlers stand, as this takes most of the start

    node = Node(config, on_ready=on_ready, open_gateway=open_gateway)
    stop.attach(node)
    node.run()


def _tell(supervisor: Connection, message: Ready | Refused) -> None:
    with suppress(OSError):  # the supervisor has gone: the watch on it stops the node
        supervisor.send(message)


class _Stop:
    """The order to stop, which may come before there is a node to give it to."""

    def __init__(self) -> None:
        self._given = False
        self._siblings: tuple[int, ...] = ()
        self._node: Node | None = None

    def set(self, siblings: tuple[int, ...] = ()) -> None:
        """Give the order, from a signal handler or any thread; siblings: nodes that stop at the same time."""
        self._siblings = siblings
        self._given = True
        if self._node is not None:
            self._node.stop(siblings=siblings)

    def attach(self, node: Node) -> None:
        """From here on the order goes to this node; at once if it has been given before."""
        self._node = node
        if self._given:
            node.stop(siblings=self._siblings)


def _watch_parent(stop: _Stop, supervisor: Connection, logger: Logger) -> None:
    """Wait until the supervisor says so or has ended, by whatever signal, and stop the node: nobody else would.

    multiprocessing's sentinel of the parent is a pipe that only the parent holds the other end of.
    """
    parent = parent_process()
    assert parent is not None, "a node process is spawned by its supervisor"
    if supervisor in wait([parent.sentinel, supervisor]):
        with suppress(EOFError, OSError):
            stop.set(supervisor.recv().siblings)
    wait([parent.sentinel])
    logger.warning("the supervisor has ended; the node stops")
    stop.set()
