"""Every setting of brokers, topics and share groups: looked up, read, described and documented.

The table is the frozen dataclasses themselves: each field carries what is known of it, and parsing, checking,
describing and documenting all read that. Names on the wire and in files are Kafka's, with dots, where Kafka has one;
underscores are accepted for dots. A setting that a topic may override stands in ``TopicConfig``, and the broker-wide
default of it is a setting of the broker under Kafka's name for that (``segment.bytes`` and ``log.segment.bytes``).

Values may have units: ``64MiB``, ``1GB``, ``500ms``, ``7d``; a plain number is in the setting's own unit. An unknown
name or a value that is not allowed is a ConfigError that names the setting, the value and the limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from .broker_config import BROKER_SETTINGS, BrokerConfig
from .errors import ConfigError
from .group_config import GROUP_SETTINGS, GroupConfig, group_setting
from .setting_values import Setting, Value, dotted, parse, unknown_setting, value_text
from .topic_config import TOPIC_SETTINGS, TopicConfig, topic_setting

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

__all__ = [
    "BROKER_SETTINGS",
    "CLUSTER_SETTINGS",
    "GROUP_SETTINGS",
    "TOPIC_SETTINGS",
    "BrokerConfig",
    "Entry",
    "GroupConfig",
    "Source",
    "TopicConfig",
    "broker_config",
    "broker_entries",
    "broker_setting",
    "cluster_entries",
    "cluster_setting",
    "group_entries",
    "group_setting",
    "load_broker_config",
    "normalised_overrides",
    "parse_setting",
    "settings_markdown",
    "topic_entries",
    "topic_setting",
]

Source = Literal["topic", "group", "cluster", "broker", "default"]
"""Where a value comes from: the topic's or group's own override, what was set for all nodes, the broker's file or
command line, or the built-in default."""


class Entry(NamedTuple):
    """A setting as a describe request shows it."""

    setting: Setting
    value: Value
    source: Source


def broker_setting(name: str) -> Setting:
    """Find the broker setting of this name, which may be the default of a topic's. Raises ConfigError."""
    setting = _BROKER_BY_NAME.get(dotted(name)) or _DEFAULT_BY_NAME.get(dotted(name))
    if setting is None:
        of_topic = _TOPIC_BY_NAME.get(dotted(name))
        if of_topic is not None:
            message = f"{name} is a setting of topics; a broker's default for it is {of_topic.broker_name}"
            raise ConfigError(message)
        raise unknown_setting(name, [*_BROKER_BY_NAME, *_DEFAULT_BY_NAME], kind="broker")
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
    of_groups: dict[str, Any] = {}
    explicit = set()
    for name, value in values.items():
        setting = broker_setting(name)
        target = own
        if setting.broker_name:
            target = of_groups if setting.broker_name in _OF_GROUPS else of_topics
        target[setting.attribute] = parse(setting, name, value)
        explicit.add(setting.broker_name or setting.name)
    return BrokerConfig(
        **own,
        topic_defaults=TopicConfig(**of_topics),
        group_defaults=GroupConfig(**of_groups),
        explicit=frozenset(explicit),
    )


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


CLUSTER_SETTINGS: Final = ("replication.throttled.rate",)
"""The broker's settings that can be changed while the nodes run, for all of them at once."""


def cluster_setting(name: str) -> Setting:
    """Find a broker's setting that can be changed while it runs. Raises ConfigError."""
    setting = broker_setting(name)
    if setting.name not in CLUSTER_SETTINGS:
        message = (
            f"{setting.name} is read when a node starts; of the brokers' settings only {', '.join(CLUSTER_SETTINGS)}"
            " can be changed while they run"
        )
        raise ConfigError(message)
    return setting


def cluster_entries(config: BrokerConfig, overrides: Mapping[str, Value]) -> Iterator[Entry]:
    """Yield the settings that can be changed for all nodes at once."""
    for entry in broker_entries(config):
        if entry.setting.name in overrides:
            value = parse(entry.setting, entry.setting.name, overrides[entry.setting.name])
            yield Entry(entry.setting, value, "cluster")
        elif entry.setting.name in CLUSTER_SETTINGS:
            yield entry


