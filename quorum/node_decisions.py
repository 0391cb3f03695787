"""The controller's decisions about nodes: they register, are heard of, stop, are drained and removed. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import (
    BrokerIdNotRegisteredError,
    DuplicateBrokerRegistrationError,
    InvalidRequestError,
    PolicyViolationError,
    StaleBrokerEpochError,
    UnsupportedVersionError,
)
from ..log.data_folder import FORMER_MAX
from ..setting_values import INT32_MAX
from ..transport.cluster_messages import DescribeClusterReply, NodeInfo
from ..transport.config_messages import TOPIC_RESOURCE
from ..transport.message_base import Body
from ..transport.peer_messages import HeartbeatNodeReply, JoinClusterReply, RegisterNodeReply
from .balance import drain_moves
from .decision import Decision
from .elections import NO_LOSSES, Losses, node_elections
from .image import apply
from .min_insync import followed_settings
from .reassignment import begin
from .records import NextNodeId, RegisterNode, RemoveNode, SetNodeState, SetProtocolVersion

if TYPE_CHECKING:
    from ..settings import BrokerConfig
    from ..transport.cluster_messages import DrainNodeRequest, RemoveNodeRequest, UpgradeClusterRequest
    from ..transport.peer_messages import HeartbeatNodeRequest, JoinClusterRequest, RegisterNodeRequest
    from .image import MetadataImage, NodeImage
    from .records import MetadataRecord


def register_node(image: MetadataImage, request: RegisterNodeRequest, config: BrokerConfig, *, alive: bool) -> Decision:
    """A node has started; alive: the process that is registered under its id is believed to live.

    Replies RegisterNodeReply. The same incarnation again gets the same epoch. All leaderships and ISR memberships of
    the one before end as by fencing; after an unclean start, or with another folder, it leaves every ELR too. A start
    is clean only if the process that stopped cleanly is the one that was registered last (KIP-966): else the folder is
    a copy from before, and lacks what was written since, as another folder does.

    Raises BrokerIdNotRegisteredError (removed from the cluster), DuplicateBrokerRegistrationError,
    UnsupportedVersionError, InvalidRequestError.
    """
    _check_registration(image, request)
    node_id, before = request.node_id, image.nodes.get(request.node_id)
    if before is not None and before.incarnation == request.incarnation:
        return Decision([], RegisterNodeReply(before.epoch))
    if before is not None and request.incarnation in before.former.split():
        # A request of the dead may have been under way for long: it must not take the place of the living.
        message = (
            f"another process has been node {node_id} since process {request.incarnation} asked to be: that of epoch"
            f" {before.epoch} at {before.host}:{before.port}"
        )
        raise DuplicateBrokerRegistrationError(message)
    if before is not None and alive:
        message = (
            f"node {node_id} is registered and alive at {before.host}:{before.port}: two processes cannot be one node"
        )
        raise DuplicateBrokerRegistrationError(message)
    losses = _losses(request, before)
    records: list[MetadataRecord] = [
        RegisterNode(
            node_id,
            request.host,
            request.port,
            request.rack,
            request.clean and not losses.doubtful,
            request.directory_id,
            request.incarnation,
            request.min_version,
            request.max_version,
            kafka_host=request.kafka_host,
            kafka_port=request.kafka_port,
            former=_former(request, before),
        )
    ]
    reply = RegisterNodeReply(image.end_offset)
    if node_id >= image.next_node_id:
        records.append(NextNodeId(node_id + 1))
    after = apply(image, records, TOPIC_RESOURCE)
    return Decision([*records, *_elections(after, config, node_id, losses)], reply)


def _former(request: RegisterNodeRequest, before: NodeImage | None) -> str:
    """The incarnations that are no longer this node: those of its folder, and whoever was registered."""
    known = request.former_incarnations.split()
    registered = [] if before is None else [*before.former.split(), before.incarnation]
    found = dict.fromkeys([*registered, *known])
    found.pop(request.incarnation, None)
    return " ".join([each for each in found if each][-FORMER_MAX:])


def _losses(request: RegisterNodeRequest, before: NodeImage | None) -> Losses:
    """What the node may lack of what it had.

    Nothing, if the process that is registered closed all its logs and no other has used the folder since, but for
    processes that closed theirs as well. It is known by its epoch, or, if it stopped before it was told that, by its
    incarnation. What an unclean end before it had cost was counted when it registered, so this hides nothing. A copy
    from before names neither.
    """
    if before is None:
        return NO_LOSSES
    node = frozenset([request.node_id])
    was_last = request.previous_epoch == before.epoch or before.incarnation in request.previous_incarnations.split()
    is_old_copy = request.clean and request.previous_epoch >= 0 and not was_last
    if is_old_copy or before.directory_id not in ("", request.directory_id):
        return Losses(doubtful=node, wiped=node)
    return NO_LOSSES if request.clean and was_last else Losses(doubtful=node)


def _check_registration(image: MetadataImage, request: RegisterNodeRequest) -> None:
    if request.node_id < 0 or not request.host or not request.incarnation or request.port > 2**16 - 1:
        message = (
            f"node {request.node_id} at {request.host!r}:{request.port} cannot be registered: it takes an id of at"
            " least 0, an address, and an incarnation"
        )
        raise InvalidRequestError(message)
    if not request.min_version <= image.protocol_version <= request.max_version:
        message = (
            f"node {request.node_id} speaks the protocol versions {request.min_version} to {request.max_version}, and"
            f" the cluster uses {image.protocol_version}"
            + "".join(
                f"; node {node.node_id} speaks {_versions(node)}" for node in _other_nodes(image, request.node_id)
            )
        )
        raise UnsupportedVersionError(message)
    if request.node_id not in image.nodes and request.was_member:
        message = (
            f"node {request.node_id} was removed from the cluster: to come back it has to join anew, with an empty"
            " data folder"
        )
        raise BrokerIdNotRegisteredError(message)


def _versions(node: NodeImage) -> str:
    return f"{node.min_version} to {node.max_version}"


def _other_nodes(image: MetadataImage, node_id: int) -> list[NodeImage]:
    return [node for node in image.nodes.values() if node.node_id != node_id][:10]


def heartbeat(image: MetadataImage, request: HeartbeatNodeRequest, config: BrokerConfig) -> Decision:
    """A node is heard of. Replies HeartbeatNodeReply.

    Unfences it once it knows its own registration. With want_shut_down it becomes `stopping`: its leaders move, it
    leaves the ISRs where others remain, and should_shut_down is said when it leads nothing that another living
    replica could lead once that is in sync.

    Raises BrokerIdNotRegisteredError, StaleBrokerEpochError.
    """
    node = registered(image, request.node_id, request.node_epoch)
    caught_up = request.metadata_offset > node.epoch
    fenced, stopping = node.fenced, node.stopping
    if request.want_shut_down:
        stopping = stopping or not fenced
    elif caught_up:
        fenced = False
    records = _with_state(image, config, node, fenced=fenced, stopping=stopping, draining=node.draining)
    after = apply(image, records, TOPIC_RESOURCE) if records else image
    may_stop = request.want_shut_down and (fenced or not _waits_for_others(after, node.node_id))
    return Decision(records, HeartbeatNodeReply(caught_up, fenced, may_stop))


def _waits_for_others(image: MetadataImage, node_id: int) -> bool:
    """Whether a stopping node leads a partition that another living replica can take over when it has caught up."""
    taking = {node.node_id for node in image.nodes.values() if not (node.fenced or node.stopping)}
    return any(
        state.leader == node_id and not taking.isdisjoint(state.replicas)
        for topic in image.topics.values()
        for state in topic.partitions
    )


def _with_state(
    image: MetadataImage, config: BrokerConfig, node: NodeImage, *, fenced: bool, stopping: bool, draining: bool
) -> list[MetadataRecord]:
    """A node's new state and what follows from it for partitions; nothing if it is the old one."""
    if (fenced, stopping, draining) == (node.fenced, node.stopping, node.draining):
        return []
    state = SetNodeState(node.node_id, fenced, stopping, draining)
    after = apply(image, [state], TOPIC_RESOURCE)
    return [state, *_elections(after, config, node.node_id, NO_LOSSES)]


