"""Joining: a process with an empty data folder asks a node for its cluster, before any of its own parts runs."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, TypeVar

import zmq

from ..errors import BrokerError, ConfigError, ZmqBrokerError, error_for
from .dealer import Dealer, DealerLimits, DealerState
from .envelope import common_version, convert_body, encode_request, split_reply
from .message_base import Body
from .messages import ApiVersionsReply, ApiVersionsRequest
from .peer_link import look_up
from .peer_messages import JoinClusterReply, JoinClusterRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .dealer import Context
    from .message_base import Request

logger = logging.getLogger(__name__)

_ANSWER_S = 5.0
"""How long one node may take, before the next one is asked."""
_PAUSE_S_MIN = 0.1
_PAUSE_S_MAX = 1.0
_SOFTWARE = "zmqbroker-node"
_HIGHEST_PORT = 65535

B = TypeVar("B", bound=Body)
T = TypeVar("T")


class JoinError(ZmqBrokerError):
    """No node of the cluster could be asked, or the cluster does not take this node."""


class _NoAnswerError(Exception):
    """One node could not be asked; says why. The next one may do."""


def join_cluster(addresses: Sequence[str], node_id: int, timeout_ms: float) -> JoinClusterReply:
    """Ask the nodes at these addresses (``HOST:PORT``), in turn and again, until one of them answers.

    With a node id of -1 the cluster gives one. Blocks. Raises ConfigError for what is no address, and JoinError when
    the time is over or the cluster refuses.
    """
    deadline = time.monotonic() + timeout_ms / 1000
    targets = [_split(text) for text in addresses if text.strip()]
    if not targets:
        message = "controller.quorum.bootstrap.servers names no address to join at"
        raise ConfigError(message)
    reasons: dict[str, str] = {}
    pause = _PAUSE_S_MIN
    context: Context = zmq.Context()
    try:
        while True:
            for host, port in targets:
                where = f"{host}:{port}"
                try:
                    return _ask(context, host, port, node_id, min(deadline, time.monotonic() + _ANSWER_S))
                except _NoAnswerError as error:
                    if reasons.get(where) != str(error):
                        reasons[where] = str(error)
                        logger.warning("cannot join the cluster at %s: %s", where, error)
            if time.monotonic() + pause >= deadline:
                break
            time.sleep(pause)
            pause = min(2 * pause, _PAUSE_S_MAX)
    finally:
        context.term()
    listed = "; ".join(f"{where}: {reason}" for where, reason in reasons.items())
    message = f"no node of the cluster to join answered within {timeout_ms / 1000:g} s ({listed})"
    raise JoinError(message)


def _split(text: str) -> tuple[str, str]:
    host, _, port = text.strip().removeprefix("tcp://").rpartition(":")
    if not host or "/" in host or not (port.isascii() and port.isdigit() and 1 <= int(port) <= _HIGHEST_PORT):
        message = f"controller.quorum.bootstrap.servers: {text.strip()!r} is no address: it has to look like HOST:PORT"
        raise ConfigError(message)
    return host, port


def _ask(context: Context, host: str, port: str, node_id: int, deadline: float) -> JoinClusterReply:
    """Ask one node. Raises _NoAnswerError, or JoinError if there is no use in asking others."""
    address = look_up(host.strip("[]"), port)
    if address is None:
        message = "the name is not known"
        raise _NoAnswerError(message)
    dealer = Dealer(context, address, DealerLimits())
    try:
        name = "node" if node_id == -1 else f"node-{node_id}"
        greeting = ApiVersionsRequest(name, _SOFTWARE, node_id=node_id)
        welcome = _call(dealer, greeting, ApiVersionsReply, 0, deadline)
        apis = {api.api: (api.min_version, api.max_version) for api in welcome.apis}
        version = common_version(JoinClusterRequest, apis, f"node {welcome.node_id}")
        return _call(dealer, JoinClusterRequest(node_id), JoinClusterReply, version, deadline)
    except BrokerError as error:
        what = f"{error.name}: {error.message}"
        if error.retriable:
            raise _NoAnswerError(what) from error
        message = f"the cluster at {host}:{port} does not take this node: {what}"
        raise JoinError(message) from error
    finally:
        dealer.close()


def _call(dealer: Dealer, request: Request, reply: type[B], version: int, deadline: float) -> B:
    """One request and its reply. Raises the error that the node answered."""
    _wait(dealer, deadline, lambda: dealer.check() is DealerState.CONNECTED or None)
    correlation_id = request.API
    if not dealer.send([encode_request(request, correlation_id, version)]):
        message = "the connection was lost"
        raise _NoAnswerError(message)
    frames = _wait(dealer, deadline, dealer.receive)
    try:
        raw = split_reply(frames[0])
    except BrokerError as error:
        message = f"what listens there is no zmqbroker: {error.message}"
        raise _NoAnswerError(message) from error
    if raw.error_code:
        raise error_for(raw.error_code, raw.error_message)
    return convert_body(raw.body, reply)


def _wait(dealer: Dealer, deadline: float, look: Callable[[], T | None]) -> T:
    """Wait until there is something to see."""
    poller = zmq.Poller()
    for source in dealer.sockets:
        poller.register(source, zmq.POLLIN)
    while (found := look()) is None:
        if dealer.check() is DealerState.BROKEN:
            raise _NoAnswerError(dealer.reason)
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            if dealer.state is DealerState.CONNECTED:
                message = "it did not answer"
            elif dealer.has_connected:
                message = "what listens there does not speak this protocol (ZMTP), or hangs"
            else:
                message = "no connection came about"
            raise _NoAnswerError(message)
        poller.poll(math.ceil(left_s * 1000))
    return found
