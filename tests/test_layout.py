"""The shape of the project: what is installed, and what the commands of the README stand on."""

from __future__ import annotations

import ast
import io
import json
import os
import pkgutil
import subprocess
import sys
import tokenize
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import drsf_cli
from drsf_cli.app import app
from drsf_cli.commands import weights

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


PRODUCT = sorted(
    path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "training" not in path.parts
)
LINES_OF_A_FILE, LINES_OF_A_FUNCTION, PARAMETERS = 400, 60, 8
LINES_OF_CODE = 18_500
"""In all, docstrings, comments and empty lines apart. It is to fall: what comes in should make something needless."""


def functions(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, lines and parameters of each function, `self` and `cls` apart; of a method the class, too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            own = node.args
            names = [one.arg for one in (*own.posonlyargs, *own.args)]
            count = len(names) - (names[:1] in (["self"], ["cls"])) + len(own.kwonlyargs)
            count += (own.vararg is not None) + (own.kwarg is not None)
            assert node.end_lineno is not None
            yield f"{path.relative_to(ROOT)}: {node.name}", node.end_lineno - node.lineno + 1, count


def lines_of_code(path: Path) -> int:
    """Lines with anything but comments and docstrings (and strings under fields, which are docstrings to a reader)."""
    text = path.read_text()
    described: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            assert node.end_lineno is not None
            described |= set(range(node.lineno, node.end_lineno + 1))
    nothing = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    written = {
        line for token in tokens if token.type not in nothing for line in range(token.start[0], token.end[0] + 1)
    }
    return len(written - described)


def test_files_and_functions_are_small_enough_to_read():
    """The commands apart: their parameters are their flags, each with its help."""
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in PRODUCT}
    assert {name: length for name, length in lengths.items() if length > LINES_OF_A_FILE} == {}
    found = {one for path in PRODUCT for one in functions(path)}
    commands = [command.callback for typer in (app, weights.app) for command in typer.registered_commands]
    flags = {f"{one.__module__.replace('.', '/')}.py: {one.__name__}" for one in commands if one is not None}
    assert flags <= {name for name, *_ in found}
    too_large = {name for name, lines, count in found if lines > LINES_OF_A_FUNCTION or count > PARAMETERS}
    assert too_large - flags == set()
    assert sum(lines_of_code(path) for path in PRODUCT) <= LINES_OF_CODE


def test_lengths_are_counted_as_they_should(tmp_path):
    code = '''"""Module."""

# a comment
LIMIT = 3
"""What it limits."""


class Some:
    """A class."""

    def method(self, a, *rest, b=1, **more):
        """Two
        lines."""
        return (
            a,  # one
        )
'''
    path = tmp_path / "some.py"
    path.write_text(code)
    assert lines_of_code(path) == 6
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "ROOT", tmp_path)
        assert list(functions(path)) == [("some.py: method", 6, 4)]


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


@pytest.mark.slow
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
