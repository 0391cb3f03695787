"""The keywords that make a producer, for type checkers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class ProducerSettings(TypedDict, total=False):
    """The keywords of a producer; `client.options.ProducerOptions` says what they mean."""

    bootstrap_servers: str | Sequence[str]
    client_id: str
    key_serializer: Callable[[Any], bytes | None] | None
    value_serializer: Callable[[Any], bytes | None] | None
    acks: int | str
    retries: int
    batch_size: int
    linger_ms: float
    buffer_memory: int
    max_block_ms: int
    compression_type: str | None
    delivery_timeout_ms: int
    request_timeout_ms: int
    connect_timeout_ms: int
    retry_backoff_ms: int
    retry_backoff_max_ms: int
    reconnect_backoff_ms: int
    reconnect_backoff_max_ms: int
    max_in_flight_requests_per_connection: int
    max_request_size: int
    enable_idempotence: bool
    transactional_id: str | None
    transaction_timeout_ms: int
    partitioner: Callable[[bytes | None, list[int], list[int]], int] | None
    metadata_max_age_ms: int
