"""The pytest plugin: brokers as fixtures.

``zmqbroker_server``          one broker for the whole test session: fast, shared, so use topics of your own
``zmqbroker_topic``           a topic name that no other test has
``zmqbroker_server_factory``  brokers for one test alone, with settings: ``zmqbroker_server_factory(num_partitions=3)``

Imports nothing of the broker before a test asks for one, since pytest loads every installed plugin at every start.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..setting_values import Value
    from .embedded import Broker

_numbers = count()


class BrokerFactory(Protocol):
    """Starts a broker; it is closed when the test ends."""

    def __call__(self, *, data_dir: str | None = None, listen: str = "tcp://127.0.0.1:0", **settings: Value) -> Broker:
        """Start a broker with these settings, named with underscores for dots."""
        ...


@pytest.fixture(scope="session")
def zmqbroker_server() -> Iterator[Broker]:
    """One embedded broker for the whole session."""
    from .embedded import Broker  # noqa: PLC0415 - only who asks for a broker pays for its imports

    with Broker() as broker:
        yield broker


@pytest.fixture
def zmqbroker_topic(request: pytest.FixtureRequest) -> str:
    """Name a topic after the test, so that it can be told apart from every other test's."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", request.node.name)[:100].strip("-")
    return f"{readable}-{next(_numbers)}"


@pytest.fixture
def zmqbroker_server_factory() -> Iterator[BrokerFactory]:
    """Start brokers for this test alone."""
    from .embedded import Broker  # noqa: PLC0415 - only who asks for a broker pays for its imports

    with ExitStack() as brokers:

        def start(*, data_dir: str | None = None, listen: str = "tcp://127.0.0.1:0", **settings: Value) -> Broker:
            return brokers.enter_context(Broker(data_dir=data_dir, listen=listen, **settings))

        yield start
