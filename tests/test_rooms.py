# SPDX-License-Identifier: Apache-2.0
"""Data flows downward through the rooms of the package; no room imports one above it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import airflow_provider_scnet

PACKAGE = Path(airflow_provider_scnet.__file__).parent

#: From the top down.
ROOMS = ("cli", "operators", "sensors", "triggers", "polling", "claims", "gate", "hooks", "client", "event_loop")


def modules(room: str) -> list[Path]:
    found = sorted((PACKAGE / room).rglob("*.py"))
    assert len(found) > 1
    return found


def imports(path: Path) -> Iterator[str]:
    """Yield the names of all modules that a module imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_of(names: Iterator[str]) -> set[str]:
    prefix = f"{PACKAGE.name}."
    return {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)} & set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_one_above_it(room):
    below = set(ROOMS[ROOMS.index(room) :])
    for path in modules(room):
        assert rooms_of(imports(path)) <= below, path


def test_every_module_of_the_package_has_a_room():
    beside = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py"}
    assert beside == {"__init__.py", "__main__.py", "connection_form.py", "provider_info.py"}


def test_who_asks_from_the_terminal_knows_nothing_of_who_waits_in_a_dag():
    for path in modules("cli"):
        assert rooms_of(imports(path)) <= {"cli", "gate", "hooks", "client"}, path


def test_the_client_imports_nothing_of_airflow():
    for path in modules("client"):
        assert not [name for name in imports(path) if name.split(".")[0] == "airflow"], path


@pytest.mark.parametrize(
    ("room", "foreign"),
    [
        ("client", "airflow"),
        ("event_loop", "airflow"),
        *((room, foreign) for room in ("polling", "claims", "gate") for foreign in ("airflow", "requests")),
    ],
)
def test_what_a_room_must_not_know_is_not_loaded_with_it_either(room, foreign):
    names = [f"{PACKAGE.name}.{room}.{path.stem}" for path in modules(room) if path.stem != "__init__"]
    code = f"import sys, {', '.join(names)}; sys.exit({foreign!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_module_bears_the_name_of_a_standard_one():
    for room in ROOMS:
        assert not {path.stem for path in modules(room)} & sys.stdlib_module_names
