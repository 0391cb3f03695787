"""The command line: finds the verb, loads its file and nothing else, and turns every failure into one sentence.

Parsed with argparse, because `zmqbroker start` has to answer in half a second and typer alone takes a tenth of that
(measured: 47 ms against 4 ms). Each verb is a file with two functions::

    add_arguments(parser)   declares its flags
    run(args) -> int        does the work and returns the exit code

Exit codes: 0 done, 1 failed with a sentence on standard error, 2 called wrongly.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from ..errors import ZmqBrokerError
from ..version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

DONE = 0
FAILED = 1
CALLED_WRONGLY = 2
INTERRUPTED = 130
"""Ended by Ctrl-C before the work was done, as shells count it: 128 + SIGINT."""


class VerbModule(Protocol):
    """What the file of a verb offers."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the flags."""
        ...

    def run(self, args: Namespace) -> int:
        """Do the work and return the exit code."""
        ...


class Verb(NamedTuple):
    """A command: its words, its file in this folder, and what it does in one line."""

    words: tuple[str, ...]
    module: str
    summary: str


VERBS = (
    Verb(("start",), "start", "run a broker in the foreground until SIGTERM or Ctrl-C"),
    Verb(("status",), "status", "show how a broker is: its counters and its partitions on disk"),
    Verb(("nodes", "list"), "nodes_list", "list the nodes of the cluster"),
    Verb(("nodes", "drain"), "nodes_drain", "move everything off a node, and wait until that is done"),
    Verb(("nodes", "remove"), "nodes_remove", "forget a node that is drained or gone"),
    Verb(("nodes", "quorum"), "nodes_quorum", "show who votes in the metadata quorum, and how far each is"),
    Verb(("nodes", "upgrade"), "nodes_upgrade", "let the nodes use a newer protocol version"),
    Verb(("topics", "create"), "topics_create", "create a topic"),
    Verb(("topics", "list"), "topics_list", "list the topics"),
    Verb(("topics", "describe"), "topics_describe", "show partitions, offsets and settings of topics"),
    Verb(("topics", "alter"), "topics_alter", "add partitions, or change settings of a topic"),
    Verb(
        ("topics", "reassign"),
        "topics_reassign",
        "move partitions to other nodes, or change how many replicas they have",
    ),
    Verb(("topics", "rebalance"), "topics_rebalance", "spread replicas and leaders over the nodes evenly"),
    Verb(("topics", "elect-leaders"), "topics_elect_leaders", "give partitions back to their preferred leaders"),
    Verb(("topics", "delete"), "topics_delete", "delete topics and their records"),
    Verb(("produce",), "produce", "send lines from standard input or a file as records"),
    Verb(("consume",), "consume", "print records, from now on or --from-beginning"),
    Verb(("groups", "list"), "groups_list", "list the consumer groups"),
    Verb(("groups", "describe"), "groups_describe", "show offsets, lag and members of consumer groups"),
    Verb(("groups", "reset-offsets"), "groups_reset_offsets", "set where a consumer group goes on reading"),
    Verb(("groups", "delete"), "groups_delete", "delete consumer groups and their offsets"),
    Verb(("groups", "events"), "groups_events", "show what happened to a consumer group, and why"),
    Verb(("transactions", "list"), "transactions_list", "list the transactional ids, and whose transactions are open"),
    Verb(("transactions", "describe"), "transactions_describe", "show producers and partitions of transactions"),
    Verb(("queues", "list"), "queues_list", "list the queues"),
    Verb(("queues", "describe"), "queues_describe", "show states, lag and consumers of queues"),
    Verb(("queues", "peek"), "queues_peek", "show the next records of a queue without taking them"),
    Verb(("queues", "redrive"), "queues_redrive", "put dead letters back into their topics"),
    Verb(("queues", "reset-offsets"), "queues_reset_offsets", "set where a queue begins"),
    Verb(("queues", "delete"), "queues_delete", "delete queues, but not their topics"),
    Verb(("log", "dump"), "log_dump", "print the batches of a segment or partition folder, without a broker"),
    Verb(("log", "verify"), "log_verify", "check every batch of a segment or partition folder, without a broker"),
    Verb(("bench", "produce"), "bench_produce", "measure how fast a broker takes records"),
    Verb(("bench", "consume"), "bench_consume", "measure how fast a broker gives records out"),
    Verb(("bench", "latency"), "bench_latency", "measure how long one record takes to be acknowledged"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Never raises."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except SystemExit as error:  # argparse: --help is 0, a wrong call 2
        return error.code if isinstance(error.code, int) else FAILED
    except ZmqBrokerError as error:
        return _fail(error.message)
    except BrokenPipeError:
        _forget_stdout()
        return DONE
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return INTERRUPTED


def _dispatch(words: list[str]) -> int:
    if words in (["--version"], ["-V"]):
        print(f"zmqbroker {VERSION}")
        return DONE
    verb = next((verb for verb in VERBS if tuple(words[: len(verb.words)]) == verb.words), None)
    if verb is None:
        return _explain(words)
    module = cast("VerbModule", import_module(f".{verb.module}", __package__))
    parser = ArgumentParser(
        prog=" ".join(("zmqbroker", *verb.words)),
        description=(sys.modules[f"{__package__}.{verb.module}"].__doc__ or "").partition(": ")[2],
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    code = module.run(parser.parse_args(words[len(verb.words) :]))
    sys.stdout.flush()  # here, where a closed pipe is still ours to answer
    return code


def _explain(words: list[str]) -> int:
    """Say which commands there are: in full if asked for, else after what was wrong."""
    asked = bool(words) and words[-1] in ("--help", "-h", "help")
    given = tuple(words[:-1] if asked else words)
    of_group = [verb for verb in VERBS if given and verb.words[0] == given[0]]
    listed = of_group or VERBS
    width = max(len(" ".join(verb.words)) for verb in listed)
    lines = [f"  zmqbroker {' '.join(verb.words):<{width}}  {verb.summary}" for verb in listed]
    listing = "\n".join(lines)
    usage = f"usage: zmqbroker COMMAND [--flags]\n\n{listing}\n\nEach command explains itself with --help."
    if asked and (of_group or not given):
        print(usage)
        return DONE
    print(usage, file=sys.stderr)
    if given:
        wrong = given[0] if not of_group else " ".join(given[:2])
        missing = of_group and len(given) == 1
        complaint = f"{wrong!r} needs one more word" if missing else f"there is no command {wrong!r}"
        print(f"zmqbroker: {complaint}", file=sys.stderr)
    return CALLED_WRONGLY


def _fail(sentence: str) -> int:
    try:
        print(f"zmqbroker: {sentence}", file=sys.stderr)
    except BrokenPipeError:
        return FAILED
    return FAILED


def _forget_stdout() -> None:
    """Let the interpreter's last flush go nowhere: whoever read our output is gone (`| head`), which is no failure."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
