"""The asyncio twins: AsyncProducer, AsyncConsumer and AsyncAdmin."""

from __future__ import annotations

from .aio_admin import AsyncAdmin
from .aio_consumer import AsyncConsumer
from .aio_producer import AsyncProducer

__all__ = ["AsyncAdmin", "AsyncConsumer", "AsyncProducer"]
