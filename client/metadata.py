"""What a client knows of the cluster: nodes, topics, leaders. A driver that asks again when it is doubted or old.

Who is asked matters: a node that lost touch with the others tells old news for as long as it is asked. So whoever gave
reason to doubt is asked last, an answer that leaves a question open leads to another node, and a node that keeps silent
does not keep us from asking the next.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..errors import BrokerError, LeaderNotAvailableError, UnknownTopicOrPartitionError, ZmqBrokerError, error_for
from ..transport.messages import MetadataReply, MetadataRequest, TopicInfo
from .backoff import retry_wait_s
from .connection import FOREVER, Answer, Call, Connection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .options import CommonOptions


_random = random.Random()  # noqa: S311 - no secret; its own, so that a program's seed is left alone


_PATIENCE_S = 0.5
"""After so long without an answer another node is asked too."""


class PartitionState(NamedTuple):
    """Who leads a partition; leader -1: nobody at the moment."""

    leader: int
    leader_epoch: int


class MetadataOwner(Protocol):
    """What the metadata needs of the client that it belongs to."""

    options: CommonOptions
    progress: int
    """Counts what waiters may wait for: every answer is such a thing."""
    connections: dict[str, Connection]
    """All that were ever asked for, by address."""

    def now(self) -> float:
        """The time, on the clock of all deadlines."""
        ...

    def connection(self, address: str) -> Connection:
        """The connection to an address."""
        ...


class ClusterMetadata:
    """Nodes and topics as of the last answer. All methods are called under the client's lock."""

    def __init__(self, io: MetadataOwner) -> None:
        self.version = 0
        """Grows with every answer."""
        self.auto_create = False
        """Whether asking for a topic creates it: a producer's does."""
        self.all_topics = False
        """Whether to know of every topic, for a subscription by pattern."""
        self.internal: set[str] = set()
        """The brokers' own ones of the topics known."""
        self.cluster_id = ""
        self.controller_id = -1
        self.nodes: dict[int, str] = {}
        self.topics: dict[str, dict[int, PartitionState]] = {}
        self.errors: dict[str, BrokerError] = {}
        """Why a topic of interest is not in `topics`."""
        self.last_error: ZmqBrokerError | None = None
        self._io = io
        self._topic_ids: dict[str, str] = {}
        self._interest: set[str] = set()
        self._needed = False
        self._asked: list[Connection] = []
        """Who has not answered yet."""
        self._patience = FOREVER
        self._suspect: Connection | None = None
        """Whom to ask only if there is nobody else."""
        self._rounds = 0
        """Answers in a row, in quick succession, that brought no news."""
        self._not_before = 0.0
        self._expires = FOREVER

    def add_topics(self, topics: set[str] | frozenset[str]) -> None:
        """Keep these topics known."""
        if not topics <= self._interest:
            self._interest |= topics
            self.refresh(at_once=True)

    def forget_topics(self, topics: set[str]) -> None:
        """Keep these topics known no more."""
        self._interest -= topics

    def refresh(self, *, at_once: bool = False, besides: Connection | None = None) -> None:
        """Ask as soon as may be, or now; if possible another node than the one that gave reason to."""
        self._needed = True
        if besides is not None:
            self._suspect = besides
        if at_once:
            self._not_before = 0.0

    def connection_failed(self, connection: Connection) -> None:
        """A connection broke: leaders may have moved."""
        if connection.address in self.nodes.values():
            self.refresh(besides=connection)

    def leader(self, topic: str, partition: int) -> Connection | None:
        """The connection to a partition's leader; None if it is not known.

        A refresh is asked for then, and also while the leader cannot be reached: it may be another by now.
        """
        state = self.state(topic, partition)
        address = self.nodes.get(state.leader) if state is not None else None
        if address is None:
            self.refresh()
            return None
        connection = self._io.connection(address)
        if connection.is_backing_off:
            self.refresh(besides=connection)
        return connection

    def known_leader(self, topic: str, partition: int) -> Connection | None:
        """The connection to a partition's leader, if there is one already; nothing is asked for."""
        state = self.state(topic, partition)
        return None if state is None else self._io.connections.get(self.nodes.get(state.leader, ""))

    def state(self, topic: str, partition: int) -> PartitionState | None:
        """What is known of a partition."""
        return self.topics.get(topic, {}).get(partition)

    def node(self, node_id: int) -> Connection | None:
        """The connection to a node by its id."""
        address = self.nodes.get(node_id)
        return None if address is None else self._io.connection(address)

    def any_connection(self, besides: Sequence[Connection] = ()) -> Connection:
        """Some connection that works, else one worth trying: known nodes and bootstrap servers, `besides` last."""
        addresses = list(dict.fromkeys([*self.nodes.values(), *self._io.options.addresses]))
        connections = [self._io.connection(address) for address in addresses]
        others = [connection for connection in connections if connection not in besides]
        for choice in (others, connections):
            usable = [connection for connection in choice if connection.is_usable]
            if usable:
                return min(usable, key=lambda connection: connection.in_flight)
            fresh = [connection for connection in choice if not connection.is_backing_off]
            if fresh:
                # Random, so that a thousand clients do not all ask the first server of the list.
                return _random.choice(fresh)
        return min(connections, key=lambda connection: connection.next_attempt)

    def why_unknown(self, topic: str) -> ZmqBrokerError:
        """The best that is known about why a topic cannot be used."""
        return (
            self.errors.get(topic) or self.last_error or UnknownTopicOrPartitionError(f"topic {topic!r} is not known")
        )

    def step(self, now: float) -> None:
        """Ask, if it is needed and due."""
        options = self._io.options
        if now >= self._expires:
            self._needed = True
        if self._asked:
            if now < self._patience:
                return
        elif not self._needed or now < self._not_before:
            return
        connection = self.any_connection([*self._asked, *([self._suspect] if self._suspect is not None else ())])
        if connection in self._asked:
            self._patience = FOREVER  # there is nobody else
            return
        if now > self._not_before + options.retry_backoff_max_ms / 1000:
            self._rounds = 0  # a new doubt
        self._needed = False
        self._suspect = None
        self._asked.append(connection)
        self._patience = now + _PATIENCE_S
        topics = None if self.all_topics else sorted(self._interest)

        def done(outcome: Answer | ZmqBrokerError) -> None:
            self._answered(connection, outcome)

        request = MetadataRequest(topics, self.auto_create)
        connection.submit(Call(request, done, now + options.request_timeout_ms / 1000), now)

    def next_deadline(self) -> float:
        """When `step` is due."""
        if self._asked:
            return self._patience
        return self._not_before if self._needed else self._expires

    def _answered(self, asked: Connection, outcome: Answer | ZmqBrokerError) -> None:
        now = self._io.now()
        options = self._io.options
        if asked not in self._asked:
            return  # too late: another was faster
        self._asked.remove(asked)
        self._io.progress += 1
        self._rounds += 1
        self._not_before = now + retry_wait_s(options, self._rounds)
        if isinstance(outcome, ZmqBrokerError):
            self.last_error = outcome
            self._needed = True
            self._suspect = asked
            addresses = {*self.nodes.values(), *options.addresses}
            if len(addresses) > 1 and asked.is_backing_off:
                self._not_before = now  # the next node may answer; the broken one has its own back-off
                if all(self._io.connection(address).is_backing_off for address in addresses):
                    self._not_before = now + options.reconnect_backoff_ms / 1000
            self._patience = min(self._patience, self._not_before)
            return
        reply = outcome.body
        assert isinstance(reply, MetadataReply)
        self._asked.clear()
        self.last_error = None
        self._expires = now + options.metadata_max_age_ms / 1000
        self.version += 1
        self.cluster_id = reply.cluster_id
        self.controller_id = reply.controller_id
        if reply.brokers:  # a node that knows of none, not even of itself, has only just started
            self.nodes = {broker.node_id: node_address(broker.host, broker.port) for broker in reply.brokers}
        known = dict(self.topics)
        for topic in reply.topics:
            self._learn(topic)
        if self.all_topics:
            self._forget_all_but({topic.topic for topic in reply.topics})
        if self.topics != known:
            self._rounds = 1
            self._not_before = now + retry_wait_s(options, 1)
        if self._needed:
            self._suspect = self._suspect or asked  # another may know more

    def _forget_all_but(self, there: set[str]) -> None:
        for topic in self.topics.keys() - there:
            del self.topics[topic]
        for topic in self._interest - there:
            self.errors[topic] = UnknownTopicOrPartitionError(f"there is no topic {topic!r}")

    def _learn(self, info: TopicInfo) -> None:
        if info.error_code:
            error = error_for(info.error_code, info.error_message)
            self.errors[info.topic] = error
            self.topics.pop(info.topic, None)
            if error.retriable and info.topic in self._interest:
                self._needed = True
            return
        states = {item.partition: PartitionState(item.leader, item.leader_epoch) for item in info.partitions}
        leaderless = [number for number, state in states.items() if state.leader < 0]
        if leaderless:
            self._needed = True
            self.errors[info.topic] = LeaderNotAvailableError(
                f"partition {info.topic}-{leaderless[0]} has no leader at the moment"
            )
        else:
            self.errors.pop(info.topic, None)
        same = self._topic_ids.get(info.topic) == info.topic_id
        self._topic_ids[info.topic] = info.topic_id
        if info.is_internal:
            self.internal.add(info.topic)
        known = self.topics.get(info.topic, {}) if same else {}
        for number, state in states.items():
            old = known.get(number)
            if old is not None and old.leader_epoch > state.leader_epoch >= 0:
                states[number] = old  # a node that lags behind must not send us back to an older leader
        self.topics[info.topic] = dict(sorted(states.items()))


def node_address(host: str, port: int) -> str:
    """A node's ZeroMQ address."""
    return f"tcp://[{host}]:{port}" if ":" in host and not host.startswith("[") else f"tcp://{host}:{port}"
