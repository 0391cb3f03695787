"""Settings: described and changed under Kafka's names, which are ours as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..errors import InvalidConfigError
from ..transport import config_messages as c
from .shapes import code_and_text, error_of, failed

if TYPE_CHECKING:
    from .exchange import Exchange, Outcome

_SOURCES: Final = {"topic": 1, "cluster": 3, "broker": 4, "default": 5, "client": 0, "group": 8}
"""Kafka's ConfigSource by ours."""
_SET, _DELETE, _APPEND, _SUBTRACT = range(4)


def describe_configs(exchange: Exchange) -> None:
    """Read settings."""
    request = exchange.request
    resources = [c.Resource(entry.resource_type, entry.resource_name) for entry in request.resources]
    wanted = [entry.configuration_keys for entry in request.resources]

    def described(outcome: Outcome) -> None:
        if outcome.body is None:
            results = [
                {"resource_type": entry.type, "resource_name": entry.name, "configs": [], **error_of(outcome)}
                for entry in resources
            ]
        else:
            results = [
                _described(entry, keys, with_doc=request.include_documentation, with_synonyms=request.include_synonyms)
                for entry, keys in zip(outcome.body.resources, wanted, strict=True)
            ]
        exchange.reply({"results": results})

    exchange.ask(c.DescribeConfigsRequest(resources), described)


def _described(
    entry: c.ResourceConfigs, keys: list[str] | None, *, with_doc: bool, with_synonyms: bool
) -> dict[str, Any]:
    configs = []
    for config in entry.configs:
        if keys and config.name not in keys:
            continue
        source = _SOURCES[config.source]
        synonym = {"name": config.name, "value": config.value, "source": source}
        configs.append(
            {
                "name": config.name,
                "value": config.value,
                "read_only": config.source == "broker",
                "config_source": source,
                "synonyms": [synonym] if with_synonyms else [],
                "documentation": config.doc if with_doc else None,
            }
        )
    return {
        **code_and_text(entry),
        "resource_type": entry.type,
        "resource_name": entry.name,
        "configs": configs,
    }


def incremental_alter_configs(exchange: Exchange) -> None:
    """Change some settings and leave the others as they are (KIP-339)."""
    request = exchange.request
    resources = [c.Resource(entry.resource_type, entry.resource_name) for entry in request.resources]
    lists = any(config.config_operation > _DELETE for entry in request.resources for config in entry.configs)

    def change(outcome: Outcome | None) -> None:
        now: list[dict[str, str]] = [{} for _ in resources]
        if outcome is not None and outcome.body is not None:
            now = [{config.name: config.value for config in entry.configs} for entry in outcome.body.resources]
        changes, refused = [], []
        for entry, values in zip(request.resources, now, strict=True):
            name = {"resource_type": entry.resource_type, "resource_name": entry.resource_name}
            try:
                configs = [(config.name, _value(config, values)) for config in entry.configs]
            except InvalidConfigError as error:
                refused.append({**name, **failed(error)})
                continue
            changes.append(c.ResourceChange(entry.resource_type, entry.resource_name, configs))
        _alter(exchange, changes, refused)

    if lists:
        exchange.ask(c.DescribeConfigsRequest(resources), change)
    else:
        change(None)


def _value(config: Any, values: dict[str, str]) -> str | None:
    if config.config_operation == _SET:
        value: str | None = config.value
        return value
    if config.config_operation == _DELETE:
        return None
    if config.config_operation not in (_APPEND, _SUBTRACT):
        message = f"{config.name}: {config.config_operation} is no operation; 0 sets, 1 deletes, 2 appends, 3 subtracts"
        raise InvalidConfigError(message)
    parts = [part for part in values.get(config.name, "").split(",") if part]
    changed = [part.strip() for part in (config.value or "").split(",")]
    kept = [part for part in parts if part not in changed]
    return ",".join(kept + changed if config.config_operation == _APPEND else kept)


def alter_configs(exchange: Exchange) -> None:
    """Replace all settings of resources: what is not named goes back to its default."""
    request = exchange.request
    changes = []
    for entry in request.resources:
        known = exchange.context.image.config_of(entry.resource_type, entry.resource_name)
        wanted: dict[str, str | None] = dict.fromkeys(known)
        wanted.update((config.name, config.value) for config in entry.configs)
        changes.append(c.ResourceChange(entry.resource_type, entry.resource_name, list(wanted.items())))
    _alter(exchange, changes, [])


def _alter(exchange: Exchange, changes: list[c.ResourceChange], refused: list[dict[str, Any]]) -> None:
    def altered(outcome: Outcome) -> None:
        if outcome.body is None:
            responses = [
                {"resource_type": entry.type, "resource_name": entry.name, **error_of(outcome)} for entry in changes
            ]
        else:
            responses = [
                {"resource_type": entry.type, "resource_name": entry.name, **code_and_text(entry)}
                for entry in outcome.body.resources
            ]
        exchange.reply({"responses": responses + refused})

    exchange.ask(c.AlterConfigsRequest(changes, exchange.request.validate_only), altered)
