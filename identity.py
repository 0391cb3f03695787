"""Random identities: the only place that asks the machine for randomness."""

from __future__ import annotations

import base64
import uuid


def new_id() -> str:
    """An id as Kafka writes them: 22 characters of URL-safe base64 for 16 random bytes; none looks like an option."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text
