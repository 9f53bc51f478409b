"""Obscuring: what hides a head before anything is embedded in it.

Strength is given per head, not per frame: the same spec hides a near face and a far one equally well. The region is
the head (hair, ears, chin), not the detector's box; it is clipped at the frame's border. Along a track the block
size and the grid's origin never change, so that a head at rest gives the same block means in every frame.

Coordinates are px of the frame, x to the right, y down; rectangles are half-open: x1 <= x < x2.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NewType

import cv2
import numpy as np
from numpy.typing import NDArray

from victims.base import Image
from victims.face import Array
from victims.track import CoverBox
from weights.errors import UsageError

MAX_BLOCKS = 8
"""Above this many blocks a warning is due: McPherson et al. 2016 (arXiv 1609.00408) re-identified 40 people at 96 %
(chance 2.5 %) from mosaics of 16 px, about 6 x 7 blocks on the *face*; 8 blocks across our head region leave about
3 x 4 on the face, 5 leave 2 x 3."""

MIN_BLUR = 14
"""Below this sigma, in % of the head, a warning is due. A Gaussian passes frequency f with exp(-2 pi^2 sigma^2 f^2).
Pixelation by `MAX_BLOCKS` keeps nothing above 4 cycles a head; a blur must push that same frequency, at the full
amplitude of 128, under the half step of rounding to 8 bits: exp(-32 pi^2 sigma^2) < 1/256, sigma > 0.133."""

CoveredImage = NewType("CoveredImage", np.ndarray[Any, np.dtype[np.uint8]])
"""(H, W, 3) uint8 RGB of which every head is obscured. What embeds takes no other pixels: `obscure` makes them, and
adding a perturbation to them (attacks/embed.py) leaves them what they are."""

GREY = 127

_MIN_CELL = 2  # a cell of one pixel would hide nothing


@dataclass(frozen=True)
class Region:
    """One rectangle of one frame that must be hidden, with its grid."""

    rect: tuple[int, int, int, int]
    """x1, y1, x2, y2 px, half-open, inside the frame."""
    cell: int
    """Block size (pixelate) or sigma (blur), px; the same along a whole track."""
    origin: tuple[int, int] = (0, 0)
    """x, y of a corner of the grid, px of the frame; the same along a whole track."""


class Obscuring(ABC):
    """One kind of mask, with its strength. To add a kind, write its class and put it into `KINDS`."""

    form: ClassVar[str]
    """How it is typed, and what its number may be."""
    has_blocks: ClassVar[bool] = False
    """Whether it hides by whole blocks of a grid, which then have edges."""

    @classmethod
    @abstractmethod
    def parse(cls, text: str) -> Obscuring | None:
        """The mask typed as `text`, lower case; None where that is not of this kind."""

    @abstractmethod
    def cell(self, side: float) -> int:
        """Size of what it hides by, px, for a head whose shorter side is `side` px."""

    @abstractmethod
    def hide(self, patch: Image, region: Region) -> Image:
        """The hidden pixels of `region`, whose own are `patch` (h, w, 3)."""

    def warning(self) -> str | None:
        """Why this mask is too weak, in one sentence, or None."""
        return None


def _number(text: str, name: str, highest: int) -> int | None:
    """N of `name_N`, from 1 to `highest`."""
    match = re.fullmatch(rf"{name}_([0-9]{{1,4}})", text)
    return int(match[1]) if match and 1 <= int(match[1]) <= highest else None


@dataclass(frozen=True)
class Pixelate(Obscuring):
    """`blocks` mean-coloured blocks across the shorter side of the head region."""

    form = "pixelate_N (N blocks across the head, 1 to 64)"
    has_blocks = True
    blocks: int

    def __str__(self) -> str:
        return f"pixelate_{self.blocks}"

    @classmethod
    def parse(cls, text: str) -> Pixelate | None:
        """`pixelate_5`."""
        number = _number(text, "pixelate", 64)
        return None if number is None else cls(number)

    def cell(self, side: float) -> int:
        """Block size, px: never smaller than side / blocks."""
        return max(_MIN_CELL, math.ceil(side / self.blocks))

    def hide(self, patch: Image, region: Region) -> Image:
        """Every block at its mean, rounded half up."""
        x1, y1, x2, y2 = region.rect
        xs = _cell_starts(x1, x2, region.origin[0], region.cell)
        ys = _cell_starts(y1, y2, region.origin[1], region.cell)
        rows = np.add.reduceat(patch, ys, axis=0, dtype=np.int64)
        sums = np.add.reduceat(rows, xs, axis=1)  # (cells down, cells across, 3)
        widths = np.diff(np.append(xs, x2 - x1))
        heights = np.diff(np.append(ys, y2 - y1))
        counts = (heights[:, None] * widths[None, :])[:, :, None]
        means: Image = ((2 * sums + counts) // (2 * counts)).astype(np.uint8)
        return means.repeat(heights, axis=0).repeat(widths, axis=1)

    def warning(self) -> str | None:
        """For many blocks."""
        if self.blocks <= MAX_BLOCKS:
            return None
        return (
            f"{self} is weak: networks re-identified 96 % of 40 people from mosaics of about 6 x 7 blocks "
            f"a face (McPherson 2016), so use at most pixelate_{MAX_BLOCKS}."
        )


@dataclass(frozen=True)
class Blur(Obscuring):
    """A Gaussian whose sigma is `percent` % of the shorter side of the head region."""

    form = "blur_N (sigma of N % of the head, 1 to 100)"
    percent: int

    def __str__(self) -> str:
        return f"blur_{self.percent}"

    @classmethod
    def parse(cls, text: str) -> Blur | None:
        """`blur_20`."""
        number = _number(text, "blur", 100)
        return None if number is None else cls(number)

    def cell(self, side: float) -> int:
        """Sigma, px, rounded up."""
        return max(_MIN_CELL, math.ceil(side * self.percent / 100.0))

    def hide(self, patch: Image, region: Region) -> Image:
        """Blurred. Reflecting at the region's border keeps what lies outside from being seen in it, and the reverse."""
        blurred = cv2.GaussianBlur(
            patch.astype(np.float32), (0, 0), sigmaX=region.cell, sigmaY=region.cell, borderType=cv2.BORDER_REFLECT
        )
        return np.clip(np.rint(blurred), 0, 255).astype(np.uint8)

    def warning(self) -> str | None:
        """For a small sigma."""
        if self.percent >= MIN_BLUR:
            return None
        return (
            f"{self} is weak: below a sigma of {MIN_BLUR} % of the head a blur leaves more detail than "
            f"pixelate_{MAX_BLOCKS}, and retrained networks see through such blur (Hao 2019: 80 %), so use at least "
            f"blur_{MIN_BLUR}."
        )


