"""The admin calls about transactions as flows (KIP-664)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InvalidRequestError
from ..transport import transaction_messages as t
from ..transport.group_messages import TRANSACTION_COORDINATOR
from .cluster_admin_calls import ClusterAdminCalls
from .transaction_admin_types import TransactionDescription, TransactionListing
from .types import TopicPartition

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .io import Flow


class TransactionAdminCalls(ClusterAdminCalls):
    """Each method is a flow; all nodes are asked, or the coordinator of each transactional id."""

    def list_transactions(
        self, states: Iterable[str], producer_ids: Iterable[int], duration_ms: int
    ) -> Flow[list[TransactionListing]]:
        """Transactional ids of all nodes."""
        request = t.ListTransactionsRequest(list(states), list(producer_ids), duration_ms)
        cluster = yield from self.describe_cluster()
        found: list[TransactionListing] = []
        for node in cluster.nodes:
            reply = yield from self._ask(request, t.ListTransactionsReply, node_id=node.node_id)
            if reply.unknown_states:
                message = f"states={request.states}: there are no states {', '.join(reply.unknown_states)}"
                raise InvalidRequestError(message)
            found += [TransactionListing(o.transactional_id, o.producer_id, o.state) for o in reply.transactions]
        return sorted(found, key=lambda transaction: transaction.transactional_id)

    def describe_transactions(self, transactional_ids: Iterable[str]) -> Flow[list[TransactionDescription]]:
        """Transactional ids, and what is open."""
        found = yield from self._of_each(
            *(transactional_ids, TRANSACTION_COORDINATOR),
            *(t.DescribeTransactionsRequest, t.DescribeTransactionsReply),
            entries="transactions",
            key="transactional_id",
        )
        return [
            TransactionDescription(
                *(entry.transactional_id, entry.state, node_id),
                *(entry.producer_id, entry.producer_epoch, entry.timeout_ms, entry.start_ms),
                tuple(TopicPartition(o.topic, o.partition) for o in entry.partitions),
            )
            for node_id, entry in found
        ]
