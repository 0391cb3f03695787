"""The disks of a run's nodes: a file system in a file for each, which can be full, and lose its power.

A cut of the power is ext4's own ioctl for it: from then on nothing reaches the image, not even what the system has in
its cache, and the next mount recovers what a disk would have had.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path

from left_overs import run_command

IMAGE_BYTES = 1 << 30
SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN"""
WITHOUT_FLUSH = struct.pack("I", 2)
HERE = Path(__file__).parent


def why_no_images():
    """Why this machine allows no file systems in files; None if it does."""
    if os.geteuid() != 0:
        return "not root"
    for program in ("mkfs.ext4", "mount", "umount", "losetup"):
        if shutil.which(program) is None:
            return f"the program {program} is missing (e2fsprogs, util-linux)"
    return None if Path("/dev/loop-control").exists() else "there are no loop devices"


class Disk:
    """One node's file system. Raises RuntimeError if the machine refuses."""

    def __init__(self, folder, node, left_overs):
        self.path = folder / f"disk{node}"
        self._image = folder / f"disk{node}.ext4"
        self._ballast = self.path / "ballast"
        self.path.mkdir()
        with self._image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        run_command("mkfs.ext4", "-q", "-F", "-m", "0", str(self._image))
        left_overs.note("mount", self.path)
        self._mount()

    def _mount(self):
        run_command("mount", "-o", "loop", str(self._image), str(self.path))

    @contextmanager
    def full(self):
        """Leave no room, for as long as the context lasts."""
        try:
            with self._ballast.open("wb", buffering=0) as file:
                for size in (1 << 24, 1 << 16, 1 << 12):
                    block = bytes(size)
                    with suppress(OSError):
                        while file.write(block) == size:
                            pass
            yield
        finally:
            self._ballast.unlink(missing_ok=True)

    def cut_power(self):
        """From here on nothing is stored. Whoever uses the file system has to be killed, then `power_on`."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, WITHOUT_FLUSH)
        finally:
            os.close(descriptor)

    def power_on(self):
        """Mount what was stored."""
        run_command("umount", str(self.path))
        self._mount()


def build_shim(folder):
    """Compile the library that makes a node's disk fail; (its path, None) or (None, why not)."""
    if shutil.which("gcc") is None:
        return None, "gcc is missing"
    path = folder / "torture_shim.so"
    command = ["gcc", "-shared", "-fPIC", "-O2", "-o", str(path), str(HERE / "torture_shim.c"), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return (path, None) if done.returncode == 0 else (None, f"gcc: {done.stderr.strip()}")
