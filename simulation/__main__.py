"""The simulator's command line: ``python -m zmqbroker.simulation --seeds 200``."""

from __future__ import annotations

import argparse
import sys

from .cluster_mutations import MUTATIONS
from .faults import NODES_MAX, Plan
from .run import run
from .runner import plans_from, replay, run_mutations, run_seeds, say


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m zmqbroker.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds to run")
    parser.add_argument("--start", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=2, help="processes to run them in")
    parser.add_argument("--seed", type=int, help="run this one seed and print its trace")
    parser.add_argument("--nodes", type=int, default=NODES_MAX, help="the most nodes that a cluster may have")
    parser.add_argument("--nodes-min", type=int, default=Plan.nodes_min, help="the fewest nodes that it may have")
    parser.add_argument("--clients", type=int, default=Plan.clients_max, help="the most clients of each kind")
    parser.add_argument("--length", type=float, default=1.0, help="how much of the phase with faults is run, up to 1")
    parser.add_argument("--without", default="", help="kinds of faults and clients to leave out, with commas")
    parser.add_argument("--only", default="", help="the only kinds of faults, with commas; they strike often")
    parser.add_argument("--hash-only", action="store_true", help="with --seed: print nothing but the trace's hash")
    parser.add_argument("--mutations", nargs="*", metavar="NAME", help="take safety rules away, all or these")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run what the arguments say; the exit code."""
    options = _parser().parse_args(arguments)
    plan = Plan(
        options.start if options.seed is None else options.seed,
        without=frozenset(name for name in options.without.split(",") if name),
        only=frozenset(name for name in options.only.split(",") if name),
        nodes_max=options.nodes,
        nodes_min=options.nodes_min,
        clients_max=options.clients,
        length=options.length,
    )
    if options.mutations is not None:
        return run_mutations(options.mutations or list(MUTATIONS), options.nodes, options.start)
    if options.seed is None:
        return run_seeds(plans_from(plan, options.seeds), options.jobs)
    if options.hash_only:
        say(run(plan).trace_hash)
        return 0
    return replay(plan)


if __name__ == "__main__":
    sys.exit(main())