def _elections(image: MetadataImage, config: BrokerConfig, node_id: int, losses: Losses) -> list[MetadataRecord]:
    """What a node's new state, which is in the image, changes in its partitions. Moves may end by it."""
    records = node_elections(image, config, node_id, losses)
    return [*records, *followed_settings(image, config, records)]


def fence(image: MetadataImage, node_id: int, config: BrokerConfig) -> list[MetadataRecord]:
    """A node is not heard of (any more): it leads nothing and is in no ISR. Nothing if it is fenced, or gone."""
    node = image.nodes.get(node_id)
    if node is None:
        return []
    return _with_state(image, config, node, fenced=True, stopping=node.stopping, draining=node.draining)


def join_cluster(image: MetadataImage, request: JoinClusterRequest, cluster_id: str) -> Decision:
    """Give a new process a node id that nobody had, or let it have the one that it asks for. Replies JoinClusterReply.

    An id that is in use is not refused here: its registration shows whether that is another process or the same one.
    """
    node_id = image.next_node_id if request.node_id == -1 else request.node_id
    if not 0 <= node_id <= INT32_MAX:
        message = f"{node_id} is no node id: ids go from 0 to {INT32_MAX}; choose one by hand"
        raise InvalidRequestError(message)
    records: list[MetadataRecord] = [NextNodeId(node_id + 1)] if node_id >= image.next_node_id else []
    nodes = [(node.node_id, node.host, node.port) for _, node in sorted(image.nodes.items())]
    return Decision(records, JoinClusterReply(cluster_id, node_id, nodes))


