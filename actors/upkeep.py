"""Upkeep: what the active controller does by itself, from time to time.

It fences nodes that are not heard of, gives partitions back to their preferred leaders, keeps the quorum's voters and
the internal topics as large as the cluster warrants, spreads replicas when a node has come, and empties nodes.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from ..errors import BrokerError, InvalidReplicationFactorError
from ..quorum import balance, partition_decisions, reassignment, voters
from ..quorum.min_insync import missing_settings
from ..transport.quorum_messages import (
    AddVoterRequest,
    DescribeQuorumReply,
    DescribeQuorumRequest,
    RemoveVoterRequest,
)
from .commands import Message
from .context import CONTROLLER, QUORUM
from .peer_commands import QuorumCall

if TYPE_CHECKING:
    from ..quorum.image import MetadataImage
    from ..quorum.voters import VoterChange
    from ..transport.cluster_messages import Reassignment
    from ..transport.message_base import Body, Request
    from .active_controller import ActiveController
    from .context import NodeContext
    from .timers import Timer

logger = logging.getLogger(__name__)

VOTERS: Final = "voters"
"""Marks the questions to the quorum; their index is the quorum epoch."""


class UpkeepDue(Message):
    """The controller that leads in this epoch shall look after the cluster."""

    epoch: int


class Upkeep:
    """The periodic duties of one lead; part of the Controller actor."""

    def __init__(self, context: NodeContext, lead: ActiveController) -> None:
        self._context = context
        self._lead = lead
        config = context.config
        self._timer: Timer
        self._elections_ms = context.clock.monotonic_ms() + config.leader_imbalance_check_interval_ms
        self._asking_quorum = False
        self._voters_before = lead.image.voters
        """Those when the last change of them was asked for."""
        self._seen_nodes: frozenset[int] | None = None
        """The nodes that were unfenced when the internal topics were looked at."""
        self._drained: frozenset[int] = frozenset()
        self._schedule()

    def _schedule(self) -> None:
        reactor, epoch = self._context.reactor, self._lead.epoch
        self._timer = reactor.call_later(self._lead.interval_ms, lambda: reactor.tell(CONTROLLER, UpkeepDue(epoch)))

    def stop(self) -> None:
        """End: another node leads."""
        self._timer.cancel()

    def run(self) -> None:
        """Do what is due."""
        lead, config, now_ms = self._lead, self._context.config, self._context.clock.monotonic_ms()
        lead.fence_lost()
        self._change_voters()
        lead.append(missing_settings(lead.image, config))
        if now_ms >= self._elections_ms:
            self._elections_ms = now_ms + config.leader_imbalance_check_interval_ms
            if config.auto_leader_rebalance_enable:
                lead.append(partition_decisions.preferred_elections(lead.image, config))
        self._grow_internal_topics()
        self._spread()
        self._empty_nodes()
        self._schedule()

    # ---- the quorum's voters

    def _change_voters(self) -> None:
        """Ask how the quorum is, if some change of its voters may be due."""
        if self._asking_quorum:
            return
        image = self._lead.image
        voting = {node_id for node_id, _ in image.voters}
        others = {node.node_id: node.directory_id for node in image.nodes.values() if node.node_id not in voting}
        if self._due_change(image, others) is not None:
            self._ask_quorum(DescribeQuorumRequest())

    def _due_change(self, image: MetadataImage, caught_up: dict[int, str]) -> VoterChange | None:
        config = self._context.config
        return voters.due_change(image, caught_up, config.node_id, config.controller_quorum_voters_max)

    def _ask_quorum(self, request: Request) -> None:
        reactor = self._context.reactor
        me = reactor.lookup(CONTROLLER)
        assert me is not None, "the upkeep is part of the controller"
        self._asking_quorum = reactor.tell(QUORUM, QuorumCall(me, VOTERS, self._lead.epoch, request))

    def quorum_answered(self, reply: Body) -> None:
        """Take the quorum's answer: how it is, or that its voters have changed."""
        self._asking_quorum = False
        if not isinstance(reply, DescribeQuorumReply):
            if self._lead.image.voters != self._voters_before:
                self._change_voters()  # two voters are worse than one: the next change is not put off
            return
        fetched_after_ms = self._context.clock.wall_ms() - self._context.config.controller_quorum_fetch_timeout_ms
        caught_up = {
            observer.node_id: observer.directory_id
            for observer in reply.observers
            if observer.end_offset >= reply.high_watermark and observer.last_fetch_ms >= fetched_after_ms
        }
        self._voters_before = self._lead.image.voters
        match self._due_change(self._lead.image, caught_up):
            case voters.AddVoter(node_id, directory_id):
                logger.info("node %d shall vote in the metadata quorum", node_id)
                self._ask_quorum(AddVoterRequest(node_id, directory_id))
            case voters.RemoveVoter(node_id, directory_id):
                logger.info("node %d shall vote in the metadata quorum no more", node_id)
                self._ask_quorum(RemoveVoterRequest(node_id, directory_id))
            case None:
                pass

    def quorum_refused(self, error: BrokerError) -> None:
        """Take a refusal of the quorum: what is due is tried again in the next round."""
        self._asking_quorum = False
        logger.info("the voters of the metadata quorum could not be changed now: %s", error.message)

    # ---- where partitions are

    def _begin(self, moves: list[Reassignment], why: str) -> None:
        if moves:
            logger.info("%d partitions shall move: %s", len(moves), why)
            self._lead.append(reassignment.begin(self._lead.image, self._context.config, moves))

    def _grow_internal_topics(self) -> None:
        image = self._lead.image
        unfenced = frozenset(node.node_id for node in image.nodes.values() if not node.fenced)
        if unfenced != self._seen_nodes and not balance.moves_internal_topics(image):
            self._seen_nodes = unfenced
            moves = balance.grow_internal_topics(image, self._context.config)
            self._begin(moves, "the coordinators' topics get as many replicas as the cluster can give them")

    def _spread(self) -> None:
        """Give nodes that have come, and have not gone again, their share."""
        nodes = self._lead.image.nodes
        arrived = sorted(node_id for node_id in self._lead.arrived if node_id in nodes and not nodes[node_id].fenced)
        self._lead.arrived = set()
        if arrived and self._context.config.auto_rebalance_on_join_enable:
            self._begin(balance.rebalance_moves(self._lead.image), f"nodes {arrived} have come")

    def _empty_nodes(self) -> None:
        """Begin the moves that a drain still lacks, and say when nodes are empty."""
        image = self._lead.image
        draining = [node.node_id for node in image.nodes.values() if node.draining]
        empty = set()
        for node_id in draining:
            hosted = [
                (topic.name, index, state)
                for topic in image.topics.values()
                for index, state in enumerate(topic.partitions)
                if node_id in state.replicas
            ]
            if not hosted:
                empty.add(node_id)
                continue
            staying = {(topic, index) for topic, index, state in hosted if node_id not in state.removing}
            if staying:
                self._drain(node_id, staying)
        for node_id in sorted(empty - self._drained):
            logger.info("node %d is drained: it hosts nothing any more, and may be removed", node_id)
        self._drained = frozenset(empty)

    def _drain(self, node_id: int, staying: set[tuple[str, int]]) -> None:
        try:
            moves = balance.drain_moves(self._lead.image, node_id)
        except InvalidReplicationFactorError as error:
            logger.debug("node %d cannot be emptied now: %s", node_id, error.message)
            return
        missing = [move for move in moves if (move.topic, move.partition) in staying]
        self._begin(missing, f"node {node_id} is being emptied")
