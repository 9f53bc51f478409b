"""The premise of docs/threat-model.md: what is written is a function of the obscured frames and of the attributes.

Two originals are made that look alike once they are obscured and of which the same attributes are embedded. They differ
in every pixel of the head, and what comes out must not differ in a bit. The counter-test has a heatmap of the original
for a target, as an earlier engine had, and the same comparison finds it.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from skimage import data
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
from victims.face import Face, FrameObservation
from victims.fan import HeatmapAligner

SIDE = 192
RUNS = [
    DeidSettings(effort=effort, mask=mask, repel=("none",), codec="ffv1", threads=1)
    for effort, mask in (("fast", "pixelate_5"), ("fast", "blur_20"), ("fast", "solid"), ("normal", "pixelate_64"))
]
"""Ways to embed: efforts, masks, chains. Steps need a face that the chain still sees, which the weak mask leaves."""


def name(settings: DeidSettings) -> str:
    return f"{settings.effort}-{settings.mask}-{settings.victims.detector}"


@pytest.fixture(scope="module")
def models() -> Models:
    return Models.load(RUNS[0].victims, threads=1)


@pytest.fixture(scope="module")
def face(models: Models) -> Face:
    """What is to be embedded, whichever original it is."""
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


def embedded(folder: Path, original: Image, face: Face, settings: DeidSettings, models: Models) -> Image:
    """What is written for `original`, whose attributes and regions are given."""
    folder.mkdir()
    Picture.fromarray(original).save(folder / "0.png")
    own = models if settings.victims == RUNS[0].victims else Models.load(settings.victims, threads=1)
    work = Work.on(folder, settings, own)
    torch.manual_seed(0)
    network = DrawerNet()
    torch.nn.init.normal_(network.last.weight, std=0.05)
    work.__dict__["drawer"] = Drawer(network, {})  # an untrained one draws what it is given as well
    times = [frame.pts for frame in VideoReader(folder)]
    survey = Survey([FrameObservation(0, times[0], (face,))], [(0,)], [], times)
    ((_, image, done),) = work.embed(work.clip(survey, [(region_of(face, settings),)]), Silent())
    assert np.count_nonzero(done[0, 0].change) > 1000, "something is embedded"
    if settings.effort != "fast":
        assert done[0, 0].steps > 0
        assert all(np.isfinite(error) for error in done[0, 0].errors.values()), "the chain reads what it corrects"
    return image


def both(folder: Path, face: Face, settings: DeidSettings, models: Models) -> list[Image]:
    region, obscuring = region_of(face, settings), parse_obscuring(settings.mask)
    originals = two_originals(region, settings)
    inside = region_mask([region], SIDE, SIDE)
    assert (originals[0][inside] != originals[1][inside]).any(axis=-1).mean() > 0.5, "they are two originals"
    np.testing.assert_array_equal(*(obscure(one, [region], obscuring) for one in originals))
    return [embedded(folder / str(k), one, face, settings, models) for k, one in enumerate(originals)]


@pytest.mark.parametrize("settings", RUNS, ids=name)
def test_two_originals_that_are_obscured_alike_and_read_alike_give_the_same_bits(
    settings: DeidSettings, tmp_path: Path, face: Face, models: Models
) -> None:
    first, second = both(tmp_path, face, settings, models)
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
        loss = (maps - self.maps).square().sum(dim=(1, 2, 3))
        return Reading(loss, loss.detach(), honest.output)


@pytest.mark.slow
def test_a_heatmap_of_the_original_as_a_target_is_found(
    tmp_path: Path, face: Face, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = next(one for one in RUNS if one.effort == "normal")
    originals = iter(two_originals(region_of(face, settings), settings))
    honest = HeatmapAligner.objective

    def leaking(
        self: HeatmapAligner,
        frames: Any,
        windows: Any,
        boxes: Any,
        landmarks: Any,
        meshes: Any = None,
        starts: Any = None,
    ) -> Objective:
        right = honest(self, frames, windows, boxes, landmarks)
        return FromOriginal(self, next(originals), right, boxes, windows)

    monkeypatch.setattr(HeatmapAligner, "objective", leaking)
    first, second = both(tmp_path, face, settings, models)
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
