"""Forwarder: requests for the controller, passed on to the node that leads until there is an answer or no time left.

As KIP-590: whoever asks asks its own node. A request is sent again when its connection breaks, when the node that had
it leads no more, and when another one leads; what a request that was carried out twice then answers is set right by
``quorum/repeats.py``. The first answer counts, whichever attempt it belongs to. It is told once this node's actors have
taken in the metadata that it speaks of.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from ..errors import (
    BrokerError,
    NetworkError,
    NotControllerError,
    RequestTimedOutError,
    UnsupportedVersionError,
    error_for,
)
from ..quorum.repeats import corrected, pinned, settled
from ..transport.catalogue import REQUESTS
from ..transport.envelope import convert_body
from ..transport.network import LinkState
from ..transport.peer_messages import ForwardReply, ForwardRequest, HeartbeatNodeRequest
from .calls import DEFAULT_TIMEOUT_MS
from .commands import Message, Refusal, tell_back
from .context import CONTROLLER, peer_address
from .peer_commands import AskPeer, ControllerAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..quorum.image import MetadataImage
    from ..transport.message_base import Body, Request
    from .commands import ControllerCall
    from .context import NodeContext
    from .timers import Timer

    Outcome: TypeAlias = Body | BrokerError
    Respond: TypeAlias = Callable[[Outcome, int], None]
    """Called once with what became of a request, and the end of the metadata that it was decided from and made."""

logger = logging.getLogger(__name__)

_NOBODY = -1
_FIRST_BACKOFF_MS = 20.0
_LAST_BACKOFF_MS = 200.0
_OWN_SHARE = 0.95
"""Of a request's time: whoever waits for it has the same deadline, and could not say what was missing."""

_TRY_AGAIN = (NotControllerError, NetworkError, RequestTimedOutError)
"""What the node that was asked, or the way there, answers for itself and not for the request."""


class CallDue(Message):
    """The time of a call is up."""

    number: int


class RetryDue(Message):
    """The calls that wait for another attempt have waited long enough."""


def passed_on(request: Request) -> ForwardRequest:
    """Wrap a request for the way to the controller's node."""
    return ForwardRequest(request.API, _plain(request))


def unwrapped(forward: ForwardRequest) -> Request:
    """The request that was passed on. Raises UnsupportedVersionError or InvalidRequestError."""
    cls = REQUESTS.get(forward.api)
    if cls is None or cls is ForwardRequest:
        message = f"API {forward.api} cannot be passed on to the controller"
        raise UnsupportedVersionError(message)
    return convert_body(forward.body, cls)


def passed_back(body: Body, metadata_offset: int) -> ForwardReply:
    """Wrap the answer to a request that was passed on."""
    return ForwardReply(metadata_offset, body=_plain(body))


def answer_of(command: ControllerCall, outcome: Outcome, metadata_offset: int) -> ControllerAnswer | Refusal:
    """What to tell whoever sent the command."""
    if isinstance(outcome, BrokerError):
        return Refusal(command.call, command.index, outcome)
    return ControllerAnswer(command.call, command.index, outcome, metadata_offset=metadata_offset)


def _plain(body: Body) -> Any:
    return msgspec.to_builtins(body, builtin_types=(bytes,))


class _Call:
    """A request on its way."""

    __slots__ = ("answer", "asked", "attempt", "before", "command", "deadline", "deadline_ms", "number", "timeout_ms")

    def __init__(self, number: int, command: ControllerCall, image: MetadataImage) -> None:
        self.number = number
        self.command = command
        self.before = image
        """What this node knew when it was asked; of topics to be deleted, what the controller made it look at again."""
        self.attempt = 0
        self.asked = _NOBODY
        """The node that works on the attempt."""
        self.answer: tuple[Outcome, int] | None = None
        """What became of it, while this node's actors do not have the metadata yet."""
        self.timeout_ms = 0.0
        self.deadline_ms = 0.0
        self.deadline: Timer

    @property
    def request(self) -> Request:
        """What to ask for in an attempt; an earlier one may have been carried out, and this one may arrive late."""
        return pinned(self.command.request, self.before)


