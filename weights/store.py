"""Weight files: known by their sha256, found, fetched, checked, and loaded without running code.

`catalog()` is the table of every known file (weights/catalog.toml). A `Store` is a table with a folder; the functions
`resolve`, ... at the end of this file are those of the default store: the packaged table and the user's cache folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib.util
import os
import pickle
import re
import shutil
import tempfile
import tomllib
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from filelock import FileLock
from platformdirs import user_cache_path
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from weights.errors import UsageError, WeightsError
from weights.torchscript import is_torchscript, torchscript_tensors

Location = Literal["bundled", "package", "cache"]
State = Literal["ready", "missing", "damaged", "not released"]
Progress = Callable[[str, int, int | None], None]
"""File name, bytes so far, bytes in all (None: unknown)."""

_BUNDLED = Path(__file__).parent / "bundled"
_PLAIN_NAME = re.compile(r"\w[\w.+-]*")
_CHUNK = 1 << 18
_TIMEOUT = 30.0  # s without a byte


@dataclass(frozen=True)
class WeightFile:
    """One known file."""

    name: str
    victim: str
    network: str
    """Files of one victim and one network are alternatives."""
    urls: tuple[str, ...]
    """Places that serve these bytes, tried in this order."""
    size: int | None
    """Bytes, where known."""
    sha256: str
    """Hex; empty while the file is not released."""
    container: str
    code_licence: str
    weights_licence: str
    source: str
    citation: str
    location: Location
    """bundled: ships with drsf; package: inside facenet-pytorch; cache: in the store's folder."""


@dataclass(frozen=True)
class ResolvedWeights:
    """A file that is there and whose hash has been checked."""

    path: Path
    sha256: str
    record: WeightFile | None
    """None for a user's own file, let in on purpose."""


@dataclass(frozen=True)
class FileStatus:
    record: WeightFile
    path: Path
    state: State


def read_catalog(path: Path) -> dict[str, WeightFile]:
    """The records of a catalogue file, by name. A `hub` id with its `revision` becomes the URL of its
    `model.safetensors`."""
    records: dict[str, WeightFile] = {}
    for entry in tomllib.loads(path.read_text(encoding="utf-8"))["file"]:
        fields: dict[str, Any] = dict(entry)
        urls = tuple(fields.pop("urls", ()))
        if "hub" in fields:
            hub, revision = fields.pop("hub"), fields.pop("revision")
            urls = (f"https://huggingface.co/{hub}/resolve/{revision}/model.safetensors", *urls)
        record = WeightFile(urls=urls, size=fields.pop("bytes", None), **fields)
        if record.name in records:
            raise ValueError(f"{path.name}: {record.name} is listed twice")
        records[record.name] = record
    return records


@lru_cache(maxsize=1)
def _packaged_catalog() -> dict[str, WeightFile]:
    return read_catalog(Path(__file__).parent / "catalog.toml")


def catalog() -> dict[str, WeightFile]:
    """Every known weight file by its name."""
    return dict(_packaged_catalog())


def weights_folder() -> Path:
    """Where fetched weights live: DRSF_WEIGHTS, or `drsf/weights` in the user's cache."""
    override = os.environ.get("DRSF_WEIGHTS")
    return Path(override) if override else user_cache_path("drsf") / "weights"


