"""Controller: decides what changes in the cluster, and is the one that writes the metadata log.

It is event-sourced. A request is decided against the image that includes what is already appended; its records go to
the log, and once they are flushed the image that they make is given to the MetadataKeeper and the reply is sent, in the
order of the requests. This is the quorum of one.
"""

from __future__ import annotations

import logging
from collections import deque
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import BrokerError, StorageError, UnsupportedVersionError
from ..quorum import decisions
from ..quorum.decisions import Decision
from ..quorum.records import RegisterNode
from ..transport.config_messages import AlterConfigsRequest
from ..transport.messages import (
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    InitProducerIdReply,
    InitProducerIdRequest,
)
from .actor import ReactorActor
from .commands import Answer, ControllerCall, ImageCommitted, Refusal, tell_back
from .context import METADATA_KEEPER

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..log.flush import FlushJob
    from ..quorum.image import MetadataImage
    from ..quorum.records import MetadataRecord
    from ..transport.message_base import Body, Request
    from .context import NodeContext
    from .metadata_log import MetadataLog

logger = logging.getLogger(__name__)


class RegisterSelf(NamedTuple):
    """The node has started and clients reach it here; clean says whether it had stopped cleanly before."""

    host: str
    port: int
    rack: str
    clean: bool


class _Committing(NamedTuple):
    """A decision whose records, or those of decisions before it, are appended and not yet flushed."""

    image: MetadataImage
    call: ControllerCall | None
    reply: Body | None


class Controller(ReactorActor):
    """The one writer of the cluster's metadata."""

    def __init__(self, context: NodeContext, log: MetadataLog, on_refused: Callable[[BrokerError], None]) -> None:
        super().__init__()
        self.context = context
        self._on_refused = on_refused
        self._log = log
        self._committing: deque[_Committing] = deque()
        self._flush: FlushJob | None = None
        self._producer_ids = range(0)

    def on_receive(self, message: Any) -> None:
        """Decide about a request, or take in the node's own start."""
        if isinstance(message, RegisterSelf):
            self._register(message)
        else:
            assert isinstance(message, ControllerCall), f"the controller got {message!r}"
            self._decide(message)

    def _register(self, message: RegisterSelf) -> None:
        node_id = self.context.config.node_id
        changes: list[MetadataRecord] = [
            RegisterNode(node_id, message.host, message.port, message.rack, message.clean),
            *decisions.registration(self._log.image, node_id, clean=message.clean),
        ]
        try:
            self._commit(changes, None, None)
        except StorageError as error:
            self._on_refused(error)

    def _decide(self, call: ControllerCall) -> None:
        producer_ids = self._producer_ids
        try:
            decision = self._decision(call.request)
            self._commit(decision.records, call, decision.reply)
        except BrokerError as error:
            self._producer_ids = producer_ids  # a block that was not written down may be given out by another start
            logger.info("%s was refused: %s", type(call.request).__name__, error.message)
            tell_back(call.reply_to, Refusal(call.call, call.index, error))

    def _decision(self, request: Request) -> Decision:
        image, config = self._log.image, self.context.config
        match request:
            case CreateTopicsRequest():
                return decisions.create_topics(image, request, config, self._topic_id)
            case DeleteTopicsRequest():
                return decisions.delete_topics(image, request, config)
            case CreatePartitionsRequest():
                return decisions.create_partitions(image, request)
            case AlterConfigsRequest():
                return decisions.alter_configs(image, request, config)
            case InitProducerIdRequest():
                return self._producer_id(request)
            case _:
                message = f"{type(request).__name__} is not served by the controller"
                raise UnsupportedVersionError(message)

    def _topic_id(self, name: str, offset: int) -> str:
        """A topic's id: unique, since no two topics begin at one offset of one cluster's metadata log."""
        return blake2b(f"{self.context.cluster_id}/{offset}/{name}".encode(), digest_size=16).hexdigest()

    def _producer_id(self, request: InitProducerIdRequest) -> Decision:
        """The next epoch of an id, or a new id; ids are taken from the log in blocks, so that most need no record."""
        bumped = decisions.bumped_epoch(request.producer_id, request.producer_epoch)
        if bumped is not None:
            return Decision([], bumped)
        changes: list[MetadataRecord] = []
        if not self._producer_ids:
            self._producer_ids, changes = decisions.next_producer_ids(self._log.image)
        producer_id, self._producer_ids = self._producer_ids[0], self._producer_ids[1:]
        return Decision(changes, InitProducerIdReply(producer_id, 0))

    def _commit(self, changes: list[MetadataRecord], call: ControllerCall | None, reply: Body | None) -> None:
        """Append a decision's records, and answer once they and all before them are flushed."""
        if changes:
            self._log.append(changes, self.context.clock.wall_ms())
        self._committing.append(_Committing(self._log.image, call, reply))
        self._flush_or_finish()

    def _flush_or_finish(self) -> None:
        if self._flush is not None:
            return
        self._flush = self._log.start_flush()
        if self._flush is None:
            self._finish()
        else:
            self.context.flusher.submit(self._flush.run, self._flushed)

    def _flushed(self, error: Exception | None) -> None:
        job, self._flush = self._flush, None
        assert job is not None, "a flush of the metadata log ended that had not begun"
        assert error is None, f"flushing the metadata log failed: {error}; the node stops and recovers from it"
        self._log.finish_flush(job)
        self._finish()
        if self._committing:
            self._flush_or_finish()

    def _finish(self) -> None:
        """Publish what is committed, then answer: whoever has the answer finds the change everywhere on this node."""
        done = []
        while self._committing and self._committing[0].image.end_offset <= self._log.committed_offset:
            done.append(self._committing.popleft())
        if not done:
            return
        if done[-1].image is not self.context.image:
            told = self.reactor.tell(METADATA_KEEPER, ImageCommitted(done[-1].image))
            assert told, "a controller needs a metadata keeper"
        for _, call, reply in done:
            if call is not None and reply is not None:
                tell_back(call.reply_to, Answer(call.call, call.index, reply))

    def on_stop(self) -> None:
        """Close the metadata log."""
        try:
            self._log.close()
        except StorageError as error:
            logger.error("the node does not stop cleanly: %s", error.message)  # noqa: TRY400 - the sentence says all
