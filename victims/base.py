"""The contract every victim keeps.

A victim has two uses that share networks, crops and decoding:

* reading, on whole frames (uint8, RGB, numpy): `Detector.detect`, `Aligner.align`, `GazeEstimator.estimate`;
* being attacked: `objective(...)` freezes targets and geometry for a batch of frames and returns an
  `Objective`, whose `read` is differentiable with respect to the pixels of a window of each frame.

Only a part of each frame changes during an attack. `Window` says which; every window of a batch has the same
size, so that windows can be stacked, while offsets differ. Pixels are float RGB in [0, 1] with shape
(B, 3, h, w); coordinates given to and returned by victims are those of the *whole frame*, in px.

Networks are called as `network(*tensors) -> tuple of tensors`, whether the network is a torch module or an ONNX
session wrapped to look like one; they are what `drsf export` writes.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from victims.camera import Camera
from victims.face import Alignment, Array, Detections, Start, by_prominence
from weights.errors import UsageError, WeightsError

Image = NDArray[np.uint8]  # (H, W, 3) RGB
Scalar = TypeVar("Scalar", bound=np.generic)
Network = Callable[..., tuple[Tensor, ...]]
Role = Literal["detector", "aligner", "gaze"]


@dataclass(frozen=True)
class Window:
    """A rectangle of the frame, px: the part an attack may look at and change."""

    x: int
    y: int
    width: int
    height: int

    def cut(self, image: NDArray[Scalar]) -> NDArray[Scalar]:
        """The window's part (height, width, ...) of an array (H, W, ...), a view."""
        return image[self.y : self.y + self.height, self.x : self.x + self.width]


class Reading(NamedTuple):
    """What a victim reads from a batch of windows during an attack."""

    loss: Tensor
    """(B,) differentiable; each frame's own, never averaged over the batch."""
    error: Tensor
    """(B,) detached, in the unit people judge by: detector 1 - IoU; aligner mean landmark distance over
    sqrt(w·h) of the target box; gaze angle in degrees. Infinite where nothing is found."""
    output: Tensor
    """(B, ...) detached, what the next victim's geometry comes from: boxes (B, 4), landmarks (B, 68, 2) or gaze
    vectors (B, 3) in the camera frame. NaN where nothing is found."""
    mesh: Tensor | None = None
    """(B, n, 3) *differentiable*: every point of an aligner that has more than 68, for a gaze estimator that starts
    from them; see `Objective.takes_mesh`."""


class Objective(ABC):
    """Targets and geometry of a batch of frames, frozen; a function of pixels."""

    takes_mesh: ClassVar[bool] = False
    """Whether `geometry` may be the aligner's `Reading.mesh`, whose graph is then shared, instead of its output."""

    @abstractmethod
    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        """Loss of windows `pixels` (len(items), 3, h, w), which belong to frames `items` of the batch.

        `geometry` is what the victim before this one reads now (boxes for an aligner, landmarks for gaze), with
        which the crop is made as it will be at decode time; a row that is NaN, or None, means the target's own.
        """


@dataclass(frozen=True)
class FaceTargets:
    """What an aligner is to read, or not to read, of one face in each frame of a batch."""

    boxes: Array
    """(B, 4), of which crops are made."""
    landmarks: Array
    """(B, 68, 2)"""
    meshes: Array | None = None
    """(B, k, 3) all points of the faces, for an aligner that has more than 68 (`Alignment.mesh`)."""
    starts: Sequence[Start | None] = ()
    """(B,) of `Alignment.starts`, where they are known."""
    followed: Sequence[bool] = ()
    """(B,) of `Face.followed`; () where all were detected."""


@dataclass(frozen=True)
class ExportSpec:
    """How one network of a victim is exported."""

    inputs: tuple[Tensor, ...]
    """Example inputs, batch of 2."""
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    dynamic_axes: Mapping[str, Mapping[int, str]]
    """Name -> axis -> name of the dynamic axis."""
    preprocessing: str
    """One line for the file's metadata: colour order, range, mean, size."""
    full_precision: tuple[str, ...] = ()
    """Modules (`/body/stage1/`: scopes of the graph's nodes) that stay float32 in a file of half precision."""


