"""The table of limits beside this file: read, and written anew from what was measured."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE = Path(__file__).with_name("limits.toml")
COMMENT = """\
# What one unit of each path of the guard usually costs, in turns of its calibration loop, by the version of Python: an
# interpreter that makes calls cheaper and something else dearer changes the ratios, without a change of this code.
# Written by `make bench-guard ARGS=--write`; only the margin is changed by hand. A path that costs more than the usual
# and the margin fails the guard.
"""


class Limits(NamedTuple):
    """The table."""

    margin: float
    usual: dict[str, dict[str, float]]
    """By version of Python, by path."""


def python_version() -> str:
    """The version whose limits count here."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def read(text: str) -> Limits:
    """The table of a file's text."""
    found = tomllib.loads(text)
    return Limits(float(found["margin"]), {version: dict(usual) for version, usual in found["python"].items()})


def written(limits: Limits, version: str, usual: Mapping[str, float]) -> str:
    """The text of the file with new figures for one version of Python; those of the others stay."""
    parts = [f"{COMMENT}\nmargin = {limits.margin:g}\n"]
    for each, figures in sorted({**limits.usual, version: usual}.items()):
        lines = "".join(f"{name} = {figure:.4g}\n" for name, figure in figures.items())
        parts.append(f'\n[python."{each}"]\n{lines}')
    return "".join(parts)
