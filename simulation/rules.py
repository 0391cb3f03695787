"""The numbered rules of a run, and what holds each of them.

A violation's name begins with its rule's number (with H before it, if clients saw it), or with a word of OTHERS.
"""

from __future__ import annotations

from typing import NamedTuple


class Rule(NamedTuple):
    """What must always hold."""

    when: str
    """S: held after each pass of a node's reactor; E: at the end; H: by what clients did and saw."""
    holds: str
    holders: tuple[str, ...]
    """Classes, methods and functions of this package that look after it, each as module.name."""


RULES = {
    1: Rule(
        "S",
        "one leader in an epoch, of a partition and of the quorum",
        ("cluster_invariants.OneLeader", "quorum_invariants.QuorumEpochs"),
    ),
    2: Rule(
        "S",
        "epochs never go back, nor does what a voter has promised",
        ("invariants.Epochs", "quorum_invariants.QuorumEpochs"),
    ),
    3: Rule(
        "S",
        "what is acked by all is committed, and who leads has all that is",
        ("truth.Truth._check_acked", "cluster_invariants.OneLeader"),
    ),
    4: Rule("S", "whoever may be elected has all that is committed", ("cluster_invariants.InSyncMembers",)),
    5: Rule("S", "replicas are identical below their high watermarks", ("truth.Truth.check",)),
    6: Rule(
        "S",
        "high watermarks do not go back, and no follower's is past every leader's",
        ("invariants.HighWatermarks", "truth.Truth._compare"),
    ),
    7: Rule(
        "S",
        "the high watermark moves only past what enough replicas have, flushed",
        ("cluster_invariants.Commitment", "invariants.HighWatermarks"),
    ),
    8: Rule("S", "what the metadata say of leaders, ISR and ELR", ("cluster_invariants.Memberships",)),
    9: Rule(
        "E",
        "acked data outlive the loss of all but one of the replicas that min.insync.replicas asks for",
        ("invariants.Acked", "faults.Faults._lose"),
    ),
    10: Rule(
        "H",
        "an offset has one value, and nobody reads at or above the high watermark",
        ("history.History.note_read", "truth.Truth._check_read"),
    ),
    11: Rule("H", "after healing everything acked is read, where it was acked", ("invariants.Acked",)),
    12: Rule("H", "what has definitely failed is never read", ("history.History.note_read", "history.History.settle")),
    13: Rule(
        "H",
        "a record stands at one offset, and those of a producer do not swap",
        ("history.History.note_read", "invariants.Acked"),
    ),
    14: Rule("H", "a reader neither skips nor goes back", ("workloads.Reader",)),
    15: Rule(
        "S",
        "a producer's sequences follow one another, its epochs never go back, its id is its own",
        ("invariants.Sequences", "truth.Truth.check", "history.History.note_producer", "producing.ProducerWorkload"),
    ),
    16: Rule(
        "H",
        "offsets are committed by current members alone, and acked commits stay",
        ("group_history.GroupHistory.settle", "group_history.GroupHistory.fetched"),
    ),
    17: Rule("H", "a partition has one owner in a generation", ("group_history.GroupHistory.assigned",)),
    18: Rule(
        "H",
        "a share record is one consumer's at a time, a bounded number of times",
        (
            "share_history.ShareHistory.delivered",
            "share_history.ShareHistory.drained",
            "share_history.ShareHistory.taken_wrongly",
        ),
    ),
    19: Rule(
        "H",
        "a finished share record is not delivered again, and the start offset never goes back",
        ("share_history.ShareHistory.delivered", "share_history.ShareHistory.described"),
    ),
    20: Rule(
        "S",
        "what the quorum commits is on a majority, and a log that begins late has its snapshot",
        ("quorum_invariants.QuorumCommitment",),
    ),
    21: Rule(
        "S", "recovery brings back all that was flushed, and a full scan finds the same", ("invariants.Recovery",)
    ),
    22: Rule("E", "after healing everything is answered and in sync in bounded time", ("run.Simulation._heal",)),
    23: Rule(
        "S",
        "a marker ends one transaction in its partition, and says the same in all of them, as its producer was told",
        ("transaction_invariants.Markers", "transaction_history.TransactionHistory.marked"),
    ),
    24: Rule(
        "H",
        "readers of what is committed see nothing of a transaction before it is to be committed, nor of an aborted one",
        ("transaction_history.TransactionHistory.read", "transaction_history.TransactionHistory.check_final"),
    ),
    25: Rule(
        "H",
        "they see all records of a committed transaction, once and in order, and of one in doubt all or none",
        (
            "transaction_history.TransactionHistory.read",
            "transaction_history.TransactionHistory.leave_out",
            "transaction_history.TransactionHistory.check_final",
        ),
    ),
    26: Rule(
        "H",
        "offsets that are committed in a transaction count if it does, and the last that do are the group's",
        ("transaction_history.TransactionHistory.fetched",),
    ),
    27: Rule(
        "H",
        "a transactional id has one producer: nothing is done for one that has a successor, and its epoch is its own",
        (
            "transaction_history.TransactionHistory.began",
            "transaction_history.TransactionHistory.done_late",
            "transaction_history.TransactionHistory.ended_by_nobody",
            "transaction_history.TransactionHistory.forgotten",
        ),
    ),
    28: Rule(
        "S",
        "the last stable offset is at no open transaction's first record or past it, nor past the high watermark, and"
        " does not go back in a leader epoch",
        ("transaction_invariants.Markers", "transaction_history.TransactionHistory.stable"),
    ),
    29: Rule(
        "E",
        "after healing every transaction comes to its end: all is stable, and no offsets are pending",
        ("transaction_invariants.open_transactions",),
    ),
}
"""By the number that they have in this project's list, which ends with 22: the others are those of transactions."""

OTHERS = {
    "metadata": "what administrators were told is so: topics, their partitions, their settings",
    "history": "a client settles what it has sent once",
    "failed": "a flush that failed is not tried again",
    "setup": "a topic can be made before anything goes wrong",
    "node": "a node ends by itself only of what excuses it",
    "restart": "a node starts after whatever it has survived",
    "exception": "nothing is raised that nobody expected",
}
"""Violations without a number, by the first word of their names."""
