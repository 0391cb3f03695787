"""What all systems that are compared have in common: they are started, they answer, they have a process, they end."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, Self

from typing_extensions import override

from .programs import Program, free_ports

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


class System(ABC):
    """A broker, or several that are one cluster, with its data in a folder and its ports on loopback."""

    name: ClassVar[str]
    """As the tables show it."""
    is_ours: ClassVar[bool] = False
    replicas: ClassVar[int] = 1
    """Nodes that it has, each of which gets a replica of every topic."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder

    @classmethod
    @abstractmethod
    def missing(cls) -> str:
        """Why it cannot be started here, and how to get it; empty: it can."""

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """What it says that it is, with the versions of what it runs on and of its Python client."""

    settings: ClassVar[str]
    """What it is started with, in short, and what that means for records that it has acknowledged."""

    def prepare(self) -> None:  # noqa: B027 - most have nothing to do
        """Do what has to be done once before the first start."""

    @abstractmethod
    def launch(self) -> None:
        """Start it and return at once."""

    @abstractmethod
    def wait_ready(self) -> None:
        """Return when it has answered a client's first question."""

    @abstractmethod
    def close(self) -> None:
        """End all its processes."""

    @property
    @abstractmethod
    def node_pid(self) -> int:
        """The process that holds the data and answers."""

    def start(self) -> Self:
        """Start it and return when it answers; if it does not, nothing of it is left running."""
        try:
            self.prepare()
            self.launch()
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def seconds_to_answer(self) -> float:
        """Start it and see how long that takes."""
        self.prepare()
        begun = time.perf_counter()
        self.launch()
        self.wait_ready()
        return time.perf_counter() - begun

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Server(System):
    """A system of one program, which has ended with its children when that is killed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self.port,) = free_ports(1)
        self._program: Program | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """How the program is called."""

    @abstractmethod
    def answers(self) -> bool:
        """Ask what a client asks first."""

    def environment(self) -> dict[str, str] | None:
        """The program's environment; None: this one's."""
        return None

    @property
    def program(self) -> Program:
        """Its process."""
        assert self._program is not None, f"{self.name} is not started"
        return self._program

    @override
    def launch(self) -> None:
        self._program = Program(self.command(), self.folder / "messages.txt", self.environment())

    @override
    def wait_ready(self) -> None:
        self.program.wait_for(self.answers, self.name)

    @override
    def close(self) -> None:
        program, self._program = self._program, None
        if program is not None:
            program.kill()

    @property
    @override
    def node_pid(self) -> int:
        return self.program.pid


def absent(*modules: str) -> str:
    """What to say if one of these Python modules is not installed; empty: all are."""
    lacking = [module for module in modules if find_spec(module) is None]
    return f"no Python module {', '.join(lacking)}; pip install -e '.[peers]'" if lacking else ""
