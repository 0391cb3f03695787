"""Every setting of brokers and topics: one typed table with name, default, unit, bounds and meaning.

The table is the two frozen dataclasses themselves: each field carries what is known of it, and parsing, checking,
describing and documenting all read that. Names on the wire and in files are Kafka's, with dots, where Kafka has one;
underscores are accepted for dots. A setting that a topic may override stands in ``TopicConfig``, and the broker-wide
default of it is a setting of the broker under Kafka's name for that (``segment.bytes`` and ``log.segment.bytes``).

Values may have units: ``64MiB``, ``1GB``, ``500ms``, ``7d``; a plain number is in the setting's own unit. An unknown
name or a value that is not allowed is a ConfigError that names the setting, the value and the limit.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast

from .errors import ConfigError
from .setting_values import (
    BYTES,
    BYTES_PER_SECOND,
    DAY_MS,
    GIB,
    HOUR_MS,
    INT32_MAX,
    INT64_MAX,
    KIB,
    MIB,
    MILLISECONDS,
    MINUTE_MS,
    SECOND_MS,
    Setting,
    Value,
    check,
    dotted,
    parse,
    value_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

Source = Literal["topic", "broker", "default"]
"""Where a value comes from: the topic's own override, the broker's file or command line, or the built-in default."""

_T = TypeVar("_T", int, bool, str)


def _setting(default: _T, doc: str, unit: str = "", **known: Any) -> _T:
    """Declare one row of the table; ``known`` are the other fields of Setting."""
    return field(default=default, metadata={"doc": doc, "unit": unit, **known})


def _table(config_class: type[TopicConfig | BrokerConfig]) -> tuple[Setting, ...]:
    rows = []
    for declared in fields(config_class):
        if declared.metadata:
            known = {"name": dotted(declared.name), **declared.metadata}
            rows.append(Setting(attribute=declared.name, default=cast("Value", declared.default), **known))
    return tuple(rows)


@dataclass(frozen=True)
class TopicConfig:
    """What holds for the partitions of one topic. Raises ConfigError for a value that is not allowed."""

    cleanup_policy: str = _setting(
        "delete",
        "What becomes of old segments: deleted by age and size, or compacted to the last record of each key.",
        choices=("delete", "compact", "compact,delete"),
        broker_name="log.cleanup.policy",
    )
    compression_type: str = _setting(
        "producer",
        "Batches are stored as their producer compressed them; the broker never encodes records anew.",
        choices=("producer",),
        broker_name="compression.type",
    )
    flush: str = _setting(
        "ack",
        "When records are forced to the disk: before acks=all is answered, every flush.ms, or when the system likes.",
        choices=("ack", "interval", "os"),
        broker_name="log.flush",
    )
    flush_ms: int = _setting(
        SECOND_MS,
        "With flush=interval, the longest time that a record stays unflushed.",
        MILLISECONDS,
        at_least=1,
        at_most=INT64_MAX,
        broker_name="log.flush.interval.ms",
    )
    index_interval_bytes: int = _setting(
        4 * KIB,
        "Bytes of log between two entries of the offset index.",
        BYTES,
        at_least=1,
        at_most=INT32_MAX,
        broker_name="log.index.interval.bytes",
    )
    max_message_bytes: int = _setting(
        MIB + 12,
        "The largest batch, as it is sent, that a producer may write.",
        BYTES,
        at_least=61,
        at_most=INT32_MAX,
        broker_name="message.max.bytes",
    )
    max_decompressed_bytes: int = _setting(
        64 * MIB,
        "The most that one batch may decompress to.",
        BYTES,
        at_least=1,
        at_most=INT32_MAX,
        broker_name="message.max.decompressed.bytes",
    )
    message_timestamp_type: str = _setting(
        "CreateTime",
        "Whether a record keeps its producer's timestamp or gets the broker's when it is appended.",
        choices=("CreateTime", "LogAppendTime"),
        broker_name="log.message.timestamp.type",
    )
    message_timestamp_after_max_ms: int = _setting(
        HOUR_MS,
        "How far a record's timestamp may lie after the broker's clock.",
        MILLISECONDS,
        at_least=0,
        at_most=INT64_MAX,
        broker_name="log.message.timestamp.after.max.ms",
    )
    message_timestamp_before_max_ms: int = _setting(
        INT64_MAX,
        "How far a record's timestamp may lie before the broker's clock.",
        MILLISECONDS,
        at_least=0,
        at_most=INT64_MAX,
        broker_name="log.message.timestamp.before.max.ms",
    )
    min_insync_replicas: int = _setting(
        1,
        "How many replicas must be in sync for acks=all to be taken.",
        at_least=1,
        at_most=2**15 - 1,
        broker_name="min.insync.replicas",
    )
    retention_bytes: int = _setting(
        -1,
        "With cleanup.policy=delete, the oldest segments go when a partition is larger than this; -1: no limit.",
        BYTES,
        at_least=-1,
        at_most=INT64_MAX,
        broker_name="log.retention.bytes",
    )
    retention_ms: int = _setting(
        7 * DAY_MS,
        "With cleanup.policy=delete, segments go when their newest record is older than this; -1: never.",
        MILLISECONDS,
        at_least=-1,
        at_most=INT64_MAX,
        broker_name="log.retention.ms",
    )
    segment_bytes: int = _setting(
        GIB,
        "A new segment file begins when the active one would grow larger than this.",
        BYTES,
        at_least=61,
        at_most=INT32_MAX,
        broker_name="log.segment.bytes",
    )
    segment_ms: int = _setting(
        7 * DAY_MS,
        "A new segment file begins when the active one is older than this, so that retention can delete it.",
        MILLISECONDS,
        at_least=1,
        at_most=INT64_MAX,
        broker_name="log.roll.ms",
    )
    unclean_leader_election_enable: bool = _setting(
        default=False,
        doc="Whether a replica that is not in sync may lead when no other is left, which loses records.",
        broker_name="unclean.leader.election.enable",
    )

    def __post_init__(self) -> None:
        """Hold every value against the table."""
        for setting in TOPIC_SETTINGS:
            check(setting, setting.name, getattr(self, setting.attribute))

    @property
    def is_compacted(self) -> bool:
        """Whether each record needs a key, by which the log is compacted."""
        return "compact" in self.cleanup_policy

    @property
    def deletes_old_segments(self) -> bool:
        """Whether retention.ms and retention.bytes apply."""
        return "delete" in self.cleanup_policy


@dataclass(frozen=True)
class BrokerConfig:
    """What holds for one broker, and its defaults for topics. Raises ConfigError for a value that is not allowed."""

    node_id: int = _setting(1, "This node's number, unique in its cluster.", at_least=0, at_most=INT32_MAX)
    rack: str = _setting(
        "",
        "Replicas go to different racks where there are enough; empty: the host's name.",
        name="broker.rack",
        aliases=("rack",),
    )
    data_dir: str = _setting(
        "./zmqbroker-data", "The folder of this node's data files.", name="log.dir", aliases=("data.dir",)
    )
    listen: str = _setting(
        "tcp://127.0.0.1:9292", "Where clients and other nodes connect; port 0: any.", is_address=True
    )
    advertised_address: str = _setting(
        "", "The address that others are told to connect to; empty: the one listened on.", is_address=True
    )
    auto_create_topics_enable: bool = _setting(default=True, doc="Whether a topic is created when it is first used.")
    delete_topic_enable: bool = _setting(default=True, doc="Whether topics may be deleted.")
    num_partitions: int = _setting(
        1, "Partitions of a topic where nobody says otherwise.", at_least=1, at_most=INT32_MAX
    )
    default_replication_factor: int = _setting(
        -1,
        "Replicas of a partition where nobody says otherwise; -1: 3, or the number of nodes if that is less.",
        at_least=1,
        at_most=2**15 - 1,
        also=(-1,),
    )
    queued_max_request_bytes: int = _setting(
        64 * MIB,
        "Bytes of requests that all clients together may have waiting in this node; more are not read.",
        BYTES,
        at_least=1,
        at_most=INT64_MAX,
    )
    session_credit_bytes: int = _setting(
        16 * MIB,
        "Bytes of requests that one client may have waiting in this node.",
        BYTES,
        at_least=1,
        at_most=INT64_MAX,
    )
    socket_request_max_bytes: int = _setting(
        100 * MIB,
        "The largest request; a client that sends a larger one is disconnected.",
        BYTES,
        at_least=1,
        at_most=INT32_MAX,
    )
    fetch_max_bytes: int = _setting(
        55 * MIB, "The most that one fetch is answered with.", BYTES, at_least=1, at_most=INT32_MAX
    )
    max_fetch_wait_ms: int = _setting(
        MINUTE_MS, "The longest that a fetch may wait for records.", MILLISECONDS, at_least=0, at_most=INT32_MAX
    )
    connections_max_idle_ms: int = _setting(
        10 * MINUTE_MS,
        "A connection without requests for this long is closed.",
        MILLISECONDS,
        at_least=1,
        at_most=INT64_MAX,
    )
    log_retention_check_interval_ms: int = _setting(
        5 * MINUTE_MS, "How often old segments are looked for.", MILLISECONDS, at_least=1, at_most=INT64_MAX
    )
    log_flush_offset_checkpoint_interval_ms: int = _setting(
        5 * SECOND_MS, "How often the recovery points are written down.", MILLISECONDS, at_least=1, at_most=INT32_MAX
    )
    producer_id_expiration_ms: int = _setting(
        DAY_MS,
        "How long the last sequence numbers of a silent producer are kept.",
        MILLISECONDS,
        at_least=1,
        at_most=INT32_MAX,
    )
    num_flush_threads: int = _setting(2, "Threads that force files to the disk.", at_least=1, at_most=1024)
    handshake_ivl_ms: int = _setting(
        5 * SECOND_MS,
        "A connection whose handshake takes longer is closed.",
        MILLISECONDS,
        at_least=1,
        at_most=INT32_MAX,
    )
    heartbeat_ivl_ms: int = _setting(
        5 * SECOND_MS,
        "Silence after which a connection is probed, by a heartbeat of the transport; 0: never.",
        MILLISECONDS,
        at_least=0,
        at_most=INT32_MAX,
    )
    quota_producer_default: int = _setting(
        0, "Bytes a second that one client may produce; 0: no limit.", BYTES_PER_SECOND, at_least=0, at_most=INT64_MAX
    )
    quota_consumer_default: int = _setting(
        0, "Bytes a second that one client may fetch; 0: no limit.", BYTES_PER_SECOND, at_least=0, at_most=INT64_MAX
    )
    log_level: str = _setting(
        "INFO", "The least important log lines that are written.", choices=("DEBUG", "INFO", "WARNING", "ERROR")
    )
    graceful_shutdown_timeout_ms: int = _setting(
        10 * SECOND_MS,
        "How long a stopping node may take to finish what it was asked.",
        MILLISECONDS,
        at_least=0,
        at_most=INT32_MAX,
    )
    topic_defaults: TopicConfig = field(default_factory=TopicConfig)
    """The broker-wide default of each topic setting."""
    explicit: frozenset[str] = frozenset()
    """Names of what a file or the command line gave, even where that is the built-in default."""

    def __post_init__(self) -> None:
        """Hold every value against the table."""
        for setting in BROKER_SETTINGS:
            check(setting, setting.name, getattr(self, setting.attribute))

    def topic_config(self, overrides: Mapping[str, Value]) -> TopicConfig:
        """Build the settings of a topic with these overrides, by name. Raises ConfigError."""
        given: dict[str, Any] = {}
        for name, value in overrides.items():
            setting = topic_setting(name)
            given[setting.attribute] = parse(setting, name, value)
        return replace(self.topic_defaults, **given)


class Entry(NamedTuple):
    """A setting as a describe request shows it."""

    setting: Setting
    value: Value
    source: Source


def topic_setting(name: str) -> Setting:
    """Find the topic setting of this name. Raises ConfigError with the nearest known name."""
    setting = _TOPIC_BY_NAME.get(dotted(name))
    if setting is None:
        raise _unknown(name, _TOPIC_BY_NAME, kind="topic")
    return setting


def broker_setting(name: str) -> Setting:
    """Find the broker setting of this name, which may be the default of a topic's. Raises ConfigError."""
    setting = _BROKER_BY_NAME.get(dotted(name)) or _DEFAULT_BY_NAME.get(dotted(name))
    if setting is None:
        of_topic = _TOPIC_BY_NAME.get(dotted(name))
        if of_topic is not None:
            message = f"{name} is a setting of topics; a broker's default for it is {of_topic.broker_name}"
            raise ConfigError(message)
        raise _unknown(name, [*_BROKER_BY_NAME, *_DEFAULT_BY_NAME], kind="broker")
    return setting