class Forwarder:
    """The controller calls of one node's own actors and clients; part of the Controller actor.

    decide is what the node itself does with a request while it leads.
    """

    def __init__(
        self, context: NodeContext, links: Mapping[int, LinkState], decide: Callable[[Request, Respond], None]
    ) -> None:
        self._context = context
        self._links = links
        self._decide = decide
        self._leader_id = _NOBODY
        self._calls: dict[int, _Call] = {}
        self._waiting: dict[int, _Call] = {}
        """Those that nobody works on."""
        self._held: dict[int, _Call] = {}
        """Those that have their answer."""
        self._next_number = 0
        self._backoff_ms = _FIRST_BACKOFF_MS
        self._retry: Timer | None = None

    # ---- from whoever asks

    def take(self, command: ControllerCall) -> None:
        """Have a request carried out; it is answered with one ControllerAnswer or Refusal."""
        context = self._context
        call = _Call(self._next_number, command, context.image)
        self._next_number += 1
        call.timeout_ms = self._timeout_ms(command.request)
        delay_ms = call.timeout_ms * _OWN_SHARE
        call.deadline_ms = context.clock.monotonic_ms() + delay_ms
        call.deadline = context.reactor.call_later(delay_ms, partial(self._tell_self, CallDue(call.number)))
        self._calls[call.number] = call
        self._ask(call)

    def _timeout_ms(self, request: Request) -> float:
        if isinstance(request, HeartbeatNodeRequest):
            return self._context.config.broker_session_timeout_ms / 2  # the next one says more
        return float(getattr(request, "timeout_ms", DEFAULT_TIMEOUT_MS))

    # ---- from the quorum, the links, the timers, the metadata keeper

    def follow(self, leader_id: int) -> None:
        """Turn to another leader, -1 for none: with all that waits, and with all that another node has."""
        if leader_id == self._leader_id:
            return
        self._leader_id = leader_id
        self._backoff_ms = _FIRST_BACKOFF_MS
        for call in list(self._calls.values()):
            if call.answer is None:
                self._ask(call)

    def link_changed(self, node_id: int) -> None:
        """Try again what waits for this link, if it is up."""
        if node_id == self._leader_id and self._links.get(node_id) is LinkState.UP:
            self.retry()

    def retry(self) -> None:
        """Try again what waits."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        for call in list(self._waiting.values()):
            self._ask(call)

    def give_up(self, number: int) -> None:
        """End a call whose time is up."""
        call = self._calls.get(number)
        if call is not None:
            self._finish(call, RequestTimedOutError(self._too_late(call)), -1)

    def image_applied(self) -> None:
        """Tell the answers whose metadata this node has by now."""
        for call in list(self._held.values()):
            assert call.answer is not None, f"call {call.number} is held without an answer"
            self._answer(call, *call.answer)

    # ---- attempts

    def _ask(self, call: _Call) -> None:
        self._waiting.pop(call.number, None)
        leader_id = self._leader_id
        call.asked = leader_id
        if leader_id == self._context.config.node_id:
            call.attempt += 1
            # The very first try comes neither late nor out of order here, so it may say what it wants by name.
            request = call.command.request if call.attempt == 1 else call.request
            self._decide(request, partial(self._decided, call.number, call.attempt))
            return
        reactor = self._context.reactor
        link = None if leader_id == _NOBODY else reactor.lookup(peer_address(leader_id))
        me = reactor.lookup(CONTROLLER)
        assert me is not None, "the forwarder is part of the controller"
        if link is None:
            self._wait(call)
            return
        call.attempt += 1
        timeout_ms = max(call.deadline_ms - self._context.clock.monotonic_ms(), 0.0)
        link.tell(AskPeer(me, call.number, call.attempt, passed_on(call.request), timeout_ms=timeout_ms))

    def _wait(self, call: _Call) -> None:
        """Put a call aside until there is news of the leader, or a short time has passed."""
        call.asked = _NOBODY
        self._waiting[call.number] = call
        if self._retry is None and self._leader_id != _NOBODY:
            self._retry = self._context.reactor.call_later(self._backoff_ms, partial(self._tell_self, RetryDue()))
            self._backoff_ms = min(self._backoff_ms * 2, _LAST_BACKOFF_MS)

    def _tell_self(self, message: Message) -> None:
        self._context.reactor.tell(CONTROLLER, message)

    # ---- what becomes of them

    def _decided(self, number: int, attempt: int, outcome: Outcome, metadata_offset: int) -> None:
        if isinstance(outcome, BrokerError):
            self.refused(number, attempt, outcome, metadata_offset)
        else:
            self._settle(number, outcome, metadata_offset)

    def answered(self, number: int, reply: ForwardReply) -> None:
        """Take what the controller's node replied."""
        self._backoff_ms = _FIRST_BACKOFF_MS
        call = self._calls.get(number)
        if call is None:
            return
        if reply.error_code:
            self._settle(number, error_for(reply.error_code, reply.error_message), reply.metadata_offset)
            return
        try:
            body = convert_body(reply.body, call.command.request.REPLY)
        except BrokerError as error:
            self._settle(number, error, reply.metadata_offset)
        else:
            self._settle(number, body, reply.metadata_offset)

    def refused(self, number: int, attempt: int, error: BrokerError, metadata_offset: int = -1) -> None:
        """Take an error: of the request, or of the node that was asked, or of the way there."""
        if not isinstance(error, _TRY_AGAIN):
            self._settle(number, error, metadata_offset)
            return
        call = self._calls.get(number)
        if call is not None and call.attempt == attempt and call.asked != _NOBODY and call.answer is None:
            logger.debug("%s waits for the controller: %s", type(call.command.request).__name__, error.message)
            self._wait(call)

    def _settle(self, number: int, outcome: Outcome, metadata_offset: int) -> None:
        call = self._calls.get(number)
        if call is not None and call.answer is None:  # else: an earlier attempt was answered
            self._answer(call, outcome, metadata_offset)

    def _answer(self, call: _Call, outcome: Outcome, metadata_offset: int) -> None:
        image = self._context.image
        if image.end_offset < metadata_offset:
            self._waiting.pop(call.number, None)
            call.answer = (outcome, metadata_offset)
            self._held[call.number] = call
            return
        better = corrected(call.command.request, call.attempt, outcome, call.before, image)
        if better is not None:
            call.before = better
            call.answer = None
            self._held.pop(call.number, None)
            self._ask(call)
            return
        if call.attempt > 1:
            outcome = settled(call.request, outcome, call.before, image)
        self._finish(call, outcome, metadata_offset)

    def _finish(self, call: _Call, outcome: Outcome, metadata_offset: int) -> None:
        del self._calls[call.number]
        self._waiting.pop(call.number, None)
        self._held.pop(call.number, None)
        call.deadline.cancel()
        tell_back(call.command.reply_to, answer_of(call.command, outcome, metadata_offset))

    def _too_late(self, call: _Call) -> str:
        """Say what was missing, in numbers."""
        node_id, image = self._context.config.node_id, self._context.image
        within = f"{type(call.command.request).__name__} was not completed within {call.timeout_ms:.0f} ms"
        if call.answer is not None:
            return (
                f"{within}: it was decided at metadata offset {call.answer[1]}, but node {node_id} has the metadata"
                f" only up to {image.end_offset}"
            )
        voters = [voter for voter, _ in image.voters]
        if self._leader_id == _NOBODY:
            reached = [voter for voter in voters if voter == node_id or self._links.get(voter) is LinkState.UP]
            return (
                f"{within}: there is no controller; node {node_id} reaches {len(reached)} of the {len(voters)} voters"
                f" {voters}, and a majority of {len(voters) // 2 + 1} has to reach one another. Whether it took effect"
                " is unknown"
            )
        if self._leader_id == node_id:
            return (
                f"{within}: node {node_id} is the controller, but a majority of {len(voters) // 2 + 1} of the"
                f" {len(voters)} voters {voters} has not confirmed it. Whether it took effect is unknown"
            )
        state = self._links.get(self._leader_id, LinkState.DOWN)
        return (
            f"{within}: the controller is node {self._leader_id}, and the connection to it is {state.value}. Whether it"
            " took effect is unknown"
        )
