"""Who leads a partition, who is in its ISR, and who may be elected later: the one rule that all its changes go through.

ISR: the replicas in sync. ELR, the eligible leader replicas (KIP-966): those that left the ISR while it was, or became,
smaller than min.insync.replicas. Since then nothing can have been committed, so they hold every committed record.

The leader epoch rises when the leader changes, and when a replica goes for good: its log is deleted, so if it is added
again while a fetch of its old log is on its way, that fetch must not count. A smaller ISR needs no new epoch: what the
leader says about the ISR carries the partition epoch, which rises with every change, and a follower gets back into the
ISR only under its own node epoch. A leader that has started anew has lost its leadership by that, so its epochs differ
as well.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ..transport.config_messages import TOPIC_RESOURCE
from .image import partition_record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from ..settings import BrokerConfig
    from .image import MetadataImage, NodeImage, PartitionImage, TopicImage
    from .records import MetadataRecord

NOBODY = -1
_NONE: frozenset[int] = frozenset()


class Rules(NamedTuple):
    """What a topic's elections go by."""

    min_insync_replicas: int
    unclean: bool
    """Whether a replica that may lack committed records may lead when there is no other."""


class Losses(NamedTuple):
    """Nodes that have started without all that they had before."""

    doubtful: AbstractSet[int] = _NONE
    """They did not stop cleanly, and may lack what was not flushed."""
    wiped: AbstractSet[int] = _NONE
    """They have another folder than before, or an old copy of it, and lack what they had. These are doubtful too."""


NO_LOSSES = Losses()


def rules_of(image: MetadataImage, config: BrokerConfig, topic: str) -> Rules:
    """The rules of a topic, from its settings and the defaults."""
    return rules_from(image.config_of(TOPIC_RESOURCE, topic), config)


def rules_from(overrides: Mapping[str, str], config: BrokerConfig) -> Rules:
    """The rules that follow from a topic's own settings, in the form that the metadata has them."""
    defaults = config.topic_defaults
    unclean = overrides.get("unclean.leader.election.enable")
    return Rules(
        int(overrides.get("min.insync.replicas", defaults.min_insync_replicas)),
        defaults.unclean_leader_election_enable if unclean is None else unclean == "true",
    )


def target_replicas(state: PartitionImage) -> tuple[int, ...]:
    """The replicas of a partition once it has been moved: those of now if it is not being moved."""
    return tuple(node for node in state.replicas if node not in state.removing)


def original_replicas(state: PartitionImage) -> tuple[int, ...]:
    """The replicas of a partition before its move."""
    return tuple(node for node in state.replicas if node not in state.adding)


def min_insync_replicas(setting: int, state: PartitionImage) -> int:
    """How many have to be in sync for acks=all, and for anything to be committed.

    That is the topic's setting, but never more than it has replicas, before and after a move: while it gets more
    of them it stays writable. Leader and controller both go by this, as the ELR is only right if they agree.
    """
    return min(setting, len(original_replicas(state)), len(target_replicas(state)))


def settle(
    old: PartitionImage,
    wanted: PartitionImage,
    nodes: Mapping[int, NodeImage],
    rules: Rules,
    *,
    losses: Losses = NO_LOSSES,
    preferred: bool = False,
) -> PartitionImage | None:
    """The state after `old` in which replicas, ISR and moves are as wanted, as far as the nodes allow; None: the same.

    Of `wanted`, leader, epochs and ELR do not count: they follow. Nodes that are fenced leave the ISR, and so do
    those that are stopping if others remain. A move is completed if that is possible. The leader stays if it can, and
    if the preferred one is not asked for; else it comes from the ISR, in the order of the replicas; else from the ELR;
    else nobody leads, and the last one in sync stays the ISR; or, if the rules allow it, any living replica leads.
    """
    isr = _in_sync(old, wanted, nodes, losses)
    if _is_moved(wanted, isr, nodes, rules):
        wanted = replace(wanted, replicas=target_replicas(wanted), adding=(), removing=())
        isr = [node for node in isr if node in wanted.replicas]
    elr: list[int] = []
    if len(isr) < min_insync_replicas(rules.min_insync_replicas, wanted):
        trusted = {*old.isr, *old.elr} - {*isr, *losses.doubtful}
        elr = [node for node in wanted.replicas if node in trusted]
    leader = _first_to_lead(isr, nodes, NOBODY if preferred else old.leader)
    if leader == NOBODY and rules.unclean:
        leader = _first_to_lead([*_without(wanted.replicas, wanted.adding), *wanted.adding], nodes)
        if leader != NOBODY:
            isr, elr = [leader], []
    removed = not set(old.replicas) <= set(wanted.replicas)
    new = replace(
        wanted,
        isr=tuple(isr),
        elr=tuple(elr),
        leader=leader,
        leader_epoch=old.leader_epoch + (leader != old.leader or removed),
        partition_epoch=old.partition_epoch,
    )
    return None if new == old else replace(new, partition_epoch=old.partition_epoch + 1)