def parse_setting(name: str, value: Value) -> Value:
    """Read and check a value of a setting of a broker or a topic, from text or from TOML. Raises ConfigError."""
    setting = _TOPIC_BY_NAME.get(dotted(name)) or broker_setting(name)
    return parse(setting, name, value)


def normalised_overrides(overrides: Mapping[str, Value]) -> dict[str, str]:
    """Give a topic's overrides Kafka's names and plain numbers, as they are stored. Raises ConfigError."""
    normal = {}
    for name, value in overrides.items():
        setting = topic_setting(name)
        normal[setting.name] = value_text(parse(setting, name, value))
    return normal


def broker_config(values: Mapping[str, Value]) -> BrokerConfig:
    """Build the settings of a broker from names and values. Raises ConfigError."""
    own: dict[str, Any] = {}
    of_topics: dict[str, Any] = {}
    explicit = set()
    for name, value in values.items():
        setting = broker_setting(name)
        target = of_topics if setting.broker_name else own
        target[setting.attribute] = parse(setting, name, value)
        explicit.add(setting.broker_name or setting.name)
    return BrokerConfig(**own, topic_defaults=TopicConfig(**of_topics), explicit=frozenset(explicit))


def load_broker_config(file: str | None, pairs: Sequence[str]) -> BrokerConfig:
    """Read the settings of a broker from a TOML file, if there is one, and KEY=VALUE pairs, which win.

    TOML's own rule forbids both ``log.flush`` and ``log.flush.interval.ms`` as bare keys of one file: write one of them
    in quotes or with underscores. Raises ConfigError; a file that cannot be read is one too.
    """
    values = {} if file is None else _read_toml(file)
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            message = f"{pair!r} is no setting; write NAME=VALUE, for example log.segment.bytes=64MiB"
            raise ConfigError(message)
        setting = broker_setting(name)
        values[setting.broker_name or setting.name] = value.strip()
    return broker_config(values)


