"""A script for transactions: what a scripted broker says to transactional producers, as their coordinator."""

from zmqbroker.log.batch import read_header
from zmqbroker.transport import group_messages as g
from zmqbroker.transport import messages as m
from zmqbroker.transport import transaction_messages as t

FIND = g.FindCoordinatorRequest.API
INIT = m.InitProducerIdRequest.API
PRODUCE = m.ProduceRequest.API
ADD = t.AddPartitionsToTxnRequest.API
ADD_GROUP = t.AddOffsetsToTxnRequest.API
END = t.EndTxnRequest.API
COMMIT_OFFSETS = t.TxnOffsetCommitRequest.API
NAMES = {
    INIT: "init", PRODUCE: "produce", ADD: "add", ADD_GROUP: "add group", END: "end", COMMIT_OFFSETS: "offsets",
}  # fmt: skip


class TransactionScript:
    """A scripted broker that takes every request of a transaction that no rule answers."""

    def __init__(self, server):
        self.server = server
        self._usual_of_others = server._usual
        server._usual = self._usual
        self.epoch = -1
        self.number = 0
        """Of the transaction that is open, or was last."""
        self._is_open = False

    def _usual(self, heard):  # noqa: PLR0911 - one answer a request type
        body = heard.body
        if isinstance(body, g.FindCoordinatorRequest):
            port = int(self.server.address.rsplit(":", 1)[1])
            return g.FindCoordinatorReply([g.CoordinatorInfo(key, 1, "127.0.0.1", port) for key in body.keys])
        if isinstance(body, m.InitProducerIdRequest):
            self.epoch += 1
            return m.InitProducerIdReply(7, self.epoch)
        if isinstance(body, t.AddPartitionsToTxnRequest):
            entries = [t.PartitionAdded(o.topic, o.partition) for o in body.partitions]
            return t.AddPartitionsToTxnReply(entries, self._opened())
        if isinstance(body, t.AddOffsetsToTxnRequest):
            return t.AddOffsetsToTxnReply(self._opened())
        if isinstance(body, t.EndTxnRequest):
            self._is_open = False
            return m.Body()
        if isinstance(body, t.TxnOffsetCommitRequest):
            return t.TxnOffsetCommitReply([g.PartitionCommitted(o.topic, o.partition) for o in body.partitions])
        return self._usual_of_others(heard)

    def _opened(self):
        self.number += not self._is_open
        self._is_open = True
        return self.number

    # ---- what was heard

    def asked(self):
        """The requests that concern transactions, in order, as short texts."""
        return [self._told(heard) for heard in self.server.heard if heard.api in NAMES]

    def _told(self, heard):
        name = NAMES[heard.api]
        if heard.api == END:
            return "commit" if heard.body.committed else "abort"
        if heard.api == ADD:
            return f"add {','.join(str(entry.partition) for entry in heard.body.partitions)}"
        return name

    def batches(self):
        """(partition, epoch, first sequence, whether it is transactional) of each batch that was sent."""
        found = []
        for heard in self.server.requests(PRODUCE):
            for entry, batch in zip(heard.body.partitions, heard.batches, strict=True):
                header = read_header(batch)
                found.append((entry.partition, header.producer_epoch, header.base_sequence, header.is_transactional))
        return found

    # ---- rules

    def refuse_add(self, code, text="no"):
        """Answer the next AddPartitionsToTxn with an error of its first partition."""

        def rule(heard):
            entries = [t.PartitionAdded(o.topic, o.partition, 55, "not attempted") for o in heard.body.partitions]
            first = heard.body.partitions[0]
            entries[0] = t.PartitionAdded(first.topic, first.partition, code, text)
            return t.AddPartitionsToTxnReply(entries)

        self.server.once(ADD, rule)

    def refuse_offsets(self, code, text="no"):
        """Answer the next TxnOffsetCommit with an error."""
        self.server.once(
            COMMIT_OFFSETS,
            lambda heard: t.TxnOffsetCommitReply(
                [g.PartitionCommitted(o.topic, o.partition, code, text) for o in heard.body.partitions]
            ),
        )

    def refuse(self, api, *errors):
        """Answer the next requests of an API with these errors."""
        self.server.once(api, *((lambda _, error=error: error) for error in errors))

    def refuse_batches(self, code, after=None):
        """Refuse every batch of the next Produce with a code, once an event is set."""

        def rule(heard):
            assert after is None or after.wait(5)
            entries = heard.body.partitions
            return m.ProduceReply([m.PartitionProduced(o.topic, o.partition, code, f"says {code}") for o in entries])

        self.server.once(PRODUCE, rule)

    def lose(self, api):
        """Do what the next request of an API asks for, and lose the answer with the connection."""

        def rule(heard):
            if api == PRODUCE:
                self.server.append(heard)
            else:
                self._usual(heard)
            return [b"\xc1"]  # not msgpack: the client gives the connection up

        self.server.once(api, rule)
