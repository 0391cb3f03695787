"""The asyncio twin in a group, against an embedded broker."""

import asyncio

import pytest
from zmqbroker import AsyncConsumer, AsyncProducer, Consumer, ConsumerRebalanceListener, TopicPartition, errors
from zmqbroker.testing import Broker


@pytest.fixture(scope="module")
def shared_broker():
    with Broker(num_partitions=4, group_initial_rebalance_delay_ms=0) as broker:
        yield broker


@pytest.fixture
def settings(shared_broker, request):
    name = request.node.name
    return {"bootstrap_servers": shared_broker.bootstrap_servers, "group_id": name, "auto_offset_reset": "earliest"}


class Recorder(ConsumerRebalanceListener):
    """A listener whose methods are coroutines."""

    def __init__(self):
        self.heard = []

    async def on_partitions_revoked(self, revoked):
        await asyncio.sleep(0)
        self.heard.append(("revoked", len(revoked)))

    async def on_partitions_assigned(self, assigned):
        await asyncio.sleep(0)
        self.heard.append(("assigned", len(assigned)))


async def fill(settings, count):
    async with AsyncProducer(bootstrap_servers=settings["bootstrap_servers"]) as producer:
        for number in range(count):
            await producer.send(settings["group_id"], b"%d" % number, partition=number % 4)
        await producer.flush()


async def poll_until(consumer, condition):
    for _ in range(400):
        if condition():
            return
        await consumer.poll(50)
    pytest.fail("it did not happen in time")


def test_two_tasks_share_partitions(settings):
    topic = settings["group_id"]

    async def main():
        await fill(settings, 40)
        recorder = Recorder()
        first = AsyncConsumer(**settings)
        first.subscribe(topic, listener=recorder)
        await poll_until(first, lambda: len(first.assignment()) == 4)
        second = AsyncConsumer(topic, **settings)
        both = (first, second)
        await asyncio.gather(*(poll_until(one, lambda: all(len(c.assignment()) == 2 for c in both)) for one in both))
        assert recorder.heard == [("assigned", 4), ("revoked", 4), ("assigned", 2)]
        await second.close()
        await poll_until(first, lambda: len(first.assignment()) == 4)
        await first.close()
        assert recorder.heard[-2:] == [("assigned", 4), ("revoked", 4)]

    asyncio.run(main())


def test_commits(settings):
    topic = settings["group_id"]
    part = TopicPartition(topic, 0)

    async def main():
        await fill(settings, 40)
        async with AsyncConsumer(topic, enable_auto_commit=False, **settings) as consumer:
            seen = []
            async for record in consumer:
                seen.append(record)
                if len(seen) == 40:
                    break
            await consumer.commit({part: 3})
            assert await consumer.committed(part) == 3
            heard = asyncio.get_running_loop().create_future()
            consumer.commit_async(None, lambda offsets, error: heard.set_result((offsets[part].offset, error)))
            assert await heard == (10, None)
            assert (await consumer.committed([part], metadata=True))[part].offset == 10
            assert consumer.group_metadata().generation_id == 1
            with pytest.raises(errors.CommitFailedError):
                await consumer.commit({TopicPartition("other", 0): 1})

    asyncio.run(main())


def test_the_record_in_work_is_not_committed_when_its_work_fails(settings):
    topic = settings["group_id"]

    async def main():
        await fill(settings, 40)
        async with AsyncConsumer(**settings) as consumer:
            consumer.assign([TopicPartition(topic, 0)])
            async for record in consumer:
                if record.offset == 7:
                    raise LookupError

    with pytest.raises(LookupError):
        asyncio.run(main())
    with Consumer(**settings) as consumer:
        assert consumer.committed(TopicPartition(topic, 0)) == 7


def test_what_a_coroutine_of_the_listener_raises_is_raised_by_the_poll(settings):
    class Faulty(ConsumerRebalanceListener):
        async def on_partitions_assigned(self, assigned):
            await asyncio.sleep(0)
            message = f"{len(assigned)} too many"
            raise LookupError(message)

    async def main():
        await fill(settings, 4)
        async with AsyncConsumer(**settings) as consumer:
            consumer.subscribe(settings["group_id"], listener=Faulty())
            with pytest.raises(LookupError, match="4 too many"):
                await poll_until(consumer, lambda: False)
            assert len(consumer.assignment()) == 4

    asyncio.run(main())


def test_a_thread_refuses_coroutines_of_a_listener(settings):
    consumer = Consumer(**settings)
    consumer.subscribe(settings["group_id"], listener=Recorder())
    with pytest.raises(TypeError, match="coroutine"):
        consumer.poll(10_000)
    with pytest.raises(TypeError, match="coroutine"):
        consumer.close()
    assert consumer.io.closed
