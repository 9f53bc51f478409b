"""What two chains read from originals: the table by which the default was chosen.

    python -m tests.benchmarks.chains [--chains default mediapipe] [--faces N] [--composites N] [--every K]
                                      [--folder ../shared] [--threads N]

Each chain reads, through ONNX Runtime as `infer` does:

- N photographs of people of faces68 who took no part in any training, against the 68 points of the set. The error is
  the mean distance of the points over sqrt(w h) of their own box;
- N composites of such people, whose eyes are drawn (victims/compact/training/composite.py): the angle to the gaze that
  was drawn. `gaze-compact` was trained on others of their kind;
- every K-th frame of both shared clips, against MPIIGaze's real weights, which took no part in any training: the angle,
  and correlations of yaw and pitch, of gaze and of gaze less the head's direction, in the judge's view of the face. The
  judge has MTCNN's boxes and `fan-compact`'s landmarks. One person is followed, as in
  victims/compact/training/evaluate_gaze.py. Frames in which `facemesh` sees shut eyes are left out.

Prints Markdown tables. "found" is how many of the faces the chain has; errors are over these.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from drsf_cli.media.reader import Frame, VideoReader
from drsf_cli.readers.models import Models
from drsf_cli.settings import VictimNames
from tests.benchmarks.main_job import SHARED
from tests.victims.mediapipe_unmodified import AROUND, SHUT, openness
from victims.camera import (
    NORMALIZATIONS,
    Camera,
    angle_between_degrees,
    angles_to_vector,
    normalize_view,
    solve_head_pose,
    vector_to_angles,
)
from victims.compact.training.faces68 import load_faces68
from victims.compact.training.train_gaze import validation_set
from victims.face import Array, Face, FrameObservation, iou
from victims.observe import Observer
from victims.registry import load_gaze_named

CLIPS = ("talking_720p.mp4", "street_1080p_audio.mp4")
JUDGE = "mpiigaze_resnet_preact.pth"
SPEC = NORMALIZATIONS["eth-xgaze"]
SAME = 0.3
"""IoU of two boxes of one face: the detectors' boxes are of different kinds."""
MARGIN = 112
"""Px around a composite, so that a detector sees a whole head."""
JAW = 17


class Judged(NamedTuple):
    """What the judge says of one person in one frame."""

    frame: int
    box: Array
    landmarks: Array
    gaze: Array


def nearest(faces: Sequence[Face], box: Array) -> Face | None:
    """The face whose box overlaps `box` (4,) best; None where none overlaps enough."""
    overlaps = [float(iou(face.box, box)) for face in faces]
    return faces[int(np.argmax(overlaps))] if overlaps and max(overlaps) > SAME else None


