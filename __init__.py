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
    from .client.aio import AsyncAdmin, AsyncConsumer, AsyncProducer
    from .client.consumer import Consumer
    from .client.producer import Producer
    from .client.types import ConsumerRecord, RecordMetadata, TopicPartition

__version__ = VERSION

__all__ = [
    "Admin",
    "AsyncAdmin",
    "AsyncConsumer",
    "AsyncProducer",
    "Consumer",
    "ConsumerRecord",
    "NewTopic",
    "Producer",
    "RecordMetadata",
    "TopicPartition",
    "__version__",
    "errors",
]

_HOMES = {
    "Admin": ".client.admin",
    "AsyncAdmin": ".client.aio",
    "AsyncConsumer": ".client.aio",
    "AsyncProducer": ".client.aio",
    "Consumer": ".client.consumer",
    "ConsumerRecord": ".client.types",
    "NewTopic": ".client.admin",
    "Producer": ".client.producer",
    "RecordMetadata": ".client.types",
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
