"""Controller: where a node's actors and clients ask for changes of the metadata; it decides while its node leads.

Every node has one. That of the quorum's leader is active and decides (actors/active_controller.py, actors/upkeep.py);
the others pass on to it what they are asked (actors/forwarding.py).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ..errors import NotControllerError
from ..transport.peer_messages import ForwardReply
from .active_controller import ActiveController
from .actor import ReactorActor
from .commands import Answer, ControllerCall, Refusal, tell_back
from .forwarding import CallDue, Forwarder, RetryDue, answer_of
from .liveness import Liveness
from .peer_commands import (
    AppendRefused,
    ForwardedCall,
    ImageApplied,
    MetadataCommitted,
    PeerChanged,
    QuorumLeader,
    StartLeading,
)
from .upkeep import VOTERS, Upkeep, UpkeepDue

if TYPE_CHECKING:
    from ..transport.message_base import Request
    from .context import NodeContext
    from .forwarding import Outcome, Respond

logger = logging.getLogger(__name__)

_NOBODY = -1


class Controller(ReactorActor):
    """One node's controller, active or not.

    It takes ControllerCalls of its own node's actors and clients, and ForwardedCalls of other nodes, which it refuses
    with NOT_CONTROLLER while it does not lead. Each is answered by one ControllerAnswer or Refusal.
    """

    def __init__(self, context: NodeContext) -> None:
        super().__init__()
        self.context = context
        self._liveness = Liveness()
        self._forwarder = Forwarder(context, self._liveness.links, self._decide)
        self._lead: ActiveController | None = None
        self._upkeep: Upkeep | None = None
        self._epoch = -1
        """The latest epoch that the quorum has told of."""

    def on_receive(self, message: Any) -> None:
        """Take a request, an answer, or news of the quorum, of a link, of the metadata, of the time."""
        match message:
            case ForwardedCall():
                self._take_forwarded(message)
            case ControllerCall():
                self._forwarder.take(message)
            case Answer():
                self._take_answer(message)
            case Refusal():
                self._take_refusal(message)
            case ImageApplied():
                self._forwarder.image_applied()
            case CallDue(number):
                self._forwarder.give_up(number)
            case RetryDue():
                self._forwarder.retry()
            case PeerChanged():
                self._take_link(message)
            case StartLeading():
                self._start_leading(message)
            case QuorumLeader():
                self._take_leader(message)
            case _:
                self._take_news_of_lead(message)

    def on_crash(self, error: BaseException | None) -> None:
        """End the node: nobody else knows what it has promised."""
        self.reactor.fail(error or RuntimeError(f"{self} ended"), str(self))

    def on_stop(self) -> None:
        """Leave no timer behind."""
        if self._upkeep is not None:
            self._upkeep.stop()

    # ---- news

    def _start_leading(self, message: StartLeading) -> None:
        assert message.epoch >= self._epoch, f"the lead of epoch {message.epoch} begins after epoch {self._epoch}"
        lead, node_id = self._lead, self.context.config.node_id
        if lead is not None and lead.epoch == message.epoch:
            lead.rebase(message.image, message.basis)
            return
        if lead is not None:
            self._stop_leading()
        self._epoch = message.epoch
        logger.info("node %d is the controller, in quorum epoch %d", node_id, message.epoch)
        self._lead = ActiveController(self.context, message.epoch, message.image, message.basis, self._liveness)
        self._upkeep = Upkeep(self.context, self._lead)
        self._lead.fence_lost()
        self._follow(node_id)

    def _take_leader(self, message: QuorumLeader) -> None:
        assert message.epoch >= self._epoch, f"news of quorum epoch {message.epoch} come after those of {self._epoch}"
        lead, node_id = self._lead, self.context.config.node_id
        self._epoch = message.epoch
        if lead is not None and message.leader_id == node_id and message.epoch == lead.epoch:
            return
        if lead is not None:
            self._stop_leading()
        # Our own lead begins with StartLeading.
        self._follow(_NOBODY if message.leader_id == node_id else message.leader_id)

    def _take_news_of_lead(self, message: Any) -> None:
        """Take news that are of interest as long as this node leads in the same epoch."""
        lead, upkeep = self._lead, self._upkeep
        if lead is None or upkeep is None or message.epoch != lead.epoch:
            return
        match message:
            case MetadataCommitted():
                lead.committed(message.offset)
            case AppendRefused():
                lead.append_refused(message.image, message.basis, message.error)
            case UpkeepDue():
                upkeep.run()
            case _:
                assert False, f"the controller got {message!r}"  # noqa: B011, PT015 - nobody sends it anything else

    def _follow(self, leader_id: int) -> None:
        self.context.controller_id = leader_id
        self._forwarder.follow(leader_id)

    def _stop_leading(self) -> None:
        lead, upkeep = self._lead, self._upkeep
        assert lead is not None and upkeep is not None, "a lead ends that had not begun"  # noqa: PT018 - they go together
        logger.info("node %d is the controller no more, after quorum epoch %d", self.context.config.node_id, lead.epoch)
        self._lead = self._upkeep = None
        upkeep.stop()
        self._follow(_NOBODY)
        lead.lose()

    def _take_link(self, message: PeerChanged) -> None:
        self._liveness.link_changed(message.node_id, message.state, self.context.image)
        self._forwarder.link_changed(message.node_id)
        if self._lead is not None:
            self._lead.fence_lost()

    # ---- requests and answers

    def _decide(self, request: Request, respond: Respond) -> None:
        if self._lead is None:
            respond(NotControllerError(f"node {self.context.config.node_id} is not the controller"), -1)
        else:
            self._lead.decide(request, respond)

    def _take_forwarded(self, command: ForwardedCall) -> None:
        def respond(outcome: Outcome, metadata_offset: int) -> None:
            tell_back(command.reply_to, answer_of(command, outcome, metadata_offset))

        self._decide(command.request, respond)

    def _take_answer(self, answer: Answer) -> None:
        if answer.call != VOTERS:
            assert isinstance(answer.body, ForwardReply), f"a node answered {answer.body!r} to what was passed on"
            self._forwarder.answered(answer.call, answer.body)
        elif self._upkeep is not None and answer.index == self._epoch:
            self._upkeep.quorum_answered(answer.body)

    def _take_refusal(self, refusal: Refusal) -> None:
        if refusal.call != VOTERS:
            self._forwarder.refused(refusal.call, refusal.index, refusal.error)
        elif self._upkeep is not None and refusal.index == self._epoch:
            self._upkeep.quorum_refused(refusal.error)