def spread(count: int, wanted: int) -> Array:
    """At most `wanted` rows out of `count`, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(int))


def photographs(chains: dict[str, Observer], folder: Path, count: int) -> None:
    """The table of faces68."""
    faces = load_faces68(folder)
    rows = np.flatnonzero(faces.is_validation)
    rows = rows[spread(len(rows), count)]
    print("\n| chain | photographs: found | NME, % | without the jaw | median |\n|---|---|---|---|---|")
    for name, chain in chains.items():
        errors = []
        for row in rows:
            (seen,) = chain.observe([Frame(0, 0.0, 0, faces.images[row])])
            face = nearest(seen.faces, faces.landmark_boxes()[row])
            if face is not None and face.landmarks is not None:
                truth = faces.landmarks[row]
                away = np.linalg.norm(face.landmarks - truth, axis=1) / np.sqrt(np.prod(np.ptp(truth, axis=0)))
                errors.append((100 * away.mean(), 100 * away[JAW:].mean()))
        mean, median = np.mean(errors, axis=0), np.median(errors, axis=0)
        print(
            f"| {name} | {len(errors)} of {len(rows)} | {mean[0]:.2f} | {mean[1]:.2f} | {median[0]:.2f} |", flush=True
        )


def composites(chains: dict[str, Observer], folder: Path, count: int) -> None:
    """The table of drawn eyes."""
    patches, angles = validation_set(folder)
    rows = spread(len(patches), count)
    truth = angles_to_vector(angles.numpy()[rows])
    x, y = (MARGIN + place for place in SPEC.center)
    camera = Camera(np.array([[SPEC.focal, 0, x], [0, SPEC.focal, y], [0, 0, 1.0]]), np.zeros(5))
    around = ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0))
    images = [np.pad(patches[row].permute(1, 2, 0).numpy(), around, mode="edge") for row in rows]
    guess = angle_between_degrees(angles_to_vector(angles.numpy().mean(axis=0)), truth).mean()
    print(f"\n| chain | composites: found | gaze, mean | median |\n|---|---|---|---|\n| a constant | | {guess:.1f} | |")
    for name, chain in chains.items():
        own = Observer(chain.detector, chain.aligner, chain.gaze, camera)
        seen = [own.observe([Frame(0, 0.0, 0, image)])[0].own for image in images]
        pairs = [(face.gaze, wanted) for face, wanted in zip(seen, truth, strict=True) if face is not None]
        errors = angle_between_degrees(*(np.array(side) for side in zip(*pairs, strict=True)))
        print(
            f"| {name} | {len(errors)} of {len(rows)} | {np.nanmean(errors):.1f} | {np.nanmedian(errors):.1f} |",
            flush=True,
        )


def read(chain: Observer, frames: Sequence[Frame]) -> tuple[list[FrameObservation], float]:
    """What the chain reads, and CPU ms a frame."""
    began = time.process_time()
    seen: list[FrameObservation] = []
    for frame in frames:
        seen += chain.observe([frame], seen[-1] if seen else None)
    return seen, 1000 * (time.process_time() - began) / len(frames)


def judged(frames: Sequence[Frame], seen: Sequence[FrameObservation], weights: Path, camera: Camera) -> list[Judged]:
    """The judge on the person followed, of what MTCNN and `fan-compact` saw."""
    judge = load_gaze_named(f"mpiigaze@{weights}")
    found: list[Judged] = []
    for row, (frame, own) in enumerate(zip(frames, seen, strict=True)):
        if not own.faces:
            continue
        face = max(own.faces, key=lambda one: one.area)
        if found:
            last = found[-1].box
            face = min(own.faces, key=lambda one: float(np.abs(one.box - last).sum()))
            if np.abs(face.box - last).max() > face.box[3] - face.box[1]:
                continue
        assert face.landmarks is not None
        vectors, _ = judge.estimate([frame.image], [face.landmarks[None]], camera)[0]
        found.append(Judged(row, face.box, face.landmarks, vectors[0]))
    return found


def shut_eyes(seen: Sequence[FrameObservation], people: Sequence[Judged], reach: int) -> set[int]:
    """Frames in which the person followed has shut eyes, by the mesh where there is one."""
    faces = [(one.frame, nearest(seen[one.frame].faces, one.box)) for one in people]
    known = [(frame, face.mesh) for frame, face in faces if face is not None and face.mesh is not None]
    if not known:
        return set()
    eyes, _ = openness(np.stack([mesh for _, mesh in known]))
    usual = [np.median(eyes[max(0, k - reach) : k + reach + 1]) for k in range(len(eyes))]
    return {frame for (frame, _), own, other in zip(known, eyes, usual, strict=True) if own < SHUT * other}


def against_judge(seen: Sequence[FrameObservation], people: Sequence[Judged], camera: Camera) -> str:
    """Cells of the table."""
    ours, theirs, heads, angles = [], [], [], []
    for one in people:
        face = nearest(seen[one.frame].faces, one.box)
        if face is None or face.gaze is None or not np.isfinite(face.gaze).all():
            continue
        view = normalize_view(solve_head_pose(one.landmarks, camera), SPEC, camera)
        ours.append(vector_to_angles(view.rotation @ face.gaze))
        theirs.append(vector_to_angles(view.rotation @ one.gaze))
        heads.append(vector_to_angles(-view.head_rotation[:, 2]))
        angles.append(float(angle_between_degrees(face.gaze, one.gaze)))
    start = f"{len(ours)} of {len(people)} | "
    if len(ours) < 3:
        return start + " | | |"
    own, other, head = np.array(ours), np.array(theirs), np.array(heads)

    def related(a: Array, b: Array) -> str:
        return ", ".join(f"{np.corrcoef(a[:, k], b[:, k])[0, 1]:.2f}" for k in (1, 0))

    return start + f"{np.mean(angles):.1f} | {related(own, other)} | {related(own - head, other - head)} |"


def clips(chains: dict[str, Observer], folder: Path, every: int) -> None:
    """The table of clips."""
    print("\n| clip | chain | found | gaze to MPIIGaze's | r yaw, pitch | eye in head | CPU ms a frame |")
    print("|---|---|---|---|---|---|---|")
    for clip in CLIPS:
        with VideoReader(folder / "data" / clip) as reader:
            frames = list(islice(reader, 0, None, every))
            rate = float(reader.info.average_rate) / every
        camera = Camera.default(reader.info.width, reader.info.height)
        seen = {name: read(chain, frames) for name, chain in chains.items()}
        people = judged(frames, seen["default"][0], folder / "weights" / JUDGE, camera)
        shut = set().union(*(shut_eyes(own, people, round(AROUND * rate)) for own, _ in seen.values()))
        people = [one for one in people if one.frame not in shut]
        for name, (own, cost) in seen.items():
            print(f"| {clip} | {name} | {against_judge(own, people, camera)} {cost:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", nargs="*", default=["default", "mediapipe"], help="the judge needs `default`")
    parser.add_argument("--faces", type=int, default=240)
    parser.add_argument("--composites", type=int, default=240)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=SHARED)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    chains = {
        name: Models.load(VictimNames.of_chain(name), threads=options.threads).reader()
        for name in dict.fromkeys(["default", *options.chains])
    }
    photographs(chains, options.folder / "data", options.faces)
    composites(chains, options.folder / "data", options.composites)
    clips(chains, options.folder, options.every)


if __name__ == "__main__":
    main()