@dataclass(frozen=True)
class Solid(Obscuring):
    """One grey, the same everywhere: nothing of the head is left but where it is."""

    form = "solid"

    def __str__(self) -> str:
        return "solid"

    @classmethod
    def parse(cls, text: str) -> Solid | None:
        """`solid`."""
        return cls() if text == "solid" else None

    def cell(self, side: float) -> int:
        """1: there is no grid."""
        return 1

    def hide(self, patch: Image, region: Region) -> Image:
        """Grey."""
        return np.full_like(patch, GREY)


KINDS: tuple[type[Obscuring], ...] = (Pixelate, Blur, Solid)


def parse_obscuring(spec: str) -> Obscuring:
    """`pixelate_5`, `blur_20` or `solid`, upper or lower case. Raises UsageError with the valid forms."""
    for kind in KINDS:
        found = kind.parse(spec.strip().lower())
        if found is not None:
            return found
    forms = [kind.form for kind in KINDS]
    raise UsageError(f"{spec!r} is not an obscuring: use {', '.join(forms[:-1])} or {forms[-1]}.")


def head_region(box: Array, turns: Sequence[int] = (0,)) -> Array:
    """The region (4,) that covers the head whose face a detector put into `box` (4,); px, not clipped.

    `turns`: the quarter turns clockwise by which the head may be turned (0 crown up, 1 right, 2 down, 3 left); the
    region covers the head in each of them.

    A detector's box runs from the middle of the forehead to the chin and from cheek to cheek. Heads are about 1.6
    faces high above the chin and, hair included, twice as wide; in profile the box is narrow while the head is long,
    so the sides depend on the height too. Every side moves out linearly in width and height, which makes the region
    monotone: a box inside another has its head region inside the other's, so the head region of a union covers the
    union of head regions.
    """
    x1, y1, x2, y2 = (float(v) for v in box)
    margins = np.zeros(4)  # at the left, the top, the right, the bottom
    for turn in turns:
        w, h = (x2 - x1, y2 - y1) if turn % 2 == 0 else (y2 - y1, x2 - x1)
        w, h = max(0.0, w), max(0.0, h)
        side = 0.40 * w + 0.25 * h
        upright = [side, 0.60 * h + 0.10 * w, side, 0.35 * h]
        margins = np.maximum(margins, np.roll(upright, turn))
    return np.asarray([x1, y1, x2, y2] + margins * [-1.0, -1.0, 1.0, 1.0])