def broker_entries(config: BrokerConfig) -> Iterator[Entry]:
    """Yield every setting of a broker, the defaults of topics under the broker's names among them."""
    for owner, settings in ((config, BROKER_SETTINGS), (config.topic_defaults, TOPIC_SETTINGS)):
        for setting in settings:
            value = getattr(owner, setting.attribute)
            name = setting.broker_name or setting.name
            is_set = name in config.explicit or value != setting.default
            yield Entry(setting._replace(name=name), value, "broker" if is_set else "default")


def topic_entries(config: BrokerConfig, overrides: Mapping[str, Value]) -> Iterator[Entry]:
    """Yield every setting of a topic with its value and source. Raises ConfigError for a bad override."""
    topic = config.topic_config(overrides)
    overridden = {topic_setting(name).name for name in overrides}
    for setting in TOPIC_SETTINGS:
        value = getattr(topic, setting.attribute)
        source: Source = "default"
        if setting.name in overridden:
            source = "topic"
        elif setting.broker_name in config.explicit or value != setting.default:
            source = "broker"
        yield Entry(setting, value, source)


def settings_markdown() -> str:
    """Write the table as Markdown, for docs/settings.md."""
    head = "| Name | Default | Unit | Allowed | Meaning |\n|---|---|---|---|---|\n"
    broker = "".join(_markdown_row(setting, setting.name) for setting in BROKER_SETTINGS)
    head_topic = "| Name | Broker's default | Default | Unit | Allowed | Meaning |\n|---|---|---|---|---|---|\n"
    topic = "".join(_markdown_row(setting, setting.name, setting.broker_name) for setting in TOPIC_SETTINGS)
    return (
        "# Settings\n\n"
        "Underscores are accepted for dots. Sizes take the units B, kB, MB, GB, TB, KiB, MiB, GiB and TiB, times take "
        "ms, s, m, h, d and w; a plain number is in the unit of the table.\n\n"
        f"## Broker\n\n{head}{broker}\n"
        "## Topic\n\nEach has a default of the broker, under the second name.\n\n"
        f"{head_topic}{topic}"
    )


