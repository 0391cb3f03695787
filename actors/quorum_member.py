"""QuorumMember: this node's part in the metadata quorum, the one that writes the metadata log, its snapshots, its vote.

The protocol is quorum/kraft.py's: here its inputs come from messages, timers and the disk, and its effects are carried
out in order. What is appended within a turn is flushed together, by one flush at a time; followers may have it before
this node has flushed it, but here it counts only from then on.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import BrokerError, NotControllerError, StorageError
from ..quorum.kraft import KraftMachine
from ..quorum.kraft_types import (
    NEVER,
    NOBODY,
    AppendFetched,
    AppendLeaderChange,
    AppendVoters,
    Effect,
    HighWatermark,
    InstallSnapshot,
    KraftConfig,
    LeaderChanged,
    ReadSnapshot,
    Refuse,
    Reply,
    SaveState,
    Send,
    StartedLeading,
    StoppedLeading,
    TruncateTo,
    WriteSnapshot,
)
from ..quorum.records import LeaderChange, SetVoters
from ..transport.network import LinkState
from ..transport.quorum_messages import (
    AddVoterRequest,
    BeginQuorumEpochRequest,
    DescribeQuorumRequest,
    EndQuorumEpochRequest,
    FetchSnapshotReply,
    FetchSnapshotRequest,
    QuorumFetchReply,
    QuorumFetchRequest,
    RemoveVoterRequest,
    VoteRequest,
)
from .actor import ReactorActor
from .commands import Drain, ImageCommitted, Message, Refusal, tell_back
from .context import CONTROLLER, METADATA_KEEPER, PEERS, QUORUM, peer_address
from .metadata_log import VoterSet
from .peer_commands import (
    AppendMetadata,
    AppendRefused,
    AskPeer,
    KnownNodes,
    MetadataCommitted,
    PeerAnswer,
    PeerChanged,
    QuorumCall,
    QuorumLeader,
    StartLeading,
)
from .peers import ask_peer
from .quorum_commands import Asked, PassedOn, Tick, WorkDone
from .quorum_files import QuorumFiles
from .quorum_snapshots import QuorumSnapshots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ..quorum.kraft_types import LogRange
    from ..quorum.records import MetadataRecord
    from ..transport.message_base import Body, Request
    from ..transport.quorum_messages import Voter
    from .context import NodeContext
    from .timers import Timer

logger = logging.getLogger(__name__)

_READ_BYTES_MAX = 8 * 1024 * 1024
"""Of one answer, whatever was asked for."""
_NO_LEADER = -1


_HANDLERS: Mapping[type[Request], Callable[..., list[Effect]]] = {
    VoteRequest: KraftMachine.handle_vote,
    BeginQuorumEpochRequest: KraftMachine.handle_begin_epoch,
    EndQuorumEpochRequest: KraftMachine.handle_end_epoch,
    QuorumFetchRequest: KraftMachine.handle_fetch,
    FetchSnapshotRequest: KraftMachine.handle_fetch_snapshot,
    AddVoterRequest: KraftMachine.add_voter,
    RemoveVoterRequest: KraftMachine.remove_voter,
}
"""What the machine does with a request; DescribeQuorum is answered by any node."""


class QuorumMember(ReactorActor):
    """One node of the quorum, as voter or as observer.

    It tells the controller who leads, and what is committed if this node does; the metadata keeper what is committed.
    A disk that does not take what it has to promise ends the node; one that has no room for a decision refuses it.
    """

    def __init__(self, context: NodeContext) -> None:
        """Open the files and begin, here and now: what cannot be read or written is a reason not to start.

        Raises MetadataDamagedError, QuorumStateError or StorageError.
        """
        super().__init__()
        self.context = context
        config, clock = context.config, context.clock
        self._files = QuorumFiles(context.disk, context.folder, joins=bool(config.join), now_ms=clock.wall_ms())
        self._log = self._files.log
        self._snapshots = QuorumSnapshots(self._log, config.metadata_log_max_record_bytes_between_snapshots)
        self.machine = KraftMachine(
            self._files.me,
            self._files.state,
            self._log,
            self._files.voters,
            KraftConfig(
                election_timeout_ms=config.controller_quorum_election_timeout_ms,
                fetch_timeout_ms=config.controller_quorum_fetch_timeout_ms,
            ),
            context.random.random,
        )
        self._inputs: deque[Callable[[], list[Effect]]] = deque()
        """What the machine is told when the effects under way are carried out."""
        self._received: tuple[Asked, bytes] | None = None
        """The reply that the machine is being told of, and the frame that came with it."""
        self._not_appended = ""
        self._leads_in = _NO_LEADER
        self._basis = 0
        """The number of the image that the controller was told of last."""
        self._log_changed = False
        """Whether the machine has yet to hear that the log's end has moved."""
        self._timer: Timer | None = None
        self._linked: dict[int, None] = {}
        self._peers: list[int] = []
        nodes = {node.node_id: (node.host, node.port) for node in self._log.image.nodes.values()}
        context.was_member = context.folder.registered or self._files.me.node_id in nodes
        nodes.pop(self._files.me.node_id, None)
        if nodes:  # where the others are has to be known before a quorum can say what is committed
            self._tell(PEERS, KnownNodes(nodes))
        self._input(self.machine.start)
        self._set_peers(nodes)
        self._finish_turn()

    def on_receive(self, message: Any) -> None:
        """Let the machine know."""
        match message:
            case QuorumCall():
                self._on_call(message)
            case PeerAnswer() | Refusal():
                self._on_answer(message)
            case AppendMetadata():
                self._append_metadata(message)
            case PeerChanged():
                self._on_link(message)
            case WorkDone(then, error):
                then(error)
            case Drain():
                if len(self.machine.voters) > 1:  # else nobody could decide what clients still wait for
                    self._input(self.machine.resign)
            case Tick():
                self._timer = None
                self._input(self.machine.tick)
            case _:
                assert False, f"the quorum got {message!r}"  # noqa: B011, PT015 - nobody sends it anything else

    def on_turn_end(self) -> None:
        """Send what was appended to those who wait for it, flush it, and see when to go on."""
        self._finish_turn()

    def _finish_turn(self) -> None:
        self._run_inputs()
        self._flush()
        self._take_snapshot()
        self._set_timer()

    def on_stop(self) -> None:
        """Hand the lead over, and close the log."""
        self._input(self.machine.resign)
        if self._timer is not None:
            self._timer.cancel()
        self._snapshots.abandon()
        try:
            self._log.close()
        except StorageError as error:
            logger.error("the node does not stop cleanly: %s", error.message)  # noqa: TRY400 - the sentence says all

    def on_crash(self, error: BaseException | None) -> None:
        """End the node: nothing else knows how it has voted."""
        self.reactor.fail(error or RuntimeError("the quorum ended"), str(self))

    # ---- the machine

    def _input(self, method: Callable[..., list[Effect]], *args: Any) -> None:
        """Tell the machine something, and carry out all that follows from it."""
        self._next(method, *args)
        self._run_inputs()

    def _next(self, method: Callable[..., list[Effect]], *args: Any) -> None:
        """Tell the machine something once the effects under way are carried out."""
        now_ms = self.context.clock.monotonic_ms
        self._inputs.append(lambda: method(*args, now_ms()))

    def _run_inputs(self) -> None:
        while self._inputs or self._log_changed:
            if self._log_changed:
                self._log_changed = False
                effects = self.machine.log_appended(self.context.clock.monotonic_ms())
            else:
                effects = self._inputs.popleft()()
            for effect in effects:
                self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case SaveState(state):
                self._files.save(state)
            case Send(node_id, request, timeout_ms):
                self._send(node_id, request, timeout_ms)
            case Reply(token, reply, data):
                self._reply(token, reply, data)
            case Refuse(token, error):
                tell_back(token.reply_to, Refusal(token.call, token.index, error))
            case ReadSnapshot(token, request):
                self._read_snapshot(token, request)
            case HighWatermark(offset):
                self._commit(offset)
            case LeaderChanged(leader_id, epoch):
                self._tell(CONTROLLER, QuorumLeader(leader_id, epoch))
            case StartedLeading(epoch):
                self._leads_in = epoch
                logger.info("node %d leads the metadata quorum in epoch %d", self._files.me.node_id, epoch)
                self._start_leading(epoch)
            case StoppedLeading(epoch):
                self._leads_in = _NO_LEADER
                logger.info("node %d leads no more in epoch %d", self._files.me.node_id, epoch)
            case _:
                self._change_log(effect)

    def _change_log(self, effect: Effect) -> None:
        match effect:
            case AppendLeaderChange(epoch, leader_id):
                self._append([LeaderChange(leader_id, epoch)], epoch)
            case AppendVoters(epoch, voters):
                self._append_voters(epoch, voters)
            case AppendFetched(epoch, offset):
                self._append_fetched(epoch, offset)
            case TruncateTo(offset):
                logger.info("the metadata log is cut from %d to %d", self._log.end_offset, offset)
                self._log.truncate_to(offset)
                self._log_changed = True
            case WriteSnapshot(snapshot, position):
                assert self._received is not None, "a snapshot is written that did not come"
                asked, part = self._received
                if not self._snapshots.write(snapshot, position, part):
                    self._next(self.machine.request_failed, asked.node_id, asked.request)
            case InstallSnapshot():
                if self._snapshots.is_fetching:
                    self._submit(self._snapshots.finish_fetch, self._snapshot_fetched)
                else:
                    self._next(self.machine.snapshot_failed)
            case _:
                assert False, f"the quorum does not know {effect!r}"  # noqa: B011, PT015 - a closed union

    # ---- the log

    def _append(self, records: Sequence[MetadataRecord], epoch: int) -> None:
        """Append as the leader. Raises StorageError or InvalidRequestError, and nothing has changed then."""
        before = self._log.end_offset
        self._log.append(records, self.context.clock.wall_ms(), epoch)
        self._note_appended(before)

    def _note_appended(self, before: int) -> None:
        """Tell the machine of the voters that were appended from an offset on, and soon of the log's end."""
        self._log_changed = True
        for offset, voters in self._log.voters:
            if offset >= before:
                self.machine.voters_appended(offset, voters)

    def _append_metadata(self, message: AppendMetadata) -> None:
        if message.epoch != self._leads_in:
            logger.info("a decision of epoch %d comes too late: this node leads no more in it", message.epoch)
            return
        if message.basis != self._basis:
            logger.info("a decision for offset %d is void: it rests on an image that was taken back", message.offset)
            return
        assert message.offset == self._log.end_offset, f"{message} does not fit the log's end {self._log.end_offset}"
        try:
            self._append(message.records, message.epoch)
        except BrokerError as error:
            logger.error("%d metadata records were not appended: %s", len(message.records), error.message)  # noqa: TRY400
            self._basis += 1
            self._tell(CONTROLLER, AppendRefused(message.epoch, self._log.image, self._basis, error))

    def _start_leading(self, epoch: int) -> None:
        """Let the controller go on from what the log holds now; what it has decided before it hears of this is void."""
        self._basis += 1
        self._tell(CONTROLLER, StartLeading(epoch, self._log.image, self._basis))

    def _append_voters(self, epoch: int, voters: Sequence[Voter]) -> None:
        leads = self._leads_in == epoch
        try:
            self._append([SetVoters([(voter.node_id, voter.directory_id) for voter in voters])], epoch)
        except StorageError as error:
            if not leads:  # a founder's own: it cannot begin
                raise
            logger.error("the voters were not changed: %s", error.message)  # noqa: TRY400 - the sentence says all
            self._next(self.machine.voters_refused, error)
            return
        if leads:
            self._start_leading(epoch)

    def _append_fetched(self, epoch: int, offset: int) -> None:
        assert self._received is not None, "batches are appended that did not come"
        asked, data = self._received
        before = self._log.end_offset
        try:
            self._log.append_as_follower(data, offset, epoch)
        except BrokerError as error:
            if error.message != self._not_appended:
                self._not_appended = error.message
                logger.warning("metadata that node %d has sent were not appended: %s", asked.node_id, error.message)
            self._next(self.machine.request_failed, asked.node_id, asked.request)
            return
        self._not_appended = ""
        self._note_appended(before)

    def _flush(self) -> None:
        job = self._log.start_flush()  # none while one is under way
        if job is not None:
            self._submit(job.run, partial(self._flushed, job))

    def _flushed(self, job: Any, error: Exception | None) -> None:
        assert error is None, f"flushing the metadata log failed: {error}; the node stops and recovers from it"
        self._log.finish_flush(job)
        self._input(self.machine.log_flushed)

    def _commit(self, offset: int) -> None:
        if self._log.commit(offset):
            self._publish()
        if self._leads_in != _NO_LEADER:
            self._tell(CONTROLLER, MetadataCommitted(self._leads_in, offset))

    def _publish(self) -> None:
        image = self._log.committed
        if self._files.me.node_id in image.nodes:
            self.context.folder.note_registered()
        self._tell(METADATA_KEEPER, ImageCommitted(image))
        self._set_peers(image.nodes)

    def _submit(self, work: Callable[[], None], then: Callable[[Exception | None], None]) -> None:
        """Have other threads do something, and go on with a message."""
        tell = self.reactor.tell

        def done(error: Exception | None) -> None:
            tell(QUORUM, WorkDone(then, error))  # not heard once this actor has stopped and closed the log

        self.context.flusher.submit(work, done)

    # ---- snapshots

    def _take_snapshot(self) -> None:
        work = self._snapshots.start()
        if work is not None:
            self._submit(work, self._snapshot_taken)

    def _snapshot_taken(self, error: Exception | None) -> None:
        snapshot = self._snapshots.finish(error)
        if snapshot is not None:
            self.machine.snapshot_written(snapshot)

    def _snapshot_fetched(self, error: Exception | None) -> None:
        snapshot = self._snapshots.install(error)
        if snapshot is None:
            self._input(self.machine.snapshot_failed)
            return
        self._publish()
        (voters,) = self._log.voters or [VoterSet(snapshot.offset - 1, [])]
        self._input(self.machine.snapshot_installed, snapshot, voters)

    def _read_snapshot(self, call: QuorumCall, request: FetchSnapshotRequest) -> None:
        try:
            size, part = self._snapshots.read(request, _READ_BYTES_MAX)
        except BrokerError as error:
            tell_back(call.reply_to, Refusal(call.call, call.index, error))
            return
        reply = FetchSnapshotReply(self.machine.epoch, self.machine.leader_id, size, request.position)
        tell_back(call.reply_to, PeerAnswer(call.call, call.index, reply, frames=[part]))

    # ---- other nodes

    def _send(self, node_id: int, request: Request, timeout_ms: float) -> None:
        asked = Asked(node_id, request)
        message = AskPeer(self.actor_ref, asked, 0, request, timeout_ms=timeout_ms)
        if not self.reactor.tell(peer_address(node_id), message):
            self._next(self.machine.request_failed, node_id, request)

    def _on_answer(self, message: PeerAnswer | Refusal) -> None:
        asked = message.call
        if isinstance(asked, PassedOn):
            call = asked.call
            message.call, message.index = call.call, call.index
            tell_back(call.reply_to, message)
        elif isinstance(message, Refusal):
            logger.debug("node %d did not answer %r: %s", asked.node_id, asked.request, message.error.message)
            self._input(self.machine.request_failed, asked.node_id, asked.request)
        else:
            data = message.frames[0] if message.frames else b""
            self._received = (asked, data)
            self._input(self.machine.handle_reply, asked.node_id, asked.request, message.body, len(data))
            self._received = None

    def _on_link(self, message: PeerChanged) -> None:
        node_id = message.node_id
        if message.state is LinkState.UP:
            self._linked[node_id] = None
        else:
            self._linked.pop(node_id, None)
        self._set_peers(self._log.committed.nodes)
        if message.state is LinkState.UP:
            self._input(self.machine.peer_up, node_id)
        elif message.state is LinkState.REFUSED:
            self._input(self.machine.peer_gone, node_id)

    def _set_peers(self, nodes: Iterable[int]) -> None:
        """Say who can be asked who leads: the cluster's nodes, and whoever there is a link to."""
        peers = sorted({*nodes, *self._linked} - {self._files.me.node_id})
        if peers != self._peers:
            self._peers = peers
            self._next(self.machine.peers_changed, peers)

    def _on_call(self, call: QuorumCall) -> None:
        if isinstance(call.request, DescribeQuorumRequest):
            self._describe(call)
        else:
            self._input(partial(_HANDLERS[type(call.request)], self.machine), call.request, call)

    def _describe(self, call: QuorumCall) -> None:
        """Answer, or have the leader answer."""
        machine, clock = self.machine, self.context.clock
        leader_id = machine.leader_id
        if machine.is_leader:
            reply = machine.describe(clock.monotonic_ms(), clock.wall_ms())
            tell_back(call.reply_to, PeerAnswer(call.call, call.index, reply))
        elif leader_id == NOBODY:
            error = NotControllerError("nobody leads the metadata quorum at the moment")
            tell_back(call.reply_to, Refusal(call.call, call.index, error))
        else:
            ask_peer(self.reactor, leader_id, AskPeer(self.actor_ref, PassedOn(call), 0, DescribeQuorumRequest()))

    def _reply(self, call: QuorumCall, reply: Body, data: LogRange | None) -> None:
        frames = [b""] if isinstance(reply, QuorumFetchReply | FetchSnapshotReply) else []
        if data is not None:
            try:
                frames = [self._log.read(data.offset, data.end_offset, min(data.max_bytes, _READ_BYTES_MAX))]
            except BrokerError as error:
                logger.error("metadata from offset %d on cannot be sent: %s", data.offset, error.message)  # noqa: TRY400
                tell_back(call.reply_to, Refusal(call.call, call.index, error))
                return
        tell_back(call.reply_to, PeerAnswer(call.call, call.index, reply, frames=frames))

    # ---- this node

    def _tell(self, address: str, message: Message) -> None:
        told = self.reactor.tell(address, message)
        assert told or self.context.reactor.stopping, f"nobody lives at {address} to hear {message!r}"

    def _set_timer(self) -> None:
        """Be woken when the machine wants it, or earlier."""
        due_ms = self.machine.next_deadline()
        if due_ms == NEVER or (self._timer is not None and self._timer.active and self._timer.when_ms <= due_ms):
            return
        if self._timer is not None:
            self._timer.cancel()
        reactor = self.reactor
        self._timer = reactor.call_later(
            due_ms - self.context.clock.monotonic_ms(), lambda: reactor.tell(QUORUM, Tick())
        )
