# SPDX-License-Identifier: Apache-2.0
"""What the project says of itself in several places is the same everywhere."""

from __future__ import annotations

import fnmatch
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from airflow_provider_scnet import __version__

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()


def listed(variable: str) -> set[str]:
    """Return the words of a variable of the Makefile."""
    match = re.search(rf"^{variable} := (.+)$", MAKEFILE, re.MULTILINE)
    assert match, variable
    return set(match[1].split())


def jobs(workflow: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / workflow).read_text())["jobs"]


def test_the_workflow_makes_what_the_makefile_has_and_leaves_no_version_out():
    job = jobs("test.yml")["make"]
    targets = set(job["strategy"]["matrix"]["target"])
    versions = {f"test-{version}" for version in listed("COMPAT")}
    pythons = {f"test-python-{version}" for version in listed("PYTHONS")}
    assert targets == {"check", "test-wheel", "docs", "test", "test-lowest", "test-engine"} | versions | pythons
    rules = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)) | {"test-lowest"}
    assert targets - versions - pythons <= rules
    (installed,) = [
        step["with"]["python-version"] for step in job["steps"] if "python-version" in step.get("with", {})
    ]
    assert installed.split() == [*sorted(listed("PYTHONS"), key=lambda name: int(name[2:])), "3.11"]


def test_the_sdist_holds_what_its_makefile_needs():
    made = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    named = {
        path.name
        for path in ROOT.iterdir()
        if not any(fnmatch.fnmatch(path.name, each) for each in made)
        and re.search(rf"(?<![\w./-]){re.escape(path.name)}(?![\w-])", MAKEFILE)
    }
    assert {"demo", "engine_tests", "requirements", "scripts"} <= named
    included = re.search(r"targets\.sdist\]\ninclude = \[(.*?)\]", PYPROJECT, re.DOTALL)
    assert included
    # Every sdist holds the file that says so.
    assert named - {"pyproject.toml"} <= set(re.findall(r'"(.+)"', included[1]))


def test_a_wheel_is_built_without_an_airflow():
    command = ["make", "--dry-run", "--always-make", "--no-print-directory", "-C", str(ROOT), "wheel"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "requirements/build.txt" in done.stdout
    assert "airflow-" not in done.stdout
    assert "airflow" not in (ROOT / "requirements" / "build.txt").read_text()


def test_the_release_publishes_after_all_tests_and_alone_may_ask_for_an_identity():
    release = jobs("release.yml")
    assert release["build"]["needs"] == "test"
    assert release["publish"]["needs"] == "build"
    assert [name for name, job in release.items() if "permissions" in job] == ["publish"]
    assert release["publish"]["permissions"] == {"id-token": "write"}


def test_every_action_is_pinned_to_a_commit_and_says_its_version():
    lines = [
        line
        for path in (ROOT / ".github" / "workflows").glob("*.yml")
        for line in path.read_text().splitlines()
        if "uses:" in line and "uses: ./" not in line
    ]
    assert lines
    pinned = [
        re.fullmatch(r"\s+- uses: ([\w.-]+/[\w.-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)", line) for line in lines
    ]
    assert all(pinned), lines
    # One version of each, in all workflows.
    pins = {pin.groups() for pin in pinned}
    assert len({name for name, *_ in pins}) == len(pins)


def test_the_classifiers_name_the_pythons_that_are_tested():
    named = set(re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT))
    assert named == listed("PYTHONS") | {"3.11"}


def test_the_changelog_has_this_version_or_what_will_become_it():
    headings = re.findall(
        r"^## \[(.+)\](?: - \d{4}-\d\d-\d\d)?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert headings
    assert headings[0] in ("Unreleased", __version__)
    sections = re.findall(r"^### (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert set(sections) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
