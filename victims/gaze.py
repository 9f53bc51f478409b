"""Gaze victims: `eth-xgaze`, `mpiifacegaze`, `mpiigaze`, `gaze-compact`.

All four work the same way: head pose from the 68 landmarks, a virtual camera turned to the face (or to each eye),
a warp of the frame into its view, a network that says pitch and yaw there, and the vector turned back into the
camera frame. What differs is one row of `GAZE_MODELS`.

- Patches are warped by `victims.warp.warp_perspective` on float pixels, for reading and for attacking alike; they
  equal `cv2.warpPerspective` on uint8 up to its rounding.
- Vectors are turned back by rotation alone (no scaling).
- `mpiigaze` reads each eye by itself. Its gaze is the mean of both eyes' vectors in the camera frame, made unit; its
  pitch and yaw are that vector's in the view of a camera turned to the midpoint of both eyes.

Source: ptgaze 0.3.0 (hysts, MIT) for colours, means, views and signs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Generic, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from victims.base import ExportSpec, GazeEstimator, Image, Network, Objective, Reading, Window, load_strict, to_pixels
from victims.camera import NORMALIZATIONS, Camera, Normalization, normalize_view, solve_head_pose, vector_to_angles
from victims.equalize import equalize_hist, grey_levels
from victims.face import Array
from victims.face_model import LEFT_EYE_CORNERS, RIGHT_EYE_CORNERS
from victims.gaze_networks import CompactGazeNet, ETHXGazeNet, MPIIFaceGazeNet, MPIIGazeNet
from victims.warp import warp_perspective
from weights.errors import DrsfError, UsageError
from weights.loading import load_state_dict
from weights.store import resolve

_FACES_PER_CALL = 16
"""Faces that go through warp and network together when reading; bounds memory."""

_SOFT_ANGLE = 0.01
"""rad. Below this the loss is quadratic in the angle, above it linear."""


@dataclass(frozen=True)
class GazeModel:
    """What tells one gaze victim from another."""

    network: Callable[[], nn.Module]
    """Makes it with random weights."""
    files: tuple[str, ...]
    """Names of its weight files in the catalogue, the preferred one first."""
    views: tuple[Normalization, ...]
    """The virtual cameras whose patches it reads, all of one size."""
    reference: Normalization
    """The virtual camera in whose frame the reading's pitch and yaw are given."""
    prepare: Callable[[Tensor], Tensor]
    """Patches (N, 3, h, w), RGB in [0, 1] -> the network's input; differentiable."""
    preprocessing: str
    """The same in words."""
    takes_head_pose: bool = False
    """Whether the network's second input is the head's pitch and yaw in the view, (N, 2) rad."""


def _whitened(mean: tuple[float, ...], deviation: tuple[float, ...], bgr: bool) -> Callable[[Tensor], Tensor]:
    """Channel-wise standardisation; `mean` and `deviation` are in the order the network sees."""

    def prepare(patches: Tensor) -> Tensor:
        ordered = patches.flip(1) if bgr else patches
        return (ordered - ordered.new_tensor(mean)[:, None, None]) / ordered.new_tensor(deviation)[:, None, None]

    return prepare


def _equalized(patches: Tensor) -> Tensor:
    return equalize_hist(grey_levels(patches)) / 255.0


