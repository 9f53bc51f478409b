"""The rebuilt chain beside the real client: an unmodified mediapipe in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from drsf_cli.media.demo_clip import demo_frames
from drsf_cli.media.reader import VideoReader
from victims.base import Image
from victims.boxes import iou
from victims.mediapipe.blazeface import MODELS, load_blazeface
from victims.mediapipe.facemesh import FILE, OUTPUTS, FaceMesh, read_regions
from victims.mediapipe.graph import load_network

VERSION = "0.10.21"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def client(request: pytest.FixtureRequest) -> Path:
    """Python of an environment with mediapipe: DRSF_TEST_MEDIAPIPE_PYTHON, or one made once in pytest's cache."""
    given = os.environ.get("DRSF_TEST_MEDIAPIPE_PYTHON")
    if given:
        return Path(given)
    assert request.config.cache is not None
    folder = request.config.cache.mkdir(f"mediapipe-{VERSION}")
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.is_file():
        steps = (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [str(python), "-m", "pip", "install", "--quiet", f"mediapipe=={VERSION}"],
            [str(python), "-c", "import mediapipe"],
        )
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                pytest.skip(f"mediapipe {VERSION} cannot be installed here ({last})")
        ready.touch()
    return python


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


def test_the_chain_reads_what_the_client_reads(
    client: Path, frames: list[Image], mediapipe_files: Path, tmp_path: Path
) -> None:
    given, answers = tmp_path / "frames.npz", tmp_path / "answers.npz"
    np.savez(given, *frames)
    script = Path(__file__).with_name("mediapipe_client.py")
    done = subprocess.run(
        [str(client), str(script), str(given), str(answers)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with np.load(answers) as read:
        theirs = {name: read[name] for name in read.files}
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
        (found,) = detectors["blazeface"].detect([frame])
        if len(found) and np.isfinite(theirs["mesh"][row, 0, 0]):
            (regions,) = mesh.start_regions([frame], [found.boxes[:1]])
            points, presence = read_regions(mesh.networks["mesh"], frame, regions, mesh.device)
            assert presence[0] > 0.5
            distances.append(np.linalg.norm((points[0] - theirs["mesh"][row])[:, :2], axis=1))
            compared["mesh"] += 1
    assert min(compared.values()) >= 15, compared
    assert np.mean(distances) <= 0.02
    assert np.mean(np.array(distances)[:, 468:]) <= 0.02
    assert np.max(distances) < 0.1
