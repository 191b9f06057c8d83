# SPDX-License-Identifier: Apache-2.0
"""Check what was built: what the wheel and the sdist hold, or that the wheel works in an empty environment."""

# It runs this project's own tools, and prints what it finds.

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "airflow_provider_scnet"

# Runs in the new environment, away from the source tree: Airflow itself has to find the provider there.
LOOK = """
import importlib, pkgutil
import airflow_provider_scnet as package
from airflow.providers_manager import ProvidersManager

provider = ProvidersManager().providers["airflow-provider-scnet"]
assert provider.version == package.__version__, provider.version
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    # The command line and the pytest plugin are for those who ask for them.
    if not module.name.endswith(("__main__", "pytest_plugin")):
        importlib.import_module(module.name)
"""


def main() -> None:
    """Check the one wheel and the one sdist in a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--uv", type=Path, help="the uv to install with; without one nothing is installed")
    parser.add_argument("--constraint", type=Path, help="the versions to install")
    args = parser.parse_args()

    [wheel] = args.folder.glob("*.whl")
    [sdist] = args.folder.glob("*.tar.gz")
    if args.uv:
        install(wheel, args.uv.absolute(), args.constraint.absolute())
        print(f"{wheel.name} works where Airflow and nothing else is installed")
        return
    wrong = wrong_in_wheel(wheel) + wrong_in_sdist(sdist)
    if wrong:
        sys.exit("\n".join(wrong))
    # What a package index would refuse, or show as plain text.
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", wheel, sdist], check=True)
    print(f"{wheel.name} and {sdist.name} are as they should be")


def wrong_in_wheel(wheel: Path) -> list[str]:
    """
    Return what is wrong with the files of a wheel.

    :param wheel: the file
    """
    with zipfile.ZipFile(wheel) as archive:
        files = archive.namelist()
    name, version, *_ = wheel.name.split("-")
    metadata = f"{name}-{version}.dist-info"
    sources = {path.as_posix() for path in Path(PACKAGE).rglob("*") if path.is_file()}
    expected = {file for file in sources if "__pycache__" not in file}
    needed = expected | {f"{PACKAGE}/py.typed", f"{metadata}/entry_points.txt", f"{metadata}/licenses/LICENSE"}
    wrong = [f"{wheel.name} lacks {file}" for file in sorted(needed - set(files))]
    stray = {file for file in files if not file.startswith(f"{metadata}/")} - expected
    return wrong + [f"{wheel.name} holds {file}" for file in sorted(stray)]


def wrong_in_sdist(sdist: Path) -> list[str]:
    """
    Return what is wrong with the files of an sdist.

    :param sdist: the file
    """
    with tarfile.open(sdist) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    needed = {
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "PKG-INFO",
        "tests/conftest.py",
        f"{PACKAGE}/__init__.py",
        f"{PACKAGE}/py.typed",
    }
    wrong = [f"{sdist.name} lacks {file}" for file in sorted(needed - files)]
    made = sorted(file for file in files if file.endswith(".pyc") or file.startswith((".venv", "dist/")))
    return wrong + [f"{sdist.name} holds {file}" for file in made]


def install(wheel: Path, uv: Path, constraint: Path) -> None:
    """
    Install the wheel, with what it says it needs and nothing else, and let Airflow find it.

    :param wheel: the file
    :param uv: the uv to install with
    :param constraint: the versions to install
    """
    with tempfile.TemporaryDirectory(prefix="scnet-wheel-") as folder:
        venv = Path(folder, "venv")
        python = venv / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--python", python, "--constraint", constraint, wheel], check=True
        )
        env = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
        env["AIRFLOW_HOME"] = folder
        subprocess.run([python, "-W", "ignore", "-c", LOOK], check=True, cwd=folder, env=env)


if __name__ == "__main__":
    main()