GAZE_MODELS: Mapping[str, GazeModel] = MappingProxyType(
    {
        "eth-xgaze": GazeModel(
            ETHXGazeNet,
            ("eth-xgaze_resnet18.safetensors",),
            (NORMALIZATIONS["eth-xgaze"],),
            NORMALIZATIONS["eth-xgaze"],
            _whitened((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), bgr=False),
            "normalised patch 224x224, RGB in [0, 1], minus 0.485 0.456 0.406, over 0.229 0.224 0.225",
        ),
        "mpiifacegaze": GazeModel(
            MPIIFaceGazeNet,
            ("mpiifacegaze_resnet_simple.safetensors",),
            (NORMALIZATIONS["mpiifacegaze"],),
            NORMALIZATIONS["mpiifacegaze"],
            _whitened((0.406, 0.456, 0.485), (0.225, 0.224, 0.229), bgr=True),
            "normalised patch 224x224, BGR in [0, 1], minus 0.406 0.456 0.485, over 0.225 0.224 0.229",
        ),
        "mpiigaze": GazeModel(
            MPIIGazeNet,
            ("mpiigaze_resnet_preact.safetensors", "mpiigaze_resnet_preact.pth"),
            (NORMALIZATIONS["mpiigaze-right"], NORMALIZATIONS["mpiigaze-left"]),
            Normalization(960.0, (60, 36), (30.0, 18.0), 0.6, RIGHT_EYE_CORNERS + LEFT_EYE_CORNERS),
            _equalized,
            "normalised eye 60x36, grey, histogram equalised, in [0, 1], right eyes mirrored; "
            "head pitch and yaw in rad, yaw negated for right eyes",
            takes_head_pose=True,
        ),
        "gaze-compact": GazeModel(
            CompactGazeNet,
            ("gaze_compact.safetensors",),
            (NORMALIZATIONS["eth-xgaze"],),
            NORMALIZATIONS["eth-xgaze"],
            lambda patches: patches,
            "normalised patch 224x224 (ETH-XGaze's camera), RGB in [0, 1]",
        ),
    }
)
"""Victim name -> model."""


@dataclass(frozen=True)
class FaceViews:
    """Geometry of one face under the v views of a model, float64."""

    warps: Array
    """(v, 3, 3) frame px -> patch px, not mirrored."""
    rotations: Array
    """(v, 3, 3) camera frame -> normalised frame."""
    reference: Array
    """(3, 3) camera frame -> the frame of the model's reference camera."""
    head_angles: Array
    """(v, 2) the head's pitch, yaw, rad."""
    bounds: Array
    """(4,) x1, y1, x2, y2: index coordinates of the frame within which all patches lie; infinite where a patch
    reaches the horizon."""


