"""The way to the Kafka listener for whoever starts nodes; it imports nothing before a node asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..setting_values import NO_ADDRESS

if TYPE_CHECKING:
    from ..actors.context import NodeContext
    from ..transport.listener import IoPoller
    from .service import KafkaGateway


def open_gateway(context: NodeContext, poller: IoPoller) -> KafkaGateway | None:
    """The node's Kafka listener; None if the settings want none. Raises ListenError."""
    if context.config.kafka_listen == NO_ADDRESS:
        return None
    from .service import KafkaGateway  # noqa: PLC0415 - the supervisor names this function, and needs no sockets

    return KafkaGateway(context, poller)
