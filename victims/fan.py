"""Aligners that read 68 landmarks from heatmaps: `fan` and `fan-compact`.

`fan` is 2DFAN4 of Bulat & Tzimiropoulos, "How far are we from solving the 2D & 3D face alignment problem?" (ICCV
2017), with the network, crop and decoding of face-alignment 1.5.0 (BSD-3-Clause), except that landmarks stay floating
point: truncated to integers they are face-alignment's own. `fan-compact` is our own network of that family, see
`victims.compact.landmark_net`.

Both read a crop around the detector's box. How they are attacked is in `victims.heatmap_objective`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from victims.base import Aligner, ExportSpec, FaceTargets, Image, Network, Objective, Window, load_strict
from victims.compact.landmark_net import CROP_SIZE, SOFTMAX_GAIN, LandmarkNet, decode_heatmaps, windows_of_boxes
from victims.face import Array
from victims.warp import crop_squares, crop_whole_pixels
from weights.loading import load_state_dict
from weights.store import resolve

NETWORK = "fan"
"""Both victims have one network; it maps crops to a tuple of one tensor, the heatmaps."""

_BATCH = 16
"""Crops per call of the network when reading."""


class HeatmapAligner(Aligner):
    """What `fan` and `fan-compact` share.

    Maps are (N, 68, h, w); *windows* are (N, 4) xyxy px, the square of the frame that a map's left, top, right and
    bottom edges lie on; points of a map are (N, 68, 2) in 0..1 of it.
    """

    weight_files: tuple[str, ...]
    """Names in the catalogue, any one of which will do."""
    crop_size: int
    pixel_offset: float
    """Added to a point in the frame: -0.5 where the network was trained with pixel centres at whole numbers."""
    coordinate_weight: float
    """Of the landmarks' own loss beside that of the maps."""

    @classmethod
    def load(cls, path: Path | None = None, allow_unknown: bool = False) -> Self:
        """With the catalogue's weights, or those of `path`.

        Raises:
            WeightsError: the weights are missing, unknown, damaged or of another network.
        """
        found = resolve(cls.weight_files, path, allow_unknown)
        network = cls.make_network(load_state_dict(found.path), found.path.name)
        return cls({NETWORK: network}, {found.path.name: found.sha256})

    @staticmethod
    @abstractmethod
    def make_network(state: Mapping[str, Tensor], source: str) -> Network:
        """The network with these weights; `source` names their file in errors."""

    @abstractmethod
    def windows(self, boxes: Tensor) -> Tensor:
        """Windows (N, 4) of detector boxes (N, 4)."""

    @abstractmethod
    def crop(self, images: Tensor, windows: Tensor, corners: Tensor | None = None) -> Tensor:
        """Network input (N, 3, size, size) in [0, 1], linear in the images (N, 3, H, W).

        `windows` are the frame's; images that are parts of it come with the px (N, 2) of the frame that their first
        pixels are.
        """

    @abstractmethod
    def points(self, maps: Tensor) -> Tensor:
        """Points as they are reported."""

    @abstractmethod
    def soft_points(self, maps: Tensor) -> Tensor:
        """Points with a gradient."""

    @abstractmethod
    def map_loss(self, maps: Tensor, points: Tensor) -> Tensor:
        """(N, 68) distance of maps from maps that peak at `points` (N, 68, 2)."""

    def in_frame(self, points: Tensor, windows: Tensor) -> Tensor:
        """Points of maps as (N, 68, 2) px of the frame."""
        origin, side = windows[:, None, :2], (windows[:, 2:] - windows[:, :2])[:, None]
        return origin + points * side + self.pixel_offset

    def in_map(self, landmarks: Tensor, windows: Tensor) -> Tensor:
        """The inverse of `in_frame`."""
        origin, side = windows[:, None, :2], (windows[:, 2:] - windows[:, :2])[:, None]
        return (landmarks - self.pixel_offset - origin) / side

    def heatmaps(self, crops: Tensor) -> Tensor:
        """Heatmaps (N, 68, h, w) of crops (N, 3, size, size)."""
        return self.networks[NETWORK](crops)[0]

    @override
    def align(self, images: Sequence[Image], boxes: Sequence[Array]) -> list[Array]:
        crops, windows = [], []
        for image, own in zip(images, boxes, strict=True):
            own_windows = self.windows(torch.from_numpy(np.asarray(own, dtype=np.float64).reshape(-1, 4)))
            pixels = torch.from_numpy(image).permute(2, 0, 1)[None].expand(len(own_windows), -1, -1, -1)
            crops.append(self.crop(pixels, own_windows))
            windows.append(own_windows)
        if not sum(len(own) for own in windows):
            return [np.zeros((0, 68, 2)) for _ in images]
        with torch.no_grad():
            batches = torch.cat(crops).split(_BATCH)
            points = [self.points(self.heatmaps(batch.to(self.device))).cpu() for batch in batches]
        landmarks = self.in_frame(torch.cat(points).double(), torch.cat(windows))
        return [own.numpy() for own in landmarks.split([len(own) for own in windows])]

    @override
    def objective(self, frames: Sequence[Image], windows: Sequence[Window], faces: FaceTargets) -> Objective:
        from victims.heatmap_objective import HeatmapObjective  # which needs this module

        return HeatmapObjective(self, frames, windows, faces)

    @override
    def export_specs(self) -> dict[str, ExportSpec]:
        size = self.crop_size
        return {
            NETWORK: ExportSpec(
                inputs=(torch.rand((2, 3, size, size), generator=torch.Generator().manual_seed(0)),),
                input_names=("crops",),
                output_names=("heatmaps",),
                dynamic_axes={"crops": {0: "batch"}, "heatmaps": {0: "batch"}},
                preprocessing=f"RGB in [0, 1], {size}x{size} crop around the face box",
            )
        }


