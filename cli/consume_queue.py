"""`zmqbroker consume --queue`: print records out of a queue, and acknowledge each once it is printed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ..client.share_consumer import ShareConsumer
from ..errors import ConfigError
from .common import consumer_settings, say

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from ..client.share_types import ShareRecord

_POLL_MS = 200
"""How long one poll waits: bounds how late a signal is noticed."""
_AT_ONCE = 500


def run_queue(args: Namespace, printer: Callable[[list[ShareRecord]], bytes]) -> int:
    """Print until one of the ends is reached. What is not printed by then stays in the queue."""
    for flag in ("group", "partition", "offset", "from_beginning", "isolation_level"):
        value = getattr(args, flag)
        if value is not None and value is not False:
            name = "--" + flag.replace("_", "-")
            message = f"--queue and {name} do not go together: a queue decides what its consumers get; leave out {name}"
            raise ConfigError(message)
    settings: dict[str, Any] = {**consumer_settings(args), "group_id": args.queue, "acknowledgement_mode": "explicit"}
    printed = 0
    with ShareConsumer(args.topic, **settings) as consumer:
        try:
            while args.max_messages is None or printed < args.max_messages:
                wanted = _AT_ONCE if args.max_messages is None else min(_AT_ONCE, args.max_messages - printed)
                records = _poll(consumer, args.timeout_ms, wanted)
                if not records:
                    break
                sys.stdout.buffer.write(printer(records))
                sys.stdout.buffer.flush()
                consumer.acknowledge(records)
                printed += len(records)
        except KeyboardInterrupt:  # the usual way to end it
            pass
        consumer.commit()
    say(f"{printed:,} records taken from queue {args.queue} of topic {args.topic}")
    return 0


def _poll(consumer: ShareConsumer, timeout_ms: int | None, wanted: int) -> list[ShareRecord]:
    """Wait for records, in pieces so that Ctrl-C is noticed; an empty list when the time is over."""
    left = timeout_ms
    while True:
        wait = _POLL_MS if left is None else min(_POLL_MS, left)
        records = consumer.poll(wait, wanted)
        if records:
            return records
        if left is not None:
            left -= wait
            if left <= 0:
                return []
