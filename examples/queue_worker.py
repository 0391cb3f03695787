"""Work off a queue together with other workers: each job goes to one of them, and comes back if that one fails.

A job is leased to a worker. What it acknowledges is done for ever; if it crashes instead, the lease ends (after 30 s
where nobody says otherwise) and another worker gets the job, with a higher delivery count. Topics need nothing special
for that: a group of workers is a share group, as KIP-932 calls it.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser
from contextlib import suppress

from zmqbroker import ShareConsumer


def work(servers: str, topic: str, group: str, name: str, crash_at: int | None) -> None:
    """Take jobs for ever; at the given one, crash in the midst of it."""
    with ShareConsumer(
        topic,
        bootstrap_servers=servers,
        group_id=group,
        acknowledgement_mode="explicit",
        max_poll_records=10,  # a worker takes few jobs at a time, so that the others have some too
        value_deserializer=bytes.decode,
    ) as queue:
        print(f"{name} is ready", flush=True)
        for done, job in enumerate(queue):
            if done == crash_at:
                print(f"{name} crashes with {job.value!r}", flush=True)
                os._exit(1)  # as kill -9 would do: nothing is closed, nobody is told
            print(f"{name} did {job.value!r} (delivery {job.delivery_count})", flush=True)
            queue.acknowledge(job)
            queue.commit()  # now it is done for ever; without this line it is so soon afterwards


def main() -> None:
    """Read the command line and work until Ctrl-C."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap-server", default="127.0.0.1:9292")
    parser.add_argument("--topic", default="jobs")
    parser.add_argument("--group", default="workers")
    parser.add_argument("--name", default="worker", help="how this one calls itself in what it prints")
    parser.add_argument("--crash-after", type=int, metavar="JOBS", help="crash in the job after so many")
    args = parser.parse_args()
    with suppress(KeyboardInterrupt):
        work(args.bootstrap_server, args.topic, args.group, args.name, args.crash_after)


if __name__ == "__main__":
    main()