class CompactFan(HeatmapAligner):
    """`fan-compact`: 32x32 maps of logits of a 128x128 crop, read by their soft-argmax."""

    name = "fan-compact"
    weight_files = ("fan_compact.safetensors",)
    crop_size = CROP_SIZE
    pixel_offset = -0.5
    coordinate_weight = 60.0

    @staticmethod
    @override
    def make_network(state: Mapping[str, Tensor], source: str) -> Network:
        return load_strict(LandmarkNet(), state, source)

    @override
    def windows(self, boxes: Tensor) -> Tensor:
        return windows_of_boxes(boxes)

    @override
    def crop(self, images: Tensor, windows: Tensor, corners: Tensor | None = None) -> Tensor:
        return crop_squares(images, windows if corners is None else windows - corners.repeat(1, 2), CROP_SIZE)

    @override
    def points(self, maps: Tensor) -> Tensor:
        return decode_heatmaps(maps)

    @override
    def soft_points(self, maps: Tensor) -> Tensor:
        return decode_heatmaps(maps)

    def map_loss(self, maps: Tensor, points: Tensor) -> Tensor:
        """Kullback-Leibler divergence from a Gaussian of one cell, as in training, nats."""
        own = functional.log_softmax(SOFTMAX_GAIN * maps.flatten(2), dim=-1)
        wanted = _gaussians(points, maps.shape[-1], sigma=1.0).flatten(2)
        wanted = wanted / wanted.sum(dim=-1, keepdim=True)
        return (wanted * (wanted.clamp_min(1e-12).log() - own)).sum(dim=-1)


class LastHeatmaps(nn.Module):
    """A stack of hourglasses of which only the last one's maps are used, as a tuple of one tensor."""

    def __init__(self, stack: nn.Module) -> None:
        super().__init__()
        self.stack = stack

    def forward(self, crops: Tensor) -> tuple[Tensor]:
        """Crops (N, 3, 256, 256) -> heatmaps (N, 68, 64, 64)."""
        return (self.stack(crops)[-1],)


