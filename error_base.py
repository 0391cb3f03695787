"""The roots of the tree of errors; errors.py has the whole of it."""

from __future__ import annotations

from typing import ClassVar


class ZmqBrokerError(Exception):
    """Base of every error that zmqbroker raises on purpose."""

    retriable: ClassVar[bool] = False

    @property
    def message(self) -> str:
        """The sentence that says what was wrong."""
        return str(self.args[0]) if self.args else (self.__doc__ or type(self).__name__)


class ClientError(ZmqBrokerError):
    """Raised by the client library itself."""


class BufferTimeoutError(ClientError):
    """The producer's buffer stayed full for longer than max_block_ms."""


class ClosedError(ClientError):
    """The producer, consumer or admin client is closed."""


class CommitFailedError(ClientError):
    """The group has rebalanced: what this consumer wanted to commit may belong to another member now."""


class ConfigError(ClientError, ValueError):
    """A setting is unknown, or its value is not allowed."""


class IllegalStateError(ClientError):
    """The method cannot be called in the state that the client is in."""


class TransactionAbortedError(ClientError):
    """The transaction was aborted before the record was acknowledged."""


class BrokerError(ZmqBrokerError):
    """An error that a broker answers, with Kafka's code and name."""

    code: ClassVar[int] = -1
    name: ClassVar[str] = "UNKNOWN_SERVER_ERROR"


class RetriableError(BrokerError):
    """The same request may succeed when it is sent again, perhaps after a metadata refresh."""

    retriable = True
