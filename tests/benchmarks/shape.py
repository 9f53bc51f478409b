"""What landmarks tell of who somebody is, with the own and with the average shape, and what the average costs.

    python -m tests.benchmarks.shape

Takes the labelled landmarks of the 36 people of faces68 that no network of ours was trained on: of each, four pictures
that the attacker knows and two to be recognised, evenly over the one or two videos of that person, and five more times
six at random. No engine runs: the landmarks are what would be embedded. The known pictures and the others are tracks of
their own.

The attacker is tests/benchmarks/identity.py's linear discriminant: on landmarks without place, size and turn in the
image; on what is left of them beside the template in the head's pose, which is shape alone; and, to know what pose and
openness tell by themselves, on these. "Template" is the 3D template itself, projected in the pose of each picture: it
has nothing of the person but the pose, and no landmarks in that pose can tell less. Intervals are Wilson's, of 95 %.
"""

from __future__ import annotations

import math

import numpy as np

from drsf_cli.deid.shape import average_face, projections
from tests.benchmarks.identity import ASKED, KNOWN, discriminant, onto, rank1, with_interval
from tests.benchmarks.main_job import SHARED
from victims.camera import Camera, euler_angles, solve_head_pose
from victims.face import Array
from victims.face_model import FACE_MODEL_68
from victims.openness import eye_openness, mouth_openness
from victims.warp import similarity

DRAWS = 6
CAMERA = Camera.default(256, 256)


def template(points: Array) -> Array:
    """(68, 2) px: the template in the pose of `points`."""
    return projections([solve_head_pose(points, CAMERA)], CAMERA.matrix)[0][0]


def beside_the_template(points: Array) -> Array:
    projected = template(points)
    matrix = similarity(projected, FACE_MODEL_68[:, :2])
    return np.asarray(((points - projected) @ matrix[:, :2].T).ravel())


def openness(points: Array) -> list[float]:
    return [float(value or 0.0) for value in (*eye_openness(points), mouth_openness(points))]


def draws(landmarks: Array, identity: Array) -> list[Array]:
    """DRAWS times (people, KNOWN + ASKED, 68, 2): evenly over a person's pictures, then at random."""
    random = np.random.default_rng(5)
    rows = [np.flatnonzero(identity == person) for person in np.unique(identity)]
    rows = [own for own in rows if len(own) >= KNOWN + ASKED]
    even = [own[np.linspace(0, len(own) - 1, KNOWN + ASKED).round().astype(int)] for own in rows]
    drawn = [[np.sort(random.choice(own, KNOWN + ASKED, replace=False)) for own in rows] for _ in range(DRAWS - 1)]
    return [landmarks[np.stack(chosen)] for chosen in (even, *drawn)]


def averaged(own: Array) -> Array:
    return np.stack(
        [np.concatenate([average_face(one[:KNOWN], CAMERA), average_face(one[KNOWN:], CAMERA)]) for one in own]
    )


def of(function, shapes: Array) -> Array:  # type: ignore[no-untyped-def]
    return np.stack([np.stack([np.asarray(function(points)) for points in one]) for one in shapes])


def named(values: list[Array]) -> str:
    """Rank-1 in the first draw, and in all."""
    counts = [rank1(one[:, :KNOWN], one[:, KNOWN:], discriminant) for one in values]
    right, asked = (sum(column) for column in zip(*counts, strict=True))
    return f"{with_interval(*counts[0])} | {with_interval(right, asked)}"


def main() -> None:
    with np.load(SHARED / "data" / "faces68_landmarks.npz", allow_pickle=False) as table:
        chosen = table["is_validation"].astype(bool)
        landmarks, identity = table["landmarks"].astype(np.float64)[chosen], table["identity"][chosen]
    own = draws(landmarks, identity)
    average = [averaged(one) for one in own]
    mean = np.mean([onto(points, own[0][0, 0]) for points in own[0].reshape(-1, 68, 2)], axis=0)

    def placed(points: Array) -> Array:
        return (onto(points, mean) - mean).ravel()

    people = len(own[0])
    print(f"{people} people, {KNOWN} known pictures and {ASKED} probes each; chance of rank-1: {1 / people:.1%}\n")
    print(f"| what is told | rank-1 | in {DRAWS} draws |\n|---|---|---|")
    for title, shapes in (("own", own), ("average", average), ("template", [of(template, one) for one in own])):
        print(f"| {title}: landmarks | {named([of(placed, one) for one in shapes])} |")
        if title != "template":
            print(f"| {title}: shape alone | {named([of(beside_the_template, one) for one in shapes])} |")
    poses = [of(lambda points: euler_angles(solve_head_pose(points, CAMERA).rotation) / 20, one) for one in own]
    opened = [of(openness, one) * 3 for one in own]
    print(f"| three angles of head pose | {named(poses)} |\n| openness of eyes and mouth | {named(opened)} |\n")
    cost(own[0], average[0])


def cost(own: Array, average: Array) -> None:
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
