"""Fixtures every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from export.waiting import wait_passively

wait_passively(os.environ)  # before torch is imported, see there

import torch  # noqa: E402

from weights import store  # noqa: E402
from weights.catalog import catalog  # noqa: E402
from weights.files import fresh_sha256  # noqa: E402
from weights.store import weights_folder  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("DRSF_SHARED", ROOT.parent / "shared"))


@pytest.fixture(autouse=True, scope="session")
def _few_threads() -> None:
    """Each test worker has a core of its own; more threads than that only get in each other's way."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips, faces and weights that lies beside the checkout, or DRSF_SHARED."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the shared folder of real clips and weights is not here (set DRSF_SHARED)")
    return SHARED


USER_STORE = weights_folder()
"""Where the user's weights lie; read before any test has a store of its own."""


@pytest.fixture(autouse=True, scope="session")
def _no_users_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What lies in the user's cache, or in a package beside ours, changes no test: fixtures of a module or a session
    see an empty store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRSF_WEIGHTS", str(tmp_path_factory.mktemp("empty") / "weights"))
        patch.setattr(store, "installed_path", lambda _: None)
        yield


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of this test alone, a folder that is not there yet."""
    folder = tmp_path / "own weights"
    monkeypatch.setenv("DRSF_WEIGHTS", str(folder))
    return folder


@pytest.fixture(scope="session")
def published() -> Callable[[str], Path]:
    """Where a weight file of the catalogue lies that `drsf weights pull` fetched, or the shared folder has."""

    def find(name: str) -> Path:
        for folder in (USER_STORE, SHARED / "weights"):
            path = folder / name
            if path.is_file() and fresh_sha256(path) == catalog()[name].sha256:
                return path
        pytest.skip(f"{name} is not here (`drsf weights pull {catalog()[name].victim}`, or the shared folder)")

    return find


@pytest.fixture
def stored(own_store: Path, published: Callable[[str], Path]) -> Callable[..., None]:
    """Puts published weight files, by their names, into the store of this test."""

    def put(*names: str) -> None:
        own_store.mkdir(exist_ok=True)
        for name in names:
            (own_store / name).symlink_to(published(name))

    return put


@pytest.fixture(scope="session")
def mediapipe_files(published: Callable[[str], Path]) -> Path:
    """A folder with the files of MediaPipe's wheel."""
    found = [
        published(record.name)
        for record in catalog().values()
        if record.victim in ("blazeface", "blazeface-full", "facemesh")
    ]
    assert len({path.parent for path in found}) == 1
    return found[0].parent