class NormalizedGaze(GazeEstimator):
    """A gaze network behind normalised views of the face. `networks` holds it under the name "gaze"."""

    def __init__(self, name: str, network: Network, weights: Mapping[str, str]) -> None:
        """`name` is a key of GAZE_MODELS; `network` returns a tuple of one tensor, (N, 2) pitch, yaw in rad."""
        super().__init__({"gaze": network}, weights)
        self.name = name
        self._model = GAZE_MODELS[name]

    def estimate(
        self, images: Sequence[Image], landmarks: Sequence[Array], camera: Camera
    ) -> list[tuple[Array, Array]]:
        """Gaze (k, 3) and pitch, yaw (k, 2) of the k faces (k, 68, 2) of each image; images of one size.

        A face whose landmarks are not finite, or fit no head, gets NaN in both.
        """
        results = [(np.full((len(faces), 3), np.nan), np.full((len(faces), 2), np.nan)) for faces in landmarks]
        found = [
            (image, row, views)
            for image, faces in enumerate(landmarks)
            for row, face in enumerate(faces)
            if (views := self.views(face, camera)) is not None
        ]
        for start in range(0, len(found), _FACES_PER_CALL):
            some = found[start : start + _FACES_PER_CALL]
            faces = [views for _, _, views in some]
            with torch.no_grad():
                pixels, offsets = cut_out([images[image] for image, _, _ in some], faces, self.device)
                vectors = self._gaze(self._patches(pixels, offsets, faces), faces).cpu().numpy()
            for (image, row, views), vector in zip(some, vectors, strict=True):
                results[image][0][row] = vector
                results[image][1][row] = vector_to_angles(views.reference @ vector)
        return results

    def objective(
        self, frames: Sequence[Image], windows: Sequence[Window], landmarks: Array, gaze: Array, camera: Camera
    ) -> Objective:
        """Make the victim return `gaze` (B, 3) with landmarks (B, 68, 2), which must fit a head (else DrsfError)."""
        return _GazeObjective(self, frames, windows, landmarks, gaze, camera)

    def view(self, landmarks: Array, camera: Camera) -> Array | None:
        """See GazeEstimator."""
        views = self.views(landmarks, camera)
        return None if views is None else views.reference

    @override
    def export_specs(self) -> dict[str, ExportSpec]:
        width, height = self._model.views[0].size
        if self._model.takes_head_pose:
            inputs: tuple[Tensor, ...] = (torch.full((2, 1, height, width), 0.5), torch.zeros(2, 2))
            names: tuple[str, ...] = ("eye", "head_pose")
        else:
            inputs, names = (torch.full((2, 3, height, width), 0.5),), ("patch",)
        axes = {name: {0: "batch"} for name in (*names, "pitch_yaw")}
        return {"gaze": ExportSpec(inputs, names, ("pitch_yaw",), axes, self._model.preprocessing)}

    def views(self, landmarks: Array, camera: Camera) -> FaceViews | None:
        """Geometry of one face, (68, 2); None where the landmarks are not finite or fit no head."""
        if not np.all(np.isfinite(landmarks)):
            return None
        try:
            pose = solve_head_pose(landmarks, camera)
            views = [normalize_view(pose, spec, camera) for spec in self._model.views]
            reference = normalize_view(pose, self._model.reference, camera).rotation
            warps = np.stack([view.warp for view in views])
            inverses = np.linalg.inv(warps)
        except (DrsfError, cv2.error, np.linalg.LinAlgError):
            return None
        if not (np.all(np.isfinite(inverses)) and np.all(np.isfinite(reference))):
            return None
        width, height = self._model.views[0].size
        corners = np.array([[-1.0, -1.0, 1], [width, -1, 1], [width, height, 1], [-1, height, 1]])
        points = corners @ inverses.transpose(0, 2, 1)  # (v, 4, 3), homogeneous
        if np.all(points[..., 2] > 0):
            flat = (points[..., :2] / points[..., 2:]).reshape(-1, 2)
            bounds = np.concatenate([flat.min(axis=0), flat.max(axis=0)])
        else:
            bounds = np.array([-np.inf, -np.inf, np.inf, np.inf])
        return FaceViews(
            warps,
            np.stack([view.rotation for view in views]),
            reference,
            np.stack([view.head_angles for view in views]),
            bounds,
        )

    def _patches(self, pixels: Tensor, offsets: Sequence[tuple[int, int]], faces: Sequence[FaceViews]) -> Tensor:
        """Patches (k, v, 3, h, w) from pixels (k, 3, H, W) whose top-left ones lie at `offsets` (x, y) of the frame."""
        shifts = np.tile(np.eye(3), (len(faces), 1, 1))
        shifts[:, :2, 2] = offsets
        matrices = torch.from_numpy(np.stack([face.warps for face in faces], axis=1) @ shifts).to(pixels.device)
        size = self._model.views[0].size
        return torch.stack([warp_perspective(pixels, view, size) for view in matrices], dim=1)

    def _gaze(self, patches: Tensor, faces: Sequence[FaceViews]) -> Tensor:
        """Patches (k, v, 3, h, w), RGB in [0, 1] -> unit gaze vectors (k, 3) in the camera frame, float64."""
        device = patches.device
        mirrored = torch.tensor([view.mirrored for view in self._model.views], device=device)
        signs = 1.0 - 2.0 * torch.stack((torch.zeros_like(mirrored), mirrored), dim=-1).double()  # (v, 2) on pitch, yaw
        inputs = self._model.prepare(patches.flatten(0, 1))
        if mirrored.any():
            inputs = torch.where(mirrored.repeat(len(faces))[:, None, None, None], inputs.flip(-1), inputs)
        if self._model.takes_head_pose:
            head = torch.from_numpy(np.stack([face.head_angles for face in faces])).to(device) * signs
            (angles,) = self.networks["gaze"](inputs, head.flatten(0, 1).to(inputs.dtype))
        else:
            (angles,) = self.networks["gaze"](inputs)
        pitch, yaw = (angles.double().unflatten(0, patches.shape[:2]) * signs).unbind(-1)  # (k, v) each
        vectors = -torch.stack((pitch.cos() * yaw.sin(), pitch.sin(), pitch.cos() * yaw.cos()), dim=-1)
        rotations = torch.from_numpy(np.stack([face.rotations for face in faces])).to(device)
        turned_back = torch.einsum("kvj,kvji->kvi", vectors, rotations)
        return functional.normalize(turned_back.sum(dim=1), dim=-1)


