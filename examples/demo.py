"""The demonstration of `make demo`: a text goes through a broker that is killed midway, and every line arrives.

1. A broker starts as `zmqbroker start` does, on a free port, with its data in a temporary folder.
2. The standard library's own sources go line by line into a topic of three partitions: the key is the file's name, the
   value the line with its number. One subscriber reads along from the start.
3. When half of the lines are acknowledged, SIGKILL ends the broker's whole process tree. It starts again, and recovers
   its log, while the producer goes on.
4. A second subscriber, in a process of its own like the first, reads everything back from the beginning.
5. Each file's hash, over its lines in the order they arrived, must be that of the file that was sent.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import sysconfig
import threading
import time
from argparse import ArgumentParser
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zmqbroker import Admin, Consumer, NewTopic, Producer
from zmqbroker.testing import BrokerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

TOPIC = "standard-library"
PARTITIONS = 3
STEP_SECONDS = 60.0
"""No step may take longer; each takes a second or two."""


class Text(NamedTuple):
    """What is sent: lines by file, in order."""

    files: dict[str, list[bytes]]

    @property
    def lines_count(self) -> int:
        """Lines of all files."""
        return sum(len(lines) for lines in self.files.values())

    @property
    def bytes_count(self) -> int:
        """Bytes of all values."""
        return sum(len(line) for lines in self.files.values() for line in lines)

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of each line, taking the files in turn, so that many keys are under way at any moment."""
        left = {name.encode(): iter(lines) for name, lines in self.files.items()}
        while left:
            for name in list(left):
                line = next(left[name], None)
                if line is None:
                    del left[name]
                else:
                    yield name, line

    def digests(self) -> dict[str, str]:
        """The hash of each file."""
        return {name: hashlib.sha256(b"\n".join(lines)).hexdigest() for name, lines in self.files.items()}


def read_text(lines_min: int) -> Text:
    """Read sources of the standard library, in order of their names, until there are enough lines."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files: dict[str, list[bytes]] = {}
    total = 0
    for path in sorted(root.rglob("*.py")):
        if "site-packages" in path.parts:
            continue
        lines = [b"%d\t%b" % (number, line) for number, line in enumerate(path.read_bytes().split(b"\n"), start=1)]
        files[str(path.relative_to(root))] = lines
        total += len(lines)
        if total >= lines_min:
            return Text(files)
    message = f"the standard library has only {total:,} lines of source; choose --lines below that"
    raise SystemExit(message)


def say(line: str) -> None:
    """Tell what happens when it happens, into a pipe too."""
    print(line, flush=True)


class Sender(threading.Thread):
    """Sends the text and counts acknowledgements; tells when half of them are there."""

    def __init__(self, servers: str, text: Text) -> None:
        super().__init__(name="sender", daemon=True)
        self._servers = servers
        self._text = text
        self._half = text.lines_count // 2
        self.half_acked = threading.Event()
        self.acked = 0
        self.handed_over = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Send everything; what goes wrong is kept for the main thread."""
        try:
            # A small buffer keeps the sender close to the broker: at the kill, half of the text is really unsent.
            with Producer(bootstrap_servers=self._servers, buffer_memory=256 * 1024, batch_size=16_384) as producer:
                for key, value in self._text.records():
                    producer.send(TOPIC, value, key=key).add_callback(self._on_ack)
                    self.handed_over += 1
                producer.flush(timeout=STEP_SECONDS)
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the main thread
            self.failure = error
        finally:
            self.half_acked.set()

    def _on_ack(self, _metadata: object) -> None:
        self.acked += 1
        if self.acked == self._half:
            self.half_acked.set()

    def finish(self) -> None:
        """Wait for the end. Raises what went wrong."""
        self.join(STEP_SECONDS)
        if self.failure is not None:
            raise self.failure
        if self.is_alive():
            message = f"the producer has not finished within {STEP_SECONDS:.0f} s"
            raise TimeoutError(message)


