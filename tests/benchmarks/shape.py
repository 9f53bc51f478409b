"""What landmarks tell of who somebody is, with the own and with the average shape, and what the average costs.

    python -m tests.benchmarks.shape

Takes the labelled landmarks of the 36 people of faces68 that no network of ours was trained on: of each, four pictures
that the attacker knows and two to be recognised, evenly over the one or two videos of that person. No engine runs: the
landmarks are what would be embedded. The known pictures and the others are tracks of their own.

The attacker is tests/benchmarks/identity.py's linear discriminant: on landmarks without place, size and turn in the
image; on what is left of them beside the template in the head's pose, which is shape alone; and, to know what pose and
openness tell by themselves, on these. Intervals are Wilson's, of 95 %.
"""

from __future__ import annotations

import math

import numpy as np

from drsf_cli.deid.shape import average_face, projections
from tests.benchmarks.identity import discriminant
from tests.benchmarks.main_job import SHARED
from victims.camera import Camera, euler_angles, solve_head_pose
from victims.face import Array
from victims.face_model import FACE_MODEL_68
from victims.openness import eye_openness, mouth_openness
from victims.warp import similarity

KNOWN, ASKED = 4, 2
CAMERA = Camera.default(256, 256)


def onto(points: Array, place: Array) -> Array:
    matrix = similarity(points, place)
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


def beside_the_template(points: Array) -> Array:
    projected = projections([solve_head_pose(points, CAMERA)], CAMERA.matrix)[0][0]
    matrix = similarity(projected, FACE_MODEL_68[:, :2])
    return np.asarray(((points - projected) @ matrix[:, :2].T).ravel())


def openness(points: Array) -> list[float]:
    return [float(value or 0.0) for value in (*eye_openness(points), mouth_openness(points))]


def rank1(values: Array) -> str:
    """Of (people, KNOWN + ASKED, d), with its interval."""
    people, _, size = values.shape
    owners, asked = np.repeat(np.arange(people), KNOWN), np.repeat(np.arange(people), ASKED)
    scores = discriminant(values[:, :KNOWN].reshape(-1, size), owners, values[:, KNOWN:].reshape(-1, size))
    n, share, z = len(asked), float((scores.argmax(axis=1) == asked).mean()), 1.96
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return f"{share:.1%} ({middle - half:.0%} to {middle + half:.0%})"


def main() -> None:
    with np.load(SHARED / "data" / "faces68_landmarks.npz", allow_pickle=False) as table:
        chosen = table["is_validation"].astype(bool)
        landmarks, identity = table["landmarks"].astype(np.float64)[chosen], table["identity"][chosen]
    sets = []
    for person in np.unique(identity):
        rows = np.flatnonzero(identity == person)
        if len(rows) >= KNOWN + ASKED:
            sets.append(landmarks[rows[np.linspace(0, len(rows) - 1, KNOWN + ASKED).round().astype(int)]])
    own = np.stack(sets)
    average = np.stack(
        [np.concatenate([average_face(one[:KNOWN], CAMERA), average_face(one[KNOWN:], CAMERA)]) for one in own]
    )
    mean = np.mean([onto(points, own[0, 0]) for points in own.reshape(-1, 68, 2)], axis=0)

    def of(function, shapes: Array) -> Array:  # type: ignore[no-untyped-def]
        return np.stack([np.stack([np.asarray(function(points)) for points in one]) for one in shapes])

    print(f"{len(own)} people, {KNOWN} known pictures and {ASKED} probes each; chance of rank-1: {1 / len(own):.1%}\n")
    print("| landmarks | rank-1 | shape alone |\n|---|---|---|")
    for title, shapes in (("own", own), ("average", average)):
        plain = of(lambda points: (onto(points, mean) - mean).ravel(), shapes)
        print(f"| {title} | {rank1(plain)} | {rank1(of(beside_the_template, shapes))} |")
    poses = of(lambda points: euler_angles(solve_head_pose(points, CAMERA).rotation) / 20, own)
    print(f"\nhead pose alone: {rank1(poses)}; openness alone: {rank1(of(openness, own) * 3)}")
    pairs = list(zip(own.reshape(-1, 68, 2), average.reshape(-1, 68, 2), strict=True))
    turned, opened, moved = [], [], []
    for before, after in pairs:
        first, second = (solve_head_pose(points, CAMERA).rotation for points in (before, after))
        turned.append(math.degrees(math.acos(np.clip((np.trace(first.T @ second) - 1) / 2, -1.0, 1.0))))
        opened.append(np.abs(np.subtract(openness(before), openness(after))).max())
        moved.append(np.linalg.norm(before - after, axis=1).mean() / math.sqrt(np.ptp(before, axis=0).prod()))
    print(f"head pose: mean {np.mean(turned):.3f}, largest {max(turned):.2f} degrees; EAR, MAR: {max(opened):.1e}")
    print(f"landmarks move by {np.mean(moved):.1%} of the face's size")


if __name__ == "__main__":
    main()
