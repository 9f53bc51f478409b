"""Faults in the whole pipeline: no unobscured pixel of a head in any output, the exit code that is documented, no file
half-written.

The heads are noise that is known to the pixel, the detector is told what it sees and what it misses, and the output is
lossless, so that every pixel of every head can be compared with the source.
"""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL.Image
import pytest
from scipy.ndimage import binary_erosion

from attacks.embed import Embedded, Target
from attacks.obscure import GREY
from drsf_cli.deid import clip, pipeline, survey, work
from drsf_cli.deid import sections as document
from drsf_cli.deid.changes import ChangeStore
from drsf_cli.deid.pipeline import deidentify
from drsf_cli.media import atomic
from drsf_cli.media import writer as video_writer
from drsf_cli.media.reader import VideoReader
from drsf_cli.readers.models import Models
from drsf_cli.settings import DeidSettings
from tests import clips
from victims.base import Detector, ExportSpec, Image, Objective, Window
from victims.face import Array, Detections
from victims.observe import Observer
from weights.errors import DrsfError, InputError, NoFaceError, OutputError, UsageError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT, COUNT = 320, 240, 40

Path4 = Callable[[int], tuple[float, float, float]]  # frame -> centre x, y and width of a face
Missed = Callable[[int, int, Array], bool]  # frame, face, box -> not seen


class Told(Detector):
    """A detector that sees what it is told, frame after frame; afterwards, in the audit, it sees nothing."""

    name = "told"
    cover_threshold = 0.5

    def __init__(self, boxes: Sequence[Sequence[Array]], score: float = 0.99) -> None:
        super().__init__({}, {})
        self.boxes, self.score = boxes, score
        self.at = 0

    def detect(self, images: Sequence[Image], threshold: float | None = None) -> list[Detections]:
        return [Detections(np.zeros((0, 4)), np.zeros(0)) for _ in images]

    def sweep(self, images: Sequence[Image], threshold: float) -> tuple[list[Detections], list[Detections]]:
        own = [self.boxes[k] if k < len(self.boxes) else [] for k in range(self.at, self.at + len(images))]
        self.at += len(images)
        found = [Detections(np.array(b, dtype=float).reshape(-1, 4), np.full(len(b), self.score)) for b in own]
        return found if self.score >= 0.7 else self.detect(images), found

    def objective(self, frames: Sequence[Image], windows: Sequence[Window], boxes: Array) -> Objective:
        raise AssertionError("nothing is attacked here")

    def export_specs(self) -> dict[str, ExportSpec]:
        return {}


def models_of(boxes: Sequence[Sequence[Array]], score: float = 0.99) -> Models:
    chain = Observer(Told(boxes, score))
    return Models(chain, "cpu", threads=1, companions={(): []}, _onnx=chain)  # frame after frame


def face_boxes(paths: Sequence[Path4], count: int = COUNT) -> list[list[Array]]:
    """Faces, 1.25 times as high as wide."""
    frames = []
    for k in range(count):
        places = [path(k) for path in paths]
        frames.append([np.array([x - w / 2, y - w / 1.6, x + w / 2, y + w / 1.6]) for x, y, w in places])
    return frames


def head_pixels(box: Array, width: int, height: int) -> np.ndarray:
    """(H, W) bool: an ellipse with hair, ears and chin, twice as wide as the face, half a face above it."""
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1
    top, bottom = y1 - 0.5 * h, y2 + 0.15 * h
    ys, xs = np.mgrid[:height, :width]
    inside = ((xs + 0.5 - (x1 + x2) / 2) / (0.95 * w)) ** 2 + (
        (ys + 0.5 - (top + bottom) / 2) / ((bottom - top) / 2)
    ) ** 2
    return np.asarray(inside <= 1.0)


def scene(boxes: Sequence[Sequence[Array]], width: int = WIDTH, height: int = HEIGHT) -> list[Image]:
    """A ramp with every head as noise."""
    rng = np.random.default_rng(7)
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    images = []
    for own in boxes:
        image = clips.pattern(0, width, height)
        for box in own:
            head = head_pixels(box, width, height)
            image[head] = noise[head]
        images.append(image)
    return images


