"""The rules that the code is kept by, held against every file: sizes, first lines, and which way imports point."""

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PACKAGE = "zmqbroker"
OUTSIDE = {"tests", "examples", "bench", "docs", "typings", "build", "dist"}
"""Folders whose files are no part of the package."""

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 70

LEVELS = (
    {
        "errors",
        "error_base",
        "cluster_errors",
        "group_errors",
        "transaction_errors",
        "settings",
        "setting_values",
        "topic_config",
        "group_config",
        "broker_config",
        "clock",
        "identity",
        "version",
        "__init__",
    },
    {"log", "transport"},
    {"groups", "quorum"},
    {"client", "actors"},
    {"gateway"},
    {"cli", "testing", "simulation"},
    {"__main__"},
)
"""Imports point downwards only, to a lower level or within a folder. The lowest level is the modules at the root."""

DETERMINISTIC = {"actors", "groups", "quorum", "log"}
WORLD = {
    "time",
    "random",
    "uuid",
    "os",
    "socket",
    "select",
    "secrets",
    "datetime",
    "tempfile",
    "shutil",
    "pathlib",
    "io",
}
"""What only clock, network and disk may touch, so that the simulator can take their place."""
MAY_TOUCH_WORLD = {
    "log/real_disk.py",  # is the disk
    "actors/supervisor.py",  # watches a process from outside
    "actors/node.py",  # puts the real clock, network and disk in
}


class Import(NamedTuple):
    """One import statement's target, as a dotted module name."""

    module: str
    line: int
    relative: bool
    for_types_only: bool


class Source(NamedTuple):
    """One file, read and parsed."""

    path: Path
    name: str
    text: str
    tree: ast.Module

    @property
    def folder(self) -> str:
        """The folder or root module that decides the file's level."""
        return self.name.split("/")[0].removesuffix(".py")

    @property
    def module(self) -> str:
        """The dotted name, without the package's."""
        return self.name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


@cache
def sources() -> tuple[Source, ...]:
    """Every Python file of the repository."""
    names = list(ROOT.glob("*.py"))
    for folder in ROOT.iterdir():
        if folder.is_dir() and not folder.name.startswith(".") and folder.name not in {"typings", "build", "dist"}:
            names += folder.rglob("*.py")
    found = []
    for path in sorted(names):
        text = path.read_text()
        found.append(Source(path, str(path.relative_to(ROOT)), text, ast.parse(text)))
    assert len(found) > 10, "the files were not found"
    return tuple(found)


def package_sources() -> list[Source]:
    return [source for source in sources() if source.folder not in OUTSIDE]


def functions(source: Source) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@cache
def imports(source: Source) -> tuple[Import, ...]:
    """Every import of a file, with relative ones resolved to names within the package."""
    return tuple(find_imports(source))


def find_imports(source: Source) -> Iterator[Import]:
    for_types = {
        inner
        for node in ast.walk(source.tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    here = source.module.split(".")
    if not source.name.endswith("__init__.py") or source.name == "__init__.py":
        here = here[:-1]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, relative=False, for_types_only=node in for_types)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield Import(node.module or "", node.lineno, relative=False, for_types_only=node in for_types)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - (node.level - 1)]
            for alias in node.names:
                target = [*base, *(node.module.split(".") if node.module else [alias.name])]
                yield Import(".".join(target), node.lineno, relative=True, for_types_only=node in for_types)


def level_of(folder: str) -> int:
    return next(number for number, level in enumerate(LEVELS) if folder in level)


def test_first_line_is_a_docstring_that_states_the_subject() -> None:
    wrong = [
        source.name
        for source in sources()
        if not source.text.startswith('"""') or len(source.text.splitlines()[0].strip('"')) < 10
    ]
    assert not wrong, "these files do not say what they are about in their first line"


def test_files_are_short() -> None:
    long = [
        f"{source.name}: {lines} lines"
        for source in sources()
        if (lines := len(source.text.splitlines())) > MAX_FILE_LINES
    ]
    assert not long, f"files of more than {MAX_FILE_LINES} lines have more than one subject"


