"""A client that creates and deletes topics, adds partitions and changes settings, and knows what must come of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..errors import InvalidPartitionsError, TopicExistsError, UnknownTopicOrPartitionError
from ..transport.config_messages import (
    TOPIC_RESOURCE,
    AlterConfigsRequest,
    DescribeConfigsRequest,
    Resource,
    ResourceChange,
)
from ..transport.messages import (
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    MetadataReply,
    MetadataRequest,
    NewTopic,
    PartitionCount,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..transport.message_base import Request
    from .client import Outcome, SimClient
    from .history import History

_BACKOFF_MS = (20.0, 200.0)
_TIMEOUT_MS = 2_000
_PARTITIONS_MAX = 4


class _Topic:
    """What must be true of a topic, as far as its one administrator knows."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.exists = False
        self.partitions = 0
        self.retention_ms = ""
        self.in_doubt = False
        """A request that was not answered may be carried out at any later time."""


class MetadataWorkload:
    """Does one change after the other, each again until it is answered, and looks for it on the node that answered."""

    def __init__(self, client: SimClient, history: History, *, replicas: int) -> None:
        self.name = client.name
        self._client = client
        self._history = history
        self._random = client.world.stream(f"{client.name}/work")
        self._replicas = replicas
        self._names = 0
        self._topics = [self._new_topic() for _ in range(3)]
        self._think_ms = self._random.choice((20.0, 100.0, 400.0))
        self._quiet = False
        self._doing = ""

    def start(self) -> None:
        """Begin."""
        self._next()

    def quiesce(self) -> None:
        """Change nothing more."""
        self._quiet = True

    @property
    def busy(self) -> str:
        """The change that is not answered."""
        return self._doing

    def _new_topic(self) -> _Topic:
        self._names += 1
        return _Topic(f"{self.name}-{self._names}")

    def _next(self) -> None:
        self._doing = ""
        # Nothing more can be said of a topic in doubt: go on with another.
        self._topics = [self._new_topic() if topic.in_doubt else topic for topic in self._topics]
        delay_ms = self._random.expovariate(1.0) * self._think_ms
        self._client.world.later(delay_ms, f"{self.name} think", self._begin)

    def _begin(self) -> None:
        if self._quiet:
            return
        topic = self._random.choice(self._topics)
        if not topic.exists:
            self._create(topic)
        else:
            self._random.choice((self._delete, self._grow, self._change))(topic)

    # ---- changes

    def _create(self, topic: _Topic) -> None:
        partitions = self._random.randint(1, 2)
        new = NewTopic(topic.name, partitions, self._replicas, [("retention.ms", "-1")])

        def done(code: int) -> bool:
            if code == TopicExistsError.code and not topic.in_doubt:
                self._client.world.violated("metadata", f"{topic.name} exists, and was never created or was deleted")
            topic.exists, topic.partitions, topic.retention_ms = True, partitions, "-1"
            return code in (0, TopicExistsError.code)

        self._ask(topic, CreateTopicsRequest([new], _TIMEOUT_MS), done)

    def _delete(self, topic: _Topic) -> None:
        def done(code: int) -> bool:
            if code == UnknownTopicOrPartitionError.code and not topic.in_doubt:
                self._client.world.violated("metadata", f"{topic.name} is unknown, and was not deleted")
            topic.exists = False
            return code in (0, UnknownTopicOrPartitionError.code)

        self._ask(topic, DeleteTopicsRequest([topic.name], _TIMEOUT_MS), done)

    def _grow(self, topic: _Topic) -> None:
        total = topic.partitions + 1
        if total > _PARTITIONS_MAX:
            self._next()
            return

        def done(code: int) -> bool:
            if code and not topic.in_doubt:
                self._client.world.violated("metadata", f"{topic.name} refused its partition {total}: error {code}")
            topic.partitions = total
            return code in (0, InvalidPartitionsError.code, UnknownTopicOrPartitionError.code)

        self._ask(topic, CreatePartitionsRequest([PartitionCount(topic.name, total)], _TIMEOUT_MS), done)

    def _change(self, topic: _Topic) -> None:
        value = str(self._random.randint(10**9, 10**10))

        def done(code: int) -> bool:
            if code and not topic.in_doubt:
                self._client.world.violated("metadata", f"{topic.name} refused a setting: error {code}")
            topic.retention_ms = value
            return code in (0, UnknownTopicOrPartitionError.code)

        change = ResourceChange(TOPIC_RESOURCE, topic.name, [("retention.ms", value)])
        self._ask(topic, AlterConfigsRequest([change]), done)

    # ---- asking until it is answered

    def _ask(self, topic: _Topic, request: Request, done: Callable[[int], bool]) -> None:
        self._doing = f"{type(request).__name__} of {topic.name}"
        address = self._client.any_address()
        self._client.ask(address, request, partial(self._answered, topic, request, done, address), (), 2 * _TIMEOUT_MS)

    def _answered(
        self, topic: _Topic, request: Request, done: Callable[[int], bool], address: str, outcome: Outcome
    ) -> None:
        code = 0
        retry = outcome.body is None
        if outcome.body is not None:
            (result,) = getattr(outcome.body, "topics", None) or outcome.body.resources
            code = result.error_code
        elif outcome.error is not None:
            code = outcome.error.code
        if outcome.sent and (retry or code not in _DECIDED):
            topic.in_doubt = True
        if retry or code not in _DECIDED or not done(code):
            wait_ms = self._random.uniform(*_BACKOFF_MS)
            self._client.world.later(wait_ms, f"{self.name} again", partial(self._ask, topic, request, done))
            return
        self._history.operations += 1
        self._client.ask(address, MetadataRequest([topic.name]), partial(self._seen, topic))

    def _seen(self, topic: _Topic, outcome: Outcome) -> None:
        if isinstance(outcome.body, MetadataReply):
            self._check(topic, outcome.body)
        self._next()

    def _check(self, topic: _Topic, reply: MetadataReply) -> None:
        """What was acked is there, for whoever asks the node that acked it."""
        if topic.in_doubt:
            return
        (found,) = reply.topics
        exists = found.error_code == 0
        if exists != topic.exists or (exists and len(found.partitions) != topic.partitions):
            expected = f"{topic.partitions} partitions" if topic.exists else "no topic"
            self._client.world.violated("metadata", f"{topic.name} should have {expected}: {found}")

    # ---- the end

    def check_all(self, done: Callable[[], object]) -> None:
        """Look at every topic once more, settings included."""
        self._check_next(list(self._topics), done)

    def _check_next(self, topics: list[_Topic], done: Callable[[], object]) -> None:
        if not topics:
            done()
            return
        topic = topics[0]
        again = partial(self._check_next, topics, done)

        def later() -> None:
            self._client.world.later(self._random.uniform(*_BACKOFF_MS), f"{self.name} again", again)

        def seen(outcome: Outcome) -> None:
            if not isinstance(outcome.body, MetadataReply):
                later()
                return
            self._check(topic, outcome.body)
            self._check_settings(topic, partial(self._check_next, topics[1:], done), later)

        self._client.ask(self._client.any_address(), MetadataRequest([topic.name]), seen)

    def _check_settings(self, topic: _Topic, done: Callable[[], object], again: Callable[[], object]) -> None:
        def seen(outcome: Outcome) -> None:
            if outcome.body is None:
                again()
                return
            (found,) = outcome.body.resources
            values = {entry.name: entry.value for entry in found.configs}
            if topic.exists and not topic.in_doubt and values.get("retention.ms") != topic.retention_ms:
                text = f"{topic.name} should have retention.ms={topic.retention_ms}: {values.get('retention.ms')}"
                self._client.world.violated("metadata", text)
            done()

        request = DescribeConfigsRequest([Resource(TOPIC_RESOURCE, topic.name)])
        self._client.ask(self._client.any_address(), request, seen)


_DECIDED = frozenset((0, TopicExistsError.code, UnknownTopicOrPartitionError.code, InvalidPartitionsError.code))
"""Answers that say how things stand; any other is asked again."""
