"""Settings of the clients: frozen, typed, checked by name and range before anything is connected.

Names and meanings are kafka-python's. A setting that does not exist is refused with the nearest that does.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ConfigError
from ..groups.assignors import ASSIGNORS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..errors import ZmqBrokerError
    from .types import TopicPartition

DEFAULT_PORT = 9292
MAX_MS = 2**31 - 1
MAX_BYTES = 2**31 - 1
COMPRESSIONS = {None: 0, "none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
ACKS: dict[object, int] = {0: 0, 1: 1, -1: -1, "0": 0, "1": 1, "-1": -1, "all": -1}
ISOLATION_LEVELS = {"read_uncommitted": 0, "read_committed": 1}
RESETS = {"latest": "latest", "largest": "latest", "earliest": "earliest", "smallest": "earliest", "none": "none"}

O = TypeVar("O", bound="CommonOptions")  # noqa: E741 - a type variable, read as Options


def _number(default: float, low: float, high: float) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """What every client can be told."""

    bootstrap_servers: str | Sequence[str] = f"127.0.0.1:{DEFAULT_PORT}"
    """``host:port``, several with commas between or as a list; any one that answers is enough to find the others."""
    client_id: str = ""
    """How the brokers call this client in quotas and logs; empty: ``zmqbroker-`` and the process id."""
    request_timeout_ms: int = _number(30_000, 1, MAX_MS)
    """How long one request may wait for its answer before its connection is given up."""
    connect_timeout_ms: int = _number(10_000, 1, MAX_MS)
    """How long a connection may take to stand."""
    retry_backoff_ms: int = _number(50, 0, MAX_MS)
    """How long to wait before a request that failed is sent again, and the cluster asked again who leads a partition.
    Both grow by half with each failure, with jitter, up to the maximum; a new leader ends the wait."""
    retry_backoff_max_ms: int = _number(1_000, 0, MAX_MS)
    """The longest wait before a request is sent again."""
    reconnect_backoff_ms: int = _number(50, 0, MAX_MS)
    """How long to wait after a failed connection before the next; doubles, with jitter, up to the maximum."""
    reconnect_backoff_max_ms: int = _number(1_000, 0, MAX_MS)
    """The longest wait between two attempts to connect."""
    metadata_max_age_ms: int = _number(300_000, 1, MAX_MS)
    """How old knowledge of topics and their leaders may grow before it is asked for again."""

    def __post_init__(self) -> None:
        for item in fields(self):
            if "low" in item.metadata:
                _check_number(item.name, getattr(self, item.name), item.metadata["low"], item.metadata["high"])
        if not isinstance(self.client_id, str):
            message = f"client_id={self.client_id!r}: a text is expected"
            raise ConfigError(message)
        parse_addresses(self.bootstrap_servers)

    @property
    def addresses(self) -> list[str]:
        """The bootstrap servers as ZeroMQ addresses."""
        return parse_addresses(self.bootstrap_servers)

    @property
    def name(self) -> str:
        """The client id to present to brokers."""
        return self.client_id or f"zmqbroker-{os.getpid()}"


@dataclass(frozen=True, kw_only=True)
class ProducerOptions(CommonOptions):
    """What a producer can be told."""

    key_serializer: Callable[[Any], bytes | None] | None = None
    """Makes bytes of a key; without one, keys are bytes."""
    value_serializer: Callable[[Any], bytes | None] | None = None
    """Makes bytes of a value; without one, values are bytes."""
    acks: int | str = "all"
    """Who must have a record before it counts as sent: nobody (0), the leader (1), all in-sync replicas ("all", -1)."""
    retries: int = _number(MAX_MS, 0, MAX_MS)
    """How often a batch is sent again; delivery_timeout_ms ends it in any case."""
    batch_size: int = _number(262_144, 0, MAX_BYTES)
    """A batch of one partition is closed when it has grown to this many bytes; 0: one record to a batch."""
    linger_ms: float = _number(0, 0, MAX_MS)
    """How long a batch waits for more records. With 0 a record leaves at once if its partition awaits no answer;
    records that come while one is awaited gather into the next batch. A producer that fills 1,000 batches a second
    gathers also while another partition of the same node awaits one: many small batches cost more than they win."""
    buffer_memory: int = _number(32 * 1024 * 1024, 1, 2**62)
    """Bytes of records that are not acknowledged, at which `send` waits; one record may go beyond. A batch that is
    still open counts with the room it has taken: 16 KiB at first, and as much again whenever that is full."""
    max_block_ms: int = _number(60_000, 0, MAX_MS)
    """How long `send` waits for room in the buffer, or for a topic to be known."""
    compression_type: str | None = None
    """gzip, snappy, lz4 or zstd; None: as they are."""
    delivery_timeout_ms: int = _number(120_000, 1, MAX_MS)
    """How long a batch may take from its first record on to be acknowledged, retries included."""
    max_in_flight_requests_per_connection: int = _number(5, 1, 1_000)
    """Requests to one node that may await their answers; at most 5 with idempotence. Meanwhile records gather."""
    max_request_size: int = _number(1_048_576, 64, MAX_BYTES)
    """The largest record, and the largest sum of batches in one request."""
    enable_idempotence: bool = True
    """Number the batches so that one that is sent twice is stored once. No effect with acks=0: nothing is retried."""
    transactional_id: str | None = None
    """Send in transactions, as the producer of this name: it has one at a time, and the latest that asks fences the
    ones before. Give each instance of a program its own, and the same again after a restart. None: no transactions."""
    transaction_timeout_ms: int = _number(60_000, 1, MAX_MS)
    """A transaction that has been open for longer is aborted by the brokers, and this producer fenced."""
    partitioner: Callable[[bytes | None, list[int], list[int]], int] | None = None
    """``(key, all partitions, those with a leader) -> partition``, as kafka-python's; None: murmur2 of the key as
    Kafka's own, and without a key one partition after the other, a batch for each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice("compression_type", self.compression_type, COMPRESSIONS)
        _check_choice("acks", self.acks, ACKS)
        _check_bool("enable_idempotence", self.enable_idempotence)
        for name in ("key_serializer", "value_serializer", "partitioner"):
            _check_callable(name, getattr(self, name))
        most = 5  # how many batches of a producer id a broker remembers
        if self.idempotent and self.max_in_flight_requests_per_connection > most:
            message = (
                f"max_in_flight_requests_per_connection={self.max_in_flight_requests_per_connection}: with"
                f" enable_idempotence it is at most {most}, as many batches as a broker remembers of a producer"
            )
            raise ConfigError(message)
        self._check_transactions()

    def _check_transactions(self) -> None:
        _check_name("transactional_id", self.transactional_id)
        if self.transactional_id is None:
            return
        if not self.enable_idempotence:
            message = (
                f"transactional_id={self.transactional_id!r} and enable_idempotence={self.enable_idempotence}: a"
                " transaction's batches have to be numbered; leave enable_idempotence at True"
            )
            raise ConfigError(message)
        if self.required_acks != ACKS["all"]:
            message = (
                f"transactional_id={self.transactional_id!r} and acks={self.acks!r}: a transaction's records have to"
                " be on all in-sync replicas; leave acks at 'all'"
            )
            raise ConfigError(message)

    @property
    def required_acks(self) -> int:
        """0, 1 or -1."""
        return ACKS[self.acks]

    @property
    def compression(self) -> int:
        """The codec's number in a batch."""
        return COMPRESSIONS[self.compression_type]

    @property
    def idempotent(self) -> bool:
        """Whether batches are numbered."""
        return self.enable_idempotence and self.required_acks != 0