def test_functions_fit_a_screen() -> None:
    long = [
        f"{source.name}:{function.lineno} {function.name}: {lines} lines"
        for source in sources()
        for function in functions(source)
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not long, f"functions of more than {MAX_FUNCTION_LINES} lines do not fit a screen"


def test_every_folder_has_its_level() -> None:
    known = set().union(*LEVELS)
    unknown = {source.folder for source in package_sources()} - known
    assert not unknown, "say in LEVELS what these may import"


def test_imports_point_downwards() -> None:
    wrong = []
    for source in package_sources():
        if source.name == "__init__.py":  # gives the public names of every level, and loads none of them by itself
            continue
        for found in imports(source):
            target = found.module.split(".")[0]
            if not found.relative or target == source.folder:
                continue
            if level_of(target if target in set().union(*LEVELS) else "__init__") >= level_of(source.folder):
                if level_of(source.folder) == 0:  # the modules at the root: no cycles is all that is asked
                    continue
                wrong.append(f"{source.name}:{found.line} imports {found.module}")
    assert not wrong


def test_imports_inside_the_package_are_relative() -> None:
    own = {PACKAGE, *(source.folder for source in package_sources() if "/" in source.name)}
    wrong = [
        f"{source.name}:{found.line} imports {found.module}"
        for source in package_sources()
        for found in imports(source)
        if not found.relative and found.module.split(".")[0] in own
    ]
    assert not wrong


def test_tests_examples_and_benchmarks_import_the_package_by_its_name() -> None:
    own = {source.folder for source in package_sources()} - {"__init__", "__main__"}
    wrong = [
        f"{source.name}:{found.line} imports {found.module}"
        for source in sources()
        if source.folder in OUTSIDE
        for found in imports(source)
        if not found.relative and found.module.split(".")[0] in own
    ]
    assert not wrong, "a bare `import log` works by accident, from the repository's root only"


def test_no_cycles_between_modules() -> None:
    known = {source.module for source in package_sources()}
    graph: dict[str, set[str]] = {}
    for source in package_sources():
        targets = {found.module for found in imports(source) if found.relative and not found.for_types_only}
        graph[source.module] = (targets & known) - {source.module}
    assert not list(cycles(graph))


def cycles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """Depth-first search; yields the modules of each cycle found."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> Iterator[list[str]]:
        if module in path:
            yield [*path[path.index(module) :], module]
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                yield from visit(target, [*path, module])
            done.add(module)

    for module in sorted(graph):
        yield from visit(module, [])


def test_the_cycle_finder_finds_cycles() -> None:
    assert list(cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == [["a", "b", "c", "a"]]
    assert not list(cycles({"a": {"b", "c"}, "b": {"c"}, "c": set()}))


def test_only_the_edges_touch_time_chance_and_files() -> None:
    wrong = [
        f"{source.name}:{found.line} imports {found.module}"
        for source in package_sources()
        if source.folder in DETERMINISTIC and source.name not in MAY_TOUCH_WORLD
        for found in imports(source)
        if not found.relative and not found.for_types_only and found.module.split(".")[0] in WORLD
    ]
    assert not wrong, "take the reactor's clock, network or disk, so that the simulator can take its place"


def test_only_the_real_disk_opens_files() -> None:
    wrong = [
        f"{source.name}:{node.lineno}"
        for source in package_sources()
        if source.folder in DETERMINISTIC and source.name not in MAY_TOUCH_WORLD
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open"
    ]
    assert not wrong


def test_only_transport_touches_sockets() -> None:
    wrong = [
        f"{source.name}:{found.line}"
        for source in package_sources()
        if source.folder != "transport"
        for found in imports(source)
        if not found.relative and found.module.split(".")[0] == "zmq"
    ]
    assert not wrong


def test_no_test_sleeps() -> None:
    wrong = []
    for source in sources():
        if source.folder != "tests":
            continue
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in ("time.sleep", "sleep") or (called == "asyncio.sleep" and ast.unparse(node.args[0]) != "0"):
                wrong.append(f"{source.name}:{node.lineno}")
    assert not wrong, "wait for a condition with a deadline, or use virtual time"


def test_every_folder_with_code_is_packaged() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packaged = settings["tool"]["setuptools"]["packages"]
    folders = {source.path.parent.relative_to(ROOT) for source in package_sources()}
    expected = {".".join((PACKAGE, *folder.parts)) for folder in folders}
    assert sorted(packaged) == sorted(expected)
    for folder in folders:
        assert (ROOT / folder / "__init__.py").is_file()


def test_folders_load_nothing_by_themselves() -> None:
    """A folder's `__init__` holds a docstring, or gives its names lazily: imports cost start-up time."""
    wrong = [
        f"{source.name}:{found.line} imports {found.module}"
        for source in package_sources()
        if source.name.endswith("__init__.py")
        for found in imports(source)
        if found.relative and not found.for_types_only and found.module != "version"
    ]
    assert not wrong


def test_no_line_is_left_for_later() -> None:
    marks = ("TO" + "DO", "FIX" + "ME", "XX" + "X")
    wrong = [source.name for source in sources() if any(mark in source.text for mark in marks)]
    assert not wrong