Place = TypeVar("Place")


class GazeTargets(Generic[Place]):
    """Gazes to be read, one a frame, and what its own landmarks say of each face: `place_of` them, None for no head."""

    def __init__(
        self, victim: GazeEstimator, landmarks: Array, gaze: Array, place_of: Callable[[Array], Place | None]
    ) -> None:
        unit = np.asarray(gaze, dtype=np.float64)
        unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
        self._vectors = torch.from_numpy(unit).to(victim.device)
        own = [place_of(face) for face in landmarks]
        self._own, self._place_of = [place for place in own if place is not None], place_of
        if len(self._own) < len(own) or not np.all(np.isfinite(unit)):
            raise DrsfError(f"{victim.name}: a frame's target has landmarks that fit no head, or no gaze")

    def places(self, items: Sequence[int], landmarks: Array | None) -> tuple[list[Place], Tensor]:
        """Of the faces of frames `items`, by `landmarks` (n, 68, 2); and which (n,) fit no head: they get the target's.

        A row that is not finite, or None, means the target's own.
        """
        places, lost = [self._own[item] for item in items], torch.zeros(len(items), dtype=torch.bool)
        for row, face in enumerate(() if landmarks is None else landmarks):
            if np.all(np.isfinite(face)):
                place = self._place_of(face)
                lost[row] = place is None
                places[row] = place or places[row]
        return places, lost

    def reading(self, vectors: Tensor, items: Sequence[int], lost: Tensor, pixels: Tensor) -> Reading:
        """Of unit vectors (n, 3) that are read in `pixels`; of faces that are `lost` the error is infinite."""
        loss, error = angle_loss(vectors, self._vectors[list(items)])
        lost = lost.to(error.device)
        return Reading(
            loss.to(pixels.dtype),
            error.masked_fill(lost, torch.inf).to(pixels.dtype),
            vectors.detach().masked_fill(lost[:, None], torch.nan).to(pixels.dtype),
        )


class _GazeObjective(Objective):
    """Make the estimator read given gazes in patches that are warped from the frame.

    A patch is a linear function of the frame, so each is the warp of the window alone plus the warp of the frame with
    the window blacked out. The second part is a constant, and it is skipped where all patches lie inside their windows,
    which is the usual case: a head's window is larger than its face.
    """

    def __init__(
        self,
        victim: NormalizedGaze,
        frames: Sequence[Image],
        windows: Sequence[Window],
        landmarks: Array,
        gaze: Array,
        camera: Camera,
    ) -> None:
        self._victim = victim
        self._frames = list(frames)
        self._windows = list(windows)
        self._targets = GazeTargets(victim, landmarks, gaze, lambda face: victim.views(face, camera))

    def read(self, pixels: Tensor, items: Sequence[int], geometry: Tensor | None = None) -> Reading:
        """See Objective.

        Landmarks in `geometry` that fit no head leave the loss to the target's own, but the error is infinite and the
        output NaN: at decode time such a face has no gaze.
        """
        landmarks = None if geometry is None else geometry.detach().double().cpu().numpy()
        faces, lost = self._targets.places(items, landmarks)
        windows = [self._windows[item] for item in items]
        patches = self._victim._patches(pixels, [(window.x, window.y) for window in windows], faces)
        if not all(_inside(face, window) for face, window in zip(faces, windows, strict=True)):
            rest, offsets = cut_out([self._frames[item] for item in items], faces, pixels.device, windows)
            patches = patches + self._victim._patches(rest, offsets, faces)
        return self._targets.reading(self._victim._gaze(patches, faces), items, lost, pixels)


