"""The simulator's command line: ``python -m zmqbroker.simulation --seeds 200``."""

from __future__ import annotations

import argparse
import sys

from .faults import NODES_MAX, Plan
from .mutations import SEEDS_EACH
from .run import run
from .runner import plans_from, replay, run_mutations, run_seeds, say
from .transaction_mutations import MUTATIONS

SEEDS = 200
SEED_FLAGS = ("seed", "nodes_min", "clients", "length", "without", "only", "hash_only")
"""What says how a run is, and has no place beside --mutations, where each rule says that itself."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m zmqbroker.simulation", description=__doc__)
    parser.add_argument(
        "--seeds", type=int, help=f"how many seeds to run ({SEEDS}), or for each of the mutations ({SEEDS_EACH})"
    )
    parser.add_argument("--start", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=2, help="processes to run them in")
    parser.add_argument("--seed", type=int, help="run this one seed and print its trace")
    parser.add_argument("--nodes", type=int, default=NODES_MAX, help="the most nodes that a cluster may have")
    parser.add_argument("--nodes-min", type=int, help="the fewest nodes that it may have")
    parser.add_argument("--clients", type=int, help="the most clients of each kind")
    parser.add_argument("--length", type=float, help="how much of the phase with faults is run, up to 1")
    parser.add_argument("--without", type=_kinds, help="kinds of faults and clients to leave out, with commas")
    parser.add_argument("--only", type=_kinds, help="the only kinds of faults, with commas; they strike often")
    parser.add_argument("--hash-only", action="store_true", help="with --seed: print nothing but the trace's hash")
    parser.add_argument(
        "--mutations",
        nargs="*",
        metavar="NAME",
        help="take safety rules away, all or these; goes with --seeds, --start, --jobs and --nodes",
    )
    return parser


def _kinds(text: str) -> frozenset[str]:
    return frozenset(name for name in text.split(",") if name)


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse what would count for nothing."""
    if options.jobs < 1:
        parser.error("--jobs: at least one process is needed")
    if options.mutations is None:
        return
    unknown = [name for name in options.mutations if name not in MUTATIONS]
    if unknown:
        parser.error(f"--mutations: {', '.join(unknown)}: these are known: {', '.join(MUTATIONS)}")
    for name in SEED_FLAGS:
        value = getattr(options, name)
        if value is not None and value is not False:
            parser.error(f"--{name.replace('_', '-')} has no meaning with --mutations")


def main(arguments: list[str] | None = None) -> int:
    """Run what the arguments say; the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    _check(parser, options)
    names = {"without": "without", "only": "only", "nodes_min": "nodes_min", "clients": "clients_max"}
    names["length"] = "length"
    said = {field: getattr(options, name) for name, field in names.items() if getattr(options, name) is not None}
    plan = Plan(options.start if options.seed is None else options.seed, nodes_max=options.nodes, **said)
    if options.mutations is not None:
        return run_mutations(options.mutations or list(MUTATIONS), plan, options.seeds or SEEDS_EACH, options.jobs)
    if options.seed is None:
        return run_seeds(plans_from(plan, options.seeds or SEEDS), options.jobs)
    if options.hash_only:
        say(run(plan).trace_hash)
        return 0
    return replay(plan)


if __name__ == "__main__":
    sys.exit(main())
