"""Flushing on virtual time: it takes a while, now and then a long one, and it can fail."""

from __future__ import annotations

from errno import EIO
from functools import partial
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
        """The next of what is to come of it: the work, or its end."""
        self.has_run = False

    def cancel(self) -> None:
        """Nothing comes of it any more. A node that dies within its first operation, at once, has planned nothing."""
        if self.event is not None:
            self.event.cancel()


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
        """Do the work at once or a while later, and call done on the reactor a while after that.

        An fdatasync covers what is there when it begins, and need not cover more, however long it takes.
        """
        job = _Job(work, done)
        self._jobs[job] = None
        delay_ms = self._random.uniform(*_USUAL_MS)
        if self._random.random() < self._conditions.slow_share:
            delay_ms = self._random.uniform(*_SLOW_MS)
        begins_ms = self._random.choice((0.0, self._random.uniform(0.0, delay_ms)))
        if begins_ms:
            begin = partial(self._begin, job, delay_ms - begins_ms)
            job.event = self._world.later(begins_ms, f"{self._name} flush", begin)
        else:
            self._begin(job, delay_ms)

    def _begin(self, job: _Job, left_ms: float) -> None:
        """Do the work; its owner hears of it in left_ms."""
        job.has_run = True
        fails = self._fail_next or bool(self.failed_path)
        if fails:
            self._disk.fault = self._meet
        error = attempt(job.work)
        if fails:
            self._disk.fault = None
        job.event = self._world.later(left_ms, f"{self._name} flushed", partial(self._finish, job, error))

    def _finish(self, job: _Job, error: Exception | None) -> None:
        del self._jobs[job]
        self._reactor.call_from_thread(partial(job.done, error))

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
            job.cancel()
            if not job.has_run:
                attempt(job.work)
        self._jobs.clear()

    def kill(self) -> None:
        """End in the middle: of each job that has not run only some first operations are done, if any."""
        for job in self._jobs:
            job.cancel()
            if job.has_run:
                continue
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
