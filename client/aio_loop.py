"""An event loop as the poller of a client: no thread, the loop watches the sockets and awaits the same flows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from .connection import FOREVER

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from .io import ClientIO, Flow, Wait

T = TypeVar("T")


class LoopDriver:
    """Pumps a client from the event loop that runs when it is first used."""

    def __init__(self, io: ClientIO) -> None:
        self._io = io
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fd = -1
        self._timer: asyncio.TimerHandle | None = None
        self._scheduled = False
        self._waits: dict[asyncio.Future[Any], Wait] = {}

    def start(self) -> None:
        """Attach to the running loop. Raises RuntimeError in another loop than the first."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            self._fd = self._io.attach_loop(self._kick)
            loop.add_reader(self._fd, self._pass)
        elif self._loop is not loop:
            message = "this client belongs to another event loop; make one for each loop"
            raise RuntimeError(message)
        self._io.check_open()

    async def run(self, flow: Flow[T]) -> T:
        """Await a flow. Raises what it raises."""
        self.start()
        try:
            wait = next(flow)
            while True:
                if wait.user_task is None:
                    value = await self._until(wait)
                    self._io.check_open()
                    wait = flow.send(value)
                else:
                    wait = await self._user_task(wait.user_task, flow)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            flow.close()

    async def _user_task(self, task: Awaitable[Any], flow: Flow[T]) -> Wait:
        """Await what a user's callback returned; what it raises, the flow hears."""
        try:
            await task
        except Exception as error:  # noqa: BLE001 - the flow decides when the user gets it
            return flow.throw(error)
        return flow.send(None)

    def close(self) -> None:
        """Let go of the loop; whoever still waits is woken."""
        if self._loop is None:
            return
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._fd = -1
        if self._timer is not None:
            self._timer.cancel()
        for future in self._waits:
            if not future.done():
                future.set_result(None)
        self._waits.clear()

    async def _until(self, wait: Wait) -> Any:
        self._pass()
        with self._io.lock:
            value = wait.condition()
        if value or self._io.now() >= wait.deadline:
            return value
        assert self._loop is not None
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waits[future] = wait
        self._arm()
        try:
            return await future
        finally:
            self._waits.pop(future, None)

    def _kick(self) -> None:
        """A user's pass has changed deadlines, or finished what somebody awaits: look once, soon."""
        if not self._scheduled and self._loop is not None and self._fd >= 0:
            self._scheduled = True
            self._loop.call_soon_threadsafe(self._pass)

    def _pass(self) -> None:
        if self._fd < 0:
            return
        self._io.loop_pass()
        self._scheduled = False
        self._wake_waiters()
        self._arm()

    def _wake_waiters(self) -> None:
        if not self._waits:
            return
        now = self._io.now()
        with self._io.lock:
            for future, wait in self._waits.items():
                if future.done():
                    continue
                value = wait.condition()
                if value or now >= wait.deadline:
                    future.set_result(value)

    def _arm(self) -> None:
        assert self._loop is not None
        with self._io.lock:
            deadline = self._io.next_deadline()
        deadline = min([deadline, *(wait.deadline for wait in self._waits.values())])
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline < FOREVER:
            self._timer = self._loop.call_later(max(0.0, deadline - self._io.now()), self._pass)
