"""Chaos in a consumer group: members join, leave, are killed and hang at random, while a producer writes.

    python tests/faults/group_chaos.py --strategy range|cooperative-sticky --seconds 300 --seed 1

Ten member processes (group_chaos_member.py) share 32 partitions of a real broker. Each writes down what happens to it;
group_chaos_checker.py judges that. Exit code 1 if anything was wrong; the logs are kept then.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from contextlib import ExitStack
from pathlib import Path

from zmqbroker import Admin, NewTopic, Producer
from zmqbroker.errors import ZmqBrokerError
from zmqbroker.testing.process import BrokerProcess

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # pytest imports this file without its folder

from group_chaos_checker import MS, Life, Window, judge, unread  # noqa: E402

TOPIC, GROUP = "chaos", "chaos-group"
PARTITIONS = 32
MEMBERS = 10
LEAST_MEMBERS = 4
SESSION_MS = 2_000
SAMPLE_SECONDS = 0.1
WRITE_SECONDS = 0.02
PAUSE_LIMIT_MS = 1_000
END_SECONDS = 60.0
CALM_SECONDS = 0.5
SETTLE_SECONDS = 20.0
MEMBERSHIP = {"assigned", "revoked", "lost"}


class Writer(threading.Thread):
    """Writes to each partition its own offsets as text, and knows up to where they are acknowledged."""

    def __init__(self, servers):
        super().__init__(daemon=True)
        self.enough = threading.Event()
        self.acked = dict.fromkeys(range(PARTITIONS), 0)
        self.error = None
        self._servers = servers

    def run(self):
        try:
            with Producer(bootstrap_servers=self._servers) as producer:
                number = 0
                while not self.enough.wait(WRITE_SECONDS):
                    for partition in range(PARTITIONS):
                        future = producer.send(TOPIC, b"%d" % number, partition=partition)
                        future.add_callback(self._on_ack, partition, number)
                    number += 1
                producer.flush(END_SECONDS)
        except Exception as error:  # noqa: BLE001 - belongs to the main thread
            self.error = error

    def _on_ack(self, partition, number, metadata):
        assert metadata.offset == number, f"partition {partition}: {number} stands at {metadata.offset}"
        self.acked[partition] = max(self.acked[partition], number + 1)

    def finish(self):
        self.enough.set()
        self.join(END_SECONDS)
        if self.error is not None:
            raise self.error


class Sampler(threading.Thread):
    """Reads the committed offsets again and again."""

    def __init__(self, servers):
        super().__init__(daemon=True)
        self.enough = threading.Event()
        self.samples = []
        self.error = None
        self._servers = servers

    def run(self):
        try:
            with Admin(bootstrap_servers=self._servers) as admin:
                while not self.enough.wait(SAMPLE_SECONDS):
                    begun = time.monotonic_ns()
                    found = admin.list_consumer_group_offsets(GROUP)
                    offsets = {
                        partition.partition: entry.offset for partition, entry in found.items() if entry.offset >= 0
                    }
                    self.samples.append((begun, time.monotonic_ns(), offsets))
        except Exception as error:  # noqa: BLE001 - belongs to the main thread
            self.error = error

    def finish(self):
        self.enough.set()
        self.join(END_SECONDS)
        if self.error is not None:
            raise self.error


class Member:
    """A member's process, and its log as far as it was read."""

    def __init__(self, name, command, folder, *, is_async):
        self.life = Life(name, is_async=is_async)
        self.path = folder / f"{name}.log"
        self.path.touch()
        self.errors = folder / f"{name}.err"
        self.continue_at = None
        self.asked_to_stop = False
        self._read = 0
        self._rest = b""
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*command, "--log", str(self.path), *["--commit-async"] * is_async],
                stdin=subprocess.DEVNULL,
                stderr=errors,
            )

    @property
    def is_hung(self):
        return self.continue_at is not None

    def catch_up(self):
        """Read what was added to the log."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        self._read += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.life.events += [json.loads(line) for line in lines]

    def settled_since(self):
        """When its assignment changed last, in ns; None: it is outside of the group, or on its way."""
        changes = [event for event in self.life.events if event["e"] in MEMBERSHIP]
        return changes[-1]["t"] if changes and changes[-1]["e"] == "assigned" else None

    def hang(self, seconds):
        self.life.hangs.append((time.monotonic_ns(), 1 << 62))
        self.process.send_signal(signal.SIGSTOP)
        self.continue_at = time.monotonic() + seconds

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)
        self.continue_at = None
        at, _ = self.life.hangs.pop()
        self.life.hangs.append((at, time.monotonic_ns()))

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.life.killed = time.monotonic_ns()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Chaos:
    """What is done to whom, and when."""

    def __init__(self, servers, strategy, seed, folder):
        self._draw = random.Random(seed)
        self._folder = folder
        self._command = [
            *(sys.executable, str(HERE / "group_chaos_member.py"), "--servers", servers, "--topic", TOPIC),
            *("--group", GROUP, "--strategy", strategy, "--session-timeout-ms", str(SESSION_MS)),
        ]
        self._breath = threading.Event()
        self._unsettled_until = 0.0
        self.members = []
        self.windows = []
        self.did = dict.fromkeys(("join", "leave", "kill", "hang", "calm leave", "calm join"), 0)

    @property
    def alive(self):
        return [member for member in self.members if member.process.poll() is None and not member.asked_to_stop]

    @property
    def free(self):
        return [member for member in self.alive if not member.is_hung]

    def join(self):
        number = len(self.members)
        member = Member(f"m{number}", self._command, self._folder, is_async=number % 3 == 2)
        self.members.append(member)
        self.did["join"] += 1
        return member

    def pause(self, seconds):
        """Let time pass, and those that hung long enough go on."""
        until = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            for member in self.members:
                if member.is_hung and member.continue_at <= now:
                    member.go_on()
                    self._unsettle(1.0)  # it has to find out whether it was put out meanwhile
            if now >= until:
                return
            self._breath.wait(min(0.02, until - now))

    def _unsettle(self, seconds):
        self._unsettled_until = max(self._unsettled_until, time.monotonic() + seconds)

    def catch_up(self):
        for member in self.members:
            member.catch_up()

    def settle(self):
        """Wait until nobody hangs, the killed are put out, and every member has had its assignment for a while."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            self.pause(0.05)
            self.catch_up()
            if any(member.is_hung for member in self.members):
                continue
            if time.monotonic() < self._unsettled_until:
                continue
            since = [member.settled_since() for member in self.alive]
            if None not in since and time.monotonic_ns() - max(since) > CALM_SECONDS * 1000 * MS:
                return True
        return False

    def calm(self, kind):
        """One member leaves or comes while all others are well: what that costs is measured."""
        if not self.settle():
            return
        begin = time.monotonic_ns()
        member = self._draw.choice(self.alive) if kind == "leave" else self.join()
        if kind == "leave":
            self.stop(member)
            member.process.wait(END_SECONDS)
            self.pause(CALM_SECONDS)
        else:
            self.settle()
        self.windows.append(Window(kind, member.life.name, begin, time.monotonic_ns()))
        self.did[f"calm {kind}"] += 1

    def stop(self, member):
        member.asked_to_stop = True
        member.process.terminate()

    def step(self):
        """Do something to somebody."""
        action = self._draw.choices(("leave", "kill", "hang", "calm", "nothing"), (2, 2, 3, 2, 1))[0]
        free = self.free
        if action == "calm":
            self.calm("join" if len(self.alive) < MEMBERS and self._draw.random() < 0.5 else "leave")
        elif action != "nothing" and len(free) > LEAST_MEMBERS:
            member = self._draw.choice(free)
            if action == "leave":
                self.stop(member)
            elif action == "kill":
                member.kill()
                self._unsettle(SESSION_MS / 1000 + 1.0)  # so long the group does not know
            else:
                member.hang(self._draw.choice((0.2, 1.0, 3.0, 4.0)) * self._draw.uniform(0.5, 1.2))
            self.did[action] += 1
        if len(self.alive) < MEMBERS and self._draw.random() < 0.6:
            self.join()
        self.pause(self._draw.uniform(0.05, 0.8))

    def run(self, seconds):
        for _ in range(MEMBERS):
            self.join()
        self.settle()
        until = time.monotonic() + seconds
        self.calm("leave")  # so that the shortest run has measured one of each
        self.calm("join")
        while time.monotonic() < until:
            self.step()
        for member in self.members:
            if member.is_hung:
                member.go_on()

    def finish(self, acked):
        """Wait until all that is acknowledged was read, and stop everybody; who did not end well."""
        deadline = time.monotonic() + END_SECONDS
        while time.monotonic() < deadline:
            self.catch_up()
            if not unread([member.life for member in self.members], acked):
                break
            self.pause(0.2)
        for member in self.alive:
            self.stop(member)
        bad = []
        for member in self.members:
            try:
                code = member.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                bad.append(f"{member.life.name} did not end within {END_SECONDS:.0f} s after SIGTERM")
                continue
            member.catch_up()
            began = bool(member.life.events)  # one that was stopped while Python still started knows of no SIGTERM
            if code != 0 and member.life.killed is None and began:
                bad.append(f"{member.life.name} ended with exit code {code}: {member.errors.read_text()[-2000:]}")
        return bad

    def close(self):
        for member in self.members:
            member.close()


