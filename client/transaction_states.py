"""The states of a transactional producer: which may follow which, and why something cannot be done in one. Pure.

UNINITIALISED --init--> READY --begin--> IN_TRANSACTION --commit--> COMMITTING --ended--> READY
                          ^                 |   |                       |
                          |               abort `--- something failed --+
                          |                 v                           v
                          `-- next epoch -- ABORTING <--- abort --- ABORTABLE_ERROR

FATAL_ERROR, from everywhere: another producer has taken over, or nobody can tell any more what holds.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """How far a transactional producer is."""

    UNINITIALISED = "not initialised"
    READY = "without a transaction"
    IN_TRANSACTION = "in a transaction"
    COMMITTING = "committing"
    ABORTING = "aborting"
    ABORTABLE_ERROR = "in a transaction that failed"
    FATAL_ERROR = "of no use any more"


GOES_ON = frozenset({State.IN_TRANSACTION, State.COMMITTING})
"""A transaction is open, and nothing speaks against its being committed."""

NEXT: dict[State, frozenset[State]] = {
    State.UNINITIALISED: frozenset({State.READY, State.FATAL_ERROR}),
    State.READY: frozenset({State.IN_TRANSACTION}),
    State.IN_TRANSACTION: frozenset({State.COMMITTING, State.ABORTING, State.ABORTABLE_ERROR, State.FATAL_ERROR}),
    State.COMMITTING: frozenset({State.READY, State.ABORTING, State.ABORTABLE_ERROR, State.FATAL_ERROR}),
    State.ABORTABLE_ERROR: frozenset({State.ABORTING, State.FATAL_ERROR}),
    State.ABORTING: frozenset({State.READY, State.FATAL_ERROR}),
    State.FATAL_ERROR: frozenset(),
}
"""Which states may follow each. Without a transaction nothing is asked of the brokers, so nothing can go wrong."""

WHY_NOT = {
    State.UNINITIALISED: "call init_transactions first",
    State.READY: "no transaction is open; call begin_transaction first",
    State.IN_TRANSACTION: "a transaction is open; commit or abort it first",
    State.COMMITTING: "the transaction is being committed; wait for commit_transaction, or call it again",
    State.ABORTING: "the transaction is being aborted; wait for abort_transaction, or call it again",
}
"""What to do instead; the other two states have an error that says it."""
