"""Flushing on virtual time: it takes a while, now and then a long one, and it can fail."""

from __future__ import annotations

from errno import EIO
from typing import TYPE_CHECKING

from ..actors.flush_pool import attempt

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..actors.reactor import Reactor
    from .disk import MemoryDisk
    from .world import Event, World

_USUAL_MS = (0.1, 3.0)
_SLOW_MS = (50.0, 1_500.0)


class FlushConditions:
    """How the disks of a run behave; may be changed at any time."""

    def __init__(self) -> None:
        self.slow_share = 0.0
        """How many of the flushes take long."""


class _CutError(Exception):
    """The power went while work was under way."""


class _Job:
    """Work that is under way."""

    def __init__(self, work: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
        self.work = work
        self.done = done
        self.event: Event | None = None


class SimFlusher:
    """The flush threads of one life of a node."""

    def __init__(
        self, world: World, name: str, disk: MemoryDisk, reactor: Reactor, conditions: FlushConditions
    ) -> None:
        self._world = world
        self._name = name
        self._disk = disk
        self._reactor = reactor
        self._conditions = conditions
        self._random = world.stream(f"{name}/flush")
        self._jobs: dict[_Job, None] = {}
        self._fail_next = False
        self.failed_path = ""
        """The file whose flush failed; the node must die of it, and never flush that file again."""

    @property
    def busy(self) -> bool:
        """Whether anything is being flushed."""
        return bool(self._jobs)

    def submit(self, work: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
        """Do the work a while later, then call done on the reactor."""
        job = _Job(work, done)
        self._jobs[job] = None
        delay_ms = self._random.uniform(*_USUAL_MS)
        if self._random.random() < self._conditions.slow_share:
            delay_ms = self._random.uniform(*_SLOW_MS)
        job.event = self._world.later(delay_ms, f"{self._name} flush", lambda: self._finish(job))

    def _finish(self, job: _Job) -> None:
        del self._jobs[job]
        if self._fail_next or self.failed_path:
            self._disk.fault = self._meet
        error = attempt(job.work)
        self._disk.fault = None
        self._reactor.call_from_thread(lambda: job.done(error))

    def fail_next(self) -> None:
        """Let the next flush of a file fail, as a broken medium does."""
        self._fail_next = True

    def _meet(self, operation: str, path: str) -> None:
        if operation != "flush":
            return
        if path == self.failed_path:
            self._world.violated("failed fsync", f"{self._name} flushed {path} again after that had failed")
        elif self._fail_next:
            self._fail_next = False
            self.failed_path = path
            self._world.trace(self._name, f"the flush of {path} fails")
            raise OSError(EIO, "injected fault", path)

    def close(self) -> None:
        """Finish what was submitted, as an orderly end does."""
        for job in list(self._jobs):
            assert job.event is not None
            job.event.cancel()
            attempt(job.work)
        self._jobs.clear()

    def kill(self) -> None:
        """End in the middle: of each job that was under way only some first operations are done, if any."""
        for job in self._jobs:
            assert job.event is not None
            job.event.cancel()
            left = self._random.choice((0, 0, 0, 1, 2, 5))

            def cut(_operation: str, _path: str) -> None:
                nonlocal left
                left -= 1
                if left < 0:
                    raise _CutError

            self._disk.fault = cut
            attempt(job.work)
            self._disk.fault = None
        self._jobs.clear()