def _in_sync(old: PartitionImage, wanted: PartitionImage, nodes: Mapping[int, NodeImage], losses: Losses) -> list[int]:
    """Who is in sync, in the order of the replicas: those that live; else one that holds what is committed."""
    found = [node for node in wanted.replicas if node in wanted.isr]
    members = _without(found, losses.doubtful)
    eligible = [node for node in wanted.replicas if node in old.elr and node not in losses.doubtful]
    living = _those(members, nodes, _is_active) or _those(members, nodes, _is_alive)
    if living:
        return living
    elected = _first_to_lead(eligible, nodes)
    if elected != NOBODY:
        return [elected]
    # Nobody can lead now. Who comes back first must have all that is committed, as far as anybody has it.
    last = members or eligible or _without(found, losses.wiped)
    return [old.leader] if old.leader in last else last[:1]


def _is_moved(wanted: PartitionImage, isr: Sequence[int], nodes: Mapping[int, NodeImage], rules: Rules) -> bool:
    """Whether a move can be completed: all that were added are in sync, and enough are when the others have gone.

    A replica that is dead and stays where it is does not hold up the move.
    """
    if not (wanted.adding or wanted.removing):
        return False
    target = target_replicas(wanted)
    remaining = [node for node in isr if node in target]
    enough = len(remaining) >= min(rules.min_insync_replicas, len(target))
    return set(wanted.adding) <= set(isr) and enough and bool(_those(remaining, nodes, _is_alive))


def _first_to_lead(candidates: Sequence[int], nodes: Mapping[int, NodeImage], leader: int = NOBODY) -> int:
    """Who of the candidates leads: who does already, else the first; one about to go only if all others are dead."""
    able = _those(candidates, nodes, _may_lead) or _those(candidates, nodes, _is_alive)
    if leader in able:
        return leader
    return able[0] if able else NOBODY


def _those(members: Sequence[int], nodes: Mapping[int, NodeImage], fit: Callable[[NodeImage], bool]) -> list[int]:
    return [node for node in members if node in nodes and fit(nodes[node])]


def _without(members: Sequence[int], others: AbstractSet[int] | Sequence[int]) -> list[int]:
    return [node for node in members if node not in others]


def _may_lead(node: NodeImage) -> bool:
    return node.may_lead


def _is_active(node: NodeImage) -> bool:
    return not (node.fenced or node.stopping)


def _is_alive(node: NodeImage) -> bool:
    return not node.fenced


def node_elections(
    image: MetadataImage, config: BrokerConfig, node_id: int, losses: Losses = NO_LOSSES
) -> list[MetadataRecord]:
    """What changes in the partitions of a node whose state has changed to what the image says."""
    return [
        record
        for topic in image.topics.values()
        for record in _topic_changes(image, topic, rules_of(image, config, topic.name), losses, node_id)
    ]


def topic_elections(image: MetadataImage, topic: str, rules: Rules) -> list[MetadataRecord]:
    """What changes in the partitions of a topic whose rules become these."""
    return _topic_changes(image, image.topics[topic], rules, NO_LOSSES, None)


def _topic_changes(
    image: MetadataImage, topic: TopicImage, rules: Rules, losses: Losses, node_id: int | None
) -> list[MetadataRecord]:
    records: list[MetadataRecord] = []
    for index, state in enumerate(topic.partitions):
        if node_id is None or node_id in state.replicas:
            new = settle(state, state, image.nodes, rules, losses=losses)
            if new is not None:
                records.append(partition_record(topic.name, index, new))
    return records
