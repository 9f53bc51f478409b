"""A dry run writes nothing, says what the run would do, and reckons its time from what it measured."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from drsf_cli.app import main
from drsf_cli.batch.dry_run import Stopwatch, dry_run_of
from drsf_cli.batch.jobs import Job
from drsf_cli.deid.baselines import FLOOR_STEP, SHOWN_STEP
from drsf_cli.media.demo_clip import make_demo_clip
from drsf_cli.progress import Silent
from drsf_cli.readers.models import Models
from drsf_cli.settings import DeidSettings
from tests.clips import make_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_demo_clip(tmp_path_factory.mktemp("clip") / "driver.mp4", seconds=0.8, size=(320, 240))


def test_time_of_the_whole_from_time_of_the_parts():
    """By hand. Two groups of four frames, the first 10 s and the second 2 s: a hundred frames take 10 + 24 x 2 s. A
    step that looks at few frames however long the clip is does not grow with it. 1 s lies between the steps."""
    now = [0.0]
    watch = Stopwatch(Silent(), clock=lambda: now[0])

    def step(title, *groups):
        watch.begin(title, None)
        for seconds, parts in groups:
            now[0] += seconds
            watch.advance(parts)

    step("Obscuring and embedding", (10.0, 4), (2.0, 4))
    step("Reading the result back", (1.0, 4), (1.0, 4))
    step(SHOWN_STEP, (4.0, 8))
    step(FLOOR_STEP, (3.0, 8))
    watch.stop()
    now[0] += 1.0
    # shown: 12 frames at 0.5 s; floor: all 100 frames at 3/8 s
    others = 25 + 6 + 37.5 + 1
    assert watch.forecast(elapsed=22.0, tried=8, frames=100) == pytest.approx(10 + 48 + others)
    assert watch.forecast(elapsed=22.0, tried=8, frames=8) == pytest.approx(22)


@pytest.mark.slow
def test_it_writes_nothing_and_says_what_would_be(clip, tmp_path, monkeypatch, capsys):
    places = tmp_path / "temporary"
    places.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(places))
    folder = tmp_path / "out"
    folder.mkdir()
    output = folder / "hidden.mp4"
    before = sorted(path.name for path in clip.parent.iterdir())
    arguments = ["deid", str(clip), "-o", str(output), "--attack", "none", "--html", "--dry-run"]
    assert main(arguments) == 0
    assert list(folder.iterdir()) == []
    assert list(places.iterdir()) == [], "the trial is gone as well"
    assert sorted(path.name for path in clip.parent.iterdir()) == before
    said = " ".join(re.sub(r"[^\w.,:()/-]+", " ", capsys.readouterr().out).split())
    for text in ("320x240, 20 frames", "hidden.mp4.report.json", "hidden.mp4.report.html", "pixelate_5, none"):
        assert text in said.replace("\n", " ")
    assert re.search(r"about \d+ (s|min), measured on 16 frames", said), "minutes on a busy machine"


@pytest.mark.slow
def test_it_foresees_the_time_of_a_real_run(clip, tmp_path):
    """Within a factor of five, which a busy machine needs."""
    settings = DeidSettings(attack="none")
    models = Models.load(settings.victims, "cpu")
    expected = dry_run_of(job_of(clip, tmp_path / "out.mp4", settings), models)
    assert (expected.frames, expected.tried) == (20, 16)
    assert main(["deid", str(clip), "-o", str(tmp_path / "out.mp4"), "--attack", "none", "-q"]) == 0
    report = json.loads((tmp_path / "out.mp4.report.json").read_text())
    real = report["cost"]["seconds_per_frame"] * 20
    assert real / 5 < expected.seconds < real * 5


def job_of(clip, output, settings):
    return Job(clip, output, settings)


@pytest.mark.slow
def test_start_and_end_count(clip, tmp_path):
    settings = DeidSettings(attack="none", start=0.1, end=0.5)
    found = dry_run_of(job_of(clip, tmp_path / "out.mp4", settings), Models.load(settings.victims, "cpu"))
    assert (found.frames, found.tried) == (10, 10)
    assert found.trial["input"]["frames"] == 10


def test_what_the_run_would_refuse_it_refuses(clip, tmp_path, capsys):
    there = tmp_path / "out.mp4.report.html"
    there.write_text("mine")
    arguments = ["deid", str(clip), "-o", str(tmp_path / "out.mp4"), "--attack", "none", "--dry-run"]
    assert main([*arguments, "--html"]) == 4
    assert "out.mp4.report.html exists already" in capsys.readouterr().err
    assert main([*arguments[:3], str(tmp_path / "no" / "out.mp4"), *arguments[4:]]) == 4
    assert there.read_text() == "mine"


@pytest.mark.slow
def test_several_inputs_go_to_a_folder_that_will_be_made(tmp_path, capsys):
    """One that would fail stops no other; what is finished is left out."""
    clip = make_demo_clip(tmp_path / "driver.mp4", seconds=0.12, size=(160, 120))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    arguments = ["deid", str(clip), str(broken), "-o", str(tmp_path / "new" / "deid"), "--attack", "none", "--quiet"]
    assert main([*arguments, "--dry-run"]) == 10
    said = capsys.readouterr()
    assert "broken.mp4 is not a video" in said.err
    assert ".audit.png" in said.out
    assert not (tmp_path / "new").exists()
    assert main(arguments) == 10
    capsys.readouterr()
    assert main([*arguments, "--dry-run", "--resume"]) == 10
    assert "is finished already" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_a_clip_that_starts_without_a_face_is_told(tmp_path, capsys):
    grey = [np.full((96, 128, 3), 90, np.uint8)] * 3
    clip = make_clip(tmp_path / "grey.mp4", grey)
    assert main(["deid", str(clip), "-o", str(tmp_path / "out.mp4"), "--dry-run"]) == 0
    assert "No face is seen" in " ".join(capsys.readouterr().out.split())
    assert [path.name for path in tmp_path.iterdir()] == ["grey.mp4"]
