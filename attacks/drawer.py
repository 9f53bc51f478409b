"""The drawer: a small network that draws a perturbation from a face's attributes in one forward pass.

What it is given is a crop of the *obscured* frame and maps drawn from the attributes alone: landmarks by group, the
box, irises where the gaze puts them, gaze and size as numbers. So the drawing is a function of what anybody sees of
the obscured frame and of the attributes that the report states, and carries no more about a person than they do. Once
it is fitted to a segment (attacks/tuning.py), that holds of the segment's obscured frames and attributes together.

Conventions: boxes are (4,) xyxy px of the frame; landmarks (68, 2) px of the frame, iBUG order, index coordinates;
`gaze_angle` is (pitch, yaw) rad in the reader's normalised view (`victims.face.Face`). Pixels are float RGB in [0, 1],
and so are perturbations. A *square* (4,) is the part of the frame that is drawn on, around the face's box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from attacks.bundled import DRAWERS
from attacks.obscure import CoveredImage
from victims.base import Window, load_strict
from victims.face import Array, Face
from victims.warp import crop_squares
from weights.loading import load_state_dict
from weights.store import resolve

SIDE = 1.1
"""Side of the square, in (width + height) of the box: about two face heights, the head region."""
SEEN = 96
"""Side of the crop and of the maps, px."""
DRAWN = 192
"""Side of what is drawn, px."""
EPS = 24 / 255
"""Largest change of a pixel that the network draws; a smaller budget clips it."""
SHADE = 64
"""Side of the shade, px; it is drawn three times as large."""
FADE = 8
"""px of DRAWN over which the drawing fades to nothing at the square's border."""

GROUPS: tuple[tuple[tuple[int, ...], bool], ...] = (
    (tuple(range(17)), False),  # jaw
    (tuple(range(17, 22)), False),  # the person's right brow
    (tuple(range(22, 27)), False),
    (tuple(range(27, 31)), False),  # bridge of the nose
    (tuple(range(31, 36)), False),  # wings of the nose
    (tuple(range(36, 42)), True),  # the person's right eye
    (tuple(range(42, 48)), True),
    (tuple(range(48, 60)), True),  # outer lips
    (tuple(range(60, 68)), True),  # inner lips
)
"""Landmarks that share a map, and whether they form a closed line."""
BETWEEN = 2
"""Points put between two landmarks of a line, at half the landmarks' height."""
SPREAD = 1.0
"""Standard deviation of a point in a map, px of SEEN."""
IRIS_RADIUS, IRIS_REACH = 0.21, 0.46
"""Of an eye, in its width: the iris (a disc of 11.7 mm in a lid opening of 28 to 30 mm, half of which is 0.2), and how
far its centre moves as the gaze turns by 90° (the eyeball's radius of 12 to 13 mm)."""
EYES = ((36, 39, tuple(range(36, 42))), (42, 45, tuple(range(42, 48))))
"""Corners, image-left first, and all landmarks of each eye."""

MAPS = len(GROUPS) + 1 + 2
NUMBERS = 6
"""Pitch, yaw, whether gaze is known, whether landmarks are, the face's size, and whether it was followed."""
CHANNELS = 3 + MAPS + NUMBERS


@dataclass(frozen=True, eq=False)
class Attributes:
    """All that the drawing may know of one face."""

    box: Array
    landmarks: Array | None = None
    gaze_angle: Array | None = None
    followed: bool = False
    """`Face.followed`: the detector is to see nothing here."""

    @classmethod
    def of(cls, face: Face) -> Attributes:
        """The attributes of a face that was read. Landmarks that fit no head have no gaze."""
        angle = face.gaze_angle
        known = angle is not None and np.isfinite(angle).all()
        return cls(face.box, face.landmarks, angle if known else None, face.followed)


class _Convolution(nn.Module):
    """3x3, group normalisation, SiLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(8, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(self.norm(self.convolution(x)))


class _Block(nn.Module):
    """A convolution, and a residual one after it."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.first = _Convolution(channels_in, channels_out)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return x + functional.silu(self.second(x))


class DrawerNet(nn.Module):
    """A U-Net of four resolutions: (N, CHANNELS, 96, 96) -> (N, 3, 192, 192) in -1..1.

    Its finest resolution, where most of the time goes, has a single convolution on either side.
    """

    WIDTHS = (32, 64, 128, 192)

    shade: Tensor
    """(1, 3, SHADE, SHADE), of what is drawn: one picture for all faces, which is taken off every drawing."""

    def __init__(self) -> None:
        super().__init__()
        w = self.WIDTHS
        self.down = nn.ModuleList([_Convolution(CHANNELS, w[0]), _Block(w[0], w[1]), _Block(w[1], w[2])])
        self.bottom = _Block(w[2], w[3])
        self.up = nn.ModuleList([_Block(w[3] + w[2], w[2]), _Block(w[2] + w[1], w[1]), _Convolution(w[1] + w[0], w[0])])
        self.last = nn.Conv2d(w[0], 12, 3, padding=1)
        self.register_buffer("shade", torch.zeros(1, 3, SHADE, SHADE))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        skips = []
        for block in self.down:
            skips.append(block(x))
            x = functional.avg_pool2d(skips[-1], 2)
        x = self.bottom(x)
        for block, skip in zip(self.up, skips[::-1], strict=True):
            x = block(torch.cat((functional.interpolate(x, scale_factor=2.0, mode="nearest"), skip), dim=1))
        drawn = torch.tanh(smooth(functional.pixel_shuffle(self.last(x), 2)).float())
        return drawn - functional.interpolate(self.shade, (DRAWN, DRAWN), mode="bicubic")


