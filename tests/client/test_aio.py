"""The asyncio twins against a scripted broker."""

import asyncio
import inspect

import pytest
from zmqbroker import (
    Admin,
    AsyncAdmin,
    AsyncConsumer,
    AsyncProducer,
    Consumer,
    Producer,
    TopicPartition,
    errors,
)
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


def test_many_tasks_wait_for_room_together(server):
    async def main():
        async with AsyncProducer(**settings(server, buffer_memory=20_000, batch_size=5_000)) as producer:

            async def send(name):
                for number in range(100):
                    await producer.send("t", b"%d:%d" % (name, number) + b"x" * 1_000)

            await asyncio.gather(*(send(name) for name in range(20)))
            await producer.flush(20)

    asyncio.run(main())
    values = [value.rstrip(b"x") for value in server.values("t")]
    assert len(values) == 2_000
    for name in range(20):
        mine = [value for value in values if value.startswith(b"%d:" % name)]
        assert mine == [b"%d:%d" % (name, number) for number in range(100)]


def test_send_many_waits_for_room_piece_by_piece(server):
    values = [b"%03d" % number + b"x" * 1_000 for number in range(300)]

    async def main():
        async with AsyncProducer(**settings(server, buffer_memory=20_000)) as producer:
            futures = await asyncio.gather(*(producer.send_many("t", values) for _ in range(3)))
            ranges = [await future for future in futures]
            assert [sum(item.count for item in parts) for parts in ranges] == [300] * 3

    asyncio.run(main())
    assert sorted(server.values("t")) == sorted(values * 3)


def test_send_many_with_keys_and_a_timestamp(server):
    async def main():
        async with AsyncProducer(**settings(server)) as producer:
            many = await producer.send_many("t", [b"a", b"b"], keys=[b"k", b"l"], timestamp_ms=5)
            assert [item.timestamp for item in await many] == [5, 5]
            one = await producer.send_many("t", [b"c"], key=b"k", timestamp_ms=7)
            assert [item.timestamp for item in await one] == [7]
            with pytest.raises(ValueError, match="one key for each"):
                await producer.send_many("t", [b"a"], keys=[])
            with pytest.raises(ValueError, match="timestamp_ms"):
                await producer.send_many("t", [b"a"], timestamp_ms=-1)
            assert producer.bootstrap_connected()

    asyncio.run(main())


FLOWS = {
    Producer: "aborting block_deadline check_may_send closing committing drained flushed has_room initialising knows"
    " prepare_many raise_failures room send_some sending_offsets settling shut topic_known",
    Consumer: "all_topics asking_committed chunk_came closing committing offsets offsets_by_time polled positioned shut"
    " take_chunk topic_partitions",
    Admin: "",
}
"""What a class has only for its twin's use."""


@pytest.mark.parametrize(("sync", "twin"), [(Producer, AsyncProducer), (Consumer, AsyncConsumer), (Admin, AsyncAdmin)])
def test_each_twin_has_the_methods_of_its_class(sync, twin):
    own = {"without_thread", *FLOWS[sync].split()}
    names = [name for name, _ in inspect.getmembers(sync, inspect.isfunction) if not name.startswith("_")]
    for name in set(names) - own:
        assert hasattr(twin, name), f"{twin.__name__} has no {name}"
        assert signature(getattr(twin, name)) == signature(getattr(sync, name)), name
        assert inspect.getdoc(getattr(twin, name)), name
    assert signature(twin) == signature(sync)


def signature(function):
    return [(one.name, one.kind, one.default) for one in inspect.signature(function).parameters.values()]
