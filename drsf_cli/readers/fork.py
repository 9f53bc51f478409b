"""`drsf weights fork`: private weights of a compact victim, from the user's own faces."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path

import cv2
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from drsf_cli.progress import SILENT, Progress
from drsf_cli.readers.faces_folder import MOST, SMALLEST, check_paths, files_in, frames_of, kept_apart
from victims import registry
from victims.base import Image
from victims.camera import NORMALIZATIONS, Camera, normalize_view, solve_head_pose
from victims.compact.fork import FAMILIES, Family, Measured, clone, fork, measure
from victims.compact.fork_settings import ForkSettings
from victims.compact.landmark_net import windows_of_boxes
from victims.face import Array
from victims.warp import crop_squares
from weights.errors import DrsfError, FidelityError, UsageError
from weights.files import write_atomically
from weights.loading import load_state_dict
from weights.store import resolve

ROOM = 1.2
"""Side of a stored crop, in sides of the network's input: leaves room for jitter."""
FILES = {"fan-compact": "fan_compact.safetensors", "gaze-compact": "gaze_compact.safetensors"}


def fork_weights(
    name: str,
    data: Path,
    output: Path,
    *,
    seed: int | None = None,
    steps: int = ForkSettings.steps,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Measured:
    """Train private weights of the victim `name` from faces of the folder `data`.

    They are written to `output`, and measured on faces kept out of training.

    Without a `seed`, one is drawn from the system's randomness and not kept. Raises UsageError, InputError for too few
    faces, OutputError, and FidelityError, with nothing written, if the accuracy is not within a tenth of that of the
    released weights.
    """
    family = FAMILIES.get(name.strip().lower())
    if family is None:
        raise UsageError(f"{name} cannot be forked; those that can are {', '.join(FAMILIES)}.")
    if steps < 1:
        raise UsageError(f"--steps {steps} is too small; it takes 1 or more.")
    check_paths(data, output, overwrite)
    training, held_out = read_faces(data, name.strip().lower(), progress)
    public = clone(family, load_state_dict(resolve([FILES[name.strip().lower()]]).path))
    progress.begin("Training private weights", steps)
    chosen = secrets.randbits(63) if seed is None else seed
    state = fork(family, public, training, chosen, ForkSettings(steps=steps), progress.advance)
    progress.begin("Measuring them", None)
    result = measure(family, public, clone(family, state), held_out[:48])
    if not result.accurate:
        raise FidelityError(
            f"{output} was not written: on faces kept out of training the private weights differ from the released "
            f"ones by {result.accuracy:.2f} {result.unit}, and {result.allowed:.2f} is allowed; give more faces, or "
            "more --steps."
        )
    write_atomically(output, to_bytes({key: value.contiguous() for key, value in state.items()}))
    return result


def read_faces(folder: Path, name: str, progress: Progress = SILENT) -> tuple[Tensor, Tensor]:
    """Crops (n, 3, s, s) uint8 to train on and to measure on, of the faces in the pictures and videos of `folder`.

    Raises InputError where there are fewer than `FEWEST` faces.
    """
    paths = files_in(folder)
    detector = registry.load_detector("mtcnn")
    aligner = registry.load_aligner_named("fan-compact") if name == "gaze-compact" else None
    by_file: list[list[Tensor]] = []
    progress.begin("Looking for faces", len(paths))
    for path in paths:
        own: list[Tensor] = []
        for image in frames_of(path):
            boxes = detector.detect([image])[0].boxes
            boxes = boxes[boxes[:, 2] - boxes[:, 0] >= SMALLEST]
            if aligner is None:
                own += [landmark_crop(image, box) for box in boxes]
            else:
                own += [
                    c for points in aligner.align([image], [boxes])[0] if (c := gaze_crop(image, points)) is not None
                ]
        by_file.append(own)
        progress.advance()
        if sum(map(len, by_file)) >= MOST:
            break
    training, held_out = kept_apart(folder, by_file)
    return torch.stack(training), torch.stack(held_out)


def landmark_crop(image: Image, box: Array) -> Tensor:
    """The crop that `fan-compact` sees for a detector's box, with a margin: (3, s, s) uint8."""
    window = windows_of_boxes(torch.from_numpy(box[None]).float())
    middle, half = (window[:, :2] + window[:, 2:]) / 2, (window[:, 2:] - window[:, :2]) * (ROOM / 2)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    around = torch.cat((middle - half, middle + half), dim=1)
    return crop_squares(pixels, around, _kept(FAMILIES["fan-compact"]))[0].round().clamp(0, 255).to(torch.uint8)


def gaze_crop(image: Image, landmarks: Array) -> Tensor | None:
    """The normalised view of a face with a margin, (3, s, s) uint8; None if no head pose fits the landmarks."""
    side = _kept(FAMILIES["gaze-compact"])
    spec = replace(NORMALIZATIONS["eth-xgaze"], size=(side, side), center=(side / 2, side / 2))
    camera = Camera.default(image.shape[1], image.shape[0])
    try:
        view = normalize_view(solve_head_pose(landmarks, camera), spec, camera)
    except (DrsfError, cv2.error):
        return None
    return torch.from_numpy(cv2.warpPerspective(image, view.warp, spec.size)).permute(2, 0, 1).to(torch.uint8)


def _kept(family: Family) -> int:
    return 2 * round(family.size * ROOM / 2)