@dataclass(frozen=True, kw_only=True)
class ConsumerOptions(CommonOptions):
    """What a consumer can be told."""

    group_id: str | None = None
    """The consumer group to share topics with, and to commit offsets for; None: read alone, commit nothing."""
    group_instance_id: str | None = None
    """Makes a static member (KIP-345): it may restart within its session time-out and no rebalance happens."""
    enable_auto_commit: bool = True
    """Commit what was handed out before the user asked for more, now and then, before rebalances and at the end."""
    auto_commit_interval_ms: int = _number(5_000, 1, MAX_MS)
    """How often that is."""
    session_timeout_ms: int = _number(45_000, 1, MAX_MS)
    """After so long without a heartbeat the group goes on without this member."""
    heartbeat_interval_ms: int = _number(3_000, 1, MAX_MS)
    """How long the coordinator may hold a heartbeat's answer back; well below the session time-out."""
    max_poll_interval_ms: int = _number(300_000, 1, MAX_MS)
    """How long the user may be busy with what it got; then this member leaves the group, so that others go on."""
    partition_assignment_strategy: Sequence[str] = ("range", "cooperative-sticky")
    """Names of assignors by preference: range, roundrobin, sticky, cooperative-sticky. Members keep what they have
    during a rebalance if all named are cooperative (KIP-429)."""
    key_deserializer: Callable[[bytes], Any] | None = None
    """Makes a key of its bytes; not called for a record without key."""
    value_deserializer: Callable[[bytes], Any] | None = None
    """Makes a value of its bytes; not called for a record without value."""
    allow_auto_create_topics: bool = True
    """Whether reading a topic that does not exist creates it, where the brokers create topics on first use."""
    auto_offset_reset: str = "latest"
    """Where to begin without a position, or when it does not exist any more: earliest, latest, or none: raise."""
    isolation_level: str = "read_uncommitted"
    """read_committed: hand out no record of a transaction before it is committed, and none of an aborted one; what
    comes behind an open transaction waits for its end. read_uncommitted: hand out everything."""
    fetch_min_bytes: int = _number(1, 0, MAX_BYTES)
    """How much a broker gathers before it answers a fetch."""
    fetch_max_wait_ms: int = _number(500, 0, MAX_MS)
    """How long a broker waits for that much."""
    fetch_max_bytes: int = _number(50 * 1024 * 1024, 1, MAX_BYTES)
    """The most that one fetch answers, and that the consumer keeps ready undelivered."""
    max_partition_fetch_bytes: int = _number(1_048_576, 1, MAX_BYTES)
    """The most that one fetch answers of one partition; a larger batch still comes whole."""
    max_poll_records: int = _number(500, 1, MAX_MS)
    """The most records that one poll returns."""
    consumer_timeout_ms: float = _number(float("inf"), 0, float("inf"))
    """How long iteration waits for a record before it ends; inf: for ever."""
    check_crcs: bool = True
    """Check each batch's CRC-32C before its records are handed out."""
    client_rack: str = ""
    """Where this consumer is, as brokers' `broker.rack`: it reads from an in-sync replica in its rack, if there is one,
    and not from the leader (KIP-392)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_group(self)
        _check_choice("auto_offset_reset", self.auto_offset_reset, RESETS)
        _check_choice("isolation_level", self.isolation_level, ISOLATION_LEVELS)
        _check_bool("check_crcs", self.check_crcs)
        _check_bool("enable_auto_commit", self.enable_auto_commit)
        _check_bool("allow_auto_create_topics", self.allow_auto_create_topics)
        if not isinstance(self.client_rack, str):
            message = f"client_rack={self.client_rack!r}: a text is expected"
            raise ConfigError(message)
        for name in ("key_deserializer", "value_deserializer"):
            _check_callable(name, getattr(self, name))

    @property
    def reset(self) -> str:
        """latest, earliest or none."""
        return RESETS[self.auto_offset_reset]

    @property
    def isolation(self) -> int:
        """The isolation level's number."""
        return ISOLATION_LEVELS[self.isolation_level]

    @property
    def is_cooperative(self) -> bool:
        """Whether this member keeps its partitions while its group rebalances."""
        return all(ASSIGNORS[name].cooperative for name in self.partition_assignment_strategy)


