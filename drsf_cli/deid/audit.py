"""`drsf audit`: what others can read, measured on two files.

The covering is planned again from the original with the settings of the run, which its report has, so that "obscured
only" hides what the written file hides.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attacks.codec import CODECS, DeliveryCodec
from drsf_cli.deid.survey import plan_cover, survey_video
from drsf_cli.measure.identity import IdentityMeter
from drsf_cli.measure.leakage import Covered, measure
from drsf_cli.media.files import digest, report_path
from drsf_cli.media.reader import open_source
from drsf_cli.media.writer import encoder_settings
from drsf_cli.progress import Progress, Silent
from drsf_cli.readers.models import Models
from drsf_cli.readers.outsiders import Outsider
from drsf_cli.readers.rotation import turned
from drsf_cli.settings import DeidSettings, settings_from_dict
from victims.camera import Camera
from weights.errors import InputError, UsageError


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
    """`measure` for two files: the covering is planned again from the original with the run's `settings`.

    `repelled`: the sha256 of the weight files of each model that the run repelled.

    Raises InputError for files that cannot be read or do not belong together, and what `plan_cover` raises.
    """
    progress = progress or Silent()
    reader = turned(open_source(original, settings), settings.rotate, models.reader("onnx").detector)
    info = reader.info
    camera = None if settings.camera is None else Camera.load(settings.camera, info.width, info.height)
    observer = models.reader("onnx", camera)
    whole = settings.start is None and settings.end is None
    progress.begin("Planning what was obscured", info.frame_count if whole else None)
    survey = survey_video(
        reader,
        observer,
        settings.whose,
        settings.frames_at_once,
        progress,
        models.covering(settings.cover_detectors, settings.allow_unknown_weights),
        settings.segment,
        settings.min_face,
    )
    codec = None
    if not CODECS[settings.codec].lossless and info.kind == "video":
        codec = DeliveryCodec(encoder_settings(info, settings.codec, settings.crf, focus_qp=settings.head_qp))
    covered = Covered(
        survey.observations,
        plan_cover(survey, reader, settings),
        settings.obscuring,
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
        batch_size=settings.frames_at_once,
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
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        sha256 = document["input"]["sha256"]
        settings = settings_from_dict(document["settings"] | {"rotate": str(document["input"].get("rotate", 0))})
        repelled = tuple(frozenset(one["weights"].values()) for one in document.get("repelled", {}).values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise InputError(
            f"{path} is not a report that `drsf deid` wrote ({error}); name another with --report."
        ) from error
    if sha256 != digest(original):
        raise InputError(f"{path} is the report of another original than {original}; name the right files.")
    return Run(settings, repelled)
