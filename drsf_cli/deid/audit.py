"""`drsf audit`: what others can read, measured on two files.

"Obscured only" hides what the written file hides: the regions that the report of the run has. Where they are not known,
the covering is planned again from the original with the settings of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from attacks.codec import CODECS, DeliveryCodec
from attacks.obscure import Region
from drsf_cli.deid.known_run import KnownRun
from drsf_cli.deid.survey import plan_cover, survey_video
from drsf_cli.measure.identity import IdentityMeter
from drsf_cli.measure.leakage import Covered, Readers, measure
from drsf_cli.measure.leakage_form import Leakage
from drsf_cli.media.reader import Frame, VideoReader, open_source
from drsf_cli.media.writer import encoder_settings
from drsf_cli.progress import Progress, Silent
from drsf_cli.readers.models import Models
from drsf_cli.readers.outsiders import Outsider
from drsf_cli.readers.rotation import turned
from drsf_cli.settings import DeidSettings, Whose
from victims.camera import Camera
from victims.face import FrameObservation
from victims.observe import Observer


def audit(
    original: str | Path,
    written: str | Path,
    run: KnownRun,
    models: Models,
    outsiders: Mapping[str, Outsider],
    *,
    identity: IdentityMeter | None = None,
    every: int | None = None,
    progress: Progress | None = None,
) -> Leakage:
    """`measure` for two files. `run`: how `written` was made.

    Raises InputError for files that cannot be read or do not belong together, and what `plan_cover` raises.
    """
    progress, settings = progress or Silent(), run.settings
    reader = turned(open_source(original, settings), settings.rotate, models.reader("onnx").detector)
    info = reader.info
    camera = None if settings.camera is None else Camera.load(settings.camera, info.width, info.height)
    observer = models.reader("onnx", camera)
    codec = None
    if not CODECS[settings.codec].lossless and info.kind == "video":
        codec = DeliveryCodec(encoder_settings(info, settings.codec, settings.crf, focus_qp=settings.head_qp))
    regions = run.regions
    if regions is None:
        regions = planned_again(reader, settings, models, observer, progress)
    repelled = {name for name, one in outsiders.items() if set(one.victim.weights.values()) in run.repelled}
    return measure(
        reader,
        Path(written),
        Covered(_driver_reader(observer, settings.whose), regions, settings.obscuring, codec),
        Readers(observer, outsiders, repelled, models.device),
        identity=identity,
        every=every,
        batch_size=settings.frames_at_once,
        progress=progress,
    )


def planned_again(
    reader: VideoReader, settings: DeidSettings, models: Models, observer: Observer, progress: Progress
) -> Sequence[tuple[Region, ...]]:
    """What each frame of the original must hide with these settings, found by a survey of the whole clip.

    Raises what `plan_cover` raises.
    """
    whole = settings.start is None and settings.end is None
    progress.begin("Planning what was obscured", reader.info.frame_count if whole else None)
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
    return plan_cover(survey, reader, settings)


def _driver_reader(observer: Observer, whose: Whose) -> Callable[[Sequence[Frame]], list[FrameObservation]]:
    """What reads frames of the original, with the face first for which the run embedded."""

    def read(frames: Sequence[Frame]) -> list[FrameObservation]:
        seen = observer.observe(frames)
        return seen if isinstance(whose, str) else [_nearest_first(one, whose) for one in seen]

    return read


def _nearest_first(seen: FrameObservation, point: tuple[float, float]) -> FrameObservation:
    def distance(box: np.ndarray) -> float:
        return float(np.linalg.norm((box[:2] + box[2:]) / 2 - np.array(point)))

    return replace(seen, faces=tuple(sorted(seen.faces, key=lambda face: distance(face.box))))
