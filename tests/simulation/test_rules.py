"""The table of rules names what is there, and every violation's name stands in it."""

from __future__ import annotations

import ast
import re
from functools import reduce
from importlib import import_module
from pathlib import Path

import pytest
import zmqbroker.simulation
from zmqbroker.simulation.rules import OTHERS, RULES
from zmqbroker.simulation.run import INVARIANTS

FOLDER = Path(zmqbroker.simulation.__file__).parent


@pytest.mark.parametrize("number", RULES)
def test_what_holds_a_rule_exists(number: int) -> None:
    for holder in RULES[number].holders:
        module, *names = holder.split(".")
        assert callable(reduce(getattr, names, import_module(f"zmqbroker.simulation.{module}"))), holder


def test_the_rules_are_numbered_without_a_gap() -> None:
    assert list(RULES) == list(range(1, 30))
    assert {rule.when for rule in RULES.values()} == {"S", "E", "H"}


def test_every_invariant_of_a_run_holds_a_rule() -> None:
    holders = {holder for rule in RULES.values() for holder in rule.holders}
    for invariant in INVARIANTS:
        assert f"{invariant.__module__.rpartition('.')[2]}.{invariant.__name__}" in holders


def violation_names() -> set[str]:
    """First arguments of ``violated`` and of ``_wait``, and every NAME, where they are literals."""
    found = set()
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                first = node.args[0]
                if node.func.attr in {"violated", "_wait"} and isinstance(first, ast.Constant) and len(node.args) > 1:
                    found.add(first.value)
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NAME":
                found.add(ast.literal_eval(node.value))
    return found - {""}


def test_every_violation_is_of_a_rule_or_of_the_others() -> None:
    names = violation_names()
    assert len(names) > len(OTHERS) + len(INVARIANTS)
    for name in names:
        word = name.split()[0]
        number = re.fullmatch(r"H?(\d+)", word)
        assert int(number[1]) in RULES if number else word in OTHERS, name
