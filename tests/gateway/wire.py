"""Requests of transactions in any version, with kafka-python's codec."""

from __future__ import annotations

import socket
from typing import Any

from kafka.protocol.consumer import OffsetFetchRequest, OffsetFetchResponse
from kafka.protocol.metadata import FindCoordinatorRequest, FindCoordinatorResponse
from kafka.protocol.producer import (
    AddOffsetsToTxnRequest,
    AddOffsetsToTxnResponse,
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    EndTxnRequest,
    EndTxnResponse,
    InitProducerIdRequest,
    InitProducerIdResponse,
    TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
)


class Wire:
    """One connection to a broker."""

    def __init__(self, bootstrap: str) -> None:
        host, _, port = bootstrap.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=20)

    def ask(self, request: Any, response: Any, version: int) -> Any:
        """The response."""
        request.API_VERSION = version
        request.with_header(correlation_id=1, client_id="wire")
        self._socket.sendall(request.encode(version=version, header=True, framed=True))
        data = b""
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
            more = self._socket.recv(65536)
            assert more, f"disconnected after {data!r}"
            data += more
        return response.decode(data, version=version, header=True, framed=True)

    def find(self, key: str, kind: int, version: int) -> Any:
        """Who coordinates a group (kind 0) or a transactional id (kind 1)."""
        request = FindCoordinatorRequest(key=key, key_type=kind, coordinator_keys=[key])
        found = self.ask(request, FindCoordinatorResponse, version)
        return found.coordinators[0] if version >= 4 else found

    def init(self, transactional_id: str, version: int = 4, producer_id: int = -1, epoch: int = -1) -> Any:
        """Make a transactional id one's own."""
        request = InitProducerIdRequest(
            transactional_id=transactional_id,
            transaction_timeout_ms=60_000,
            producer_id=producer_id,
            producer_epoch=epoch,
        )
        return self.ask(request, InitProducerIdResponse, version)

    def add(self, transactional_id: str, given: Any, topic: str, version: int = 3) -> int:
        """Take a partition into a transaction; the error code."""
        topics = [AddPartitionsToTxnRequest.AddPartitionsToTxnTopic(name=topic, partitions=[0])]
        request = AddPartitionsToTxnRequest(
            v3_and_below_transactional_id=transactional_id,
            v3_and_below_producer_id=given.producer_id,
            v3_and_below_producer_epoch=given.producer_epoch,
            v3_and_below_topics=topics,
        )
        found = self.ask(request, AddPartitionsToTxnResponse, version)
        code: int = found.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code
        return code

    def add_offsets(self, transactional_id: str, given: Any, group: str, version: int = 3) -> int:
        """Take a group into a transaction; the error code."""
        request = AddOffsetsToTxnRequest(
            transactional_id=transactional_id,
            producer_id=given.producer_id,
            producer_epoch=given.producer_epoch,
            group_id=group,
        )
        code: int = self.ask(request, AddOffsetsToTxnResponse, version).error_code
        return code

    def commit_offset(self, transactional_id: str, given: Any, topic: str, version: int = 3) -> int:
        """Commit offset 1 of partition 0, of a group that is called as the topic, in a transaction; the error code."""
        kind = TxnOffsetCommitRequest.TxnOffsetCommitRequestTopic
        partition = kind.TxnOffsetCommitRequestPartition(
            partition_index=0, committed_offset=1, committed_leader_epoch=-1, committed_metadata=""
        )
        request = TxnOffsetCommitRequest(
            transactional_id=transactional_id,
            group_id=topic,
            producer_id=given.producer_id,
            producer_epoch=given.producer_epoch,
            generation_id=-1,
            member_id="",
            group_instance_id=None,
            topics=[kind(name=topic, partitions=[partition])],
        )
        code: int = self.ask(request, TxnOffsetCommitResponse, version).topics[0].partitions[0].error_code
        return code

    def end(self, transactional_id: str, given: Any, version: int = 3) -> int:
        """Commit a transaction; the error code."""
        request = EndTxnRequest(
            transactional_id=transactional_id,
            producer_id=given.producer_id,
            producer_epoch=given.producer_epoch,
            committed=True,
        )
        code: int = self.ask(request, EndTxnResponse, version).error_code
        return code

    def committed(self, topic: str, version: int, *, stable: bool) -> Any:
        """What that group has committed."""
        topics = [OffsetFetchRequest.OffsetFetchRequestTopic(name=topic, partition_indexes=[0])]
        request = OffsetFetchRequest(group_id=topic, topics=topics, require_stable=stable)
        return self.ask(request, OffsetFetchResponse, version).topics[0].partitions[0]

    def close(self) -> None:
        self._socket.close()
