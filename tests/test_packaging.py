"""What a wheel would contain: every module of the package, its type marker, and nothing else."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import zmqbroker

ROOT = Path(__file__).parent.parent

# setuptools' own collector of modules, in a process of its own: it changes the working folder and patches distutils.
LIST_MODULES = """
import sys
from setuptools import Distribution
from setuptools.config.pyprojecttoml import apply_configuration
distribution = Distribution({"script_name": "setup.py"})
apply_configuration(distribution, "pyproject.toml")
build = distribution.get_command_obj("build_py")
build.ensure_finalized()
for package, module, path in build.find_all_modules():
    print(path)
for package, source, target, files in build.data_files:
    for name in files:
        print(f"{source}/{name}")
"""


def in_a_clean_process(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_wheel_holds_the_package_and_nothing_else() -> None:
    packaged = {str(Path(line)) for line in in_a_clean_process(LIST_MODULES)}
    top = {path.split("/")[0] for path in packaged if "/" in path}
    assert not top & {"tests", "examples", "bench", "docs", "typings"}
    assert "py.typed" in packaged
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = [package.split(".")[1:] for package in settings["tool"]["setuptools"]["packages"]]
    expected = {str(path.relative_to(ROOT)) for folder in folders for path in ROOT.joinpath(*folder).glob("*.py")}
    assert expected == packaged - {"py.typed"}


def test_version_is_that_of_the_project() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert zmqbroker.__version__ == settings["project"]["version"]


def test_every_public_name_is_there() -> None:
    for name in zmqbroker.__all__:
        assert getattr(zmqbroker, name) is not None
    assert set(zmqbroker.__all__) <= set(dir(zmqbroker))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        zmqbroker.no_such_name  # type: ignore[attr-defined]  # noqa: B018 - that it raises is the test


def test_importing_the_package_loads_no_part_of_it() -> None:
    loaded = in_a_clean_process("import sys, zmqbroker; print(*(m for m in sys.modules if m.startswith('zmqbroker.')))")
    assert loaded == ["zmqbroker.version"]


def test_the_supervisor_loads_no_codec_no_client_and_no_sockets() -> None:
    """`zmqbroker start` has half a second; each of these would take a tenth of that or more."""
    loaded = in_a_clean_process("import sys, zmqbroker.cli.main, zmqbroker.cli.start; print(*sys.modules)")[0].split()
    heavy = {"aiokafka", "kafka", "zmq", "pykka", "msgspec", "typer", "rich", "asyncio", "zmqbroker.client"}
    assert not heavy & set(loaded)


def test_the_pytest_plugin_loads_no_broker() -> None:
    loaded = in_a_clean_process("import sys, zmqbroker.testing.pytest_plugin; print(*sys.modules)")[0].split()
    assert not {"zmq", "pykka", "aiokafka", "zmqbroker.settings"} & set(loaded)


def test_every_verb_has_its_file() -> None:
    from zmqbroker.cli.main import VERBS

    for verb in VERBS:
        module = importlib.import_module(f"zmqbroker.cli.{verb.module}")
        assert callable(module.run)
        assert callable(module.add_arguments)


def test_settings_are_documented_from_their_table() -> None:
    from zmqbroker.settings import settings_markdown

    assert (ROOT / "docs" / "settings.md").read_text() == settings_markdown(), "run `make docs`"