def _markdown_row(setting: Setting, *names: str) -> str:
    default = value_text(setting.default)
    cells = [f"`{name}`" for name in names]
    cells += [f"`{default}`" if default else "empty", setting.unit, setting.allowed, setting.doc]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _unknown(name: str, known: Iterable[str], *, kind: str) -> ConfigError:
    from difflib import get_close_matches  # noqa: PLC0415 - only needed once something is wrong; start-up does without

    near = get_close_matches(dotted(name).lower(), list(known), n=1, cutoff=0.0)
    return ConfigError(f"there is no {kind} setting {name!r}; the nearest known one is {near[0]}")


def _read_toml(file: str) -> dict[str, Value]:
    """Read the values of a file by canonical name; nested tables are joined with dots."""
    import tomllib  # noqa: PLC0415 - 5 ms that a start without a file need not spend

    try:
        with open(file, "rb") as source:  # noqa: PTH123 - pathlib would be an import more for one call
            tree = tomllib.load(source)
    except OSError as error:
        message = f"the settings file {file} cannot be read: {error.strerror}"
        raise ConfigError(message) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f"the settings file {file} is not valid TOML: {error}"
        raise ConfigError(message) from error
    values: dict[str, Value] = {}
    for name, value in _flattened(tree, ""):
        setting = broker_setting(name)
        canonical = setting.broker_name or setting.name
        if canonical in values:
            message = f"the settings file {file} sets {canonical} twice"
            raise ConfigError(message)
        values[canonical] = value
    return values


def _flattened(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


TOPIC_SETTINGS = _table(TopicConfig)
BROKER_SETTINGS = _table(BrokerConfig)
_TOPIC_BY_NAME = {setting.name: setting for setting in TOPIC_SETTINGS}
_DEFAULT_BY_NAME = {setting.broker_name: setting for setting in TOPIC_SETTINGS}
_BROKER_BY_NAME = {name: setting for setting in BROKER_SETTINGS for name in (setting.name, *setting.aliases)}
