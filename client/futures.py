"""What `send` and `send_many` return: futures that point into a batch and compute their result when asked.

A record's future is made a million times a second: it holds its batch and its position there, nothing else; the batch
knows the outcome. Callbacks run in whichever thread hears of the outcome, outside of the client's lock.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from .accumulator import ProducerBatch
    from .types import BatchMetadata, RecordMetadata


# gc=False is safe: a batch drops its callbacks, the only way back to a future, when it is done, and every batch ends.
class RecordFuture(Struct, gc=False, eq=False):
    """The outcome of one record."""

    _batch: ProducerBatch
    _index: int

    def get(self, timeout: float | None = None) -> RecordMetadata:
        """Wait (seconds; None: until the delivery time-out) and return where the record is.

        Raises what made the record fail, or TimeoutError if its fate is not known within the time-out.
        """
        batch, index = self._batch.locate(self._index)
        until = batch.io.now() + (timeout or 0.0)
        while not batch.done:
            batch.wait(timeout, until)
            batch, index = self._batch.locate(self._index)
        if batch.error is not None:
            raise batch.error
        return batch.metadata(index)

    result = get

    def position(self) -> tuple[ProducerBatch, int, int]:
        """The record as a range of one, for a future of many."""
        return self._batch, self._index, 1

    def is_done(self) -> bool:
        """Whether the outcome is known."""
        return self._batch.locate(self._index)[0].done

    done = is_done

    def succeeded(self) -> bool:
        """Whether the record is stored."""
        batch = self._batch.locate(self._index)[0]
        return batch.done and batch.error is None

    def failed(self) -> bool:
        """Whether the record failed."""
        batch = self._batch.locate(self._index)[0]
        return batch.done and batch.error is not None

    @property
    def exception(self) -> BaseException | None:
        """What made the record fail; None if it did not, or not yet."""
        return self._batch.locate(self._index)[0].error

    def add_callback(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> RecordFuture:
        """Call ``callback(*args, metadata, **kwargs)`` when the record is stored, at once if it is; returns itself."""
        self._batch.add_callback(self._index, lambda metadata: callback(*args, metadata, **kwargs), None)
        return self

    def add_errback(self, errback: Callable[..., Any], *args: Any, **kwargs: Any) -> RecordFuture:
        """Call ``errback(*args, error, **kwargs)`` when the record fails, at once if it has; returns itself."""
        self._batch.add_callback(self._index, None, lambda error: errback(*args, error, **kwargs))
        return self

    def add_both(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> RecordFuture:
        """Call the function with the metadata or with the error, whichever comes; returns itself."""
        return self.add_callback(callback, *args, **kwargs).add_errback(callback, *args, **kwargs)

    def __await__(self) -> Generator[Any, None, RecordMetadata]:
        """Await the outcome in an event loop; raises what made the record fail."""
        if not self.is_done():
            from asyncio import get_running_loop  # noqa: PLC0415 - only the asyncio clients need it

            loop = get_running_loop()
            waiter = loop.create_future()

            def release() -> None:
                if not waiter.done():
                    waiter.set_result(None)

            def wake(_: Any) -> None:
                loop.call_soon_threadsafe(release)

            self.add_both(wake)
            yield from waiter.__await__()
        return self.get(0)


class BatchesFuture:
    """The outcome of records that were sent together, which went into one batch or several."""

    __slots__ = ("_parts",)

    def __init__(self, parts: list[tuple[ProducerBatch, int, int]]) -> None:
        self._parts = parts
        """Batch, position of the first record in it, number of records."""

    def parts(self) -> list[tuple[ProducerBatch, int, int]]:
        """What it is made of, for a future of more."""
        return self._parts

    def _pieces(self) -> list[tuple[ProducerBatch, int, int]]:
        pieces = []
        for batch, first, count in self._parts:
            pieces.extend(batch.locate_range(first, count))
        return pieces

    def get(self, timeout: float | None = None) -> list[BatchMetadata]:
        """Wait (seconds) for all of them; where they are, in the order they were given.

        Raises the first error if any record failed: others may be stored. TimeoutError if not all fates are known.
        """
        until = 0.0
        while waiting := next((piece[0] for piece in self._pieces() if not piece[0].done), None):
            until = until or waiting.io.now() + (timeout or 0.0)
            waiting.wait(timeout, until)
        error = self.exception
        if error is not None:
            raise error
        return [batch.range_metadata(first, count) for batch, first, count in self._pieces()]

    result = get

    def is_done(self) -> bool:
        """Whether all outcomes are known."""
        return all(batch.done for batch, _, _ in self._pieces())

    done = is_done

    def succeeded(self) -> bool:
        """Whether all records are stored."""
        return self.is_done() and self.exception is None

    def failed(self) -> bool:
        """Whether all outcomes are known and some record failed."""
        return self.is_done() and self.exception is not None

    @property
    def exception(self) -> BaseException | None:
        """What made the first record fail that did."""
        return next((batch.error for batch, _, _ in self._pieces() if batch.error is not None), None)

    def __await__(self) -> Generator[Any, None, list[BatchMetadata]]:
        """Await all outcomes in an event loop."""
        while waiting := next((piece for piece in self._pieces() if not piece[0].done), None):
            batch, first, _ = waiting
            with suppress(Exception):  # get() below raises it, once all outcomes are known
                yield from RecordFuture(batch, first).__await__()
        return self.get(0)