def subscribe(servers: str, lines: int) -> None:
    """Be a subscriber: read that many records, hash them by key, see that there are no more, print what was found."""
    hashes: dict[str, list[bytes]] = {}
    seen = 0
    started = time.perf_counter()
    with Consumer(TOPIC, bootstrap_servers=servers, auto_offset_reset="earliest", max_poll_records=5000) as consumer:
        deadline = time.monotonic() + STEP_SECONDS
        while seen < lines and time.monotonic() < deadline:
            for records in consumer.poll(timeout_ms=500).values():
                seen += len(records)
                for record in records:
                    hashes.setdefault(record.key.decode(), []).append(record.value)
        partitions = consumer.assignment()
        stored = sum(consumer.end_offsets(partitions).values()) - sum(consumer.beginning_offsets(partitions).values())
    seconds = time.perf_counter() - started
    digests = {name: hashlib.sha256(b"\n".join(values)).hexdigest() for name, values in hashes.items()}
    print(json.dumps({"records": seen, "stored": stored, "seconds": seconds, "digests": digests}))


class Subscriber:
    """A subscriber in a process of its own."""

    def __init__(self, name: str, servers: str, lines: int) -> None:
        self.name = name
        words = [sys.executable, __file__, "--subscribe", servers, "--lines", str(lines)]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE)  # noqa: S603 - this very script

    def check(self, text: Text) -> bool:
        """Wait for its report, compare it with the text, and say what came out."""
        output, _ = self._process.communicate(timeout=STEP_SECONDS)
        if self._process.returncode != 0:
            say(f"   {self.name} failed with exit code {self._process.returncode}")
            return False
        report = json.loads(output)
        sent = text.digests()
        equal = sum(report["digests"].get(name) == digest for name, digest in sent.items())
        same = equal == len(sent) == len(report["digests"])
        complete = text.lines_count == report["records"] == report["stored"]
        say(
            f"   {self.name}: {report['records']:,} of {report['stored']:,} stored records in "
            f"{report['seconds']:.2f} s, {equal} of {len(sent)} files have the hash that was sent"
        )
        return bool(same and complete)

    def close(self) -> None:
        """End it, if it still runs."""
        self._process.kill()
        self._process.communicate()


def demonstrate(text: Text) -> bool:
    """Run it all; whether every line arrived once and in order."""
    with ExitStack() as closing:
        began = time.perf_counter()
        broker = BrokerProcess(flags=["--set", "log.level=WARNING"])
        closing.callback(broker.close)
        broker.start()
        servers = broker.bootstrap_servers
        say(f"1. A broker answers on {servers} after {time.perf_counter() - began:.2f} s; its data: {broker.data_dir}")
        with Admin(bootstrap_servers=servers) as admin:
            admin.create_topics([NewTopic(TOPIC, num_partitions=PARTITIONS, replication_factor=1)])

        size = f"{text.lines_count:,} lines ({text.bytes_count:,} bytes) of {len(text.files)} files"
        say(f"2. {size} go to {PARTITIONS} partitions")
        along = Subscriber("the subscriber that read along", servers, text.lines_count)
        closing.callback(along.close)
        began = time.perf_counter()
        sender = Sender(servers, text)
        sender.start()
        if not sender.half_acked.wait(STEP_SECONDS) or sender.failure is not None:
            raise sender.failure or TimeoutError("half of the lines were not acknowledged in time")

        broker.kill()
        acked, killed = sender.acked, time.perf_counter()
        say(f"3. SIGKILL for the whole broker: {acked:,} lines acknowledged, {sender.handed_over:,} handed over")
        broker.start()
        say(f"   It is back after {time.perf_counter() - killed:.2f} s, on the same port and data")
        sender.finish()
        seconds = time.perf_counter() - began
        rate = text.lines_count / seconds
        say(f"   All {sender.acked:,} are acknowledged after {seconds:.2f} s ({rate:,.0f} a second, crash included)")

        say("4. Two subscribers compare what arrived with what was sent:")
        afterwards = Subscriber("the subscriber that came afterwards", servers, text.lines_count)
        closing.callback(afterwards.close)
        equal = [subscriber.check(text) for subscriber in (along, afterwards)]
        stopped = broker.stop()
        midway = acked < text.lines_count and sender.acked == text.lines_count
        return all(equal) and midway and stopped == 0


def main() -> int:
    """Read the command line, demonstrate, and say how it ended."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=150_000, help="at least so many lines of text")
    parser.add_argument("--subscribe", metavar="HOST:PORT", help="be one of the subscribers")
    args = parser.parse_args()
    if args.subscribe:
        subscribe(args.subscribe, args.lines)
        return 0
    began = time.perf_counter()
    good = demonstrate(read_text(args.lines))
    seconds = time.perf_counter() - began
    if not good:
        say(f"NOT EQUAL, after {seconds:.1f} s")
        return 1
    say(f"Every acknowledged line is there once, and in order within its file. {seconds:.1f} s in all.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
