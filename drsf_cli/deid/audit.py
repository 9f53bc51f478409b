"""`drsf audit`: what others can read, measured on two files.

The covering is planned again from the original with the settings of the run, which its report has, so that "obscured
only" hides what the written file hides.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from attacks.codec import CODECS, DeliveryCodec
from drsf_cli.deid.plan import check
from drsf_cli.deid.survey import plan_cover, survey_video
from drsf_cli.measure.identity import IdentityMeter
from drsf_cli.measure.leakage import Covered, measure
from drsf_cli.media.files import digest, report_path
from drsf_cli.media.reader import VideoReader
from drsf_cli.media.writer import encoder_settings
from drsf_cli.progress import Progress, Silent
from drsf_cli.readers.models import Models
from drsf_cli.readers.outsiders import Outsider
from drsf_cli.settings import DeidSettings, VictimNames
from victims.camera import Camera
from weights.errors import InputError


def audit(
    original: str | Path,
    written: str | Path,
    settings: DeidSettings,
    models: Models,
    outsiders: Mapping[str, Outsider],
    *,
    repelled: Collection[AbstractSet[str]] = (),
    identity: IdentityMeter | None = None,
    every: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """`measure` for two files: the covering is planned again from the original with the run's `settings`. `repelled`:
    the sha256 of the weight files of each model that the run repelled.

    Raises InputError for files that cannot be read or do not belong together, and what `plan_cover` raises.
    """
    progress = progress or Silent()
    reader = VideoReader(original, settings.start, settings.end)
    info = reader.info
    camera = None if settings.camera is None else Camera.load(settings.camera, info.width, info.height)
    plan = check(settings)
    batch_size = settings.batch_size or plan.effort.batch
    observer = models.reader("onnx", camera)
    whole = settings.start is None and settings.end is None
    progress.begin("Planning what was obscured", info.frame_count if whole else None)
    survey = survey_video(
        reader,
        observer,
        plan.whose,
        batch_size,
        progress,
        models.covering(settings.cover_detectors, settings.allow_unknown_weights),
        settings.segment,
    )
    codec = None
    if not CODECS[settings.codec].lossless and info.kind == "video":
        codec = DeliveryCodec(encoder_settings(info, settings.codec, settings.crf, settings.preset, settings.head_qp))
    covered = Covered(
        survey.observations,
        plan_cover(survey, reader, settings, plan.obscuring),
        plan.obscuring,
        codec,
    )
    return measure(
        reader,
        Path(written),
        covered,
        observer,
        outsiders,
        device=models.device,
        repelled={name for name, one in outsiders.items() if set(one.victim.weights.values()) in repelled},
        identity=identity,
        every=every,
        batch_size=batch_size,
        progress=progress,
    )


@dataclass(frozen=True)
class Run:
    """What the report of a run says."""

    settings: DeidSettings
    repelled: tuple[frozenset[str], ...] = ()
    """The sha256 of the weight files of each model that was repelled."""


def read_run(original: Path, written: Path, report: Path | None = None) -> Run | None:
    """From the report that `drsf deid` wrote beside `written`, or from `report`; None where there is none.

    Raises InputError where the report is not of that form, or of another original.
    """
    path = report or report_path(written)
    if report is None and not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        flat = dict(document["settings"])
        sha256 = document["input"]["sha256"]
        known = {one.name for one in fields(DeidSettings)}
        flat = {key: tuple(value) if isinstance(value, list) else value for key, value in flat.items() if key in known}
        flat["victims"] = VictimNames(**flat["victims"])
        for name in ("camera", "drawer", "targets"):
            flat[name] = None if flat.get(name) is None else Path(flat[name])
        settings = DeidSettings(**flat)
        repelled = tuple(frozenset(one["weights"].values()) for one in document.get("repelled", {}).values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not a report that `drsf deid` wrote ({error}); name another with --report."
        ) from error
    if sha256 != digest(original):
        raise InputError(f"{path} is the report of another original than {original}; name the right files.")
    return Run(settings, repelled)
