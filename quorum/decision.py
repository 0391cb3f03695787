"""What the controller's decisions return."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..transport.message_base import Body
    from .records import MetadataRecord


class Decision(NamedTuple):
    """Records to append, and the reply to send once they are committed."""

    records: list[MetadataRecord]
    reply: Body
