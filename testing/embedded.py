"""The embedded broker: the very node of `zmqbroker start`, on a thread of this process, for tests that want one fast.

    with Broker() as broker:
        producer = Producer(bootstrap_servers=broker.bootstrap_servers)

It listens on a free port of 127.0.0.1 and keeps its data in a temporary folder, which goes when it is closed.
"""

from __future__ import annotations

import threading
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Self

from ..actors.node import Node, NodeAddress
from ..actors.node_process import host_and_port
from ..errors import ClosedError, RequestTimedOutError
from ..gateway.entry import open_gateway
from ..settings import broker_config

if TYPE_CHECKING:
    from types import TracebackType

    from ..setting_values import Value

START_TIMEOUT_MS = 30_000
STOP_TIMEOUT_MS = 30_000


class Broker:
    """One broker in this process.

    Settings are those of the broker, with underscores for dots: ``Broker(num_partitions=3, log_flush="os")``. With
    ``data_dir`` the folder is the caller's and stays; without, it is temporary and removed by ``close``.

    ``with Broker() as broker`` starts and closes it; without ``with``, call ``start`` and ``close``. ``restart`` comes
    back on the same port and data. A setting that is not known, or a value not allowed, is a ConfigError here already.
    """

    def __init__(self, *, data_dir: str | None = None, listen: str = "tcp://127.0.0.1:0", **settings: Value) -> None:
        defaults: dict[str, Value] = {"log_level": "WARNING", "kafka_listen": "tcp://127.0.0.1:0"}
        self._settings: dict[str, Value] = {**defaults, **settings, "listen": listen}
        broker_config(self._settings)
        self._owns_data = data_dir is None
        self._data_dir = data_dir
        self._node: Node | None = None
        self._thread: threading.Thread | None = None
        self._address: NodeAddress | None = None
        self._failure: BaseException | None = None
        self._settled = threading.Event()
        """Set when the node answers, or has failed."""

    @property
    def bootstrap_servers(self) -> str:
        """What clients connect to, as ``host:port``. Raises ClosedError before the first start."""
        if self._address is None:
            message = "the broker has not been started yet, so it has no address"
            raise ClosedError(message)
        return host_and_port(self._address)

    @property
    def kafka_bootstrap(self) -> str:
        """What Kafka's clients connect to, as ``host:port``. Raises ClosedError if there is no such address."""
        if self._address is None or not self._address.kafka_port:
            message = "the broker has not been started yet, or with kafka_listen='none': it has no address for Kafka"
            raise ClosedError(message)
        return host_and_port(self._address, kafka=True)

    @property
    def data_dir(self) -> str:
        """The folder of the data files. Raises ClosedError while there is none."""
        if self._data_dir is None:
            message = "the broker has not been started yet, or is closed, so it has no data folder"
            raise ClosedError(message)
        return self._data_dir

    @property
    def is_running(self) -> bool:
        """Whether the node's thread is alive."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> Self:
        """Return when the broker answers. Raises what the node refused to start for."""
        assert self._thread is None, "the broker runs already"
        if self._data_dir is None:
            self._data_dir = mkdtemp(prefix="zmqbroker-")
        if self._address is not None:
            self._settings["listen"] = f"tcp://{host_and_port(self._address)}"
            if self._address.kafka_port:
                self._settings["kafka_listen"] = f"tcp://{self.kafka_bootstrap}"
        config = broker_config({**self._settings, "data_dir": self._data_dir})
        self._failure = None
        self._settled.clear()
        self._node = Node(config, on_ready=self._on_ready, open_gateway=open_gateway)
        self._thread = threading.Thread(target=self._run, args=(self._node,), name="zmqbroker-node", daemon=True)
        self._thread.start()
        if not self._settled.wait(START_TIMEOUT_MS / 1000):
            message = f"the embedded broker was not ready within {START_TIMEOUT_MS} ms"
            raise RequestTimedOutError(message)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            self._thread.join()
            self._thread = self._node = None
            raise failure
        return self

    def stop(self, timeout_ms: int = STOP_TIMEOUT_MS) -> None:
        """Stop in good order and keep the data; no error if it is stopped. Raises what ended the node, if it failed.

        Raises RequestTimedOutError if the node has not ended in time.
        """
        thread, node = self._thread, self._node
        if thread is None or node is None:
            return
        node.stop()
        thread.join(timeout_ms / 1000)
        if thread.is_alive():
            message = f"the embedded broker has not stopped within {timeout_ms} ms"
            raise RequestTimedOutError(message)
        self._thread = self._node = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def restart(self) -> Self:
        """Stop in good order and start again with the same address, data and settings."""
        self.stop()
        return self.start()

    def close(self) -> None:
        """Stop, and remove the data folder if it is temporary."""
        try:
            self.stop()
        finally:
            if self._owns_data and self._data_dir is not None:
                from shutil import rmtree  # noqa: PLC0415 - tens of modules that a start need not wait for

                rmtree(self._data_dir, ignore_errors=True)
                self._data_dir = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _on_ready(self, address: NodeAddress) -> None:
        self._address = address
        self._settled.set()

    def _run(self, node: Node) -> None:
        try:
            node.run()
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the thread that started the broker
            self._failure = error
        finally:
            self._settled.set()
