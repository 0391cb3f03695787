"""Plans of moves: even numbers of replicas and of preferred leaders on all nodes, racks apart, a node emptied. Pure.

Counted is what will be when the moves under way are done; those partitions are left alone. One step is one replica
that goes to another node, and each makes the cluster more even, so that there are few. Preferred leaders are evened
out last, by the order of the replicas alone, which moves no data.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from itertools import pairwise
from typing import TYPE_CHECKING

from ..errors import InvalidReplicationFactorError
from ..transport.cluster_messages import Reassignment
from ..transport.internal_topics import INTERNAL_TOPICS
from .elections import target_replicas
from .placement import default_factor, usable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ..settings import BrokerConfig
    from .image import MetadataImage, PartitionImage

    Place = tuple[str, int]


class _Plan:
    """Where replicas will be, and the moves so far."""

    def __init__(self, image: MetadataImage, topics: Iterable[str]) -> None:
        self.nodes = [node.node_id for node in usable(image.nodes.values())]
        self.alive = {node_id for node_id, node in image.nodes.items() if not node.fenced}
        self.racks = {node_id: node.rack for node_id, node in image.nodes.items()}
        self.load: Counter[int] = Counter()
        self.leaders: Counter[int] = Counter()
        self.now = {
            (name, index): list(target_replicas(state))
            for name, topic in image.topics.items()
            for index, state in enumerate(topic.partitions)
        }
        for replicas in self.now.values():
            self.load.update(replicas)
            self.leaders[replicas[0]] += 1
        self.planned = {
            (name, index): list(self.now[name, index])
            for name in topics
            for index, state in enumerate(image.topics[name].partitions)
            if not (state.adding or state.removing)
        }

    def moves(self) -> list[Reassignment]:
        """What is planned and is not so already."""
        return [
            Reassignment(*place, replicas) for place, replicas in self.planned.items() if replicas != self.now[place]
        ]

    def replace(self, place: Place, old: int, new: int) -> None:
        """Let a replica be on another node, in the same position."""
        replicas = self.planned[place]
        at = replicas.index(old)
        replicas[at] = new
        self.load[old] -= 1
        self.load[new] += 1
        if at == 0:
            self.leaders[old] -= 1
            self.leaders[new] += 1

    def add(self, place: Place, new: int) -> None:
        """Let a partition have one more replica."""
        self.planned[place].append(new)
        self.load[new] += 1

    def drop(self, place: Place, old: int) -> None:
        """Let a partition have one replica less."""
        replicas = self.planned[place]
        self.leaders[replicas[0]] -= 1
        replicas.remove(old)
        self.leaders[replicas[0]] += 1
        self.load[old] -= 1

    def worst(self, replicas: Sequence[int], state: PartitionImage) -> int:
        """Who should go first.

        One that is dead, that is not in sync, that is on its way out; then one of a rack with others, one that does not
        lead, one with much load.
        """
        racks = Counter(self.racks.get(node) for node in replicas)

        def badness(at: int) -> tuple[int, ...]:
            node = replicas[at]
            return (
                node not in self.alive,
                node not in state.isr,
                node not in self.nodes,
                racks[self.racks.get(node)],
                node != state.leader,
                self.load[node],
                at,
            )

        return replicas[max(range(len(replicas)), key=badness)]

    def best(self, replicas: Sequence[int]) -> int | None:
        """Who should get one more replica beside these: in a rack that has none, with the least load."""
        racks = {self.racks[node] for node in replicas if node in self.racks}
        free = [node for node in self.nodes if node not in replicas]
        return min(free, key=lambda node: (self.racks[node] in racks, self.load[node], node), default=None)

    def keeps_racks(self, replicas: Sequence[int], old: int, new: int) -> bool:
        """Whether the replicas are in as many racks as before with `new` in the place of `old`."""
        others = {self.racks[node] for node in replicas if node != old and node in self.racks}
        return self.racks[new] not in others or self.racks.get(old) in others


def rebalance_moves(image: MetadataImage, topics: Sequence[str] | None = None) -> list[Reassignment]:
    """The moves that make the cluster even; only of these topics, if any are named. Empty: it is even."""
    plan = _Plan(image, image.topics if topics is None else dict.fromkeys(topics))
    _spread_racks(plan)
    _even_load(plan)
    _even_leaders(plan)
    return plan.moves()


def _spread_racks(plan: _Plan) -> None:
    """Take a replica out of a rack that has another one, where there is a rack without."""
    for place, replicas in plan.planned.items():
        for old in replicas[::-1]:
            others = [node for node in replicas if node != old]
            new = plan.best(replicas)
            racks = {plan.racks[node] for node in others if node in plan.racks}
            if new is not None and plan.racks.get(old) in racks and plan.racks[new] not in racks:
                plan.replace(place, old, new)


def _even_load(plan: _Plan) -> None:
    """Move replicas from the nodes with most to those with least, until no move makes it more even."""
    hosted: dict[int, dict[str, dict[Place, None]]] = {node: defaultdict(dict) for node in plan.nodes}
    for place, replicas in plan.planned.items():
        for node in replicas:
            if node in hosted:
                hosted[node][place[0]][place] = None
    barren: set[tuple[int, int]] = set()
    moved = False
    while True:
        step = next(_steps(plan, hosted, barren), None)
        if step is not None:
            place, old, new = step
            plan.replace(place, old, new)
            del hosted[old][place[0]][place]
            hosted[new][place[0]][place] = None
            moved = True
        elif moved:
            moved = False
            barren.clear()
        else:
            return


def _steps(
    plan: _Plan, hosted: dict[int, dict[str, dict[Place, None]]], barren: set[tuple[int, int]]
) -> Iterator[tuple[Place, int, int]]:
    """Moves of a replica to a node that has at least two fewer, the best first.

    barren: pairs of nodes between which no replica could move; they are not looked at again before the others are done.
    """
    order = sorted(plan.nodes, key=lambda node: (plan.load[node], node))
    for old in reversed(order):
        for new in order:
            if plan.load[old] - plan.load[new] < 2:  # noqa: PLR2004 - a move between them changes nothing
                break
            if (old, new) in barren:
                continue
            more = {topic: len(places) - len(hosted[new][topic]) for topic, places in [*hosted[old].items()] if places}
            for topic in sorted(more, key=lambda topic: -more[topic]):
                for place in hosted[old][topic]:
                    replicas = plan.planned[place]
                    if new not in replicas and plan.keeps_racks(replicas, old, new):
                        yield place, old, new
            barren.add((old, new))


def _even_leaders(plan: _Plan) -> None:
    """Let other replicas be preferred, until no node is the first of two more partitions than another one.

    If no partition can go from one node to another directly, it may by a chain of others in between.
    """
    able = set(plan.nodes)
    swaps: dict[tuple[int, int], dict[Place, None]] = defaultdict(dict)
    for place, replicas in plan.planned.items():
        if replicas[0] in able:
            for other in replicas[1:]:
                swaps[replicas[0], other][place] = None
    while (chain := _chain(plan, swaps)) is not None:
        for old, new in pairwise(chain):
            place = next(iter(swaps[old, new]))
            replicas = plan.planned[place]
            for other in replicas[1:]:
                del swaps[old, other][place]
            at = replicas.index(new)
            replicas[0], replicas[at] = new, old
            for other in replicas[1:]:
                swaps[new, other][place] = None
        plan.leaders[chain[0]] -= 1
        plan.leaders[chain[-1]] += 1


def _chain(plan: _Plan, swaps: dict[tuple[int, int], dict[Place, None]]) -> list[int] | None:
    """Nodes along which a leadership can be passed to one that has at least two fewer; None: it is even."""
    order = sorted(plan.nodes, key=lambda node: (plan.leaders[node], node))
    for start in reversed(order):
        came_from, queue = {start: start}, deque([start])
        while queue:
            node = queue.popleft()
            if plan.leaders[start] - plan.leaders[node] >= 2:  # noqa: PLR2004 - less would change nothing
                chain = [node]
                while chain[-1] != start:
                    chain.append(came_from[chain[-1]])
                return chain[::-1]
            for other in order:
                if other not in came_from and swaps.get((node, other)):
                    came_from[other] = node
                    queue.append(other)
    return None


def drain_moves(image: MetadataImage, node_id: int) -> list[Reassignment]:
    """The moves that take all replicas off a node. Raises InvalidReplicationFactorError: the others are too few."""
    plan = _Plan(image, [])
    plan.nodes = [node for node in plan.nodes if node != node_id]
    for place, replicas in plan.now.items():
        if node_id not in replicas:
            continue
        new = plan.best([node for node in replicas if node != node_id])
        if new is None:
            message = (
                f"node {node_id} cannot be drained: {place[0]}-{place[1]} has {len(replicas)} replicas, and no other"
                f" node can take one; nodes that can have replicas beside it: {plan.nodes}"
            )
            raise InvalidReplicationFactorError(message)
        plan.planned[place] = list(replicas)
        plan.replace(place, node_id, new)
    return plan.moves()


def factor_moves(image: MetadataImage, places: Iterable[Place], factor: int) -> list[Reassignment]:
    """The moves that give partitions, also those that are being moved, so many replicas.

    What is in sync stays before what is not. Raises InvalidReplicationFactorError: there are too few nodes.
    """
    plan = _Plan(image, [])
    for place in places:
        name, index = place
        replicas = plan.planned[place] = list(plan.now[place])
        while len(replicas) > factor:
            plan.drop(place, plan.worst(replicas, image.topics[name].partitions[index]))
        while len(replicas) < factor:
            new = plan.best(replicas)
            if new is None:
                message = f"a replication factor of {factor} needs as many nodes, and {len(replicas)} can be used"
                raise InvalidReplicationFactorError(message)
            plan.add(place, new)
    return [Reassignment(*place, replicas) for place, replicas in plan.planned.items()]


def moves_internal_topics(image: MetadataImage) -> bool:
    """Whether internal topics are being moved now; these are left out of plans."""
    return any(
        state.adding or state.removing
        for name in image.topics
        if name in INTERNAL_TOPICS
        for state in image.topics[name].partitions
    )


def grow_internal_topics(image: MetadataImage, config: BrokerConfig) -> list[Reassignment]:
    """The moves that give internal topics the replicas that they would get if they were made now."""
    names = [name for name in image.topics if name in INTERNAL_TOPICS]
    plan = _Plan(image, names)
    factor = default_factor(image, config)
    for place, replicas in plan.planned.items():
        while len(replicas) < factor:
            new = plan.best(replicas)
            if new is None:
                break
            plan.add(place, new)
    return plan.moves()
