"""What pictures of known people tell of who they are: in the original, obscured only, and embedded.

    python -m tests.benchmarks.identity [--people N] [--runs RUN ...] [--folder DIR] [--zoo DIR]

Takes the 36 people of faces68 that no network of ours was trained on. Of each, four pictures are known to the attacker
(the gallery) and two others are to be recognised (the probes); all are frames of one or two videos of that person, so
light, hair and background help the attacker. Every picture is read once, as `drsf deid` reads it, and then embedded in
each of the RUNS; pictures are lossless, so what is embedded is what a file would hold. What is in DIR already is not
made again. The attackers know where the face is.

* dlib, mobilefacenet: these recognisers, enrolled from the original gallery;
* adapted: the same, enrolled from a gallery that was treated like the probes; and a linear discriminant trained on what
  dlib's says of that gallery;
* pixels, adapted: 12 x 12 colours of the head region, and a linear discriminant trained on such a gallery;
* landmarks, adapted: the 68 landmarks that the authorised aligner reads in the true box, without place, size and turn,
  and a linear discriminant, likewise.

Prints rank-1 among all people with Wilson's interval of 95 %.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image as Picture

from attacks.obscure import head_region
from drsf_cli.deid.work import Work
from drsf_cli.measure.identity import ARCFACE_SIZE, Recogniser, aligned_crop, dlib_recogniser
from drsf_cli.progress import Silent
from drsf_cli.readers.installed import RECOGNISER_FILE, model_file
from drsf_cli.readers.models import Models
from drsf_cli.settings import DeidSettings
from export.session import OnnxNetwork
from tests.benchmarks.main_job import SHARED
from victims.base import Image
from victims.compact.training.faces68 import load_faces68
from victims.face import Array, Face
from victims.observe import Observer
from victims.warp import similarity
from weights.errors import DrsfError
from weights.store import sha256_of

KNOWN, ASKED = 4, 2
PLAIN = DeidSettings(repel=("none",), cover_detectors=("mtcnn",), threads=1)
"""As where no other model is installed."""
RUNS = {
    "obscured": replace(PLAIN, attack="none"),
    "fast": replace(PLAIN, effort="fast"),
    "fast, average shape": replace(PLAIN, effort="fast", shape="average"),
    "normal": PLAIN,
}
SHRINKAGE = 0.3
"""Of the covariance within people towards a multiple of the identity: there are more numbers than pictures."""

Feature = Callable[[Image, Face], Array]
Pictures = tuple[Face, dict[str, Image]]
"""The face as read in the original, and one picture a column."""


def pixels(image: Image, face: Face) -> Array:
    x1, y1, x2, y2 = head_region(face.box).round().astype(int)
    height, width = image.shape[:2]
    part = image[max(0, y1) : min(height, y2), max(0, x1) : min(width, x2)]
    return np.asarray(cv2.resize(part, (12, 12), interpolation=cv2.INTER_AREA), dtype=np.float64).ravel() / 255.0


def shape_by(chain: Observer, mean: Array) -> Feature:
    """Landmarks moved, scaled and turned onto `mean` (68, 2)."""

    def read(image: Image, face: Face) -> Array:
        assert chain.aligner is not None
        return (onto(chain.aligner.align([image], [face.box[None]])[0][0], mean) - mean).ravel()

    return read


def onto(points: Array, place: Array) -> Array:
    matrix = similarity(points, place)
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


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


def rank1(known: Array, probes: Array, method: Callable[[Array, Array, Array], Array]) -> tuple[int, int]:
    """(right, asked) of `known` (people, k, d) and `probes` (people, p, d)."""
    people, size = len(known), known.shape[-1]
    owners, asked = (np.repeat(np.arange(people), values.shape[1]) for values in (known, probes))
    scores = method(known.reshape(-1, size), owners, probes.reshape(-1, size))
    return int((scores.argmax(axis=1) == asked).sum()), len(asked)


def with_interval(right: int, asked: int) -> str:
    """The share, and Wilson's interval of 95 %."""
    share, z = right / asked, 1.96
    middle = (share + z * z / (2 * asked)) / (1 + z * z / asked)
    half = z / (1 + z * z / asked) * math.sqrt(share * (1 - share) / asked + z * z / (4 * asked * asked))
    return f"{share:.0%} ({max(0.0, middle - half):.0%} to {middle + half:.0%})"


