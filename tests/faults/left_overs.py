"""What a run makes outside of its own memory: mounts, network namespaces, processes, folders; all of it goes again.

Each thing is written into a record of this run's before it is made. A run that was killed leaves its record behind, and
the next one removes what stands in it, and nothing else.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

RECORDS = Path(tempfile.gettempdir()) / "zmqbroker-torture-runs"
COMMAND_SECONDS = 30
ORDER = ["process", "mount", "netns", "folder"]
"""What goes first."""


def run_command(*words):
    """Run a program; what it wrote. Raises RuntimeError with what it complained of."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    if done.returncode:
        message = f"{' '.join(words)}: {done.stderr.strip() or done.returncode}"
        raise RuntimeError(message)
    return done.stdout


def start_time(pid):
    """When a process began, in the kernel's ticks: with the pid it names the process for ever. None if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
    except (OSError, IndexError):
        return None


class LeftOvers:
    """This run's record. ``close`` removes everything; it runs at the end of the process in any case."""

    def __init__(self):
        RECORDS.mkdir(exist_ok=True)
        remove_dead_runs()
        self._path = RECORDS / f"{os.getpid()}-{start_time(os.getpid())}"
        self._lock = threading.Lock()
        self._things = []
        self._path.touch()
        atexit.register(self.close)

    def note(self, kind, name):
        """Something will be made."""
        with self._lock:
            self._things.append((kind, str(name)))
            with self._path.open("a") as file:
                file.write(f"{kind} {name}\n")

    def note_process(self, pid):
        """A process that leads its group was started."""
        self.note("process", f"{pid} {start_time(pid)}")

    def close(self):
        """Remove everything."""
        atexit.unregister(self.close)
        if remove(self._things):
            self._path.unlink(missing_ok=True)


def remove_dead_runs():
    """Remove what runs left whose process is gone."""
    for record in RECORDS.iterdir():
        pid, _, began = record.name.partition("-")
        if start_time(pid) != int(began) and remove(line.split(" ", 1) for line in record.read_text().splitlines()):
            record.unlink(missing_ok=True)


def remove(things):
    """Remove things by their names; whether all are gone."""
    failed = False
    for kind, name in sorted(things, key=lambda thing: ORDER.index(thing[0])):
        try:
            REMOVERS[kind](name)
        except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"could not remove {kind} {name}: {error}")
            failed = True
    return not failed


def _end_process(name):
    pid, began = name.split()
    if began != "None" and start_time(pid) == int(began):
        with suppress(ProcessLookupError):
            os.killpg(int(pid), signal.SIGKILL)


def _unmount(path):
    if os.path.ismount(path):
        run_command("umount", path)


def _remove_netns(name):
    if Path("/run/netns", name).exists():
        for pid in run_command("ip", "netns", "pids", name).split():
            with suppress(ProcessLookupError):
                if int(pid) != os.getpid():
                    os.kill(int(pid), signal.SIGKILL)
        run_command("ip", "netns", "del", name)


def _remove_folder(path):
    if not any(os.path.ismount(inside) for inside in Path(path).glob("*")):
        shutil.rmtree(path, ignore_errors=True)


REMOVERS = {"process": _end_process, "mount": _unmount, "netns": _remove_netns, "folder": _remove_folder}