def run(strategy, seconds, seed, *, limit_ms, folder):
    """Run it all; the verdict."""
    with ExitStack() as closing:
        broker = closing.enter_context(BrokerProcess(flags=["--set", "log.level=ERROR"]))
        servers = broker.bootstrap_servers
        with Admin(bootstrap_servers=servers) as admin:
            admin.create_topics([NewTopic(TOPIC, num_partitions=PARTITIONS, replication_factor=1)])
        chaos = Chaos(servers, strategy, seed, folder)
        closing.callback(chaos.close)
        writer, sampler = Writer(servers), Sampler(servers)
        writer.start()
        sampler.start()
        begun = time.monotonic()
        chaos.run(seconds)
        took = time.monotonic() - begun
        writer.finish()
        bad = chaos.finish(writer.acked)
        sampler.finish()
        verdict = judge(
            [member.life for member in chaos.members],
            samples=sampler.samples,
            acked=writer.acked,
            windows=chaos.windows,
            session_ms=SESSION_MS,
            cooperative=strategy.startswith("cooperative"),
            limit_ms=limit_ms,
            pause_ms=PAUSE_LIMIT_MS,
        )
        verdict.violations += bad
        events = closing_events(servers)
    print(f"{strategy}, seed {seed}, {took:.0f} s: " + ", ".join(f"{n} {what}" for what, n in chaos.did.items()))
    return verdict, events


