"""The asyncio twins: AsyncProducer, AsyncConsumer, AsyncShareConsumer and AsyncAdmin."""

from __future__ import annotations

from .aio_admin import AsyncAdmin
from .aio_consumer import AsyncConsumer
from .aio_producer import AsyncProducer
from .aio_share_consumer import AsyncShareConsumer

__all__ = ["AsyncAdmin", "AsyncConsumer", "AsyncProducer", "AsyncShareConsumer"]
