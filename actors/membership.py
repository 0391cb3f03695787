"""Membership: makes its node one of the cluster, and keeps it one, by registration and heartbeats (KIP-500, 631).

The node registers with the controller, which gives it an epoch and holds it fenced; its heartbeats then show that it
knows the metadata of its registration, and it is unfenced. Before it stops it has its leaders moved away.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import (
    BrokerError,
    BrokerIdNotRegisteredError,
    DuplicateBrokerRegistrationError,
    StaleBrokerEpochError,
)
from ..transport.message_base import Request
from ..transport.peer_messages import (
    HeartbeatNodeReply,
    HeartbeatNodeRequest,
    RegisterNodeReply,
    RegisterNodeRequest,
)
from .actor import ReactorActor
from .commands import Answer, ControllerCall, Message, Refusal
from .context import CONTROLLER, MEMBERSHIP
from .peer_commands import ImageApplied, ShutDown

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..quorum.image import NodeImage
    from .context import NodeContext
    from .timers import Timer

logger = logging.getLogger(__name__)

_FIRST_BACKOFF_MS = 50.0
_LEAVING_INTERVAL_MS = 50.0
"""Between heartbeats while the node waits for leave to stop."""


class NodeStart(NamedTuple):
    """What a node says of itself when it registers."""

    host: str
    port: int
    """Where clients and other nodes reach it."""
    rack: str
    clean: bool
    """Whether its last stop was clean: then its logs hold all that they held."""
    directory_id: str
    incarnation: str
    """Different for each start of the process."""
    previous_epoch: int = -1
    """The node epoch of the process that stopped cleanly."""
    previous_incarnations: tuple[str, ...] = ()
    """Those that have stopped cleanly since, and were told no epoch."""
    kafka_host: str = ""
    kafka_port: int = 0
    """Where Kafka's clients reach it; port 0: nowhere."""
    former_incarnations: tuple[str, ...] = ()
    """The processes that had the folder before."""


class StepDue(Message):
    """The next registration or heartbeat is due."""


class TooLate(Message):
    """The node stops now, whatever it still leads."""