def closing_events(servers):
    """The group's flight recorder, for whoever has to find out what happened."""
    try:
        with Admin(bootstrap_servers=servers) as admin:
            return [str(event) for event in admin.group_events(GROUP)]
    except ZmqBrokerError as error:
        return [f"the flight recorder was not read: {error}"]


def main():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--strategy", choices=("range", "roundrobin", "sticky", "cooperative-sticky"), action="append")
    parser.add_argument("--seconds", type=float, default=300.0, help="for each strategy")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--move-limit-ms", type=float, default=500.0, help="how long a clean stop may take")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no process is left behind
    code = 0
    for strategy in args.strategy or ("range", "cooperative-sticky"):
        folder = Path(tempfile.mkdtemp(prefix="zmqbroker-group-chaos-"))
        verdict, events = run(strategy, args.seconds, args.seed, limit_ms=args.move_limit_ms, folder=folder)
        for line in verdict.summary():
            print(f"  {line}")
        if verdict.violations:
            code = 1
            (folder / "events.txt").write_text("\n".join(events))
            print(f"  {len(verdict.violations)} VIOLATIONS; the logs are in {folder}")
            for text in verdict.violations[:50]:
                print(f"  - {text}")
        else:
            print("  everything held")
            shutil.rmtree(folder)
        sys.stdout.flush()
    return code


if __name__ == "__main__":
    sys.exit(main())
