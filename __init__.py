"""zmqbroker: a message broker with Kafka's semantics that installs with pip alone.

The names below are loaded when they are first used: `import zmqbroker` costs next to nothing, and the broker's own
processes never load the client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import VERSION

if TYPE_CHECKING:
    from . import errors
    from .client.admin import Admin, NewTopic
    from .client.aio import AsyncAdmin, AsyncConsumer, AsyncProducer, AsyncShareConsumer
    from .client.consumer import Consumer
    from .client.producer import Producer
    from .client.rebalance_listener import ConsumerGroupMetadata, ConsumerRebalanceListener
    from .client.share_consumer import ShareConsumer
    from .client.share_types import AcknowledgeKind, ShareRecord
    from .client.types import ConsumerRecord, RecordMetadata, TopicPartition

__version__ = VERSION

__all__ = [
    "AcknowledgeKind",
    "Admin",
    "AsyncAdmin",
    "AsyncConsumer",
    "AsyncProducer",
    "AsyncShareConsumer",
    "Consumer",
    "ConsumerGroupMetadata",
    "ConsumerRebalanceListener",
    "ConsumerRecord",
    "NewTopic",
    "Producer",
    "RecordMetadata",
    "ShareConsumer",
    "ShareRecord",
    "TopicPartition",
    "__version__",
    "errors",
]

_HOMES = {
    "AcknowledgeKind": ".client.share_types",
    "Admin": ".client.admin",
    "AsyncAdmin": ".client.aio",
    "AsyncConsumer": ".client.aio",
    "AsyncProducer": ".client.aio",
    "AsyncShareConsumer": ".client.aio",
    "Consumer": ".client.consumer",
    "ConsumerGroupMetadata": ".client.rebalance_listener",
    "ConsumerRebalanceListener": ".client.rebalance_listener",
    "ConsumerRecord": ".client.types",
    "NewTopic": ".client.admin",
    "Producer": ".client.producer",
    "RecordMetadata": ".client.types",
    "ShareConsumer": ".client.share_consumer",
    "ShareRecord": ".client.share_types",
    "TopicPartition": ".client.types",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module(".errors", __name__)
    home = _HOMES.get(name)
    if home is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(import_module(home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
