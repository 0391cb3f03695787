"""A node whose software speaks the protocol versions LOWEST to HIGHEST; it says where it listens, or why not."""

from __future__ import annotations

import json
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader

LOWEST, HIGHEST = int(sys.argv[1]), int(sys.argv[2])
MODULE = "zmqbroker.transport.message_base"


class Loader(SourceFileLoader):
    """Loads the module that says which versions are spoken, with these instead."""

    def get_code(self, fullname):  # noqa: ARG002 - as the loader's own
        text = self.get_data(self.path).decode()
        changed = text.replace("PROTOCOL_VERSION = 0", f"PROTOCOL_VERSION = {HIGHEST}")
        changed = changed.replace("MIN_VERSION: ClassVar[int] = 0", f"MIN_VERSION: ClassVar[int] = {LOWEST}")
        assert changed.count(str(HIGHEST)) > text.count(str(HIGHEST)) or HIGHEST == 0
        return self.source_to_code(changed.encode(), self.path)


class Finder(MetaPathFinder):
    """Finds that module."""

    def find_spec(self, name, path, target=None):
        spec = PathFinder.find_spec(name, path, target) if name == MODULE else None
        if spec is not None:
            spec.loader = Loader(MODULE, spec.origin)
        return spec


sys.meta_path.insert(0, Finder())

from zmqbroker.actors.node import Node  # noqa: E402 - after its versions are set
from zmqbroker.errors import ZmqBrokerError  # noqa: E402
from zmqbroker.settings import broker_config  # noqa: E402


def say(address):
    sys.stdout.write(f"ready {address.host} {address.port}\n")
    sys.stdout.flush()


node = Node(broker_config(json.loads(sys.argv[3])), on_ready=say)
try:
    node.run()
except ZmqBrokerError as refusal:
    sys.stdout.write(f"refused {refusal}\n")
