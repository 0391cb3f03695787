"""A FastStream application, as its documentation has it, on a broker of this package instead of Kafka.

It doubles the numbers that come in one topic and sends them to another; the address is all that was changed.
"""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser

from faststream import FastStream
from faststream.kafka import KafkaBroker
from zmqbroker.testing import Broker


async def serve(bootstrap: str, count: int) -> None:
    """Run the application until so many answers have come back."""
    kafka = KafkaBroker(bootstrap)
    app = FastStream(kafka)
    answers: asyncio.Queue[int] = asyncio.Queue()

    @kafka.subscriber("numbers", auto_offset_reset="earliest", group_id="doublers")
    @kafka.publisher("doubles")
    async def double(number: int) -> int:
        return 2 * number

    @kafka.subscriber("doubles", auto_offset_reset="earliest", group_id="readers")
    async def read(number: int) -> None:
        await answers.put(number)

    @app.after_startup
    async def ask() -> None:
        for number in range(count):
            await kafka.publish(number, "numbers")

    running = asyncio.create_task(app.run())
    for _ in range(count):
        print(f"a double came back: {await answers.get()}", flush=True)
    app.exit()
    await running


def main() -> None:
    """Start a broker and the application."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5)
    count = parser.parse_args().count
    with Broker() as broker:
        asyncio.run(serve(broker.kafka_bootstrap, count))


if __name__ == "__main__":
    main()