_hashes: dict[tuple[str, int, int], str] = {}


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file. Within one process a file of the same size and time of change is not read again."""
    try:
        stat = path.stat()
        key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
        if key not in _hashes:
            with path.open("rb") as stream:
                _hashes[key] = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}); check the path and its permissions.") from error
    return _hashes[key]


class Store:
    """A catalogue and the folder its fetched files live in."""

    def __init__(self, records: Mapping[str, WeightFile], folder: Path) -> None:
        self.records = dict(records)
        self.folder = folder

    # ---------------------------------------------------------------- finding

    def path(self, record: WeightFile) -> Path:
        """Where the file of this record is, or would be."""
        if record.location == "bundled":
            return _BUNDLED / record.name
        if record.location == "package":
            return _facenet_pytorch_data() / record.name
        return self.folder / record.name

    def status(self, record: WeightFile) -> FileStatus:
        """Whether the file is there, by its hash."""
        path = self.path(record)
        state: State
        if not path.is_file():
            state = "missing" if record.sha256 else "not released"
        elif not record.sha256:
            state = "not released"
        else:
            state = "ready" if sha256_of(path) == record.sha256 else "damaged"
        return FileStatus(record, path, state)

    def verify(self) -> list[FileStatus]:
        """The status of every file of the catalogue."""
        return [self.status(record) for record in self.records.values()]

    def resolve(
        self, file_names: Sequence[str], override: Path | None = None, allow_unknown: bool = False
    ) -> ResolvedWeights:
        """The first of these alternative files that is there and whose hash is right.

        `override` is a user's file that takes their place (a bare name may also be one imported into the folder): it
        is taken if the catalogue knows its hash for the same victim, and refused otherwise unless `allow_unknown`.
        Raises WeightsError that says how to get the weights.
        """
        records = [self.records[name] for name in file_names]
        victim = records[0].victim
        if override is not None:
            return self._resolve_override(override, victim, allow_unknown)
        damaged: Path | None = None
        for record in records:
            path = self.path(record)
            if not path.is_file():
                continue
            sha256 = sha256_of(path)
            # A bundled file is part of this package; it has no published hash before it is released.
            if sha256 == record.sha256 or (record.location == "bundled" and not record.sha256):
                return ResolvedWeights(path, sha256, record)
            damaged = path
        fetched = all(record.location == "cache" for record in records)
        if damaged is not None:
            remedy = f"run `drsf weights pull {victim}` to replace it" if fetched else "install drsf anew"
            raise WeightsError(f"{damaged} is not the file the catalogue knows (its sha256 is another): {remedy}.")
        remedy = "install drsf anew"
        if fetched:
            remedy = f"run `drsf weights pull {victim}`, or on a machine without network `drsf weights import FILE`"
        raise WeightsError(f"The weights of {victim} ({' or '.join(file_names)}) are not here: {remedy}.")

    def _resolve_override(self, override: Path, victim: str, allow_unknown: bool) -> ResolvedWeights:
        path = override
        if not path.is_file() and path.parent == Path():
            path = self.folder / override.name
        if not path.is_file():
            raise WeightsError(f"{override}: there is no such file; name the weight file to use for {victim}.")
        sha256 = sha256_of(path)
        record = self.by_hash(sha256)
        if record is not None and record.victim == victim:
            return ResolvedWeights(path, sha256, record)
        if allow_unknown:
            return ResolvedWeights(path, sha256, None)
        what = f"is {record.name} of {record.victim}" if record else "is not in the catalogue of known weights"
        raise WeightsError(
            f"{override} {what} (sha256 {sha256[:12]}...), so it is not used for {victim}; if it is your own, add "
            "--allow-unknown-weights."
        )

    def by_hash(self, sha256: str) -> WeightFile | None:
        """The record with this hash."""
        return next((record for record in self.records.values() if record.sha256 == sha256), None)

    # --------------------------------------------------------------- fetching

    def select(self, names: Iterable[str]) -> list[list[WeightFile]]:
        """What `pull` would fetch: for each network a list of alternatives, of which one is enough. A name is a
        victim's (all its networks) or a file's (that file alone). Raises UsageError for a name that is neither."""
        groups: dict[tuple[str, ...], list[WeightFile]] = {}
        for name in names:
            if name in self.records:
                groups[(name,)] = [self.records[name]]
                continue
            found = [record for record in self.records.values() if record.victim == name.lower()]
            if not found:
                known = ", ".join(dict.fromkeys(record.victim for record in self.records.values()))
                raise UsageError(f"{name!r} is neither a victim nor a weight file; the victims are {known}.")
            for record in found:
                group = groups.setdefault((record.victim, record.network), [])
                if record not in group:
                    group.append(record)
        return list(groups.values())

    def pull(self, names: Iterable[str], progress: Progress | None = None) -> list[Path]:
        """Fetch what is named (see `select`) unless it is there, and return the paths, one for each network.

        A file appears under its name only whole and with the right hash. A broken download is kept as NAME.part and
        continued next time. Two processes may pull at once. Raises WeightsError when no place serves the file, or the
        folder cannot be written.
        """
        return [self._pull_one_of(group, progress) for group in self.select(names)]

    def _pull_one_of(self, group: Sequence[WeightFile], progress: Progress | None) -> Path:
        for record in group:
            if self.status(record).state == "ready":
                return self.path(record)
        failures: list[str] = []
        for record in group:
            if record.location != "cache":
                state = self.status(record).state
                raise WeightsError(f"{record.name} comes with drsf and is {state}: install drsf anew.")
            with self._writing():
                self.folder.mkdir(parents=True, exist_ok=True)
                with FileLock(self.folder / f".{record.name}.lock"):
                    path = self.path(record)
                    if self.status(record).state == "ready":  # another process was faster
                        return path
                    part = path.with_name(record.name + ".part")
                    for url in record.urls:
                        try:
                            self._fetch(record, url, part, progress)
                        except _FetchError as error:
                            failures.append(f"{urllib.parse.urlsplit(url).netloc}: {error}")
                            continue
                        os.replace(part, path)
                        return path
        raise WeightsError(
            f"{group[0].name} could not be fetched ({'; '.join(failures)}); try again, or fetch it elsewhere and run "
            "`drsf weights import FILE`."
        )

    def _fetch(self, record: WeightFile, url: str, part: Path, progress: Progress | None) -> None:
        """Fill `part` from `url`, going on from what is there, and check its hash; raise _FetchError otherwise."""
        resumed = _download(record, url, part, progress)
        if _fresh_sha256(part) == record.sha256:
            return
        part.unlink()
        if resumed:  # the beginning may have come from elsewhere
            _download(record, url, part, progress)
            if _fresh_sha256(part) == record.sha256:
                return
            part.unlink()
        raise _FetchError("what it serves has another sha256")

    # -------------------------------------------------------------- importing

    def import_file(self, source: Path, name: str | None = None, allow_unknown: bool = False) -> Path:
        """Copy a file into the store's folder: a known one, recognised by its hash, under its catalogue name; with
        `allow_unknown` and a `name` of its own, an organisation's. Returns where it is now."""
        if not source.is_file():
            raise WeightsError(f"{source}: there is no such file; name the weight file to import.")
        sha256 = sha256_of(source)
        record = self.by_hash(sha256)
        if record is not None:
            if record.location != "cache":
                raise WeightsError(
                    f"{source} is {record.name}, which is already installed; there is nothing to import."
                )
            name = record.name
        elif not allow_unknown:
            raise WeightsError(
                f"{source} is not in the catalogue of known weights (sha256 {sha256[:12]}...); if it is your own, add "
                "--allow-unknown-weights --as NAME."
            )
        elif name is None:
            raise UsageError(f"{source} is not in the catalogue of known weights; say how to call it with --as NAME.")
        elif name in self.records or not _PLAIN_NAME.fullmatch(name) or name.endswith(".part"):
            raise UsageError(f"--as {name}: choose a plain file name that is not one of the catalogue's.")
        target = self.folder / name
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=".import-", dir=self.folder)
            try:
                with os.fdopen(handle, "wb") as out, source.open("rb") as stream:
                    shutil.copyfileobj(stream, out, _CHUNK)
                    _flush(out)
                if _fresh_sha256(Path(temporary)) != sha256:
                    raise WeightsError(f"{source} changed while it was copied; import it again.")
                os.chmod(temporary, 0o644)
                os.replace(temporary, target)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
        return target

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns what the file system refuses into a sentence about the folder."""
        try:
            yield
        except OSError as error:
            raise WeightsError(
                f"The weights folder {self.folder} cannot be written ({error.strerror or error}); set DRSF_WEIGHTS to "
                "a folder that can."
            ) from error


class _FetchError(Exception):
    """Why one place did not give the file, in a few words."""


def _download(record: WeightFile, url: str, part: Path, progress: Progress | None) -> bool:
    """Append what is missing in `part`, or write it anew where the server cannot go on. True if it went on."""
    have = part.stat().st_size if part.exists() else 0
    if record.size is not None and have >= record.size:
        part.unlink()  # whole but not yet renamed cannot be told from damaged here: fetch it again
        have = 0
    request = urllib.request.Request(url, headers={"User-Agent": "drsf"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:
            part.unlink()
            return _download(record, url, part, progress)
        raise _FetchError(f"HTTP {error.code}") from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise _FetchError(_reason(error)) from error
    with response:
        if response.status == 206 and str(response.headers.get("Content-Range", "")).startswith(f"bytes {have}-"):
            resumed = True
        elif response.status == 200:
            resumed, have = False, 0
        else:
            raise _FetchError(f"it answered a request for the rest with HTTP {response.status}")
        length = response.headers.get("Content-Length")
        expected = have + int(length) if length is not None and length.isdigit() else None
        total = record.size if record.size is not None else expected
        with part.open("ab" if resumed else "wb") as out:
            while True:
                try:
                    block = response.read(_CHUNK)
                except (http.client.HTTPException, OSError) as error:
                    raise _FetchError(f"the transfer broke off after {have} bytes ({_reason(error)})") from error
                if not block:
                    break
                out.write(block)
                have += len(block)
                if progress is not None:
                    progress(record.name, have, total)
                if record.size is not None and have > record.size:
                    break
            _flush(out)
    if record.size is not None and have > record.size:
        part.unlink()
        raise _FetchError(f"it serves more than the {record.size} bytes of the file")
    if have < max(total or 0, expected or 0):
        raise _FetchError(f"the transfer broke off after {have} of {total} bytes")
    return resumed


def _flush(stream: Any) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _fresh_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return str(getattr(reason, "strerror", None) or reason) or type(reason).__name__


def _facenet_pytorch_data() -> Path:
    spec = importlib.util.find_spec("facenet_pytorch")  # finds without importing
    if spec is None or spec.origin is None:
        raise WeightsError(
            "The package facenet-pytorch is not installed, and MTCNN's weights are inside it; install drsf anew."
        )
    return Path(spec.origin).parent / "data"


# --------------------------------------------------------------------- loading


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name, on the CPU, without running anything that is in the file.

    Reads safetensors, torch checkpoints (zip and legacy; weights_only) and TorchScript archives (their tensors alone).
    A wrapper {'model': ...} or {'state_dict': ...} is taken off, and so is a prefix `module.` of every key.
    Raises WeightsError for a file that is none of these, is damaged, or holds anything else than tensors.
    """
    try:
        if _is_safetensors(path):
            state: Any = load_file(path, device="cpu")
        elif is_torchscript(path):
            state = torchscript_tensors(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError, SafetensorError, zipfile.BadZipFile, RuntimeError, EOFError, OSError,
        ValueError, TypeError, KeyError, IndexError, AttributeError, StopIteration,
    ) as error:  # fmt: skip
        _refuse(path, str(error).splitlines()[0] if str(error) else type(error).__name__, error)
    while isinstance(state, Mapping) and len(wrapped := [key for key in ("model", "state_dict") if key in state]) == 1:
        if not isinstance(state[wrapped[0]], Mapping):
            break
        state = state[wrapped[0]]
    if not isinstance(state, Mapping) or not state:
        _refuse(path, "it holds no table of tensors")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            _refuse(path, f"entry {key!r} is not a tensor")
    if all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return dict(state)


def _refuse(path: Path, why: str, cause: BaseException | None = None) -> NoReturn:
    raise WeightsError(
        f"{path} is not a weight file that can be loaded safely ({why}); get the original again."
    ) from cause


def _is_safetensors(path: Path) -> bool:
    """Eight bytes of header length, then a JSON object."""
    with path.open("rb") as stream:
        return stream.read(9)[8:] == b"{"


# --------------------------------------------------------------- default store


def default_store() -> Store:
    """The packaged catalogue with the user's folder."""
    return Store(catalog(), weights_folder())


def resolve(file_names: Sequence[str], override: Path | None = None, allow_unknown: bool = False) -> ResolvedWeights:
    """`Store.resolve` of the default store."""
    return default_store().resolve(file_names, override, allow_unknown)
