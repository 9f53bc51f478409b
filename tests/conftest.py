"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from weights.store import weights_folder

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True, scope="session")
def _few_threads() -> None:
    """Each test worker has a core of its own; more threads than that only get in each other's way."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips, faces and weights that lies beside the checkout, or DRSF_SHARED."""
    folder = Path(os.environ.get("DRSF_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip("the shared folder of real clips and weights is not here (set DRSF_SHARED)")
    return folder


MEDIAPIPE_FILES = (
    "face_detection_short_range.tflite",
    "face_detection_full_range_sparse.tflite",
    "face_landmark_with_attention.tflite",
)


@pytest.fixture(scope="session")
def mediapipe_files() -> Path:
    """A folder with the files of MediaPipe's wheel: DRSF_TEST_MEDIAPIPE, or the user's own store."""
    folder = Path(os.environ.get("DRSF_TEST_MEDIAPIPE", weights_folder()))
    if not all((folder / name).is_file() for name in MEDIAPIPE_FILES):
        pytest.skip("MediaPipe's files are not here (run `drsf weights pull mediapipe`, or set DRSF_TEST_MEDIAPIPE)")
    return folder
