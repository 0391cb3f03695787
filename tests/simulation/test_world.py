"""Events in order, streams of their own, reactors on virtual time, and flushes that fail or are cut short."""

from __future__ import annotations

from errno import EIO
from random import Random
from typing import Any

import pytest
from zmqbroker.actors.actor import ReactorActor
from zmqbroker.actors.reactor import NodeFatalError
from zmqbroker.simulation.disk import SECTOR_BYTES, MemoryDisk
from zmqbroker.simulation.flusher import FlushConditions, SimFlusher
from zmqbroker.simulation.reactors import ReactorRunner, SimClock
from zmqbroker.simulation.world import ViolationError, World


class Echo(ReactorActor):
    """Writes down what it is told, and when."""

    def __init__(self, clock: SimClock, heard: list[Any]) -> None:
        super().__init__()
        self._clock = clock
        self._heard = heard

    def on_receive(self, message: Any) -> None:
        assert message != "die"
        self._heard.append((round(self._clock.monotonic_ms()), message))


@pytest.fixture
def world() -> World:
    return World(1)


class Running:
    """A reactor in the world."""

    def __init__(self, world: World, rate: float = 1.0) -> None:
        self.clock = SimClock(world, rate=rate)
        self.ends: list[BaseException | None] = []
        self.heard: list[Any] = []
        self.runner = ReactorRunner(world, "node", self.clock, self.ends.append)
        self.reactor = self.runner.reactor
        self.reactor.spawn(Echo, self.clock, self.heard, address="echo")
        self.runner.start()

    def tell(self, message: Any) -> None:
        self.runner.poller.add(lambda: self.reactor.tell("echo", message))


def test_events_happen_in_order_of_time_and_then_of_making(world: World) -> None:
    seen: list[str] = []
    for name, when_ms in (("c", 2.0), ("a", 1.0), ("d", 2.0), ("b", 1.0)):
        world.at(when_ms, name, lambda name=name: seen.append(name))
    world.at(1.5, "never", lambda: seen.append("never")).cancel()
    world.run_until(1.9)
    assert (seen, world.now_ms) == (["a", "b"], 1.9)
    world.run_until(5.0)
    assert (seen, world.now_ms) == (["a", "b", "c", "d"], 5.0)


def test_a_cancelled_event_lets_no_later_one_happen_early(world: World) -> None:
    seen: list[float] = []
    world.at(1.0, "cancelled", lambda: None).cancel()
    world.at(10.0, "later", lambda: seen.append(world.now_ms))
    world.run_until(5.0)
    assert seen == []


def test_streams_do_not_disturb_one_another() -> None:
    one, other = World(5), World(5)
    one.stream("a").random()
    assert one.stream("b").random() == other.stream("b").random()
    assert one.stream("a").random() != World(6).stream("a").random()


def test_a_violation_ends_the_run_after_its_event(world: World) -> None:
    world.at(1.0, "bad", lambda: world.violated("7", "it went back"))
    with pytest.raises(ViolationError, match=r"7: it went back \(at 1\.000 ms\)"):
        world.run_until(2.0)


def test_a_reactor_runs_at_messages_and_timers_only(world: World) -> None:
    running = Running(world)
    world.run_until(10.0)
    before = world.events
    running.reactor.call_later(500.0, lambda: running.tell("timer"))
    running.runner.resume()
    world.run_until(1_000.0)
    assert [message for _, message in running.heard] == ["timer"]
    assert running.heard[0][0] == pytest.approx(1_510, abs=1)
    assert world.events - before < 10


def test_a_paused_reactor_hears_later(world: World) -> None:
    running = Running(world)
    world.run_until(1.0)
    running.runner.pause()
    running.tell("waits")
    world.run_until(100.0)
    assert running.heard == []
    running.runner.resume()
    world.run_until(101.0)
    assert running.heard == [(1_100, "waits")]


@pytest.mark.parametrize("rate", [0.999, 1.0, 1.001])
def test_timers_are_due_by_the_nodes_own_clock(world: World, rate: float) -> None:
    running = Running(world, rate)
    world.run_until(1.0)
    due: list[float] = []
    running.reactor.call_later(1_000.0, lambda: due.append(world.now_ms))
    running.runner.resume()
    world.run_until(2_000.0)
    assert due == [pytest.approx(1.0 + 1_000.0 / rate, abs=0.2)]


