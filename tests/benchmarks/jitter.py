"""How much what is read moves from frame to frame, in a reading of the original and in one of the written file.

    python -m tests.benchmarks.jitter ORIGINAL.json RECOVERED.json

Jitter is the mean absolute second difference over three frames in a row, which a steady motion does not have: of the
box's four sides and of the 68 landmarks in % of the face's size (the root of the box's area), of the gaze's yaw and
pitch in degrees. Frames count where both readings have a face in all three.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from drsf_cli import read_observations
from victims.camera import vector_to_angles
from victims.face import Face

MEASURES = ("box, %", "landmarks, %", "gaze, degrees")


def values(face: Face) -> list[np.ndarray]:
    """The three measures' values, px or degrees; NaN where they were not read."""
    landmarks = np.full((68, 2), np.nan) if face.landmarks is None else face.landmarks
    look = np.full(2, np.nan) if face.gaze is None else np.degrees(vector_to_angles(face.gaze))
    return [np.asarray(face.box), landmarks.ravel(), look]


def jitter(faces: list[Face | None], size: float) -> np.ndarray:
    """(n - 2, 3) of n frames, in % of `size` px and degrees; NaN where one of the three frames has no face."""
    nothing = [np.full(4, np.nan), np.full(136, np.nan), np.full(2, np.nan)]
    columns = zip(*(nothing if face is None else values(face) for face in faces), strict=True)
    found = []
    for column, scale in zip(columns, (100.0 / size, 100.0 / size, 1.0), strict=True):
        table = np.stack(column)
        found.append(scale * np.abs(table[:-2] - 2 * table[1:-1] + table[2:]).mean(axis=1))
    return np.stack(found, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("original", type=Path)
    parser.add_argument("recovered", type=Path)
    arguments = parser.parse_args()
    readings = [
        {one.index: one.faces[0] for one in read_observations(path) if one.faces}
        for path in (arguments.original, arguments.recovered)
    ]
    frames = range(max(max(reading) for reading in readings) + 1)
    size = float(np.median([np.sqrt(face.area) for face in readings[0].values()]))
    first, second = (jitter([reading.get(index) for index in frames], size) for reading in readings)
    both = np.isfinite(first) & np.isfinite(second)
    for k, name in enumerate(MEASURES):
        rows = both[:, k]
        before, after = (float(table[rows, k].mean()) if rows.any() else float("nan") for table in (first, second))
        print(f"{name}: {before:.3f} in the original, {after:.3f} in the written file ({int(rows.sum())} frames)")


if __name__ == "__main__":
    main()
