"""A transactional producer: one process after the other with one transactional id; some seem dead, and go on."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from .transaction_process import Habits, Process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .client import SimClient
    from .history import History, Partition

_RESTART_MS = (0.0, 300.0)
_GHOST_MS = (200.0, 3_000.0)
"""How long a process goes on that seemed to be dead."""
_LIVES_MS = (600.0, 2_000.0, 20_000.0)
"""After how long it is killed, on average."""
_TIMEOUTS_MS = (400, 1_500, 10_000)


class TransactionalProducer:
    """All processes of one transactional id; its clients are two machines that take turns."""

    def __init__(
        self,
        name: str,
        clients: tuple[SimClient, SimClient],
        history: History,
        partitions: Sequence[Partition],
        is_coordinator: Callable[[int, str, str], bool],
    ) -> None:
        self.name = name
        self._clients = clients
        self._world = clients[0].world
        self._history = history
        self._random = random = self._world.stream(f"{name}/work")
        self._habits = Habits(
            transactional_id=name,
            group=f"{name}-group",
            partitions=partitions,
            timeout_ms=random.choice(_TIMEOUTS_MS),
            think_ms=random.choice((1.0, 5.0, 30.0)),
            patience_ms=random.choice((100.0, 600.0, 2_000.0)),
            says_numbers_share=random.choice((0.0, 0.9, 1.0)),
            is_coordinator=is_coordinator,
        )
        self._life_ms = random.choice(_LIVES_MS)
        self._made = 0
        self._present: Process | None = None
        self._ghost: Process | None = None
        self._quiet = False

    def start(self) -> None:
        """Begin."""
        self._begin()
        self._kill_later()

    def quiesce(self) -> None:
        """End some more transactions, commit a last one, and rest."""
        self._quiet = True
        self._give_up_ghost()
        if self._present is not None:
            self._present.quiesce()

    @property
    def busy(self) -> str:
        """What it does."""
        if self._present is not None and self._present.rests:
            return ""
        return "a transaction to be committed"

    def check_all(self, done: Callable[[], object]) -> None:
        """At the end, the offsets of what was committed are there."""
        assert self._present is not None, "it rests, so that there is a process"
        self._present.check(done)

    # ---- processes

    def _begin(self) -> None:
        if self._present is not None:
            return
        self._made += 1
        client = self._clients[self._made % 2]
        name = f"{self.name}.{self._made}"
        process = self._present = Process(client, self._history, name, self._habits, partial(self._seems_dead, name))
        if self._quiet:
            process.quiesce()
        process.begin(partial(self._ended, process))

    def _seems_dead(self, name: str) -> None:
        """The present process has hung, or was fenced: another one takes its place, and it may go on."""
        if self._present is None or self._present.name != name:
            return
        self._give_up_ghost()
        ghost, self._present = self._present, None
        self._ghost = ghost
        if self._quiet:
            self._give_up_ghost()
        self._later(_GHOST_MS, "ghost", lambda: self._give_up_ghost() if self._ghost is ghost else None)
        self._later(_RESTART_MS, "next", self._begin)

    def _give_up_ghost(self) -> None:
        ghost, self._ghost = self._ghost, None
        if ghost is not None:
            ghost.vanish()

    def _ended(self, process: Process) -> None:
        if process.rests:
            return
        process.vanish()
        if process is self._ghost:
            self._ghost = None
        elif process is self._present:
            self._present = None
            self._later(_RESTART_MS, "next", self._begin)

    def _kill_later(self) -> None:
        delay_ms = self._random.expovariate(1.0) * self._life_ms
        self._world.later(delay_ms, f"{self.name} dies", self._kill)

    def _kill(self) -> None:
        if self._quiet:
            return
        process = self._present
        if process is not None:
            self._world.trace(process.name, "is killed")
            self._ended(process)
        self._kill_later()

    def _later(self, delay_ms: tuple[float, float], what: str, act: Callable[[], object]) -> None:
        self._world.later(self._random.uniform(*delay_ms), f"{self.name} {what}", act)
