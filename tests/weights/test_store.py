"""Finding, fetching and importing weight files, against a server of our own on 127.0.0.1."""

from __future__ import annotations

import errno
import hashlib
import http.server
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weights import store
from weights.catalog import WeightFile, catalog
from weights.errors import UsageError, WeightsError
from weights.store import Store

BODY = np.random.default_rng(0).bytes(700_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves BODY well or badly, by the path asked for, and remembers the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str | None]] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.seen.append((self.path, asked))
        name = self.path.strip("/")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and name != "no-range" else 0
        body = {"corrupted": BODY[:5000] + b"?" + BODY[5001:], "other": b"<html>sorry</html>"}.get(name, BODY)
        if name == "missing":
            self.send_error(404)
            return
        if name == "slow":
            time.sleep(0.3)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = 300_000 if name == "truncated" or (name == "breaks-once" and not start) else len(body)
        self.wfile.write(body[start:end])


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def record(*urls: str, name: str = "net.pth", victim: str = "alpha", **changes: Any) -> WeightFile:
    fields: dict[str, Any] = {
        "name": name,
        "victim": victim,
        "network": "net",
        "urls": urls,
        "size": len(BODY),
        "sha256": SHA256,
        "container": "bytes",
        "code_licence": "MIT",
        "weights_licence": "MIT",
        "source": "here",
        "citation": "none",
        "location": "cache",
    }
    return WeightFile(**(fields | changes))


def make(folder: Path, *records: WeightFile) -> Store:
    return Store({one.name: one for one in records}, folder)


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


# ---------------------------------------------------------------------- pull


def test_pull_fetches_and_reports_progress(server: Server, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int | None]] = []
    (path,) = make(tmp_path / "new", record(server.url("good"))).pull(["alpha"], lambda *step: steps.append(step))
    assert path.read_bytes() == BODY
    assert visible(tmp_path / "new") == ["net.pth"]
    assert steps[-1] == ("net.pth", len(BODY), len(BODY))
    assert [done for _, done, _ in steps] == sorted(done for _, done, _ in steps)


def test_pull_of_what_is_there_asks_no_server(server: Server, tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(BODY)
    assert make(tmp_path, record(server.url("good"))).pull(["net.pth"]) == [tmp_path / "net.pth"]
    assert server.seen == []


def test_pull_replaces_a_damaged_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(BODY[:-1])
    one = make(tmp_path, record(server.url("good")))
    assert one.verify()[0].state == "damaged"
    one.pull(["alpha"])
    assert one.verify()[0].state == "ready"


@pytest.mark.parametrize("size", [len(BODY), None])
@pytest.mark.parametrize("path", ["corrupted", "other", "missing", "truncated"])
def test_a_bad_download_leaves_nothing_that_could_be_mistaken(
    server: Server, tmp_path: Path, path: str, size: int | None
) -> None:
    one = make(tmp_path, record(server.url(path), size=size))
    with pytest.raises(
        WeightsError, match=r"^net\.pth could not be fetched \(127\.0\.0\.1:\d+: .*drsf weights import FILE`\.$"
    ):
        one.pull(["alpha"])
    # the beginning of a good file may stay, under another name, to be continued
    assert visible(tmp_path) in ([], ["net.pth.part"])
    assert path == "truncated" or size is not None or visible(tmp_path) == []
    with pytest.raises(WeightsError, match="drsf weights pull alpha"):
        one.resolve(["net.pth"])


def test_a_broken_transfer_is_continued(server: Server, tmp_path: Path) -> None:
    one = make(tmp_path, record(server.url("breaks-once")))
    with pytest.raises(WeightsError, match="broke off"):
        one.pull(["alpha"])
    assert (tmp_path / "net.pth.part").stat().st_size == 300_000
    one.pull(["alpha"])
    assert server.seen == [("/breaks-once", None), ("/breaks-once", "bytes=300000-")]
    assert (tmp_path / "net.pth").read_bytes() == BODY
    assert visible(tmp_path) == ["net.pth"]


def test_a_server_that_cannot_continue_starts_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "net.pth.part").write_bytes(BODY[:1000])
    make(tmp_path, record(server.url("no-range"))).pull(["alpha"])
    assert (tmp_path / "net.pth").read_bytes() == BODY


def test_a_wrong_beginning_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "net.pth.part").write_bytes(b"x" * 1000)
    make(tmp_path, record(server.url("good"))).pull(["alpha"])
    assert [asked for _, asked in server.seen] == ["bytes=1000-", None]
    assert (tmp_path / "net.pth").read_bytes() == BODY


def test_the_next_place_is_tried(server: Server, tmp_path: Path) -> None:
    gone = "http://127.0.0.1:9/x"  # discard: nobody listens
    make(tmp_path, record(gone, server.url("missing"), server.url("corrupted"), server.url("good"))).pull(["alpha"])
    assert (tmp_path / "net.pth").read_bytes() == BODY


