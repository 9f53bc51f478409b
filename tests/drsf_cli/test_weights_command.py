"""`drsf weights` with a catalogue and a folder of its own."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from drsf_cli.commands.weights import app
from weights import store
from weights.catalog import WeightFile, catalog
from weights.errors import UsageError, WeightsError
from weights.store import Store

BODY = b"weights" * 1000
SHA256 = hashlib.sha256(BODY).hexdigest()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, and a catalogue of one file that is served and one that is not."""
    served = tmp_path / "served"
    served.mkdir()
    (served / "net.pth").write_bytes(BODY)
    handler = functools.partial(Quiet, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        records = {
            name: WeightFile(
                name=name,
                victim=victim,
                network="net",
                urls=(f"{url}/{name}",),
                size=len(BODY),
                sha256=sha256,
                container="bytes",
                code_licence="MIT",
                weights_licence="research only",
                source="here",
                citation="none",
                location="cache",
            )
            for name, victim, sha256 in (("net.pth", "alpha", SHA256), ("gone.pth", "beta", "0" * 64))
        }
        folder = tmp_path / "cache"
        monkeypatch.setattr(store, "default_store", lambda: Store(records, folder))
        monkeypatch.setenv("DRSF_WEIGHTS", str(folder))
        yield folder
        server.shutdown()
        thread.join()


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_pull_list_verify(cache: Path) -> None:
    assert "missing" in call("list").stdout
    assert call("pull", "alpha").stdout.split() == [str(cache / "net.pth")]
    assert (cache / "net.pth").read_bytes() == BODY
    rows = {line.split()[1]: line.split() for line in call("list").stdout.splitlines() if ".pth" in line}
    assert rows["net.pth"][-1] == "yes"
    assert rows["gone.pth"][-1] == "missing"
    assert "research only" in call("list").stdout
    assert call("verify").exit_code == 0
    (cache / "net.pth").write_bytes(BODY[1:])
    error = call("verify").exception
    assert isinstance(error, WeightsError)
    assert str(error) == "net.pth: the sha256 is not the catalogue's; run `drsf weights pull alpha` to replace it."


def test_pull_all_fails_if_one_does(cache: Path) -> None:
    error = call("pull", "--all").exception
    assert isinstance(error, WeightsError)
    assert "gone.pth could not be fetched" in str(error)
    assert "HTTP 404" in str(error)


@pytest.mark.parametrize("arguments", [("pull",), ("pull", "alpha", "--all"), ("pull", "gamma")])
def test_pull_refuses(cache: Path, arguments: tuple[str, ...]) -> None:
    assert isinstance(call(*arguments).exception, UsageError)


def test_import(cache: Path, tmp_path: Path) -> None:
    known, own = tmp_path / "a", tmp_path / "b"
    known.write_bytes(BODY)
    own.write_bytes(b"own")
    assert call("import", known).stdout.strip() == str(cache / "net.pth")
    assert isinstance(call("import", own).exception, WeightsError)
    assert isinstance(call("import", own, known, "--allow-unknown-weights", "--as", "x").exception, UsageError)
    assert call("import", own, "--allow-unknown-weights", "--as", "ours.pth").exit_code == 0
    assert (cache / "ours.pth").read_bytes() == b"own"


def test_path(cache: Path) -> None:
    assert call("path").stdout.strip() == str(cache)


def test_the_packaged_catalogue_is_listed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    printed = call("list").stdout
    for record in catalog().values():
        assert record.name in printed
        assert record.victim in printed
