"""What a leader asks of a request before it looks at its records: the right leader epoch, and replicas enough. Pure."""

from __future__ import annotations

from ..errors import FencedLeaderEpochError, NotEnoughReplicasError, UnknownLeaderEpochError


def check_leader_epoch(name: str, mine: int, asked: int) -> None:
    """Refuse a client whose leader epoch is not this leader's; -1: it did not say."""
    if asked in (-1, mine):
        return
    if asked < mine:
        message = f"{name} has leader epoch {mine} and the request has the older {asked}: refresh the metadata"
        raise FencedLeaderEpochError(message)
    message = f"{name} has leader epoch {mine} on this node and the request has the newer {asked}: try again"
    raise UnknownLeaderEpochError(message)


def check_in_sync(name: str, in_sync: int, needed: int) -> None:
    """Refuse acks=all while fewer replicas are in sync than min.insync.replicas asks for."""
    if in_sync < needed:
        message = f"{name} has {in_sync} replicas in sync and min.insync.replicas={needed}: nothing was appended"
        raise NotEnoughReplicasError(message)
