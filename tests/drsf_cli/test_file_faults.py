"""More faults of files, names and timing, through the whole pipeline; heads and measures are those of test_faults."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from drsf_cli.deid import pipeline, work
from drsf_cli.deid.pipeline import deidentify
from tests import clips
from tests.drsf_cli.test_faults import (
    face_boxes,
    leaks,
    lossless,
    models_of,
    nothing_left,
    run,
    scene,
    settings,
    sway,
)
from weights.errors import DrsfError, InputError, OutputError, UsageError

pytestmark = pytest.mark.slow

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "4:4:4": ("in.mp4", {"pixel_format": "yuv444p"}),
    "4:2:2, 10 bit": ("in.mkv", {"codec": "ffv1", "pixel_format": "yuv422p10le", "options": {}}),
    "16 bit grey": ("in.mkv", {"codec": "ffv1", "pixel_format": "gray16le", "options": {}}),
    "motion JPEG": ("in.avi", {"codec": "mjpeg", "pixel_format": "yuvj422p", "options": {"qscale": "2"}}),
    "MPEG-4 part 2": ("in.avi", {"codec": "mpeg4", "pixel_format": "yuv420p", "options": {"qscale": "2"}}),
    "MPEG-2": ("in.ts", {"codec": "mpeg2video", "pixel_format": "yuv420p", "options": {"qscale": "2"}}),
    "a palette": ("in.gif", {"codec": "gif", "pixel_format": "rgb8", "options": {}}),
    "HEVC": ("in.mp4", {"codec": "libx265", "options": {"crf": "8", "x265-params": "log-level=none"}}),
    "VP9": ("in.webm", {"codec": "libvpx-vp9", "options": {"crf": "8", "deadline": "realtime"}}),
    "interlaced": ("in.mp4", {"options": {"crf": "10", "x264-params": "interlaced=1"}}),
    "oblong pixels": ("in.mkv", {"sample_aspect_ratio": Fraction(4, 3)}),
    "starts late": ("in.mkv", {"pts": [k + 250 for k in range(12)]}),
    "BT.2020": ("in.mp4", {"matrix": 9, "pixel_format": "yuv420p10le"}),
    "fragments": ("in.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str, tmp_path: Path) -> None:
    file, given = FORMATS[name]
    boxes = face_boxes([sway], 12)
    try:
        source = clips.make_clip(tmp_path / file, scene(boxes), **given)
    except av.error.EncoderNotFoundError:
        pytest.skip(f"this FFmpeg has no encoder for {name}")
    written = run(source, boxes, tmp_path, lambda k, n, box: k in (0, 5, 11))
    assert leaks(source, source, boxes) == list(range(12))
    assert leaks(source, written, boxes) == []


NAMES = (
    "-in.mkv", "in %03d.mkv", "it's \"in\".mkv", "new\nline.mkv", "$(in)`in`;.mkv", "in*[0-9]?.mkv", "file:in.mkv",
    "concat:in.mkv", "ein Gesicht 漢 ü 👩.mkv", "x" * 200 + ".mkv", "..in.mkv", "IN.MKV",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative, so that nothing before the name keeps it from being taken for a flag or a protocol."""
    boxes = face_boxes([sway], 5)
    lossless(tmp_path / "plain.mkv", scene(boxes)).rename(tmp_path / name)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    deidentify(name, Path("out") / name, settings(), models=models_of(boxes))
    assert leaks(tmp_path / name, tmp_path / "out" / name, boxes) == []
    monkeypatch.chdir(tmp_path / "out")
    with pytest.raises((OutputError, UsageError)):
        deidentify(tmp_path / name, name, settings(), models=models_of(boxes))


def test_a_size_that_changes_half_way_stops_the_run(tmp_path: Path) -> None:
    boxes = face_boxes([sway], 12)
    first = clips.make_clip(tmp_path / "a.ts", scene(boxes)).read_bytes()
    second = clips.make_clip(tmp_path / "b.ts", scene(face_boxes([sway], 12), 256, 192)).read_bytes()
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "in.ts"
    source.write_bytes(first + second)
    with pytest.raises(InputError):
        run(source, [*boxes, *boxes], tmp_path / "in")
    assert nothing_left(tmp_path / "in", ["in.ts"])


