"""`zmqbroker consume`: print records, one line for each, from now on or --from-beginning.

Runs until --max-messages are printed, --timeout-ms have passed without a record, or Ctrl-C. A reader that closes the
pipe (`| head`) ends it too. The text format writes keys and values as the bytes they are.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentTypeError
from typing import TYPE_CHECKING

from ..client.consumer import Consumer
from ..client.types import ConsumerRecord, TopicPartition
from ..errors import CommitFailedError, ConfigError, UnknownTopicOrPartitionError
from .common import (
    add_format,
    add_properties,
    add_server,
    as_text,
    consumer_settings,
    natural,
    natural64,
    positive,
    positive64,
    say,
    topic_name,
)

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable

    from ..client.share_types import ShareRecord

POLL_MS = 200
"""How long one poll waits: bounds how late a signal is noticed."""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--topic", type=topic_name, required=True, help="what to read")
    parser.add_argument("--partition", type=natural, metavar="N", help="read this partition only (default: all)")
    parser.add_argument(
        "--group",
        metavar="G",
        help="read as a member of this consumer group, from its offsets on, and commit what is printed",
    )
    parser.add_argument(
        "--queue", metavar="G", help="take records out of this share group's queue, and acknowledge what is printed"
    )
    parser.add_argument("--from-beginning", action="store_true", help="start with the oldest record there is")
    parser.add_argument(
        "--offset", type=_offset, metavar="N|earliest|latest", help="where to start; a number needs --partition"
    )
    parser.add_argument(
        "--isolation-level",
        choices=("read_uncommitted", "read_committed"),
        help="with read_committed, no record of a transaction that is open or was aborted (default: all records)",
    )
    parser.add_argument("--max-messages", type=positive64, metavar="N", help="stop after this many records")
    parser.add_argument("--timeout-ms", type=positive, metavar="MS", help="stop after so long without a record")
    parser.add_argument("--print-key", action="store_true", help="write the key before the value")
    parser.add_argument("--print-timestamp", action="store_true", help="write the timestamp in ms")
    parser.add_argument("--print-partition", action="store_true", help="write the partition")
    parser.add_argument("--print-offset", action="store_true", help="write the offset")
    parser.add_argument("--print-headers", action="store_true", help="write the headers as name:value,...")
    parser.add_argument(
        "--key-separator", metavar="TEXT", default="\t", help="what to write between these (default: a tab)"
    )
    add_format(parser)
    add_properties(parser, "consumer", "fetch_max_wait_ms=100")
    add_server(parser)


def _offset(text: str) -> int | str:
    if text in ("earliest", "latest"):
        return text
    if text.isascii() and text.isdecimal():
        return natural64(text)
    message = f"{text!r} is neither a number from 0 up nor earliest or latest"
    raise ArgumentTypeError(message)


def run(args: Namespace) -> int:
    """Print until one of the ends is reached."""
    if args.queue is not None:
        from .consume_queue import run_queue  # noqa: PLC0415 - only a queue needs it

        return run_queue(args, _json_lines if args.format == "json" else _Text(args).lines)
    if isinstance(args.offset, int) and args.partition is None:
        message = "--offset with a number needs --partition: each partition counts its own offsets"
        raise ConfigError(message)
    if args.from_beginning and args.offset is not None:
        message = "--from-beginning and --offset say different things about where to start; give one of them"
        raise ConfigError(message)
    reset = "earliest" if args.from_beginning or args.offset == "earliest" else "latest"
    settings = consumer_settings(args, auto_offset_reset=reset, max_poll_records=5_000)
    if args.isolation_level is not None:
        settings["isolation_level"] = args.isolation_level
    if args.group is not None:
        settings["group_id"] = args.group
        settings["enable_auto_commit"] = False
    printed = 0
    with Consumer(**settings) as consumer:
        _point(consumer, args)
        printer = _json_lines if args.format == "json" else _Text(args).lines
        try:
            while args.max_messages is None or printed < args.max_messages:
                records = _poll(consumer, args.timeout_ms)
                if not records:
                    break
                if args.max_messages is not None:
                    records = records[: args.max_messages - printed]
                printed += len(records)  # first: Ctrl-C may come between the two
                sys.stdout.buffer.write(printer(records))
                sys.stdout.buffer.flush()
                if args.group is not None:
                    _commit(consumer, records)
        except KeyboardInterrupt:  # the usual way to end it
            pass
    say(f"{printed:,} records read from topic {args.topic}")
    return 0


def _point(consumer: Consumer, args: Namespace) -> None:
    """Tell the consumer what to read and where to start. Raises if no broker answers, or has no such partition."""
    there = consumer.partitions_for_topic(args.topic)
    if args.partition is None:
        consumer.subscribe([args.topic])
        return
    if args.partition not in (there or ()):
        has = f"has {len(there)} partitions, numbered from 0" if there else "does not exist"
        message = f"there is no partition {args.partition} of topic {args.topic}: the topic {has}"
        raise UnknownTopicOrPartitionError(message)
    partition = TopicPartition(args.topic, args.partition)
    consumer.assign([partition])
    if isinstance(args.offset, int):
        consumer.seek(partition, args.offset)


def _poll(consumer: Consumer, timeout_ms: int | None) -> list[ConsumerRecord]:
    """Wait for records, in pieces so that Ctrl-C is noticed; an empty list when the time is over."""
    left = timeout_ms
    while True:
        wait = POLL_MS if left is None else min(POLL_MS, left)
        found = consumer.poll(timeout_ms=wait)
        if found:
            return [record for records in found.values() for record in records]
        if left is not None:
            left -= wait
            if left <= 0:
                return []


def _commit(consumer: Consumer, records: Iterable[ConsumerRecord]) -> None:
    """Commit what was printed; another member prints it again if this one has lost the partition."""
    offsets = {TopicPartition(record.topic, record.partition): record.offset + 1 for record in records}
    try:
        consumer.commit_async(offsets, lambda _, error: None if error is None else say(f"not committed: {error}"))
    except CommitFailedError as error:
        say(f"not committed: {error}")


def _json_lines(records: Iterable[ConsumerRecord | ShareRecord]) -> bytes:
    lines = []
    for record in records:
        fields = {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp": record.timestamp,
            **as_text("key", record.key),
            **as_text("value", record.value),
            "headers": [{"name": name, **as_text("value", value)} for name, value in record.headers],
        }
        if not isinstance(record, ConsumerRecord):
            fields["delivery_count"] = record.delivery_count
        lines.append(json.dumps(fields, separators=(",", ":"), ensure_ascii=False) + "\n")
    return "".join(lines).encode()


class _Text:
    """Writes records as lines of text."""

    def __init__(self, args: Namespace) -> None:
        self._args = args
        self._separator = args.key_separator.encode()

    def lines(self, records: Iterable[ConsumerRecord | ShareRecord]) -> bytes:
        """All the records' lines, each with its newline."""
        return b"".join(
            self._separator.join([*self._before(record), record.value or b""]) + b"\n" for record in records
        )

    def _before(self, record: ConsumerRecord | ShareRecord) -> list[bytes]:
        args = self._args
        parts = []
        if args.print_timestamp:
            parts.append(b"%d" % record.timestamp)
        if args.print_partition:
            parts.append(b"%d" % record.partition)
        if args.print_offset:
            parts.append(b"%d" % record.offset)
        if args.print_headers:
            parts.append(b",".join(name.encode() + b":" + (value or b"") for name, value in record.headers))
        if args.print_key:
            parts.append(b"null" if record.key is None else record.key)
        return parts