def smooth(drawn: Tensor) -> Tensor:
    """A binomial filter of five taps in each direction: energy stays where a codec keeps it."""
    taps = drawn.new_tensor((1.0, 4.0, 6.0, 4.0, 1.0)) / 16.0
    kernel = (taps[:, None] * taps).expand(drawn.shape[1], 1, 5, 5)
    return functional.conv2d(drawn, kernel, padding=2, groups=drawn.shape[1])


def square_of(box: Array) -> Array:
    """The square (4,) around a box (4,) that is drawn on, px of the frame; may reach over the border."""
    x1, y1, x2, y2 = (float(value) for value in box)
    centre, half = np.array([(x1 + x2) / 2, (y1 + y2) / 2]), SIDE * (x2 - x1 + y2 - y1) / 2
    return np.concatenate([centre - half, centre + half])


def inputs_of(images: Sequence[Tensor], attributes: Sequence[Attributes]) -> Tensor:
    """What the network is given, (N, CHANNELS, 96, 96). `images` are *obscured* whole frames (3, H, W), uint8."""
    squares = torch.from_numpy(np.stack([square_of(one.box) for one in attributes]))
    pairs = zip(images, squares, strict=True)
    crops = torch.cat([crop_squares(image[None], one[None].to(image.device), SEEN) for image, one in pairs]).float()
    drawn = torch.from_numpy(np.stack([maps_of(one) for one in attributes])).to(crops)
    numbers = torch.tensor([_numbers(one) for one in attributes]).to(crops)
    planes = numbers[:, :, None, None].expand(-1, -1, SEEN, SEEN)
    return torch.cat(((crops - 0.45) * 4.0, drawn, planes), dim=1)


def _numbers(attributes: Attributes) -> list[float]:
    pitch, yaw = (0.0, 0.0) if attributes.gaze_angle is None else attributes.gaze_angle
    x1, y1, x2, y2 = attributes.box
    size = float(np.log2(max((x2 - x1 + y2 - y1) / 2, 1.0) / 100.0))
    known = [float(attributes.gaze_angle is not None), float(attributes.landmarks is not None)]
    return [2.0 * float(pitch), 2.0 * float(yaw), *known, size, float(attributes.followed)]


def maps_of(attributes: Attributes) -> np.ndarray:
    """(MAPS, 96, 96) float32: landmarks by group, the box, the irises, eye openings."""
    square = square_of(attributes.box)
    scale = SEEN / (square[2] - square[0])
    cells: Array = np.arange(SEEN, dtype=np.float64) + 0.5
    maps = np.zeros((MAPS, SEEN, SEEN), np.float32)
    low, high = (attributes.box[:2] - square[:2]) * scale, (attributes.box[2:] - square[:2]) * scale
    inside = [np.clip(np.minimum(cells - low[axis], high[axis] - cells) + 0.5, 0.0, 1.0) for axis in (0, 1)]
    maps[len(GROUPS)] = inside[1][:, None] * inside[0]
    if attributes.landmarks is None:
        return maps
    points = (attributes.landmarks + 0.5 - square[:2]) * scale
    for row, (group, closed) in enumerate(GROUPS):
        line, heights = _line(points[list(group)], closed)
        maps[row] = _blobs(line, heights, cells)
    if attributes.gaze_angle is not None:
        for left, right, lids in EYES:
            disc, opening = _iris(points[left], points[right], points[list(lids)], attributes.gaze_angle, cells)
            maps[-2] += disc
            maps[-1] += opening
    return maps


def _line(points: Array, closed: bool) -> tuple[Array, Array]:
    """Points (m, 2) along a line through `points` (n, 2), and the height (m,) of each."""
    ends = np.roll(points, -1, axis=0) if closed else points[1:]
    starts = points if closed else points[:-1]
    shares = np.arange(1, BETWEEN + 1) / (BETWEEN + 1)
    between = (starts[:, None] + shares[:, None] * (ends - starts)[:, None]).reshape(-1, 2)
    return np.concatenate([points, between]), np.concatenate([np.ones(len(points)), np.full(len(between), 0.5)])


def _blobs(points: Array, heights: Array, cells: Array) -> np.ndarray:
    """(96, 96): the sum of a Gaussian at each point, at most 1.5."""
    across = np.exp(-0.5 * np.square((cells - points[:, :1]) / SPREAD))
    down = np.exp(-0.5 * np.square((cells - points[:, 1:]) / SPREAD)) * heights[:, None]
    return np.minimum(down.T @ across, 1.5).astype(np.float32)


