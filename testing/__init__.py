"""Brokers for tests: `Broker` inside of this process, `BrokerProcess` in processes of its own that a test may kill,
`LocalCluster` of several of these.

Loaded when first used, because pytest imports this folder for its plugin at every start, also of those who do not test
with a broker.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cluster import LocalCluster
    from .embedded import Broker
    from .process import BrokerProcess

__all__ = ["Broker", "BrokerProcess", "LocalCluster"]

_HOMES = {"Broker": ".embedded", "BrokerProcess": ".process", "LocalCluster": ".cluster"}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(import_module(home, __name__), name)
    globals()[name] = value
    return value
