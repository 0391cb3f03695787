"""`zmqbroker produce`: send lines from standard input or a file as records, one record for each line.

A line ends with a newline, which is not part of the record. With a key separator, what stands before its first
occurrence is the key. Returns when every record is acknowledged.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from ..client.producer import Producer
from ..errors import ConfigError, ZmqBrokerError
from .common import add_producing, add_server, client_settings, natural, print_json, say
from .connect import check_topic

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "--topic", required=True, help="where to; created if it does not exist and the broker allows it"
    )
    parser.add_argument("--file", metavar="FILE", default="-", help="what to send (default - : standard input)")
    parser.add_argument("--key-separator", metavar="TEXT", help="what stands between key and value on each line")
    parser.add_argument("--partition", type=natural, metavar="N", help="send all to this partition")
    parser.add_argument("--max-messages", type=natural, metavar="N", help="stop after this many lines")
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="json: print the summary on standard output"
    )
    add_producing(parser)
    add_server(parser)


class _Tally:
    """What became of the records; written by the producer's thread."""

    def __init__(self) -> None:
        self.acked = 0
        self.failed = 0
        self.first_failure: BaseException | None = None

    def ack(self, _metadata: object) -> None:
        """Count a record that the broker has."""
        self.acked += 1

    def fail(self, error: BaseException) -> None:
        """Count a record that it has not."""
        self.failed += 1
        if self.first_failure is None:
            self.first_failure = error


def run(args: Namespace) -> int:
    """Send until the input ends."""
    if args.key_separator == "":
        message = "--key-separator: an empty text separates nothing"
        raise ConfigError(message)
    with _opened(args.file) as source:
        check_topic(args.topic, args)
        tally = _Tally()
        settings = {"acks": args.acks, "compression_type": args.compression, **client_settings(args.properties)}
        interrupted = False
        with Producer(bootstrap_servers=args.bootstrap_server, **settings) as producer:
            try:
                sent_bytes = _send_lines(producer, source, args, tally)
            except KeyboardInterrupt:  # what was read is still sent: Ctrl-C is how a person ends typing
                interrupted, sent_bytes = True, -1
            producer.flush()
    return _summarise(args, tally, sent_bytes, interrupted=interrupted)


def _send_lines(producer: Producer, source: BinaryIO, args: Namespace, tally: _Tally) -> int:
    separator = args.key_separator.encode() if args.key_separator else None
    sent_bytes = 0
    with _progress(source) as advance:
        for number, line in enumerate(source, start=1):
            if args.max_messages is not None and number > args.max_messages:
                break
            key, value = _split(line.removesuffix(b"\n"), separator, number)
            future = producer.send(args.topic, value, key=key, partition=args.partition)
            future.add_callback(tally.ack)
            future.add_errback(tally.fail)
            sent_bytes += len(line)
            advance(len(line))
            if tally.first_failure is not None:
                break
    return sent_bytes


def _split(line: bytes, separator: bytes | None, number: int) -> tuple[bytes | None, bytes]:
    if separator is None:
        return None, line
    key, found, value = line.partition(separator)
    if not found:
        message = f"line {number} has no key separator {separator.decode()!r}: {line[:60].decode(errors='replace')!r}"
        raise ConfigError(message)
    return key, value


def _summarise(args: Namespace, tally: _Tally, sent_bytes: int, *, interrupted: bool) -> int:
    if args.format == "json":
        print_json(
            {"topic": args.topic, "acknowledged": tally.acked, "failed": tally.failed, "interrupted": interrupted}
        )
    if tally.first_failure is not None:
        error = tally.first_failure
        why = error.message if isinstance(error, ZmqBrokerError) else str(error)
        say(f"zmqbroker: {tally.failed} records were not acknowledged, the first because {why}")
        return 1
    sent = f" ({sent_bytes:,} bytes)" if sent_bytes >= 0 else ""
    verb = "sent without acknowledgement" if args.acks == "0" else "acknowledged"
    say(f"{tally.acked:,} records{sent} {verb} in topic {args.topic}")
    return 0


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
