"""`drsf weights fork`, as typed."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from safetensors.torch import load_file

from drsf_cli.app import main
from drsf_cli.readers.fork import read_faces
from tests.clips import make_clip
from victims import registry
from weights.catalog import catalog
from weights.store import default_store


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A video in which a portrait drifts, a frame every half second; two pictures, of which one shows nobody."""
    folder = tmp_path_factory.mktemp("faces")
    portrait = skimage.data.astronaut()[20:220, 130:330]
    images = [np.ascontiguousarray(np.roll(portrait, (k % 7, k % 5), axis=(0, 1))) for k in range(42)]
    make_clip(folder / "drive.mp4", images, pts=[k * 5 for k in range(42)], time_base=Fraction(1, 10))
    (folder / "more").mkdir()
    Image.fromarray(portrait).save(folder / "more" / "one.png")
    Image.fromarray(np.full((100, 100, 3), 90, np.uint8)).save(folder / "nobody.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_faces_are_taken_from_videos_and_pictures(faces):
    """42 frames at half a second and a picture: the last fifth of each file is kept out of training."""
    training, held_out = read_faces(faces, "fan-compact")
    assert training.shape[1:] == held_out.shape[1:] == (3, 154, 154)
    assert len(training) + len(held_out) == 43
    assert len(held_out) == 8


@pytest.mark.slow
def test_a_fork_is_written_and_used(faces, tmp_path, capsys):
    output = tmp_path / "ours.safetensors"
    arguments = ["weights", "fork", "gaze-compact", "--data", str(faces), "-o", str(output), "--steps", "2"]
    assert main(arguments) == 0
    assert "kept out of training" in capsys.readouterr().out
    own, released = load_file(output), load_file(default_store().path(catalog()["gaze_compact.safetensors"]))
    assert {k for k in own if "num_batches" not in k} == set(released)
    assert any(not torch.equal(own[key], released[key]) for key in released)
    assert registry.load(f"gaze-compact@{output}", "gaze", allow_unknown=True).weights.keys() == {"ours.safetensors"}
    assert main(arguments) == 4
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "data", "more", "code", "word"),
    [
        ("mtcnn", ".", [], 2, "cannot be forked"),
        ("gaze-compact", "none", [], 3, "not a folder"),
        ("gaze-compact", "more", [], 3, "1 faces"),
        ("gaze-compact", ".", ["--steps", "0"], 2, "--steps 0"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(faces, tmp_path, capsys, name, data, more, code, word):
    output = tmp_path / "ours.safetensors"
    assert main(["weights", "fork", name, "--data", str(faces / data), "-o", str(output), *more]) == code
    assert word in " ".join(capsys.readouterr().err.split())
    assert not output.exists()


@pytest.mark.slow
def test_weights_that_read_worse_are_not_written(faces, tmp_path, capsys, monkeypatch):
    """The released weights' own reading, turned by noise that no few steps mend."""
    from drsf_cli.readers import fork as fork_weights
    from victims.compact.fork import fork

    def ruined(*arguments):
        state, random = fork(*arguments), torch.Generator().manual_seed(0)
        return {
            k: v + 3 * v.std() * torch.randn(v.shape, generator=random) if v.ndim > 1 else v for k, v in state.items()
        }

    monkeypatch.setattr(fork_weights, "fork", ruined)
    output = tmp_path / "ours.safetensors"
    arguments = ["weights", "fork", "gaze-compact", "--data", str(faces), "-o", str(output), "--steps", "1"]
    assert main(arguments) == 8
    assert "was not written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