def drain_node(image: MetadataImage, request: DrainNodeRequest, config: BrokerConfig) -> Decision:
    """Give a node no more replicas and begin to move those that it has; or take that back. Replies an empty Body.

    Moves that are under way when it is taken back go on. Raises BrokerIdNotRegisteredError,
    InvalidReplicationFactorError (the other nodes are too few).
    """
    node = _known(image, request.node_id)
    records = _with_state(image, config, node, fenced=node.fenced, stopping=node.stopping, draining=not request.cancel)
    if not request.cancel:
        after = apply(image, records, TOPIC_RESOURCE)
        records += begin(after, config, drain_moves(after, node.node_id))
    return Decision(records, Body())


def remove_node(image: MetadataImage, request: RemoveNodeRequest, *, alive: bool) -> Decision:
    """Forget a node that hosts nothing, and is dead or drained. Replies an empty Body.

    Raises BrokerIdNotRegisteredError, PolicyViolationError.
    """
    node = _known(image, request.node_id)
    hosted = sum(node.node_id in state.replicas for topic in image.topics.values() for state in topic.partitions)
    if hosted:
        message = f"node {node.node_id} has {hosted} replicas: drain it first, and wait until they have moved"
    elif len(image.nodes) == 1:
        message = f"node {node.node_id} is the only one of the cluster"
    elif alive and not node.draining:
        message = f"node {node.node_id} is alive: stop it, or drain it first so that it gets no new replicas"
    elif _is_needed_to_vote(image, node.node_id):
        message = (
            f"node {node.node_id} votes in the metadata quorum, and without it no majority of the {len(image.voters)}"
            " voters is alive: drain it, and wait until another node votes in its place"
        )
    else:
        return Decision([RemoveNode(node.node_id)], Body())
    raise PolicyViolationError(message)


def _is_needed_to_vote(image: MetadataImage, node_id: int) -> bool:
    """Whether nothing could be decided any more if this node went, not even that it votes no more."""
    voting = {voter for voter, _ in image.voters}
    alive = sum(voter != node_id and voter in image.nodes and not image.nodes[voter].fenced for voter in voting)
    return node_id in voting and alive <= len(voting) // 2


def upgrade_cluster(image: MetadataImage, request: UpgradeClusterRequest) -> Decision:
    """Let the nodes use a protocol version that all of them speak. Replies an empty Body.

    Raises UnsupportedVersionError.
    """
    version, now = request.version, image.protocol_version
    if version < now:
        message = f"the cluster uses protocol version {now}, and cannot go back to {version}"
        raise UnsupportedVersionError(message)
    for _, node in sorted(image.nodes.items()):
        if not node.min_version <= version <= node.max_version:
            message = (
                f"node {node.node_id} speaks the protocol versions {_versions(node)}, and not {version}: upgrade its"
                " software first"
            )
            raise UnsupportedVersionError(message)
    return Decision([SetProtocolVersion(version)] if version != now else [], Body())


def _known(image: MetadataImage, node_id: int) -> NodeImage:
    node = image.nodes.get(node_id)
    if node is None:
        message = f"there is no node {node_id} in the cluster; its nodes are {', '.join(map(str, sorted(image.nodes)))}"
        raise BrokerIdNotRegisteredError(message)
    return node


def registered(image: MetadataImage, node_id: int, node_epoch: int) -> NodeImage:
    """The node that says something, if it is registered with this epoch.

    Raises BrokerIdNotRegisteredError, StaleBrokerEpochError.
    """
    node = _known(image, node_id)
    if node.epoch != node_epoch:
        message = f"node {node_id} says so under node epoch {node_epoch}, and is registered with {node.epoch}"
        raise StaleBrokerEpochError(message)
    return node


def describe_cluster(image: MetadataImage, cluster_id: str, controller_id: int) -> DescribeClusterReply:
    """All nodes by id; controller_id -1: nobody knows."""
    leaders, replicas = dict.fromkeys(image.nodes, 0), dict.fromkeys(image.nodes, 0)
    for topic in image.topics.values():
        for state in topic.partitions:
            if state.leader in leaders:
                leaders[state.leader] += 1
            for node_id in state.replicas:
                if node_id in replicas:
                    replicas[node_id] += 1
    voters = {node_id for node_id, _ in image.voters}
    nodes = [
        NodeInfo(
            node_id,
            node.host,
            node.port,
            node.rack,
            node.epoch,
            _state_name(node, replicas[node_id]),
            is_voter=node_id in voters,
            is_controller=node_id == controller_id,
            leaders=leaders[node_id],
            replicas=replicas[node_id],
        )
        for node_id, node in sorted(image.nodes.items())
    ]
    return DescribeClusterReply(cluster_id, controller_id, image.protocol_version, nodes)


def _state_name(node: NodeImage, replicas: int) -> str:
    """What matters most: who waits for a drain to end waits for `drained`, of a dead node too."""
    if node.draining and not replicas:
        return "drained"
    if node.fenced:
        return "fenced"
    if node.stopping:
        return "stopping"
    return "draining" if node.draining else "active"
