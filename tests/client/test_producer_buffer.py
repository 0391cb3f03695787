"""The producer's buffer when it is full: what it makes of the room that each answer gives back."""

import threading

import pytest
from zmqbroker import Producer
from zmqbroker.transport import messages as m

PRODUCE = m.ProduceRequest.API


@pytest.mark.parametrize(("partitions", "buffer_memory", "linger_ms"), [(3, 8_192, 0), (8, 65_536, 0), (3, 65_536, 5)])
def test_a_full_buffer_does_not_make_batches_small(server, partitions, buffer_memory, linger_ms):
    server.default_partitions = partitions
    # A broker that is slower than the sender, so that the buffer is full all the time.
    server.once(PRODUCE, *[lambda _: threading.Event().wait(0.002) or None] * 100_000)
    settings = {"buffer_memory": buffer_memory, "batch_size": 16_384, "linger_ms": linger_ms}
    values = [b"%06d" % number * 6 for number in range(10_000)]
    with Producer(bootstrap_servers=server.servers, **settings) as producer:
        for number, value in enumerate(values):
            producer.send("t", value, key=b"k%d" % (number % 64))
        producer.flush(30)
    stored = [server.values("t", partition) for partition in range(partitions)]
    assert all(part == sorted(part) for part in stored)
    assert sorted(value for part in stored for value in part) == values
    sizes = [len(batch) for heard in server.requests(PRODUCE) for batch in heard.batches]
    late = sizes[len(sizes) // 2 :]
    assert sum(late) / len(late) > 400, "batches of a few records each"
