"""The premise of docs/threat-model.md: a segment is written from its obscured frames and their attributes alone.

Two films are made that look alike once they are obscured and of which the same attributes are embedded. Their heads
differ in every frame, those that the drawer is fitted to included, and what comes out must not differ in a bit. The
counter-test has a heatmap of the original for a target, as an earlier engine had: it gets into what is written through
the fit, and the same comparison finds it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage import data
from torch import Tensor

from attacks.effort import EFFORTS, EffortName
from attacks.embed import Target
from attacks.live import Sent
from attacks.obscure import Blur, Pixelate, Region, head_region, obscure, parse_obscuring, region_mask
from drsf_cli.deid.survey import Survey
from drsf_cli.deid.work import Work
from drsf_cli.media.reader import VideoReader
from drsf_cli.progress import Silent
from drsf_cli.readers.models import Models
from drsf_cli.settings import DeidSettings, VictimNames
from tests.clips import make_clip
from tests.conftest import ROOT
from victims.base import Image, Objective, Reading, to_pixels
from victims.face import Face, FrameObservation
from victims.fan import HeatmapAligner

SIDE, FRAMES = 192, 2


def run(
    effort: EffortName,
    mask: str = "pixelate_5",
    codec: str = "ffv1",
    chain: VictimNames | None = None,
    repel: str = "none",
) -> Any:
    """Settings, under a name that says what they are; all but drawings for the default chain are slow."""
    victims = chain or VictimNames()
    settings = DeidSettings(victims, effort=effort, mask=mask, codec=codec, repel=(repel,), threads=1)
    title = "-".join((effort, mask, codec, *(name or "none" for name in astuple(victims)), repel))
    return pytest.param(settings, id=title, marks=[pytest.mark.slow] if effort != "fast" or chain else [])


MASKS = ("pixelate_5", "blur_20", "solid")
RUNS = [
    *(run(effort, mask) for effort in EFFORTS for mask in MASKS),
    # a fit and steps that see the coded frame: as a crop, and on the encoder in the middle of the file
    run("normal", codec="h264"),
    run("best", codec="h264"),
    run("normal", repel="retinaface"),
    run("normal", chain=VictimNames("mtcnn", None, None)),
    run("best", chain=VictimNames("mtcnn", "fan-compact", None)),
    *(run(effort, chain=VictimNames.of_chain("mediapipe")) for effort in EFFORTS),
    *(run(effort, chain=VictimNames("retinaface", "fan-compact", "gaze-compact")) for effort in EFFORTS),
]
"""Ways to embed: every effort with every kind of mask, lossy codecs, a model to repel, other chains."""
NORMAL = DeidSettings(effort="normal", codec="ffv1", repel=("none",), threads=1)
FILES = {
    "blazeface": ("face_detection_short_range.tflite", "face_landmark_with_attention.tflite"),
    "retinaface": ("retinaface_mobilenet0.25.pth",),
}
"""Detector -> the weight files that its chains need, or who repels it."""


@pytest.fixture(scope="module")
def models() -> Models:
    return Models.load(NORMAL.victims, threads=1)


@pytest.fixture(scope="module")
def face(models: Models) -> Face:
    """What is to be embedded, whichever original it is."""
    return face_by(models)


def face_by(models: Models) -> Face:
    image = portrait()
    chain = models.torch_chain
    ((found,),) = chain.read_faces([image], chain.detector.detect([image]))
    return found


def portrait() -> Image:
    """The head of the demo clip's portrait in 192 x 192 px."""
    return np.ascontiguousarray(data.astronaut()[16 : 16 + SIDE, 128 : 128 + SIDE])


def region_of(face: Face, settings: DeidSettings) -> Region:
    x1, y1, x2, y2 = (int(v) for v in np.clip(head_region(face.box), 8, SIDE - 8))
    return Region((x1, y1, x2, y2), parse_obscuring(settings.mask).cell(min(x2 - x1, y2 - y1)), (x1, y1))


def two_originals(region: Region, settings: DeidSettings) -> tuple[Image, Image]:
    """Pictures with other pixels all over `region`, which the obscuring cannot tell apart."""
    first, random = portrait(), np.random.default_rng(2)
    x1, y1, x2, y2 = region.rect
    other = first.copy()
    match parse_obscuring(settings.mask):
        case Pixelate():  # the pixels of each block in another order
            for top in range(y1, y2, region.cell):
                for left in range(x1, x2, region.cell):
                    block = other[top : min(top + region.cell, y2), left : min(left + region.cell, x2)]
                    block[...] = random.permutation(block.reshape(-1, 3)).reshape(block.shape)
        case Blur():  # a chessboard that fades towards the border, and its negative: no such frequency comes through
            fade = np.hanning(y2 - y1)[:, None] * np.hanning(x2 - x1)
            board = (60 * fade * (-1.0) ** np.add.outer(np.arange(y2 - y1), np.arange(x2 - x1))).round()[..., None]
            first[y1:y2, x1:x2], other[y1:y2, x1:x2] = 120 + board, 120 - board
        case _:
            other[y1:y2, x1:x2] = random.integers(0, 256, (y2 - y1, x2 - x1, 3))
    return first, other


