"""Partitions move to other nodes (KIP-455): asked for, to empty a node, to spread the load. Pure.

While a partition moves, its replicas are those that it shall have, then those that it loses. The move is done when all
that were added are in sync (elections.settle); taken back, what was added goes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import (
    BrokerError,
    InvalidReplicaAssignmentError,
    InvalidRequestError,
    NoReassignmentInProgressError,
    UnknownTopicOrPartitionError,
)
from ..transport.cluster_messages import (
    ListPartitionReassignmentsReply,
    PartitionOutcome,
    PartitionOutcomesReply,
    ReassignmentState,
    RebalanceReply,
)
from .balance import factor_moves, rebalance_moves
from .decision import Decision
from .elections import original_replicas
from .min_insync import followed_settings
from .partition_states import PartitionStates

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..settings import BrokerConfig
    from ..transport.cluster_messages import (
        AlterPartitionReassignmentsRequest,
        ListPartitionReassignmentsRequest,
        Reassignment,
        RebalanceRequest,
    )
    from .image import MetadataImage, NodeImage, PartitionImage
    from .records import MetadataRecord

MAX_REPLICAS = 100
"""Of one partition: more than anybody needs, and few enough that states stay small."""


def alter_partition_reassignments(
    image: MetadataImage, request: AlterPartitionReassignmentsRequest, config: BrokerConfig
) -> Decision:
    """Begin, change or cancel moves. Replies PartitionOutcomesReply.

    A new target takes the place of that of a move under way, as KIP-455 has it. Errors of an entry:
    UNKNOWN_TOPIC_OR_PARTITION, INVALID_REPLICA_ASSIGNMENT, NO_REASSIGNMENT_IN_PROGRESS, INVALID_REQUEST. Raises
    InvalidReplicationFactorError if there are fewer nodes than replicas are wanted.
    """
    states = PartitionStates(image, config)
    times = Counter((move.topic, move.partition) for move in request.partitions)
    outcomes: list[PartitionOutcome] = []
    for move in _chosen(image, request):
        outcome = PartitionOutcome(move.topic, move.partition)
        try:
            if times[move.topic, move.partition] > 1:
                message = f"{move.topic}-{move.partition} is named more than once"
                raise InvalidRequestError(message)
            _alter(states, move)
        except BrokerError as error:
            outcome = PartitionOutcome(move.topic, move.partition, error.code, error.message)
        outcomes.append(outcome)
    return _moved(states, PartitionOutcomesReply(outcomes))


def _chosen(image: MetadataImage, request: AlterPartitionReassignmentsRequest) -> list[Reassignment]:
    """The entries, those that leave it to the controller with the replicas that it chooses."""
    if request.replication_factor == 0:
        return request.partitions
    places = [
        (move.topic, move.partition)
        for move in request.partitions
        if move.replicas == [] and move.topic in image.topics
        if move.partition < len(image.topics[move.topic].partitions)
    ]
    chosen = {(move.topic, move.partition): move for move in factor_moves(image, places, request.replication_factor)}
    return [
        chosen.get((move.topic, move.partition), move) if move.replicas == [] else move for move in request.partitions
    ]


def _moved(states: PartitionStates, reply: PartitionOutcomesReply | RebalanceReply) -> Decision:
    return Decision([*states.records, *followed_settings(states.image, states.config, states.records)], reply)


def _alter(states: PartitionStates, move: Reassignment) -> None:
    name = f"{move.topic}-{move.partition}"
    state = states.find(move.topic, move.partition)
    if move.replicas is not None:
        _check_target(states.image, name, state, move.replicas)
        _begin(states, move.topic, move.partition, move.replicas)
    elif state.adding or state.removing:
        _begin(states, move.topic, move.partition, original_replicas(state))
    else:
        message = f"{name} is not being moved"
        raise NoReassignmentInProgressError(message)


def _check_target(image: MetadataImage, name: str, state: PartitionImage, target: Sequence[int]) -> None:
    """Refuse replicas that cannot be: those that it has already may be dead, new ones have to be fit to host it."""
    if not 1 <= len(target) <= MAX_REPLICAS:
        message = f"{name} cannot have {len(target)} replicas: at least 1 and at most {MAX_REPLICAS} are possible"
        raise InvalidReplicaAssignmentError(message)
    for node_id in target:
        reason = _unfit(image.nodes.get(node_id))
        if target.count(node_id) > 1:
            reason = "is named more than once"
        elif node_id in original_replicas(state) and node_id in image.nodes:
            continue
        if reason is not None:
            message = f"{name} cannot have its replicas on the nodes {list(target)}: node {node_id} {reason}"
            raise InvalidReplicaAssignmentError(message)


def _unfit(node: NodeImage | None) -> str | None:
    """Why a node gets no new replicas."""
    if node is None:
        return "is not in the cluster"
    if node.fenced:
        return "is fenced: it was not heard of"
    if node.stopping:
        return "is about to stop"
    return "is being drained" if node.draining else None


def _begin(states: PartitionStates, topic: str, partition: int, target: Sequence[int]) -> None:
    """Let a partition move to these replicas, from where it was before any move that is under way."""
    state = states.find(topic, partition)
    original = original_replicas(state)
    leaving = [node for node in original if node not in target]
    stay = [*target, *leaving]
    if not any(node in stay for node in state.isr):
        # What only nodes of the move before have in sync must not go before others have it.
        leaving += [node for node in state.isr if node not in stay]
    wanted = replace(
        state,
        replicas=(*target, *leaving),
        adding=tuple(node for node in target if node not in original),
        removing=tuple(leaving),
    )
    states.settle(topic, partition, wanted)


def begin(image: MetadataImage, config: BrokerConfig, moves: Iterable[Reassignment]) -> list[MetadataRecord]:
    """The records that begin moves that are known to be possible: what the planners of balance.py return."""
    states = PartitionStates(image, config)
    for move in moves:
        assert move.replicas, f"{move} moves nothing"
        _begin(states, move.topic, move.partition, move.replicas)
    return [*states.records, *followed_settings(image, config, states.records)]


def list_partition_reassignments(
    image: MetadataImage, request: ListPartitionReassignmentsRequest
) -> ListPartitionReassignmentsReply:
    """The moves under way, of some topics or of all; those of topics that are not there are none."""
    names = image.topics if request.topics is None else dict.fromkeys(request.topics)
    return ListPartitionReassignmentsReply(
        [
            ReassignmentState(name, index, list(state.replicas), list(state.adding), list(state.removing))
            for name in names
            if name in image.topics
            for index, state in enumerate(image.topics[name].partitions)
            if state.adding or state.removing
        ]
    )


def rebalance(image: MetadataImage, request: RebalanceRequest, config: BrokerConfig) -> Decision:
    """Plan an even cluster and begin its moves, unless only validated. Replies RebalanceReply.

    Raises UnknownTopicOrPartitionError if a topic is named that is not there.
    """
    for name in request.topics or ():
        if name not in image.topics:
            message = f"there is no topic {name[:249]!r}"
            raise UnknownTopicOrPartitionError(message)
    moves = rebalance_moves(image, request.topics)
    return Decision([] if request.validate_only else begin(image, config, moves), RebalanceReply(moves))
