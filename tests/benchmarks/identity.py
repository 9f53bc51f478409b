"""What pictures of known people tell of who they are: in the original, obscured only, obscured and attacked.

    python -m tests.benchmarks.identity [--people N] [--gallery N] [--probes N] [--folder DIR] [--table]

Takes the 36 people of faces68 that no network of ours was trained on. Of each a few pictures are known to the attacker
(the gallery) and two others are to be recognised (the probes); all are frames of one or two videos of that person, so
light, hair and background help the attacker. Every picture goes through `deidentify` twice, without an attack and with
the defaults; what is in DIR already is not made again. The attackers know where the face is.

* recogniser: dlib's (drsf_cli/readers/installed.py), enrolled from the original gallery;
* recogniser, adapted: the same, enrolled from a gallery that went through the same as the probes; and a linear
  discriminant trained on what it says of that gallery;
* pixels, adapted: 12 x 12 colours of the head region, and a linear discriminant trained on such a gallery;
* landmarks, adapted: the 68 landmarks that the authorised aligner reads in the true box, without place, size and turn,
  and a linear discriminant, likewise.

Prints rank-1 among all people, and how many probes are accepted at the score that 1 % of the impostors reach.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image as Picture

from attacks.obscure import head_region
from drsf_cli.deid.pipeline import deidentify
from drsf_cli.measure.identity import dlib_recogniser, threshold_at
from drsf_cli.media.images import read_image
from drsf_cli.readers.installed import RECOGNISER_FILE, model_file
from drsf_cli.readers.models import Models
from drsf_cli.settings import DeidSettings
from tests.benchmarks.main_job import SHARED
from victims.base import Image
from victims.compact.training.faces68 import load_faces68
from victims.face import Array, Face
from victims.observe import Observer
from victims.warp import similarity
from weights.errors import DrsfError

COLUMNS = ("original", "obscured", "written")
SHRINKAGE = 0.3
"""Of the covariance within people towards a multiple of the identity: there are more numbers than pictures."""

Feature = Callable[[Image, Face], Array]


def pixels(image: Image, face: Face) -> Array:
    x1, y1, x2, y2 = head_region(face.box).round().astype(int)
    height, width = image.shape[:2]
    part = image[max(0, y1) : min(height, y2), max(0, x1) : min(width, x2)]
    return np.asarray(cv2.resize(part, (12, 12), interpolation=cv2.INTER_AREA), dtype=np.float64).ravel() / 255.0


def shape_by(chain: Observer, mean: Array) -> Feature:
    """Landmarks moved, scaled and turned onto `mean` (68, 2)."""

    def read(image: Image, face: Face) -> Array:
        assert chain.aligner is not None
        points = chain.aligner.align([image], [face.box[None]])[0][0]
        matrix = similarity(points, mean)
        return np.asarray((points @ matrix[:, :2].T + matrix[:, 2] - mean).ravel())

    return read


def discriminant(known: Array, owners: Array, probes: Array) -> Array:
    """(probes, people) scores: minus the squared distance from each person's mean, by the covariance within people."""
    means = np.stack([known[owners == person].mean(axis=0) for person in range(owners.max() + 1)])
    inner = known - means[owners]
    covariance = inner.T @ inner / max(1, len(known) - len(means))
    level = np.trace(covariance) / len(covariance)
    matrix = (1 - SHRINKAGE) * covariance + SHRINKAGE * max(level, 1e-9) * np.eye(len(covariance))
    apart = probes[:, None] - means[None]
    return -np.einsum(
        "pkd,pkd->pk", apart, np.linalg.solve(matrix, apart.reshape(-1, len(matrix)).T).T.reshape(apart.shape)
    )


def cosine(known: Array, owners: Array, probes: Array) -> Array:
    """(probes, people) cosines with each person's mean."""
    means = np.stack([known[owners == person].mean(axis=0) for person in range(owners.max() + 1)])
    return probes @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T


def figures(scores: Array, owners: Array) -> tuple[float, float]:
    """Rank-1, and the true accept rate at a false one of 1 %."""
    own = scores[np.arange(len(owners)), owners]
    others = np.array([row[np.arange(len(row)) != owner] for row, owner in zip(scores, owners, strict=True)])
    limit = threshold_at(others.ravel(), 0.01)
    return float((own > others.max(axis=1)).mean()), float("nan") if limit is None else float((own > limit).mean())