@dataclass(frozen=True, kw_only=True)
class ShareConsumerOptions(CommonOptions):
    """What a share consumer can be told."""

    group_id: str = ""
    """The share group, which is a queue over its topics; it must be given."""
    acknowledgement_mode: str = "implicit"
    """implicit: asking for more accepts what was delivered before; explicit: each record is acknowledged by a call."""
    key_deserializer: Callable[[bytes], Any] | None = None
    """Makes a key of its bytes; not called for a record without key."""
    value_deserializer: Callable[[bytes], Any] | None = None
    """Makes a value of its bytes; not called for a record without value."""
    max_poll_records: int = _number(500, 1, 500_000)
    """The most records that one poll returns; a fast worker holds up to twice as many."""
    fetch_max_wait_ms: int = _number(500, 0, MAX_MS)
    """How long a broker waits for a record before it answers."""
    fetch_max_bytes: int = _number(50 * 1024 * 1024, 1, MAX_BYTES)
    """The most that one fetch answers; a larger batch still comes whole."""
    consumer_timeout_ms: float = _number(float("inf"), 0, float("inf"))
    """How long iteration waits for a record before it ends; inf: for ever."""
    check_crcs: bool = True
    """Check each batch's CRC-32C before its records are handed out."""
    on_acknowledge_error: Callable[[TopicPartition, ZmqBrokerError, list[tuple[int, int]]], None] | None = None
    """Called with the partition, the error and the ranges of offsets (both ends included) of acknowledgements that do
    not hold; None: they are logged. `commit` raises the first of them in any case."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.group_id, str) or not self.group_id:
            message = f"group_id={self.group_id!r}: a share consumer needs the name of its group"
            raise ConfigError(message)
        _check_choice("acknowledgement_mode", self.acknowledgement_mode, {"implicit": None, "explicit": None})
        _check_bool("check_crcs", self.check_crcs)
        for name in ("key_deserializer", "value_deserializer", "on_acknowledge_error"):
            _check_callable(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class AdminOptions(CommonOptions):
    """What an admin client can be told."""

    default_api_timeout_ms: int = _number(60_000, 1, MAX_MS)
    """How long a call may take in all, retries included."""


def make_options(cls: type[O], values: Mapping[str, Any]) -> O:
    """Build settings from keywords. Raises ConfigError for an unknown name or a value out of range."""
    known = {item.name for item in fields(cls)}
    for name in values:
        if name not in known:
            raise ConfigError(_unknown(name, sorted(known)))
    return cls(**values)


def _unknown(name: str, known: list[str]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - only a mistake needs it

    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
    return f"{name!r} is not a setting{hint}"


def parse_addresses(servers: str | Sequence[str]) -> list[str]:
    """``host:port`` texts as ``tcp://host:port``; the port may be left out. Raises ConfigError."""
    texts = servers.split(",") if isinstance(servers, str) else list(servers)
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        message = f"bootstrap_servers={servers!r}: at least one host:port is expected"
        raise ConfigError(message)
    return [_parse_address(text.strip()) for text in texts]