def leaks(source: Path, written: Path, boxes: Sequence[Sequence[Array]]) -> list[int]:
    """Frames of the output in which 3x3 px of a head are the source's, to 3 grey levels."""
    found = []
    frames = itertools.zip_longest(VideoReader(source), VideoReader(written))
    for k, (before, after) in enumerate(frames):
        assert before is not None, "more frames than the source has"
        assert after is not None, "fewer frames than the source has"
        same = (np.abs(before.image.astype(int) - after.image) <= 3).all(axis=2)
        same = binary_erosion(same, np.ones((3, 3)))
        height, width = same.shape
        if any((same & head_pixels(box, width, height)).any() for box in boxes[k]):
            found.append(k)
    return found


def lossless(path: Path, images: Sequence[Image], **given: Any) -> Path:
    return clips.make_clip(path, images, codec="ffv1", pixel_format="bgr0", options={"level": "3"}, **given)


def settings(**given: Any) -> DeidSettings:
    return DeidSettings(**{"attack": "none", "codec": "ffv1", "mask": "pixelate_5", **given})


def run(
    source: Path, boxes: Sequence[Sequence[Array]], folder: Path, missed: Missed | None = None, **given: Any
) -> Path:
    seen = [
        [box for n, box in enumerate(own) if missed is None or not missed(k, n, box)] for k, own in enumerate(boxes)
    ]
    output = folder / "out.mkv"
    deidentify(source, output, settings(**given), models=models_of(seen))
    return output


def inside(box: Array) -> bool:
    return bool(box[0] >= 0 and box[1] >= 0 and box[2] <= WIDTH and box[3] <= HEIGHT)


def sway(k: int) -> tuple[float, float, float]:
    return 160 + 25 * math.sin(k / 5), 120 + 6 * math.sin(k / 3), 44


DROPPED = np.random.default_rng(3).random((COUNT, 2)) < 0.3

SCENES: dict[str, tuple[list[Path4], Missed]] = {
    "all seen": ([sway], lambda k, n, box: False),
    "first missed": ([sway], lambda k, n, box: k == 0),
    "last missed": ([sway], lambda k, n, box: k == COUNT - 1),
    "first ten missed": ([sway], lambda k, n, box: k < 10),
    "last ten missed": ([sway], lambda k, n, box: k >= COUNT - 10),
    "one second missed": ([sway], lambda k, n, box: 8 <= k < 32),
    "two seconds missed": ([lambda k: (160 + 8 * math.sin(k / 9), 120, 44)], lambda k, n, box: not (k < 3 or k > 53)),
    "missed in both halves": ([sway], lambda k, n, box: 3 <= k < 18 or 21 <= k < 37),
    "flicker": ([sway], lambda k, n, box: bool(DROPPED[k, n])),
    "every other": ([sway], lambda k, n, box: k % 2 == 1),
    "seen in three frames": ([lambda k: (160, 120, 44)], lambda k, n, box: k not in (11, 12, 13)),
    "seen once": ([lambda k: (160, 120, 44)], lambda k, n, box: k != 20),
    "entering": ([lambda k: (-30 + 5 * k, 120, 40)], lambda k, n, box: not inside(box)),
    "leaving": ([lambda k: (160 + 5 * k, 120, 40)], lambda k, n, box: not inside(box)),
    "cut by the border": ([lambda k: (6, 20 + k, 50)], lambda k, n, box: bool(DROPPED[k, n])),
    "crossing": (
        [lambda k: (60 + 5 * k, 110, 36), lambda k: (260 - 5 * k, 125, 40)],
        lambda k, n, box: n == 1 and 16 <= k < 24,
    ),
    "tiny": ([lambda k: (160 + k / 2, 120, 9)], lambda k, n, box: bool(DROPPED[k, n])),
    "huge": ([lambda k: (150 + k, 120, 190)], lambda k, n, box: bool(DROPPED[k, n])),
    "fast": ([lambda k: (160 + 120 * math.sin(k / 4), 120, 36)], lambda k, n, box: bool(k % 4 == 2)),
    "scene cut": ([lambda k: (80, 80, 40) if k < 20 else (230, 150, 56)], lambda k, n, box: k in (18, 19, 20, 21)),
    "crossing, both missed": (
        [lambda k: (60 + 5 * k, 110, 36), lambda k: (260 - 5 * k, 125, 40)],
        lambda k, n, box: 17 <= k < 23,
    ),
    "entering and leaving": ([lambda k: (-60 + 12 * k, 120, 40)], lambda k, n, box: not inside(box)),
    "cut by a corner": ([lambda k: (4, 6, 60)], lambda k, n, box: k % 3 != 0),
    "turning away": ([sway], lambda k, n, box: k >= 12),
    "fast, three frames in four missed": ([lambda k: (40 + 6 * k, 120, 36)], lambda k, n, box: k % 4 != 0),
    "leaning in": ([lambda k: (160, 120, 30 + k)], lambda k, n, box: bool(DROPPED[k, n])),
}


