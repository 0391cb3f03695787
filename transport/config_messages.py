"""The messages about settings: of topics, brokers and clients. Part of the catalogue in messages.py."""

from __future__ import annotations

from msgspec import field

from .message_base import Body, Count, Int16, Name, Request

TOPIC_RESOURCE = 2
BROKER_RESOURCE = 4
GROUP_RESOURCE = 32
"""A share group, by its id."""
CLIENT_RESOURCE = 256
"""Quotas of one client id; the name "" stands for every client without quotas of its own."""


class Resource(Body):
    """What has settings: a topic by name, a broker by its id as text or all by "", a client by its client id."""

    type: Int16
    name: Name


class ConfigValue(Body):
    """A setting, its value as text, and where it comes from: "topic", "group", "cluster", "broker", "client" or
    "default".
    """

    name: str
    value: str
    source: str
    doc: str


class ResourceConfigs(Body):
    """The settings of one resource."""

    type: int
    name: str
    error_code: int = 0
    error_message: str | None = None
    configs: list[ConfigValue] = field(default_factory=list)


class DescribeConfigsReply(Body):
    """One entry for each resource of the request."""

    resources: list[ResourceConfigs]


class DescribeConfigsRequest(Request):
    """Read settings."""

    API = 32
    REPLY = DescribeConfigsReply

    resources: list[Resource]


class ResourceChange(Body):
    """Settings to change; a value of nil goes back to the default."""

    type: Int16
    name: Name
    configs: list[tuple[Name, str | None]]


class ResourceResult(Body):
    """What became of one resource's changes."""

    type: int
    name: str
    error_code: int = 0
    error_message: str | None = None


class AlterConfigsReply(Body):
    """One entry for each resource of the request."""

    resources: list[ResourceResult]


class AlterConfigsRequest(Request):
    """Change settings of topics or clients, leaving the others as they are (KIP-339)."""

    API = 44
    REPLY = AlterConfigsReply

    resources: list[ResourceChange]
    validate_only: bool = False
    timeout_ms: Count = 30_000
