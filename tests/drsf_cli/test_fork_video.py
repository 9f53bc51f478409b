"""Private weights in a delivered video: what a holder of the other weights reads from the file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import skimage.data
from safetensors.torch import save_file

from drsf_cli.app import main
from drsf_cli.media.demo_clip import make_demo_clip
from drsf_cli.readers.fork import FILES, landmark_crop
from victims import registry
from victims.compact.fork import FAMILIES, ForkSettings, clone, fork
from weights.loading import load_state_dict
from weights.store import resolve

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    """`fan-compact@FILE`: a small fork, of one face."""
    family, image = FAMILIES["fan-compact"], np.ascontiguousarray(skimage.data.astronaut())
    released = clone(family, load_state_dict(resolve([FILES["fan-compact"]]).path))
    (box,) = registry.load_detector("mtcnn").detect([image])[0].boxes
    crop = landmark_crop(image, box)
    assert crop is not None
    settings = ForkSettings(steps=30, batch=4, pool=8, pool_batch=4)
    state = fork(family, released, crop[None].repeat(24, 1, 1, 1), 3, settings)
    path = tmp_path_factory.mktemp("fork") / "ours.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return f"fan-compact@{path}"


@pytest.mark.parametrize("held", ["private", "released"])
def test_who_reads_a_video_made_for_whom(held, private, tmp_path):
    """H.264 at the defaults, the other weights repelled where they are at hand. Whoever is authorised reads the
    landmarks; a holder of the other weights, told the true box, is off several times as much."""
    own, other = (private, "fan-compact") if held == "private" else ("fan-compact", private)
    clip, output = make_demo_clip(tmp_path / "clip.mp4", seconds=0.12), tmp_path / "out.mp4"
    arguments = ["deid", str(clip), "-o", str(output), "-a", own, "--allow-unknown-weights", "--effort", "best", "-q"]
    assert main(arguments) == 0
    report = json.loads((tmp_path / "out.mp4.report.json").read_text())
    assert ("fan-compact" in report["repelled"]) is (held == "private")
    figures = tmp_path / "read.json"
    arguments = ["audit", str(clip), str(output), "--against", other, "--json", str(figures), "-q"]
    assert main([*arguments, "--allow-unknown-weights"]) == 0
    authorised, outsider = json.loads(figures.read_text())["models"]
    assert outsider["name"] == other
    read = authorised["columns"]["written"]
    assert read["detected"] == 1.0
    assert read["nme"] < 2.5  # % of the box
    assert outsider["columns"]["written"]["nme"] > 1.4 * read["nme"]
