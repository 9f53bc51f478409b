"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from export.waiting import wait_passively

wait_passively(os.environ)  # before torch is imported, see there

import torch  # noqa: E402

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
