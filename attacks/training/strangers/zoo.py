"""The zoo: released weights of small face models, read by networks of our own.

`load_zoo(folder)` gives the models whose files are in `folder`, as detectors and aligners that are used like victims.
None is part of the package, and none is authorised: a drawer is trained so that they read nothing (see `repel`), and
tests/benchmarks/strangers.py measures what they do read.

Coordinates are px of the frame; boxes continuous, points index coordinates, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from attacks.training.strangers.crop_networks import Pfld
from attacks.training.strangers.detector_networks import FaceBoxes, SmallRetinaFace, UltraFace, YuNet
from attacks.training.strangers.looks import PointsObjective, Stranger, padded
from victims.base import (
    Aligner,
    ExportSpec,
    FaceTargets,
    Image,
    Objective,
    Victim,
    Window,
    load_strict,
    to_pixels,
)
from victims.boxes import suppress
from victims.face import Array, Detections
from victims.warp import crop_squares
from weights.errors import WeightsError
from weights.loading import load_state_dict
from weights.store import sha256_of

THRESHOLD = 0.5
"""Of a face's score, all detectors'."""
LONGER_SIDE = 640
"""px that frames are shrunk to before a detector reads them."""
BGR_MEAN = (104.0, 117.0, 123.0)


@dataclass(frozen=True)
class Cells:
    """Where a detector's outputs lie, and how they are decoded.

    A centre is the cell's, moved by `moves` sides; a side is the cell's times exp(`grows` · output).
    """

    levels: tuple[tuple[int, tuple[tuple[float, tuple[float, ...]], ...]], ...]
    """Stride -> the side of each cell, px, and at which offsets, in strides, it lies in each direction."""
    moves: float
    grows: float

    def at(self, height: int, width: int) -> Tensor:
        """(P, 3) centre x, centre y and side, px, in the network's order."""
        rows = []
        for stride, kinds in self.levels:
            own = [(side, x, y) for side, offsets in kinds for y in offsets for x in offsets]
            table = torch.tensor(own)
            grid_y, grid_x = torch.meshgrid(
                torch.arange(-(-height // stride)), torch.arange(-(-width // stride)), indexing="ij"
            )
            corners = torch.stack([grid_x, grid_y], dim=-1).reshape(-1, 1, 2)
            centres = (corners + table[None, :, 1:]) * stride
            rows.append(torch.cat([centres, table[None, :, :1].expand(len(centres), -1, -1)], dim=2).reshape(-1, 3))
        return torch.cat(rows)

    def boxes(self, loc: Tensor, cells: Tensor) -> Tensor:
        """(..., P, 4) corners, px."""
        centre = cells[:, :2] + self.moves * loc[..., :2] * cells[:, 2:]
        half = cells[:, 2:] * torch.exp(self.grows * loc[..., 2:]) / 2
        return torch.cat([centre - half, centre + half], dim=-1)

    def points(self, values: Tensor, cells: Tensor) -> Tensor:
        """(..., P, 5, 2), px."""
        moves: Tensor = values.unflatten(-1, (5, 2))
        return cells[:, None, :2] + self.moves * moves * cells[:, None, 2:]


def _centred(*levels: tuple[int, tuple[float, ...]]) -> Cells:
    """SSD's: every side once, in the middle of its cell."""
    return Cells(tuple((stride, tuple((side, (0.5,)) for side in sides)) for stride, sides in levels), 0.1, 0.2)


_YUNET = Cells(tuple((stride, ((float(stride), (0.0,)),)) for stride in YuNet.STRIDES), 1.0, 1.0)
_ULTRAFACE = _centred((8, (10, 16, 24)), (16, (32, 48)), (32, (64, 96)), (64, (128, 192, 256)))
_RETINAFACE = _centred((8, (10, 20)), (16, (32, 64)), (32, (128, 256)))
_FACEBOXES = Cells(
    (
        (32, ((32.0, (0.0, 0.25, 0.5, 0.75)), (64.0, (0.0, 0.5)), (128.0, (0.5,)))),
        (64, ((256.0, (0.5,)),)),
        (128, ((512.0, (0.5,)),)),
    ),
    0.1,
    0.2,
)


class ZooDetector(Stranger):
    """A detector of the zoo. It can be repelled, not authorised."""

    cover_threshold = THRESHOLD

    def __init__(self, name: str, network: nn.Module, kind: _DetectorKind, weights: dict[str, str]) -> None:
        super().__init__({"detector": network}, weights)
        self.name, self.kind = name, kind

    def faces_seen(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See Stranger."""
        loc, margins = self.networks["detector"](self._values(pixels))
        cells = self.kind.cells.at(*pixels.shape[2:]).to(pixels)
        return self.kind.cells.boxes(loc, cells), margins, cells[:, :2]

    def _values(self, pixels: Tensor) -> Tensor:
        return pixels.flip(1) * 255.0 - pixels.new_tensor(self.kind.mean).view(1, 3, 1, 1)

    def detect(self, images: Sequence[Image], threshold: float | None = None) -> list[Detections]:
        """See Detector. Frames are shrunk to a longer side of 640 px; smaller ones are read as they are."""
        return [self.detect_with_points(image, threshold)[0] for image in images]

    @torch.no_grad()
    def detect_with_points(self, image: Image, threshold: float | None = None) -> tuple[Detections, Array]:
        """Faces of one image, and five points (k, 5, 2) of each; none of a detector without points."""
        height, width = image.shape[:2]
        scale = min(1.0, LONGER_SIDE / max(height, width))
        size = round(width * scale), round(height * scale)
        small = image if scale == 1.0 else np.asarray(cv2.resize(image, size), dtype=np.uint8)
        pixels = padded(to_pixels([small])) if self.kind.padded else to_pixels([small])
        boxes, margins, _ = self.faces_seen(pixels)
        scores = torch.sigmoid(margins[0])
        passed = torch.nonzero(scores > (THRESHOLD if threshold is None else threshold))[:, 0]
        passed = passed[torch.argsort(scores[passed], descending=True)]
        found = (boxes[0, passed] / scale).double().numpy()
        own = scores[passed].double().numpy()
        kept = suppress(found, own, self.kind.overlap)
        points = np.zeros((0, 5, 2))
        network = self.networks["detector"]
        if hasattr(network, "points"):
            values = network.points(self._values(pixels))[0, passed]
            cells = self.kind.cells.at(*pixels.shape[2:])[passed]
            points = (self.kind.cells.points(values, cells) / scale).double().numpy()[kept]
        return Detections(found[kept], own[kept]), points


class ZooAligner(Aligner):
    """pfld-68: a square of 1.1 times the box's longer side, 112 px."""

    SIDE, MARGIN = 112, 1.1

    def __init__(self, name: str, network: nn.Module, weights: dict[str, str]) -> None:
        super().__init__({"aligner": network}, weights)
        self.name = name

    def squares(self, boxes: Tensor) -> Tensor:
        """(N, 4) of boxes (N, 4)."""
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        half = self.MARGIN * (boxes[:, 2:] - boxes[:, :2]).amax(dim=1, keepdim=True) / 2
        return torch.cat([centre - half, centre + half], dim=1)

    def read_squares(self, pixels: Tensor, squares: Tensor) -> Tensor:
        """Landmarks (N, 68, 2), px, of one square (N, 4) of each picture (N, 3, H, W); differentiable."""
        (values,) = self.networks["aligner"](crop_squares(pixels, squares, self.SIDE).float())
        side = (squares[:, 2:] - squares[:, :2])[:, None]
        points: Tensor = values.unflatten(1, (68, 2))
        return points * side + squares[:, None, :2] - 0.5

    @torch.no_grad()
    def align(self, images: Sequence[Image], boxes: Sequence[Array]) -> list[Array]:
        """See Aligner."""
        found = []
        for image, own in zip(images, boxes, strict=True):
            squares = self.squares(torch.from_numpy(np.asarray(own, dtype=np.float64).reshape(-1, 4)))
            pixels = to_pixels([image]).expand(len(squares), -1, -1, -1)
            found.append(self.read_squares(pixels, squares).double().numpy() if len(squares) else np.zeros((0, 68, 2)))
        return found

    def objective(self, frames: Sequence[Image], windows: Sequence[Window], faces: FaceTargets) -> Objective:
        """See Aligner; `looks.PointsObjective`: of the windows alone, from the boxes that are given here."""
        return PointsObjective(self, windows, faces.boxes, faces.landmarks)

    @override
    def export_specs(self) -> dict[str, ExportSpec]:
        example = torch.zeros(2, 3, self.SIDE, self.SIDE)
        axes = {name: {0: "batch"} for name in ("pixels", "points")}
        return {"aligner": ExportSpec((example,), ("pixels",), ("points",), axes, "RGB / 255")}


@dataclass(frozen=True)
class _DetectorKind:
    file: str
    build: Callable[[], nn.Module]
    cells: Cells
    mean: tuple[float, float, float] = BGR_MEAN
    overlap: float = 0.4
    """Of non-maximum suppression."""
    prefix: str = ""
    """Of the network's keys, which the file lacks."""
    padded: bool = False
    """Whether whole frames are padded to multiples of 32."""


DETECTORS: dict[str, _DetectorKind] = {
    "yunet-n": _DetectorKind(
        "yunet_n.pth", lambda: YuNet((16, 64, 64, 64, 64, 64), True), _YUNET, (0.0, 0.0, 0.0), 0.45, padded=True
    ),
    "yunet-s": _DetectorKind(
        "yunet_s.pth", lambda: YuNet((16, 32, 64, 64, 64, 64), False), _YUNET, (0.0, 0.0, 0.0), 0.45, padded=True
    ),
    "ultraface-rfb": _DetectorKind("ultraface_rfb.pth", lambda: UltraFace(True), _ULTRAFACE),
    "ultraface-slim": _DetectorKind("ultraface_slim.pth", lambda: UltraFace(False), _ULTRAFACE),
    "retinaface-1mb": _DetectorKind("retinaface_1mb.pth", SmallRetinaFace, _RETINAFACE, prefix="network."),
    "faceboxes": _DetectorKind("faceboxes.pth", FaceBoxes, _FACEBOXES),
}
ALIGNERS: dict[str, str] = {"pfld-68": "pfld68.safetensors"}


def load_detector(name: str, folder: Path) -> ZooDetector:
    """Raises WeightsError where its file is missing or another's."""
    kind = DETECTORS[name]
    path = _there(folder / kind.file)
    state = {kind.prefix + key: value for key, value in load_state_dict(path).items()}
    network = load_strict(kind.build(), state, path.name)
    return ZooDetector(name, network, kind, {path.name: sha256_of(path)})


def load_aligner(name: str, folder: Path) -> ZooAligner:
    """Raises WeightsError where its file is missing or another's."""
    path = _there(folder / ALIGNERS[name])
    return ZooAligner(name, load_strict(Pfld(), load_state_dict(path), path.name), {path.name: sha256_of(path)})


def load_zoo(folder: Path) -> dict[str, Victim]:
    """Every detector and aligner, by name. Raises WeightsError."""
    detectors: dict[str, Victim] = {name: load_detector(name, folder) for name in DETECTORS}
    return detectors | {name: load_aligner(name, folder) for name in ALIGNERS}


def is_of(name: str, families: Collection[str]) -> bool:
    """Whether a model belongs to one of `families`: by its own name, or by the part before the first dash."""
    return name in families or name.split("-", maxsplit=1)[0] in families


def _there(path: Path) -> Path:
    if not path.is_file():
        raise WeightsError(f"{path} is missing; --strangers must name the folder that holds the zoo's weight files.")
    return path
