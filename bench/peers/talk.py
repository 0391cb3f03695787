"""A process of child.py that says a word when it is ready, works until it hears one, and then says what it found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rows.talk import Child

CHILD = Path(__file__).with_name("child.py")


class PeerChild(Child):
    """Ends with its `with` block at the latest; differs from the other in its program alone."""

    def __init__(self, *words: str) -> None:
        self._verb = words[0]
        self._process = subprocess.Popen([sys.executable, CHILD, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
