"""How well a face recogniser recognises someone: cosine, rank-1, TAR@FAR.

The recogniser is told where the face is: it gets the box and landmarks that the authorised models read in the
original, for all three videos. A frame's score is the cosine between its embedding and the mean embedding of the
*other* frames of the original (the enrolment), so that no frame of the original is compared with itself. Rank-1 and
TAR@FAR need pictures of other people: a folder with a file or a folder for each person.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch

from drsf_cli.measure.leakage_form import COLUMNS, Column, Figures, IdentityLeakage
from drsf_cli.media.images import is_image, read_image
from drsf_cli.readers.installed import RECOGNISER_FILE, dlib_embedding, is_installed, model_file
from export.device import Device
from export.session import OnnxNetwork
from victims.base import Image, load_strict
from victims.face import Array, Face
from victims.observe import Observer
from victims.warp import similarity
from weights.errors import InputError, WeightsError
from weights.loading import load_state_dict
from weights.store import resolve, sha256_of

FACENET_FILE = "20180402-114759-vggface2.pt"
FACENET_SIZE = 160
ARCFACE_POINTS: Array = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Eyes, nose tip and mouth corners, px of a 112 px crop: where recognisers like ArcFace (arXiv 1801.07698) are trained
to find them (insightface, face_align.py)."""
ARCFACE_SIZE = 112


@dataclass(frozen=True, eq=False)
class Recogniser:
    """A network that takes crops (1, 3, h, w), RGB, (x - 127.5) / 128, and gives (1, d)."""

    name: str
    weights: Mapping[str, str]
    run: Callable[[torch.Tensor], torch.Tensor]
    crop: Callable[[Image, Face], Image]

    def embed(self, image: Image, face: Face) -> Array:
        """Unit vector (d,) of the face of an image, which lies where `face` says."""
        pixels = torch.from_numpy(np.ascontiguousarray(self.crop(image, face))).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            vector = self.run((pixels - 127.5) / 128.0).double().cpu().numpy().reshape(-1)
        return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12))


def facenet(override: Path | None = None, allow_unknown: bool = False) -> Recogniser:
    """facenet-pytorch's InceptionResnetV1 trained on VGGFace2. Raises WeightsError if its weights are not installed."""
    from facenet_pytorch import InceptionResnetV1  # takes a second, and only this needs it

    found = resolve([FACENET_FILE], override, allow_unknown)
    state = {k: v for k, v in load_state_dict(found.path).items() if not k.startswith("logits.")}
    network = load_strict(InceptionResnetV1(pretrained=None), state, found.path.name)
    return Recogniser("facenet", {found.path.name: found.sha256}, network, box_crop(FACENET_SIZE))


def onnx_recogniser(path: Path, device: Device = "auto") -> Recogniser:
    """A recogniser like ArcFace: its crops are aligned by five points, of the size of the graph's input or of 112 px.

    Raises InputError if the file is not a graph with one image in and one embedding out.
    """
    if not path.is_file():
        raise InputError(f"--recogniser {path}: there is no such file.")
    network = OnnxNetwork(path, device)
    shape = network.input_shapes[0]
    if len(network.input_shapes) != 1 or len(shape) != 4 or shape[1] != 3:
        raise InputError(f"{path} takes inputs of shape {shape}, but a recogniser takes (1, 3, h, w).")
    size = shape[2] if isinstance(shape[2], int) and shape[2] == shape[3] else ARCFACE_SIZE

    def run(crops: torch.Tensor) -> torch.Tensor:
        output = network(crops)[0]
        if output.shape[0] != 1 or output.numel() < 2:
            raise InputError(f"{path} gives {tuple(output.shape)}, but a recogniser gives one embedding (1, d).")
        return output

    return Recogniser(path.name, {path.name: sha256_of(path)}, run, aligned_crop(size))


def dlib_recogniser(path: Path) -> Recogniser:
    """The residual network of dlib, from its file.

    Raises InputError if the file cannot be read, WeightsError if dlib is not installed.
    """
    if not is_installed("dlib"):
        raise WeightsError(f"--recogniser {path} needs dlib; pip install 'drsf[others]', or give an ONNX file.")
    if not path.is_file():
        raise InputError(f"--recogniser {path}: there is no such file.")
    try:
        run, crop = dlib_embedding(path)
    except RuntimeError as error:
        raise InputError(f"{path} is not dlib's face recogniser; get {RECOGNISER_FILE} again.") from error
    return Recogniser("dlib", {path.name: sha256_of(path)}, run, crop)


def box_crop(size: int) -> Callable[[Image, Face], Image]:
    """The box, resized to (size, size, 3): facenet-pytorch's `extract_face` without margin."""

    def crop(image: Image, face: Face) -> Image:
        low = np.maximum(np.trunc(face.box[:2]).astype(int), 0)
        high = np.minimum(np.trunc(face.box[2:]).astype(int), np.array(image.shape[1::-1]))
        x1, y1 = np.minimum(low, np.array(image.shape[1::-1]) - 1)
        x2, y2 = np.maximum(high, np.array([x1, y1]) + 1)
        part = np.ascontiguousarray(image[y1:y2, x1:x2])
        return np.asarray(cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA), dtype=np.uint8)

    return crop


