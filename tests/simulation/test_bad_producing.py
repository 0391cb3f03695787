"""What a producer sends that must be refused, and nothing but one thing is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from zmqbroker.errors import CorruptMessageError, InvalidProducerEpochError, OutOfOrderSequenceError
from zmqbroker.log.batch import read_header
from zmqbroker.log.plain_records import decode_batch
from zmqbroker.simulation.client import Outcome
from zmqbroker.simulation.history import Fate, History
from zmqbroker.simulation.producing import ProducerWorkload
from zmqbroker.simulation.world import ViolationError, World
from zmqbroker.transport.messages import (
    InitProducerIdReply,
    InitProducerIdRequest,
    PartitionProduced,
    ProduceReply,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zmqbroker.transport.message_base import Request

PARTITION = ("data", 0)


class Broker:
    """A client whose broker stores all that is right, and fences epochs if it is told to."""

    name = "producer"

    def __init__(self, world: World, *, fences: bool) -> None:
        self.world = world
        self.sequences: list[int] = []
        """Of batches of an epoch that is over."""
        self._fences = fences
        self._epoch = -1
        self._next = (0, 0)
        self._offset = 0

    def any_address(self) -> str:
        return "broker"

    def leader(self, topic: str, partition: int) -> tuple[str, int]:
        del topic, partition
        return "broker", 0

    def refresh(self, done: Callable[[], object]) -> None:
        self.world.later(1.0, "refreshed", done)

    def ask(
        self,
        address: str,
        request: Request,
        on_outcome: Callable[[Outcome], object],
        batches: Sequence[bytes] = (),
        timeout_ms: float = 0.0,
    ) -> None:
        del address, timeout_ms
        if isinstance(request, InitProducerIdRequest):
            self._epoch += 1
            body: object = InitProducerIdReply(1, self._epoch)
        else:
            body = ProduceReply([self._produce(batches[0])])
        self.world.later(1.0, "answer", lambda: on_outcome(Outcome(body, [], None, sent=True)))

    def _produce(self, batch: bytes) -> PartitionProduced:
        try:
            decode_batch(batch)
        except CorruptMessageError as error:
            return PartitionProduced(*PARTITION, error.code, error.message)
        header = read_header(batch)
        epoch, expected = self._next
        if header.producer_epoch < epoch:
            self.sequences.append(header.base_sequence - expected)
            if self._fences:
                return PartitionProduced(*PARTITION, InvalidProducerEpochError.code, "fenced")
        elif header.producer_epoch > epoch:
            epoch, expected = header.producer_epoch, 0
        if header.base_sequence not in (expected, 0 if header.producer_epoch < epoch else expected):
            return PartitionProduced(*PARTITION, OutOfOrderSequenceError.code, "out of order")
        self._next = (epoch, header.last_sequence + 1)
        self._offset += header.records_count
        return PartitionProduced(*PARTITION, base_offset=self._offset - header.records_count)


@pytest.mark.parametrize("fences", [True, False])
def test_an_epoch_that_is_over_is_all_that_is_wrong_with_some_batches(*, fences: bool) -> None:
    world = World(3)
    broker, history = Broker(world, fences=fences), History(world)
    producer = ProducerWorkload(broker, history, [PARTITION])  # type: ignore[arg-type]
    producer.start()
    if not fences:
        with pytest.raises(ViolationError, match="15: a batch with a bad epoch"):
            world.run_until(10_000.0)
        return
    world.run_until(10_000.0)
    assert broker.sequences.count(0) > 0, "as the next batch would have it"
    assert history.count(Fate.ACKED) > 100