@pytest.mark.parametrize("name", SCENES)
def test_no_head_is_open_whatever_the_detector_misses(name: str, tmp_path: Path) -> None:
    paths, missed = SCENES[name]
    count = 57 if name == "two seconds missed" else COUNT
    boxes = face_boxes(paths, count)
    source = lossless(tmp_path / "in.mkv", scene(boxes))
    there = [k for k in range(count) if any(head_pixels(box, WIDTH, HEIGHT)[1:-1, 1:-1].any() for box in boxes[k])]
    assert leaks(source, source, boxes) == there, "the measure finds open heads"
    written = run(source, boxes, tmp_path, missed)
    assert leaks(source, written, boxes) == []
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("mask", ["pixelate_8", "blur_14", "blur_40", "solid"])
def test_every_kind_of_obscuring(mask: str, tmp_path: Path) -> None:
    boxes = face_boxes([sway])
    source = lossless(tmp_path / "in.mkv", scene(boxes))
    assert leaks(source, run(source, boxes, tmp_path, mask=mask), boxes) == []


def rotated(box: Array, degrees: int) -> Array:
    """A box of the stored picture, WIDTH x HEIGHT, as displayed."""
    x1, y1, x2, y2 = box
    return {
        0: box,
        90: np.array([HEIGHT - y2, x1, HEIGHT - y1, x2]),
        180: np.array([WIDTH - x2, HEIGHT - y2, WIDTH - x1, HEIGHT - y1]),
        270: np.array([y1, WIDTH - x2, y2, WIDTH - x1]),
    }[degrees]


