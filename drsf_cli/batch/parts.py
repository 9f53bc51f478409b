"""A clip processed in parts: surveyed and embedded part by part, in any order and on any machine, then finished as one.

Covering is planned over the whole clip from the surveys of the parts, so no part needs to know its neighbours: a head
stays covered across a cut, and its blocks keep their size. The output is the same as that of `deidentify`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attacks.embed import Embedded
from attacks.obscure import Region
from drsf_cli.batch.jobs import Job
from drsf_cli.deid.changes import ChangeStore, FaceKey, Places
from drsf_cli.deid.pipeline import opened
from drsf_cli.deid.segments import Part
from drsf_cli.deid.survey import Survey
from drsf_cli.deid.work import Work
from drsf_cli.progress import Progress
from drsf_cli.report.schema import Report

Regions = Sequence[tuple[Region, ...]]
"""What each frame must hide."""


@dataclass(frozen=True)
class EmbeddedPart:
    """The perturbations of a part, whose frames are counted from 0."""

    faces: dict[FaceKey, Embedded]
    """The changes, without their pixels."""
    path: Path
    places: Places
    """Where the pixels are in the ChangeStore file at `path`."""


def plan_parts(work: Work, surveys: Sequence[Survey]) -> list[Regions]:
    """What the frames of each part must hide, planned over all parts. Raises NoFaceError."""
    regions = work.cover(Survey.joined(surveys))
    ends = list(itertools.accumulate(len(survey.times) for survey in surveys))
    return [regions[begin:end] for begin, end in itertools.pairwise([0, *ends])]


def embed_part(
    work: Work, part: Part, survey: Survey, regions: Regions, path: Path, progress: Progress
) -> EmbeddedPart:
    """Embed in one part; the pixels go to a new file at `path`. Raises SourceChangedError, OutputError."""
    own = work.part(part)
    store = ChangeStore(path)
    try:
        faces = {}
        for _, _, embedded in own.embed(own.clip(survey, regions), progress):
            for key, one in embedded.items():
                store.put(key, one)
                faces[key] = one.without_pixels()
        store.synchronise()
        return EmbeddedPart(faces, path, store.places)
    finally:
        store.close()


def complete(
    job: Job,
    work: Work,
    surveys: Sequence[Survey],
    regions: Sequence[Regions],
    embedded: Sequence[EmbeddedPart],
    seconds: float,
    progress: Progress,
) -> Report:
    """Write, read back, audit and publish a clip that was embedded in parts, which took `seconds`.

    Returns the report. Raises SourceChangedError if the parts do not add up to the clip as it is read as a whole.
    """
    began = time.monotonic() - seconds
    with opened(work, job.output, job.report, progress) as run:
        changes: dict[FaceKey, Embedded] = {}
        for (first, track), part in zip(Survey.starts(surveys), embedded, strict=True):
            run.store.adopt(part.path, part.places, (first, track))
            for (index, own), one in part.faces.items():
                changes[first + index, track + own] = replace(one, index=first + index)
        clip = work.clip(Survey.joined(surveys), list(itertools.chain.from_iterable(regions)))
        return run.complete(run.write(clip, changes, "Writing"), began)