def test_server_gone(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"could not be fetched \(127\.0\.0\.1:9: .*refused"):
        make(tmp_path, record("http://127.0.0.1:9/x")).pull(["alpha"])
    assert visible(tmp_path) == []


def test_a_victim_needs_one_alternative_of_each_network(server: Server, tmp_path: Path) -> None:
    records = [
        record(server.url("missing"), name="a.pth"),
        record(server.url("good"), name="b.zip"),
        record(server.url("good"), name="c.pth", network="second"),
        record(server.url("good"), name="d.pth", victim="beta"),
    ]
    assert make(tmp_path, *records).pull(["Alpha"]) == [tmp_path / "b.zip", tmp_path / "c.pth"]
    assert visible(tmp_path) == ["b.zip", "c.pth"]


def test_an_unknown_name_lists_the_victims(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match="'gamma' is neither a victim nor a package nor a weight file; the victims and packages are alpha",
    ):
        make(tmp_path, record()).pull(["gamma"])


def test_a_cache_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(WeightsError, match=r"weights folder .* cannot be written \(.*\); set DRSF_WEIGHTS"):
        make(tmp_path / "file", record(server.url("good"))).pull(["alpha"])


def test_a_read_only_cache(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = Path.open

    def refuse(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if self.name.endswith(".part") and mode != "r":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        return real_open(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(WeightsError, match=r"cannot be written \(Read-only file system\)"):
        make(tmp_path, record(server.url("good"))).pull(["alpha"])


def test_two_processes_at_once_fetch_it_once(server: Server, tmp_path: Path) -> None:
    one = make(tmp_path, record(server.url("slow")))
    # forked, as a new interpreter's imports would take longer than the whole test
    context = multiprocessing.get_context("fork")
    running = [context.Process(target=one.pull, args=(["alpha"],)) for _ in range(2)]
    for process in running:
        process.start()
    for process in running:
        process.join(60)
    assert [process.exitcode for process in running] == [0, 0]
    assert (tmp_path / "net.pth").read_bytes() == BODY
    assert visible(tmp_path) == ["net.pth"]
    assert len(server.seen) == 1


# ------------------------------------------------------------------- resolve


def test_resolve_takes_the_first_alternative_with_the_right_hash(tmp_path: Path) -> None:
    records = [record(name="a.pth", sha256="0" * 64), record(name="b.zip")]
    one = make(tmp_path, *records)
    (tmp_path / "a.pth").write_bytes(BODY)  # damaged, as far as the catalogue can tell
    with pytest.raises(WeightsError, match=r"a\.pth is not the file the catalogue knows .* `drsf weights pull alpha`"):
        one.resolve(["a.pth", "b.zip"])
    (tmp_path / "b.zip").write_bytes(BODY)
    found = one.resolve(["a.pth", "b.zip"])
    assert (found.path, found.sha256, found.record) == (tmp_path / "b.zip", SHA256, records[1])


def test_resolve_notices_a_change_after_the_first_look(tmp_path: Path) -> None:
    one = make(tmp_path, record())
    (tmp_path / "net.pth").write_bytes(BODY)
    one.resolve(["net.pth"])
    (tmp_path / "net.pth").write_bytes(b"!" + BODY[1:])
    os.utime(tmp_path / "net.pth", (1, 1))
    with pytest.raises(WeightsError, match="is not the file"):
        one.resolve(["net.pth"])


def test_missing_weights_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        make(tmp_path, record()).resolve(["net.pth"])
    assert str(caught.value) == (
        "The weights of alpha (net.pth) are not installed: run `drsf weights pull alpha`, or on a machine without "
        "network `drsf weights import FILE`."
    )
    assert caught.value.exit_code == 5


def test_what_comes_with_drsf_cannot_be_pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_BUNDLED", tmp_path)
    one = make(tmp_path / "cache", record(location="bundled"))
    for damaged in (False, True):
        if damaged:
            (tmp_path / "net.pth").write_bytes(b"?")
        with pytest.raises(WeightsError, match="install drsf anew"):
            one.resolve(["net.pth"])
        with pytest.raises(WeightsError, match="install drsf anew"):
            one.pull(["alpha"])
    (tmp_path / "net.pth").write_bytes(BODY)
    assert one.pull(["alpha"]) == [tmp_path / "net.pth"]


def test_a_file_of_the_users(tmp_path: Path) -> None:
    other = b"weights of beta"
    records = [record(), record(name="b.pth", victim="beta", sha256=hashlib.sha256(other).hexdigest())]
    one = make(tmp_path / "cache", *records)
    known, foreign, unknown = tmp_path / "known", tmp_path / "foreign", tmp_path / "unknown"
    known.write_bytes(BODY)
    foreign.write_bytes(other)
    unknown.write_bytes(b"own")
    assert one.resolve(["net.pth"], known).record == records[0]
    with pytest.raises(WeightsError, match=r"is b\.pth of beta .*--allow-unknown-weights"):
        one.resolve(["net.pth"], foreign)
    with pytest.raises(WeightsError, match=r"not in the catalogue .*--allow-unknown-weights"):
        one.resolve(["net.pth"], unknown)
    with pytest.raises(WeightsError, match="there is no such file"):
        one.resolve(["net.pth"], tmp_path / "nothing", allow_unknown=True)
    allowed = one.resolve(["net.pth"], unknown, allow_unknown=True)
    assert (allowed.path, allowed.sha256, allowed.record) == (unknown, hashlib.sha256(b"own").hexdigest(), None)


# -------------------------------------------------------------------- import


def test_import_recognises_by_hash(tmp_path: Path) -> None:
    one = make(tmp_path / "cache", record())
    source = tmp_path / "download (1).bin"
    source.write_bytes(BODY)
    assert one.import_file(source) == [tmp_path / "cache" / "net.pth"]
    assert one.resolve(["net.pth"]).sha256 == SHA256
    assert os.listdir(tmp_path / "cache") == ["net.pth"]


def test_import_of_an_organisations_own(tmp_path: Path) -> None:
    one = make(tmp_path / "cache", record())
    source = tmp_path / "own.pth"
    source.write_bytes(b"own")
    with pytest.raises(WeightsError, match="--allow-unknown-weights --as NAME"):
        one.import_file(source)
    with pytest.raises(UsageError, match="--as NAME"):
        one.import_file(source, allow_unknown=True)
    for bad in ("net.pth", "../x", ".hidden", "x.part", ""):
        with pytest.raises(UsageError, match="choose a plain file name"):
            one.import_file(source, bad, allow_unknown=True)
    (kept,) = one.import_file(source, "ours.pth", allow_unknown=True)
    assert kept.read_bytes() == b"own"
    assert one.resolve(["net.pth"], Path("ours.pth"), allow_unknown=True).path == tmp_path / "cache" / "ours.pth"
    with pytest.raises(WeightsError, match="not in the catalogue"):
        one.resolve(["net.pth"], Path("ours.pth"))


def test_import_into_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make(tmp_path / "cache", record())
    (tmp_path / "file").write_bytes(BODY)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store, "flush_to_disk", full)
    with pytest.raises(WeightsError, match=r"cannot be written \(No space left on device\)"):
        one.import_file(tmp_path / "file")
    assert os.listdir(tmp_path / "cache") == []


# ----------------------------------------------------------------- catalogue


def test_catalogue_is_whole() -> None:
    records = catalog().values()
    assert len(records) >= 13
    hashes = [one.sha256 for one in records if one.sha256]
    assert len(set(hashes)) == len(hashes)
    for one in records:
        assert one.location in ("bundled", "package", "cache")
        assert one.location == "bundled" or (len(one.sha256) == 64 and int(one.sha256, 16))
        assert bool(one.urls or one.packaged) == (one.location == "cache")
        assert all(url.startswith("https://") for url in one.urls)
        assert all((one.code_licence, one.weights_licence, one.source, one.citation, one.container))
    assert catalog()["eth-xgaze_resnet18.safetensors"].urls == (
        "https://huggingface.co/hysts/ptgaze-eth-xgaze-resnet18/resolve/5b6aebd02c7a612b50afb2e48c453f23533b8de3/"
        "model.safetensors",
    )


def test_mtcnn_weights_are_the_known_ones(tmp_path: Path) -> None:
    one = Store(catalog(), tmp_path)
    for name in ("pnet.pt", "rnet.pt", "onet.pt"):
        assert one.resolve([name]).path.stat().st_size == one.records[name].size


def test_bundled_files_are_the_catalogues() -> None:
    one = store.default_store()
    bundled = [file for file in one.verify() if file.record.location == "bundled"]
    assert {file.record.name for file in bundled} == {
        "fan_compact.safetensors",
        "gaze_compact.safetensors",
        "drawer_mtcnn.safetensors",
        "drawer_retinaface.safetensors",
        "drawer_mediapipe.safetensors",
    }
    for file in bundled:
        assert hashlib.sha256(file.path.read_bytes()).hexdigest() == file.record.sha256


def test_published_weights_are_known(shared: Path, published: Callable[[str], Path], tmp_path: Path) -> None:
    one = Store(catalog(), tmp_path)
    one.import_file(published("retinaface_mobilenet0.25.pth"))
    one.import_file(published("mpiigaze_resnet_preact.pth"))
    assert visible(tmp_path) == ["mpiigaze_resnet_preact.pth", "retinaface_mobilenet0.25.pth"]
    with pytest.raises(WeightsError, match="not in the catalogue"):
        one.import_file(shared / "weights" / "retinaface_mobilenet0.25_other_training_run.pth")


def test_weights_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DRSF_WEIGHTS", str(tmp_path))
    assert store.weights_folder() == tmp_path
    monkeypatch.delenv("DRSF_WEIGHTS")
    assert store.weights_folder().parts[-2:] == ("drsf", "weights")