AWKWARD: dict[str, tuple[str, dict[str, Any]]] = {
    "audio first": ("in.mp4", {"audio": "first"}),
    "two videos": ("in.mp4", {"second_video": True}),
    "cover art": ("in.mp4", {"cover": True}),
    "cover art in mkv": ("in.mkv", {"cover": True, "attachment": True}),
    "tags": ("in.mp4", {"metadata": {"title": "Jane at the wheel"}}),
    "variable rate": ("in.mp4", {"pts": [k * k + 3 * k for k in range(12)], "time_base": Fraction(1, 600)}),
    "full range": ("in.mp4", {"full_range": True, "pixel_format": "yuvj420p"}),
    "BT.601": ("in.mp4", {"matrix": 6}),
    "BT.709": ("in.mp4", {"matrix": 1}),
    "10 bit": ("in.mp4", {"pixel_format": "yuv420p10le"}),
    "grey": ("in.mkv", {"codec": "ffv1", "pixel_format": "gray", "options": {}}),
    "alpha": ("in.mov", {"codec": "png", "pixel_format": "rgba", "options": {}}),
    "unicode and space": ("ein Gesicht 漢 ü.mp4", {}),
    "transport": ("in.ts", {}),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_files(name: str, tmp_path: Path) -> None:
    file, given = AWKWARD[name]
    boxes = face_boxes([sway], 12)
    images = scene(boxes)
    if name == "alpha":
        images = [np.dstack([image, np.full(image.shape[:2], 200, np.uint8)]) for image in images]
    source = clips.make_clip(tmp_path / file, images, **given)
    written = run(source, boxes, tmp_path, lambda k, n, box: k in (0, 5, 11))
    assert leaks(source, written, boxes) == []
    data = written.read_bytes()
    assert b"Jane" not in data
    assert b"who drove" not in data
    pts = [[frame.pts for frame in VideoReader(path)] for path in (source, written)]
    assert np.allclose(np.array(pts[0]) - pts[0][0], np.array(pts[1]) - pts[1][0], atol=0.002)


@pytest.mark.parametrize("where", ["first", "last"])
def test_sound_that_is_kept_brings_no_picture_along(where: str, tmp_path: Path) -> None:
    boxes = face_boxes([sway], 12)
    source = clips.make_clip(tmp_path / "in.mp4", scene(boxes), audio=where, second_video=True, cover=True)
    written = run(source, boxes, tmp_path, audio="copy")
    assert leaks(source, written, boxes) == []
    with av.open(str(written)) as container:
        assert sorted(stream.type for stream in container.streams) == ["audio", "video"]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation(degrees: int, tmp_path: Path) -> None:
    stored = face_boxes([sway], 10)
    source = clips.make_clip(tmp_path / "in.mp4", scene(stored))
    clips.set_rotation(source, degrees)
    boxes = [[rotated(box, degrees) for box in own] for own in stored]
    assert leaks(source, source, boxes) == list(range(10))
    assert leaks(source, run(source, boxes, tmp_path, lambda k, n, box: k == 4), boxes) == []


@pytest.mark.parametrize(("width", "height"), [(321, 241), (63, 47), (17, 240)])
def test_odd_sizes(width: int, height: int, tmp_path: Path) -> None:
    boxes = face_boxes([lambda k: (width / 2 + k, height / 2, width / 6)], 8)
    source = lossless(tmp_path / "in.mkv", scene(boxes, width, height))
    assert leaks(source, run(source, boxes, tmp_path, lambda k, n, box: k == 3), boxes) == []


def test_pictures(tmp_path: Path) -> None:
    boxes = face_boxes([sway], 5)
    (tmp_path / "in").mkdir()
    for k, image in enumerate(scene(boxes)):
        PIL.Image.fromarray(image).save(tmp_path / "in" / f"{k}.png")
    deidentify(tmp_path / "in", tmp_path / "out", settings(), models=models_of([*boxes[:2], [], *boxes[3:]]))
    assert leaks(tmp_path / "in", tmp_path / "out", boxes) == []


def test_no_face_anywhere(tmp_path: Path) -> None:
    boxes = face_boxes([sway], 6)
    source = lossless(tmp_path / "in.mkv", scene(boxes))
    with pytest.raises(NoFaceError, match="--on-no-face"):
        run(source, boxes, tmp_path, lambda k, n, box: True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mkv"]
    written = run(source, boxes, tmp_path, lambda k, n, box: True, on_no_face="solid")
    assert leaks(source, written, boxes) == []
    for before, after in zip(VideoReader(source), VideoReader(written), strict=True):
        assert (before.image == after.image).all(axis=2).mean() < 0.05


@pytest.mark.parametrize("given", [{}, {"regions": ("0,0,20,20",)}])
@pytest.mark.parametrize("alarms", [{3: 0}, {2: 0, 9: 150}])
def test_weak_alarms_alone_are_no_face(given: dict[str, Any], alarms: dict[int, int], tmp_path: Path) -> None:
    """A head in every frame, and nothing but an alarm or two of a low score, far from each other."""
    boxes = face_boxes([sway], 12)
    source = lossless(tmp_path / "in.mkv", scene(boxes))
    weak = [[np.array([x, 10.0, x + 30, 45])] if (x := alarms.get(k)) is not None else [] for k in range(12)]
    models = models_of(weak, score=0.55)
    with pytest.raises(NoFaceError, match="no face is seen"):
        deidentify(source, tmp_path / "out.mkv", settings(**given), models=models)
    assert nothing_left(tmp_path)


def test_copying_covers_the_regions_by_hand(tmp_path: Path) -> None:
    boxes = face_boxes([lambda k: (60, 60, 30)], 6)
    source = lossless(tmp_path / "in.mkv", scene(boxes))
    seen_by_none = dict[str, Any](missed=lambda k, n, box: True, regions=("20,10,105,110",))
    with pytest.raises(NoFaceError, match="--on-no-face copy"):
        run(source, boxes, tmp_path, **seen_by_none)
    written = run(source, boxes, tmp_path, **seen_by_none, on_no_face="copy")
    assert leaks(source, written, boxes) == []
    for before, after in zip(VideoReader(source), VideoReader(written), strict=True):
        assert (before.image[:, 120:] == after.image[:, 120:]).all()


def test_a_face_seen_twice_stays_covered_in_between(tmp_path: Path) -> None:
    """A passenger beside the driver, seen in frames 5 and 95 only, 3.6 s apart."""
    boxes = face_boxes([sway, lambda k: (60, 60, 30)], 100)
    source = lossless(tmp_path / "in.mkv", scene(boxes))
    written = run(source, boxes, tmp_path, lambda k, n, box: n == 1 and k not in (5, 95))
    assert not set(leaks(source, written, boxes)) & set(range(5, 96))


def test_a_region_by_hand_covers_what_no_detector_sees(tmp_path: Path) -> None:
    boxes = face_boxes([lambda k: (160, 120, 44), lambda k: (60, 60, 30)], 10)
    source = lossless(tmp_path / "in.mkv", scene(boxes))
    written = run(source, boxes, tmp_path, lambda k, n, box: n == 1, regions=("20,10,105,110",))
    assert leaks(source, written, boxes) == []


# -- damage, and what goes wrong half-way ---------------------------------------------------------------------------


def nothing_left(folder: Path, names: Sequence[str] = ("in.mkv",)) -> bool:
    return sorted(path.name for path in folder.iterdir()) == sorted(names)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("container", ["mp4", "mkv", "ts", "avi"])
def test_corrupt_packets_stop_the_run(container: str, share: float, tmp_path: Path) -> None:
    boxes = face_boxes([sway], 20)
    source = clips.make_clip(tmp_path / f"in.{container}", scene(boxes))
    places = clips.packet_places(source)
    clips.blank(source, int(share * len(places)))
    with pytest.raises(InputError):
        run(source, boxes, tmp_path)
    assert nothing_left(tmp_path, [f"in.{container}"])


STAGES = [
    (survey, "link"), (survey, "cover_boxes"), (survey, "plan_regions"), (clip, "obscure"),
    (document, "digest"), (work, "survey_video"), (work, "plan_cover"), (pipeline, "audit_file"),
    (pipeline.Run, "embed"), (pipeline.Run, "_verify"),
    (pipeline.Run, "_report"), (pipeline.Run, "_audit"), (pipeline.Run, "_judge"), (survey.Watch, "see"),
    (pipeline.AtomicOutput, "publish"), (pipeline.AtomicOutput, "fill"), (pipeline.VideoReader, "__iter__"),
    (Told, "sweep"), (Told, "detect"),
    (video_writer.VideoWriter, "write"), (video_writer.VideoWriter, "finish"), (video_writer.VideoWriter, "publish"),
]  # fmt: skip


def bundled(embedder: Any, *others: object) -> Any:
    """In place of fitting a drawer, which these victims have no gradient for."""
    return embedder


ATTACKED = [
    (work.Embedder, "embed"), (work, "load_drawer"), (work, "DeliveryCodec"), (work, "sample_of"), (work, "tuned"),
    (work, "LiveCodec"), (work.LiveCodec, "take"), (pipeline, "noise_floor"),
]  # fmt: skip
"""Stages that `--attack none` leaves out."""


@pytest.mark.parametrize("error", [RuntimeError("planted"), MemoryError(), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage[1])
def test_an_exception_in_any_stage_leaves_nothing(
    stage: tuple[Any, str], error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = face_boxes([sway], 6)
    source = lossless(tmp_path / "in.mkv", scene(boxes))

    def fails(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(*stage, fails)
    with pytest.raises(type(error)):
        run(source, boxes, tmp_path)
    monkeypatch.undo()
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("error", [RuntimeError("planted"), MemoryError(), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("stage", ATTACKED, ids=lambda stage: stage[1])
def test_an_exception_while_embedding_leaves_nothing(
    stage: tuple[Any, str], error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = face_boxes([sway], 6)
    source = lossless(tmp_path / "in.mkv", scene(boxes))

    def fails(*args: object, **kwargs: object) -> None:
        raise error

    def embeds(self: object, targets: Sequence[Target], track: int = 0) -> list[Embedded]:
        window = Window(0, 0, 32, 32)
        return [Embedded(t.index, window, (0, 0, 32, 32), np.zeros((32, 32, 3), np.int8), {}, 1, 1, 1) for t in targets]

    monkeypatch.setattr(work.Embedder, "embed", embeds)
    monkeypatch.setattr(work, "tuned", bundled)
    monkeypatch.setattr(*stage, fails)
    given = settings(attack="mi-fgsm", effort="best", codec="h264")
    with pytest.raises(type(error)):
        deidentify(source, tmp_path / "out.mp4", given, models=models_of(boxes))
    assert nothing_left(tmp_path)


def test_an_encoder_process_that_is_killed_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = face_boxes([sway], 6)
    source = lossless(tmp_path / "in.mkv", scene(boxes))
    real, killed = work.LiveCodec.take, []

    def kills(self: Any, frame: Any) -> None:
        if not killed:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
            killed.append(frame)
        real(self, frame)

    monkeypatch.setattr(work.LiveCodec, "take", kills)
    monkeypatch.setattr(work, "tuned", bundled)
    monkeypatch.setattr(work.Embedder, "embed", lambda self, targets, track=0: [])
    given = settings(attack="mi-fgsm", effort="best", codec="h264")
    with pytest.raises(DrsfError, match="process of the delivery encoder ended"):
        deidentify(source, tmp_path / "out.mp4", given, models=models_of(boxes))
    assert killed
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_publishing_that_fails_late_leaves_nothing(
    number: int, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report, the contact sheet, the video: none appears without the others."""
    boxes = face_boxes([sway], 6)
    source = lossless(tmp_path / "in.mkv", scene(boxes))
    real, calls = atomic.synchronise, itertools.count()

    def fails(path: Path) -> None:
        if path.is_file() and next(calls) == number:
            raise error
        real(path)

    monkeypatch.setattr(atomic, "synchronise", fails)
    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
        run(source, boxes, tmp_path)
    assert next(calls) == number + 1, "the fault was planted"
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("after", [0, 1, 5, 11])
def test_obscuring_that_fails_late_leaves_nothing(after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = face_boxes([sway], 12)
    source = lossless(tmp_path / "in.mkv", scene(boxes))
    real, calls = clip.obscure, itertools.count()

    def fails(*args: Any) -> Any:
        if next(calls) == after:
            raise RuntimeError("planted")
        return real(*args)

    monkeypatch.setattr(clip, "obscure", fails)
    with pytest.raises(RuntimeError, match="planted"):
        run(source, boxes, tmp_path)
    assert nothing_left(tmp_path)


def test_output_is_never_the_input_nor_something_that_is_there(tmp_path: Path) -> None:
    boxes = face_boxes([sway], 5)
    source = lossless(tmp_path / "in.mkv", scene(boxes))
    before = source.read_bytes()
    (tmp_path / "link.mkv").symlink_to(source)
    (tmp_path / "there.mkv").write_bytes(b"precious")
    for name, overwrite in (("in.mkv", True), ("link.mkv", True), ("there.mkv", False)):
        with pytest.raises((OutputError, UsageError)):
            deidentify(source, tmp_path / name, settings(overwrite=overwrite), models=models_of(boxes))
    assert source.read_bytes() == before
    assert (tmp_path / "there.mkv").read_bytes() == b"precious"
    assert nothing_left(tmp_path, ["in.mkv", "link.mkv", "there.mkv"])


def test_a_source_behind_a_symlink_is_read(tmp_path: Path) -> None:
    boxes = face_boxes([sway], 5)
    (tmp_path / "elsewhere").mkdir()
    lossless(tmp_path / "elsewhere" / "real.mkv", scene(boxes))
    source = tmp_path / "in.mkv"
    source.symlink_to(tmp_path / "elsewhere" / "real.mkv")
    assert leaks(source, run(source, boxes, tmp_path), boxes) == []


FRAMES = 60
LINES = 5 * FRAMES
"""Frames that a run reads: survey, embedding, reading back, and both files in the audit."""

_CHILD = """
import resource, signal, sys
from drsf_cli.app import main
from drsf_cli.readers.models import Models
from tests.drsf_cli import test_faults as faults
from tests.drsf_cli.child import prepare
prepare()
source, output, mode = sys.argv[1:]
models = faults.models_of(faults.face_boxes([faults.sway], faults.FRAMES))
Models.load = lambda *_, **__: models
if mode == "full":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000))
sys.exit(main(["deid", source, "-o", output, "--attack", "none", "--codec", "ffv1", "-bs", "2", "--quiet"]))
"""


def child(source: Path, output: Path, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _CHILD, str(source), str(output), mode]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


SIGNALS = int(os.environ.get("DRSF_SIGNALS", "2"))
"""How many moments are drawn for each signal."""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
@pytest.mark.parametrize("moment", range(SIGNALS))
def test_signals_at_random_moments(number: signal.Signals, moment: int, tmp_path: Path) -> None:
    rng = np.random.default_rng((number, moment))
    boxes = face_boxes([sway], FRAMES)
    source = lossless(tmp_path / "in.mkv", scene(boxes))
    output = tmp_path / "out.mkv"
    lines, wait = int(rng.integers(1, LINES)), float(rng.uniform(0.0, 0.02))
    with child(source, output, "signal") as process:
        assert process.stdout is not None
        for _ in range(lines):
            assert process.stdout.readline()
        time.sleep(wait)
        process.send_signal(number)
        said = process.communicate(timeout=120)[1]
    left = sorted(path.name for path in tmp_path.iterdir() if path != source)
    if process.returncode == 0:  # it came too late
        assert left == ["out.mkv", "out.mkv.audit.png", "out.mkv.report.json"]
        assert leaks(source, output, boxes) == []
        return
    assert process.returncode == (-number if number == signal.SIGKILL else 130), said
    if number != signal.SIGKILL:
        assert left == []
    for name in left:  # what a killed process leaves is hidden, and made of obscured frames only
        path = tmp_path / name
        if path.suffix != ".mkv" or not path.stat().st_size:
            continue
        assert name.startswith(".") or leaks(source, path, boxes) == []
        try:
            frames = list(VideoReader(path))
        except InputError:
            continue
        for before, after in zip(VideoReader(source), frames, strict=False):
            same = (np.abs(before.image.astype(int) - after.image) <= 3).all(axis=2)
            same = binary_erosion(same, np.ones((3, 3)))
            assert not (same & head_pixels(boxes[before.index][0], WIDTH, HEIGHT)).any()


def test_a_full_disk(tmp_path: Path) -> None:
    source = lossless(tmp_path / "in.mkv", scene(face_boxes([sway], FRAMES)))
    with child(source, tmp_path / "out.mkv", "full") as process:
        said = process.communicate(timeout=120)[1]
    assert process.returncode == OutputError.exit_code, said
    assert said.strip().count("\n") == 0, said
    assert "space" in said
    assert nothing_left(tmp_path)


def test_no_room_for_the_work_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(OutputError, match="TMPDIR"):
        ChangeStore()


def test_fuzzed_containers(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Random bytes of small files are changed. Either the run refuses in one sentence and leaves nothing, or every
    frame of its output is hidden."""
    budget = int(os.environ.get("DRSF_FUZZ", "60"))
    record_property("faults", budget)
    rng = np.random.default_rng(11)
    images = scene(face_boxes([lambda k: (32, 24, 12)], 5), 64, 48)
    originals = [
        clips.make_clip(tmp_path / "a.mp4", images).read_bytes(),
        clips.make_clip(tmp_path / "b.mkv", images, codec="ffv1", pixel_format="bgr0", options={}).read_bytes(),
        clips.make_clip(tmp_path / "c.ts", images).read_bytes(),
    ]
    refused = passed = 0
    for trial in range(budget):
        data = bytearray(originals[trial % 3])
        for _ in range(int(rng.integers(1, 12))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        if trial % 7 == 0:
            del data[int(rng.integers(len(data) // 2, len(data))) :]
        folder = tmp_path / str(trial)
        folder.mkdir()
        source = folder / ("in" + (".mp4", ".mkv", ".ts")[trial % 3])
        source.write_bytes(data)
        nobody: list[list[Array]] = [[] for _ in range(1000)]
        try:
            deidentify(source, folder / "out.mkv", settings(mask="solid", on_no_face="solid"), models=models_of(nobody))
        except DrsfError:
            refused += 1
            assert nothing_left(folder, [source.name])
            continue
        passed += 1
        assert all((frame.image == GREY).all() for frame in VideoReader(folder / "out.mkv"))
    assert refused > 0
    assert passed > 0