def angle_loss(vectors: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Loss (B,) and the angle in degrees (B,), detached, between unit vectors (B, 3).

    The loss is sqrt(c² + s²) - s with the chord c = |a - b| = 2 sin(angle / 2) and s = 0.01 rad: the angle in rad
    where it is large, quadratic below half a degree. Its gradient is bounded everywhere, continuous, zero only at
    the target, and never fades with distance as that of 1 - cos does.
    """
    chord = (vectors - targets).square().sum(dim=-1)
    loss = torch.sqrt(chord + _SOFT_ANGLE**2) - _SOFT_ANGLE
    a, b = vectors.detach(), targets.detach()
    sine = torch.linalg.vector_norm(torch.linalg.cross(a, b), dim=-1)
    return loss, torch.rad2deg(torch.atan2(sine, (a * b).sum(dim=-1)))


def cut_out(
    images: Sequence[Image],
    faces: Sequence[FaceViews],
    device: torch.device | str,
    blank: Sequence[Window] | None = None,
) -> tuple[Tensor, list[tuple[int, int]]]:
    """The part of each face's image that its patches see, and where it starts, (x, y).

    The parts, (k, 3, h, w) float RGB in [0, 1], are as large as the largest one needs. Pixels in the window
    `blank` of each are black.
    """
    height, width = images[0].shape[:2]
    limits = np.array([width, height, width, height])
    bounds = np.stack([face.bounds for face in faces])
    corners = np.clip(np.concatenate([np.floor(bounds[:, :2]), np.ceil(bounds[:, 2:]) + 1], axis=1), 0, limits)
    corners = corners.astype(int)
    w, h = np.maximum((corners[:, 2:] - corners[:, :2]).max(axis=0), 1).tolist()
    offsets = [(min(x, width - w), min(y, height - h)) for x, y in corners[:, :2].tolist()]
    parts = np.stack([image[y : y + h, x : x + w] for image, (x, y) in zip(images, offsets, strict=True)])
    for part, (x, y), window in zip(parts, offsets, blank or (), strict=blank is not None):
        left, top = max(window.x - x, 0), max(window.y - y, 0)
        part[top : max(window.y + window.height - y, 0), left : max(window.x + window.width - x, 0)] = 0
    return to_pixels(list(parts), device), offsets


def _inside(face: FaceViews, window: Window) -> bool:
    x1, y1, x2, y2 = face.bounds
    return bool(
        x1 >= window.x and y1 >= window.y and x2 <= window.x + window.width - 1 and y2 <= window.y + window.height - 1
    )


def load_gaze(name: str, override: Path | None = None, allow_unknown: bool = False) -> NormalizedGaze:
    """The gaze victim `name` with its weights: the catalogue's file, or the file `override`.

    Raises UsageError for another name, WeightsError where the weights are missing, unknown or of another network.
    """
    if name not in GAZE_MODELS:
        raise UsageError(f"{name!r} is no gaze victim; the gaze victims are {', '.join(GAZE_MODELS)}.")
    model = GAZE_MODELS[name]
    resolved = resolve(model.files, override, allow_unknown)
    network = load_strict(model.network(), load_state_dict(resolved.path), resolved.path.name)
    return NormalizedGaze(name, network, {resolved.path.name: resolved.sha256})
