"""LogKeeper: the clock of upkeep. It reminds every partition of retention and flushing, and one after the other of
compaction, and writes down how far each log is flushed, so that a recovery need not read what is on the disk for sure.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from ..transport.config_messages import TOPIC_RESOURCE
from .actor import ReactorActor
from .commands import Checkpoint, Maintain
from .context import LOG_KEEPER, partition_address
from .leader_cleaner import Clean, Cleaned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .context import NodeContext

logger = logging.getLogger(__name__)


class LogKeeper(ReactorActor):
    """Upkeep of all logs of the node, in small steps: each partition does its own share in its own turn."""

    def __init__(self, context: NodeContext) -> None:
        super().__init__()
        self.context = context
        self._writing = False
        self._to_clean: deque[str] = deque()
        self._cleaning = ""
        """The partition that compacts its log now."""

    def on_start(self) -> None:
        """Set the first alarms."""
        self._later(Maintain())
        self._later(Checkpoint())
        if self.context.config.log_cleaner_enable:
            self._clean_later()

    def _clean_later(self) -> None:
        reactor = self.reactor
        reactor.call_later(self.context.config.log_cleaner_backoff_ms, lambda: reactor.tell(LOG_KEEPER, Clean()))

    def _later(self, reminder: Maintain | Checkpoint) -> None:
        config = self.context.config
        every_ms = (
            config.log_retention_check_interval_ms
            if isinstance(reminder, Maintain)
            else config.log_flush_offset_checkpoint_interval_ms
        )
        reactor = self.reactor
        reactor.call_later(every_ms, lambda: reactor.tell(LOG_KEEPER, reminder))

    def on_receive(self, message: Any) -> None:
        """Pass an alarm on to every partition, and set the next one."""
        if isinstance(message, Clean):
            self._to_clean.extend(self._compacted_partitions())
            self._clean_next()
            return
        if isinstance(message, Cleaned):
            if message.address == self._cleaning:
                self._clean_next()
            return
        assert isinstance(message, Maintain | Checkpoint), f"the log keeper got {message!r}"
        for topic in self.context.image.topics.values():
            for partition in range(len(topic.partitions)):
                self.reactor.tell(partition_address(topic.name, partition), message)
        if isinstance(message, Checkpoint):
            self._write_checkpoints()
        self._later(message)

    def _compacted_partitions(self) -> Iterator[str]:
        image = self.context.image
        for topic in image.topics.values():
            if self.context.config.topic_config(image.config_of(TOPIC_RESOURCE, topic.name)).is_compacted:
                for partition in range(len(topic.partitions)):
                    yield partition_address(topic.name, partition)

    def _clean_next(self) -> None:
        """One at a time; the next round begins a while after the last has ended."""
        while self._to_clean:
            self._cleaning = self._to_clean.popleft()
            if self.reactor.tell(self._cleaning, Clean()):
                return
        self._cleaning = ""
        self._clean_later()

    def _write_checkpoints(self) -> None:
        if self._writing:
            return
        work = self.context.folder.checkpoint_work()
        if work is not None:
            self._writing = True
            self.context.flusher.submit(work, self._written)

    def _written(self, error: Exception | None) -> None:
        self._writing = False
        if error is not None:
            logger.warning("the recovery points could not be written down: %s; a recovery would read more", error)
