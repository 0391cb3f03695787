"""LeaderCleaner: a partition leader's share of compaction, in steps of a few milliseconds between its requests.

The LogKeeper asks one partition after the other (``Clean``) and hears when it has done what was worth doing
(``Cleaned``), so that a node compacts one log at a time, and holds one map of keys. A step is a message that the leader
sends to itself (``CleanOn``); what waits for the disk is done by the flush pool.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..errors import BrokerError
from .commands import Message
from .context import LOG_KEEPER

if TYPE_CHECKING:
    from ..log.cleaning import Cleaning
    from ..log.partition_log import PartitionLog
    from .actor import Home
    from .context import NodeContext

logger = logging.getLogger(__name__)

STEP_MS = 2.0
STEP_BYTES = 256 << 10
"""What a step may take: time, and bytes for where time stands still while a step runs."""
PAUSE_MS = 1.0
"""Between two steps: a third of a busy node's time stays with its clients even if all of it is asked for."""


class Clean(Message):
    """Compact the partition's log, if that is worth it, and say Cleaned."""


class CleanOn(Message):
    """Do the next step."""


class Cleaned(Message):
    """The partition at this address has compacted its log, or has no reason to."""

    address: str


class LeaderCleaner:
    """One leader's. Every Clean is answered with one Cleaned."""

    def __init__(self, context: NodeContext, reactor: Home, name: str, address: str) -> None:
        self._context = context
        self._reactor = reactor
        self._name = name
        self._address = address
        self._log: PartitionLog | None = None
        self._cleaning: Cleaning | None = None
        self._waits_for_disk = False

    def begin(self, log: PartitionLog | None, high_watermark: int) -> None:
        """Start a pass over a log, if one is due."""
        config = self._context.config
        if log is not None and config.log_cleaner_enable and self._cleaning is None:
            try:
                cleaning = log.start_cleaning(
                    now_ms=self._context.clock.wall_ms(),
                    high_watermark=high_watermark,
                    memory_bytes=config.log_cleaner_dedupe_buffer_size,
                )
            except OSError as error:
                logger.warning("compaction of %s has to wait: %s", self._name, error)
                cleaning = None
            if cleaning is not None:
                self._log, self._cleaning = log, cleaning
                self._again()
                return
        self._reactor.tell(LOG_KEEPER, Cleaned(self._address))

    def _again(self) -> None:
        reactor, address = self._reactor, self._address
        reactor.call_later(PAUSE_MS, lambda: reactor.tell(address, CleanOn()))

    def go_on(self) -> None:
        """Do a step."""
        cleaning, log = self._cleaning, self._log
        if cleaning is None or log is None or self._waits_for_disk:
            return
        if cleaning.is_done or log.cleaning is not cleaning:
            logger.info("compaction of %s was broken off, because its segments have changed", self._name)
            self.end()
            return
        try:
            work = cleaning.step(_Budget(self._context, cleaning))
        except (OSError, BrokerError) as error:
            self._failed(log, error)
            return
        if cleaning.is_done:
            self._report(cleaning)
            self.end()
        elif work is None:
            self._again()
        else:
            self._waits_for_disk = True
            self._context.flusher.submit(work, lambda error: self._disk_done(cleaning, error))

    def _disk_done(self, cleaning: Cleaning, error: Exception | None) -> None:
        if cleaning is not self._cleaning or self._log is None:
            return
        self._waits_for_disk = False
        if error is not None:
            self._failed(self._log, error)
        else:
            self._reactor.tell(self._address, CleanOn())

    def _failed(self, log: PartitionLog, error: Exception) -> None:
        """Give the pass up. The log is as before, or has some segments compacted; the next pass begins anew."""
        if log.damage is not None:
            logger.error("%s is not compacted, and serves what is before its damage only: %s", self._name, log.damage)
        else:
            logger.warning("compaction of %s was broken off and is tried again later: %s", self._name, error)
        try:
            log.abort_cleaning()
        except OSError:
            logger.error("%s takes no more appends: %s", self._name, log.failure)  # noqa: TRY400 - one sentence is enough
        self.end()

    def _report(self, cleaning: Cleaning) -> None:
        self._context.counters["logs-compacted"] += 1
        self._context.counters["bytes-compacted-away"] += cleaning.bytes_before - cleaning.bytes_written
        logger.info(
            "compacted %s up to offset %d: %d bytes became %d",
            *(self._name, cleaning.end_offset, cleaning.bytes_before, cleaning.bytes_written),
        )

    def end(self) -> None:
        """Nothing more to do, or to be done: the leader stops."""
        if self._cleaning is not None:
            self._cleaning = self._log = None
            self._waits_for_disk = False
            self._reactor.tell(LOG_KEEPER, Cleaned(self._address))


class _Budget:
    """Whether a step has taken what it may."""

    def __init__(self, context: NodeContext, cleaning: Cleaning) -> None:
        self._now_ms = context.clock.monotonic_ms
        self._cleaning = cleaning
        self._until_ms = self._now_ms() + STEP_MS
        self._until_bytes = cleaning.bytes_read + STEP_BYTES

    def __call__(self) -> bool:
        return self._cleaning.bytes_read >= self._until_bytes or self._now_ms() >= self._until_ms
