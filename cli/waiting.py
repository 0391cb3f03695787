"""Waiting for work that a cluster does by itself, with its progress on standard error."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..errors import RequestTimedOutError
from .common import natural, say

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable

_LOOK_SECONDS = 0.2
_SAY_SECONDS = 2.0


def add_waiting(parser: ArgumentParser) -> None:
    """Declare whether to wait, and for how long."""
    parser.add_argument("--no-wait", action="store_true", help="return when the work has begun")
    parser.add_argument(
        "--wait-seconds", type=natural, default=3600, metavar="N", help="how long to wait at most (default 3600)"
    )


def wait_until_done(args: Namespace, left: Callable[[], str]) -> bool:
    """Wait until nothing is left, as a sentence or an empty text; False if nobody wanted to wait.

    Raises RequestTimedOutError; the work goes on, and the same command waits for it again.
    """
    if args.no_wait:
        return False
    end = time.monotonic() + args.wait_seconds
    say_at = time.monotonic() + _SAY_SECONDS
    while what := left():
        now = time.monotonic()
        if now >= end:
            message = f"after {args.wait_seconds} s {what}; the cluster goes on with it"
            raise RequestTimedOutError(message)
        if now >= say_at:
            say(what)
            say_at = now + _SAY_SECONDS
        time.sleep(_LOOK_SECONDS)
    return True
