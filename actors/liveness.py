"""Liveness: which nodes the controller believes to live, by their heartbeats and by the links to them. Pure.

A node is silent once its session time-out has passed without a heartbeat. It is gone at once when its link is REFUSED:
its host says that no process listens there. That is said of one registration, since a process that was started in its
place registers anew; a heartbeat of a gone registration that comes late does not bring the node back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..transport.network import LinkState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..quorum.image import MetadataImage, NodeImage


class Liveness:
    """What is known of the other nodes' lives. Times are of the monotonic clock."""

    def __init__(self) -> None:
        self.links: dict[int, LinkState] = {}
        """The last news of each link."""
        self._gone: dict[int, int] = {}
        """The epoch of the registration whose process is gone, by node."""
        self._heard_ms: dict[int, float] = {}
        self._awake_ms = 0.0

    def link_changed(self, node_id: int, state: LinkState, image: MetadataImage) -> None:
        """Take news of a link."""
        self.links[node_id] = state
        node = image.nodes.get(node_id)
        if state is LinkState.UP:
            self._gone.pop(node_id, None)
        elif state is LinkState.REFUSED and node is not None:
            self._gone[node_id] = node.epoch

    def restart(self, nodes: Iterable[int], now_ms: float) -> None:
        """Give every node its full time from now on: a controller that is new has heard of nobody."""
        self._heard_ms = dict.fromkeys(nodes, now_ms)
        self._awake_ms = now_ms

    def awake(self, now_ms: float, interval_ms: float) -> None:
        """Take down that this process runs, which says so at least this often; before anybody's silence is judged.

        If it is late it did not run itself, and could not have heard anything: that time counts for nobody's silence.
        """
        late_ms = now_ms - self._awake_ms - interval_ms
        if late_ms > interval_ms:
            self._heard_ms = {node_id: at_ms + late_ms for node_id, at_ms in self._heard_ms.items()}
        self._awake_ms = now_ms

    def heard(self, node_id: int, now_ms: float) -> None:
        """Take a heartbeat, or a registration."""
        self._heard_ms[node_id] = now_ms

    def is_gone(self, node: NodeImage) -> bool:
        """Whether the process that registered so is known to be gone."""
        return self._gone.get(node.node_id) == node.epoch

    def is_silent(self, node: NodeImage, now_ms: float, timeout_ms: float) -> bool:
        """Whether the node's session is over."""
        heard_ms = self._heard_ms.get(node.node_id)
        return heard_ms is None or now_ms - heard_ms > timeout_ms

    def is_alive(self, node: NodeImage, now_ms: float, timeout_ms: float) -> bool:
        """Whether the process that registered so is believed to live."""
        return not node.fenced and not self.is_gone(node) and not self.is_silent(node, now_ms, timeout_ms)
