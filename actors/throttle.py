"""Throttle: what one client has to wait after it moved bytes, by the quotas that hold for it now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..transport.config_messages import CLIENT_RESOURCE

if TYPE_CHECKING:
    from ..quorum.image import MetadataImage
    from .calls import Call
    from .context import NodeContext
    from .quotas import Direction


class Throttle:
    """The quotas of one client, looked up again whenever the metadata have changed."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._client_id = ""
        self._rates: dict[Direction, int] = {}
        self._rates_from: MetadataImage | None = None

    def rename(self, client_id: str) -> None:
        """The client has said who it is."""
        if client_id != self._client_id:
            self.forget()
        self._client_id = client_id
        self._rates_from = None

    def charge(self, call: Call, sent_bytes: int) -> int:
        """Charge what a call has moved to the client's quota: ms for which the client shall not be heard."""
        if call.quota is None:
            return 0
        rate = self._rate(call.quota)
        if rate == 0:
            return 0
        context = self._context
        moved = call.size if call.quota == "produce" else sent_bytes
        wait_ms = context.quotas.charge(self._client_id, call.quota, moved, rate, context.clock.monotonic_ms())
        if wait_ms > 0:
            context.counters["requests-throttled"] += 1
        return wait_ms

    def forget(self) -> None:
        """The client has gone."""
        self._context.quotas.forget(self._client_id, self._context.clock.monotonic_ms())

    def _rate(self, direction: Direction) -> int:
        """The client's own rate in bytes a second, else that of every client, else the broker's setting; 0: none."""
        if self._rates_from is not self._context.image:
            self._rates_from = self._context.image
            self._rates.clear()
        rate = self._rates.get(direction)
        if rate is None:
            rate = self._rates[direction] = self._look_up(direction)
        return rate

    def _look_up(self, direction: Direction) -> int:
        config = self._context.config
        key, default = (
            ("producer_byte_rate", config.quota_producer_default)
            if direction == "produce"
            else ("consumer_byte_rate", config.quota_consumer_default)
        )
        for name in (self._client_id, ""):
            rate = self._context.image.config_of(CLIENT_RESOURCE, name).get(key)
            if rate is not None:
                return int(rate)
        return default
