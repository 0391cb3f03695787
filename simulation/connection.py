"""One simulated TCP connection with ZeroMQ on it: ordered, slow, stalled by partitions, and broken as a whole.

A direction never loses a single message: what cannot pass waits, until it can or the connection breaks. Each end learns
of the break by itself: from the other end's reset, which follows what was sent before it, or by silence. So one end may
go on sending for a while, and what it sends vanishes.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ..transport.network import SendResult

if TYPE_CHECKING:
    from random import Random

    from .conditions import NetworkConditions
    from .world import Event, World

Frames = list[bytes]


class Side(IntEnum):
    """One end of a connection."""

    CLIENT = 0
    SERVER = 1

    @property
    def other(self) -> Side:
        """The opposite end."""
        return Side.SERVER if self is Side.CLIENT else Side.CLIENT


class Endpoint(Protocol):
    """Who holds one end of a connection."""

    def hear(self, connection: Connection, frames: Frames) -> None:
        """Take a message in; ``connection.taken(side)`` is to be called when it has been read."""
        ...

    def broken(self, connection: Connection) -> None:
        """The end has learnt that the connection is gone."""
        ...


class Machine(Protocol):
    """Where an end of a connection is."""

    name: str
    up: bool
    paused: bool


class Medium(Protocol):
    """What a connection needs to know of the network that it is a part of."""

    world: World
    random: Random
    conditions: NetworkConditions

    def arrival_ms(self) -> float:
        """When a message arrives that is sent now."""
        ...

    def is_blocked(self, source: Machine, target: Machine) -> bool:
        """Whether nothing passes in this direction."""
        ...

    def note_message(self, connection: Connection, side: Side, frames: Frames) -> None:
        """Put a message that arrives into the trace."""
        ...

    def note_sent(self, connection: Connection, side: Side, frames: Frames) -> None:
        """Hear of a message that was sent."""
        ...

    def forget(self, connection: Connection) -> None:
        """A connection is over."""
        ...


class _Lane:
    """One direction: messages and how long each of them takes, in order; None is the other end's reset."""

    def __init__(self) -> None:
        self.queue: deque[tuple[float, Frames | None]] = deque()
        self.last_arrival_ms = 0.0
        self.unread = 0
        """Messages that arrived and were not read."""
        self.event: Event | None = None
        self.stalled = False
        """The first message met a partition."""