class Victim(ABC):
    """A named model with its networks. `device` is where its networks run and its tensors must be."""

    name: str
    role: Role
    networks: dict[str, Network]
    weights: dict[str, str]
    """File name -> sha256 of every weight file in use."""

    def __init__(self, networks: Mapping[str, Network], weights: Mapping[str, str]) -> None:
        self.networks = dict(networks)
        self.weights = dict(weights)
        self.device = torch.device("cpu")

    def to(self, device: torch.device | str) -> Self:
        """This victim with its torch networks on `device` (in place, returned)."""
        self.device = torch.device(device)
        for network in self.networks.values():
            if isinstance(network, nn.Module):
                network.to(self.device)
        return self

    def with_networks(self, networks: Mapping[str, Network]) -> Self:
        """A copy that reads through other implementations of the same networks (ONNX sessions).

        They take and return CPU tensors.
        """
        if set(networks) != set(self.networks):
            raise ValueError(f"{self.name} has networks {sorted(self.networks)}, not {sorted(networks)}")
        other = copy.copy(self)
        other.networks = dict(networks)
        other.device = torch.device("cpu")
        return other

    def export_specs(self) -> dict[str, ExportSpec]:
        """How each network is exported, by its name in `networks`; none of a reader that has no networks of drsf's."""
        return {}

    def no_gradient(self) -> UsageError:
        """What `objective` raises where nothing can be embedded for this model."""
        return UsageError(f"{self.name} has no gradient and cannot be attacked; choose another {self.role}.")


class Detector(Victim):
    """A victim that finds faces."""

    role: Role = "detector"
    cover_threshold: float
    """Detections count for covering from this score on: lower than the detector's own threshold, for reading."""
    covers: ClassVar[bool] = True
    """Whether its detections may decide what is covered. False for one that misses faces which others see."""

    @abstractmethod
    def detect(self, images: Sequence[Image], threshold: float | None = None) -> list[Detections]:
        """Faces of each image (all of one size), best score first.

        `threshold` replaces the final score threshold (lower: more faces, for covering).
        """

    def sweep(self, images: Sequence[Image], threshold: float) -> tuple[list[Detections], list[Detections]]:
        """`detect(images)` and `detect(images, threshold)` at once; a detector that can share work does."""
        return self.detect(images), self.detect(images, threshold)

    def in_order(self, found: Detections, height: int, width: int) -> Detections:
        """Faces of a picture (height, width), the frame's own first."""
        return by_prominence(found, height, width)

    def objective(self, frames: Sequence[Image], windows: Sequence[Window], boxes: Array) -> Objective:
        """Make the detector return `boxes` (B, 4), one a frame, from `frames` whose windows will change.

        The rest of each frame stays as given. Raises UsageError where the detector has no gradient.
        """
        raise self.no_gradient()

    def repel_objective(self, frames: Sequence[Image], windows: Sequence[Window], boxes: Array) -> Objective:
        """Make the detector see no face in the windows of `frames`, which hide faces at `boxes` (B, 4).

        This is the vanishing objective of TOG (Chow et al. 2020, arXiv 2004.04320). `Reading.error` is the score of the
        likeliest face, 0..1, to be brought down; `Reading.output` is that face's box. Raises UsageError where a
        detector has none.
        """
        raise UsageError(f"--repel {self.name}: this detector has no gradient to be repelled by; leave it out.")