@pytest.mark.parametrize("when", ["plan_cover", "audit_file"])
@pytest.mark.parametrize("how", ["shorter", "cut", "gone", "other faces"])
def test_a_source_that_changes_while_it_is_read(
    when: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long and with the same times, too: then what was covered is not where the heads are."""
    boxes = face_boxes([sway], 12)
    source = lossless(tmp_path / "in.mkv", scene(boxes))
    other = lossless(tmp_path / "other.mkv", scene(face_boxes([lambda k: (60, 60, 40)], 5 if how == "shorter" else 12)))
    monkeypatch_stage(monkeypatch, when, lambda: change(source, other, how))
    with pytest.raises(DrsfError):
        run(source, boxes, tmp_path)
    other.unlink(missing_ok=True)
    assert nothing_left(tmp_path, [] if how == "gone" else ["in.mkv"])


def monkeypatch_stage(monkeypatch: pytest.MonkeyPatch, name: str, first: Callable[[], None]) -> None:
    """Do `first` before the stage `name`."""
    module = work if name == "plan_cover" else pipeline
    real = getattr(module, name)

    def stage(*args: Any, **given: Any) -> Any:
        first()
        return real(*args, **given)

    monkeypatch.setattr(module, name, stage)


def change(source: Path, other: Path, how: str) -> None:
    if how == "gone":
        source.unlink()
    elif how == "cut":
        os.truncate(source, source.stat().st_size // 2)
    else:
        shutil.copyfile(other, source)


def test_two_runs_for_one_output(tmp_path: Path) -> None:
    """One of them writes it, whole; the other refuses."""
    boxes = face_boxes([sway], 12)
    source = lossless(tmp_path / "in.mkv", scene(boxes))
    ends: list[object] = []

    def one() -> None:
        try:
            ends.append(run(source, boxes, tmp_path))
        except OutputError as error:
            ends.append(error)

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert av.logging.get_level() is None, "logging stays on, which blocks later readers"
    assert sum(isinstance(end, Path) for end in ends) == 1
    assert len(ends) == 3
    assert leaks(source, tmp_path / "out.mkv", boxes) == []
    assert nothing_left(tmp_path, ["in.mkv", "out.mkv", "out.mkv.audit.png", "out.mkv.report.json"])


@pytest.mark.parametrize("overwrite", [False, True])
def test_links_in_the_way(overwrite: bool, tmp_path: Path) -> None:
    boxes = face_boxes([sway], 5)
    source = lossless(tmp_path / "in.mkv", scene(boxes))
    before = source.read_bytes()
    os.link(source, tmp_path / "hard.mkv")
    (tmp_path / "folder").mkdir()
    os.link(source, tmp_path / "folder" / "real.mkv")
    (tmp_path / "linked").symlink_to(tmp_path / "folder")
    for name in ("hard.mkv", "linked/real.mkv"):
        with pytest.raises((OutputError, UsageError)):
            deidentify(source, tmp_path / name, settings(overwrite=overwrite), models=models_of(boxes))
    for report in ("in.mkv", "hard.mkv", "out.mkv"):
        with pytest.raises((OutputError, UsageError)):
            deidentify(
                source, tmp_path / "out.mkv", settings(overwrite=overwrite), models=models_of(boxes),
                report=tmp_path / report,
            )  # fmt: skip
    assert source.read_bytes() == before
    assert nothing_left(tmp_path, ["in.mkv", "hard.mkv", "folder", "linked"])


def test_an_output_behind_a_dangling_link(tmp_path: Path) -> None:
    boxes = face_boxes([sway], 5)
    source = lossless(tmp_path / "in.mkv", scene(boxes))
    (tmp_path / "out.mkv").symlink_to(tmp_path / "nowhere.mkv")
    with pytest.raises(OutputError, match="--overwrite"):
        run(source, boxes, tmp_path)
    assert nothing_left(tmp_path, ["in.mkv", "out.mkv"])


def test_a_folder_that_is_removed_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = face_boxes([sway], 5)
    source = lossless(tmp_path / "in.mkv", scene(boxes))
    (tmp_path / "out").mkdir()
    monkeypatch_stage(monkeypatch, "audit_file", lambda: shutil.rmtree(tmp_path / "out"))
    with pytest.raises(DrsfError):
        deidentify(source, tmp_path / "out" / "out.mkv", settings(), models=models_of(boxes))
    assert nothing_left(tmp_path)