def aligned_crop(size: int) -> Callable[[Image, Face], Image]:
    """ArcFace's crop (size, size, 3): the least-squares similarity of five points, or the box if there are none."""
    goal = ARCFACE_POINTS * (size / ARCFACE_SIZE)
    by_box = box_crop(size)

    def crop(image: Image, face: Face) -> Image:
        if face.landmarks is None:
            return by_box(image, face)
        points = face.landmarks
        five = np.stack([points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[30], points[48], points[54]])
        matrix = similarity(five, goal)
        return np.asarray(cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR), dtype=np.uint8)

    return crop


@dataclass(frozen=True)
class Gallery:
    """Other people's embeddings."""

    people: tuple[str, ...]
    vectors: Array
    """(n, d) embeddings, one for each picture."""
    owners: tuple[int, ...]
    """(n,) index into `people`."""

    @property
    def means(self) -> Array:
        """(people, d), unit."""
        owners = np.array(self.owners)
        return np.stack([_unit(self.vectors[owners == person].mean(axis=0)) for person in range(len(self.people))])

    @property
    def impostor_scores(self) -> Array:
        """Cosines of all pairs of pictures of two people."""
        owners = np.array(self.owners)
        scores = self.vectors @ self.vectors.T
        first, second = np.triu_indices(len(owners), 1)
        return np.asarray(scores[first, second][owners[first] != owners[second]])


def read_gallery(folder: Path, observer: Observer, recogniser: Recogniser) -> Gallery:
    """Faces of a folder's pictures: the largest that `observer` sees in each; pictures without a face are left out.

    Raises InputError if faces of fewer than two people are found.
    """
    if not folder.is_dir():
        raise InputError(f"--gallery {folder} is not a folder; give one with pictures of other people.")
    people: dict[str, list[Array]] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or not is_image(path):
            continue
        person = path.relative_to(folder).parts[0] if path.parent != folder else path.stem
        image = read_image(path)
        (faces,) = observer.read_faces([image], observer.detector.detect([image]))
        if faces:
            largest = max(faces, key=lambda face: face.area)
            people.setdefault(person, []).append(recogniser.embed(image, largest))
    if len(people) < 2:
        raise InputError(f"--gallery {folder} shows faces of {len(people)} people, and two or more are needed.")
    names = tuple(people)
    owners = tuple(index for index, name in enumerate(names) for _ in people[name])
    return Gallery(names, np.stack([vector for name in names for vector in people[name]]), owners)


@dataclass
class IdentityMeter:
    """Collects embeddings of the three videos, frame by frame."""

    recogniser: Recogniser
    gallery: Gallery | None = None
    far: float = 0.01
    _vectors: dict[str, list[Array]] = field(default_factory=dict)

    def look(self, images: Mapping[str, Image], face: Face) -> None:
        """One frame of each video, by column; `face` is where the authorised models see it in the original."""
        for column, image in images.items():
            self._vectors.setdefault(column, []).append(self.recogniser.embed(image, face))

    def to_dict(self, original: Column) -> IdentityLeakage:
        """Figures by column; `original` is the column enrolled from."""
        threshold = None if self.gallery is None else threshold_at(self.gallery.impostor_scores, self.far)
        document: IdentityLeakage = {
            "recogniser": self.recogniser.name,
            "weights": dict(self.recogniser.weights),
            "people": 0 if self.gallery is None else len(self.gallery.people),
            "far": self.far,
            "threshold": threshold,
            "columns": {},
        }
        if self._vectors:
            enrolled = np.stack(self._vectors[original])
            for column in (one for one in COLUMNS if one in self._vectors):
                document["columns"][column] = self._figures(np.stack(self._vectors[column]), enrolled, threshold)
        return document

    def _figures(self, probes: Array, enrolled: Array, threshold: float | None) -> Figures:
        count = len(enrolled)
        others = enrolled.sum(axis=0) - enrolled if count > 1 else enrolled
        own = (probes * np.stack([_unit(row) for row in others])).sum(axis=1)
        figures: Figures = {"frames": float(count), "cosine": float(own.mean())}
        figures["rank1"] = figures["tar"] = None
        if self.gallery is not None:
            figures["rank1"] = float((own > (probes @ self.gallery.means.T).max(axis=1)).mean())
        if threshold is not None:
            figures["tar"] = float((own > threshold).mean())
        return figures


def threshold_at(impostors: Array, far: float) -> float | None:
    """The lowest score that at most a share `far` of impostors exceeds; None if there are too few impostors."""
    allowed = int(np.floor(far * len(impostors) + 1e-9))
    if allowed < 1:
        return None
    return float(np.sort(impostors)[::-1][allowed])


def find_recogniser(path: Path | None, device: Device = "auto") -> tuple[Recogniser | None, str]:
    """The recogniser to use, or None and the reason.

    It is the user's file, else facenet if its weights are installed, else dlib's if it is installed.
    """
    if path is not None:
        return dlib_recogniser(path) if path.suffix.lower() == ".dat" else onnx_recogniser(path, device), ""
    try:
        return facenet(), ""
    except WeightsError as error:
        own = model_file(RECOGNISER_FILE)
        return (None, str(error)) if own is None else (dlib_recogniser(own), "")


def _unit(vector: Array) -> Array:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12))