def plan_regions(
    covers: Sequence[Sequence[CoverBox]], obscuring: Obscuring, height: int, width: int
) -> list[tuple[Region, ...]]:
    """The regions of every frame, from what the tracker wants covered in it.

    The block size follows the largest head seen along the track; the grid starts at the corner of the track's first
    region. Rectangles are snapped outwards to whole blocks, then clipped to the frame.
    """
    origins: dict[int, tuple[int, int]] = {}
    planned: list[tuple[Region, ...]] = []
    for frame in covers:
        regions: dict[Region, None] = {}
        for cover in frame:
            area = cover.box if cover.exact else head_region(cover.box, cover.turns)
            largest = np.array([0.0, 0.0, *cover.largest])
            if not cover.exact:
                largest = head_region(largest)
            side = float(min(largest[2] - largest[0], largest[3] - largest[1]))
            cell = obscuring.cell(side)
            origin = origins.setdefault(cover.track_id, (math.floor(area[0]), math.floor(area[1])))
            snap = cell if obscuring.has_blocks else 1
            rect = _snap(area, snap, origin, height, width)
            if rect is not None:
                regions[Region(rect, cell, origin)] = None
        planned.append(tuple(regions))
    return planned


def whole_frame(height: int, width: int, obscuring: Obscuring) -> Region:
    """The region that hides everything, as strongly as a head as large as the frame."""
    return Region((0, 0, width, height), obscuring.cell(float(min(height, width))))


def obscure(image: Image, regions: Sequence[Region], obscuring: Obscuring) -> CoveredImage:
    """A new image (H, W, 3) uint8 with `regions` hidden and every other pixel as it was.

    Each region is computed from the untouched image and nothing outside of it; where regions overlap, the coarser
    one wins. Raises TypeError for an obscuring that is none.
    """
    if not isinstance(obscuring, Obscuring):
        raise TypeError(f"{obscuring!r} is not an Obscuring; `parse_obscuring` makes one.")
    hidden = image.copy()
    for region in sorted(regions, key=lambda region: region.cell):
        x1, y1, x2, y2 = region.rect
        if x2 <= x1 or y2 <= y1:
            continue
        hidden[y1:y2, x1:x2] = obscuring.hide(image[y1:y2, x1:x2], region)
    return CoveredImage(hidden)


def region_mask(regions: Sequence[Region], height: int, width: int) -> NDArray[np.bool_]:
    """(height, width), true where any region is."""
    mask = np.zeros((height, width), dtype=bool)
    for region in regions:
        x1, y1, x2, y2 = region.rect
        mask[y1:y2, x1:x2] = True
    return mask


def head_mask(box: Array, height: int, width: int) -> NDArray[np.bool_]:
    """(height, width), true in the head region of the face in `box` (4,)."""
    x1, y1, x2, y2 = (max(0, round(float(v))) for v in head_region(box))
    return region_mask([Region((x1, y1, x2, y2), 1)], height, width)


def _snap(area: Array, cell: int, origin: tuple[int, int], height: int, width: int) -> tuple[int, int, int, int] | None:
    """`area` grown to whole cells of the grid and clipped; None when it lies outside the frame."""
    ox, oy = origin
    x1 = ox + math.floor((area[0] - ox) / cell) * cell
    y1 = oy + math.floor((area[1] - oy) / cell) * cell
    x2 = ox + math.ceil((area[2] - ox) / cell) * cell
    y2 = oy + math.ceil((area[3] - oy) / cell) * cell
    x1, x2 = max(0, x1), min(width, x2)
    y1, y2 = max(0, y1), min(height, y2)
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _cell_starts(start: int, stop: int, origin: int, cell: int) -> NDArray[np.int64]:
    """Where cells begin inside [start, stop), relative to start; the first is 0 even when its cell began earlier."""
    first = cell - (start - origin) % cell
    return np.append(0, np.arange(first, stop - start, cell, dtype=np.int64)).astype(np.int64)
