"""What verbs do first with a broker: reach it within a bounded time, and say so in one sentence if it is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..client.admin import Admin

if TYPE_CHECKING:
    from argparse import Namespace


def admin(args: Namespace) -> Admin:
    """Connect an admin client as the flags of `add_server` say."""
    timeout_ms = args.request_timeout_ms
    return Admin(
        bootstrap_servers=args.bootstrap_server, request_timeout_ms=timeout_ms, default_api_timeout_ms=timeout_ms
    )
