"""The settings of a share group (a queue): one typed row each, with name, default, unit, bounds and meaning."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from .setting_values import (
    DAY_MS,
    MILLISECONDS,
    MINUTE_MS,
    SECOND_MS,
    Setting,
    check,
    dotted,
    parse,
    setting_row,
    settings_table,
    unknown_setting,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .setting_values import Value

NO_DEAD_LETTER_TOPIC = "none"
"""As the name of the dead-letter topic: records that are given up are dropped, on purpose."""

_NO_TOPIC_CHARACTER = re.compile(r"[^a-zA-Z0-9._-]")
_ID_MAX = 245
"""Letters of a group id that a topic name of 249 has room for."""


@dataclass(frozen=True)
class GroupConfig:
    """What holds for one share group. Raises ConfigError for a value that is not allowed."""

    share_record_lock_duration_ms: int = setting_row(
        30 * SECOND_MS,
        "The lease: how long a consumer may hold a record before it is delivered again.",
        MILLISECONDS,
        at_least=100,
        at_most=DAY_MS,
        broker_name="group.share.record.lock.duration.ms",
    )
    share_delivery_count_limit: int = setting_row(
        5,
        "How often a record is delivered before it is given up and goes to the dead-letter topic.",
        at_least=1,
        at_most=1000,
        broker_name="group.share.delivery.count.limit",
    )
    share_partition_max_record_locks: int = setting_row(
        10_000,
        "How many records of one partition may be leased to the group's consumers at a time.",
        at_least=1,
        at_most=1_000_000,
        broker_name="group.share.partition.max.record.locks",
    )
    share_retry_backoff_ms: int = setting_row(
        SECOND_MS,
        "How long a released record waits before it is delivered again; doubled with each delivery. 0: not at all.",
        MILLISECONDS,
        at_least=0,
        at_most=DAY_MS,
        broker_name="group.share.retry.backoff.ms",
    )
    share_retry_backoff_max_ms: int = setting_row(
        MINUTE_MS,
        "The longest that a released record waits, however often it was delivered.",
        MILLISECONDS,
        at_least=0,
        at_most=DAY_MS,
        broker_name="group.share.retry.backoff.max.ms",
    )
    share_auto_offset_reset: str = setting_row(
        "earliest",
        "Where a new group begins in a topic: with all records that are there, or with those that come.",
        choices=("earliest", "latest"),
        broker_name="group.share.auto.offset.reset",
    )
    errors_deadletterqueue_topic_name: str = setting_row(
        "",
        "Where records go that are given up; empty: dlq.GROUP, made when it is first needed; none: they are dropped.",
    )

    def __post_init__(self) -> None:
        """Hold every value against the table."""
        for setting in GROUP_SETTINGS:
            check(setting, setting.name, getattr(self, setting.attribute))

    def with_overrides(self, overrides: Mapping[str, Value]) -> GroupConfig:
        """These settings but for some, by name. Raises ConfigError."""
        given: dict[str, Any] = {}
        for name, value in overrides.items():
            setting = group_setting(name)
            given[setting.attribute] = parse(setting, name, value)
        return replace(self, **given) if given else self

    def dead_letter_topic(self, group: str) -> str | None:
        """The name of the group's dead-letter topic; None: it has none."""
        name = self.errors_deadletterqueue_topic_name
        return None if name == NO_DEAD_LETTER_TOPIC else name or _default_dead_letter_topic(group)


def _default_dead_letter_topic(group: str) -> str:
    """``dlq.GROUP``; a group id takes what a topic name does not, and then a hash keeps two ids apart."""
    plain = _NO_TOPIC_CHARACTER.sub("_", group)
    if plain == group and len(group) <= _ID_MAX:
        return f"dlq.{group}"
    digest = blake2b(group.encode(errors="surrogatepass"), digest_size=4).hexdigest()
    return f"dlq.{plain[: _ID_MAX - 1 - len(digest)]}-{digest}"


def group_setting(name: str) -> Setting:
    """Find the share group's setting of this name. Raises ConfigError with the nearest known name."""
    setting = _BY_NAME.get(dotted(name))
    if setting is None:
        raise unknown_setting(name, _BY_NAME, kind="group")
    return setting


GROUP_SETTINGS = settings_table(GroupConfig)
_BY_NAME = {setting.name: setting for setting in GROUP_SETTINGS}
