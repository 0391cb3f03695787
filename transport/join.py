"""Joining: a process with an empty data folder asks a node for its cluster, before any of its own parts runs.

A node that has been one before may ask where the others are now: they may have moved while it was away.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Self, TypeVar

import zmq

from ..errors import (
    BrokerError,
    ConfigError,
    DuplicateBrokerRegistrationError,
    InconsistentClusterIdError,
    ZmqBrokerError,
    error_for,
)
from .cluster_messages import DescribeClusterReply, DescribeClusterRequest
from .dealer import Dealer, DealerError, DealerLimits, DealerState
from .envelope import common_version, convert_body, encode_request, split_reply
from .message_base import Body
from .messages import ApiVersionsReply, ApiVersionsRequest
from .peer_link import look_up
from .peer_messages import JoinClusterReply, JoinClusterRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from .dealer import Context
    from .message_base import Request

logger = logging.getLogger(__name__)

_ANSWER_S = 5.0
"""How long one node may take, before the next one is asked."""
_LOOK_S = 1.0
"""How long one node may take to say where the others are."""
_GLANCE_MS = 50
"""How often a wait looks whether it is given up. A signal handler may do that, so there is no lock to wait at."""
_PAUSE_S_MIN = 0.1
_PAUSE_S_MAX = 1.0
_SOFTWARE = "zmqbroker-node"
_HIGHEST_PORT = 65535

B = TypeVar("B", bound=Body)
T = TypeVar("T")


class JoinError(ZmqBrokerError):
    """No node of the cluster could be asked, or the cluster does not take this node."""


class JoinGivenUpError(JoinError):
    """The node is stopped before an answer has come."""


class _NoAnswerError(Exception):
    """One node could not be asked; says why. The next one may do."""


class _ForeignError(_NoAnswerError):
    """It is a node of another cluster."""


def join_cluster(
    addresses: Sequence[str],
    node_id: int,
    timeout_ms: float,
    given_up: Callable[[], bool] = lambda: False,
    *,
    cluster_id: str | None = None,
) -> JoinClusterReply:
    """Ask the nodes at these addresses (``HOST:PORT``), in turn and again, until one of them answers.

    With a node id of -1 the cluster gives one. A node that has joined before gives the cluster's id. Blocks. Raises
    ConfigError for what is no address, JoinError when the time is over, if the cluster refuses or if another one is at
    all addresses, and JoinGivenUpError soon after given_up() has become true.
    """
    deadline = time.monotonic() + timeout_ms / 1000
    targets = _targets(addresses)
    reasons: dict[str, str] = {}
    pause = _PAUSE_S_MIN
    context: Context = zmq.Context()
    try:
        while not given_up():
            foreign: list[str] = []
            for host, port in targets:
                where = f"{host}:{port}"
                try:
                    until = min(deadline, time.monotonic() + _ANSWER_S)
                    with _Asking(context, host, port, until, given_up) as asking:
                        return asking.join(node_id, cluster_id)
                except _NoAnswerError as error:
                    if isinstance(error, _ForeignError):
                        foreign.append(f"{where}: {error}")
                    if reasons.get(where) != str(error):
                        reasons[where] = str(error)
                        logger.warning("cannot join the cluster at %s: %s", where, error)
            if len(foreign) == len(targets):
                raise _foreign_error(cluster_id, foreign[0])
            if time.monotonic() + pause >= deadline:
                break
            wait_s(pause, given_up)
            pause = min(2 * pause, _PAUSE_S_MAX)
    finally:
        context.term()
    if given_up():
        message = "the node is stopped before it has joined a cluster"
        raise JoinGivenUpError(message)
    listed = "; ".join(f"{where}: {reason}" for where, reason in reasons.items())
    message = f"no node of the cluster to join answered within {timeout_ms / 1000:g} s ({listed})"
    raise JoinError(message)


def find_nodes(
    addresses: Sequence[str], cluster_id: str, node_id: int, given_up: Callable[[], bool]
) -> dict[int, tuple[str, int]]:
    """Ask each of these addresses once where the other nodes of this node's cluster are; {} if nobody says so.

    What a node says of itself counts more than what others say. Blocks. Raises ConfigError for what is no address, and
    JoinError if another cluster is at all of them.
    """
    foreign: list[str] = []
    heard: dict[int, tuple[str, int]] = {}
    told: dict[int, tuple[str, int]] = {}
    context: Context = zmq.Context()
    try:
        targets = _targets(addresses)
        for host, port in targets:
            if given_up():
                break
            try:
                with _Asking(context, host, port, time.monotonic() + _LOOK_S, given_up) as asking:
                    welcome = asking.greet(node_id, cluster_id)
                    if welcome.cluster_id == cluster_id:
                        heard[welcome.node_id] = (host, int(port))
                        nodes = asking.call(DescribeClusterRequest(), DescribeClusterReply).nodes
                        told.update({node.node_id: (node.host, node.port) for node in nodes if node.state != "fenced"})
            except (_NoAnswerError, JoinError, BrokerError) as error:
                logger.debug("%s:%s does not say where the other nodes are: %s", host, port, error)
                if isinstance(error, InconsistentClusterIdError):
                    foreign.append(f"{host}:{port}: {error.message}")
        if len(foreign) == len(targets):
            raise _foreign_error(cluster_id, foreign[0])
    finally:
        context.term()
    return {**told, **heard}


def check_alone(address: str, cluster_id: str, node_id: int, given_up: Callable[[], bool]) -> None:
    """Ask at the address that a node had last whether it lives, and is another process. Blocks for a second at most.

    Raises DuplicateBrokerRegistrationError. Where nobody answers, nobody is believed to live.
    """
    context: Context = zmq.Context()
    try:
        host, port = _split(address)
        with _Asking(context, host, port, time.monotonic() + _LOOK_S, given_up) as asking:
            asking.greet(node_id, cluster_id)
    except DuplicateBrokerRegistrationError as error:
        message = (
            f"node {node_id} runs already, at {address}, and this is a copy of its data folder: two nodes need two node"
            " ids and two data folders"
        )
        raise DuplicateBrokerRegistrationError(message) from error
    except (_NoAnswerError, BrokerError, ConfigError) as error:
        logger.debug("node %d does not run at %s, where it was last: %s", node_id, address, error)
    finally:
        context.term()


def _foreign_error(cluster_id: str | None, where: str) -> JoinError:
    return JoinError(f"this node's data folder belongs to cluster {cluster_id}, and another one is at {where}")


def wait_s(seconds: float, given_up: Callable[[], bool]) -> None:
    """Sleep so long, unless it is given up before."""
    until = time.monotonic() + seconds
    while not given_up() and (left_s := until - time.monotonic()) > 0:
        time.sleep(min(left_s, _GLANCE_MS / 1000))


def _targets(addresses: Sequence[str]) -> list[tuple[str, str]]:
    targets = [_split(text) for text in addresses if text.strip()]
    if not targets:
        message = "controller.quorum.bootstrap.servers names no address to join at"
        raise ConfigError(message)
    return targets


def _split(text: str) -> tuple[str, str]:
    host, _, port = text.strip().removeprefix("tcp://").rpartition(":")
    if not host or "/" in host or not (port.isascii() and port.isdigit() and 1 <= int(port) <= _HIGHEST_PORT):
        message = f"controller.quorum.bootstrap.servers: {text.strip()!r} is no address: it has to look like HOST:PORT"
        raise ConfigError(message)
    return host, port


class _Asking:
    """One node, asked some questions in turn. All of them raise _NoAnswerError, and JoinGivenUpError."""

    def __init__(self, context: Context, host: str, port: str, deadline: float, given_up: Callable[[], bool]) -> None:
        self._where = f"{host}:{port}"
        self._deadline = deadline
        self._given_up = given_up
        self._apis: dict[int, tuple[int, int]] = {}
        self._node_id = -1
        address = look_up(host.strip("[]"), port)
        if address is None:
            message = "the name is not known"
            raise _NoAnswerError(message)
        try:
            self._dealer = Dealer(context, address, DealerLimits())
        except DealerError as error:
            raise _NoAnswerError(str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._dealer.close()

    def join(self, node_id: int, cluster_id: str | None) -> JoinClusterReply:
        """Ask to become a node. Raises JoinError if there is no use in asking others."""
        try:
            self.greet(node_id, cluster_id)
            reply = self.call(JoinClusterRequest(node_id), JoinClusterReply)
            if cluster_id not in (None, reply.cluster_id):
                message = f"this is a node of cluster {reply.cluster_id}"
                raise _ForeignError(message)
        except InconsistentClusterIdError as error:
            raise _ForeignError(error.message) from error
        except BrokerError as error:
            what = f"{error.name}: {error.message}"
            if error.retriable:
                raise _NoAnswerError(what) from error
            message = f"the cluster at {self._where} does not take this node: {what}"
            raise JoinError(message) from error
        return reply

    def greet(self, node_id: int, cluster_id: str | None) -> ApiVersionsReply:
        """Say who asks. Raises the error that the node answered."""
        name = "node" if node_id == -1 else f"node-{node_id}"
        greeting = ApiVersionsRequest(name, _SOFTWARE, cluster_id, node_id)
        welcome = self._call(greeting, ApiVersionsReply, greeting.MIN_VERSION)
        self._apis = {api.api: (api.min_version, api.max_version) for api in welcome.apis}
        self._node_id = welcome.node_id
        return welcome

    def call(self, request: Request, reply: type[B]) -> B:
        """Ask the node that was greeted. Raises the error that it answered."""
        return self._call(request, reply, common_version(type(request), self._apis, f"node {self._node_id}"))

    def _call(self, request: Request, reply: type[B], version: int) -> B:
        self._wait(lambda: self._dealer.check() is DealerState.CONNECTED or None)
        if not self._dealer.send([encode_request(request, request.API, version)]):
            message = "the connection was lost"
            raise _NoAnswerError(message)
        frames = self._wait(self._dealer.receive)
        try:
            raw = split_reply(frames[0])
        except BrokerError as error:
            message = f"what listens there is no zmqbroker: {error.message}"
            raise _NoAnswerError(message) from error
        if raw.error_code:
            raise error_for(raw.error_code, raw.error_message)
        return convert_body(raw.body, reply)

    def _wait(self, look: Callable[[], T | None]) -> T:
        """Wait until there is something to see."""
        dealer = self._dealer
        poller = zmq.Poller()
        for source in dealer.sockets:
            poller.register(source, zmq.POLLIN)
        while (found := look()) is None:
            if dealer.check() is DealerState.BROKEN:
                raise _NoAnswerError(dealer.reason)
            if self._given_up():
                message = "the node is stopped before it has found its cluster"
                raise JoinGivenUpError(message)
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                raise _NoAnswerError(self._silence())
            poller.poll(min(math.ceil(left_s * 1000), _GLANCE_MS))
        return found

    def _silence(self) -> str:
        """What it means that nothing has come."""
        if self._dealer.state is DealerState.CONNECTED:
            return "it did not answer"
        if self._dealer.has_connected:
            return "what listens there does not speak this protocol (ZMTP), or hangs"
        return "no connection came about"
