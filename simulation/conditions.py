"""How fast and how patient a simulated network is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class NetworkConditions:
    """How the network of a run is; times in ms; may be changed at any time."""

    latency_ms: float = 0.2
    """The least that a message takes."""
    jitter_ms: float = 0.3
    """What it takes more, on average."""
    slow_share: float = 0.0
    slow_ms: float = 100.0
    """Some messages take up to this much more, and those behind them on the same connection with them."""
    heartbeat_timeout_ms: float = 1_000.0
    connect_timeout_ms: float = 500.0
    queue_messages: int = 100
    """What a direction of a connection holds, unread messages of the receiver included."""