class Connection:
    """Two ends and two lanes. The routing id is its name at the server."""

    def __init__(
        self, network: Medium, number: int, hosts: tuple[Machine, Machine], endpoints: tuple[Endpoint, Endpoint]
    ) -> None:
        self.number = number
        self.routing_id = b"\0" + number.to_bytes(4, "big")
        self.hosts = hosts
        """Of client and server."""
        self._network = network
        self._endpoints = endpoints
        self._lanes = (_Lane(), _Lane())  # by the side that sends
        self._open = [True, True]
        self._silent_since: list[float | None] = [None, None]
        self._watch: list[Event | None] = [None, None]

    def __repr__(self) -> str:
        return f"{self.hosts[0].name}>{self.hosts[1].name}#{self.number}"

    def is_open(self, side: Side) -> bool:
        """Whether this end takes the connection for whole."""
        return self._open[side]

    @property
    def over(self) -> bool:
        """Whether both ends have closed and nothing is on its way."""
        return not (any(self._open) or any(lane.queue for lane in self._lanes))

    # ---- messages

    def send(self, side: Side, frames: Frames) -> SendResult:
        """Send from one end."""
        if not self._open[side]:
            return SendResult.GONE
        lane = self._lanes[side]
        if len(lane.queue) + lane.unread >= self._network.conditions.queue_messages:
            return SendResult.FULL
        self._put(side, frames)
        self._network.note_sent(self, side, frames)
        return SendResult.SENT

    def _put(self, side: Side, frames: Frames | None) -> None:
        lane = self._lanes[side]
        arrival_ms = max(lane.last_arrival_ms, self._network.arrival_ms())
        lane.last_arrival_ms = arrival_ms
        lane.queue.append((arrival_ms, frames))
        if lane.event is None and not lane.stalled:
            self._expect(side)

    def _expect(self, side: Side) -> None:
        lane = self._lanes[side]
        lane.event = self._network.world.at(
            lane.queue[0][0], f"{self!r} {'<' if side else '>'}", partial(self._arrive, side)
        )

    def _arrive(self, side: Side) -> None:
        lane = self._lanes[side]
        lane.event = None
        if self._network.is_blocked(self.hosts[side], self.hosts[side.other]):
            lane.stalled = True
            return
        _, frames = lane.queue.popleft()
        if lane.queue:
            self._expect(side)
        if self._open[side.other]:
            if frames is None:
                self._close_end(side.other)
                self._endpoints[side.other].broken(self)
            else:
                self._network.note_message(self, side, frames)
                lane.unread += 1
                self._endpoints[side.other].hear(self, frames)
                if not (lane.queue or self._open[side]):
                    self._watch_silence(side.other)  # that was the last of an end that has vanished
        elif self.over:
            self._network.forget(self)

    def taken(self, side: Side) -> None:
        """This end has read one message."""
        self._lanes[side.other].unread -= 1

    # ---- the end

    def close(self, side: Side) -> None:
        """This end gives the connection up; what it sent before still arrives, and then the other end knows."""
        if self._open[side]:
            self._close_end(side)
            self._put(side, None)

    def reset(self, side: Side) -> None:
        """This end's process is gone: of what it had sent only a beginning still arrives, and then the reset."""
        if not self._open[side]:
            return
        self._lose_some(side)
        self.close(side)

    def vanish(self, side: Side) -> None:
        """This end's machine has lost power: nothing tells the other one."""
        if self._open[side]:
            self._lose_some(side)
            self._close_end(side)

    def _lose_some(self, side: Side) -> None:
        lane = self._lanes[side]
        kept = self._network.random.randint(0, len(lane.queue))
        while len(lane.queue) > kept:
            lane.queue.pop()
        if not lane.queue and lane.event is not None:
            lane.event.cancel()
            lane.event = None

    def _close_end(self, side: Side) -> None:
        self._open[side] = False
        watch = self._watch[side]
        if watch is not None:
            watch.cancel()
            self._watch[side] = None
        if self.over:
            self._network.forget(self)

    def lose(self, side: Side) -> None:
        """This end learns that the connection is gone."""
        if self._open[side]:
            self.reset(side)
            self._endpoints[side].broken(self)

    def break_both(self) -> None:
        """Break it, as a router that lost its state does: both ends know soon."""
        for side in Side:
            self.lose(side)

    def abandon(self, side: Side, late_ms: float) -> None:
        """This end gives the connection up, and learns so at once; what it has sent before arrives, and late.

        As a kernel that still sends what a closed socket had left, on a path that has become slow.
        """
        if not self._open[side]:
            return
        self.delay(side, late_ms)
        self.close(side)
        self._endpoints[side].broken(self)

    def delay(self, side: Side, late_ms: float) -> None:
        """What this end has sent takes so much longer, and all that it sends on comes behind it."""
        lane = self._lanes[side]
        lane.queue = deque((when_ms + late_ms, frames) for when_ms, frames in lane.queue)
        lane.last_arrival_ms += late_ms
        if lane.event is not None:
            lane.event.cancel()
            self._expect(side)

    # ---- silence

    def refresh(self) -> None:
        """Something has changed between the two hosts: what was stalled goes on, or silence begins."""
        for side in Side:
            lane = self._lanes[side]
            if lane.stalled and not self._network.is_blocked(self.hosts[side], self.hosts[side.other]):
                lane.stalled = False
                late_ms = self._network.arrival_ms()
                lane.queue = deque((max(when_ms, late_ms), frames) for when_ms, frames in lane.queue)
                lane.last_arrival_ms = max(lane.last_arrival_ms, late_ms)
                if lane.queue:
                    self._expect(side)
            self._watch_silence(side)

    def _is_silent(self, side: Side) -> bool:
        """Whether an end hears nothing of the other, not even heartbeats."""
        other = self.hosts[side.other]
        gone = not self._open[side.other] and not self._lanes[side.other].queue
        return gone or other.paused or not other.up or self._network.is_blocked(other, self.hosts[side])

    def _watch_silence(self, side: Side) -> None:
        if not self._open[side] or not self._is_silent(side):
            self._silent_since[side] = None
            return
        now_ms = self._network.world.now_ms
        if self._silent_since[side] is None:
            self._silent_since[side] = now_ms
        if self._watch[side] is None:
            since_ms = self._silent_since[side] or 0.0
            due_ms = since_ms + self._network.conditions.heartbeat_timeout_ms
            self._watch[side] = self._network.world.at(due_ms, f"{self!r} heartbeat", partial(self._hear_nothing, side))

    def _hear_nothing(self, side: Side) -> None:
        self._watch[side] = None
        since_ms = self._silent_since[side]
        if since_ms is None or not self._open[side]:
            return
        if self.hosts[side].paused:  # who is stopped notices nothing, and hears first what has come meanwhile
            self._silent_since[side] = self._network.world.now_ms
        elif self._network.world.now_ms - since_ms >= self._network.conditions.heartbeat_timeout_ms - 1e-6:
            self.lose(side)
            return
        self._watch_silence(side)
