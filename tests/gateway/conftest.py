"""A broker with its Kafka listener, and Kafka's clients at it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from zmqbroker.testing import Broker

from .kafka_clients import CLIENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .kafka_clients import Client


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """One broker for the tests of a file; each test has topics of its own."""
    with Broker(num_partitions=2) as found:
        yield found


@pytest.fixture
def client_of(broker: Broker) -> Callable[[str], Client]:
    """Make one of Kafka's clients, by its name; the test is left out if that is not installed."""

    def make(name: str) -> Client:
        if name == "kcat" and shutil.which("kcat") is None:
            pytest.skip("kcat is not installed: it is a package of the system's, and no wheel")
        return CLIENTS[name](broker.kafka_bootstrap)

    return make


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A name that no other test has."""
    return "t-" + "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