class Membership(ReactorActor):
    """One node's place in the cluster.

    on_active is called once, when this node is unfenced for the first time and its own actors know it; on_refused is
    called at most once, with the reason why this process cannot be a node of the cluster (any more).
    """

    def __init__(
        self,
        context: NodeContext,
        start: NodeStart,
        on_active: Callable[[], object],
        on_refused: Callable[[BrokerError], object],
    ) -> None:
        super().__init__()
        self.context = context
        self._start = start
        self._on_active = on_active
        self._on_refused = on_refused
        self._asked = 0
        """The number of the request under way, or of the last one; an answer to any other is out of date."""
        self._asked_ms = 0.0
        self._registered = False
        self._active = False
        self._fenced = True
        self._over = False
        self._backoff_ms = _FIRST_BACKOFF_MS
        self._duplicate_since_ms: float | None = None
        self._leaving: ShutDown | None = None
        self._step: Timer | None = None
        self._deadline: Timer | None = None

    def on_start(self) -> None:
        """Register."""
        self._register()

    def on_receive(self, message: Any) -> None:
        """Take an answer, news of the metadata, a timer, or the wish to stop."""
        if self._over:
            if isinstance(message, ShutDown):
                message.on_done()
            return
        match message:
            case ImageApplied():
                self._look_at_image()
            case Answer():
                if message.index == self._asked:
                    self._answered(message.body)
            case Refusal():
                if message.index == self._asked:
                    self._refused(message.error)
            case StepDue():
                self._next_step()
            case ShutDown():
                self._leave(message)
            case TooLate():
                logger.warning("the node stops although it may lead partitions: its time to move them is over")
                self._left()
            case _:
                assert False, f"the membership got {message!r}"  # noqa: B011, PT015 - nobody sends it anything else

    def on_crash(self, error: BaseException | None) -> None:
        """End the node: nobody else keeps the node in the cluster."""
        self.reactor.fail(error or RuntimeError(f"{self} ended"), str(self))

    def on_stop(self) -> None:
        """End."""
        self._end()

    # ---- what is asked of the controller

    def _next_step(self) -> None:
        if self._registered:
            self._heartbeat()
        else:
            self._register()

    def _register(self) -> None:
        context, start = self.context, self._start
        self._registered = False
        self._ask(
            RegisterNodeRequest(
                context.cluster_id,
                context.config.node_id,
                start.directory_id,
                start.incarnation,
                start.host,
                start.port,
                start.rack,
                start.clean,
                Request.MIN_VERSION,
                Request.MAX_VERSION,
                context.was_member,
                start.previous_epoch,
                " ".join(start.previous_incarnations),
                start.kafka_host,
                start.kafka_port,
                " ".join(start.former_incarnations),
            )
        )

    def _heartbeat(self) -> None:
        context = self.context
        leaving = self._leaving is not None
        self._ask(HeartbeatNodeRequest(context.config.node_id, context.node_epoch, context.image.end_offset, leaving))

    def _ask(self, request: Request) -> None:
        self._asked += 1
        self._asked_ms = self.context.clock.monotonic_ms()
        told = self.reactor.tell(CONTROLLER, ControllerCall(self.actor_ref, None, self._asked, request))
        assert told, "a node has a controller as long as it has a membership"

    def _ask_again_in(self, delay_ms: float) -> None:
        if self._step is not None:
            self._step.cancel()
        self._step = self.reactor.call_later(delay_ms, partial(self.reactor.tell, MEMBERSHIP, StepDue()))

    def _ask_again_after(self, interval_ms: float) -> None:
        """Ask again so long after the last time."""
        self._ask_again_in(self._asked_ms + interval_ms - self.context.clock.monotonic_ms())

    # ---- what it answers

    def _answered(self, body: Any) -> None:
        self._backoff_ms = _FIRST_BACKOFF_MS
        match body:
            case RegisterNodeReply(node_epoch):
                self._registered, self._duplicate_since_ms = True, None
                self.context.was_member = True
                self.context.node_epoch = node_epoch
                logger.info("node %d is registered, with epoch %d", self.context.config.node_id, node_epoch)
                self._heartbeat()
                self._look_at_image()
            case HeartbeatNodeReply():
                if self._leaving is None:
                    self._ask_again_after(self.context.config.broker_heartbeat_interval_ms)
                elif body.should_shut_down:
                    self._left()
                else:
                    self._ask_again_after(_LEAVING_INTERVAL_MS)
            case _:
                assert False, f"the controller answered {body!r}"  # noqa: B011, PT015 - it was asked nothing else

    def _refused(self, error: BrokerError) -> None:
        if self._registered:
            self._heartbeat_refused(error)
        else:
            self._registration_refused(error)

    def _heartbeat_refused(self, error: BrokerError) -> None:
        if isinstance(error, BrokerIdNotRegisteredError):
            logger.warning("the controller does not know this node: %s", error.message)
            self._register()
            return
        if isinstance(error, StaleBrokerEpochError):
            me = self._in_image()
            if me is not None and me.epoch > self.context.node_epoch:
                self._take_over_from(me)
                return
        logger.warning("a heartbeat was not answered: %s", error.message)
        self._ask_again_after(self.context.config.broker_heartbeat_interval_ms)

    def _take_over_from(self, me: NodeImage) -> None:
        """The cluster knows a later registration of this node: this process's own, repeated, or another's."""
        if me.incarnation == self._start.incarnation:
            self.context.node_epoch = me.epoch
            self._heartbeat()
            return
        message = (
            f"another process has registered as node {me.node_id}, at {me.host}:{me.port}, after this one: two nodes"
            " need two node ids and two data folders"
        )
        self._refuse(DuplicateBrokerRegistrationError(message))

    def _registration_refused(self, error: BrokerError) -> None:
        config, now_ms = self.context.config, self.context.clock.monotonic_ms()
        if isinstance(error, DuplicateBrokerRegistrationError):
            # A process that was killed a moment ago counts as alive for a while.
            if self._duplicate_since_ms is None:
                self._duplicate_since_ms = now_ms
            patience_ms = config.broker_session_timeout_ms + 2 * config.broker_heartbeat_interval_ms
            if now_ms - self._duplicate_since_ms > patience_ms:
                self._refuse(error)
                return
        elif not error.retriable or isinstance(error, BrokerIdNotRegisteredError):
            self._refuse(error)
            return
        logger.log(
            logging.INFO if self._backoff_ms == _FIRST_BACKOFF_MS else logging.DEBUG,
            "node %d is not registered yet: %s",
            config.node_id,
            error.message,
        )
        self._ask_again_in(self._backoff_ms)
        self._backoff_ms = min(self._backoff_ms * 2, config.broker_heartbeat_interval_ms)

    def _refuse(self, error: BrokerError) -> None:
        logger.error("node %d cannot be one of the cluster: %s", self.context.config.node_id, error.message)
        leaving = self._leaving
        self._end()
        self._on_refused(error)
        if leaving is not None:
            leaving.on_done()

    # ---- what the metadata say

    def _in_image(self) -> NodeImage | None:
        return self.context.image.nodes.get(self.context.config.node_id)

    def _look_at_image(self) -> None:
        me = self._in_image()
        if not self._registered or me is None or me.epoch != self.context.node_epoch:
            return
        if me.fenced and not self._fenced and self._leaving is None:
            logger.warning("the controller has fenced this node: it did not hear of it in time")
        self._fenced = me.fenced
        if not me.fenced and not self._active:
            self._active = True
            self._on_active()

    # ---- the end

    def _leave(self, message: ShutDown) -> None:
        assert self._leaving is None, "the node is told to stop twice"
        self._leaving = message
        others = any(
            not node.fenced and node.node_id not in (self.context.config.node_id, *message.siblings)
            for node in self.context.image.nodes.values()
        )
        if not (self._registered and others and self.context.config.controlled_shutdown_enable):
            self._left()
            return
        delay_ms = message.deadline_ms - self.context.clock.monotonic_ms()
        self._deadline = self.reactor.call_later(delay_ms, partial(self.reactor.tell, MEMBERSHIP, TooLate()))
        self._heartbeat()

    def _left(self) -> None:
        leaving = self._leaving
        assert leaving is not None, "the node may stop, but was not told to"
        self._end()
        leaving.on_done()

    def _end(self) -> None:
        self._over = True
        for timer in (self._step, self._deadline):
            if timer is not None:
                timer.cancel()
