"""`zmqbroker queues redrive`: put dead letters back into the topics that they came from, and let go of them.

Each is taken by the queue DEAD-LETTER-TOPIC.redrive, stored in its topic by all in-sync replicas, and only then
acknowledged: one that is interrupted may be put back twice, and none is lost. The dead-letter topic keeps its records;
that queue knows which were put back.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ..client.admin import ConfigResource
from ..client.producer import Producer
from ..client.share_consumer import ShareConsumer
from ..errors import ConfigError, GroupIdNotFoundError
from ..groups.dead_letter import PREFIX
from ..groups.share_batches import DELIVER_AT
from .common import add_format, add_server, print_json, print_table, say, topic_name
from .connect import admin
from .group_tables import add_limit, counted
from .queue_records import partitions_of, waiting

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable

    from ..client.admin import Admin
    from ..client.share_types import ShareRecord
    from ..client.types import ConsumerRecord

ORIGIN = f"{PREFIX}topic"
NO_ORIGIN = ""
_QUIET_MS = 1000
_BATCH = 500
_SETTINGS = {"share.auto.offset.reset": "earliest", "share.delivery.count.limit": "1000"}
"""All dead letters that there are, however often this was interrupted."""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--group", metavar="G", help="the queue whose dead letters shall be put back")
    whose.add_argument("--topic", type=topic_name, help="the dead-letter topic itself")
    add_limit(parser, None, "at most so many")
    parser.add_argument("--dry-run", action="store_true", help="only say how many would go where")
    add_format(parser)
    add_server(parser)


def run(args: Namespace) -> int:
    """Print how many went where."""
    with admin(args) as client:
        topic = args.topic or _dead_letter_topic(client, args.group)
        group = f"{topic}.redrive"
        client.describe_topics([topic])  # a wrong name is refused
        if args.dry_run:
            letters = waiting(client, args, group, partitions_of(client, group, [topic]), args.limit)
            done = Counter(_origin(letter.record) for letter in letters)
        elif _is_finished(client, args, topic, group):
            done = Counter()
        else:
            client.alter_configs({ConfigResource.group(group): _SETTINGS})
            done = _redrive(args, topic, group)
    _report(args, topic, done)
    return 0


def _dead_letter_topic(client: Admin, group_id: str) -> str:
    (group,) = client.describe_share_groups([group_id])
    if group.dead_letter_topic is None:
        message = f"queue {group_id!r} has no dead-letter topic: what it gives up is dropped"
        raise ConfigError(message)
    return group.dead_letter_topic


def _is_finished(client: Admin, args: Namespace, topic: str, group_id: str) -> bool:
    """Whether there is nothing to put back: known at once, while only time could tell a consumer."""
    try:
        (group,) = client.describe_share_groups([group_id])
    except GroupIdNotFoundError:
        pass
    else:
        if group.partitions:
            return not any(partition.lag for partition in group.partitions)
    return not waiting(client, args, group_id, partitions_of(client, group_id, [topic]), 1)


def _redrive(args: Namespace, topic: str, group_id: str) -> Counter[str]:
    done: Counter[str] = Counter()
    patience_ms = args.request_timeout_ms  # until the first comes, as the queue may have to be made
    with (
        Producer(bootstrap_servers=args.bootstrap_server, request_timeout_ms=args.request_timeout_ms) as producer,
        ShareConsumer(
            topic,
            bootstrap_servers=args.bootstrap_server,
            request_timeout_ms=args.request_timeout_ms,
            group_id=group_id,
            acknowledgement_mode="explicit",
        ) as consumer,
    ):
        while args.limit is None or done.total() < args.limit:
            most = _BATCH if args.limit is None else min(_BATCH, args.limit - done.total())
            letters = consumer.poll(timeout_ms=patience_ms, max_records=most)
            if not letters:
                break
            patience_ms = _QUIET_MS
            _put_back(producer, letters)
            for letter in letters:
                consumer.acknowledge(letter)
            consumer.commit()
            done.update(map(_origin, letters))
    return done


def _put_back(producer: Producer, letters: Iterable[ShareRecord]) -> None:
    """Store letters in the topics that they came from. Raises what went wrong with the first that failed."""
    sent = [
        producer.send(origin, key=letter.key, value=letter.value, headers=own_headers(letter.headers))
        for letter in letters
        if (origin := _origin(letter)) != NO_ORIGIN
    ]
    producer.flush()
    for future in sent:
        future.get()


def own_headers(headers: Iterable[tuple[str, bytes | None]]) -> list[tuple[str, bytes | None]]:
    """What the record had of its own, without when it should be delivered first: that is over."""
    return [(name, value) for name, value in headers if name != DELIVER_AT and not name.startswith(PREFIX)]


def _origin(letter: ConsumerRecord | ShareRecord) -> str:
    """The topic that a letter came from."""
    return next((value.decode() for name, value in letter.headers if name == ORIGIN and value), NO_ORIGIN)


def _report(args: Namespace, topic: str, done: Counter[str]) -> None:
    strange = done.pop(NO_ORIGIN, 0)
    if args.format == "json":
        print_json(
            {
                "dead_letter_topic": topic,
                "dry_run": args.dry_run,
                "redriven": dict(sorted(done.items())),
                "skipped": strange,
            }
        )
    elif done:
        print_table(["topic", "records"], sorted(done.items()))
    say(f"{counted(done.total(), 'dead letter')} of {topic} {'to be put back' if args.dry_run else 'put back'}")
    if strange:
        say(f"{counted(strange, 'record')} without header {ORIGIN}, and so no dead letter: left where it is")
