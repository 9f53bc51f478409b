"""The rebuilt chain beside the real client: an unmodified mediapipe in an environment of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from drsf_cli import DeidSettings, deidentify
from drsf_cli.media.demo_clip import demo_frames, make_demo_clip
from drsf_cli.media.reader import VideoReader
from drsf_cli.settings import VictimNames
from tests.victims.mediapipe_unmodified import (
    VERSION,
    EnvironmentMissingError,
    client_python,
    compare,
    read_video,
)
from victims.base import Image
from victims.boxes import iou
from victims.face import Array
from victims.mediapipe.blazeface import MODELS, load_blazeface
from victims.mediapipe.facemesh import FILE, OUTPUTS, FaceMesh, read_regions, region_of_detection
from victims.mediapipe.graph import load_network

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def client(request: pytest.FixtureRequest) -> Path:
    """Python of an environment with mediapipe: DRSF_TEST_MEDIAPIPE_PYTHON, or one made once in pytest's cache."""
    given = os.environ.get("DRSF_TEST_MEDIAPIPE_PYTHON")
    if given:
        return Path(given)
    assert request.config.cache is not None
    try:
        return client_python(request.config.cache.mkdir(f"mediapipe-{VERSION}"))
    except EnvironmentMissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def frames(request: pytest.FixtureRequest) -> list[Image]:
    """20 frames: every 4th of the demo clip; half of them of a real clip where there is one."""
    demo = [frame for k, frame in enumerate(demo_frames(seconds=3.2, fps=25)) if k % 4 == 0][:20]
    shared = Path(os.environ.get("DRSF_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    clip = shared / "data" / "talking_720p.mp4"
    if not clip.is_file():
        return demo
    with VideoReader(clip) as reader:
        real = []
        for frame in reader:
            if frame.index >= 100 and frame.index % 6 == 4:
                real.append(frame.image)
            if len(real) == 10:
                break
    return demo[:10] + real


@pytest.fixture(scope="module")
def theirs(client: Path, frames: list[Image], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Array]:
    """What the client reads of the frames."""
    folder = tmp_path_factory.mktemp("client")
    given, answers = folder / "frames.npz", folder / "answers.npz"
    np.savez(given, *frames)
    script = Path(__file__).with_name("mediapipe_client.py")
    done = subprocess.run(
        [str(client), str(script), str(given), str(answers)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with np.load(answers) as read:
        return {name: read[name] for name in read.files}


def test_the_chain_follows_as_the_client_does(
    theirs: dict[str, Array], frames: list[Image], mediapipe_files: Path
) -> None:
    """Video mode: from the second frame on no detector is asked."""
    short = load_blazeface("blazeface", mediapipe_files / MODELS["blazeface"].file)
    mesh = FaceMesh(load_network(mediapipe_files / FILE, OUTPUTS), short, {})
    distances = []
    own = theirs["video"][:1]
    for row, frame in enumerate(frames[1:10], 1):  # the demo clip
        found, aligned = mesh.follow(frame, own)
        assert len(found) == 1
        assert aligned.mesh is not None
        own = aligned.mesh
        distances.append(np.linalg.norm((own[0] - theirs["video"][row])[:, :2], axis=1).mean())
    assert np.mean(distances) <= 0.1


def test_the_client_reads_the_written_file(
    client: Path, stored: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody tells it that the heads are hidden; of what is obscured only it finds no face."""
    stored(*(model.file for model in MODELS.values()), FILE)
    monkeypatch.setenv("DRSF_CACHE", str(tmp_path / "cache"))
    clip = make_demo_clip(tmp_path / "demo.mp4", seconds=0.24)
    victims = VictimNames().replaced(None, None, None, "mediapipe")
    read = {"original": read_video(client, clip, tmp_path / "answers.npz")}
    for attack in (None, "none"):
        output = tmp_path / f"{attack}.mp4"
        deidentify(clip, output, DeidSettings(victims=victims, attack=attack, repel=("none",)))
        read[str(attack)] = read_video(client, output, tmp_path / "answers.npz")
    for mode in ("static", "video"):
        figures = compare(read["original"][mode], read["None"][mode])
        assert figures.found == figures.found_before == 6
        assert figures.nme.mean() < 3.0
        assert compare(read["original"][mode], read["none"][mode]).found == 0


def test_the_chain_reads_what_the_client_reads(
    theirs: dict[str, Array], frames: list[Image], mediapipe_files: Path
) -> None:
    detectors = {name: load_blazeface(name, mediapipe_files / model.file) for name, model in MODELS.items()}
    mesh = FaceMesh(load_network(mediapipe_files / FILE, OUTPUTS), detectors["blazeface"], {})
    compared = {"short": 0, "full": 0, "mesh": 0}
    distances = []
    for row, frame in enumerate(frames):
        for ours, name in (("blazeface", "short"), ("blazeface-full", "full")):
            (found,) = detectors[ours].detect([frame])
            assert bool(len(found)) == bool(np.isfinite(theirs[name][row, 0]))
            if len(found):
                assert iou(found.boxes[0], theirs[name][row]) >= 0.9999
                compared[name] += 1
        ((found, points),) = detectors["blazeface"].detect_with_points([frame])
        if len(found) and np.isfinite(theirs["mesh"][row, 0, 0]):
            regions = region_of_detection(found.boxes[0], points[0])[None]
            points, presence = read_regions(mesh.networks["mesh"], frame, regions, mesh.device)
            assert presence[0] > 0.5
            distances.append(np.linalg.norm((points[0] - theirs["mesh"][row])[:, :2], axis=1))
            compared["mesh"] += 1
    assert min(compared.values()) >= 15, compared
    assert np.mean(distances) <= 0.02
    assert np.mean(np.array(distances)[:, 468:]) <= 0.02
    assert np.max(distances) < 0.1