def broker_entries(config: BrokerConfig) -> Iterator[Entry]:
    """Yield every setting of a broker, the defaults of topics under the broker's names among them."""
    tables = (
        (config, BROKER_SETTINGS),
        (config.topic_defaults, TOPIC_SETTINGS),
        (config.group_defaults, tuple(setting for setting in GROUP_SETTINGS if setting.broker_name)),
    )
    for owner, settings in tables:
        for setting in settings:
            value = getattr(owner, setting.attribute)
            name = setting.broker_name or setting.name
            is_set = name in config.explicit or value != setting.default
            yield Entry(setting._replace(name=name), value, "broker" if is_set else "default")


def topic_entries(
    config: BrokerConfig, overrides: Mapping[str, Value], unchanged: Collection[str] = ()
) -> Iterator[Entry]:
    """Yield every setting of a topic with its value and source. Raises ConfigError for a bad override.

    unchanged: overrides that nobody has asked for; their source is that of the default.
    """
    topic = config.topic_config(overrides)
    overridden = {topic_setting(name).name for name in overrides if name not in unchanged}
    for setting in TOPIC_SETTINGS:
        value = getattr(topic, setting.attribute)
        source: Source = "default"
        if setting.name in overridden:
            source = "topic"
        elif setting.broker_name in config.explicit or value != setting.default:
            source = "broker"
        yield Entry(setting, value, source)


def group_entries(defaults: GroupConfig, overrides: Mapping[str, Value]) -> Iterator[Entry]:
    """Yield every setting of a share group with its value and source. Raises ConfigError for a bad override."""
    group = defaults.with_overrides(overrides)
    overridden = {group_setting(name).name for name in overrides}
    for setting in GROUP_SETTINGS:
        value = getattr(group, setting.attribute)
        source: Source = "default"
        if setting.name in overridden:
            source = "group"
        elif getattr(defaults, setting.attribute) != setting.default:
            source = "broker"
        yield Entry(setting, value, source)


def settings_markdown() -> str:
    """Write the table as Markdown, for docs/settings.md."""
    head = "| Name | Default | Unit | Allowed | Meaning |\n|---|---|---|---|---|\n"
    broker = "".join(_markdown_row(setting, setting.name) for setting in BROKER_SETTINGS)
    head_topic = "| Name | Broker's default | Default | Unit | Allowed | Meaning |\n|---|---|---|---|---|---|\n"
    topic = "".join(_markdown_row(setting, setting.name, setting.broker_name) for setting in TOPIC_SETTINGS)
    group = "".join(_markdown_row(setting, setting.name, setting.broker_name) for setting in GROUP_SETTINGS)
    return (
        "# Settings\n\n"
        "Underscores are accepted for dots. Sizes take the units B, kB, MB, GB, TB, KiB, MiB, GiB and TiB, times take "
        "ms, s, m, h, d and w; a plain number is in the unit of the table.\n\n"
        f"## Broker\n\n{head}{broker}\n"
        "## Topic\n\nEach has a default of the broker, under the second name.\n\n"
        f"{head_topic}{topic}\n"
        "## Share group (queue)\n\nEach has a default of the broker, under the second name, if there is one.\n\n"
        f"{head_topic}{group}"
    )


def _markdown_row(setting: Setting, *names: str) -> str:
    default = value_text(setting.default)
    cells = [f"`{name}`" for name in names]
    cells += [f"`{default}`" if default else "empty", setting.unit, setting.allowed, setting.doc]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


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


_TOPIC_BY_NAME = {setting.name: setting for setting in TOPIC_SETTINGS}
_DEFAULT_BY_NAME = {
    setting.broker_name: setting for setting in (*TOPIC_SETTINGS, *GROUP_SETTINGS) if setting.broker_name
}
_OF_GROUPS = {setting.broker_name for setting in GROUP_SETTINGS}
_BROKER_BY_NAME = {name: setting for setting in BROKER_SETTINGS for name in (setting.name, *setting.aliases)}