class Aligner(Victim):
    """A victim that reads 68 landmarks in a face box."""

    role: Role = "aligner"

    @abstractmethod
    def align(self, images: Sequence[Image], boxes: Sequence[Array]) -> list[Array]:
        """Landmarks (k, 68, 2) of the k boxes (k, 4) of each image."""

    def align_faces(self, images: Sequence[Image], boxes: Sequence[Array]) -> list[Alignment]:
        """The same with every point that the victim has."""
        return [Alignment(own) for own in self.align(images, boxes)]

    def follow(self, image: Image, before: Array) -> tuple[Detections, Alignment]:
        """The faces of an image that were read as `before` (k, n, 3), all points of each, in the frame before it.

        Those that are still there, and what is read of them. An aligner that needs a detector in every frame finds
        none.
        """
        return Detections(np.zeros((0, 4)), np.zeros(0)), Alignment(np.zeros((0, 68, 2)))

    def objective(self, frames: Sequence[Image], windows: Sequence[Window], faces: FaceTargets) -> Objective:
        """Make the aligner return the landmarks of `faces` for crops made from their boxes.

        Raises UsageError where it needs meshes and they are None, and where the aligner has no gradient.
        """
        raise self.no_gradient()

    def detector_objective(
        self, detector: Detector, frames: Sequence[Image], windows: Sequence[Window], faces: FaceTargets
    ) -> Objective:
        """Make `detector` return the boxes of `faces`, and what else of its answer this aligner's crops come from."""
        return detector.objective(frames, windows, faces.boxes)

    def distance_objective(self, frames: Sequence[Image], windows: Sequence[Window], faces: FaceTargets) -> Objective:
        """The same as `objective`, of an aligner that is *not* to read the landmarks: it needs no meshes."""
        return self.objective(frames, windows, faces)


class GazeEstimator(Victim):
    """A victim that reads where a face with given landmarks looks."""

    role: Role = "gaze"

    @abstractmethod
    def estimate(
        self, images: Sequence[Image], landmarks: Sequence[Array], camera: Camera
    ) -> list[tuple[Array, Array]]:
        """Where the k faces (k, 68, 2) of each image look.

        For each image: gaze vectors (k, 3) in the camera frame, and (k, 2) pitch, yaw in rad in normalised camera
        space.
        """

    def estimate_faces(
        self, images: Sequence[Image], alignments: Sequence[Alignment], camera: Camera
    ) -> list[tuple[Array, Array]]:
        """The same from all that the aligner read; a victim that starts from a mesh takes it from there."""
        return self.estimate(images, [own.landmarks for own in alignments], camera)

    def view(self, landmarks: Array, camera: Camera) -> Array | None:
        """(3, 3): the rotation from the camera frame to that space for a face (68, 2).

        None where the landmarks fit no head, or the estimator has no such space.
        """
        return None

    @abstractmethod
    def objective(
        self, frames: Sequence[Image], windows: Sequence[Window], landmarks: Array, gaze: Array, camera: Camera
    ) -> Objective:
        """Make the estimator return `gaze` (B, 3), camera frame, for patches normalised by `landmarks` (B, 68, 2)."""


def to_pixels(images: Sequence[Image], device: torch.device | str = "cpu") -> Tensor:
    """Images of one size as float RGB in [0, 1], (B, 3, H, W)."""
    stacked = torch.from_numpy(np.ascontiguousarray(np.stack(images))).to(device)
    return stacked.permute(0, 3, 1, 2).to(torch.float32) / 255.0


def load_strict(module: nn.Module, state: Mapping[str, Tensor], source: str) -> nn.Module:
    """Load `state` into `module`, set to eval, without gradients for the weights.

    Counters of batch normalisation (`num_batches_tracked`) may be missing. Anything else that is missing, left over
    or of another shape raises WeightsError with the first such key; `source` names the file in it.
    """
    own = module.state_dict()
    for key, value in own.items():
        if key.endswith("num_batches_tracked") and key not in state:
            continue
        if key not in state:
            raise WeightsError(
                f"{source}: key {key!r} is missing; this is not a checkpoint of {type(module).__name__}."
            )
        if tuple(state[key].shape) != tuple(value.shape):
            raise WeightsError(
                f"{source}: key {key!r} has shape {tuple(state[key].shape)} where {type(module).__name__} has "
                f"{tuple(value.shape)}; this is not a checkpoint of it."
            )
    for key in state:
        if key not in own:
            raise WeightsError(
                f"{source}: key {key!r} is unknown; this is not a checkpoint of {type(module).__name__}."
            )
    module.load_state_dict(dict(state), strict=False)
    return module.eval().requires_grad_(False)
