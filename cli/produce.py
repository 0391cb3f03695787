"""`zmqbroker produce`: send lines from standard input or a file as records, one record for each line.

A line ends with a newline, which is not part of the record. With a key separator, what stands before its first
occurrence is the key. Returns when every record is acknowledged.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentTypeError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from time import time_ns
from typing import TYPE_CHECKING, BinaryIO

from ..client.producer import Producer
from ..errors import ConfigError
from ..setting_values import MILLISECONDS, Setting, parse
from .common import add_producing, add_server, natural, natural64, print_json, producer_settings, say, topic_name
from .connect import check_reachable

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator

    from ..client.futures import RecordFuture

_DELAY = Setting("delay", "--delay", 0, "how long delivery waits", MILLISECONDS, at_least=0)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "--topic",
        type=topic_name,
        required=True,
        help="where to; created if it does not exist and the broker allows it",
    )
    parser.add_argument("--file", metavar="FILE", default="-", help="what to send (default - : standard input)")
    parser.add_argument("--key-separator", metavar="TEXT", help="what stands between key and value on each line")
    parser.add_argument("--partition", type=natural, metavar="N", help="send all to this partition")
    when = parser.add_mutually_exclusive_group()
    when.add_argument(
        "--deliver-at",
        metavar="TIME",
        type=_time,
        help="share groups deliver the records not before this time (ISO 8601; without a zone: local time)",
    )
    when.add_argument(
        "--delay",
        metavar="DURATION",
        type=_delay,
        help="... not before so long after each is sent: 10s, 5m, 2h, or a number of ms",
    )
    parser.add_argument("--max-messages", type=natural64, metavar="N", help="stop after this many lines")
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="json: print the summary on standard output"
    )
    add_producing(parser)
    add_server(parser)


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        message = f"{text!r} is no time such as 2030-01-31T08:00 or 2030-01-31T08:00:00+01:00"
        raise ArgumentTypeError(message) from None


def _delay(text: str) -> int:
    try:
        return int(parse(_DELAY, "--delay", text))
    except ConfigError as error:
        raise ArgumentTypeError(error.message) from None


def run(args: Namespace) -> int:
    """Send until the input ends, and wait for the acknowledgements. Raises what made records fail."""
    if args.key_separator == "":
        message = "--key-separator: an empty text separates nothing"
        raise ConfigError(message)
    sent = _Sent()
    with _opened(args.file) as source:
        check_reachable(args)
        with Producer(**producer_settings(args)) as producer:
            with suppress(KeyboardInterrupt):  # how a person ends typing; what was read is still sent
                _send_lines(producer, source, args, sent)
            producer.flush()
    if args.format == "json":
        print_json({"topic": args.topic, "records": sent.records, "bytes": sent.bytes, "acks": args.acks})
    verb = "sent without acknowledgement" if args.acks == "0" else "acknowledged"
    say(f"{sent.records:,} records ({sent.bytes:,} bytes) {verb} in topic {args.topic}")
    return 0


@dataclass
class _Sent:
    """How much was handed to the producer."""

    records: int = 0
    bytes: int = 0


def _send_lines(producer: Producer, source: BinaryIO, args: Namespace, sent: _Sent) -> None:
    separator = args.key_separator.encode() if args.key_separator else None
    probe: RecordFuture | None = None
    with _progress(source) as advance:
        for line in source:
            if sent.records == args.max_messages:
                return
            key, value = _split(line.removesuffix(b"\n"), separator, sent.records + 1)
            deliver_at = args.deliver_at if args.delay is None else time_ns() // 1_000_000 + args.delay
            future = producer.send(args.topic, value, key=key, partition=args.partition, deliver_at=deliver_at)
            sent.records += 1
            sent.bytes += len(line)
            advance(len(line))
            # One record at a time is watched, so that a broker that takes nothing more ends this before the input does.
            if probe is None or probe.is_done():
                if probe is not None and probe.failed():
                    return
                probe = future


def _split(line: bytes, separator: bytes | None, number: int) -> tuple[bytes | None, bytes]:
    if separator is None:
        return None, line
    key, found, value = line.partition(separator)
    if not found:
        message = f"line {number} has no key separator {separator.decode()!r}: {line[:60].decode(errors='replace')!r}"
        raise ConfigError(message)
    return key, value


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
        return
    with open(file, "rb") as source:  # noqa: PTH123 - pathlib would be an import more for one call
        yield source


class _Silent:
    """No progress bar: nobody is there to see it."""

    def __call__(self, amount: int) -> None:
        """Do nothing."""


@contextmanager
def _progress(source: BinaryIO) -> Iterator[_Silent | _Bar]:
    """A progress bar on a terminal's standard error, unless the lines are typed at that very terminal."""
    if not sys.stderr.isatty() or source.isatty():
        yield _Silent()
        return
    bar = _Bar(source)
    try:
        yield bar
    finally:
        bar.close()


class _Bar:
    """Bytes sent of those in the file; of a pipe, whose end nobody knows, bytes sent."""

    def __init__(self, source: BinaryIO) -> None:
        from rich.console import Console  # noqa: PLC0415 - 40 ms that only a person at a terminal waits for
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn  # noqa: PLC0415

        size = os.fstat(source.fileno()).st_size
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("", total=size or None)
        self._pending = 0
        self._progress.start()

    def __call__(self, amount: int) -> None:
        """So many bytes more; drawn in steps, since a line takes less time than a call into rich."""
        self._pending += amount
        if self._pending >= 1 << 16:
            self._progress.advance(self._task, self._pending)
            self._pending = 0

    def close(self) -> None:
        """Draw the rest and leave the terminal as it was."""
        self._progress.advance(self._task, self._pending)
        self._progress.stop()
