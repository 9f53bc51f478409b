"""The shape of the project: what is installed, and what the commands of the README stand on."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["attacks", "drsf_cli", "export", "victims", "weights"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The project's wheel, built without network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_exactly_the_five_packages(wheel):
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert sorted(name for name in top if not name.endswith(".dist-info")) == PACKAGES


def test_the_wheel_holds_what_the_code_reads(wheel):
    names = set(wheel.namelist())
    for name in (
        "weights/catalog.toml",
        "weights/bundled/fan_compact.safetensors",
        "weights/bundled/gaze_compact.safetensors",
        "drsf_cli/templates/report.html.j2",
    ):
        assert name in names


def test_the_console_script_is_there(wheel):
    (entry,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "drsf = drsf_cli.main:main" in wheel.read(entry).decode()


def test_ci_runs_the_readmes_test_command():
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert "make test" in (ROOT / "README.md").read_text()


def test_requirements_name_versions_and_no_host():
    lines = (ROOT / "requirements.txt").read_text().split()
    assert all("==" in line for line in lines)
    locked = {line.split("==")[0] for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [d for extra in project["optional-dependencies"].values() for d in extra]
    for dependency in wanted:
        name = dependency.split(";")[0].split("[")[0]
        for mark in "<>=!~ ":
            name = name.split(mark)[0]
        assert name.lower() in locked, dependency
