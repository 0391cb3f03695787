"""The errors of transactions. Codes and names are Kafka's, as in errors.py."""

from __future__ import annotations

from .error_base import BrokerError, RetriableError


class InvalidTxnStateError(BrokerError):
    """The transaction is not in a state in which this can be done."""

    code = 48
    name = "INVALID_TXN_STATE"


class InvalidProducerIdMappingError(BrokerError):
    """The transactional id has another producer id, or none."""

    code = 49
    name = "INVALID_PRODUCER_ID_MAPPING"


class InvalidTransactionTimeoutError(BrokerError):
    """The transaction's time-out is outside of what the broker allows."""

    code = 50
    name = "INVALID_TRANSACTION_TIMEOUT"


class ConcurrentTransactionsError(RetriableError):
    """The transactional id's last transaction is still being ended."""

    code = 51
    name = "CONCURRENT_TRANSACTIONS"


class TransactionCoordinatorFencedError(BrokerError):
    """Another node coordinates this transaction since."""

    code = 52
    name = "TRANSACTION_COORDINATOR_FENCED"


class OperationNotAttemptedError(BrokerError):
    """Nothing was done about this entry, because another one of its request failed."""

    code = 55
    name = "OPERATION_NOT_ATTEMPTED"


class UnstableOffsetCommitError(RetriableError):
    """The offset is part of a transaction that has not ended."""

    code = 88
    name = "UNSTABLE_OFFSET_COMMIT"


class ProducerFencedError(BrokerError):
    """Another producer with the same transactional id has taken over."""

    code = 90
    name = "PRODUCER_FENCED"


class TransactionalIdNotFoundError(BrokerError):
    """There is no such transactional id."""

    code = 105
    name = "TRANSACTIONAL_ID_NOT_FOUND"