def make(source: Path, output: Path, models: Models, **given: str) -> bool:
    """Whether the picture went through."""
    if output.is_file():
        return True
    try:
        deidentify(source, output, DeidSettings(overwrite=True, threads=1, **given), models=models)  # type: ignore[arg-type]
    except DrsfError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--people", type=int, default=36)
    parser.add_argument("--gallery", type=int, default=4)
    parser.add_argument("--probes", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the pictures here, and take those that are there")
    parser.add_argument("--table", action="store_true", help="make nothing; use the people whose pictures are there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    faces = load_faces68(SHARED / "data")
    people = np.unique(faces.identity[faces.is_validation])[: arguments.people]
    models = Models.load(DeidSettings().victims, threads=1)
    reader = models.reader()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        known: list[tuple[int, list[tuple[dict[str, Image], Face]]]] = []
        for person in people:
            rows = np.flatnonzero(faces.identity == person)
            wanted = arguments.gallery + arguments.probes
            rows = rows[np.linspace(0, len(rows) - 1, min(wanted, len(rows))).round().astype(int)]
            sets = []
            for row in rows:
                paths = {column: folder / f"{row}.{column}.png" for column in COLUMNS}
                if not arguments.table:
                    Picture.fromarray(faces.images[row]).save(paths["original"])
                    done = make(paths["original"], paths["obscured"], models, attack="none")
                    if not done or not make(paths["original"], paths["written"], models):
                        continue
                if all(path.is_file() for path in paths.values()):
                    images = {column: read_image(path) for column, path in paths.items()}
                    seen = reader.read_faces([images["original"]], reader.detector.detect([images["original"]]))[0]
                    if seen:
                        sets.append((images, max(seen, key=lambda face: face.area)))
            if len(sets) == wanted:
                known.append((int(person), sets))
            print(f"{len(known)} people", flush=True)
    report(known, arguments.gallery, reader)


def report(known: list[tuple[int, list[tuple[dict[str, Image], Face]]]], gallery: int, reader: Observer) -> None:
    path = model_file(RECOGNISER_FILE)
    features: dict[str, Feature] = {"pixels": pixels}
    if path is not None:
        features["recogniser"] = dlib_recogniser(path).embed
    shapes = [face.landmarks for _, sets in known for _, face in sets if face.landmarks is not None]
    mean = np.mean(
        [points @ similarity(points, shapes[0])[:, :2].T + similarity(points, shapes[0])[:, 2] for points in shapes],
        axis=0,
    )
    features["landmarks"] = shape_by(reader, mean)
    values = {
        (name, column): np.stack(
            [np.stack([feature(images[column], face) for images, face in sets]) for _, sets in known]
        )
        for name, feature in features.items()
        for column in COLUMNS
    }
    count, probes = len(known), len(known[0][1]) - gallery
    owners, asked = np.repeat(np.arange(count), gallery), np.repeat(np.arange(count), probes)
    print(f"\n{count} people, {gallery} known pictures and {probes} probes each; chance of rank-1: {1 / count:.1%}\n")
    print("| attacker | " + " | ".join(f"{column}: rank-1, TAR at FAR 1 %" for column in COLUMNS) + " |")
    print("|---|---|---|---|")
    for title, name, method, adapted in (
        ("recogniser", "recogniser", cosine, False),
        ("recogniser, adapted", "recogniser", cosine, True),
        ("recogniser's numbers, trained on", "recogniser", discriminant, True),
        ("pixels, trained on", "pixels", discriminant, True),
        ("landmarks, trained on", "landmarks", discriminant, True),
    ):
        if name not in features:
            continue
        cells = []
        for column in COLUMNS:
            enrolled, probing = values[name, column if adapted else "original"], values[name, column]
            size = enrolled.shape[-1]
            scores = method(enrolled[:, :gallery].reshape(-1, size), owners, probing[:, gallery:].reshape(-1, size))
            cells.append("{:.0%}, {:.0%}".format(*figures(scores, asked)))
        print(f"| {title} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