class Fan(HeatmapAligner):
    """`fan`: 2DFAN4, four hourglasses, 64x64 maps of a 256x256 crop, read by their maximum and its neighbours."""

    name = "fan"
    weight_files = ("2DFAN4-11f355bf06.pth.tar", "2DFAN4-cd938726ad.zip")
    crop_size = 256
    pixel_offset = 0.0
    coordinate_weight = 4.0

    REFERENCE = 195.0
    """Box size, px, at scale 1, whose window is 200 px; of detectors that draw boxes like dlib's, SFD's, MTCNN's."""
    SHIFT = -0.12
    """Of the window's centre, in box heights."""
    MAP = 64
    SIGMA = 1.75
    """Of the Gaussians, one high, that the network was trained to give, in cells."""

    @staticmethod
    @override
    def make_network(state: Mapping[str, Tensor], source: str) -> Network:
        from face_alignment.models import FAN  # takes seconds, and only this victim needs it

        return LastHeatmaps(load_strict(FAN(4), state, source)).eval()

    @override
    def windows(self, boxes: Tensor) -> Tensor:
        sizes = boxes[:, 2:] - boxes[:, :2]
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2 + sizes * sizes.new_tensor((0.0, self.SHIFT))
        halves = 100.0 * sizes.sum(dim=1, keepdim=True) / self.REFERENCE
        return torch.cat((centres - halves, centres + halves), dim=1)

    @override
    def crop(self, images: Tensor, windows: Tensor, corners: Tensor | None = None) -> Tensor:
        whole = self.whole_windows(windows)
        if corners is not None:
            whole = whole - corners.long().repeat(1, 2)
        return crop_whole_pixels(images, whole, self.crop_size)

    def whole_windows(self, windows: Tensor) -> Tensor:
        """The whole pixels that are really cut, (N, 4).

        Upstream truncates the images of crop points (1, 1) and (256, 256).
        """
        sides = windows[:, 2:] - windows[:, :2]
        low = torch.trunc(windows[:, :2] + sides / self.crop_size)
        high = torch.maximum(torch.trunc(windows[:, 2:]), low + 1)
        return torch.cat((low, high), dim=1).long()

    def points(self, maps: Tensor) -> Tensor:
        """The centre of the maximal cell, moved towards the higher neighbour.

        By a quarter of a cell on each axis, unless the cell is at the rim.
        """
        columns, lines = _peaks(maps)
        inner = (columns > 0) & (columns < self.MAP - 1) & (lines > 0) & (lines < self.MAP - 1)
        flat = maps.flatten(2)
        cell = (lines * self.MAP + columns).clamp(self.MAP, self.MAP * (self.MAP - 1) - 1)

        def at(step: int) -> Tensor:
            return flat.gather(2, (cell + step)[..., None])[..., 0]

        shift = 0.25 * torch.stack((torch.sign(at(1) - at(-1)), torch.sign(at(self.MAP) - at(-self.MAP))), dim=-1)
        centre = torch.stack((columns, lines), dim=-1) + 0.5
        return (centre + torch.where(inner[..., None], shift, 0.0)) / self.MAP

    def soft_points(self, maps: Tensor) -> Tensor:
        """Centre of mass of the 5x5 cells around the maximum."""
        columns, lines = _peaks(maps)
        steps = torch.arange(self.MAP, device=maps.device)
        near_x = (steps - columns[..., None]).abs() <= 2  # (N, 68, w)
        near_y = (steps - lines[..., None]).abs() <= 2
        mass = maps.clamp_min(0) * near_x[..., None, :] * near_y[..., None]
        centres = (steps + 0.5) / self.MAP
        total = mass.sum(dim=(2, 3)).clamp_min(1e-6)
        return torch.stack(
            ((mass.sum(dim=2) * centres).sum(dim=-1) / total, (mass.sum(dim=3) * centres).sum(dim=-1) / total), dim=-1
        )

    def map_loss(self, maps: Tensor, points: Tensor) -> Tensor:
        """Squared difference over the target's own square: 1 for an empty map, whatever its landmark."""
        targets = _gaussians(points, self.MAP, self.SIGMA)
        return (maps - targets).square().sum(dim=(2, 3)) / targets.square().sum(dim=(2, 3)).clamp_min(1e-6)


def _peaks(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Column and line (N, 68) of each map's maximum."""
    index = maps.detach().flatten(2).argmax(dim=-1)
    return index % maps.shape[-1], index // maps.shape[-1]


def _gaussians(points: Tensor, cells: int, sigma: float) -> Tensor:
    """Maps (N, 68, cells, cells) of a Gaussian, one high, at points (N, 68, 2) in 0..1.

    Points outside are moved to the rim. `sigma` is in cells.
    """
    centres = (torch.arange(cells, dtype=points.dtype, device=points.device) + 0.5) / cells
    offsets = (points.clamp(0.0, 1.0)[..., None] - centres) * (cells / sigma)  # (N, 68, 2, cells)
    across, down = torch.exp(-0.5 * offsets.square()).unbind(2)
    return down[..., :, None] * across[..., None, :]


_ALIGNERS: dict[str, type[HeatmapAligner]] = {aligner.name: aligner for aligner in (CompactFan, Fan)}


def load_aligner(name: str, override: Path | None = None, allow_unknown: bool = False) -> HeatmapAligner:
    """`fan` or `fan-compact` with the catalogue's weights, or those of the file `override`.

    A file that the catalogue does not know is refused unless `allow_unknown`. Raises WeightsError, also for weights
    that are missing, damaged or of another network.
    """
    return _ALIGNERS[name].load(override, allow_unknown)


def around(name: str, network: Network, weights: dict[str, str]) -> HeatmapAligner:
    """The aligner `name` reading through `network`, whose weights come from the files `weights` (name -> sha256)."""
    return _ALIGNERS[name]({NETWORK: network}, weights)
