"""What the benchmark runs in processes of its own besides the broker: `python child.py VERB ARGS...`; prints JSON."""

from __future__ import annotations

import json
import select
import sys
import time

LOAD_PACE_SECONDS = 0.005
LOAD_SECONDS_MAX = 60.0
STREAM_PACE_MS = 5
STREAM_RECORDS = 10


def embedded() -> None:
    """Import, then start the embedded broker and ask it something."""
    begun = time.perf_counter()
    from zmqbroker.testing import Broker  # noqa: PLC0415

    from rows.raw import RawClient  # noqa: PLC0415 - what an import takes is to be seen

    imported = time.perf_counter()
    with Broker() as broker:
        client = RawClient(f"tcp://{broker.bootstrap_servers}")
        client.wait_ready()
        answered = time.perf_counter()
        client.close()
    print(json.dumps({"first answer": answered - imported, "imports": imported - begun}))


def echo(address: str) -> None:
    """A ROUTER that sends back what it gets, until the empty message."""
    import zmq  # noqa: PLC0415

    router = zmq.Context().socket(zmq.ROUTER)
    router.bind(address)
    while True:
        frames = router.recv_multipart()
        router.send_multipart(frames)
        if not frames[-1]:
            break
    router.close(1000)
    router.context.term()


def follow(servers: str, topic: str, count: str) -> None:
    """Consume a topic; each value begins with the clock's reading when it was sent. Says when it has the first one."""
    from zmqbroker import Consumer  # noqa: PLC0415

    taken = []
    wanted = int(count)
    with Consumer(topic, bootstrap_servers=servers, auto_offset_reset="earliest") as consumer:
        while len(taken) < wanted:
            found = consumer.poll(timeout_ms=10_000)
            now = time.perf_counter()
            if not found:
                message = f"only {len(taken)} of {wanted} records came"
                raise TimeoutError(message)
            if not taken:
                print("following", flush=True)
            for records in found.values():
                # perf_counter is the system's monotonic clock, the same in every process
                taken += [now - float(record.value.partition(b" ")[0]) for record in records]
    print(json.dumps(taken))


def work_off(servers: str, topic: str, group: str, mode: str, share: str) -> None:
    """Receive from a queue and acknowledge, until nothing is left; waits for a word before it begins."""
    from zmqbroker import ShareConsumer  # noqa: PLC0415

    taken, first, last = 0, 0.0, 0.0
    with ShareConsumer(
        topic, bootstrap_servers=servers, group_id=group, acknowledgement_mode=mode, max_poll_records=5_000
    ) as consumer:
        print("ready", flush=True)
        sys.stdin.readline()
        cpu = time.process_time()
        while True:
            records = consumer.poll(timeout_ms=1_000)
            if not records:
                break
            first = first or time.perf_counter()
            if mode == "explicit":
                for record in records:
                    consumer.acknowledge(record)
            taken += len(records)
            last = time.perf_counter()
            if taken >= int(share):  # perhaps the end: from here on what is measured has to be durable
                consumer.commit()
                last = time.perf_counter()
        cpu = time.process_time() - cpu
    print(json.dumps({"taken": taken, "first": first, "last": last, "cpu": cpu}))


def load(servers: str, topic: str, rate: str) -> None:
    """Send so many records of 100 B a second, acks=all, until there is a word; says how many it were a second."""
    from zmqbroker import Producer  # noqa: PLC0415

    chunk = [bytes(100)] * max(1, int(float(rate) * LOAD_PACE_SECONDS))
    words = select.poll()
    words.register(sys.stdin, select.POLLIN)
    with Producer(bootstrap_servers=servers, acks="all") as producer:
        producer.send_many(topic, chunk).get(LOAD_SECONDS_MAX)
        print("loading", flush=True)
        begun = time.perf_counter()
        chunks = 0
        while not words.poll(0):
            producer.send_many(topic, chunk)
            chunks += 1
            time.sleep(max(0.0, begun + chunks * LOAD_PACE_SECONDS - time.perf_counter()))
        producer.flush(LOAD_SECONDS_MAX)
        seconds = time.perf_counter() - begun
    print(json.dumps(chunks * len(chunk) / seconds))


def stream(servers: str, topic: str) -> None:
    """Send a few records of 100 B every few milliseconds, acks=all, until there is a word; prints when acks came."""
    from zmqbroker import Producer  # noqa: PLC0415

    acks: list[float] = []
    failures: list[str] = []
    words = select.poll()
    words.register(sys.stdin, select.POLLIN)
    with Producer(bootstrap_servers=servers, acks="all") as producer:
        producer.send(topic, b"first").get(LOAD_SECONDS_MAX)
        print("streaming", flush=True)
        while not words.poll(STREAM_PACE_MS):
            for _ in range(STREAM_RECORDS):
                future = producer.send(topic, bytes(100))
                future.add_callback(lambda _: acks.append(time.perf_counter()))
                future.add_errback(lambda error: failures.append(repr(error)))
        producer.flush(LOAD_SECONDS_MAX)
    print(json.dumps({"acks": acks, "failures": failures}))


if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/rows/")[0])
    verbs = (embedded, echo, follow, work_off, load, stream)
    {verb.__name__: verb for verb in verbs}[sys.argv[1]](*sys.argv[2:])
