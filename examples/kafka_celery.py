"""A Celery task queue whose transport is Kafka's protocol (kombu's confluentkafka), served by this broker.

The worker runs in a thread here; as a program of its own it is `celery -A kafka_celery worker`.
"""

from __future__ import annotations

from argparse import ArgumentParser
from threading import Thread

from celery import Celery
from zmqbroker.testing import Broker


def main() -> None:
    """Send some tasks and wait until the worker has done them."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5)
    count = parser.parse_args().count
    with Broker() as broker:
        app = Celery("tasks", broker=f"confluentkafka://{broker.kafka_bootstrap}")
        app.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)
        done: list[int] = []

        @app.task(name="square")
        def square(number: int) -> None:
            done.append(number)
            print(f"the square of {number} is {number * number}", flush=True)

        worker = app.WorkController(pool="solo", concurrency=1, without_heartbeat=True, without_mingle=True)
        thread = Thread(target=worker.start, daemon=True)
        thread.start()
        for number in range(count):
            app.send_task("square", [number])
        while len(done) < count:
            thread.join(0.05)
        worker.stop()


if __name__ == "__main__":
    main()
