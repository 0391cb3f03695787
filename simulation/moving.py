"""An administrator that moves partitions, changes how many replicas they have, and drains nodes, and ends in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..transport.cluster_messages import (
    AlterPartitionReassignmentsRequest,
    DrainNodeRequest,
    ElectLeadersRequest,
    Reassignment,
    RebalanceRequest,
)
from ..transport.messages import CreatePartitionsRequest, PartitionCount

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..transport.message_base import Request
    from .client import Outcome, SimClient
    from .history import History, Partition

_BACKOFF_MS = (50.0, 300.0)
_TIMEOUT_MS = 2_000
_REPLICAS_MAX = 3
_PARTITIONS_MAX = 5


class MovingWorkload:
    """Asks for one change after the other; any may be refused, and what is begun must end."""

    def __init__(self, client: SimClient, history: History, partitions: list[Partition], nodes: int) -> None:
        self.name = client.name
        self._client = client
        self._history = history
        self._random = client.world.stream(f"{client.name}/work")
        self._partitions = list(partitions)
        self._nodes = nodes
        self._total = len(partitions)
        self._draining = 0
        self._think_ms = self._random.choice((200.0, 600.0, 1_500.0))
        self._quiet = False
        self._doing = ""

    def start(self) -> None:
        """Begin."""
        self._next()

    def quiesce(self) -> None:
        """Begin no more moves; a node that is drained may have replicas again."""
        self._quiet = True
        if not self._doing:
            self._doing = "the end of draining"
            self._end_draining()

    @property
    def busy(self) -> str:
        """What is not answered."""
        return self._doing

    def _next(self) -> None:
        self._doing = ""
        if self._quiet:
            self._doing = "the end of draining"
            self._end_draining()
            return
        delay_ms = self._random.expovariate(1.0) * self._think_ms
        self._client.world.later(delay_ms, f"{self.name} think", self._begin)

    def _begin(self) -> None:
        if self._quiet:
            return
        act = self._random.choice((self._move, self._move, self._waver, self._drain, self._grow, self._other))
        act()

    def _ask(self, request: Request, done: Callable[[Outcome], object]) -> None:
        self._doing = type(request).__name__
        self._client.ask(self._client.any_address(), request, done, (), 2.0 * _TIMEOUT_MS)

    def _asked(self, outcome: Outcome) -> None:
        if outcome.body is not None:
            self._history.operations += 1
        self._next()

    # ---- changes

    def _move(self) -> None:
        """To other nodes, more or fewer of them; or back to where it came from."""
        topic, index = self._random.choice(self._partitions)
        count = self._random.randint(1, min(_REPLICAS_MAX, self._nodes))
        replicas = self._random.sample(range(1, self._nodes + 1), count)
        target = None if self._random.random() < 0.2 else replicas  # noqa: PLR2004 - a share of moves is taken back
        self._assign(topic, index, target, self._asked)

    def _waver(self) -> None:
        """There, back, and there again, each as soon as the one before is decided: nodes hear of it at any pace."""
        topic, index = self._random.choice(self._partitions)
        replicas = self._random.sample(range(1, self._nodes + 1), min(2, self._nodes))

        def again(_: Outcome) -> None:
            self._assign(topic, index, replicas, self._asked)

        def back(_: Outcome) -> None:
            self._assign(topic, index, None, again)

        self._assign(topic, index, replicas, back)

    def _assign(self, topic: str, index: int, target: list[int] | None, done: Callable[[Outcome], object]) -> None:
        self._ask(AlterPartitionReassignmentsRequest([Reassignment(topic, index, target)], _TIMEOUT_MS), done)

    def _drain(self) -> None:
        """One node at a time."""
        if self._draining:
            self._ask(DrainNodeRequest(self._draining, cancel=True), self._undrained)
            return
        self._draining = self._random.randint(1, self._nodes)
        self._ask(DrainNodeRequest(self._draining), self._asked)

    def _undrained(self, outcome: Outcome) -> None:
        if outcome.body is not None:
            self._draining = 0
        self._asked(outcome)

    def _grow(self) -> None:
        if self._total < _PARTITIONS_MAX:
            self._total += 1
            topic = self._partitions[0][0]
            self._ask(CreatePartitionsRequest([PartitionCount(topic, self._total)], _TIMEOUT_MS), self._asked)
        else:
            self._other()

    def _other(self) -> None:
        self._ask(self._random.choice((ElectLeadersRequest(), RebalanceRequest())), self._asked)

    # ---- the end

    def _end_draining(self) -> None:
        def undrained(outcome: Outcome) -> None:
            if outcome.body is not None:
                self._draining, self._doing = 0, ""
            else:
                wait_ms = self._random.uniform(*_BACKOFF_MS)
                self._client.world.later(wait_ms, f"{self.name} again", self._end_draining)

        if self._draining:
            self._ask(DrainNodeRequest(self._draining, cancel=True), undrained)
        else:
            self._doing = ""
