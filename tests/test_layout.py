"""The shape of the project: what is installed, and what the commands of the README stand on."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import drsf_cli

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
        "drsf_cli/report/templates/report.html.j2",
        "drsf_cli/measure/zones/dashboard-lhd.toml",
        "victims/blind.json",
    ):
        assert name in names
    assert not any("/training/" in name for name in names), "training is not installed"


def test_the_console_script_is_there(wheel):
    (entry,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "drsf = drsf_cli.app:main" in wheel.read(entry).decode()


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


HEAVY = {"torch", "onnxruntime", "ray", "cv2", "av", "scipy", "numpy", "matplotlib"}
NUMBERS = {"cv2", "scipy", "numpy"}


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (["--help"], set()),
        (["--version"], set()),
        (["deid", "--help"], set()),
        (["weights", "fork", "--help"], set()),
        (["audit", "--help"], set()),
        ([], set()),  # completion, by the environment below
        (["eval", "READING", "READING"], NUMBERS),
        (["signals", "READING", "-o", "TABLE"], NUMBERS),
        (["eval", "READING", "READING", "--plot", "PLOT"], NUMBERS | {"matplotlib"}),
    ],
    ids=lambda value: " ".join(sorted(value) if isinstance(value, set) else value),  # a set's own order varies
)
def test_what_needs_no_torch_does_not_import_it(arguments, allowed, tmp_path):
    reading = tmp_path / "reading.json"
    reading.write_text(json.dumps([{"frame_id": 0, "bboxes": [0, 0, 9, 9], "score": 1.0}]))
    arguments = [
        {"READING": str(reading), "PLOT": str(tmp_path / "plot.png"), "TABLE": str(tmp_path / "table.csv")}.get(
            word, word
        )
        for word in arguments
    ]
    environment = dict(os.environ)
    if not arguments:
        environment |= {"_DRSF_COMPLETE": "complete_bash", "COMP_WORDS": "drsf deid --attack ", "COMP_CWORD": "3"}
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('IMPORTED', *({HEAVY!r} & set(sys.modules))))\n"
        "from drsf_cli.app import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    *printed, imported = done.stdout.splitlines()
    assert printed
    assert imported.split()[0] == "IMPORTED"
    assert set(imported.split()[1:]) <= allowed


def test_the_package_is_a_command():
    command = [sys.executable, "-m", "drsf_cli"]
    done = subprocess.run([*command, "--version"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert subprocess.run([*command, "nonsense"], cwd=ROOT, capture_output=True, check=False).returncode == 2


def test_public_names_are_there_and_no_module_stands_in_their_place():
    assert sorted(drsf_cli._HOMES) == drsf_cli.__all__
    assert not set(drsf_cli.__all__) & {module.name for module in pkgutil.iter_modules(drsf_cli.__path__)}
    for name in drsf_cli.__all__:
        assert getattr(drsf_cli, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        drsf_cli.nothing  # noqa: B018
