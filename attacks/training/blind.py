"""What a reader gets right that looks at no pixel: the mean face of the training people, and the mean gaze.

    python -m attacks.training.blind --data DIR --output victims/blind.json

DIR holds faces68.tar and faces68_landmarks.npz. The landmarks are `fan-compact`'s in the box that `mtcnn` finds, and
averaged in units of that box; the gaze is `gaze-compact`'s, averaged as a direction. The 36 people kept out are not
among them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from attacks.fitting.faces import ReadFaces
from attacks.training.faces68 import read_faces68
from victims import registry
from victims.camera import angles_to_vector, vector_to_angles
from victims.face_model import FLIP
from victims.observe import Observer
from weights.files import write_atomically

CHAIN = ("mtcnn", "fan-compact", "gaze-compact")


def mean_face(faces: ReadFaces) -> dict[str, Any]:
    """The mean face of the pictures, each counted with its mirror image.

    `landmarks` (68, 2) are in units of the box, from its corner; `gaze_angle` is pitch, yaw, rad, in the normalised
    view.
    """
    sizes = faces.boxes[:, 2:] - faces.boxes[:, :2]
    places = (faces.landmarks + 0.5 - faces.boxes[:, None, :2]) / sizes[:, None]
    mean = places.mean(axis=0)
    mean = (mean + (mean * [-1.0, 1.0] + [1.0, 0.0])[FLIP]) / 2
    gaze = vector_to_angles(angles_to_vector(faces.gaze_angles).mean(axis=0) * [0.0, 1.0, 1.0])
    return {
        "source": f"{len(faces)} pictures of the training people of faces68 (see victims/compact/training/faces68.py), "
        f"as {', '.join(CHAIN)} read them; written by attacks.training.blind",
        "landmarks": mean.round(4).tolist(),
        "gaze_angle": (gaze.round(4) + 0.0).tolist(),
    }


def main() -> None:
    """Run the command that the module describes."""
    parser = argparse.ArgumentParser(description="Average what is read of the training people.")
    parser.add_argument("--data", type=Path, required=True, help="folder with faces68.tar and its .npz")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--cache", type=Path, help=".npz file for what the chain reads (default: beside the output)")
    parser.add_argument("--faces", type=int, default=500, help="pictures, evenly over the people")
    options = parser.parse_args()
    detector, aligner, gaze = CHAIN
    chain = Observer(
        registry.load_detector(detector), registry.load_aligner_named(aligner), registry.load_gaze_named(gaze)
    )
    cache = options.cache or options.output.with_suffix(".npz")
    found = mean_face(read_faces68(options.data, chain, False, options.faces, cache))
    write_atomically(options.output, json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
