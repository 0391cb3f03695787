"""`zmqbroker topics reassign`: move partitions to other nodes, or change how many replicas they have.

What is under way goes on by itself, also when nodes restart; the same command without --to shows it and waits for it.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from typing import TYPE_CHECKING

from ..client.admin_types import ConfigResource
from ..client.types import TopicPartition
from ..errors import ConfigError, UnknownTopicOrPartitionError, ZmqBrokerError
from .common import add_server, natural, replication_factor, say, topic_name
from .connect import admin
from .waiting import add_waiting, wait_until_done

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Collection, Sequence

    from ..client.admin import Admin


THROTTLE = "replication.throttled.rate"
EVERYWHERE = ConfigResource.all_brokers()


def node_list(text: str) -> list[int]:
    """Read node ids with commas between them, for argparse."""
    nodes = [natural(part) for part in text.split(",")]
    if len(set(nodes)) != len(nodes):
        message = f"{text!r} names a node twice"
        raise ArgumentTypeError(message)
    return nodes


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--topic", type=topic_name, required=True, help="which")
    parser.add_argument(
        "--partition", type=natural, action="append", metavar="N", help="which of its partitions; may be repeated"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--to", type=node_list, metavar="ID,ID", help="the nodes of its replicas, the preferred leader first"
    )
    what.add_argument(
        "--replication-factor", type=replication_factor, metavar="N", help="how many replicas it shall have"
    )
    what.add_argument("--cancel", action="store_true", help="go back to the replicas of before")
    parser.add_argument(
        "--throttle",
        metavar="BYTES/S",
        help="how much each node may fetch for new replicas, for example 50MB, until all moves are done; 0: no limit",
    )
    add_waiting(parser)
    add_server(parser)


def run(args: Namespace) -> int:
    """Begin the moves, and wait for those of the topic."""
    if args.cancel and args.throttle is not None:
        message = "--throttle limits moves, and --cancel ends them; give one of them"
        raise ConfigError(message)
    with admin(args) as client:
        (topic,) = client.describe_topics([args.topic])
        numbers = args.partition or list(range(len(topic.partitions)))
        if max(numbers) >= len(topic.partitions):
            message = f"topic {args.topic} has {len(topic.partitions)} partitions, and no partition {max(numbers)}"
            raise ConfigError(message)
        moves = _moves(client, args, numbers)
        try:
            _begin_and_wait(client, args, moves)
        except KeyboardInterrupt:
            if args.throttle is not None:
                say(f"interrupted; {_stays(args)}")
            raise
    return 0


def _begin_and_wait(client: Admin, args: Namespace, moves: dict[TopicPartition, list[int] | None]) -> None:
    if args.throttle is None:
        _begin(client, args, moves)
    else:
        _begin_throttled(client, args, moves)
    if args.cancel:
        print(f"{len(moves)} partitions of {args.topic} go back to the replicas of before")
        return
    try:
        done = wait_until_done(args, lambda: _left(client, args.topic))
        if done:
            _end_throttle(client)
    except ZmqBrokerError as error:
        if args.throttle is not None:
            _add(error, _stays(args))
        raise
    if done:
        print(f"topic {args.topic}: every partition is where it shall be")
        return
    print(f"{len(moves)} partitions of {args.topic} are being moved")
    if args.throttle is not None:
        print(_stays(args))


def _begin(client: Admin, args: Namespace, moves: dict[TopicPartition, list[int] | None]) -> None:
    if moves:
        client.alter_partition_reassignments(moves, replication_factor=args.replication_factor or 0)


def _begin_throttled(client: Admin, args: Namespace, moves: dict[TopicPartition, list[int] | None]) -> None:
    """Limit the moves before they begin, so that they do not run without a limit; undone if they are refused."""
    rate = client.describe_configs([EVERYWHERE])[EVERYWHERE][THROTTLE]
    before = rate.value if rate.source == "cluster" else None
    client.alter_configs({EVERYWHERE: {THROTTLE: args.throttle}})
    try:
        _begin(client, args, moves)
    except ZmqBrokerError as error:
        unknown = error.retriable and not isinstance(error, UnknownTopicOrPartitionError)
        if unknown or not _undone(client, moves, before):
            _add(error, _stays(args))
        raise


def _undone(client: Admin, moves: Collection[TopicPartition], rate: str | None) -> bool:
    """Set the limit of before, unless some of several moves were begun although one was refused."""
    try:
        if any(move.partition in moves for move in client.list_partition_reassignments()):
            return False
        client.alter_configs({EVERYWHERE: {THROTTLE: rate}})
    except ZmqBrokerError:
        return False
    return True


def _stays(args: Namespace) -> str:
    """Tell of the limit that outlives this command."""
    return (
        f"{THROTTLE}={args.throttle} stays for the whole cluster;"
        f" `zmqbroker topics reassign --topic {args.topic}` waits for the moves and takes it off"
    )


def _add(error: ZmqBrokerError, more: str) -> None:
    error.args = (f"{error.message}; {more}",)


def _end_throttle(client: Admin) -> None:
    """Take a limit back once nothing moves any more, whoever has set it."""
    if (
        not client.list_partition_reassignments()
        and client.describe_configs([EVERYWHERE])[EVERYWHERE][THROTTLE].source == "cluster"
    ):
        client.alter_configs({EVERYWHERE: {THROTTLE: None}})


def _moves(client: Admin, args: Namespace, numbers: Sequence[int]) -> dict[TopicPartition, list[int] | None]:
    """The replicas that are asked for; none are named where the cluster chooses."""
    moves: dict[TopicPartition, list[int] | None] = {}
    if args.cancel:
        for move in client.list_partition_reassignments([args.topic]):
            if move.partition.partition in numbers:
                moves[move.partition] = None
    elif args.to is not None or args.replication_factor is not None:
        moves = {TopicPartition(args.topic, number): args.to or [] for number in numbers}
    return moves


def _left(client: Admin, topic: str) -> str:
    moves = client.list_partition_reassignments([topic])
    if not moves:
        return ""
    copies = sum(len(move.adding) for move in moves)
    return f"{len(moves)} partitions of {topic} are being moved, with {copies} replicas that are not in sync yet"
