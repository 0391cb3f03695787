"""Faults that wait for a message of a kind, to strike when it hurts: it comes late, or who gets it dies.

Other faults meet such moments too, and too seldom: most messages are fetches.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..transport import messages as m
from ..transport import transaction_messages as t
from ..transport.group_messages import OffsetCommitRequest
from ..transport.peer_messages import ReplicaFetchRequest, VerifyTransactionRequest, WriteTxnMarkersRequest
from .connection import Side

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from ..transport.message_base import Request
    from .cluster import Cluster, SimNode
    from .connection import Connection
    from .network import Sent
    from .world import World

_STALE: tuple[type[Request], ...] = (
    WriteTxnMarkersRequest,
    WriteTxnMarkersRequest,
    m.ProduceRequest,
    m.ProduceRequest,
    t.EndTxnRequest,
    t.EndTxnRequest,
    t.AddPartitionsToTxnRequest,
    t.TxnOffsetCommitRequest,
    t.TxnOffsetCommitRequest,
    OffsetCommitRequest,
    ReplicaFetchRequest,
)
"""Requests that may come late."""
_LONELY: tuple[type[Request], ...] = (WriteTxnMarkersRequest, WriteTxnMarkersRequest, m.ProduceRequest)
"""Requests that are answered once enough replicas have something."""
_TRANSACTIONAL_ID = m.ProduceRequest.__struct_fields__.index("transactional_id")
_LATE_MS = (30.0, 300.0, 2_000.0)
"""How late a message comes, at most."""
_TOGETHER_SHARE, _TOGETHER_MS = 0.5, 300.0
_ANSWER_MS = 700.0
_TRANSIT_MS = 50.0
"""More than a message takes most often."""
_BREAKS_MS, _DIES_MS = (5.0, 40.0), (200.0, 600.0)


class Traps:
    """What waits for requests; ``undo_later`` does nothing once all faults are over."""

    def __init__(
        self, world: World, cluster: Cluster, undo_later: Callable[[str, float, Callable[[], object]], object]
    ) -> None:
        self._world = world
        self._cluster = cluster
        self._undo_later = undo_later

    def end(self) -> None:
        """Strike no more."""
        self._cluster.network.lie_no_more()

    def _lie_in_wait(self, name: str, wanted: Callable[[Sent], bool], then: Callable[[Connection], object]) -> None:
        self._cluster.network.lie_in_wait(name, wanted, then)

    def _trace(self, text: str) -> None:
        self._world.trace("fault", text)

    def _pause(self, node: SimNode, duration_ms: float) -> None:
        node.pause()
        self._undo_later("pause", duration_ms, node.resume)

    # ---- late

    def stale(self, random: Random) -> None:
        """The next message of a kind comes late: a request when whoever sent it has given its connection up."""
        if random.random() < 1 / (1 + len(_STALE)):
            self.late_answer(random)
            return
        wanted, late_ms = random.choice(_STALE), random.uniform(0.0, random.choice(_LATE_MS))
        together = wanted is m.ProduceRequest and random.random() < _TOGETHER_SHARE
        self._come_late(wanted, min(late_ms, _TOGETHER_MS) if together else late_ms, together=together)

    def late_batch(self, random: Random) -> None:
        """The next batch of a transaction comes late, together with the marker of its transaction if there is one."""
        self._come_late(m.ProduceRequest, random.uniform(0.0, _TOGETHER_MS), together=True)

    def _come_late(self, wanted: type[Request], late_ms: float, *, together: bool) -> None:
        def let_go(connection: Connection) -> None:
            self._trace(f"{wanted.__name__} of {connection!r} comes {late_ms:.0f} ms late")
            self._world.later(0.0, "stale", partial(connection.abandon, Side.CLIENT, late_ms))
            if together:
                self._hang_with_marker(connection.hosts[Side.SERVER].name, late_ms)

        self._lie_in_wait(wanted.__name__, partial(_is_request, wanted), let_go)

    def late_answer(self, random: Random) -> None:
        """A coordinator's answer to a leader comes late, which may be after the marker that makes it void."""
        late_ms = random.uniform(0.0, _ANSWER_MS)

        def delay(connection: Connection) -> None:
            self._trace(f"an answer of {connection!r} comes {late_ms:.0f} ms late")
            connection.delay(Side.SERVER, late_ms)
            self._hang_with_marker(connection.hosts[Side.CLIENT].name, late_ms)

        self._lie_in_wait(
            "answer", lambda sent: sent.side is Side.SERVER and sent.api == VerifyTransactionRequest.API, delay
        )

    def unheard_answer(self, random: Random) -> None:
        """As `late_answer`, and the producer that the leader asks about has given its connection up meanwhile."""

        def let_go(connection: Connection) -> None:
            self._world.later(0.0, "unheard", partial(connection.abandon, Side.CLIENT, 0.0))
            self.late_answer(random)

        self._lie_in_wait(m.ProduceRequest.__name__, partial(_is_request, m.ProduceRequest), let_go)

    def _hang_with_marker(self, name: str, late_ms: float) -> None:
        """If a marker is sent to a node before something late arrives there, the node hangs until both are there."""
        node, late_at_ms = self._cluster.node_at(name), self._world.now_ms + late_ms
        if node is None:
            return

        def is_marker(sent: Sent) -> bool:
            return _is_request(WriteTxnMarkersRequest, sent) and sent.connection.hosts[Side.SERVER].name == name

        def hang(_: Connection) -> None:
            left_ms = late_at_ms - self._world.now_ms
            if left_ms > 0.0:
                self._pause(node, min(left_ms, _TOGETHER_MS) + _TRANSIT_MS)

        self._lie_in_wait(f"marker for {name}", is_marker, hang)

    # ---- just before the end

    def lonely(self, random: Random) -> None:
        """Who has to tell others what it was asked to store is cut off from them all, is asked again, and dies."""
        wanted, breaks_ms, dies_ms = random.choice(_LONELY), random.uniform(*_BREAKS_MS), random.uniform(*_DIES_MS)
        down_ms = random.choice((100.0, 1_000.0))

        def cut_off(connection: Connection) -> None:
            asker, name = (connection.hosts[side].name for side in Side)
            node, network = self._cluster.node_at(name), self._cluster.network
            if node is None:
                return
            others = [other.name for other in self._cluster if other.name not in (asker, name)]
            pairs = [pair for other in others for pair in ((name, other), (other, name))]
            self._trace(f"{name} is cut off from {others}, after {wanted.__name__} of {connection!r}")
            for pair in pairs:
                network.block(*pair)

            def die() -> None:
                for pair in pairs:
                    network.unblock(*pair)
                node.kill(down_ms)

            self._undo_later("connection", breaks_ms, partial(connection.abandon, Side.CLIENT, 0.0))
            self._undo_later("lonely", dies_ms, die)

        self._lie_in_wait("lonely", partial(_is_request, wanted), cut_off)

    def mute(self, random: Random) -> None:
        """Who is asked to end a transaction answers no other node any more: none gets its decision before it dies."""
        dies_ms, down_ms = random.uniform(*_BREAKS_MS) + _TRANSIT_MS, random.choice((100.0, 1_000.0))

        def silence(connection: Connection) -> None:
            name = connection.hosts[Side.SERVER].name
            node = self._cluster.node_at(name)
            if node is None:
                return
            self._trace(f"{name} answers no other node from now on, and dies")
            others = {other.name for other in self._cluster}
            for each in self._cluster.network.connections():
                if each.hosts[Side.SERVER].name == name and each.hosts[Side.CLIENT].name in others:
                    each.delay(Side.SERVER, _LATE_MS[-1])
            self._undo_later("silence", dies_ms, partial(node.kill, down_ms))

        self._lie_in_wait("mute", partial(_is_request, t.EndTxnRequest), silence)


def _is_request(wanted: type[Request], sent: Sent) -> bool:
    """Whether a message is a request of a kind; of all produced batches, only those of transactions are meant."""
    if sent.side is not Side.CLIENT or sent.api != wanted.API:
        return False
    return wanted is not m.ProduceRequest or sent.fields[-1][_TRANSACTIONAL_ID] is not None
