"""Whom to ask, and when: a question to several nodes, each of which may be slow, gone, or back again. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .kraft_types import NEVER

if TYPE_CHECKING:
    from collections.abc import Iterable


class Asking:
    """Which nodes are yet to be asked something, and when; NEVER while a request to the node is under way."""

    __slots__ = ("_failures", "_when")

    def __init__(self, node_ids: Iterable[int], now_ms: float) -> None:
        self._when = dict.fromkeys(sorted(node_ids), now_ms)
        self._failures: dict[int, int] = {}

    def take_due(self, now_ms: float) -> list[int]:
        """Those to ask now; they count as asked."""
        due = [node_id for node_id, when in self._when.items() if when <= now_ms]
        self._when.update(dict.fromkeys(due, NEVER))
        return due

    def ask_at(self, node_id: int, when_ms: float) -> None:
        """Ask (again) then: the node has answered, or is heard of."""
        if node_id in self._when:
            self._when[node_id] = when_ms
            self._failures.pop(node_id, None)

    def fail(self, node_id: int) -> int:
        """The node did not answer; how often in a row before."""
        failures = self._failures.get(node_id, 0)
        self._failures[node_id] = failures + 1
        return failures

    def retry_at(self, node_id: int, when_ms: float) -> None:
        """Ask then a node that did not answer."""
        if node_id in self._when:
            self._when[node_id] = when_ms

    def hurry(self, node_id: int, now_ms: float) -> None:
        """The node can be reached again: ask it now if it was to be asked again later."""
        if node_id in self._failures and self._when.get(node_id, NEVER) != NEVER:
            self._when[node_id] = now_ms

    def done(self, node_id: int) -> None:
        """Ask it no more."""
        self._when.pop(node_id, None)

    def keep(self, node_ids: Iterable[int], now_ms: float) -> None:
        """Those to ask are these; the new ones now."""
        self._when = {node_id: self._when.get(node_id, now_ms) for node_id in sorted(node_ids)}

    def next_ms(self) -> float:
        """When somebody is to be asked next."""
        return min(self._when.values(), default=NEVER)