def _parse_address(text: str) -> str:
    bare = text.removeprefix("tcp://")
    if bare.endswith("]") or ":" not in bare:
        bare = f"{bare}:{DEFAULT_PORT}"
    host, _, port = bare.rpartition(":")
    highest = 65535
    if not host or "/" in host or not port.isdecimal() or not 1 <= int(port) <= highest:
        message = f"bootstrap_servers: {text!r} is not host:port with a port from 1 to {highest}"
        raise ConfigError(message)
    return f"tcp://{host}:{port}"


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        message = f"{name}={value!r}: a number is expected"
        raise ConfigError(message)
    if not low <= value <= high:
        message = f"{name}={value!r}: must lie between {low} and {high}"
        raise ConfigError(message)


def _check_choice(name: str, value: Any, choices: Mapping[Any, Any]) -> None:
    if isinstance(value, bool) or value not in choices:
        allowed = ", ".join(repr(choice) for choice in choices)
        message = f"{name}={value!r}: must be one of {allowed}"
        raise ConfigError(message)


def _check_bool(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        message = f"{name}={value!r}: True or False is expected"
        raise ConfigError(message)


def _check_name(name: str, value: Any) -> None:
    if value is not None and (not isinstance(value, str) or not value):
        message = f"{name}={value!r}: a text of one letter or more is expected, or None"
        raise ConfigError(message)


def _check_group(options: ConsumerOptions) -> None:
    for name in ("group_id", "group_instance_id"):
        _check_name(name, getattr(options, name))
    if options.group_instance_id is not None and options.group_id is None:
        message = f"group_instance_id={options.group_instance_id!r} is of no use without a group_id; give that too"
        raise ConfigError(message)
    heartbeat, session = options.heartbeat_interval_ms, options.session_timeout_ms
    if heartbeat >= session:
        message = (
            f"heartbeat_interval_ms={heartbeat} is not below session_timeout_ms={session}: the session would end"
            " between two heartbeats; make it a third of that or less"
        )
        raise ConfigError(message)
    names = options.partition_assignment_strategy
    known = ", ".join(ASSIGNORS)
    if isinstance(names, str) or not names or not all(name in ASSIGNORS for name in names):
        message = f"partition_assignment_strategy={names!r}: a list of some of {known} is expected"
        raise ConfigError(message)


def _check_callable(name: str, value: Any) -> None:
    if value is not None and not callable(value):
        message = f"{name}={value!r}: a function is expected"
        raise ConfigError(message)
