"""What a report says about the run that wrote a file, for commands that look at the file again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attacks.obscure import Region
from drsf_cli.media.files import digest, report_path
from drsf_cli.report.schema import Report, read_report, regions_of
from drsf_cli.settings import DeidSettings, settings_from_dict
from weights.errors import InputError, UsageError


@dataclass(frozen=True)
class KnownRun:
    """A run as its report has it."""

    settings: DeidSettings
    """`rotate` is the turn that was made."""
    repelled: tuple[frozenset[str], ...] = ()
    """The sha256 of the weight files of each model that was repelled."""
    regions: Sequence[tuple[Region, ...]] | None = None
    """What each frame hides; None where that is not known, as in reports of older versions."""


def read_run(original: Path, written: Path, report: Path | None = None) -> KnownRun | None:
    """Read `report`, by default the one that `drsf deid` wrote beside `written`. None if there is no report there.

    Raises InputError for a file that is not a report, and for the report of another original.
    """
    path = report or report_path(written)
    if report is None and not path.is_file():
        return None
    document = read_report(path)
    said = document["settings"] | {"rotate": str(document["input"].get("rotate", 0))}
    try:
        settings = settings_from_dict(said)
    except UsageError as error:
        raise InputError(
            f"{path} is not a report that this version of drsf can use ({error}); run `drsf deid` again."
        ) from error
    if document["input"]["sha256"] != digest(original):
        raise InputError(f"{path} is the report of another original than {original}; name the right files.")
    repelled = tuple(frozenset(one["weights"].values()) for one in (document.get("repelled") or {}).values())
    return KnownRun(settings, repelled, _regions(document))


def run_of(original: Path, written: Path, report: Path | None = None, mask: str | None = None) -> KnownRun:
    """How `written` was covered and is read: as `read_run` says, with the default settings where there is no report.

    With another `mask` the covering is planned anew. Raises InputError.
    """
    run = read_run(original, written, report) or KnownRun(DeidSettings())
    other = mask is not None and mask != run.settings.mask
    settings = replace(run.settings, mask=mask or run.settings.mask, targets=None)
    return replace(run, settings=settings, regions=None if other else run.regions)


def _regions(document: Report) -> list[tuple[Region, ...]] | None:
    """By frame; None unless the report has them of every frame."""
    frames = sorted(document["frames"], key=lambda frame: frame["frame_id"])
    whole = [frame["frame_id"] for frame in frames] == list(range(document["input"].get("frames", -1)))
    return [regions_of(frame) for frame in frames] if whole and all("regions" in frame for frame in frames) else None
