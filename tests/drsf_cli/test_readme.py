"""Every command of the README, as a user would type it, on clips of three frames."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from drsf_cli.app import main
from drsf_cli.media import demo_clip
from drsf_cli.media.reader import VideoReader

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = [(kind, body) for kind, body in re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)]
FRAMES = 3

INSTALLING = ("pipx install .", "uv tool install .", "python -m venv drsf-env && drsf-env/bin/pip install .")
"""Not run: they fetch packages. That the wheel has all it needs is in test_layout.py."""

RAY = importlib.util.find_spec("ray") is not None
"""Whether lines with --engine ray can be run."""


def typed() -> list[str]:
    """Command lines of the blocks without a language, without prompts and comments; a transcript's output is none."""
    lines = []
    for kind, body in BLOCKS:
        if kind:
            continue
        transcript = body.startswith("$ ")
        for line in body.splitlines():
            if transcript and not line.startswith("$ "):
                continue
            command = re.split(r"\s+#\s", line.removeprefix("$ "))[0].strip()
            if command:
                lines.append(re.sub(r"\s+or$", "", command))
    return lines


def of(kind: str) -> str:
    (body,) = [body for name, body in BLOCKS if name == kind]
    return body


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    for name in ("drive", "monday", "tuesday"):
        demo_clip.make_demo_clip(folder / f"{name}.mp4", seconds=FRAMES / 25, size=(320, 240))
    (folder / "study").mkdir()
    shutil.copy(folder / "drive.mp4", folder / "study")
    demo_clip.make_demo_clip(folder / "study" / "park.mp4", seconds=0.04, size=(160, 120))
    for kind in ("toml", "csv"):
        (folder / f"study.{kind}").write_text(of(kind))
    return folder


@pytest.fixture
def short_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """`drsf demo` makes its clip itself: a short one here. `drsf doctor` makes some, too, and they stay as they are."""
    whole = demo_clip.make_demo_clip

    def short(path: Path, **given: object) -> Path:
        if path.name == "driver.mp4":
            given |= {"seconds": FRAMES / 25, "size": (320, 240)}
        return whole(path, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(demo_clip, "make_demo_clip", short)


def test_nothing_else_is_typed() -> None:
    others = [line for line in typed() if not line.startswith(("drsf ", "make "))]
    assert others == list(INSTALLING)


@pytest.mark.timeout(600)
def test_every_command_works(folder: Path, short_demo: None, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 by default: beside other tests they would hardly start
    ran = []
    summaries = {}
    for line in typed():
        for command in line.split(" && "):
            if command.startswith("drsf ") and (RAY or "--engine ray" not in command):
                assert main(shlex.split(command)[1:]) == 0, f"{command}: {capsys.readouterr().err}"
                ran.append(command)
                summaries[command] = {
                    path.relative_to(folder).as_posix(): json.loads(path.read_text())
                    for path in folder.glob("*/drsf-summary*.json")
                }
    assert len(ran) >= 18 + RAY
    counts = {
        "drsf deid study -o deid": ("deid/drsf-summary.json", 2, 0),
        "drsf deid 'study/*.mp4' -o deid --resume": ("deid/drsf-summary.json", 0, 2),
        "drsf deid study -o deid --resume --shard 1/2": ("deid/drsf-summary.1-of-2.json", 0, 1),
        "drsf deid --manifest study.csv -o listed": ("listed/drsf-summary.json", 2, 0),
    }
    if RAY:
        counts["drsf deid study -o deid --resume --engine ray"] = ("deid/drsf-summary.json", 0, 2)
    for command, (name, done, skipped) in counts.items():
        found = summaries[command][name]
        assert (found["done"], found["skipped"], found["failed"]) == (done, skipped, 0), command
    listed = json.loads((folder / "listed" / "drive_deid.mp4.report.json").read_text())
    assert (listed["settings"]["mask"], listed["settings"]["audio"]) == ("solid", "copy")
    assert (folder / "listed" / "park" / "first.mp4").is_file()
    assert main(["doctor"]) == 0
    # what the README says there is then
    demo = {"driver.mp4", "driver_deid.mp4", "driver_deid.mp4.report.json", "driver.json", "driver_deid.json"}
    assert demo <= {path.name for path in (folder / "demo").iterdir()}
    for name in ("drive_deid.mp4.report.html", "report.html"):
        assert "data-measure" in (folder / name).read_text()
    assert (folder / "errors.png").read_bytes().startswith(b"\x89PNG")
    assert len((folder / "errors.csv").read_text().splitlines()) == FRAMES + 1
    assert json.loads((folder / "errors.json").read_text())["frames_compared"] == FRAMES
    panels, seen = (list(VideoReader(folder / name)) for name in ("panels.mp4", "seen.mp4"))
    assert len(panels) == len(seen) == FRAMES
    assert panels[0].image.shape[1] > 3 * 320 > seen[0].image.shape[1]
    solid = json.loads((folder / "drive_solid.mp4.report.json").read_text())["settings"]
    assert (solid["mask"], solid["attack"], solid["html"]) == ("pixelate_4", "none", True), "the typed flag wins"


@pytest.mark.timeout(600)
def test_the_python_example_works(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(folder)
    exec(compile(of("python"), "README.md", "exec"), {})
    printed = capsys.readouterr().out.split()
    assert printed[0::3] == ["monday", "tuesday"]
    assert printed[1::3] == ["True", "True"]
    assert all(0 <= float(angle) < 30 for angle in printed[2::3])
    assert (folder / "tuesday_panels.mp4").is_file()


def test_its_make_targets_are_there() -> None:
    targets = {line.split()[1] for line in typed() if line.startswith("make ")}
    targets |= set(re.findall(r"`make (\w+)`", README))
    assert {"demo", "test", "docs", "lint"} <= targets
    for target in targets:
        dry = ["make", "--dry-run", target]
        ran = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True)
        assert ran.stdout


def test_what_it_points_to_is_there() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link


def test_every_command_has_a_row() -> None:
    import typer.main

    from drsf_cli.app import app

    rows = set(re.findall(r"^\| `drsf ([a-z]+)", README, re.MULTILINE))
    assert rows == set(typer.main.get_command(app).commands)
