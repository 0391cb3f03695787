"""Shapes that many responses share: entries gathered under their topics, errors of whole requests, and topic ids."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from uuid import UUID

from ..errors import LeaderNotAvailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ..errors import BrokerError
    from .exchange import Outcome

NO_OPERATIONS = -(2**31)
"""The authorized operations, where nobody asked for them."""

Result = TypeVar("Result")


class Entry(Protocol):
    """What a native request says of one partition."""

    topic: str
    partition: int


def by_topic(
    entries: Iterable[Any],
    make: Callable[[Any], Any],
    *,
    topic: str = "name",
    partitions: str = "partitions",
) -> list[dict[str, Any]]:
    """Gather entries, each with its topic, as Kafka's messages have them: topics with partitions."""
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        found.setdefault(entry.topic, []).append(make(entry))
    return [{topic: name, partitions: made} for name, made in found.items()]


def flat(topics: Iterable[Any], *, topic: str = "name") -> Iterator[tuple[str, Any]]:
    """Each partition of a request with its topic."""
    for each in topics:
        for partition in each.partitions:
            yield getattr(each, topic), partition


def results_of(
    outcome: Outcome, entries: Iterable[Entry], result: Callable[[str, int, int, str], Result]
) -> list[Result]:
    """What came of each partition of a request: what the reply says, or what the whole request failed for."""
    if outcome.error is not None:
        error = outcome.error
        return [result(entry.topic, entry.partition, error.code, error.message) for entry in entries]
    results: list[Result] = outcome.body.partitions
    return results


def error_of(outcome: Outcome) -> dict[str, Any]:
    """The fields that say whether a whole request failed, and why."""
    return failed(outcome.error) if outcome.error is not None else {"error_code": 0, "error_message": None}


def failed(error: BrokerError) -> dict[str, Any]:
    """The fields that say why something failed."""
    return {"error_code": error.code, "error_message": error.message}


def code_and_text(entry: Any) -> dict[str, Any]:
    """The error of a native entry."""
    return {"error_code": entry.error_code, "error_message": entry.error_message}


def partition_fields(index: int, leader: int, epoch: int, replicas: list[int], isr: list[int]) -> dict[str, Any]:
    """A partition as metadata describe it."""
    return {
        "error_code": 0 if leader >= 0 else LeaderNotAvailableError.code,
        "partition_index": index,
        "leader_id": leader,
        "leader_epoch": epoch,
        "replica_nodes": replicas,
        "isr_nodes": isr,
        "offline_replicas": [],
    }


def topic_uuid(topic_id: str) -> UUID | None:
    """Kafka's form of a topic id."""
    return UUID(hex=topic_id) if topic_id else None


def directory_uuid(directory_id: str) -> UUID | None:
    """Kafka's form of a folder's id, which is written down as Kafka writes its own."""
    return UUID(bytes=urlsafe_b64decode(f"{directory_id}==")) if directory_id else None
