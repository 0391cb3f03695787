"""The controller's decisions about partitions: leaders change ISRs, operators ask for elections. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import (
    BrokerError,
    ElectionNotNeededError,
    EligibleLeadersNotAvailableError,
    FencedLeaderEpochError,
    InconsistentTopicIdError,
    IneligibleReplicaError,
    InvalidRequestError,
    InvalidUpdateVersionError,
    NewLeaderElectedError,
    NotLeaderOrFollowerError,
    PreferredLeaderNotAvailableError,
    UnknownLeaderEpochError,
    UnknownTopicOrPartitionError,
)
from ..transport.cluster_messages import PartitionOutcome, PartitionOutcomesReply
from ..transport.peer_messages import AlterPartitionReply, PartitionChanged
from .decision import Decision
from .elections import NOBODY, Losses
from .min_insync import followed_settings
from .node_decisions import registered
from .partition_states import PartitionStates

if TYPE_CHECKING:
    from ..settings import BrokerConfig
    from ..transport.cluster_messages import ElectLeadersRequest
    from ..transport.peer_messages import AlterPartitionRequest, PartitionChange
    from .image import MetadataImage, PartitionImage
    from .records import MetadataRecord


def alter_partition(image: MetadataImage, request: AlterPartitionRequest, config: BrokerConfig) -> Decision:
    """A leader wants another ISR for some partitions. Replies AlterPartitionReply: each entry has the state after it.

    A move ends here, when the ISR has all of the replicas that were added. A proposal of the ISR as it is raises the
    partition epoch too: its leader asks so because it does not know what became of an earlier proposal, and after this
    answer that one must not be accepted any more.

    Raises BrokerIdNotRegisteredError, StaleBrokerEpochError for the request as a whole. Errors of an entry:
    UNKNOWN_TOPIC_OR_PARTITION, NOT_LEADER_OR_FOLLOWER, FENCED_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH,
    INVALID_UPDATE_VERSION, INELIGIBLE_REPLICA, INVALID_REQUEST; and NEW_LEADER_ELECTED, with which the change was made.
    """
    registered(image, request.node_id, request.node_epoch)
    states = PartitionStates(image, config)
    entries = [_altered(states, request.node_id, change) for change in request.partitions]
    return Decision([*states.records, *followed_settings(image, config, states.records)], AlterPartitionReply(entries))


def _altered(states: PartitionStates, node_id: int, change: PartitionChange) -> PartitionChanged:
    topic, partition = change.topic, change.partition
    error: BrokerError | None = None
    try:
        state = states.find(topic, partition)
    except UnknownTopicOrPartitionError as unknown:
        return PartitionChanged(topic, partition, unknown.code, unknown.message)
    try:
        _check_change(states.image, state, node_id, change)
        members = tuple(member for member, _ in change.new_isr)
        losses = Losses(doubtful=frozenset(change.lost))
        before, state = state, states.settle(topic, partition, replace(state, isr=members), losses=losses)
        if state is before:
            state = states.confirm(topic, partition)
        if state.leader != node_id:
            message = f"with this change {topic}-{partition} is led by node {state.leader}"
            error = NewLeaderElectedError(message)
    except BrokerError as refused:
        error = refused
    return PartitionChanged(
        topic,
        partition,
        error.code if error else 0,
        error.message if error else None,
        state.leader,
        state.leader_epoch,
        list(state.isr),
        state.partition_epoch,
    )


def _check_change(image: MetadataImage, state: PartitionImage, node_id: int, change: PartitionChange) -> None:
    name = f"{change.topic}-{change.partition}"
    topic_id = image.topics[change.topic].topic_id
    if change.topic_id not in ("", topic_id):
        message = f"the topic {change.topic} has the id {topic_id}, and this is about {change.topic_id}"
        raise InconsistentTopicIdError(message)
    epochs = f"{name} is in leader epoch {state.leader_epoch}, and this is about {change.leader_epoch}"
    if change.leader_epoch < state.leader_epoch:
        raise FencedLeaderEpochError(epochs)
    if change.leader_epoch > state.leader_epoch:
        raise UnknownLeaderEpochError(epochs)
    if node_id != state.leader:
        message = f"{name} is led by node {state.leader}, and not by node {node_id}"
        raise NotLeaderOrFollowerError(message)
    if change.partition_epoch != state.partition_epoch:
        message = f"{name} is in partition epoch {state.partition_epoch}, and this is about {change.partition_epoch}"
        raise InvalidUpdateVersionError(message)
    _check_leader(image, state, node_id, change)
    for member, node_epoch in change.new_isr:
        node = image.nodes.get(member)
        if node is None or member not in state.replicas:
            reason = "hosts no replica of it"
        elif node.fenced:
            reason = "is fenced"
        elif node.stopping and member != node_id:
            reason = "is about to stop"
        elif node.epoch != node_epoch:
            reason = f"has node epoch {node.epoch}, and fetched with {node_epoch}"
        else:
            continue
        message = f"node {member} cannot be in the ISR of {name}: it {reason}"
        raise IneligibleReplicaError(message)


def _check_leader(image: MetadataImage, state: PartitionImage, node_id: int, change: PartitionChange) -> None:
    """A leader leaves the ISR, and so the lead, only if it says that it has lost records, and for one that has not."""
    name = f"{change.topic}-{change.partition}"
    members = [member for member, _ in change.new_isr]
    if len(set(members)) != len(members) or not set(members).isdisjoint(change.lost):
        message = f"an ISR of {name} has replicas once, and none of those that lack records, {change.lost}: {members}"
        raise InvalidRequestError(message)
    if node_id in members:
        return
    if node_id not in change.lost:
        message = f"an ISR of {name} has its leader {node_id}, if that lacks nothing: {change.new_isr}"
        raise InvalidRequestError(message)
    others = {*(member for member, _ in change.new_isr), *state.elr} - set(change.lost)
    if all(image.nodes[member].fenced for member in others if member in image.nodes):
        message = f"node {node_id} lacks records of {name}, and nobody else can lead it now"
        raise EligibleLeadersNotAvailableError(message)


def elect_leaders(image: MetadataImage, request: ElectLeadersRequest, config: BrokerConfig) -> Decision:
    """Preferred or unclean elections that somebody asks for. Replies PartitionOutcomesReply.

    Without partitions in the request: all that need it, and only those have entries. Errors of an entry:
    UNKNOWN_TOPIC_OR_PARTITION, ELECTION_NOT_NEEDED, PREFERRED_LEADER_NOT_AVAILABLE, ELIGIBLE_LEADERS_NOT_AVAILABLE.
    """
    states = PartitionStates(image, config)
    named = request.partitions is not None
    outcomes: list[PartitionOutcome] = []
    for topic, partition in _all_partitions(image) if request.partitions is None else request.partitions:
        try:
            if request.unclean:
                _elect_unclean(states, topic, partition)
            else:
                _elect_preferred(states, topic, partition)
            outcomes.append(PartitionOutcome(topic, partition))
        except BrokerError as error:
            if named or not isinstance(error, ElectionNotNeededError):
                outcomes.append(PartitionOutcome(topic, partition, error.code, error.message))
    return Decision(states.records, PartitionOutcomesReply(outcomes))


def preferred_elections(image: MetadataImage, config: BrokerConfig) -> list[MetadataRecord]:
    """Partitions go back to their preferred leaders where these are in sync and may lead."""
    states = PartitionStates(image, config)
    for topic, partition in _all_partitions(image):
        state = states.find(topic, partition)
        if state.leader not in (NOBODY, state.replicas[0]) and _preferred_can_lead(image, state):
            states.settle(topic, partition, state, preferred=True)
    return states.records


def _all_partitions(image: MetadataImage) -> list[tuple[str, int]]:
    return [(topic.name, index) for topic in image.topics.values() for index in range(len(topic.partitions))]


def _preferred_can_lead(image: MetadataImage, state: PartitionImage) -> bool:
    preferred = image.nodes.get(state.replicas[0])
    return preferred is not None and preferred.may_lead and preferred.node_id in state.isr


def _elect_preferred(states: PartitionStates, topic: str, partition: int) -> None:
    state = states.find(topic, partition)
    preferred = state.replicas[0]
    if state.leader == preferred:
        message = f"{topic}-{partition} is led by its preferred leader, node {preferred}, already"
        raise ElectionNotNeededError(message)
    if not _preferred_can_lead(states.image, state):
        message = (
            f"the preferred leader of {topic}-{partition}, node {preferred}, cannot lead: it has to be alive and not"
            f" about to go, and in the ISR, which is {list(state.isr)}"
        )
        raise PreferredLeaderNotAvailableError(message)
    states.settle(topic, partition, state, preferred=True)


def _elect_unclean(states: PartitionStates, topic: str, partition: int) -> None:
    state = states.find(topic, partition)
    if state.leader != NOBODY:
        message = f"{topic}-{partition} is led by node {state.leader}: there is no need to lose records"
        raise ElectionNotNeededError(message)
    if states.settle(topic, partition, state, unclean=True).leader == NOBODY:
        message = f"none of the replicas of {topic}-{partition} is alive: {list(state.replicas)}"
        raise EligibleLeadersNotAvailableError(message)
