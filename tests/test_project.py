# SPDX-License-Identifier: Apache-2.0
"""What the project says of itself in several places is the same everywhere."""

from __future__ import annotations

import re
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
    assert targets == {"check", "wheel", "docs", "test", "test-lowest", "test-engine"} | versions | pythons
    rules = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)) | {"test-lowest"}
    assert targets - versions - pythons <= rules
    (installed,) = [
        step["with"]["python-version"] for step in job["steps"] if "python-version" in step.get("with", {})
    ]
    assert installed.split() == [*sorted(listed("PYTHONS"), key=lambda name: int(name[2:])), "3.11"]


def test_the_release_publishes_after_all_tests_and_alone_may_ask_for_an_identity():
    release = jobs("release.yml")
    assert release["build"]["needs"] == "test"
    assert release["publish"]["needs"] == "build"
    assert [name for name, job in release.items() if "permissions" in job] == ["publish"]
    assert release["publish"]["permissions"] == {"id-token": "write"}


def test_every_action_is_pinned_to_a_version():
    steps = [
        step
        for name in ("test.yml", "release.yml")
        for job in jobs(name).values()
        for step in job.get("steps", [])
    ]
    used = [step["uses"] for step in steps if "uses" in step]
    assert used
    assert not [name for name in used if not re.fullmatch(r"[\w.-]+/[\w.-]+@v\d+\.\d+\.\d+", name)]


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
