"""A Celery task queue whose transport is Kafka's protocol (kombu's confluentkafka), served by this broker.

The worker is Celery's own program; nothing in it knows that the broker is not Kafka.
"""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

from celery import Celery
from zmqbroker.testing import Broker

app = Celery("tasks", broker=os.environ.get("TASKS_BROKER"))
app.conf.update(broker_connection_retry_on_startup=True, worker_redirect_stdouts=False)


@app.task(name="square")
def square(number: int) -> None:
    """Do the work, in the worker."""
    print(f"the square of {number} is {number * number}", flush=True)


def main() -> None:
    """Start a broker and a worker, send some tasks, and wait until they are done."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5)
    count = parser.parse_args().count
    with Broker() as broker:
        url = f"confluentkafka://{broker.kafka_bootstrap}"
        command = [sys.executable, "-m", "celery", "-A", Path(__file__).stem, "worker", "--pool", "solo"]
        with subprocess.Popen(  # noqa: S603 - our own command line
            [*command, "--without-gossip", "--without-mingle", "--loglevel", "WARNING"],
            cwd=Path(__file__).parent,
            env={**os.environ, "TASKS_BROKER": url},
            stdout=subprocess.PIPE,
            text=True,
        ) as worker:
            app.conf.update(broker_url=url)
            for number in range(count):
                app.send_task("square", [number])
            assert worker.stdout is not None
            done = 0
            while done < count:
                line = worker.stdout.readline()
                if line.startswith("the square"):
                    print(line, end="", flush=True)
                    done += 1
            worker.kill()
        app.close()


if __name__ == "__main__":
    main()