def _iris(left: Array, right: Array, lids: Array, gaze_angle: Array, cells: Array) -> tuple[np.ndarray, np.ndarray]:
    """Two maps (96, 96) of an eye: its iris, a soft disc, and how near each pixel is to the opening's middle line."""
    pitch, yaw = (float(value) for value in gaze_angle)
    along = right - left
    width = max(float(np.linalg.norm(along)), 1e-3)
    axis = along / width
    turn = np.array([-np.cos(pitch) * np.sin(yaw), -np.sin(pitch)])  # x to the right, y down, in the head's roll
    centre = lids.mean(axis=0) + IRIS_REACH * width * (turn[0] * axis + turn[1] * np.array([-axis[1], axis[0]]))
    dx, dy = cells - centre[0], (cells - centre[1])[:, None]
    disc = np.clip(IRIS_RADIUS * width - np.hypot(dx, dy) + 0.5, 0.0, 1.0)
    middle = lids.mean(axis=0)
    across = ((cells - middle[0]) * axis[0] + (cells - middle[1])[:, None] * axis[1]) / (0.5 * width)
    up = (-(cells - middle[0]) * axis[1] + (cells - middle[1])[:, None] * axis[0]) / max(_opening(lids, axis), 0.5)
    return disc.astype(np.float32), np.exp(-0.5 * (across**2 + up**2)).astype(np.float32)


def _opening(lids: Array, axis: Array) -> float:
    """Half the height of an eye's opening, px of the maps."""
    heights = lids @ np.array([-axis[1], axis[0]])
    return float((heights[4:].mean() - heights[1:3].mean()) / 2)


def placed(drawn: Tensor, squares: Sequence[Array], windows: Sequence[Window]) -> Tensor:
    """Drawings (N, 3, 192, 192) as they lie in windows of their frames, all of one size: (N, 3, h, w).

    Linear and differentiable in `drawn`. Nothing is drawn outside the square, towards whose border a drawing fades. A
    face that is smaller than its drawing gets the mean of the pixels that fall together.
    """
    near = ((torch.arange(DRAWN, device=drawn.device) + 0.5) / FADE).clamp_max(1.0)
    faded = drawn * (ramp := torch.minimum(near, near.flip(0))) * ramp[:, None]
    height, width = windows[0].height, windows[0].width
    results = []
    for row, (square, window) in enumerate(zip(squares, windows, strict=True)):
        side = float(square[2] - square[0])
        factor = next((k for k in (4, 3, 2) if side * k <= DRAWN * 1.2), 1)
        picture = functional.avg_pool2d(faded[row : row + 1], factor)
        xs = (torch.arange(width, dtype=torch.float64, device=drawn.device) + 0.5 + window.x - square[0]) * 2 / side - 1
        ys = (torch.arange(height, dtype=torch.float64, device=drawn.device) + 0.5 + window.y - square[1]) * 2 / side
        grid = torch.stack(torch.broadcast_tensors(xs, (ys - 1)[:, None]), dim=-1)[None].to(drawn.dtype)
        results.append(functional.grid_sample(picture, grid, mode="bilinear", align_corners=False))
    return torch.cat(results)


def draw_with(
    network: DrawerNet, covered: Sequence[CoveredImage], attributes: Sequence[Attributes], window: Window
) -> Tensor:
    """Perturbations (N, 3, h, w) of `window` of each obscured frame, one face a frame; differentiable in the weights.

    They are within EPS but for a shade; masks and budgets are applied by `attacks.budget.Budget.project`.
    """
    device = next(network.parameters()).device
    images = [torch.from_numpy(image).permute(2, 0, 1).to(device) for image in covered]
    drawn = EPS * network(inputs_of(images, attributes))
    return placed(drawn, [square_of(one.box) for one in attributes], [window] * len(attributes))


def load_drawer(detector: str, override: Path | None = None, allow_unknown: bool = False) -> Drawer:
    """The drawer nearest to a chain with the detector of this name, or that of the file `override`.

    A file that the catalogue does not know is refused unless `allow_unknown`. Raises WeightsError.
    """
    found = resolve([DRAWERS.get(detector, DRAWERS["mtcnn"])], override, allow_unknown)
    network = DrawerNet()
    load_strict(network, load_state_dict(found.path), found.path.name)
    return Drawer(network, {found.path.name: found.sha256})


class Drawer:
    """Draws perturbations with a trained network, on `device`."""

    def __init__(self, network: DrawerNet, weights: Mapping[str, str]) -> None:
        self.network = network.eval().requires_grad_(False)
        self.weights = dict(weights)
        """File name -> sha256."""

    def to(self, device: torch.device | str) -> Drawer:
        """This drawer with its network on `device` (in place, returned)."""
        self.network.to(device)
        return self

    @torch.no_grad()
    def draw(self, covered: Sequence[CoveredImage], attributes: Sequence[Attributes], window: Window) -> Tensor:
        """What `draw_with` draws, within EPS."""
        return draw_with(self.network, covered, attributes, window).clamp(-EPS, EPS)
