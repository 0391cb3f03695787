"""Which partitions a consumer reads: those of its topics as they come and go, its group's, or some assigned by hand."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..errors import ConfigError, UnknownTopicOrPartitionError, ZmqBrokerError
from ..transport.messages import EARLIEST, MetadataReply, MetadataRequest
from .connection import FOREVER
from .io import Wait, body_of
from .types import TopicPartition

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .fetcher import Fetcher
    from .group_member import GroupMember
    from .io import ClientIO, Flow


class Subscription:
    """A driver that keeps the fetcher's partitions in step with the metadata. Changed under the client's lock."""

    def __init__(self, io: ClientIO, fetcher: Fetcher, member: GroupMember | None = None) -> None:
        self.topics: set[str] | None = None
        self._pattern: re.Pattern[str] | None = None
        self._member = member
        """Set: a group says which partitions of the topics are read."""
        self.error: ZmqBrokerError | None = None
        """Why a topic can never be read: raised to the user once."""
        self._io = io
        self._fetcher = fetcher
        self._assigned: set[str] = set()
        self._version = -1
        self._watched: set[str] = set()
        """Topics whose partitions were looked at before, or that were seen not to exist: what comes new after that was
        made while the user listened, and is read from its beginning."""
        self._refused: set[str] = set()

    def subscribe(self, topics: set[str]) -> None:
        """Read all partitions of some topics, or the group's share of them."""
        self._forget()
        self._set_topics(topics)
        self._io.metadata.add_topics(topics)

    def subscribe_pattern(self, pattern: str) -> None:
        """Read all topics whose names match, internal ones excepted. Raises ConfigError."""
        try:
            compiled = re.compile(pattern)
        except (re.error, TypeError) as error:
            message = f"pattern={pattern!r} is no regular expression: {error}"
            raise ConfigError(message) from None
        self._forget()
        self.topics = set()
        self._pattern = compiled
        self._io.metadata.all_topics = True
        self._io.metadata.refresh(at_once=True)

    def _set_topics(self, topics: set[str]) -> None:
        self.topics = topics
        if self._member is None:
            self._fetcher.revoke({partition for partition in self._fetcher.partitions if partition.topic in topics})
            self._watched &= topics
        else:
            self._fetcher.revoke(self._member.owned)  # what was assigned by hand
            self._member.subscribe(topics)

    def assign(self, partitions: list[TopicPartition]) -> None:
        """Read some partitions."""
        self._forget()
        self.topics = None
        self._watched.clear()
        self._assigned = {partition.topic for partition in partitions}
        self._fetcher.revoke(set(partitions))
        self._fetcher.assign(partitions, self._fetcher.default_reset())
        if self._assigned:
            self._io.metadata.add_topics(self._assigned)

    def clear(self) -> None:
        """Read nothing; what a group has assigned is for its session to give up."""
        self._forget()
        self.topics = None
        self._watched.clear()
        self._fetcher.revoke(set() if self._member is None else self._member.owned)

    def _forget(self) -> None:
        self._io.metadata.forget_topics((self.topics or set()) | self._assigned)
        self._io.metadata.all_topics = False
        self._pattern = None
        self._assigned = set()
        self._refused.clear()
        self.error = None
        self._version = -1

    def step(self, now: float) -> None:
        """Take up partitions that are new, drop those of topics that are gone."""
        del now
        metadata = self._io.metadata
        if metadata.version == self._version:
            return
        first, self._version = self._version < 0, metadata.version
        if self._pattern is not None:
            matching = {
                topic for topic in metadata.topics if topic not in metadata.internal and self._pattern.match(topic)
            }
            if matching != self.topics or first:
                self._set_topics(matching)
        for topic in (self.topics or set()) | self._assigned:
            error = metadata.errors.get(topic)
            if error is not None and not error.retriable and topic not in self._refused:
                self._refused.add(topic)
                self.error = error
                self._io.progress += 1
        for topic in (self.topics or ()) if self._member is None else ():
            if topic in metadata.topics:
                self._take_up(topic, metadata.topics[topic])
            elif isinstance(metadata.errors.get(topic), UnknownTopicOrPartitionError):
                self._watched.add(topic)
                self._fetcher.revoke({tp for tp in self._fetcher.partitions if tp.topic != topic})

    def _take_up(self, topic: str, numbers: Iterable[int]) -> None:
        new = [
            partition
            for number in numbers
            if (partition := TopicPartition(topic, number)) not in self._fetcher.partitions
        ]
        if new:
            self._fetcher.assign(new, EARLIEST if topic in self._watched else self._fetcher.default_reset())
            self._io.progress += 1
        self._watched.add(topic)

    def next_deadline(self) -> float:
        """Only metadata moves it."""
        return FOREVER

    # ---- questions

    def partitions_of(self, topic: str, timeout_s: float) -> Flow[set[int] | None]:
        """The partitions of a topic, without creating it."""
        with self._io.lock:
            known = self._io.metadata.topics.get(topic)
        if known is not None:
            return set(known)
        reply = yield from self._describe([topic], timeout_s)
        found = [info for info in reply.topics if info.topic == topic and not info.error_code]
        return {item.partition for item in found[0].partitions} if found else None

    def all_topics(self, timeout_s: float) -> Flow[set[str]]:
        """The names of all topics."""
        reply = yield from self._describe(None, timeout_s)
        return {info.topic for info in reply.topics if not info.is_internal and not info.error_code}

    def _describe(self, topics: list[str] | None, timeout_s: float) -> Flow[MetadataReply]:
        io = self._io
        deadline = io.now() + timeout_s
        while True:
            try:
                with io.lock:
                    connection = io.metadata.any_connection()
                answer = yield from io.call(MetadataRequest(topics), connection, max(0.001, deadline - io.now()))
                return body_of(answer, MetadataReply)
            except ZmqBrokerError as error:
                if not error.retriable or io.now() >= deadline:
                    raise
            yield Wait(lambda: None, min(deadline, io.now() + io.options.retry_backoff_ms / 1000))
