"""Kafka's own Java tools and broker, from Maven Central. `make test-kafka` fetches them and says where they are.

Without KAFKA_LIBS none of these tests is collected: they take a JDK and 100 MB of jars, which no Python team need have.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from zmqbroker.testing import BrokerProcess

from .kafka_server import LIBS, KafkaBroker, run_java

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

if not LIBS:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def java() -> Callable[..., str]:
    """Run one of Kafka's programs."""
    return run_java


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    """Our broker, for the tests of a file."""
    with BrokerProcess(flags=["--set", "log.level=WARNING"]) as found:
        yield found


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[KafkaBroker]:
    """A real Kafka broker."""
    with KafkaBroker(tmp_path) as found:
        yield found
    shutil.rmtree(tmp_path, ignore_errors=True)