def embedded(folder: Path, original: Image, face: Face, settings: DeidSettings, models: Models) -> list[Image]:
    """What is written for a film of `original`, whose attributes and regions are given."""
    folder.mkdir()
    clip = make_clip(folder / "clip.mkv", [original] * FRAMES, codec="ffv1", pixel_format="bgr0")
    work = Work.on(clip, settings, models)
    frames = list(VideoReader(clip))
    assert all((frame.image == original).all() for frame in frames)
    seen = [FrameObservation(frame.index, frame.pts, (face,)) for frame in frames]
    survey = Survey(seen, [(0,)] * FRAMES, [], [frame.pts for frame in frames])
    written = []
    for _, image, done in work.embed(work.clip(survey, [(region_of(face, settings),)] * FRAMES), Silent()):
        ((_, one),) = done.items()
        assert np.count_nonzero(one.change) > 1000, "something is embedded"
        if settings.takes_steps:
            assert one.passes > 0, "the fit or a step read this frame"
            assert all(np.isfinite(error) for error in one.errors.values()), "the chain reads what it corrects"
        written.append(image)
    assert len(written) == FRAMES
    return written


def both(folder: Path, face: Face, settings: DeidSettings, models: Models) -> list[list[Image]]:
    region, obscuring = region_of(face, settings), parse_obscuring(settings.mask)
    originals = two_originals(region, settings)
    inside = region_mask([region], SIDE, SIDE)
    assert (originals[0][inside] != originals[1][inside]).any(axis=-1).mean() > 0.5, "they are two originals"
    np.testing.assert_array_equal(*(obscure(one, [region], obscuring) for one in originals))
    return [embedded(folder / str(k), one, face, settings, models) for k, one in enumerate(originals)]


@pytest.mark.parametrize("settings", RUNS)
def test_two_originals_that_are_obscured_alike_and_read_alike_give_the_same_bits(
    settings: DeidSettings, tmp_path: Path, face: Face, models: Models, stored: Callable[..., None]
) -> None:
    stored(*FILES.get(settings.victims.detector, ()), *FILES.get(settings.repel[0], ()))
    if settings.victims != NORMAL.victims:
        models = Models.load(settings.victims, threads=1)
        face = face_by(models)
    np.testing.assert_array_equal(*both(tmp_path, face, settings, models))


class FromOriginal(Objective):
    """An aligner that is to show the heatmaps that it has of the original."""

    def __init__(self, aligner: HeatmapAligner, original: Image, honest: Objective, boxes: Any, windows: Any) -> None:
        self.aligner, self.honest = aligner, honest
        self.squares = aligner.windows(torch.from_numpy(boxes))
        self.corners = torch.tensor([[float(one.x), float(one.y)] for one in windows], dtype=torch.float64)
        with torch.no_grad():
            self.maps = aligner.heatmaps(aligner.crop(to_pixels([original] * len(boxes)), self.squares))

    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        honest = self.honest.read(pixels, items, geometry)
        rows = list(items)
        maps = self.aligner.heatmaps(self.aligner.crop(pixels, self.squares[rows], self.corners[rows]))
        loss = (maps - self.maps[rows]).square().sum(dim=(1, 2, 3))
        return Reading(loss, loss.detach(), honest.output)


@pytest.mark.slow
def test_a_heatmap_of_the_original_as_a_target_is_found(
    tmp_path: Path, face: Face, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Image] = []
    honest = HeatmapAligner.objective

    def leaking(self: HeatmapAligner, frames: Any, windows: Any, faces: Any) -> Objective:
        return FromOriginal(self, shown[-1], honest(self, frames, windows, faces), faces.boxes, windows)

    monkeypatch.setattr(HeatmapAligner, "objective", leaking)
    written = []
    for number, original in enumerate(two_originals(region_of(face, NORMAL), NORMAL)):
        shown.append(original)
        written.append(embedded(tmp_path / str(number), original, face, NORMAL, models))
    first, second = written
    assert (np.array(first) != np.array(second)).any()


def test_what_embeds_holds_no_other_pixels_than_covered_ones() -> None:
    """mypy keeps originals out of `CoveredImage`, as long as nobody but these makes one."""
    assert {one.name: one.type for one in fields(Target)} == {
        "index": "int",
        "covered": "CoveredImage",
        "mask": "NDArray[np.bool_]",
        "face": "Face",
        "pts_ticks": "int",
        "beside": "tuple[Rect, ...]",
    }
    assert {one.name: one.type for one in fields(Sent)} == {
        "image": "CoveredImage",
        "pts_ticks": "int",
        "focus": "Sequence[Rect]",
    }
    makers = {
        path.relative_to(ROOT).as_posix()
        for package in ("attacks", "drsf_cli", "export", "victims")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "CoveredImage"
    }
    assert makers == {"attacks/obscure.py", "attacks/embed.py"}
