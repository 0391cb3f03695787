"""What every message is made of: bounded numbers, bodies, and requests that know their API and their reply."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

Int8 = Annotated[int, Meta(ge=-(2**7), le=2**7 - 1)]
Int16 = Annotated[int, Meta(ge=-(2**15), le=2**15 - 1)]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
"""A size, a time-out or an index: 0 to 2^31-1."""
Name = Annotated[str, Meta(max_length=1024)]
"""A short text; a topic's own rules are checked where topics are, with an error of their own."""

PROTOCOL_VERSION = 0
"""The newest version of every request that is spoken here."""


class Body(Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """Base of every body."""


class Request(Body):
    """Base of every request body."""

    API: ClassVar[int]
    REPLY: ClassVar[type[Body]]
    BATCHES: ClassVar[bool] = False
    """Whether frames with record batches follow the request's envelope."""
    MIN_VERSION: ClassVar[int] = 0
    MAX_VERSION: ClassVar[int] = PROTOCOL_VERSION
    """The versions of this request that are spoken here: two sides use the newest that both speak."""
