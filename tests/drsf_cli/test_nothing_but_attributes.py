"""The premise of docs/threat-model.md: what is written is a function of the obscured frames and of the attributes.

Two originals are made that look alike once they are obscured and of which the same attributes are embedded. They differ
in every pixel of the head, and what comes out must not differ in a bit. The counter-test has a heatmap of the original
for a target, as an earlier engine had, and the same comparison finds it.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torch import Tensor

from attacks.drawer import Drawer, DrawerNet
from attacks.embed import Target
from attacks.live import Sent
from attacks.obscure import Blur, Pixelate, Region, head_region, obscure, parse_obscuring, region_mask
from drsf_cli.deid.survey import Survey
from drsf_cli.deid.work import Work
from drsf_cli.media.reader import VideoReader
from drsf_cli.progress import Silent
from drsf_cli.readers.models import Models
from drsf_cli.settings import DeidSettings
from tests.conftest import ROOT
from victims.base import Image, Objective, Reading, to_pixels
from victims.camera import Camera, vector_to_angles
from victims.face import Face, FrameObservation
from victims.face_model import FACE_MODEL_68
from victims.fan import HeatmapAligner

SIDE = 192
RUNS = [
    DeidSettings(effort=effort, mask=mask, repel=("none",), codec="ffv1", threads=1)
    for effort, mask in (("fast", "pixelate_5"), ("fast", "blur_20"), ("fast", "solid"), ("normal", "pixelate_5"))
]
"""Every way to embed: efforts, masks, chains."""


def name(settings: DeidSettings) -> str:
    return f"{settings.effort}-{settings.mask}-{settings.victims.detector}"


@pytest.fixture(scope="module")
def models() -> Models:
    return Models.load(RUNS[0].victims, threads=1)


def the_face() -> Face:
    """The template in the middle of the frame, which looks a little aside."""
    camera = Camera.default(SIDE, SIDE)
    flat = (FACE_MODEL_68 + [0.0, 0.0, 0.5]) @ camera.matrix.T
    points = flat[:, :2] / flat[:, 2:]
    gaze = np.array([0.2, 0.1, -np.sqrt(0.95)])
    box = np.array([*points.min(axis=0), *points.max(axis=0)])
    return Face(box, 0.99, points, np.zeros(3), gaze, vector_to_angles(gaze))


def region_of(settings: DeidSettings) -> Region:
    x1, y1, x2, y2 = (int(v) for v in np.clip(head_region(the_face().box), 8, SIDE - 8))
    return Region((x1, y1, x2, y2), parse_obscuring(settings.mask).cell(min(x2 - x1, y2 - y1)), (x1, y1))


def an_original() -> Image:
    y, x = np.mgrid[:SIDE, :SIDE]
    noise = np.random.default_rng(1).normal(0.0, 12.0, (SIDE, SIDE, 3))
    waves = np.stack([100 + 40 * np.sin(x / 9), 120 + 40 * np.cos(y / 7), 110 + 30 * np.sin((x + y) / 11)], axis=-1)
    return np.clip(waves + noise, 40, 210).round().astype(np.uint8)


def its_double(original: Image, settings: DeidSettings) -> Image:
    """Another original that the obscuring cannot tell from the first."""
    region, random = region_of(settings), np.random.default_rng(2)
    x1, y1, x2, y2 = region.rect
    other = original.copy()
    match parse_obscuring(settings.mask):
        case Pixelate():  # the pixels of each block in another order
            for top in range(y1, y2, region.cell):
                for left in range(x1, x2, region.cell):
                    block = other[top : min(top + region.cell, y2), left : min(left + region.cell, x2)]
                    block[...] = random.permutation(block.reshape(-1, 3)).reshape(block.shape)
        case Blur():  # a chessboard that fades towards the border: no such frequency comes through
            fade = np.hanning(y2 - y1)[:, None] * np.hanning(x2 - x1)
            board = (-1.0) ** np.add.outer(np.arange(y2 - y1), np.arange(x2 - x1))
            other[y1:y2, x1:x2] += (30 * fade * board).round().astype(np.int8).astype(np.uint8)[..., None]
        case _:
            other[y1:y2, x1:x2] = random.integers(0, 256, (y2 - y1, x2 - x1, 3))
    return other


def embedded(folder: Path, original: Image, settings: DeidSettings, models: Models) -> Image:
    """What is written for `original`, whose attributes and regions are given."""
    folder.mkdir()
    Picture.fromarray(original).save(folder / "0.png")
    work = Work.on(folder, settings, replace_victims(models, settings))
    torch.manual_seed(0)
    network = DrawerNet()
    torch.nn.init.normal_(network.last.weight, std=0.3)
    work.__dict__["drawer"] = Drawer(network, {})  # an untrained one draws what it is given as well
    times = [frame.pts for frame in VideoReader(folder)]
    survey = Survey([FrameObservation(0, times[0], (the_face(),))], [(0,)], [], times)
    ((_, image, own),) = work.embed(work.clip(survey, [(region_of(settings),)]), Silent())
    assert np.count_nonzero(own[0, 0].change) > 1000, "something is embedded"
    return image


def replace_victims(models: Models, settings: DeidSettings) -> Models:
    return models if settings.victims == RUNS[0].victims else Models.load(settings.victims, threads=1)


def both(folder: Path, settings: DeidSettings, models: Models) -> tuple[Image, Image]:
    first = an_original()
    second = its_double(first, settings)
    region, obscuring = region_of(settings), parse_obscuring(settings.mask)
    inside = region_mask([region], SIDE, SIDE)
    assert (first[inside] != second[inside]).any(axis=-1).mean() > 0.5, "they are two originals"
    np.testing.assert_array_equal(obscure(first, [region], obscuring), obscure(second, [region], obscuring))
    return tuple(embedded(folder / str(k), one, settings, models) for k, one in enumerate((first, second)))  # type: ignore[return-value]


@pytest.mark.parametrize("settings", RUNS, ids=name)
def test_two_originals_that_are_obscured_alike_and_read_alike_give_the_same_bits(
    settings: DeidSettings, tmp_path: Path, models: Models
) -> None:
    first, second = both(tmp_path, settings, models)
    np.testing.assert_array_equal(first, second)


class FromOriginal(Objective):
    """An aligner that is to show the heatmaps that it has of the original."""

    def __init__(self, aligner: HeatmapAligner, original: Image, honest: Objective, boxes: Any, windows: Any) -> None:
        self.aligner, self.honest = aligner, honest
        self.squares = aligner.windows(torch.from_numpy(boxes))
        self.corners = torch.tensor([[float(one.x), float(one.y)] for one in windows], dtype=torch.float64)
        with torch.no_grad():
            self.maps = aligner.heatmaps(aligner.crop(to_pixels([original]), self.squares))

    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        honest = self.honest.read(pixels, items, geometry)
        maps = self.aligner.heatmaps(self.aligner.crop(pixels, self.squares, self.corners))
        return Reading((maps - self.maps).square().mean(dim=(1, 2, 3)), honest.error, honest.output)


def test_a_heatmap_of_the_original_as_a_target_is_found(
    tmp_path: Path, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = next(one for one in RUNS if one.effort == "normal")
    originals = iter((an_original(), its_double(an_original(), settings)))
    honest = HeatmapAligner.objective

    def leaking(self: HeatmapAligner, frames: Any, windows: Any, boxes: Any, landmarks: Any) -> Objective:
        right = honest(self, frames, windows, boxes, landmarks)
        return FromOriginal(self, next(originals), right, boxes, windows)

    monkeypatch.setattr(HeatmapAligner, "objective", leaking)
    first, second = both(tmp_path, settings, models)
    assert (first != second).any()


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
