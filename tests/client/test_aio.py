"""The asyncio twins against a scripted broker."""

import asyncio

import pytest
from zmqbroker import AsyncAdmin, AsyncConsumer, AsyncProducer, TopicPartition, errors
from zmqbroker.transport import messages as m

FAST = {"retry_backoff_ms": 5, "reconnect_backoff_ms": 5, "reconnect_backoff_max_ms": 20}
PRODUCE = m.ProduceRequest.API


def settings(server, **more):
    return {"bootstrap_servers": server.servers, **FAST, **more}


def test_records_go_there_and_back(server):
    async def main():
        async with AsyncProducer(**settings(server)) as producer:
            futures = [await producer.send("t", b"%d" % number) for number in range(500)]
            assert [(await future).offset for future in futures] == list(range(500))
            ranges = await (await producer.send_many("t", [b"x"] * 100))
            assert sum(item.count for item in ranges) == 100
            assert (await producer.send_and_wait("t", b"end")).offset == 600
            await producer.flush()
            assert await producer.partitions_for("t") == {0}
        part = TopicPartition("t", 0)
        async with AsyncConsumer("t", **settings(server, auto_offset_reset="earliest")) as consumer:
            seen = []
            async for record in consumer:
                seen.append(record.offset)
                if len(seen) == 550:
                    break
            assert seen == list(range(550))
            assert await consumer.position(part) == 550
            assert (await consumer.getone()).offset == 550
            consumer.seek(part, 600)
            assert (await consumer.poll(5_000))[part][0].value == b"end"
            assert await consumer.end_offsets([part]) == {part: 601}
            assert await consumer.poll(10) == {}

    asyncio.run(main())


def test_iteration_ends_by_its_time_out(server):
    async def main():
        server.topics["t"] = 1
        async with AsyncConsumer("t", **settings(server, consumer_timeout_ms=30)) as consumer:
            assert [record async for record in consumer] == []

    asyncio.run(main())


def test_errors_are_raised_where_they_are_awaited(server):
    refused = m.ProduceReply([m.PartitionProduced("t", 0, 87, "no")])

    async def main():
        producer = AsyncProducer(**settings(server))
        await (await producer.send("t", b"0"))
        server.once(PRODUCE, lambda _: refused)
        future = await producer.send("t", b"1")
        with pytest.raises(errors.InvalidRecordError):
            await future
        with pytest.raises(errors.InvalidRecordError, match="since the last flush"):
            await producer.close()
        with pytest.raises(errors.ClosedError):
            await producer.send("t", b"2")

    asyncio.run(main())


def test_a_full_buffer_does_not_block_the_loop(server):
    async def main():
        more = {"buffer_memory": 2_000, "batch_size": 500, "max_block_ms": 100}
        producer = AsyncProducer(**settings(server, **more))
        await (await producer.send("t", b"0"))
        server.once(PRODUCE, *[lambda _: "drop"] * 50)
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticker = asyncio.create_task(tick())
        with pytest.raises(errors.BufferTimeoutError):  # noqa: PT012 - which of them fails is not the point
            for _ in range(100):
                await producer.send("t", b"x" * 100)
        assert ticks > 3
        ticker.cancel()
        with pytest.raises(errors.ClosedError):
            await producer.close(0.01)

    asyncio.run(main())


def test_a_restarted_broker_is_found_again(server):
    async def main():
        async with AsyncProducer(**settings(server)) as producer:
            await (await producer.send("t", b"0"))
            server.kill()
            future = await producer.send("t", b"1")
            server.start()
            assert (await future).offset == 1

    asyncio.run(main())


def test_admin(server):
    async def main():
        async with AsyncAdmin(**settings(server)) as admin:
            server.topics["t"] = 1
            assert await admin.list_topics() == ["t"]
            results = await asyncio.gather(*(admin.describe_topics(["t"]) for _ in range(10)))
            assert len(results) == 10
            with pytest.raises(errors.UnknownTopicOrPartitionError):
                await admin.describe_topics(["u"])

    asyncio.run(main())
