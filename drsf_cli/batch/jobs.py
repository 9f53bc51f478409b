"""Where outputs go: one for each input, and no name twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attacks.codec import CODECS
from drsf_cli.batch.inputs import Input
from drsf_cli.media.files import page_path, report_path, sheet_path
from drsf_cli.media.images import is_image
from drsf_cli.settings import DeidSettings
from weights.errors import UsageError

SUFFIX = "_deid"


@dataclass(frozen=True)
class Job:
    """One input, where it goes, and how."""

    source: Path
    output: Path
    settings: DeidSettings

    @property
    def report(self) -> Path:
        """Where the report goes: beside the output."""
        return report_path(self.output)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every name that the job writes."""
        page = (page_path(self.output),) if self.settings.html else ()
        return self.output, self.report, sheet_path(self.output), *page


@dataclass(frozen=True)
class Wish:
    """An input with its settings and, if one was asked for, the output's name."""

    input: Input
    settings: DeidSettings
    output: Path | None = None
    """Relative to the folder of the outputs."""


def default_name(source: Path, codec: str) -> str:
    """The name of an input's output: `drive.avi` becomes `drive_deid.mp4`, a picture a PNG, a folder a folder."""
    if source.is_dir():
        return source.resolve().name + SUFFIX
    return source.stem + SUFFIX + (".png" if is_image(source) else CODECS[codec].suffixes[0])


def plan_jobs(wishes: Sequence[Wish], output: Path | None, several: bool, into_folder: bool = False) -> list[Job]:
    """One job for each input.

    `output` is a folder below which the inputs' places are mirrored. It may be a file unless there are `several` inputs
    or it is meant as a folder (`into_folder`). Without `output`, outputs lie beside their inputs.

    No folder is made. Raises UsageError if two jobs would write the same name, and if a searched folder has no output
    folder.
    """
    if output is None and any(one.input.searched or one.output is not None for one in wishes):
        raise UsageError("-o DIR is needed where folders are searched or a manifest is read; name a folder.")
    if (several or into_folder) and output is not None and output.exists() and not output.is_dir():
        why = "there are several inputs" if several else "it is named as a folder"
        raise UsageError(f"-o {output} is a file, and {why}; name a folder.")
    jobs = []
    for one in wishes:
        source, codec = one.input.source, one.settings.codec
        if one.output is not None and output is not None:
            target = output / one.output
        elif output is None:
            target = source.parent / default_name(source, codec)
        elif several or into_folder or output.is_dir():
            target = output / one.input.place.parent / default_name(source, codec)
        else:
            target = output
        jobs.append(Job(source, target, one.settings))
    _refuse_twice(jobs)
    return jobs


def _refuse_twice(jobs: Sequence[Job]) -> None:
    taken: dict[Path, Job] = {}
    for job in jobs:
        for path in job.files:
            other = taken.setdefault(path.absolute(), job)
            if other is not job:
                raise UsageError(
                    f"{other.source} and {job.source} would both be written to {path}; rename one, name their folder "
                    "instead of the files, or give each its output in a --manifest."
                )