def pictures_of(image: Image, kept: Path, models: Models, runs: Sequence[str]) -> Pictures | None:
    """The picture in every run, from the file `kept` where it has them; None where no face is seen in it."""
    found: dict[str, Array] = {}
    if kept.is_file():
        with np.load(kept) as file:
            found = dict(file)
    missing = [run for run in runs if run not in found]
    if missing:
        try:
            found |= _made(image, kept.with_suffix(".png"), models, missing)
        except DrsfError:
            return None
        np.savez(kept, **found)  # type: ignore[arg-type]
    face = Face(found["box"], 1.0, found["landmarks"])
    return face, {"original": image} | {run: found[run] for run in runs}


def _made(image: Image, path: Path, models: Models, runs: Sequence[str]) -> dict[str, Array]:
    Picture.fromarray(image).save(path)
    first = Work.on(path, RUNS[runs[0]], models)
    survey = first.survey(Silent())
    regions = first.cover(survey)
    face = survey.observations[0].faces[0]
    assert face.landmarks is not None
    made = {"box": face.box, "landmarks": face.landmarks}
    for run in runs:
        work = Work.on(path, RUNS[run], models)
        ((_, written, _),) = work.embed(work.clip(survey, regions), Silent())
        made[run] = written
    path.unlink()
    return made


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--people", type=int, default=36)
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--folder", type=Path, help="keep the pictures here, and take those that are there")
    parser.add_argument("--zoo", type=Path, default=SHARED / "weights" / "zoo")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    faces = load_faces68(SHARED / "data")
    models = Models.load(DeidSettings().victims, threads=1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        known: list[list[Pictures]] = []
        for person in np.unique(faces.identity[faces.is_validation])[: arguments.people]:
            rows = np.flatnonzero(faces.identity == person)
            rows = rows[np.linspace(0, len(rows) - 1, KNOWN + ASKED).round().astype(int)]
            sets = [pictures_of(faces.images[row], folder / f"{row}.npz", models, arguments.runs) for row in rows]
            seen = [one for one in sets if one is not None]
            if len(seen) == KNOWN + ASKED:
                known.append(seen)
            print(f"{len(known)} people", flush=True)
    print(table(known, ["original", *arguments.runs], models.reader(), arguments.zoo))


def mobilefacenet(zoo: Path) -> Recogniser:
    """The zoo's recogniser (Chen et al. 2018, arXiv 1804.07573), whose pixels are normalised as ImageNet's."""
    path = zoo / "mobilefacenet.onnx"
    network = OnnxNetwork(path, "cpu")
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def run(crops: torch.Tensor) -> torch.Tensor:
        return network(((crops * 128.0 + 127.5) / 255.0 - mean) / deviation)[0]

    return Recogniser("mobilefacenet", {path.name: sha256_of(path)}, run, aligned_crop(ARCFACE_SIZE))


def table(known: Sequence[Sequence[Pictures]], columns: Sequence[str], reader: Observer, zoo: Path) -> str:
    """Markdown."""
    shapes = [face.landmarks for sets in known for face, _ in sets if face.landmarks is not None]
    mean = np.mean([onto(points, shapes[0]) for points in shapes], axis=0)
    features: dict[str, Feature] = {
        "mobilefacenet": mobilefacenet(zoo).embed,
        "pixels": pixels,
        "landmarks": shape_by(reader, mean),
    }
    path = model_file(RECOGNISER_FILE)
    if path is not None:
        features["dlib"] = dlib_recogniser(path).embed
    values = {
        (name, column): np.array([[feature(images[column], face) for face, images in sets] for sets in known])
        for name, feature in features.items()
        for column in columns
    }
    chance = (
        f"{len(known)} people, {KNOWN} known pictures and {ASKED} probes each; chance of rank-1: {1 / len(known):.1%}"
    )
    lines = [
        "",
        chance,
        "",
        " | ".join(("| attacker", *columns)) + " |",
        "|---" * (1 + len(columns)) + "|",
    ]
    for title, name, method, adapted in (
        ("dlib", "dlib", cosine, False),
        ("mobilefacenet", "mobilefacenet", cosine, False),
        ("dlib, adapted", "dlib", cosine, True),
        ("mobilefacenet, adapted", "mobilefacenet", cosine, True),
        ("dlib's numbers, trained on", "dlib", discriminant, True),
        ("pixels, trained on", "pixels", discriminant, True),
        ("landmarks, trained on", "landmarks", discriminant, True),
    ):
        if name not in features:
            continue
        cells = []
        for column in columns:
            gallery, probes = values[name, column if adapted else "original"], values[name, column]
            cells.append(with_interval(*rank1(gallery[:, :KNOWN], probes[:, KNOWN:], method)))
        lines.append(" | ".join((f"| {title}", *cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