def test_a_failed_assertion_ends_the_reactor_and_is_told(world: World) -> None:
    running = Running(world)
    running.tell("die")
    world.run_until(10.0)
    assert [type(end) for end in running.ends] == [NodeFatalError]
    assert running.runner.over


class Flushing:
    """A flusher with a file to flush."""

    def __init__(self, world: World) -> None:
        running = Running(world)
        self.disk = MemoryDisk()
        self.flusher = SimFlusher(world, "node", self.disk, running.reactor, FlushConditions())
        self.file = self.disk.open("/file", create=True)
        self.disk.sync_folder("/")
        self.done: list[Exception | None] = []

    def submit(self) -> None:
        self.flusher.submit(self.file.flush, self.done.append)

    def size_after_crash(self) -> int:
        self.disk.crash(Random(3))
        return self.disk.size("/file")


def test_a_flush_takes_a_while_and_then_holds(world: World) -> None:
    flushing = Flushing(world)
    flushing.file.append([b"x" * 5_000])
    flushing.submit()
    assert (flushing.done, flushing.flusher.busy) == ([], True)
    world.run_until(10.0)
    assert (flushing.done, flushing.flusher.busy) == ([None], False)
    assert flushing.size_after_crash() == 5_000


def test_a_flush_need_not_cover_what_is_written_after_it_was_asked_for(world: World) -> None:
    kept = set()
    for seed in range(30):
        flushing = Flushing(world)
        flushing.file.append([b"x" * SECTOR_BYTES])
        flushing.submit()
        flushing.file.append([b"y" * SECTOR_BYTES])
        world.run_until(world.now_ms + 10.0)
        assert flushing.done == [None]
        flushing.disk.crash(Random(seed))
        kept.add(flushing.disk.read_file("/file")[SECTOR_BYTES:])
        assert flushing.disk.read_file("/file").startswith(b"x" * SECTOR_BYTES)
    assert len(kept) > 1


def test_what_is_flushed_stays_if_the_power_goes_before_anybody_hears_of_it(world: World) -> None:
    sizes = []
    for seed in range(40):
        flushing = Flushing(world)
        flushing.file.append([b"x" * 5_000])
        flushing.submit()
        flushing.flusher.kill()
        flushing.disk.crash(Random(seed))
        world.run_until(world.now_ms + 10.0)
        assert flushing.done == []
        sizes.append(flushing.disk.size("/file"))
    whole = sizes.count(5_000)
    assert len(sizes) / 2 < whole < len(sizes), "half had run at once, some of the others were kept by chance"


def test_an_orderly_end_runs_each_flush_once(world: World) -> None:
    flushing, ran = Flushing(world), []
    for number in range(20):
        flushing.flusher.submit(lambda number=number: ran.append(number), flushing.done.append)
    assert 0 < len(ran) < 20
    flushing.flusher.close()
    world.run_until(10.0)
    assert (sorted(ran), flushing.done) == (list(range(20)), [])


def test_a_flush_that_fails_is_not_to_be_tried_again(world: World) -> None:
    flushing = Flushing(world)
    flushing.file.append([b"x" * 5_000])
    flushing.flusher.fail_next()
    flushing.submit()
    world.run_until(10.0)
    (error,) = flushing.done
    assert isinstance(error, OSError)
    assert error.errno == EIO
    flushing.submit()
    with pytest.raises(ViolationError, match="flushed /file again"):
        world.run_until(20.0)


def test_what_a_failed_flush_has_left_out_no_later_one_puts_on_the_medium(world: World) -> None:
    found = set()
    for seed in range(20):
        flushing = Flushing(world)
        flushing.file.append([b"x" * SECTOR_BYTES])
        flushing.flusher.fail_next()
        flushing.submit()
        world.run_until(world.now_ms + 10.0)
        flushing.file.flush()
        flushing.disk.crash(Random(seed))
        found.add(flushing.disk.read_file("/file"))
    assert found == {bytes(SECTOR_BYTES), b"x" * SECTOR_BYTES}


def test_a_kill_cuts_the_work_that_is_under_way(world: World) -> None:
    sizes = set()
    for _ in range(20):
        flushing = Flushing(world)
        for part in range(4):
            flushing.flusher.submit(
                lambda part=part, disk=flushing.disk: disk.replace_file(f"/small{part}", b"data"), flushing.done.append
            )
        flushing.flusher.kill()
        world.run_until(world.now_ms + 10.0)
        assert flushing.done == []
        sizes.add(len(flushing.disk.list("/")))
    assert len(sizes) > 1
