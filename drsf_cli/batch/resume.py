"""What an earlier run left: finished jobs, which are skipped, and leftovers of interrupted ones, which are removed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from drsf_cli.batch.jobs import Job
from drsf_cli.media.atomic import leftovers
from drsf_cli.media.files import digest, page_path
from drsf_cli.readers.outsiders import split_names
from drsf_cli.report.page import render_html
from drsf_cli.report.schema import ModelSection, Report, read_report
from drsf_cli.report.versions import versions
from drsf_cli.settings import DeidSettings, settings_to_dict
from victims.base import Role
from weights.errors import InputError
from weights.files import write_atomically

_NOT_DECIDING = ("overwrite", "threads")
"""Settings that change nothing in the output, or only the last bits."""


def finished(job: Job) -> Report | None:
    """The report of a finished job.

    A job is finished if its output exists and has a report that names this version of drsf, these settings, and the
    sha256 of the weights, of the camera's calibration, of given targets, of the input and of the output as they are
    now. None if anything is missing or differs; a matching name alone is never enough.
    """
    document = _read(job.report)
    if document is None or not job.output.exists() or document.get("drsf") != versions()["drsf"]:
        return None
    targets = document.get("targets")
    try:
        same = (
            _deciding(document["settings"]) == _deciding(json.loads(json.dumps(settings_to_dict(job.settings))))
            # all other weights are fixed by the version of drsf
            and all(digest(file) in known for file, known in _own_files(document, job.settings))
            and document["input"].get("camera_sha256") == _digest(job.settings.camera)
            and (None if targets is None else targets["sha256"]) == _digest(job.settings.targets)
            and document["input"]["sha256"] == digest(job.source)
            and document["output"]["sha256"] == digest(job.output)
        )
    except (KeyError, OSError):  # of another version of drsf, or a file that cannot be read
        return None
    return document if same else None


def restore_page(job: Job, document: Report) -> None:
    """Make the page of a finished job if it is missing. The page is written last, so a run may be killed before it."""
    page = page_path(job.output)
    if job.settings.html and not page.exists():
        write_atomically(page, render_html([(job.report, document)]).encode(errors="backslashreplace"))


def clear_leftovers(job: Job, keep: Collection[Path] = ()) -> None:
    """Remove what a process that was killed during this job left.

    That is hidden temporary files other than `keep`, and a report without an output. No other process may work on the
    same job.
    """
    for final in job.files:
        for path in leftovers(final):
            if path in keep:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    if not job.output.exists():
        document = _read(job.report)
        if document is not None and Path(document["output"]["path"]).name == job.output.name:
            # what is published before the output, too
            for path in job.files:
                path.unlink(missing_ok=True)


def _read(path: Path) -> Report | None:
    """The report at `path`; None where there is none, or something else."""
    try:
        return read_report(path)
    except InputError:
        return None


def _deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in _NOT_DECIDING}


def _own_files(document: Report, settings: DeidSettings) -> Iterator[tuple[Path, Collection[str]]]:
    """Each NAME@FILE that the run read, and the sha256 that its report has for the file."""
    victims, typed = document["victims"], settings.victims
    repelled, covering = document.get("repelled") or {}, document["covering"]["detectors"]
    roles: dict[Role, str | None] = {"detector": typed.detector, "aligner": typed.aligner, "gaze": typed.gaze}
    used: list[tuple[str, Sequence[ModelSection | None]]] = [
        (text, [victims[role]]) for role, text in roles.items() if text is not None and role in victims
    ]
    if settings.takes_steps:  # otherwise nothing is repelled
        used += [(text, [repelled.get(text)]) for text in split_names(settings.repel)]
    used += [(text, covering) for text in settings.cover_detectors]
    for text, models in used:
        if file := text.partition("@")[2]:
            yield Path(file), {sha256 for model in models if model is not None for sha256 in model["weights"].values()}


def _digest(path: Path | None) -> str | None:
    return None if path is None else digest(path)
