"""A script for share groups: what a scripted broker says to share consumers."""

import time
from collections import deque

from zmqbroker.log.batch import stamp
from zmqbroker.log.records import encode_batch
from zmqbroker.transport import group_messages as g
from zmqbroker.transport import share_messages as s


class ShareScript:
    """A scripted broker that leases what the script says, keeps long polls, and takes every acknowledgement that no
    rule answers."""

    def __init__(self, server):
        self.server = server
        self._usual_of_others = server._usual
        server._usual, server._answer_waiting = self._usual, self._answer_waiting
        self.lease_ms = 30_000
        self.holds = False
        """Whether a fetch with acknowledgements waits for records as any other."""
        self.refused = {}
        """Offsets of t-0 whose acknowledgements are refused, and the error's code."""
        self.leases = deque()
        """(partitions, frames) of the answers to come."""
        self.said = []
        """Everything acknowledged, in order: (offset, kind)."""
        self.left = []
        self.answers = 0
        """To fetches; each is a lease of its own."""

    def __getattr__(self, name):
        return getattr(self.server, name)

    def lease(self, *ranges, batches=(), topic="t"):
        entry = s.PartitionShared(topic, 0, acquired=[s.AcquiredRecords(*item) for item in ranges])
        self.leases.append(([entry], [b"".join(batches)]))

    def lease_values(self, first, count, deliveries=1, **more):
        values = [b"%d" % number for number in range(first, first + count)]
        self.lease((first, first + count - 1, deliveries), batches=[batch(first, values)], **more)

    def _usual(self, heard):
        body = heard.body
        if isinstance(body, g.FindCoordinatorRequest):
            assert body.key_type == g.SHARE_COORDINATOR
            port = int(self.address.rsplit(":", 1)[1])
            return g.FindCoordinatorReply([g.CoordinatorInfo(key, 1, "127.0.0.1", port) for key in body.keys])
        if isinstance(body, s.ShareFetchRequest):
            heard.acknowledged = self._acknowledge(body)
            heard.until = time.monotonic() + body.max_wait_ms / 1000
            self._waiting.append(heard)
            return "drop"
        if isinstance(body, s.ShareAcknowledgeRequest):
            acknowledged = self._acknowledge(body)
            if body.leave:
                self.left.append(body.member_id)
            return s.ShareAcknowledgeReply(acknowledged, self.lease_ms)
        return self._usual_of_others(heard)

    def _answer_waiting(self, router):
        for heard in list(self._waiting):
            if self.leases:
                partitions, frames = self.leases.popleft()
            elif (heard.acknowledged and not self.holds) or time.monotonic() >= heard.until:
                partitions, frames = [], []
            else:
                continue
            self._waiting.remove(heard)
            self.answers += 1
            reply = s.ShareFetchReply(partitions, heard.acknowledged, self.lease_ms, self.answers)
            self._send(router, heard, (reply, frames))

    def _acknowledge(self, body):
        found = []
        for entry in body.acknowledgements:
            offsets = [
                (offset, item.kind)
                for item in entry.acknowledgements
                for offset in range(item.first_offset, item.last_offset + 1)
            ]
            bad = [offset for offset, _ in offsets if offset in self.refused]
            code = self.refused[bad[0]] if bad else 0
            found.append(s.PartitionAcknowledged(entry.topic, entry.partition, code, "no" if code else None))
            if not code:
                self.said += offsets
        return found

    def said_of(self, *offsets):
        return [kind for offset, kind in self.said if offset in offsets]


def batch(base, values, **more):
    data = bytearray(encode_batch([(1000 + at, None, value, []) for at, value in enumerate(values)], **more))
    stamp(data, base, 3)
    return bytes(data)
